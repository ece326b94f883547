"""What bounds a topic's backlog, as its configs say. Only data."""

import enum
from dataclasses import dataclass

UNBOUNDED = -1
ALL_GROUPS = "*"


class BacklogPolicy(enum.StrEnum):
    """What a producer meets at the bound."""

    REJECT = "reject"
    """POLICY_VIOLATION at once, which no client tries again."""
    HOLD = "hold"
    """The answer waits until there is room, at most half of the request's timeout."""
    THROTTLE = "throttle"
    """From half of the bound on answers come later and later; at the bound as HOLD."""


@dataclass(frozen=True, slots=True)
class BacklogBounds:
    """The bounds of each partition of a topic; -1 is none."""

    max_records: int = UNBOUNDED
    max_bytes: int = UNBOUNDED
    max_age_ms: int = UNBOUNDED
    groups: tuple[str, ...] = ()
    """The groups whose commits count; `*` for all."""
    policy: BacklogPolicy = BacklogPolicy.REJECT
    keep_unconsumed: bool = False
    """Whether retention spares what a counted group has not consumed."""

    @property
    def is_bounded(self) -> bool:
        """Whether an append may ever be refused."""
        return bool(self.groups) and (self.max_records, self.max_bytes, self.max_age_ms) != (
            UNBOUNDED,
            UNBOUNDED,
            UNBOUNDED,
        )

    @property
    def needs_offsets(self) -> bool:
        """Whether anything depends on what groups have committed."""
        return bool(self.groups) and (self.is_bounded or self.keep_unconsumed)

    def counts(self, group_id: str) -> bool:
        """Whether the group's commits count."""
        return group_id in self.groups or ALL_GROUPS in self.groups


__all__ = ["ALL_GROUPS", "UNBOUNDED", "BacklogBounds", "BacklogPolicy"]
