"""Compacting a log in one line, and what must be left of it by a model that knows nothing of segments."""

from collections.abc import Sequence
from typing import NamedTuple

from tests.support.logs import NOW_MS, OUTPUT_MAX_BYTES, read_batches

from penstock.protocol.compression import Codec
from penstock.protocol.record_batch import HEADER_SIZE_BYTES, read_batch_header, stamp
from penstock.protocol.record_filter import ControlType
from penstock.protocol.records import Record, decode_records, encode_batch, seal_batch
from penstock.storage.compaction import Compaction, CompactionLimits, CompactionResult
from penstock.storage.compaction_plan import CompactionPlan, plan_compaction
from penstock.storage.log import Log

OFFSET_MAX = 2**63 - 1


class Steady:
    """A clock on which a step does `looks` looks at the time before it is over."""

    def __init__(self, looks: int = 1) -> None:
        self.now = 0.0
        self._tick = 0.001 / looks

    def __call__(self) -> float:
        self.now += self._tick
        return self.now


def plan(
    log: Log, *, first_dirty: int = 0, committed: int = OFFSET_MAX, now_ms: int = NOW_MS
) -> CompactionPlan:
    """What would be compacted."""
    return plan_compaction(log, first_dirty, committed, now_ms)


def begin(
    log: Log,
    *,
    first_dirty: int = 0,
    committed: int = OFFSET_MAX,
    now_ms: int = NOW_MS,
    map_bytes_max: int = 1 << 20,
    looks: int = 1000,
) -> Compaction:
    """A compaction, due or not, that is still to be stepped through."""
    limits = CompactionLimits(map_bytes_max)
    planned = plan(log, first_dirty=first_dirty, committed=committed, now_ms=now_ms)
    return Compaction(log, planned, limits, now_ms=now_ms, thread_time=Steady(looks))


def compact(
    log: Log,
    *,
    first_dirty: int = 0,
    committed: int = OFFSET_MAX,
    now_ms: int = NOW_MS,
    map_bytes_max: int = 1 << 20,
    looks: int = 1000,
) -> CompactionResult:
    """Compact, and say what was done."""
    compaction = begin(
        log,
        first_dirty=first_dirty,
        committed=committed,
        now_ms=now_ms,
        map_bytes_max=map_bytes_max,
        looks=looks,
    )
    try:
        while compaction.step() is not None:
            pass
    finally:
        compaction.close()
    return compaction.result


def keyed(
    pairs: Sequence[tuple[bytes | None, bytes | None]],
    *,
    timestamps_ms: Sequence[int] | int = 1000,
    codec: Codec = Codec.NONE,
    producer_id: int = -1,
    producer_epoch: int = 0,
    sequence: int = 0,
    is_transactional: bool = False,
) -> bytearray:
    """A batch of (key, value), as a producer sends it."""
    times = [timestamps_ms] * len(pairs) if isinstance(timestamps_ms, int) else timestamps_ms
    records = [Record(i, times[i], key, value) for i, (key, value) in enumerate(pairs)]
    if producer_id < 0:
        return bytearray(encode_batch(records, codec=codec))
    return bytearray(
        encode_batch(
            records,
            codec=codec,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=sequence,
            is_transactional=is_transactional,
        )
    )


def unreadable(raw: bytearray, *, kept_bytes: int = 0) -> bytearray:
    """The batch under a right checksum, but with junk in the place of its records behind the first `kept_bytes`."""
    kept = bytes(raw[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + kept_bytes])
    return seal_batch(read_batch_header(raw), kept + b"no record at all")


def marker(kind: ControlType, *, producer_id: int, producer_epoch: int = 0) -> bytearray:
    """A control batch, as a transaction coordinator has it written."""
    key = (0).to_bytes(2, "big") + int(kind).to_bytes(2, "big")
    value = bytes(6)
    return bytearray(
        encode_batch(
            [Record(0, 1000, key, value)],
            codec=Codec.NONE,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            is_transactional=True,
            is_control=True,
        )
    )


def append_raw(log: Log, raw: bytearray, *, epoch: int = 0, now_ms: int = NOW_MS) -> int:
    """Append any batch, a control batch too, as a follower takes it; returns its base offset."""
    view = memoryview(raw)
    header = read_batch_header(view)
    if log.needs_roll(
        header.size_bytes, header.max_timestamp, now_ms, last_offset_delta=header.last_offset_delta
    ):
        log.roll()
    stamp(view, log.log_end_offset, epoch)
    return log.append_as_follower(view, now_ms=now_ms).base_offset


class Kept(NamedTuple):
    """A record that is there."""

    offset: int
    key: bytes | None
    value: bytes | None


def kept_records(log: Log) -> list[Kept]:
    """Every record of data in the log."""
    return [
        Kept(record.offset, record.key, record.value)
        for raw in read_batches(log)
        if not read_batch_header(raw).is_control
        for record in decode_records(memoryview(raw), output_max_bytes=OUTPUT_MAX_BYTES)
    ]
