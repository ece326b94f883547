"""A small data folder, one flipped bit at a time: the flip is found, or makes no difference, or cuts what looks like a torn tail.

Owns the folder and the verdict (PROPERTIES D10). Found means refused with a StorageError that names file, position and reason, at opening or at
reading. Never allowed: another record than the one that was written, a record less, an offset, time or producer that is wrong.
"""

from collections import Counter
from collections.abc import Iterable
from random import Random

from tests.support.crash_broker import CrashBroker, as_sent, found_in, open_directory, open_partition
from tests.support.crash_ledger import Found, Ledger, base_of, end_of
from tests.support.logs import append
from tests.support.simulated_disk import SimulatedDisk

from penstock.protocol.record_batch import iterate_batches, read_batch_header
from penstock.runtime.files import StorageError
from penstock.storage.errors import CorruptBatch, NotResident
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig

CONFIG = LogConfig(segment_bytes=250, index_interval_bytes=60)
LIFE = (
    "append idempotently",
    "append",
    "sync",
    "delete records",
    "begin epoch",
    "append",
    "roll",
    "append idempotently",
    "sync",
    "write checkpoints",
    "append",
    "append",
    "sync",
)

FOUND_AT_OPENING = "flips found at opening"
FOUND_AT_READING = "flips found at reading"
HARMLESS = "flips without a difference"
CUT = "flips cut as a torn tail"


class BitFlipTrials:
    """One folder, left by a clean stop or by a kill, and what stood in it."""

    def __init__(self, *, clean: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.disk = SimulatedDisk()
        ledger = Ledger()
        broker = CrashBroker(self.disk, CONFIG, ledger, Random(3), (1,))
        for operation in LIFE:
            broker.do(operation)
        self.expected = found_in(broker.log)
        if clean:
            broker.close()
        self._clean = clean
        self.disk.kill()
        self.disk = self.disk.copy()
        self.files = {path: content for path, content in self.disk.image().items() if content}

    def run(self, path: str, bits: Iterable[int]) -> None:
        """Flip each of those bits of a file."""
        for bit in bits:
            disk = self.disk.fork()
            disk.flip(path, bit)
            try:
                self.counts[self._verdict(disk, path, bit)] += 1
            except Exception as error:
                raise AssertionError(f"bit {bit} of {path}: {error!r}") from error

    def _verdict(self, disk: SimulatedDisk, path: str, bit: int) -> str:
        try:
            log = open_partition(open_directory(disk), CONFIG)
        except StorageError as error:
            _check_told(error, path, self._position_max(path, bit // 8))
            return FOUND_AT_OPENING
        found = Found((), log.segments[0].base_offset, log.log_start_offset, log.log_end_offset)
        if self._is_cut_tail(found, path, bit):
            return CUT
        assert found.log_start_offset == self.expected.log_start_offset
        assert found.log_end_offset == self.expected.log_end_offset
        try:
            self._look_up_all(log)
        except StorageError as error:
            _check_told(error, path, self._position_max(path, bit // 8))
            return FOUND_AT_READING
        self._repeat_all(log)
        return HARMLESS

    def _is_cut_tail(self, found: Found, path: str, bit: int) -> bool:
        """Whether the last batch, with the flip in it and above the recovery point, was cut after an unclean stop."""
        last = self.expected.batches[-1]
        in_last = (
            path.endswith(".log") and bit // 8 >= len(self.files[path]) - len(last) and self._is_active(path)
        )
        return in_last and not self._clean and found.log_end_offset == base_of(last)

    def _position_max(self, path: str, position: int) -> int:
        """Where the damage may be said to be at the latest: a wrong length or offset is seen where the next batch should begin."""
        start = 0
        for header, _ in iterate_batches(self.files[path]) if path.endswith(".log") else ():
            if start + 8 <= position < start + 12:
                return len(self.files[path])
            start += header.size_bytes
            if position < start:
                return start
        return position

    def _is_active(self, path: str) -> bool:
        return path == max(name for name in self.files if name.endswith(".log"))

    def _look_up_all(self, log: Log) -> None:
        """Every record by its time, as long as nobody has read it, and by its offset, first as the event loop asks, then as a worker."""
        end = log.log_end_offset
        headers = [read_batch_header(raw) for raw in self.expected.batches]
        visible = [header for header in headers if header.next_offset > log.log_start_offset]
        for header in visible:
            at = log.find_by_timestamp(header.max_timestamp, end)
            assert at is not None
            assert (at.offset, at.leader_epoch) == (header.last_offset, header.partition_leader_epoch)
            assert log.end_offset_for_epoch(header.partition_leader_epoch)[1] >= header.next_offset
        largest = log.max_timestamp(end)
        assert largest is not None
        assert largest.offset == end - 1
        for header, raw in zip(headers, self.expected.batches, strict=True):
            for resident_only in (True, False) if header in visible else ():
                offset = max(header.base_offset, log.log_start_offset)
                try:
                    with log.read(offset, 1, end, resident_only=resident_only) as part:
                        assert part.read() == raw, f"at offset {offset}"
                except NotResident:
                    assert resident_only

    def _repeat_all(self, log: Log) -> None:
        """The producers are known as they were."""
        last = {
            header.producer_id: bytes(raw) for header, raw in iterate_batches(b"".join(self.expected.batches))
        }
        epoch = log.latest_epoch + 1
        log.start_leader_epoch(epoch)
        for producer_id, raw in last.items():
            if producer_id >= 0:
                info = append(log, as_sent(raw), epoch=epoch)
                assert (info.base_offset, info.last_offset, info.is_duplicate) == (
                    base_of(raw),
                    end_of(raw) - 1,
                    True,
                )


def _check_told(error: StorageError, path: str, position: int) -> None:
    """It says where: the flipped file, or a batch that no longer agrees with it."""
    assert error.path, error
    if isinstance(error, CorruptBatch):
        assert error.reason
        if error.path == path:
            assert error.position <= position, f"told of position {error.position}: {error}"
