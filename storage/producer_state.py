"""What a log remembers of its idempotent producers, so that a repeated batch is recognised and a gap refused.

Owns the last five batches of each producer and the `.snapshot` file's bytes. Knows neither files nor when snapshots are taken.

Rules for a batch of a producer that is known here: same epoch and one of the last five batches again, a duplicate, answered
with the first one's offset; same epoch and the next sequence (2^31-1 wraps to 0), appended; a higher epoch from sequence 0 on,
appended; a lower epoch, or any other sequence, refused. A producer that is *not* known may start at any sequence: its state may
have gone with old segments or by `producer.id.expiration.ms`, and refusing would stop an honest producer for good (KIP-360).

Snapshot, version 1: int16 version, uint32 CRC-32C of all that follows it, int32 count, then for each producer: id int64,
epoch int16, last sequence int32, last offset int64, offset delta int32, timestamp int64, coordinator epoch int32, first offset of
the open transaction int64 (-1: none). It holds only the last batch of each producer, as Kafka's does; a producer that repeats an earlier one
after a restart would be refused, and some clients take that for fatal. So before refusing, `Log` looks the earlier ones up in the log, once.

Invariants:
    - Entries are kept in the order of their last use, so that expiry and the cap take from the front.
    - `timestamp` is the broker's wall time of the append, not the producer's: one that sends old records must not expire at once.

Source: KIP-98, KIP-360; Kafka's `ProducerStateManager`, `ProducerAppendInfo`, `ProducerStateEntry`.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from penstock.protocol.checksum import crc32c
from penstock.protocol.record_batch import BatchHeader
from penstock.runtime.files import Buffer
from penstock.storage.errors import CorruptFile, InvalidProducerEpoch, OutOfOrderSequence

BATCHES_PER_PRODUCER_MAX = 5
SEQUENCE_MAX = 2**31 - 1
NO_EPOCH = -1

SNAPSHOT_VERSION = 1
_PREFIX = struct.Struct(">hI")
_COUNT = struct.Struct(">i")
_ENTRY = struct.Struct(">qhiqiqiq")


class AppendedBatch(NamedTuple):
    """One batch of a producer as it lies in the log."""

    base_sequence: int
    last_sequence: int
    base_offset: int
    last_offset: int
    timestamp_ms: int
    """When it was appended, by the broker's wall clock."""


class ProducerEntry:
    """One producer."""

    __slots__ = (
        "batches",
        "coordinator_epoch",
        "epoch",
        "has_forgotten",
        "last_timestamp_ms",
        "producer_id",
        "transaction_first_offset",
    )

    def __init__(self, producer_id: int, epoch: int) -> None:
        self.producer_id = producer_id
        self.epoch = epoch
        self.batches: list[AppendedBatch] = []
        self.last_timestamp_ms = -1
        self.coordinator_epoch = -1
        self.transaction_first_offset = -1
        self.has_forgotten = False
        """It comes from a snapshot, which holds one batch: the log may hold earlier ones of the last five (see `recall`)."""


class ProducerState:
    """The producers of one log. Not safe for several threads: appends, snapshots, looks back and expiry are never made at once."""

    __slots__ = ("_count_max", "_entries", "_expiration_ms")

    def __init__(self, *, expiration_ms: int, count_max: int) -> None:
        self._entries: OrderedDict[int, ProducerEntry] = OrderedDict()
        self._expiration_ms = expiration_ms
        self._count_max = count_max

    def __len__(self) -> int:
        return len(self._entries)

    def configure(self, *, expiration_ms: int, count_max: int) -> None:
        """Change the bounds for what comes from now on."""
        self._expiration_ms = expiration_ms
        self._count_max = count_max

    def get(self, producer_id: int) -> ProducerEntry | None:
        """What is known of a producer."""
        return self._entries.get(producer_id)

    def entries(self) -> Iterable[ProducerEntry]:
        """All producers, the one idle longest first."""
        return self._entries.values()

    def known_batches(self) -> dict[int, tuple[int, tuple[int, ...]]]:
        """Of each producer its epoch, and the last offsets of the batches that are known. Safe beside appends."""
        return {
            entry.producer_id: (entry.epoch, tuple(batch.last_offset for batch in tuple(entry.batches)))
            for entry in tuple(self._entries.values())
        }

    def check(self, header: BatchHeader, *, begins_at_zero: bool = False) -> AppendedBatch | None:
        """Whether a batch with a producer id may be appended: None if so, or the batch in the log that it repeats.

        A producer that is not known may begin with any sequence, as its first batches may have been deleted; with `begins_at_zero` only with 0.

        Raises:
            OutOfOrderSequence: a gap, or a repetition of a batch before the last five.
            InvalidProducerEpoch: a higher epoch of this producer has written here.
        """
        entry = self._entries.get(header.producer_id)
        first = header.base_sequence
        if entry is None:
            if begins_at_zero and first != 0:
                raise OutOfOrderSequence(f"producer {header.producer_id} begins with sequence {first}, not 0")
            return None
        if header.producer_epoch != entry.epoch:
            self._check_new_epoch(header, entry)
            return None
        batches = entry.batches
        expected = (batches[-1].last_sequence + 1) & SEQUENCE_MAX if batches else 0
        if first == expected:
            return None
        last = header.last_sequence
        for batch in batches:
            if batch.base_sequence == first and batch.last_sequence == last:
                return batch
        raise OutOfOrderSequence(
            f"producer {header.producer_id} epoch {entry.epoch}: sequence {first} where {expected} is next"
        )

    def _check_new_epoch(self, header: BatchHeader, entry: ProducerEntry) -> None:
        if header.producer_epoch < entry.epoch:
            raise InvalidProducerEpoch(
                f"producer {header.producer_id}: epoch {header.producer_epoch} after epoch {entry.epoch}"
            )
        if header.base_sequence != 0 and entry.epoch != NO_EPOCH:
            raise OutOfOrderSequence(
                f"producer {header.producer_id}: the new epoch {header.producer_epoch} "
                f"begins with sequence {header.base_sequence}, not 0"
            )

    def update(self, header: BatchHeader, base_offset: int, timestamp_ms: int) -> None:
        """Note a batch that has been appended at `base_offset`, without checking it. Only for batches with a producer id."""
        producer_id = header.producer_id
        entries = self._entries
        entry = entries.get(producer_id)
        if entry is None:
            if len(entries) >= self._count_max:
                self._forget_one()
            entry = entries[producer_id] = ProducerEntry(producer_id, header.producer_epoch)
        else:
            entries.move_to_end(producer_id)
            if entry.epoch != header.producer_epoch:
                entry.epoch = header.producer_epoch
                entry.batches.clear()
                entry.has_forgotten = False
        entry.last_timestamp_ms = timestamp_ms
        delta = header.last_offset_delta
        if header.attributes & 0x30:
            self._note_transaction(header, entry, base_offset)
            if header.is_control:
                return
        first = header.base_sequence
        batches = entry.batches
        batches.append(
            AppendedBatch(
                first, (first + delta) & SEQUENCE_MAX, base_offset, base_offset + delta, timestamp_ms
            )
        )
        if len(batches) > BATCHES_PER_PRODUCER_MAX:
            del batches[0]

    def must_recall(self, header: BatchHeader) -> bool:
        """Whether only the log tells if a batch may be appended: it is out of order, and a snapshot does not hold the last five."""
        entry = self._entries.get(header.producer_id)
        if entry is None or not entry.has_forgotten or len(entry.batches) >= BATCHES_PER_PRODUCER_MAX:
            return False
        try:
            self.check(header)
        except OutOfOrderSequence:
            return header.producer_epoch == entry.epoch
        except InvalidProducerEpoch:
            pass
        return False

    def recall(self, producer_id: int, earlier: list[AppendedBatch]) -> None:
        """Add what was found in the log before the first batch that is known of a producer, oldest first. For once."""
        entry = self._entries[producer_id]
        entry.has_forgotten = False
        missing = BATCHES_PER_PRODUCER_MAX - len(entry.batches)
        entry.batches[:0] = earlier[-missing:] if missing > 0 else []

    def _note_transaction(self, header: BatchHeader, entry: ProducerEntry, base_offset: int) -> None:
        if header.is_control:
            entry.transaction_first_offset = -1
        elif header.is_transactional and entry.transaction_first_offset < 0:
            entry.transaction_first_offset = base_offset

    def _forget_one(self) -> None:
        for producer_id, entry in self._entries.items():
            if entry.transaction_first_offset < 0:
                del self._entries[producer_id]
                return

    def expire(self, now_ms: int) -> int:
        """Forget the producers that wrote nothing for `producer.id.expiration.ms`; returns how many."""
        expired: list[int] = []
        for producer_id, entry in self._entries.items():
            if now_ms - entry.last_timestamp_ms < self._expiration_ms:
                break
            if entry.transaction_first_offset < 0:
                expired.append(producer_id)
        for producer_id in expired:
            del self._entries[producer_id]
        return len(expired)

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()

    def encode_snapshot(self) -> bytes:
        """The content of a `.snapshot` file, the producer idle longest first."""
        parts = [_COUNT.pack(len(self._entries))]
        for entry in self._entries.values():
            last = entry.batches[-1] if entry.batches else None
            parts.append(
                _ENTRY.pack(
                    entry.producer_id,
                    entry.epoch,
                    last.last_sequence if last else -1,
                    last.last_offset if last else -1,
                    last.last_offset - last.base_offset if last else 0,
                    entry.last_timestamp_ms,
                    entry.coordinator_epoch,
                    entry.transaction_first_offset,
                )
            )
        body = b"".join(parts)
        return _PREFIX.pack(SNAPSHOT_VERSION, crc32c(body)) + body

    def load_snapshot(self, data: Buffer, *, path: str = "") -> None:
        """Replace all entries by those of a `.snapshot` file, idle ones as well. Raises CorruptFile, nothing changed then.

        Whether they have expired is not for the wall clock at one moment to say: `expire` is asked later, by a clock that can be believed.
        """
        entries = sorted(decode_snapshot(data, path=path), key=lambda entry: entry.last_timestamp_ms)
        self._entries = OrderedDict((entry.producer_id, entry) for entry in entries)


def decode_snapshot(data: Buffer, *, path: str = "") -> list[ProducerEntry]:
    """The producers of a `.snapshot` file. Raises CorruptFile."""
    head = _PREFIX.size + _COUNT.size
    if len(data) < head:
        raise CorruptFile(f"a producer snapshot of {len(data)} bytes", path=path)
    version, crc = _PREFIX.unpack_from(data)
    if version != SNAPSHOT_VERSION:
        raise CorruptFile(f"producer snapshot of version {version}", path=path)
    if crc32c(memoryview(data)[_PREFIX.size :]) != crc:
        raise CorruptFile("the producer snapshot fails its CRC-32C check", path=path)
    (count,) = _COUNT.unpack_from(data, _PREFIX.size)
    if count < 0 or len(data) != head + count * _ENTRY.size:
        raise CorruptFile(f"a producer snapshot of {len(data)} bytes that claims {count} entries", path=path)
    return [_decode_entry(data, head + index * _ENTRY.size) for index in range(count)]


def _decode_entry(data: Buffer, position: int) -> ProducerEntry:
    (
        producer_id,
        epoch,
        last_sequence,
        last_offset,
        offset_delta,
        timestamp_ms,
        coordinator_epoch,
        transaction_first_offset,
    ) = _ENTRY.unpack_from(data, position)
    entry = ProducerEntry(producer_id, epoch)
    entry.last_timestamp_ms = timestamp_ms
    entry.coordinator_epoch = coordinator_epoch
    entry.transaction_first_offset = transaction_first_offset
    if last_offset >= 0:
        entry.has_forgotten = True
        first_sequence = (last_sequence - offset_delta) & SEQUENCE_MAX
        entry.batches.append(
            AppendedBatch(
                first_sequence, last_sequence, last_offset - offset_delta, last_offset, timestamp_ms
            )
        )
    return entry
