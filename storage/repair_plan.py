"""What is damaged in a partition, and what each way to mend it would lose. Nothing is done here.

Owns the survey of a whole partition and the arithmetic of losses; `repair` carries a plan out. Reads every segment once.

The ways:
    - cut: everything from the first damage on goes, good batches behind it too; the log ends there, and later offsets are given out again.
    - skip: what is damaged goes, all good batches stay where they are. In its place stands what keeps the offsets (see `placeholder`), so the
      log has no gap, and no offset ever names two records.
    - quarantine: the whole log goes; the partition goes on, empty, at its end.

A torn tail (bytes at the end that are no whole batch, at or above the recovery point) is no damage: the broker cuts it when it starts.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from penstock.runtime.files import FileSystem
from penstock.storage.batch_walk import ChainRules
from penstock.storage.checkpoint import TopicPartition, gaps_allowed_below, read_partition_metadata
from penstock.storage.dump import Fault, list_segments
from penstock.storage.epoch_cache import EpochCache
from penstock.storage.errors import CorruptFile
from penstock.storage.layout import (
    LEADER_EPOCH_CHECKPOINT,
    LOG_SUFFIX,
    PARTITION_METADATA,
    RELATIVE_OFFSET_MAX,
    segment_file_name,
)
from penstock.storage.placeholder import restored
from penstock.storage.survey import NO_EPOCH, NOTHING_FOLLOWS, Damage, Progress, Survey, hole_before, told_of
from penstock.storage.verify import has_swap, read_epochs
from penstock.storage.verify_folder import DataFolder

RESTORED_SIZE_BYTES_MAX = 1 << 27
"""No batch is larger: a frame holds at most 100 MiB."""


class Way(enum.StrEnum):
    """How to mend."""

    CUT = "cut"
    SKIP = "skip"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Loss:
    """What a way costs."""

    offset_count: int
    """Offsets that were there once and hold nothing then."""
    good_batch_count: int
    """Batches that can be read now and can't be then."""
    good_record_count: int
    size_bytes: int
    """Taken out of the log."""
    log_start_offset: int
    log_end_offset: int
    """Of the log as it is then."""


@dataclass(slots=True)
class RepairPlan:
    """What was found in one partition, and what can be done about it."""

    folder: DataFolder
    key: TopicPartition
    bases: list[int] = field(default_factory=list[int])
    sizes: list[int] = field(default_factory=list[int])
    """Bytes of each segment."""
    damages: list[Damage] = field(default_factory=list[Damage])
    """In the order of the log."""
    restored: list[Damage] = field(default_factory=list[Damage])
    """Those that lose nothing by `skip`: only header fields outside of the checksum were hurt."""
    torn_tail: Damage | None = None
    damaged_files: list[Fault] = field(default_factory=list[Fault])
    """Small files that are moved aside by any way, and made again by the broker."""
    has_swap: bool = False
    """A compaction was cut short while it put new segments in the place of old ones: what is missing may be in them."""
    epochs: EpochCache | None = None
    log_end_offset: int = 0
    """Behind the last good batch, or where the checkpoints say that it ended, if that is higher."""
    batch_count: int = 0
    record_count: int = 0
    batches_behind: int = 0
    """Good ones behind the first damage."""
    records_behind: int = 0

    @property
    def directory(self) -> str:
        """The partition's folder."""
        return self.folder.directory(self.key)

    @property
    def is_needed(self) -> bool:
        """Whether there is anything that the broker does not mend by itself."""
        return bool(self.damages or self.damaged_files)

    @property
    def log_start_offset(self) -> int:
        """Where the log begins as of now."""
        return max(self.folder.log_starts.get(self.key, 0), self.bases[0] if self.bases else 0)

    def segment_path(self, base_offset: int) -> str:
        """The file of a segment."""
        return f"{self.directory}/{segment_file_name(base_offset, LOG_SUFFIX)}"

    def why_not(self, way: Way) -> str:
        """Why a way can't be gone; empty if it can."""
        if self.has_swap and way is not Way.QUARANTINE:
            return "a compaction was cut short; start the broker once, which finishes it, then look again"
        if way is not Way.SKIP:
            return ""
        for damage in self.damages:
            if damage.next_offset < damage.offset:
                return "segments overlap, so some offsets are there twice"
            if damage.next_offset - self._base_of(damage) > RELATIVE_OFFSET_MAX:
                return f"{damage.next_offset - damage.offset} offsets are missing, more than a segment holds"
        return ""

    def _base_of(self, damage: Damage) -> int:
        """The base offset of the segment that would hold what stands for the damage."""
        if damage.end_position == 0:
            return damage.offset
        return next(base for base in self.bases if self.segment_path(base) == damage.path)

    def loss(self, way: Way) -> Loss:
        """What a way costs."""
        start, end = self.log_start_offset, self.log_end_offset
        total_bytes = sum(self.sizes)
        if way is Way.QUARANTINE:
            count = max(0, end - start)
            return Loss(count, self.batch_count, self.record_count, total_bytes, end, end)
        if not self.damages:
            return Loss(0, 0, 0, 0, start, end)
        if way is Way.CUT:
            first = self.damages[0]
            kept = sum(
                size
                for base, size in zip(self.bases, self.sizes, strict=True)
                if self.segment_path(base) < first.path
            )
            cut_end = max(start, first.offset)
            return Loss(
                max(0, end - cut_end),
                self.batches_behind,
                self.records_behind,
                total_bytes - kept - first.position,
                start,
                cut_end,
            )
        lost = [damage for damage in self.damages if damage not in self.restored]
        return Loss(
            sum(damage.next_offset - damage.offset for damage in lost),
            0,
            0,
            sum(damage.size_bytes for damage in lost),
            start,
            end,
        )


def plan_repair(
    files: FileSystem, folder: DataFolder, key: TopicPartition, *, progress: Progress | None = None
) -> RepairPlan:
    """Read the whole partition and say what is to be mended. Raises FileNotFoundError, StorageError."""
    plan = RepairPlan(folder, key)
    plan.bases = list_segments(files, plan.directory)
    plan.has_swap = has_swap(files, plan.directory)
    _read_small_files(files, plan)
    gaps_below = gaps_allowed_below(files, plan.directory)
    rules = ChainRules(gaps_below, None if plan.epochs is None else plan.epochs.epoch_at, 0)
    _Surveying(files, plan, rules, progress).run()
    _judge_end(plan)
    for damage in plan.damages:
        if restore(files, plan, damage) is not None:
            plan.restored.append(damage)
    return plan


def _read_small_files(files: FileSystem, plan: RepairPlan) -> None:
    try:
        read_partition_metadata(files, f"{plan.directory}/{PARTITION_METADATA}")
    except CorruptFile as error:
        plan.damaged_files.append(Fault(error.path, 0, error.reason))
    try:
        plan.epochs = read_epochs(files, plan.directory)
    except CorruptFile as error:
        plan.damaged_files.append(Fault(f"{plan.directory}/{LEADER_EPOCH_CHECKPOINT}", 0, error.reason))


class _Surveying:
    """The walk over all segments of a partition."""

    def __init__(
        self, files: FileSystem, plan: RepairPlan, rules: ChainRules, progress: Progress | None
    ) -> None:
        self._files = files
        self._plan = plan
        self._rules = rules
        self._progress = progress
        self._epoch = NO_EPOCH

    def run(self) -> None:
        """Fill in what is damaged and how much is good."""
        plan = self._plan
        expected = -1
        for number, base_offset in enumerate(plan.bases):
            follower = plan.bases[number + 1] if number + 1 < len(plan.bases) else -1
            path = plan.segment_path(base_offset)
            hole = hole_before(path, base_offset, expected, self._rules)
            if hole is not None:
                plan.damages.append(replace(hole, epoch=self._epoch))
            expected = self._walk(path, base_offset, follower)
        plan.log_end_offset = expected if plan.bases else plan.log_start_offset

    def _walk(self, path: str, base_offset: int, follower_offset: int) -> int:
        plan = self._plan
        file = self._files.open(path)
        try:
            plan.sizes.append(file.size())
            recovery_point = plan.folder.recovery_points.get(plan.key, 0)
            survey = Survey(
                self._files, file, base_offset, follower_offset, self._rules, recovery_point=recovery_point
            )
            for found in told_of(survey.found(), file, self._progress):
                if isinstance(found, Damage):
                    self._note(found, is_last=follower_offset < 0)
                    continue
                header = found[1]
                self._epoch = header.partition_leader_epoch
                plan.batch_count += 1
                plan.record_count += header.record_count
                if plan.damages:
                    plan.batches_behind += 1
                    plan.records_behind += header.record_count
            return survey.next_offset
        finally:
            file.close()

    def _note(self, damage: Damage, *, is_last: bool) -> None:
        if damage.epoch == NO_EPOCH:
            damage = replace(damage, epoch=self._epoch)
        if is_last and damage.next_offset == NOTHING_FOLLOWS:
            self._plan.torn_tail = damage
        else:
            self._plan.damages.append(damage)


def _judge_end(plan: RepairPlan) -> None:
    """Take an end below the recovery point for damage: up to there the log was durable once."""
    recovery_point = plan.folder.recovery_points.get(plan.key, 0)
    end_offset = plan.log_end_offset
    if end_offset >= recovery_point:
        return
    high_watermark = plan.folder.high_watermarks.get(plan.key, 0)
    plan.log_end_offset = max(recovery_point, high_watermark)
    reason = f"the log ends at offset {end_offset}, below its recovery point {recovery_point}"
    if plan.torn_tail is not None:
        torn, plan.torn_tail = plan.torn_tail, None
        plan.damages.append(replace(torn, next_offset=plan.log_end_offset, reason=f"{torn.reason}; {reason}"))
        return
    path, size = plan.segment_path(end_offset), 0
    if plan.bases:
        path, size = plan.segment_path(plan.bases[-1]), plan.sizes[-1]
    plan.damages.append(Damage(path, size, size, end_offset, plan.log_end_offset, reason))


def restore(files: FileSystem, plan: RepairPlan, damage: Damage) -> bytes | None:
    """The batch that a stretch of damage was, if all that counts of it is whole. Raises StorageError."""
    if not 0 < damage.size_bytes <= RESTORED_SIZE_BYTES_MAX:
        return None
    if damage.offset < gaps_allowed_below(files, plan.directory):
        return None  # where offsets are missing nothing around a batch tells its own
    file = files.open(damage.path)
    try:
        raw = file.pread(damage.size_bytes, damage.position)
    finally:
        file.close()
    epoch = max(damage.epoch, 0) if plan.epochs is None else plan.epochs.epoch_at(damage.offset)
    return restored(raw, damage.offset, damage.next_offset, epoch)


def ways(plan: RepairPlan) -> Iterator[tuple[Way, Loss | str]]:
    """Each way with what it costs, or why it can't be gone."""
    for way in Way:
        reason = plan.why_not(way)
        yield way, reason or plan.loss(way)


__all__ = ["Loss", "RepairPlan", "Way", "plan_repair", "restore", "ways"]
