"""The settings of a consumer, checked.

Owns defaults and bounds. Times are in milliseconds, sizes in bytes; Kafka's name stands beside each.
"""

import enum
from dataclasses import dataclass
from math import isfinite
from typing import Never

_KIB = 1024
_MIB = 1024 * _KIB
_INT32_MAX = 2**31 - 1


class OffsetReset(enum.StrEnum):
    """Where to start without a committed offset, or when the position is not in the log: Kafka's `auto.offset.reset`."""

    LATEST = "latest"
    EARLIEST = "earliest"
    NONE = "none"  # raise

    @classmethod
    def _missing_(cls, value: object) -> Never:
        raise ValueError(f"auto_offset_reset={value!r}: it is one of {', '.join(cls)}")


class IsolationLevel(enum.StrEnum):
    """Which records of transactions are handed out: Kafka's `isolation.level`."""

    READ_UNCOMMITTED = "read_uncommitted"
    READ_COMMITTED = "read_committed"  # none of aborted or open transactions

    @property
    def number(self) -> int:
        """As on the wire."""
        return 1 if self is IsolationLevel.READ_COMMITTED else 0

    @classmethod
    def _missing_(cls, value: object) -> Never:
        raise ValueError(f"isolation_level={value!r}: it is one of {', '.join(cls)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchOptions:
    """How records are fetched. Raises ValueError for what makes no sense."""

    auto_offset_reset: OffsetReset = OffsetReset.LATEST
    isolation_level: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    prefetch_max_bytes: int = 32 * _MIB
    """Bytes, as fetched, that may wait to be handed out, over all partitions (librdkafka's `queued.max.messages.kbytes`)."""
    fetch_min_bytes: int = 1
    fetch_max_wait_ms: int = 500
    fetch_max_bytes: int = 50 * _MIB
    partition_fetch_max_bytes: int = _MIB
    """`max.partition.fetch.bytes`. A batch that is larger comes all the same."""
    max_records_per_second: float | None = None
    """Records handed out, over all partitions (see `pace`)."""
    burst_records: int | None = None
    max_in_flight: int | None = None
    rack: str = ""
    """`client.rack`: lets a broker name a nearer replica to read from (KIP-392)."""

    def __post_init__(self) -> None:
        for name in ("prefetch_max_bytes", "fetch_max_bytes", "partition_fetch_max_bytes"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("fetch_min_bytes", "fetch_max_wait_ms"):
            if not 0 <= getattr(self, name) <= _INT32_MAX:
                raise ValueError(f"{name} must lie in 0 to {_INT32_MAX}")
        rate = self.max_records_per_second
        if rate is not None and not (rate > 0 and isfinite(rate)):
            raise ValueError(
                f"max_records_per_second={rate}: it is above 0, and no more than a float can tell"
            )
        if self.burst_records is not None and rate is None:
            raise ValueError("burst_records goes with max_records_per_second")
        for name in ("burst_records", "max_in_flight"):
            bound = getattr(self, name)
            if bound is not None and bound < 1:
                raise ValueError(f"{name} must be at least 1")


__all__ = ["FetchOptions", "IsolationLevel", "OffsetReset"]
