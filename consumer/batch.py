"""Record batches on their way from a fetch answer to the user's hands.

Owns the walk over the batches of an answer (what is a control batch, what belongs to an aborted transaction), the checks, and `ConsumerBatch`,
which decodes when it is iterated. Does not know positions: `assignment_state` does.

Invariants: nothing is decoded before it is checked against its CRC; a batch's offsets lie in [base_offset, next_offset), and the batches of
one answer rise.
Source: KIP-98; Kafka's `CompletedFetch`.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import NamedTuple

from penstock.client.metadata import TopicPartition
from penstock.consumer.decoding import Source, decode_records, decode_values
from penstock.consumer.record import ConsumerRecord
from penstock.protocol.compression import decompress
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import (
    CODEC_MASK,
    CONTROL_FLAG,
    HEADER_SIZE_BYTES,
    LOG_APPEND_TIME_FLAG,
    TRANSACTIONAL_FLAG,
    BatchHeader,
    TimestampType,
    iterate_batches,
    verify_crc,
)

DECOMPRESSED_MAX_BYTES = 512 * 1024 * 1024
_TYPES = tuple(TimestampType)
_offset = attrgetter("offset")
_ABORT_MARKER = 0
_CONTROL_TYPE_MIN_BYTES = 4


class RawBatch:
    """One record batch as it was fetched; `records` is set once it was checked and decompressed."""

    __slots__ = (
        "base_offset",
        "decoded",
        "header",
        "is_broken",
        "next_offset",
        "records",
        "size_bytes",
        "view",
    )

    def __init__(self, header: BatchHeader, view: memoryview) -> None:
        self.header = header
        self.view = view
        self.base_offset: int = header.base_offset
        self.next_offset: int = header.next_offset
        self.size_bytes = len(view)
        self.records: bytes | None = None
        self.decoded: list[ConsumerRecord] | None = None
        """All its records, while it is taken piece by piece: else each piece would cost as much as the whole."""
        self.is_broken = False
        """A worker found it so; whoever takes it finds out why."""

    @property
    def needs_work(self) -> bool:
        """Whether to open it takes long."""
        return self.records is None and self.is_compressed and not self.is_broken

    @property
    def is_compressed(self) -> bool:
        """Whether `open` has more to do than a checksum."""
        return self.header.attributes & CODEC_MASK != 0

    @property
    def is_stamped_by_broker(self) -> bool:
        """Whether the timestamp of all its records is when it was appended (LogAppendTime)."""
        return self.header.attributes & LOG_APPEND_TIME_FLAG != 0

    @property
    def is_dense(self) -> bool:
        """Whether every offset from first to last has a record."""
        return self.header.record_count == self.header.last_offset_delta + 1

    def open(self) -> None:
        """Check and decompress; nothing where that was done. Any thread. Raises DecodeError."""
        if self.records is not None:
            return
        if not verify_crc(self.view):
            raise DecodeError("the record batch fails its CRC-32C check")
        body = self.view[HEADER_SIZE_BYTES:]
        if self.is_compressed:
            self.records = decompress(self.header.codec, body, output_max_bytes=DECOMPRESSED_MAX_BYTES)
        else:
            self.records = bytes(body)

    def source(self, partition: TopicPartition) -> Source:
        """What decoding needs to know besides the bytes."""
        header = self.header
        is_append_time = self.is_stamped_by_broker
        return Source(
            partition.topic,
            partition.partition,
            _TYPES[is_append_time],
            header.partition_leader_epoch,
            header.base_offset,
            header.last_offset_delta,
            header.base_timestamp,
            header.max_timestamp if is_append_time else None,
            header.record_count,
        )


class ParsedAnswer:
    """The batches of one answer that have something for the user, and where the next fetch begins."""

    __slots__ = ("batches", "failure", "leader_epoch", "next_offset")

    def __init__(self, next_offset: int) -> None:
        self.batches: list[RawBatch] = []
        self.next_offset = next_offset
        self.leader_epoch = -1
        self.failure: DecodeError | None = None
        """What is wrong at `next_offset`."""


def parse_answer(
    records: memoryview, fetch_offset: int, aborted: Sequence[tuple[int, int]] | None
) -> ParsedAnswer:
    """Walk over the batches. Those below `fetch_offset` are left out, as are control batches and (where `aborted` is given) aborted ones."""
    parsed = ParsedAnswer(fetch_offset)
    open_aborts = sorted(aborted or (), key=lambda pair: pair[1], reverse=True)
    aborted_ids: set[int] = set()
    try:
        for header, view in iterate_batches(records):
            if header.next_offset <= parsed.next_offset:
                continue
            while open_aborts and open_aborts[-1][1] <= header.last_offset:
                aborted_ids.add(open_aborts.pop()[0])
            if header.attributes & CONTROL_FLAG:
                if _is_abort(view, header):
                    aborted_ids.discard(header.producer_id)
            elif header.record_count > 0 and not (
                header.attributes & TRANSACTIONAL_FLAG and header.producer_id in aborted_ids
            ):
                parsed.batches.append(RawBatch(header, view))
            parsed.next_offset = header.next_offset
            parsed.leader_epoch = header.partition_leader_epoch
            if parsed.batches:
                # What was left out behind a batch is behind the user as soon as the batch is.
                parsed.batches[-1].next_offset = header.next_offset
    except DecodeError as error:
        parsed.failure = error
    else:
        if parsed.next_offset == fetch_offset and len(records) > 0:
            parsed.failure = DecodeError(f"{len(records)} bytes without a whole record batch at the position")
    return parsed


def _is_abort(view: memoryview, header: BatchHeader) -> bool:
    """Whether a control batch ends a transaction by abort: the key of its one record is (version, type), int16 each.

    Compaction may leave the batch without its record: then nothing of the transaction is left, either.
    """
    if header.record_count <= 0:
        return False
    raw = RawBatch(header, view)
    raw.open()
    assert raw.records is not None
    record = next(decode_records(raw.records, raw.source(TopicPartition("", 0)), 0, 1 << 62))
    key = record.key
    if key is None or len(key) < _CONTROL_TYPE_MIN_BYTES:
        raise DecodeError("a control record without a type")
    return int.from_bytes(key[2:4], "big", signed=True) == _ABORT_MARKER


class TimeWindow(NamedTuple):
    """Timestamps in ms since 1970: from `start_ms` on, before `end_ms`."""

    start_ms: int
    end_ms: int


class ConsumerBatch:
    """Records of one partition, in order of their offsets. Iterate it, as often as you like; records are decoded then, not before.

    `start_offset` is where it begins (there may be no record of that offset), `next_offset` what follows when it is done: the
    position to commit. With a `window` (a read that is bounded by time) it has only the records with a timestamp in there.
    Raises CorruptRecords from iteration where bytes under a right checksum are no records.
    """

    __slots__ = ("_raws", "_tp", "next_offset", "start_offset", "window")

    def __init__(
        self,
        tp: TopicPartition,
        raws: Sequence[RawBatch],
        start_offset: int,
        next_offset: int,
        window: TimeWindow | None = None,
    ) -> None:
        self._tp = tp
        self._raws = raws
        self.start_offset = start_offset
        self.next_offset = next_offset
        self.window = window

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._tp.topic

    @property
    def partition(self) -> int:
        """The partition's index."""
        return self._tp.partition

    @property
    def topic_partition(self) -> TopicPartition:
        """Both."""
        return self._tp

    @property
    def leader_epoch(self) -> int:
        """The leader epoch of the last records; -1 where the broker gave none."""
        return self._raws[-1].header.partition_leader_epoch

    def __iter__(self) -> Iterator[ConsumerRecord]:
        raws = self._raws
        if len(raws) == 1:
            return self._decode(raws[0])
        return chain.from_iterable(map(self._decode, raws))

    def __len__(self) -> int:
        return sum(map(self._count, self._raws))

    def records(self) -> list[ConsumerRecord]:
        """All records at once."""
        return list(self)

    def below(self, offset: int) -> "ConsumerBatch":
        """The same without the records from `offset` on."""
        if self.next_offset <= offset:
            return self
        return ConsumerBatch(self._tp, self._raws, self.start_offset, offset, self.window)

    def first(self, max_records: int) -> "ConsumerBatch":
        """The same without what comes behind the first `max_records` records."""
        left = max_records
        for index, raw in enumerate(self._raws):
            count = self._count(raw)
            if count > left:
                if raw.decoded is None:
                    raw.decoded = list(self._all_of(raw))
                last = list(islice(self._decode(raw), left))[-1]
                raws = self._raws[: index + 1]
                return ConsumerBatch(self._tp, raws, self.start_offset, last.offset + 1, self.window)
            left -= count
            if not left and index + 1 < len(self._raws):
                return ConsumerBatch(
                    self._tp,
                    self._raws[: index + 1],
                    self.start_offset,
                    min(raw.next_offset, self.next_offset),
                    self.window,
                )
        return self

    def values(self) -> list[bytes | None]:
        """The values alone, in less than half the time (unless there is a window: then timestamps are read as well)."""
        if self.window is not None:
            return [record.value for record in self]
        found: list[bytes | None] = []
        for raw in self._raws:
            assert raw.records is not None
            if raw.decoded is not None:
                found += [record.value for record in self._decode(raw)]
                continue
            try:
                found += decode_values(raw.records, raw.source(self._tp), self.start_offset, self.next_offset)
            except DecodeError as error:
                raise self._corrupt(raw, error) from error
        return found

    @property
    def raws(self) -> Sequence[RawBatch]:
        """The batches that it is made of, for the consumer's own use."""
        return self._raws

    def _decode(self, raw: RawBatch) -> Iterator[ConsumerRecord]:
        assert raw.records is not None
        if self.window is not None:
            return self._in_window(raw, self.window)
        return self._between(raw)

    def _between(self, raw: RawBatch) -> Iterator[ConsumerRecord]:
        assert raw.records is not None
        if raw.decoded is not None:
            begin = bisect_left(raw.decoded, self.start_offset, key=_offset)
            return iter(raw.decoded[begin : bisect_left(raw.decoded, self.next_offset, begin, key=_offset)])
        try:
            return decode_records(raw.records, raw.source(self._tp), self.start_offset, self.next_offset)
        except DecodeError as error:
            raise self._corrupt(raw, error) from error

    def _all_of(self, raw: RawBatch) -> Iterator[ConsumerRecord]:
        return ConsumerBatch(self._tp, [raw], raw.base_offset, raw.next_offset)._between(raw)

    def _in_window(self, raw: RawBatch, window: TimeWindow) -> Iterator[ConsumerRecord]:
        # The header's maximum is what the producer claims, and there is no minimum: each record is looked at.
        start_ms, end_ms = window
        return iter([record for record in self._between(raw) if start_ms <= record.timestamp_ms < end_ms])

    def _corrupt(self, raw: RawBatch, error: DecodeError) -> Exception:
        from penstock.consumer.errors import CorruptRecords

        return CorruptRecords(self._tp, raw.base_offset, str(error), raw.next_offset)

    def _count(self, raw: RawBatch) -> int:
        if self.window is not None or not raw.is_dense:
            return len(list(self._decode(raw)))
        last = raw.base_offset + raw.header.record_count
        return max(0, min(last, self.next_offset) - max(raw.base_offset, self.start_offset))


__all__ = ["ConsumerBatch", "ParsedAnswer", "RawBatch", "TimeWindow", "parse_answer"]
