"""Schema tables, one module for each API, written by `make generate`."""
