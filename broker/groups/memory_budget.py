"""How much memory the groups of a coordinator may take, so that nobody can fill it with made-up groups, members and offsets.

Owns an upper bound that is cheap to keep: what comes in is charged, nothing is ever given back; only when the limit is reached everything is
counted anew, and not more often than every few seconds. Knows no groups: `count` does. Kafka has no such bound.
"""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

COUNT_INTERVAL_MS = 5_000


class MemoryBudget:
    """Bytes, about."""

    def __init__(self, limit_bytes: int, count: Callable[[], int], now_ms: Callable[[], int]) -> None:
        self._limit_bytes = limit_bytes
        self._count = count
        self._now_ms = now_ms
        self._charged_bytes = 0
        self._next_count_ms = 0

    def admit(self, size_bytes: int) -> bool:
        """Charge `size_bytes` if there is room for them."""
        if self._charged_bytes + size_bytes <= self._limit_bytes:
            self._charged_bytes += size_bytes
            return True
        if self._now_ms() >= self._next_count_ms:
            self._next_count_ms = self._now_ms() + COUNT_INTERVAL_MS
            self._charged_bytes = self._count()
            if self._charged_bytes + size_bytes <= self._limit_bytes:
                self._charged_bytes += size_bytes
                return True
            log.warning(
                "groups take %d bytes and may take group.memory.max.bytes=%d: new ones are refused",
                self._charged_bytes,
                self._limit_bytes,
            )
        return False
