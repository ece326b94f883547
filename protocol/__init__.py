"""Bytes to values and back: framing, schemas, Produce and Fetch, record batches. No I/O, no clock, no randomness."""
