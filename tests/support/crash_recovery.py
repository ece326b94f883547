"""Opening what a crash has left, and looking whether it is a log: lookups, epochs, producers, appends, closing, opening again.

Owns what must agree *within* an opened log. What must be in it is the ledger's business. Raises AssertionError, or what opening raises:
without damage on the disk, opening must not fail.
"""

from typing import NamedTuple

from tests.support.crash_broker import (
    KEY,
    PARTITION_FOLDER,
    as_sent,
    found_in,
    open_directory,
    open_partition,
)
from tests.support.crash_ledger import Found, base_of
from tests.support.logs import append, batch
from tests.support.simulated_disk import SimulatedDisk

from penstock.protocol.record_batch import BatchHeader, read_batch_header
from penstock.runtime.files import FileSystem
from penstock.storage.data_directory import DataDirectory
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.verify import verify_partition

Image = frozenset[tuple[str, bytes]]


class Recovery(NamedTuple):
    """What opening has made of a disk."""

    found: Found
    image: Image
    """All files after it, byte for byte."""


def image_of(disk: SimulatedDisk) -> Image:
    """All files and directories as they are seen."""
    return frozenset(disk.image().items())


def recover(disk: SimulatedDisk, config: LogConfig) -> tuple[Recovery, DataDirectory, Log]:
    """Open folder and log."""
    directory = open_directory(disk)
    log = open_partition(directory, config)
    return Recovery(found_in(log), image_of(disk)), directory, log


def examine(files: FileSystem, log: Log, found: Found) -> None:
    """Offsets, times, epochs and indexes say what the batches say."""
    end = found.log_end_offset
    assert log.durable_end_offset == end
    headers: list[BatchHeader] = []
    for raw in found.batches:
        header = read_batch_header(raw)
        headers.append(header)
        assert log.epoch_at(header.base_offset) == header.partition_leader_epoch
        if header.next_offset <= found.log_start_offset:
            continue
        for offset in {max(header.base_offset, found.log_start_offset), header.last_offset}:
            with log.read(offset, 1, end, resident_only=False) as part:
                assert part.read() == raw, f"reading offset {offset}"
        if log.config.compact:
            continue  # the record with that time may have gone
        at = log.find_by_timestamp(header.max_timestamp, end)
        assert at is not None
        assert at.offset == header.last_offset
    with log.read(end, 1, end, resident_only=False) as part:
        assert part.read() == b""
    largest = log.max_timestamp(end)
    visible = [header.last_offset for header in headers if header.next_offset > found.log_start_offset]
    if not log.config.compact:
        assert (largest.offset if largest else None) == (visible[-1] if visible else None)
    assert all(start < end for _, start in log.epoch_entries), "an epoch without a batch"
    verdict = verify_partition(files, PARTITION_FOLDER)
    assert verdict.is_good, verdict
    # The indexes of the active segment are in memory: its files are those of an earlier life until it is closed.
    active = f"{log.segments[-1].base_offset:020d}"
    assert all(active in fault.path for fault in verdict.index_faults), verdict


def use(disk: SimulatedDisk, directory: DataDirectory, log: Log, config: LogConfig) -> None:
    """Producers are recognised, the log takes batches, and what it took is there after a clean stop and after a power cut."""
    before = found_in(log)
    epoch = log.latest_epoch + 1
    log.start_leader_epoch(epoch)
    _repeat(log, before, epoch)
    raw = batch(2, timestamps_ms=[1000 + log.log_end_offset, 1001 + log.log_end_offset])
    append(log, raw, epoch=epoch)
    assert log.sync() == before.log_end_offset + 2
    held = disk.fork()
    held.power_cut()
    _expect(held, config, before, bytes(raw))
    log.close()
    directory.write_recovery_points({KEY: log.durable_end_offset})
    directory.mark_clean()
    directory.close()
    disk.power_cut()
    _expect(disk, config, before, bytes(raw))


def _repeat(log: Log, found: Found, epoch: int) -> None:
    """The last batch of each producer is known, so it is not appended again; and its next one is taken."""
    last: dict[int, bytes] = {}
    for raw in found.batches:
        producer_id = read_batch_header(raw).producer_id
        if producer_id >= 0:
            last[producer_id] = raw
    for producer_id, raw in last.items():
        header = read_batch_header(raw)
        if header.record_count != header.last_offset_delta + 1:
            continue  # compaction has been there: its producer would send it otherwise
        info = append(log, as_sent(raw), epoch=epoch)
        assert (info.base_offset, info.is_duplicate) == (base_of(raw), True), f"producer {producer_id}"
    assert log.log_end_offset == found.log_end_offset


def _expect(disk: SimulatedDisk, config: LogConfig, before: Found, added: bytes) -> None:
    recovery, directory, log = recover(disk, config)
    found = recovery.found
    assert found.batches == (*before.batches, added)
    assert found.log_start_offset == before.log_start_offset
    examine(disk, log, found)
    log.close()
    directory.close()
    assert not verify_partition(disk, PARTITION_FOLDER).index_faults
