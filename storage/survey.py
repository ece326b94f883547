"""What of a segment is good, and where each stretch that is not begins and ends.

Owns the walk over a segment's file from its first byte to its last, whatever lies in it. Changes nothing and repairs nothing: `verify` counts
what is found here, `repair` plans by it. Reads in chunks of a megabyte, and keeps one of them.

A stretch of damage ends where the next batch begins that can be believed: the checksum is right, it lies between the offsets around it, it
bears the epoch that the checkpoint names, and the batch behind it does not contradict it. The batch that the damaged one's length leads to is looked
at first, since a record may hold a whole batch of another log.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import (
    HEADER,
    HEADER_SIZE_BYTES,
    BatchHeader,
    read_batch_header,
    verify_crc,
)
from penstock.runtime.files import File, FileSystem
from penstock.storage.batch_walk import ChainRules, chain_fault, follows_on, walk_batches
from penstock.storage.damage import find_valid_batch, was_never_written
from penstock.storage.errors import CorruptBatch
from penstock.storage.layout import OFFSET_MAX, RELATIVE_OFFSET_MAX

PROGRESS_BYTES = 1 << 20
VOTER_COUNT = 3
OFFSETS_PER_BYTE_MAX = 1000
"""More records than that no codec packs into a byte."""
NOTHING_FOLLOWS = -1
NO_EPOCH = -1


@dataclass(frozen=True, slots=True)
class Damage:
    """A stretch of a segment's file that is no good batch; of no bytes where a whole segment is missing before `path`."""

    path: str
    position: int
    end_position: int
    """Exclusive: the next good batch, or the end of the file."""
    offset: int
    """What comes next where the damage begins: the first offset that is lost."""
    next_offset: int
    """Where the log goes on; NOTHING_FOLLOWS where no good batch does."""
    reason: str
    epoch: int = NO_EPOCH
    """Leader epoch of the last good batch before it in this segment, or else of the first behind it; NO_EPOCH without any."""

    @property
    def size_bytes(self) -> int:
        """How many bytes are no good batch."""
        return self.end_position - self.position


Found = tuple[int, BatchHeader] | Damage


class Survey:
    """One segment's file, walked once by `found`."""

    def __init__(
        self,
        files: FileSystem,
        file: File,
        base_offset: int,
        limit_offset: int,
        rules: ChainRules,
        *,
        recovery_point: int = OFFSET_MAX,
    ) -> None:
        """`limit_offset`: where the next segment begins; -1 for the last one. In that one, bytes from `recovery_point` on may be torn."""
        self.next_offset = base_offset
        """The offset that comes next after what was found so far."""
        self._files = files
        self._file = file
        self._base_offset = base_offset
        self._size_bytes = file.size()
        self._limit_offset = limit_offset if limit_offset >= 0 else OFFSET_MAX
        self._follower_offset = limit_offset if limit_offset >= 0 else NOTHING_FOLLOWS
        self._rules = rules
        self._recovery_point = recovery_point
        self._epoch = NO_EPOCH

    def found(self) -> Iterator[Found]:
        """(position, header) of each good batch and each Damage, in the order of the file. Raises StorageError."""
        start = position = 0
        while start < self._size_bytes:
            reason = ""
            try:
                for position, header, batch in walk_batches(self._file, start, self._size_bytes):
                    reason = self._fault(position, header, self.next_offset)
                    if not reason and not verify_crc(batch):
                        reason = "the CRC-32C is wrong"
                    if reason:
                        break
                    self.next_offset = header.next_offset
                    self._epoch = header.partition_leader_epoch
                    yield position, header
            except CorruptBatch as error:
                position, reason = error.position, error.reason
            if not reason:
                return
            damage = self._damage_at(position, reason)
            yield damage
            start = damage.end_position

    def _fault(self, position: int, header: BatchHeader, expected_offset: int) -> str:
        """What is wrong with a header, checksum aside; empty if nothing is."""
        reason = chain_fault(header, expected_offset, self._rules)
        if reason is not None:
            return reason
        if header.next_offset > self._limit_offset:
            return f"offsets up to {header.last_offset}, and the next segment begins at {self._limit_offset}"
        if header.base_offset < self._rules.gaps_below and self._is_contradicted(
            position, header, expected_offset
        ):
            return f"base offset {header.base_offset}, and the batch behind it is below"
        return ""

    def _is_contradicted(self, position: int, header: BatchHeader, expected_offset: int) -> bool:
        """Whether the batch behind it fits what came before, but not this one: then it is this one whose offset is wrong."""
        at = position + header.size_bytes
        behind = self._header_at(at)
        if behind is None or not expected_offset <= behind.base_offset < header.next_offset:
            return False
        return self._batch_at(at) is not None

    def _damage_at(self, position: int, reason: str) -> Damage:
        expected = self.next_offset
        found = self._believable_from(position)
        if found is None:
            if self._follower_offset != NOTHING_FOLLOWS:
                self.next_offset = self._follower_offset
            return Damage(
                self._file.path,
                position,
                self._size_bytes,
                expected,
                self._follower_offset,
                reason,
                self._epoch,
            )
        end_position, header = found
        if self._was_never_written(position, end_position):
            return Damage(
                self._file.path, position, self._size_bytes, expected, NOTHING_FOLLOWS, reason, self._epoch
            )
        self.next_offset = header.base_offset
        epoch = self._epoch if self._epoch != NO_EPOCH else header.partition_leader_epoch
        return Damage(self._file.path, position, end_position, expected, header.base_offset, reason, epoch)

    def _was_never_written(self, position: int, end_position: int) -> bool:
        """Whether this is a torn tail though a good batch follows: the disk had not taken this sector, but later ones (`damage`)."""
        if self._follower_offset != NOTHING_FOLLOWS or self.next_offset < self._recovery_point:
            return False
        return was_never_written(
            self._files,
            self._file.path,
            position,
            end_position,
            self.next_offset,
            may_have_gaps=self.next_offset < self._rules.gaps_below,
        )

    def _believable_from(self, position: int) -> tuple[int, BatchHeader] | None:
        """Position and header of the batch that ends the damage at `position`."""
        damaged = self._header_at(position)
        if damaged is not None:
            led_to = position + damaged.size_bytes
            header = self._batch_at(led_to)
            if header is not None and self._is_believable(led_to, header, position):
                return led_to, header
        start = position + 1
        while True:
            at = find_valid_batch(
                self._files, self._file.path, start, self._size_bytes, max(0, self.next_offset)
            )
            if at is None:
                return None
            header = self._batch_at(at)
            if header is not None and self._is_believable(at, header, position):
                return at, header
            start = at + 1

    def _is_believable(self, position: int, header: BatchHeader, start: int) -> bool:
        """Whether a batch with a right checksum is the one that ends the damage that begins at `start`."""
        if not self.next_offset <= header.base_offset <= header.last_offset < self._limit_offset:
            return False
        epoch_at = self._rules.epoch_at
        if epoch_at is not None and header.partition_leader_epoch != epoch_at(header.base_offset):
            return False
        if header.base_offset < self._rules.gaps_below:
            return not self._is_contradicted(position, header, self.next_offset)
        # What lies between held a record at the least, and without gaps the batches behind count up from this one.
        if not self.next_offset < header.base_offset <= self._base_offset + RELATIVE_OFFSET_MAX:
            return False
        votes = self._votes(position, header) + 2 * self._is_next_of(start, position, header.base_offset)
        if votes == 0:  # nobody can tell: then it must at least be likely
            return header.base_offset - self.next_offset <= OFFSETS_PER_BYTE_MAX * (position - start)
        return votes > 0

    def _is_next_of(self, start: int, position: int, base_offset: int) -> bool:
        """Whether the damaged header at `start`, as far as it can be read, says that `base_offset` follows at `position`."""
        raw = self._file.pread(HEADER_SIZE_BYTES, start)
        if len(raw) < HEADER_SIZE_BYTES:
            return False
        damaged = BatchHeader(*HEADER.unpack(raw))
        ends_there = start + damaged.size_bytes == position
        return ends_there and self.next_offset + damaged.last_offset_delta + 1 == base_offset

    def _votes(self, position: int, header: BatchHeader) -> int:
        """How many of the next few batches, and the next segment, begin where counting up from this one says, less those that do not."""
        votes = 0
        offset = header.next_offset
        position += header.size_bytes
        for _ in range(VOTER_COUNT):
            behind = self._batch_at(position)
            if behind is None:
                if position == self._size_bytes and self._limit_offset != OFFSET_MAX:
                    votes += 1 if offset == self._limit_offset else -1
                break
            votes += 1 if behind.base_offset == offset else -1
            offset += behind.last_offset_delta + 1
            position += behind.size_bytes
        return votes

    def _batch_at(self, position: int) -> BatchHeader | None:
        """The header of the batch at `position` if it is whole and its checksum is right."""
        header = self._header_at(position)
        if header is None or position + header.size_bytes > self._size_bytes:
            return None
        is_right = verify_crc(memoryview(self._file.pread(header.size_bytes, position)))
        return header if is_right else None

    def _header_at(self, position: int) -> BatchHeader | None:
        try:
            return read_batch_header(self._file.pread(HEADER_SIZE_BYTES, position))
        except DecodeError:
            return None


def hole_before(path: str, base_offset: int, expected_offset: int, rules: ChainRules) -> Damage | None:
    """The Damage where a segment does not follow on the one before it; None if it does. `expected_offset` -1: nothing came before."""
    if expected_offset < 0 or follows_on(base_offset, expected_offset, rules):
        return None
    reason = f"segment begins at {base_offset} where {expected_offset} comes next"
    return Damage(path, 0, 0, expected_offset, base_offset, reason)


Progress = Callable[[int], None]
"""Told how many bytes were read since the last time."""


def told_of(found: Iterable[Found], file: File, progress: Progress | None) -> Iterable[Found]:
    """What was found, with `progress` told about every megabyte of it."""
    return found if progress is None else _told_of(found, file, progress)


def _told_of(found: Iterable[Found], file: File, progress: Progress) -> Iterator[Found]:
    told_position = 0
    for each in found:
        yield each
        position = each.position if isinstance(each, Damage) else each[0]
        if position - told_position >= PROGRESS_BYTES:
            progress(position - told_position)
            told_position = position
    progress(file.size() - told_position)


__all__ = ["NOTHING_FOLLOWS", "NO_EPOCH", "Damage", "Found", "Progress", "Survey", "hole_before", "told_of"]
