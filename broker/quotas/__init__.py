"""Quotas of clients: which holds for whom, how much of it is used, and how a client is slowed down."""
