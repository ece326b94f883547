"""Logs and batches for tests of storage: made in one line, read back in one line."""

from collections.abc import Sequence

from penstock.protocol.compression import Codec
from penstock.protocol.record_batch import check_produced_batch, iterate_batches, stamp
from penstock.protocol.records import Record, decode_records, encode_batch
from penstock.runtime.files import FileSystem
from penstock.storage.log import AppendInfo, Log, create_log, open_log
from penstock.storage.log_config import LogConfig
from penstock.storage.segment_files import SegmentFiles

TOPIC_ID = bytes(range(16))
PARENT = "/data"
DIRECTORY = f"{PARENT}/orders-0"
NOW_MS = 1_700_000_000_000
OUTPUT_MAX_BYTES = 1 << 24


def batch(
    values: Sequence[bytes] | int = 1,
    *,
    timestamps_ms: Sequence[int] | int = 1000,
    codec: Codec = Codec.NONE,
    producer_id: int = -1,
    producer_epoch: int = 0,
    sequence: int = 0,
) -> bytearray:
    """A batch as a producer sends it. `values` may be a count, `timestamps_ms` the one of all records."""
    if isinstance(values, int):
        values = [b"value"] * values
    times = [timestamps_ms] * len(values) if isinstance(timestamps_ms, int) else timestamps_ms
    records = [Record(i, times[i], None, value) for i, value in enumerate(values)]
    if producer_id < 0:
        return bytearray(encode_batch(records, codec=codec))
    return bytearray(
        encode_batch(
            records,
            codec=codec,
            producer_id=producer_id,
            producer_epoch=producer_epoch,
            base_sequence=sequence,
        )
    )


def append(log: Log, raw: bytearray, *, epoch: int = 0, now_ms: int = NOW_MS) -> AppendInfo:
    """Append as the broker does: check, roll where needed, append."""
    view = memoryview(raw)
    header = check_produced_batch(view)
    if log.needs_roll(
        header.size_bytes, header.max_timestamp, now_ms, last_offset_delta=header.last_offset_delta
    ):
        log.roll()
    if log.must_recall(header):
        log.recall_producer(header)
    return log.append_as_leader(view, header, leader_epoch=epoch, now_ms=now_ms)


def fill(log: Log, count: int, *, epoch: int = 0, prefix: bytes = b"v") -> None:
    """Append `count` batches of one record, each with its offset as value and timestamp 1000 + offset."""
    for _ in range(count):
        offset = log.log_end_offset
        append(log, batch([prefix + b"%d" % offset], timestamps_ms=1000 + offset), epoch=epoch)


def stored(raw: bytearray, base_offset: int, epoch: int = 0) -> bytes:
    """The bytes of a batch as they lie in the log."""
    copy = bytearray(raw)
    stamp(memoryview(copy), base_offset, epoch)
    return bytes(copy)


def read_batches(log: Log, *, resident_only: bool = False, max_bytes: int = 1 << 20) -> list[bytes]:
    """All batches from the log start to the log end, as stored, read slice by slice."""
    found: list[bytes] = []
    offset = log.log_start_offset
    while offset < log.log_end_offset:
        with log.read(offset, max_bytes, log.log_end_offset, resident_only=resident_only) as part:
            before = offset
            for header, raw in iterate_batches(part.read()):
                found.append(bytes(raw))
                offset = header.next_offset
            assert offset > before, "a slice holds at least one whole batch"
    return found


def read_values(log: Log, *, resident_only: bool = False) -> list[tuple[int, bytes | None]]:
    """(offset, value) of every record at or above the log start."""
    return [
        (record.offset, record.value)
        for raw in read_batches(log, resident_only=resident_only)
        for record in decode_records(memoryview(raw), output_max_bytes=OUTPUT_MAX_BYTES)
        if record.offset >= log.log_start_offset
    ]


def new_log(files: FileSystem, config: LogConfig | None = None, *, pool: SegmentFiles | None = None) -> Log:
    """An empty log at DIRECTORY."""
    files.make_directories(PARENT)
    files.sync_directory("/")
    return create_log(files, DIRECTORY, TOPIC_ID, config or LogConfig(), pool=pool)


def reopen(
    files: FileSystem,
    config: LogConfig | None = None,
    *,
    clean: bool = False,
    recovery_point: int = 0,
    log_start_offset: int = 0,
    now_ms: int = NOW_MS,
) -> Log:
    """Open the log at DIRECTORY as a new process does."""
    return open_log(
        files,
        DIRECTORY,
        config=config or LogConfig(),
        topic_id=TOPIC_ID,
        recovery_point=recovery_point,
        log_start_offset=log_start_offset,
        clean=clean,
        now_ms=now_ms,
    )
