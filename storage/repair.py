"""Carrying out a repair, so that a crash at any moment leaves a log that is either still refused or already sound, and loses no byte.

Owns the order of what is done. Decides nothing: `repair_plan` says what is damaged and what a way costs. The caller holds the lock of the data
directory.

    1. What goes in pieces is copied to `<data>/repaired/<topic>-<partition>-<time>/`, and `report.json` there says what, where and why. Durable.
    2. The marker of a clean stop goes; for a cut, the checkpoints are lowered. Durable.
    3. The log is changed. Whole files that go are renamed into the same folder.
    4. The report says "done".

Invariants:
    - No byte of a log is cut or replaced before a copy of it is durable. Derived files (indexes) count as bytes, too.
    - A cut takes segments from the newest on, a quarantine from the oldest on, after the new, empty segment is there; so what a crash leaves is a log
      with less at one end, and the same command again ends the work.
    - A segment that is mended is replaced by a rename, whole; its indexes went before.
    - The log start offset is raised (by a quarantine) only after the segments below it have been moved: a broker deletes what lies below.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field

from penstock.protocol.checksum import crc32c
from penstock.runtime.files import File, FileSystem, replace_file, write_all
from penstock.storage.checkpoint import read_offset_checkpoint, write_offset_checkpoint
from penstock.storage.data_directory import sync_repaired
from penstock.storage.dump import list_segments
from penstock.storage.errors import CorruptFile
from penstock.storage.layout import (
    CLEAN_SHUTDOWN,
    CLEANED_SUFFIX,
    CLEANER_CHECKPOINT,
    HIGH_WATERMARK_CHECKPOINT,
    INDEX_SUFFIX,
    LOG_START_CHECKPOINT,
    RECOVERY_POINT_CHECKPOINT,
    REPAIRED_DIRECTORY,
    SEGMENT_SUFFIXES,
    SNAPSHOT_SUFFIX,
    SWAP_SUFFIX,
    TEMPORARY_SUFFIX,
    TIME_INDEX_SUFFIX,
    parse_segment_file_name,
    partition_directory_name,
    segment_file_name,
)
from penstock.storage.placeholder import placeholders
from penstock.storage.repair_plan import RepairPlan, Way, restore
from penstock.storage.survey import Damage

REPORT = "report.json"
COPY_CHUNK_BYTES = 1 << 20
_INDEX_SUFFIXES = (INDEX_SUFFIX, TIME_INDEX_SUFFIX)


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file in the folder of a repair. `position` is where its bytes were in the file that they came from."""

    name: str
    source: str
    position: int
    size_bytes: int
    crc32c: str


@dataclass(slots=True)
class _Work:
    """What is to be done, worked out before anything is."""

    copies: list[Damage] = field(default_factory=list[Damage])
    """Stretches that are copied; a cut's reaches to the end of its file."""
    moves: list[list[str]] = field(default_factory=list[list[str]])
    """Names of whole files, in the groups that are made durable one after the other."""
    new_end_offset: int = 0
    """Of a cut: what the checkpoints are lowered to. Of a quarantine: where the log goes on."""


class Repair:
    """One repair of one partition."""

    def __init__(self, files: FileSystem, plan: RepairPlan, way: Way, *, now_ms: int, time_name: str) -> None:
        """`time_name`: the present moment as it may stand in a folder's name."""
        assert not plan.why_not(way), plan.why_not(way)
        self._files = files
        self._plan = plan
        self._way = way
        self._now_ms = now_ms
        self._names = files.list_directory(plan.directory)
        self.kept_directory = self._free_name(time_name)
        """Where everything goes that is taken out."""

    def _free_name(self, time_name: str) -> str:
        parent = f"{self._plan.folder.path}/{REPAIRED_DIRECTORY}"
        name = f"{partition_directory_name(*self._plan.key)}-{time_name}"
        path, number = f"{parent}/{name}", 1
        while self._files.exists(path):
            number += 1
            path = f"{parent}/{name}-{number}"
        return path

    def carry_out(self, *, version: str) -> None:
        """Do it; durable on return. `version` is for the report. Raises StorageError: then the same can be tried again."""
        sync_repaired(self._files, self._plan.folder.path)
        work = {Way.CUT: self._cut, Way.SKIP: self._skip, Way.QUARANTINE: self._quarantine}[self._way]()
        work.moves.append([fault.path.rpartition("/")[2] for fault in self._plan.damaged_files])
        report = self._keep(work, version)
        self._lower_checkpoints(work)
        match self._way:
            case Way.CUT:
                self._move_all(work)
                self._shorten(work)
            case Way.SKIP:
                self._move_all(work)
                self._mend()
            case Way.QUARANTINE:
                self._shorten(work)
                self._begin_segment(work.new_end_offset)
                self._move_all(work)
                self._raise_log_start(work.new_end_offset)
        self._write_report({**report, "state": "done"})

    # What is to be done

    def _cut(self) -> _Work:
        plan, work = self._plan, _Work()
        if not plan.damages:
            return work
        first = plan.damages[0]
        work.new_end_offset = first.offset
        bases = [base for base in plan.bases if plan.segment_path(base) >= first.path]
        if first.position > 0 or (bases and bases[0] == plan.bases[0] == first.offset):
            # this segment stays, shorter
            size = plan.sizes[plan.bases.index(bases[0])]
            stays = bases.pop(0)
            work.copies.append(
                Damage(first.path, first.position, size, first.offset, first.offset, first.reason)
            )
            work.moves.append(self._of_segment(stays, SEGMENT_SUFFIXES[1:]))
        work.moves += [self._of_segment(base, SEGMENT_SUFFIXES) for base in reversed(bases)]
        work.moves.append(self._snapshots(above=first.offset))
        return work

    def _skip(self) -> _Work:
        work = _Work()
        for damage in [*self._plan.damages, *filter(None, [self._plan.torn_tail])]:
            if damage.size_bytes:
                work.copies.append(damage)
        for base in self._plan.bases:
            if self._damages_in(base):
                work.moves.append(self._of_segment(base, _INDEX_SUFFIXES))
        return work

    def _quarantine(self) -> _Work:
        plan, work = self._plan, _Work()
        end = work.new_end_offset = plan.log_end_offset
        for base, size in zip(plan.bases, plan.sizes, strict=True):
            if (
                base == end and size
            ):  # nothing but torn bytes: it is emptied, not moved, for the log goes on in it
                path = plan.segment_path(base)
                work.copies.append(Damage(path, 0, size, end, end, "no whole batch"))
                work.moves.append(self._of_segment(base, SEGMENT_SUFFIXES[1:]))
            elif base != end:
                work.moves.append(self._of_segment(base, SEGMENT_SUFFIXES))
        work.moves.append([name for name in self._snapshots(above=-1) if not name.startswith(f"{end:020d}")])
        work.moves.append([name for name in self._names if name.endswith((SWAP_SUFFIX, CLEANED_SUFFIX))])
        return work

    def _of_segment(self, base_offset: int, suffixes: "tuple[str, ...]") -> list[str]:
        names = (segment_file_name(base_offset, suffix) for suffix in suffixes)
        return [name for name in names if name in self._names]

    def _snapshots(self, *, above: int) -> list[str]:
        parsed = ((name, parse_segment_file_name(name)) for name in self._names)
        return [name for name, found in parsed if found and found[1] == SNAPSHOT_SUFFIX and found[0] > above]

    def _damages_in(self, base_offset: int) -> list[Damage]:
        """What is to be replaced in a segment's file, holes before it left out."""
        plan = self._plan
        path = plan.segment_path(base_offset)
        found = [damage for damage in plan.damages if damage.path == path and damage.end_position]
        if found and plan.torn_tail is not None and plan.torn_tail.path == path:
            found.append(plan.torn_tail)
        return found

    # 1. Keeping what goes

    def _keep(self, work: _Work, version: str) -> dict[str, object]:
        """Copy what goes in pieces, and write the report; durable on return."""
        files, plan = self._files, self._plan
        parent = f"{plan.folder.path}/{REPAIRED_DIRECTORY}"
        files.make_directories(self.kept_directory)
        files.sync_directory(plan.folder.path)
        files.sync_directory(parent)
        kept: list[KeptFile] = []
        for piece in work.copies:
            if piece.size_bytes:
                kept.append(self._copy_piece(piece))
        for name in (name for group in work.moves for name in group):
            path = f"{plan.directory}/{name}"
            size, crc = self._sum_up(path)
            kept.append(KeptFile(name, path, 0, size, f"{crc:08x}"))
        files.sync_directory(self.kept_directory)
        report = self._report(kept, version)
        self._write_report(report)
        return report

    def _copy_piece(self, piece: Damage) -> KeptFile:
        name = f"{piece.path.rpartition('/')[2]}.{piece.position}-{piece.end_position}"
        source = self._files.open(piece.path)
        try:
            target = self._files.open(f"{self.kept_directory}/{name}", write=True, create=True)
            try:
                crc = 0
                for position, chunk in _chunks(source, piece.position, piece.end_position):
                    write_all(target, chunk, position - piece.position)
                    crc = crc32c(chunk, crc)
                target.datasync()
            finally:
                target.close()
        finally:
            source.close()
        return KeptFile(name, piece.path, piece.position, piece.size_bytes, f"{crc:08x}")

    def _sum_up(self, path: str) -> tuple[int, int]:
        file = self._files.open(path)
        try:
            crc = 0
            size = file.size()
            for _, chunk in _chunks(file, 0, size):
                crc = crc32c(chunk, crc)
            return size, crc
        finally:
            file.close()

    def _report(self, kept: list[KeptFile], version: str) -> dict[str, object]:
        plan = self._plan
        folder, key = plan.folder, plan.key
        return {
            "state": "begun",
            "penstock": version,
            "time_ms": self._now_ms,
            "way": self._way.value,
            "topic": key[0],
            "partition": key[1],
            "directory": plan.directory,
            "log_start_offset": plan.log_start_offset,
            "log_end_offset": plan.log_end_offset,
            "recovery_point": folder.recovery_points.get(key),
            "high_watermark": folder.high_watermarks.get(key),
            "after": asdict(plan.loss(self._way)),
            "damages": [
                {**asdict(damage), "is_restored": self._way is Way.SKIP and damage in plan.restored}
                for damage in plan.damages
            ],
            "damaged_files": [asdict(fault) for fault in plan.damaged_files],
            "kept": [asdict(each) for each in kept],
        }

    def _write_report(self, report: Mapping[str, object]) -> None:
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        replace_file(self._files, f"{self.kept_directory}/{REPORT}", text.encode())

    # 2. Checkpoints

    def _lower_checkpoints(self, work: _Work) -> None:
        files, path = self._files, self._plan.folder.path
        if self._way is Way.CUT and self._plan.damages:
            for name in (RECOVERY_POINT_CHECKPOINT, HIGH_WATERMARK_CHECKPOINT, CLEANER_CHECKPOINT):
                try:
                    offsets = read_offset_checkpoint(files, f"{path}/{name}")
                except CorruptFile:
                    continue  # the broker takes it for empty, which is as low as it gets
                if offsets.get(self._plan.key, 0) > work.new_end_offset:
                    offsets[self._plan.key] = work.new_end_offset
                    write_offset_checkpoint(files, f"{path}/{name}", offsets)
        files.unlink(f"{path}/{CLEAN_SHUTDOWN}")
        files.sync_directory(path)

    def _raise_log_start(self, offset: int) -> None:
        path = f"{self._plan.folder.path}/{LOG_START_CHECKPOINT}"
        offsets = read_offset_checkpoint(self._files, path)
        offsets[self._plan.key] = offset
        write_offset_checkpoint(self._files, path, offsets)

    # 3. The log

    def _move_all(self, work: _Work) -> None:
        directory = self._plan.directory
        for group in work.moves:
            for name in group:
                self._files.rename(f"{directory}/{name}", f"{self.kept_directory}/{name}")
            if group:
                # In this order: a file that two folders name is no loss.
                self._files.sync_directory(self.kept_directory)
                self._files.sync_directory(directory)

    def _shorten(self, work: _Work) -> None:
        for piece in work.copies:
            file = self._files.open(piece.path, write=True)
            try:
                file.truncate(piece.position)
                file.datasync()
            finally:
                file.close()
        if self._plan.damages and not list_segments(self._files, self._plan.directory):
            self._begin_segment(work.new_end_offset)

    def _begin_segment(self, base_offset: int) -> None:
        path = self._plan.segment_path(base_offset)
        if not self._files.exists(path):
            self._files.open(path, write=True, create=True).close()
        self._files.sync_directory(self._plan.directory)

    def _mend(self) -> None:
        """Replace what is damaged, segment by segment, from the oldest on."""
        plan = self._plan
        for damage in plan.damages:
            if not damage.end_position:
                self._replace_segment(plan.segment_path(damage.offset), "", [damage], 0)
        for base, size in zip(plan.bases, plan.sizes, strict=True):
            damages = self._damages_in(base)
            if damages:
                path = plan.segment_path(base)
                self._replace_segment(path, path, damages, size)

    def _replace_segment(self, path: str, source_path: str, damages: list[Damage], size_bytes: int) -> None:
        """Put a segment at `path` that is `source_path` (nothing, if empty) with the damages replaced; durable on return."""
        temporary = path + TEMPORARY_SUFFIX
        target = self._files.open(temporary, write=True, create=True)
        try:
            target.truncate(0)
            end = 0
            position = 0
            for damage in damages:
                end = self._copy_range(source_path, position, damage.position, target, end)
                instead = self._replacement(damage)
                write_all(target, instead, end)
                end += len(instead)
                position = damage.end_position
            self._copy_range(source_path, position, size_bytes, target, end)
            target.datasync()
        finally:
            target.close()
        self._files.rename(temporary, path)
        self._files.sync_directory(self._plan.directory)

    def _replacement(self, damage: Damage) -> bytes:
        if damage is self._plan.torn_tail:
            return b""
        if damage in self._plan.restored:
            batch = restore(self._files, self._plan, damage)
            assert batch is not None, "it was restored when the plan was made, and the folder is locked"
            return batch
        return placeholders(damage.offset, damage.next_offset, self._plan.epochs, max(damage.epoch, 0))

    def _copy_range(
        self, source_path: str, position: int, end: int, target: File, target_position: int
    ) -> int:
        """Copy bytes; returns the position behind them in the target."""
        if position >= end:
            return target_position
        source = self._files.open(source_path)
        try:
            for at, chunk in _chunks(source, position, end):
                write_all(target, chunk, target_position + at - position)
        finally:
            source.close()
        return target_position + end - position


def _chunks(file: File, position: int, end_position: int) -> Iterator[tuple[int, bytes]]:
    while position < end_position:
        chunk = file.pread(min(COPY_CHUNK_BYTES, end_position - position), position)
        if not chunk:
            return
        yield position, chunk
        position += len(chunk)


__all__ = ["REPORT", "KeptFile", "Repair"]
