"""What a log must hold and what it may hold, at any moment of a workload: the promises that crashes are held against.

Owns the list of all batches that were handed to the log, and the verdict over what was found (PROPERTIES D1, D2, D9). Knows no disk.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.support.logs import OUTPUT_MAX_BYTES

from penstock.protocol.record_batch import read_batch_header
from penstock.protocol.records import decode_records


@dataclass(frozen=True, slots=True)
class Found:
    """What stands in one partition after it was opened again."""

    batches: tuple[bytes, ...]
    """All in its segments, in order, as stored; what lies below the log start too."""
    base_offset: int
    """Of the first segment."""
    log_start_offset: int
    log_end_offset: int


@dataclass(slots=True)
class Variant:
    """One history that the log may show."""

    batches: list[bytes]
    """All that it may hold, in order and without gaps; a prefix may be all that is left."""
    log_start_min: int
    """The last log start that was made durable."""
    log_start_max: int
    """The highest that it ever was told."""
    compacted_below: int = 0
    """Below it, of each key only the latest record must be there."""


@dataclass(slots=True)
class Ledger:
    """The promises of one partition."""

    batches: list[bytes] = field(default_factory=list[bytes])
    """All that were handed to the log and not cut off again, the last one perhaps without an answer."""
    durable_end_offset: int = 0
    """Told by the log that was open last."""
    log_start_min: int = 0
    log_start_max: int = 0
    others: list[Variant] = field(default_factory=list[Variant])
    """What it may show as well, while it is being started over."""
    compacted_below: int = 0
    epoch: int = -1
    """The latest leader epoch that was given out."""

    @property
    def end_offset(self) -> int:
        """Where the next batch goes."""
        return end_of(self.batches[-1]) if self.batches else self.log_start_max

    def complaint(self, found: Found, must_end: int) -> str | None:
        """Why what was found breaks a promise; None if it keeps them all. Everything below `must_end` was told durable."""
        own = Variant(self.batches, self.log_start_min, self.log_start_max, self.compacted_below)
        told: list[str] = []
        for variant in (own, *self.others):
            complaint = _complaint(variant, found, must_end)
            if complaint is None:
                return None
            told.append(complaint)
        return "; or ".join(told)

    def settle(self, found: Found) -> None:
        """Take what an opened log holds for what it holds from now on."""
        if self.compacted_below:
            self.batches = [raw for raw in self.batches if end_of(raw) <= found.log_end_offset]
        else:
            self.batches = [raw for raw in self.batches if end_of(raw) <= found.base_offset]
            self.batches += found.batches
        self.durable_end_offset = found.log_end_offset
        self.log_start_min = self.log_start_max = found.log_start_offset
        self.others = []


def _complaint(variant: Variant, found: Found, must_end: int) -> str | None:
    if not variant.log_start_min <= found.log_start_offset <= variant.log_start_max:
        return (
            f"log start {found.log_start_offset}, not from {variant.log_start_min} to {variant.log_start_max}"
        )
    if found.base_offset > found.log_start_offset:
        return f"segments begin at {found.base_offset}, above the log start {found.log_start_offset}"
    if found.log_end_offset < must_end:
        return f"the log ends at {found.log_end_offset}, and all below {must_end} was durable"
    if variant.compacted_below:
        return _compaction_complaint(variant, found)
    end_offset = found.base_offset
    known = {base_of(raw): raw for raw in variant.batches}
    for raw in found.batches:
        if base_of(raw) != end_offset:
            return f"a batch at offset {base_of(raw)} where {end_offset} comes next"
        if known.get(end_offset) != raw:
            return f"the batch at offset {end_offset} is not what was appended"
        end_offset = end_of(raw)
    if found.log_end_offset != max(end_offset, found.log_start_offset):
        return f"the log ends at {found.log_end_offset}, its batches at {end_offset}"
    return None


def _compaction_complaint(variant: Variant, found: Found) -> str | None:
    """The same where offsets may be missing: what is there was written so, and the latest record of each key is there."""
    written = _records(raw for raw in variant.batches if end_of(raw) <= found.log_end_offset)
    present = _records(found.batches)
    for offset, record in present.items():
        if written.get(offset) != record:
            return f"the record at offset {offset} is not what was appended"
    latest = {key: offset for offset, (key, _) in written.items()}
    needed = {offset for offset in written if offset >= variant.compacted_below} | set(latest.values())
    missing = sorted(offset for offset in needed - present.keys() if offset >= found.log_start_offset)
    if missing:
        return f"the records at {missing} are gone, and compaction must not take them"
    end_offset = end_of(found.batches[-1]) if found.batches else found.base_offset
    if found.log_end_offset != max(end_offset, found.log_start_offset):
        return f"the log ends at {found.log_end_offset}, its batches at {end_offset}"
    return None


def _records(batches: Iterable[bytes]) -> dict[int, tuple[bytes | None, bytes | None]]:
    return {
        record.offset: (record.key, record.value)
        for raw in batches
        for record in decode_records(memoryview(raw), output_max_bytes=OUTPUT_MAX_BYTES)
    }


def base_of(raw: bytes) -> int:
    """The base offset of a batch as stored."""
    return int.from_bytes(raw[:8], "big")


def end_of(raw: bytes) -> int:
    """The offset after a batch as stored."""
    return read_batch_header(raw).next_offset
