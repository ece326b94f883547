"""The log against a plain list: whatever is done to it in whatever order, it holds what the list holds (PROPERTIES D1, D2, T1)."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.examples import examples
from tests.support.logs import (
    DIRECTORY,
    NOW_MS,
    OUTPUT_MAX_BYTES,
    append,
    batch,
    new_log,
    read_batches,
    reopen,
    stored,
)
from tests.support.memory_files import MemoryFiles

from penstock.protocol.record_batch import check_produced_batch, iterate_batches, read_batch_header
from penstock.protocol.records import decode_records
from penstock.runtime.files import DiskFull
from penstock.storage.errors import NotResident, OffsetOutOfRange
from penstock.storage.log import Log, LogSlice
from penstock.storage.log_config import LogConfig
from penstock.storage.verify import verify_partition

PRODUCERS = (101, 102, 103)
TIMES = st.integers(1000, 1100)


class LogMachine(RuleBasedStateMachine):
    """`batches` is the model: every batch as stored, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.files = MemoryFiles()
        self.batches: list[bytes] = []
        self.history: list[bytes] = []
        """The batches and those that retention deleted: producers may still be known by them."""
        self.log_start = 0
        self.end = 0
        self.recovery_point = 0
        self.epoch = 0
        self.sequences: dict[int, int] = dict.fromkeys(PRODUCERS, 0)
        self.held: list[tuple[LogSlice, bytes]] = []
        self.config = LogConfig()
        self.log: Log = new_log(self.files)

    @initialize(
        segment_bytes=st.sampled_from([150, 400, 1500, 1 << 30]), interval=st.sampled_from([0, 90, 300, 4096])
    )
    def start(self, segment_bytes: int, interval: int) -> None:
        self.config = LogConfig(segment_bytes=segment_bytes, index_interval_bytes=interval)
        self.files = MemoryFiles()
        self.log = new_log(self.files, self.config)

    # What the model knows

    def first_kept(self) -> int:
        return self.log.segments[0].base_offset

    def forget_deleted(self) -> None:
        self.batches = [
            raw for raw in self.batches if read_batch_header(raw).base_offset >= self.first_kept()
        ]

    def remember(self, raw: bytearray) -> None:
        self.batches.append(stored(raw, self.end, self.epoch))
        self.end = read_batch_header(self.batches[-1]).next_offset
        self.history.append(self.batches[-1])

    def forget_producers(self) -> None:
        """After a cut or a power cut each producer goes on behind its last batch that is left."""
        self.history = [raw for raw in self.history if read_batch_header(raw).next_offset <= self.end]
        for producer_id in PRODUCERS:
            headers = [read_batch_header(raw) for raw in self.history]
            mine = [header for header in headers if header.producer_id == producer_id]
            self.sequences[producer_id] = mine[-1].last_sequence + 1 if mine else 0

    # Writing

    @rule(times=st.lists(TIMES, min_size=1, max_size=4), size=st.integers(0, 120))
    def write(self, times: list[int], size: int) -> None:
        raw = batch([b"x" * size] * len(times), timestamps_ms=times)
        info = append(self.log, bytearray(raw), epoch=self.epoch)
        assert info.base_offset == self.end
        self.remember(raw)

    @rule(producer_id=st.sampled_from(PRODUCERS), count=st.integers(1, 3))
    def write_idempotently_twice(self, producer_id: int, count: int) -> None:
        sequence = self.sequences[producer_id]
        raw = batch(count, producer_id=producer_id, sequence=sequence)
        first = append(self.log, bytearray(raw), epoch=self.epoch)
        again = append(self.log, bytearray(raw), epoch=self.epoch)
        assert (first.base_offset, first.is_duplicate) == (self.end, False)
        assert (again.base_offset, again.last_offset) == (first.base_offset, first.last_offset)
        assert again.is_duplicate
        self.remember(raw)
        self.sequences[producer_id] += count

    @rule(room=st.integers(0, 90))
    def write_on_a_full_disk(self, room: int) -> None:
        raw = batch([b"y" * 60])
        header = check_produced_batch(memoryview(raw))
        if self.log.needs_roll(header.size_bytes, header.max_timestamp, NOW_MS):
            self.log.roll()
        self.log.prepare_append(self.epoch)
        self.files.capacity_bytes = self.files.used_bytes() + room
        try:
            append(self.log, raw, epoch=self.epoch)
        except DiskFull:
            pass
        else:
            raise AssertionError("there was no room")
        finally:
            self.files.capacity_bytes = 1 << 40

    @rule()
    def begin_an_epoch(self) -> None:
        self.epoch += 1
        self.log.start_leader_epoch(self.epoch)

    @rule(most=st.sampled_from([0, 1, 50]))
    def write_in_pieces(self, most: int) -> None:
        self.files.short_write_bytes = most

    @rule()
    def roll(self) -> None:
        self.log.roll()
        assert self.log.durable_end_offset == self.end

    @rule()
    def sync(self) -> None:
        assert self.log.sync() == self.end

    @rule()
    def checkpoint(self) -> None:
        self.recovery_point = self.log.durable_end_offset

    # Reading

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), max_bytes=st.integers(0, 500), resident_only=st.booleans(), hold=st.booleans())
    def read(self, data: st.DataObject, max_bytes: int, resident_only: bool, hold: bool) -> None:
        ends = [read_batch_header(raw).next_offset for raw in self.batches]
        end = data.draw(st.sampled_from(ends))
        offset = data.draw(st.integers(self.log_start - 1, self.end + 1))
        try:
            part = self.log.read(offset, max_bytes, end, resident_only=resident_only)
        except OffsetOutOfRange:
            assert offset < self.log_start or offset > self.end
            return
        except NotResident:
            assert resident_only
            return
        found = part.read()
        wanted = b"".join(raw for raw in self.batches if offset < read_batch_header(raw).next_offset <= end)
        assert wanted.startswith(found)
        assert bool(found) == (offset < end)
        if found:
            first = next(iterate_batches(found))[0].size_bytes
            assert first <= len(found) <= max(max_bytes, first)
        if hold and found:
            self.held.append((part, found))
        else:
            part.release()

    @rule()
    def release(self) -> None:
        for part, content in self.held:
            assert part.read() == content
            part.release()
        self.held.clear()

    @precondition(lambda self: self.batches)
    @rule(data=st.data(), wanted=TIMES)
    def look_up_a_time(self, data: st.DataObject, wanted: int) -> None:
        ends = [read_batch_header(raw).next_offset for raw in self.batches]
        end = data.draw(st.sampled_from(ends))
        records = [
            record
            for raw in self.batches
            for record in decode_records(memoryview(raw), output_max_bytes=OUTPUT_MAX_BYTES)
            if self.log_start <= record.offset < end
        ]
        found = self.log.find_by_timestamp(wanted, end)
        first = next((record for record in records if record.timestamp >= wanted), None)
        assert (found and found.offset) == (first and first.offset)
        largest = self.log.max_timestamp(end)
        best = max(records, key=lambda record: record.timestamp, default=None)
        assert (largest and largest.offset) == (best and best.offset)

    # Cutting

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        before = self.batches
        offset = data.draw(st.integers(self.log_start, self.end))
        self.recovery_point = min(self.recovery_point, offset)
        self.log.truncate_to(offset)
        self.batches = [raw for raw in self.batches if read_batch_header(raw).next_offset <= offset]
        gone = [raw for raw in before if raw not in self.batches]
        if gone:
            self.end = max(read_batch_header(gone[0]).base_offset, self.log_start)
            assert self.log.durable_end_offset == self.end
        self.recovery_point = min(self.recovery_point, self.end)
        self.forget_deleted()
        self.forget_producers()

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def delete_records(self, data: st.DataObject) -> None:
        # what retention cuts off lies below the high watermark, so it is durable here
        self.log.sync()
        self.log_start = data.draw(st.integers(self.log_start, self.end))
        self.log.advance_log_start_offset(self.log_start)
        self.log.delete_old_segments()
        self.forget_deleted()

    # Ends

    @rule()
    def close_and_reopen(self) -> None:
        self.release()
        self.log.close()
        self.files.power_cut()
        self.log = reopen(self.files, self.config, clean=True, log_start_offset=self.log_start)
        assert not self.log.report
        self.after_restart()

    @rule()
    def kill_and_reopen(self) -> None:
        self.held.clear()
        self.files.kill()
        self.reopen_unclean()
        assert self.log.log_end_offset == self.end

    @rule()
    def cut_power_and_reopen(self) -> None:
        self.held.clear()
        durable = self.log.durable_end_offset
        self.files.power_cut()
        self.reopen_unclean()
        assert self.log.log_end_offset >= durable
        self.batches = self.batches[: len(read_all_stored(self.log))]
        if self.batches:
            self.end = read_batch_header(self.batches[-1]).next_offset
        self.end = max(min(self.end, self.log.log_end_offset), self.log_start)
        self.forget_producers()

    def reopen_unclean(self) -> None:
        self.log = reopen(
            self.files,
            self.config,
            recovery_point=self.recovery_point,
            log_start_offset=self.log_start,
        )
        assert self.log.durable_end_offset == self.log.log_end_offset
        self.after_restart()

    def after_restart(self) -> None:
        self.files.short_write_bytes = 0
        self.epoch += 1  # every start raises the leader epoch
        self.forget_deleted()

    @invariant()
    def the_log_is_the_list(self) -> None:
        log = self.log
        assert log.log_start_offset == self.log_start
        assert log.log_end_offset == self.end
        assert log.size_bytes == sum(len(raw) for raw in self.batches)
        visible = [raw for raw in self.batches if read_batch_header(raw).next_offset > self.log_start]
        assert read_batches(log) == visible
        for raw in self.batches:
            header = read_batch_header(raw)
            assert log.epoch_at(header.base_offset) == header.partition_leader_epoch
        assert verify_partition(self.files, DIRECTORY).is_good


def read_all_stored(log: Log) -> list[bytes]:
    """All batches in the files, those below the log start too."""
    found: list[bytes] = []
    for segment in log.segments:
        shared = segment.pool.acquire(segment)
        found += [bytes(raw) for _, raw in iterate_batches(shared.file.pread(segment.size_bytes, 0))]
        segment.pool.release(shared)
    return found


LogMachine.TestCase.settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
TestLogMachine = LogMachine.TestCase
