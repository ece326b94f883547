"""What formats have in common: records become pieces, each for one folder, and pieces go into files.

Owns the two ports, `Encoder` and `Sink`. Knows no format.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from penstock.consumer.batch import ConsumerBatch
from penstock.offline.folder import AtomicFile


@dataclass(frozen=True, slots=True)
class Piece:
    """Records of one partition in order, for one folder, in the form that the encoder's sinks take."""

    folder: str
    partition: int
    records: int
    first_offset: int
    last_offset: int
    min_timestamp: int
    max_timestamp: int
    size_bytes: int
    """What it takes in memory, about."""
    payload: Any


class Sink(Protocol):
    """One file that is being written."""

    @property
    def pending_bytes(self) -> int:
        """What waits in memory."""
        ...

    def write(self, piece: Piece) -> None:
        """Take a piece; it may wait in memory."""
        ...

    def flush(self) -> None:
        """Write what waits."""
        ...

    def close(self) -> None:
        """Write what waits and what ends the file."""
        ...


class Encoder(Protocol):
    """A format."""

    @property
    def extension(self) -> str:
        """Of its files, without the dot."""
        ...

    def pieces(self, batch: ConsumerBatch) -> Iterable[Piece]:
        """The records of a batch. Raises CorruptRecords, and what the format has no place for."""
        ...

    def open(self, file: AtomicFile) -> Sink:
        """Begin a file."""
        ...


__all__ = ["Encoder", "Piece", "Sink"]
