"""What every metadata store checks of a transaction before it does anything: the bounds of `runtime.metadata`."""

from collections.abc import Sequence

from penstock.runtime.metadata import (
    OPERATIONS_PER_TRANSACTION_MAX,
    TRANSACTION_SIZE_BYTES_MAX,
    VALUE_SIZE_BYTES_MAX,
    Compare,
    Delete,
    MetadataError,
    Put,
    TransactionTooLarge,
)

LEASE_TTL_MIN_S = 2


def check_transaction(compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> None:
    """Raise TransactionTooLarge for what is over the bounds, MetadataError for what has no meaning."""
    compared = sum((one.mod_revision is not None) + (one.create_revision is not None) for one in compares)
    if max(compared, len(operations)) > OPERATIONS_PER_TRANSACTION_MAX:
        raise TransactionTooLarge(
            f"{compared} compares and {len(operations)} operations: at most {OPERATIONS_PER_TRANSACTION_MAX} of each"
        )
    size_bytes = sum(len(each.key.encode()) for each in (*compares, *operations))
    named: set[str] = set()
    for operation in operations:
        if not operation.key.startswith("/"):
            raise MetadataError(f"a key begins with a slash, not {operation.key!r}")
        if operation.key in named:
            raise MetadataError(f"two operations name the key {operation.key!r}")
        named.add(operation.key)
        if isinstance(operation, Put):
            size_bytes += len(operation.value)
            if len(operation.value) > VALUE_SIZE_BYTES_MAX:
                raise TransactionTooLarge(
                    f"{operation.key}: a value of {len(operation.value)} bytes, at most {VALUE_SIZE_BYTES_MAX}"
                )
    if size_bytes > TRANSACTION_SIZE_BYTES_MAX:
        raise TransactionTooLarge(
            f"a transaction of {size_bytes} bytes, at most {TRANSACTION_SIZE_BYTES_MAX}"
        )


def check_lease_ttl(ttl_s: int) -> None:
    """Raise MetadataError for a lease shorter than every store can keep."""
    if ttl_s < LEASE_TTL_MIN_S:
        raise MetadataError(f"a lease of {ttl_s} s: at least {LEASE_TTL_MIN_S}")


__all__ = ["LEASE_TTL_MIN_S", "check_lease_ttl", "check_transaction"]
