"""What retention leaves in a log because a group has not consumed it, and when that is told."""

import logging
from dataclasses import dataclass

log = logging.getLogger(__name__)

AGAIN_S = 3600.0


@dataclass(frozen=True, slots=True)
class KeptBack:
    """What a check of retention would have deleted and did not, by `retention.keep.unconsumed`."""

    segment_count: int
    size_bytes: int
    reason: str
    """Why it would be gone."""


class KeptLines:
    """Tells of one partition: when it begins, when another group is the slowest, once an hour while it lasts, and when it is over."""

    __slots__ = ("_group", "_next", "kept", "since_ms")

    def __init__(self) -> None:
        self.kept: KeptBack | None = None
        """As of the last check."""
        self.since_ms = 0
        """When a check has found something kept first, while it is so (wall clock)."""
        self._group: str | None = None
        self._next = 0.0

    def tell(
        self, name: str, kept: KeptBack | None, group: str | None, offset: int, now: float, now_ms: int
    ) -> None:
        """A check was made. `offset` is the first one that is kept; `now` is monotonic seconds, `now_ms` the wall clock's."""
        was_kept, self.kept = self.kept is not None, kept
        if not was_kept:
            self.since_ms = now_ms
        if kept is None:
            if was_kept:
                log.info("%s: nothing is kept for want of consumption any more", name)
            return
        if was_kept and group == self._group and now < self._next:
            return
        self._group, self._next = group, now + AGAIN_S
        behind = (
            f"group {group} has consumed up to offset {offset}"
            if group is not None
            else "what the groups have committed is not known"
        )
        log.warning(
            "%s: retention.keep.unconsumed keeps %d segment(s), %d bytes, that are %s: %s",
            name,
            kept.segment_count,
            kept.size_bytes,
            kept.reason,
            behind,
        )


__all__ = ["KeptBack", "KeptLines"]
