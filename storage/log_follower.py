"""Appending what a leader has sent: its batches, unchanged.

Owns what is checked of fetched batches, and how they are put into segments: many to one write, rolled where the follower's own settings say
so, so that the bytes are the leader's and the files are not. Knows neither leaders nor high watermarks.

Invariants, besides those of `log_writer`:
    - No byte is written of a batch whose checksum is wrong, that does not follow on the one before it, or whose epoch falls.
    - Offsets may be missing only where a fetched batch has left them out, and `compaction-checkpoint` says so, durably, before that batch.
    - An epoch without a batch, from a time when this replica led and got nothing, gives way to what the leader has there.

Source: Kafka's `UnifiedLog.appendAsFollower`; KAFKA-9835 and KIP-101 for the epochs.
"""

from collections.abc import Sequence
from typing import NamedTuple

from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import MAGIC, BatchHeader, iterate_batches, verify_crc
from penstock.runtime.files import StorageError
from penstock.storage.batch_walk import ChainRules, chain_fault
from penstock.storage.errors import CorruptBatch, StaleLeaderEpoch, missing_is_disk_error
from penstock.storage.layout import OFFSET_MAX, RELATIVE_OFFSET_MAX
from penstock.storage.log_writer import NO_TIMESTAMP, LogWriter
from penstock.storage.segment import TAIL_BATCHES_MIN
from penstock.storage.short_writes import complete_write

EPOCH_MAX = 2**31 - 1


class FollowedAppend(NamedTuple):
    """What was appended of fetched records. Offsets are inclusive, and -1 where nothing was."""

    base_offset: int
    last_offset: int
    size_bytes: int
    """How many of the bytes that were handed in are in the log now."""
    is_whole: bool
    """Whether that is every whole batch of them."""


class _Fetched(NamedTuple):
    """Whole batches that may be appended one after the other, and what is wrong with the one behind them."""

    headers: list[BatchHeader]
    gap_end_offset: int
    """Where the last gap ends; 0 without one."""
    fault: str | None


class LogFollower(LogWriter):
    """The part of `Log` that a follower's appends call."""

    def append_as_follower(
        self, records: memoryview, *, now_ms: int, epoch_max: int = EPOCH_MAX, may_wait: bool = True
    ) -> FollowedAppend:
        """Append the leader's batches unchanged, after checking each one's checksum and that it follows on the one before.

        A torn last batch is left out. Offsets may have gaps where the leader's log was compacted, and never go back. Batches before the
        first bad one are appended even if this raises. In the page cache on return; a segment that was rolled is durable.

        `epoch_max`: no batch can be of a later leader epoch. `may_wait=False` is for the event loop: it stops before the first batch that
        needs more than a write to an open file (a roll, a new epoch, a gap, a sync after DiskFull), and tells how far it came.

        Raises CorruptBatch, StaleLeaderEpoch, and what `append_as_leader` raises; ValueError if there is no whole batch.
        """
        if self._failure is not None:
            self._raise_failure()
        fetched = self._check_fetched(records, epoch_max)
        headers = fetched.headers
        if not headers and fetched.fault is None:
            raise ValueError("no whole batch to append")
        if fetched.gap_end_offset > self._gaps_below:
            if not may_wait:
                return FollowedAppend(-1, -1, 0, False)
            self._allow_gaps(fetched.gap_end_offset)
        number = position = 0
        while number < len(headers):
            if not self._make_room(headers[number], now_ms, may_wait=may_wait):
                last_offset = headers[number - 1].last_offset if number else -1
                return FollowedAppend(headers[0].base_offset if number else -1, last_offset, position, False)
            end, size_bytes = self._run_end(headers, number)
            self._write_run(records[position : position + size_bytes], headers[number:end])
            for header in headers[number:end]:
                if header.producer_id >= 0:
                    self._producers.update(header, header.base_offset, now_ms)
            number, position = end, position + size_bytes
        if fetched.fault is not None:
            raise CorruptBatch("fetched records", position, fetched.fault)
        return FollowedAppend(headers[0].base_offset, headers[-1].last_offset, position, True)

    def _check_fetched(self, records: memoryview, epoch_max: int) -> _Fetched:
        rules = ChainRules(OFFSET_MAX, None, self._index_interval_bytes)
        headers: list[BatchHeader] = []
        expected, gap_end_offset = self._log_end_offset, 0
        try:
            for header, batch in iterate_batches(records):
                fault = chain_fault(header, expected, rules)
                if fault is None and not (header.magic == MAGIC and verify_crc(batch)):
                    fault = "the CRC-32C is wrong"
                if fault is None and header.partition_leader_epoch > epoch_max:
                    fault = (
                        f"leader epoch {header.partition_leader_epoch}, where the leader's own is {epoch_max}"
                    )
                if fault is None and header.last_offset - expected > RELATIVE_OFFSET_MAX:
                    fault = f"offsets up to {header.last_offset} where {expected} comes next"
                if fault is not None:
                    return _Fetched(headers, gap_end_offset, fault)
                if header.base_offset > expected:
                    gap_end_offset = header.base_offset
                expected = header.next_offset
                headers.append(header)
        except DecodeError as error:
            return _Fetched(headers, gap_end_offset, str(error))
        return _Fetched(headers, gap_end_offset, None)

    def _make_room(self, header: BatchHeader, now_ms: int, *, may_wait: bool) -> bool:
        """Have an open segment and the epoch's entry ready for the next batch; False where that would wait for the disk and may not."""
        epoch = header.partition_leader_epoch
        needs_epoch = not epoch == self._epoch_on_disk == self._epochs.latest
        needs_roll = self.needs_roll(
            header.size_bytes,
            header.max_timestamp,
            now_ms,
            last_offset_delta=header.last_offset - self._log_end_offset,
        )
        if not may_wait and (needs_epoch or needs_roll or self._active.file is None or self._must_sync_cut):
            return False
        if needs_roll:
            self.roll()
        if needs_epoch:
            self._follow_epoch(epoch, header.base_offset)
        if self._active.file is None:
            with missing_is_disk_error():
                self._active.open_for_append()
        if self._must_sync_cut:
            self.sync()
        return True

    def _follow_epoch(self, epoch: int, start_offset: int) -> None:
        """Make sure that the checkpoint on disk has the epoch of the batch that comes next, whose leader knows it better than we did."""
        self._epochs.truncate_from_end(self._log_end_offset)
        if epoch < self._epochs.latest:
            raise StaleLeaderEpoch(f"leader epoch {epoch} after {self._epochs.latest}")
        self._epochs.assign(epoch, start_offset)
        self._write_epochs()

    def _run_end(self, headers: Sequence[BatchHeader], start: int) -> tuple[int, int]:
        """How many of the batches may go into the active segment with one write: the number of the first that may not, and their bytes.

        At least one; a batch that makes a segment begin goes alone, for what comes behind it is measured by it.
        """
        segment, first = self._active, headers[start]
        size_bytes = first.size_bytes
        indexes = segment.indexes
        if segment.size_bytes == 0 or indexes is None:
            return start + 1, size_bytes
        entries_max = min(
            (self._config.segment_index_bytes - indexes.by_offset.size_bytes) // 8,
            (self._config.segment_index_bytes - indexes.by_time.size_bytes) // 12,
        )
        room_bytes = self._roll_above_bytes - segment.size_bytes
        latest_ms = segment.first_timestamp_ms() + self._roll_after_ms
        end = start + 1
        for header in headers[start + 1 : start + max(1, entries_max - 2)]:
            if (
                size_bytes + header.size_bytes > room_bytes
                or header.partition_leader_epoch != first.partition_leader_epoch
                or header.max_timestamp > latest_ms
                or header.last_offset - segment.base_offset > RELATIVE_OFFSET_MAX
            ):
                break
            size_bytes += header.size_bytes
            end += 1
        return end, size_bytes

    def _write_run(self, records: memoryview, headers: Sequence[BatchHeader]) -> None:
        """Write batches that lie one behind the other to the active segment; see `LogWriter._write` for the order."""
        segment = self._active
        file, tail = segment.file, segment.tail
        assert file is not None
        assert tail is not None
        position = segment.size_bytes
        try:
            written = file.pwrite(records, position)
            if written != len(records):
                complete_write(file, records, position, written)
        except StorageError as error:
            self._write_failed(error, position)
        largest_ms = self._largest_timestamp_ms
        for header in headers:
            timestamp_ms = header.max_timestamp if header.record_count else NO_TIMESTAMP
            segment.note_appended(
                position + header.size_bytes,
                header.size_bytes,
                header.last_offset,
                timestamp_ms,
                self._index_interval_bytes,
            )
            tail.positions.append(position)
            tail.end_offsets.append(header.next_offset)
            position += header.size_bytes
            largest_ms = max(largest_ms, timestamp_ms)
        if len(tail.end_offsets) >= 2 * TAIL_BATCHES_MIN:
            segment.tail = tail.trimmed()
        self._largest_timestamp_ms = largest_ms
        self._changed = True
        self._log_end_offset = headers[-1].next_offset
        segment.size_bytes = position


__all__ = ["FollowedAppend", "LogFollower"]
