"""The producer library (comes with the consumer groups)."""
