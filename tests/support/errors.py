"""Kafka's error codes by name, as kio has them."""

from kio.schema.errors import ErrorCode

NONE = ErrorCode.none
__all__ = ["NONE", "ErrorCode"]
