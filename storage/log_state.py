"""What opening a directory hands over to the log, what it reports, and what an append tells.

Only data: `recovery` and `LogWriter` fill it.
"""

from dataclasses import dataclass, field

from penstock.storage.epoch_cache import EpochCache
from penstock.storage.log_config import LogConfig
from penstock.storage.producer_state import ProducerState
from penstock.storage.segment import Segment
from penstock.storage.segment_files import SegmentFiles


@dataclass(slots=True)
class AppendInfo:
    """What an append did. Offsets are inclusive."""

    base_offset: int
    last_offset: int
    log_append_time_ms: int
    """-1 unless `message.timestamp.type` is LogAppendTime."""
    is_duplicate: bool
    """Nothing was appended: the offsets are those of the first time."""
    position: int
    """In the active segment's file; -1 for a duplicate."""


@dataclass(slots=True)
class OpenReport:
    """What opening changed on disk, for the log lines of the broker."""

    cut_path: str = ""
    cut_position: int = 0
    cut_bytes: int = 0
    """Bytes of a torn tail that were cut off `cut_path` at `cut_position`."""
    removed_segments: list[str] = field(default_factory=list[str])
    rebuilt_indexes: list[str] = field(default_factory=list[str])
    verified_bytes: int = 0
    """Read, checked, written again and synced because they lay above the recovery point."""
    notes: list[str] = field(default_factory=list[str])

    def __bool__(self) -> bool:
        """Whether there is something to tell."""
        return bool(self.cut_bytes or self.removed_segments or self.rebuilt_indexes or self.notes)

    @property
    def is_harmless(self) -> bool:
        """Whether nothing was taken away: indexes alone were made anew."""
        return not (self.cut_bytes or self.removed_segments or self.notes)

    def __str__(self) -> str:
        """What there is to tell, in words."""
        told: list[str] = []
        if self.cut_bytes:
            told.append(f"{self.cut_bytes} bytes cut off {self.cut_path} at {self.cut_position}")
        if self.removed_segments:
            told.append(f"removed {', '.join(self.removed_segments)}")
        if self.rebuilt_indexes:
            told.append(f"indexes made anew for {', '.join(self.rebuilt_indexes)}")
        return "; ".join([*told, *self.notes]) or "nothing"


@dataclass(slots=True, kw_only=True)
class OpenedState:
    """All that a log consists of once its directory has been read: handed from `recovery` to `Log`."""

    pool: SegmentFiles
    directory: str
    topic_id: bytes
    config: LogConfig
    segments: tuple[Segment, ...]
    log_start_offset: int
    log_end_offset: int
    epochs: EpochCache
    epochs_on_disk: int
    """The latest epoch in the checkpoint file; -1 without one."""
    producers: ProducerState
    gaps_below: int
    """Offsets below this one may be missing: compaction has been there."""
    snapshot_offsets: set[int]
    """Of the producer snapshots on disk."""
    needs_writing: bool
    """Index files or snapshot lag behind the log, so that closing must write them."""
    report: OpenReport
