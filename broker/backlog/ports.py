"""What the registry needs of whoever tells it of commits, and of whoever is told. Only types."""

from collections.abc import Iterable
from typing import Protocol


class Committed(Protocol):
    """A commit, as far as it matters here (`groups.offset_table.CommittedOffset`)."""

    @property
    def offset(self) -> int:
        """The offset of the first record that is not consumed."""
        ...

    @property
    def topic_id(self) -> bytes:
        """The topic that was meant; all zeros where nobody has said."""
        ...


class Follower(Protocol):
    """One partition that must know (`backlog.gate.BacklogGate`)."""

    topic: str
    topic_id: bytes
    index: int

    def told(self, group_id: str, offset: int | None) -> None:
        """A group has committed this offset, or (None) has none any more."""
        ...

    def told_all(self, offsets: dict[str, int]) -> None:
        """All that groups have committed."""
        ...


class OffsetSource(Protocol):
    """Who knows all that groups have committed (`groups.coordinator.GroupCoordinator`)."""

    @property
    def knows_all_offsets(self) -> bool:
        """Whether `offsets_of` leaves nothing out."""
        ...

    def offsets_of(self, topic: str, partition: int | None = None) -> Iterable[tuple[str, int, Committed]]:
        """Group, partition and commit of all that is committed for a topic, or for one partition of it."""
        ...


__all__ = ["Committed", "Follower", "OffsetSource"]
