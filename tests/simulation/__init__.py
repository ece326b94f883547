"""Clusters of real brokers and clients in one deterministic trio run: see `docs/replication.md`, and `run.py` for the command."""
