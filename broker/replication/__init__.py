"""Replication between brokers: what runs only where there is more than one. A single broker never loads it."""
