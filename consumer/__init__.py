"""The consumer library (comes with the consumer groups)."""
