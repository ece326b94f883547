"""Producer state from what is on disk: the newest usable snapshot and the headers of the batches after it.

Owns which `.snapshot` files are usable. Knows not why state is loaded: at opening, or after a truncation.

A snapshot taken at offset n holds what the batches below n did. It is usable if all batches from n on are there to be read: one below
the first segment would leave a hole, in which a producer's sequence went on. One above the log's end tells of batches that are gone, and one
that fails its checksum tells nothing. All of these are removed, durably: one that came back would tell of batches that are gone once the log has
grown past it.
"""

from collections.abc import Iterator

from penstock.protocol.record_batch import BatchHeader
from penstock.runtime.files import StorageError, read_file
from penstock.storage.batch_walk import ChainRules, walk_headers
from penstock.storage.errors import CorruptFile
from penstock.storage.layout import SNAPSHOT_SUFFIX, segment_file_name
from penstock.storage.log_reader import floor_segment
from penstock.storage.producer_state import BATCHES_PER_PRODUCER_MAX, AppendedBatch, ProducerState
from penstock.storage.segment import Segment
from penstock.storage.segment_indexes import ensure_indexes

RECALL_WINDOWS_BYTES = (1 << 16, 1 << 20, 1 << 23)
RECALL_HEADERS_MAX = 5000
"""About ten milliseconds of looking back."""


def load_producers(
    state: ProducerState,
    segments: tuple[Segment, ...],
    snapshot_offsets: set[int],
    *,
    log_end_offset: int,
    now_ms: int,
    rules: ChainRules,
) -> list[str]:
    """Fill `state`, which is emptied first; returns notes on damaged snapshots. `snapshot_offsets` loses those that were removed.

    Batches read from the log count as written now: their own timestamps are the producer's. Raises CorruptBatch, StorageError.
    """
    files = segments[0].pool.files
    directory = segments[0].directory
    notes: list[str] = []
    state.clear()
    start_offset = segments[0].base_offset
    known_count = len(snapshot_offsets)
    for offset in sorted(snapshot_offsets, reverse=True):
        path = f"{directory}/{segment_file_name(offset, SNAPSHOT_SUFFIX)}"
        if segments[0].base_offset <= offset <= log_end_offset:
            try:
                state.load_snapshot(read_file(files, path), path=path)
            except CorruptFile as error:
                notes.append(str(error))
            else:
                start_offset = offset
                break
        files.unlink(path)
        snapshot_offsets.discard(offset)
    if len(snapshot_offsets) != known_count:
        files.sync_directory(directory)
    _replay(state, segments, start_offset, log_end_offset, now_ms, rules)
    return notes


def recall(
    state: ProducerState, segments: tuple[Segment, ...], header: BatchHeader, rules: ChainRules
) -> None:
    """Find the last five batches of a batch's producer, of which a snapshot holds one. For once; reads from the disk."""
    entry = state.get(header.producer_id)
    if entry is None or not entry.has_forgotten:
        return
    missing_count = BATCHES_PER_PRODUCER_MAX - len(entry.batches)
    first_offset = entry.batches[0].base_offset
    try:
        earlier = batches_before(segments, entry.producer_id, entry.epoch, first_offset, missing_count, rules)
    except (StorageError, FileNotFoundError):
        earlier = []  # damage down there is not this producer's to hear of
    state.recall(entry.producer_id, earlier)


def batches_before(
    segments: tuple[Segment, ...],
    producer_id: int,
    epoch: int,
    before_offset: int,
    count: int,
    rules: ChainRules,
) -> list[AppendedBatch]:
    """Up to `count` of the latest batches of a producer and epoch that lie below `before_offset`, oldest first.

    Looks back in growing steps and gives up after `RECALL_HEADERS_MAX` headers. Reads from the disk. Raises CorruptBatch, StorageError.
    """
    found: list[AppendedBatch] = []
    budget = RECALL_HEADERS_MAX
    for segment in reversed(segments[: floor_segment(segments, before_offset - 1) + 1]):
        found_here: list[AppendedBatch] = []
        for window_bytes in RECALL_WINDOWS_BYTES:
            position = _window_start(segment, before_offset, window_bytes, rules)
            found_here = []
            for header in _headers_between(segment, position, before_offset):
                budget -= 1
                if (
                    header.producer_id == producer_id
                    and header.producer_epoch == epoch
                    and not header.is_control
                ):
                    found_here.append(_appended(header))
            if position == 0 or len(found) + len(found_here) >= count or budget <= 0:
                break
        found = found_here + found
        if len(found) >= count or budget <= 0:
            break
    return found[-count:]


def _window_start(segment: Segment, before_offset: int, window_bytes: int, rules: ChainRules) -> int:
    """The position of an indexed batch about `window_bytes` before an offset; 0 if there is none."""
    end = min(segment.size_bytes, _position_for(segment, before_offset, rules) + rules.index_interval_bytes)
    indexes = segment.indexes
    if indexes is None or end <= window_bytes:
        return 0
    entry = indexes.by_offset.count_below_position(end - window_bytes) - 1
    return indexes.by_offset.positions[entry] if entry >= 0 else 0


def _headers_between(segment: Segment, position: int, before_offset: int) -> Iterator[BatchHeader]:
    shared = segment.pool.acquire(segment)
    try:
        for _, header in walk_headers(shared.file, position, segment.size_bytes):
            if header.base_offset >= before_offset:
                return
            yield header
    finally:
        segment.pool.release(shared)


def _appended(header: BatchHeader) -> AppendedBatch:
    return AppendedBatch(
        header.base_sequence,
        header.last_sequence,
        header.base_offset,
        header.last_offset,
        header.max_timestamp,
    )


def _replay(
    state: ProducerState,
    segments: tuple[Segment, ...],
    start_offset: int,
    log_end_offset: int,
    now_ms: int,
    rules: ChainRules,
) -> None:
    for number, segment in enumerate(segments):
        is_last = number + 1 == len(segments)
        end_offset = log_end_offset if is_last else segments[number + 1].base_offset
        if end_offset <= start_offset or segment.size_bytes == 0:
            continue
        position = _position_for(segment, start_offset, rules)
        shared = segment.pool.acquire(segment)
        try:
            for _, header in walk_headers(shared.file, position, segment.size_bytes):
                if header.producer_id >= 0 and header.base_offset >= start_offset:
                    state.update(header, header.base_offset, now_ms)
        finally:
            segment.pool.release(shared)


def _position_for(segment: Segment, offset: int, rules: ChainRules) -> int:
    if offset <= segment.base_offset:
        return 0
    indexes = segment.indexes if segment.indexes is not None else ensure_indexes(segment, rules)
    entry = indexes.by_offset.floor(offset - segment.base_offset)
    return indexes.by_offset.positions[entry] if entry >= 0 else 0
