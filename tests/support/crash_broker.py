"""A broker's life with its data folder, without network and event loop: opening, appends, syncs, rolls, deletions, cuts, closing.

Owns the order of calls, which is that of `broker/partitions.py` and `broker/partition.py`, and keeps the ledger of what was promised.
Knows nothing of crashes: it may stop at any call.

A further operation is one more method of `CrashBroker` and one more entry in `OPERATIONS`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random

from tests.support.compaction import compact, keyed
from tests.support.crash_ledger import Found, Ledger, Variant, end_of
from tests.support.logs import NOW_MS, TOPIC_ID, append, batch, read_batches, stored

from penstock.protocol.record_batch import iterate_batches, stamp
from penstock.runtime.files import FileSystem, StorageError
from penstock.storage.data_directory import DataDirectory
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.retention import plan_for

FOLDER = "/var/penstock"
TOPIC = "orders"
KEY = (TOPIC, 0)
PARTITION_FOLDER = f"{FOLDER}/{TOPIC}-0"
NODE_ID = 1
PRODUCERS = (101, 102)
KEYS = (b"a", b"b", b"c")
"""Of records in a log that is to be compacted."""
VALUE_SIZES = (5, 5, 30, 300, 700, 1500)


class CrashBroker:
    """One process over a disk, with one partition. `ledger` goes on from one process to the next."""

    def __init__(
        self,
        files: FileSystem,
        config: LogConfig,
        ledger: Ledger,
        random: Random,
        value_sizes: Sequence[int] = VALUE_SIZES,
    ) -> None:
        self.files = files
        self.config = config
        self.ledger = ledger
        self.random = random
        self.value_sizes = value_sizes
        self.opened: Log | None = None
        self.cut_to: int | None = None
        """While a cut is under way: what lies above is no longer promised."""
        self.sequences: dict[int, int] = {}
        self.last_sent: tuple[bytes, int] | None = None
        self.directory = open_directory(files)
        self.log = self.opened = open_partition(self.directory, config)
        ledger.settle(found_in(self.log))
        self._forget_sequences()
        self._begin_epoch()

    @property
    def must_end(self) -> int:
        """All below was told durable, and was not given up since."""
        if self.opened is None:
            return self.ledger.durable_end_offset
        promised = self.opened.durable_end_offset
        return promised if self.cut_to is None else min(promised, self.cut_to)

    def do(self, operation: str) -> None:
        """Carry out one of `OPERATIONS`."""
        OPERATIONS[operation](self)
        self.ledger.durable_end_offset = self.log.durable_end_offset

    # Appending

    def append(self, count: int = 1, *, producer_id: int = -1) -> None:
        """A batch of `count` records, every value another."""
        offset = self.log.log_end_offset
        size = self.random.choice(self.value_sizes)
        values = [b"%d:" % (offset + i) + self.random.randbytes(size) for i in range(count)]
        sequence = self.sequences.get(producer_id, 0)
        times = [1000 + offset + i for i in range(count)]
        if self.config.compact:
            pairs = [(self.random.choice(KEYS), value) for value in values]
            raw = keyed(pairs, timestamps_ms=times, producer_id=producer_id, sequence=sequence)
        else:
            raw = batch(values, timestamps_ms=times, producer_id=producer_id, sequence=sequence)
        self._append(raw, producer_id)
        if producer_id >= 0:
            self.sequences[producer_id] = sequence + count

    def _append(self, raw: bytearray, producer_id: int) -> None:
        ledger = self.ledger
        offset = self.log.log_end_offset
        ledger.batches.append(stored(raw, offset, ledger.epoch))
        try:
            info = append(self.log, raw, epoch=ledger.epoch)
        except StorageError:
            if self.log.failure is None:
                ledger.batches.pop()
                assert self.log.log_end_offset == offset, "refused, so nothing was appended"
            raise
        assert (info.base_offset, info.is_duplicate) == (offset, False)
        assert bytes(raw) == ledger.batches[-1]
        if producer_id >= 0:
            self.last_sent = (ledger.batches[-1], offset)

    def append_idempotently(self) -> None:
        """A batch of an idempotent producer."""
        self.append(self.random.choice((1, 3)), producer_id=self.random.choice(PRODUCERS))

    def append_again(self) -> None:
        """The last batch of an idempotent producer once more: nothing is appended."""
        if self.last_sent is None:
            return
        raw, offset = self.last_sent
        info = append(self.log, as_sent(raw), epoch=self.ledger.epoch)
        assert (info.base_offset, info.is_duplicate) == (offset, True)

    def fetch(self) -> None:
        """As a follower does: some batches of a leader at once, perhaps of several epochs."""
        ledger, records = self.ledger, bytearray()
        offset = self.log.log_end_offset
        for _ in range(self.random.choice((1, 2, 5))):
            if self.random.random() < 0.3:
                ledger.epoch += 1
            values = [b"%d:" % offset + self.random.randbytes(self.random.choice(self.value_sizes))]
            raw = stored(batch(values, timestamps_ms=1000 + offset), offset, ledger.epoch)
            ledger.batches.append(raw)
            records += raw
            offset += 1
        self.log.append_as_follower(memoryview(records), now_ms=NOW_MS)
        assert self.log.log_end_offset == offset

    def begin_epoch(self) -> None:
        """Lead anew."""
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self.ledger.epoch = max(self.ledger.epoch, self.log.latest_epoch) + 1
        self.log.start_leader_epoch(self.ledger.epoch)

    # Syncing and rolling

    def sync(self) -> None:
        """What `write.caching=false` waits for."""
        assert self.log.sync() == self.log.log_end_offset

    def roll(self) -> None:
        """A new segment."""
        self.log.roll()

    def write_snapshot(self) -> None:
        """Of the producers."""
        self.log.write_producer_snapshot()

    def save_indexes(self) -> None:
        """Of the active segment, with a snapshot, as it grows."""
        self.log.save_indexes(*self.log.encode_producers())

    def release_file(self) -> None:
        """Another log needs the descriptor more."""
        self.log.release_active_file()

    def write_checkpoints(self) -> None:
        """High watermark and recovery point, as every few seconds."""
        durable = self.log.durable_end_offset
        self.directory.write_high_watermarks({KEY: durable})
        self.directory.write_recovery_points({KEY: durable})

    # Deleting and cutting

    def delete_records(self) -> None:
        """Advance the log start to somewhere below the high watermark, and delete what lies below."""
        durable = self.log.durable_end_offset
        if durable <= self.log.log_start_offset:
            return
        self._delete_below(self.random.randint(self.log.log_start_offset + 1, durable))

    def retain(self) -> None:
        """Retention by size or time: the oldest segments go, the active one only after it was rolled."""
        keep = self.random.choice((0, self.log.size_bytes // 2))
        keep_ms = self.random.choice((-1, -1, self.config.retention_ms))
        self.log.config = dataclasses.replace(self.config, retention_bytes=keep, retention_ms=keep_ms)
        try:
            plan = plan_for(self.log, self.log.durable_end_offset, NOW_MS)
            if plan is not None and plan.rolls:
                self.log.roll()
                plan = plan_for(self.log, self.log.durable_end_offset, NOW_MS)
            if plan is not None:
                self._delete_below(plan.log_start_offset)
        finally:
            self.log.config = self.config

    def _delete_below(self, offset: int) -> None:
        self.log.advance_log_start_offset(offset)
        self.ledger.log_start_max = offset
        self.directory.write_log_starts({KEY: offset})
        self.ledger.log_start_min = offset
        self.log.delete_old_segments()

    def compact(self) -> None:
        """Compact what is committed, where that is asked for."""
        if not self.config.compact:
            return
        self.ledger.compacted_below = max(self.ledger.compacted_below, self.log.segments[-1].base_offset)
        compact(self.log, committed=self.log.durable_end_offset)

    def truncate(self) -> None:
        """As a follower does: cut off the last batches."""
        batches = [raw for raw in self.ledger.batches if end_of(raw) > self.log.log_start_offset]
        count = self.random.randint(0, len(batches))
        offset = end_of(batches[count - 1]) if count else self.log.log_start_offset
        self.directory.lower_offsets(*KEY, offset)
        self.cut_to = offset
        self.log.truncate_to(offset)
        self.ledger.batches = [raw for raw in self.ledger.batches if end_of(raw) <= self.log.log_end_offset]
        self.cut_to = None
        self._forget_sequences()

    def start_over(self) -> None:
        """As a follower does whose leader begins above: drop everything, and go on elsewhere."""
        ledger = self.ledger
        offset = self.log.log_end_offset + self.random.randint(0, 5)
        self.directory.lower_offsets(*KEY, 0, offset)
        self.cut_to = 0
        ledger.others.append(Variant([], offset, offset))
        self.log.truncate_fully_and_start_at(offset)
        ledger.batches = []
        ledger.others = []
        ledger.compacted_below = 0
        ledger.log_start_min = ledger.log_start_max = offset
        self.cut_to = None
        self._forget_sequences()
        self.directory.write_log_starts({KEY: offset})

    def _forget_sequences(self) -> None:
        """Producers go on from what the log has of them."""
        self.sequences = {}
        self.last_sent = None
        for header, _ in iterate_batches(b"".join(self.ledger.batches)):
            self.sequences[header.producer_id] = header.last_sequence + 1

    # Reading

    def read(self) -> None:
        """All of it, as consumers do, and the largest timestamp."""
        end = self.log.log_end_offset
        start = self.log.log_start_offset
        visible = [raw for raw in self.ledger.batches if start < end_of(raw) <= end]
        if not self.ledger.compacted_below:
            assert read_batches(self.log, max_bytes=500) == visible
        largest = self.log.max_timestamp(end)
        assert (largest is not None) == bool(visible) or self.ledger.compacted_below

    # The end

    def close(self) -> None:
        """A stop, clean if no error comes in between."""
        is_clean = True
        try:
            self.log.close()
        except StorageError:
            is_clean = False
        with suppress(StorageError):
            self.write_checkpoints()
        if is_clean:
            with suppress(StorageError):
                self.directory.mark_clean()
        self.directory.close()

    def restart(self) -> None:
        """A stop, and the next process."""
        self.close()
        self.ledger.durable_end_offset = self.log.durable_end_offset
        self.opened = None
        self.directory = open_directory(self.files)
        self.log = self.opened = open_partition(self.directory, self.config)
        self._begin_epoch()


OPERATIONS: dict[str, Callable[[CrashBroker], None]] = {
    "append": CrashBroker.append,
    "append three": lambda broker: broker.append(3),
    "append idempotently": CrashBroker.append_idempotently,
    "append again": CrashBroker.append_again,
    "fetch": CrashBroker.fetch,
    "begin epoch": CrashBroker.begin_epoch,
    "sync": CrashBroker.sync,
    "roll": CrashBroker.roll,
    "write snapshot": CrashBroker.write_snapshot,
    "save indexes": CrashBroker.save_indexes,
    "release file": CrashBroker.release_file,
    "write checkpoints": CrashBroker.write_checkpoints,
    "delete records": CrashBroker.delete_records,
    "retain": CrashBroker.retain,
    "compact": CrashBroker.compact,
    "truncate": CrashBroker.truncate,
    "start over": CrashBroker.start_over,
    "read": CrashBroker.read,
    "restart": CrashBroker.restart,
}


def as_sent(raw: bytes | bytearray) -> bytearray:
    """A stored batch as its producer sent it."""
    copy = bytearray(raw)
    stamp(memoryview(copy), 0, -1)
    return copy


def open_directory(files: FileSystem) -> DataDirectory:
    """The folder, as a new process opens it."""
    directory = DataDirectory.open(files, FOLDER, NODE_ID, Random(0))
    directory.join_cluster("cluster")
    return directory


def open_partition(directory: DataDirectory, config: LogConfig) -> Log:
    """The log of the one partition, made where there is none."""
    return directory.open_log(*KEY, TOPIC_ID, config, NOW_MS)


def found_in(log: Log) -> Found:
    """What stands in the files of an open log."""
    batches: list[bytes] = []
    for segment in log.segments:
        shared = segment.pool.acquire(segment)
        content = shared.file.pread(segment.size_bytes, 0)
        segment.pool.release(shared)
        batches += [bytes(raw) for _, raw in iterate_batches(content)]
        assert sum(map(len, batches)) >= len(content), "a segment holds whole batches"
    return Found(
        tuple(batches),
        log.segments[0].base_offset,
        log.log_start_offset,
        log.log_end_offset,
    )
