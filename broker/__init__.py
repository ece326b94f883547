"""The server: connections, partitions, metadata, one module for each API under `api/`."""
