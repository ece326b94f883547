"""A data directory as one who only looks finds it: whose it is, whether a broker works in it, and what its checkpoints say of the logs.

Owns what of a folder is told beside the verdicts on its partitions. Changes nothing. The checkpoints are read before the logs: under a
running broker what they say is then older than what is found, never newer.
"""

from dataclasses import dataclass, field

from penstock.runtime.files import FileSystem, StorageError
from penstock.storage.checkpoint import TopicPartition, read_offset_checkpoint
from penstock.storage.data_directory import read_properties
from penstock.storage.dump import Fault, list_segments
from penstock.storage.errors import CorruptFile
from penstock.storage.layout import (
    CLEAN_SHUTDOWN,
    CLEANER_CHECKPOINT,
    DAMAGED_DIRECTORY_SUFFIX,
    DELETED_DIRECTORY_SUFFIX,
    HIGH_WATERMARK_CHECKPOINT,
    LOCK,
    LOG_START_CHECKPOINT,
    LOG_SUFFIX,
    META_PROPERTIES,
    RECOVERY_POINT_CHECKPOINT,
    REPAIRED_DIRECTORY,
    STRAY_DIRECTORY_SUFFIX,
    parse_partition_directory_name,
    partition_directory_name,
    segment_file_name,
)
from penstock.storage.survey import Progress
from penstock.storage.verify import PartitionVerdict, verify_partition


@dataclass(slots=True)
class DataFolder:
    """What `look_into` found."""

    path: str
    partitions: list[TopicPartition] = field(default_factory=list[TopicPartition])
    is_in_use: bool = False
    recovery_points: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    log_starts: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    high_watermarks: dict[TopicPartition, int] = field(default_factory=dict[TopicPartition, int])
    faults: list[Fault] = field(default_factory=list[Fault])
    """What is wrong with the folder's own files."""
    notes: list[str] = field(default_factory=list[str])
    """What is worth knowing and nothing wrong."""

    def directory(self, key: TopicPartition) -> str:
        """Where that partition's log is."""
        return f"{self.path}/{partition_directory_name(*key)}"


def look_into(files: FileSystem, path: str) -> DataFolder:
    """Read what stands in a data directory besides the logs.

    Raises UnsupportedFormat for one that this version can't judge, FileNotFoundError, StorageError.
    """
    names = files.list_directory(path)
    folder = DataFolder(path)
    parsed = (parse_partition_directory_name(name) for name in names)
    folder.partitions = sorted(key for key in parsed if key is not None)
    folder.is_in_use = LOCK in names and _is_locked(files, f"{path}/{LOCK}")
    try:
        is_known = bool(read_properties(files, path))
    except CorruptFile as error:
        folder.faults.append(Fault(f"{path}/{META_PROPERTIES}", 0, error.reason))
        is_known = True
    folder.recovery_points = _read(files, folder, RECOVERY_POINT_CHECKPOINT)
    folder.log_starts = _read(files, folder, LOG_START_CHECKPOINT)
    folder.high_watermarks = _read(files, folder, HIGH_WATERMARK_CHECKPOINT)
    _read(files, folder, CLEANER_CHECKPOINT)
    folder.notes = _notes(names, is_known=is_known, is_in_use=folder.is_in_use)
    if REPAIRED_DIRECTORY in names:
        count = len(files.list_directory(f"{path}/{REPAIRED_DIRECTORY}"))
        repairs = "1 repair" if count == 1 else f"{count} repairs"
        folder.notes.append(f"{REPAIRED_DIRECTORY}/ keeps what {repairs} took out; a broker never reads it")
    return folder


def _is_locked(files: FileSystem, path: str) -> bool:
    """Whether a process holds the lock; this one has it for a moment to find out. False where it may not even try."""
    try:
        lock = files.lock(path)
    except StorageError:
        return False
    if lock is None:
        return True
    lock.release()
    return False


def _read(files: FileSystem, folder: DataFolder, name: str) -> dict[TopicPartition, int]:
    path = f"{folder.path}/{name}"
    try:
        return read_offset_checkpoint(files, path)
    except CorruptFile as error:
        folder.faults.append(Fault(path, 0, error.reason))
        return {}


def _notes(names: list[str], *, is_known: bool, is_in_use: bool) -> list[str]:
    notes: list[str] = []
    if is_in_use:
        notes.append(
            "a broker works in this folder: what it is writing may look unfinished, and is not held against it"
        )
    elif is_known and CLEAN_SHUTDOWN not in names:
        notes.append("not closed cleanly: the next start verifies every log from its recovery point on")
    if not is_known:
        notes.append(f"no {META_PROPERTIES}: no broker has used this folder")
    for name in names:
        if name.endswith(DELETED_DIRECTORY_SUFFIX):
            notes.append(f"{name}/ is a deleted partition; the next start removes it")
        elif name.endswith(STRAY_DIRECTORY_SUFFIX):
            notes.append(
                f"{name}/ is of a topic that the metadata store does not know; no broker reads or removes it"
            )
        elif name.endswith(DAMAGED_DIRECTORY_SUFFIX):
            notes.append(
                f"{name}/ was damaged and has been fetched anew from another broker; no broker reads or removes it"
            )
    return notes


def verify_in_folder(
    files: FileSystem,
    folder: DataFolder,
    key: TopicPartition,
    *,
    compacted: bool = False,
    progress: Progress | None = None,
) -> PartitionVerdict:
    """Read everything in a partition's directory, and compare it with the folder's checkpoints.

    `compacted`: take it for compacted everywhere, whatever its `compaction-checkpoint` says. Raises like `verify_partition`.
    """
    verdict = verify_partition(
        files,
        folder.directory(key),
        compacted=compacted,
        is_in_use=folder.is_in_use,
        recovery_point=folder.recovery_points.get(key, 0),
        progress=progress,
    )
    bases = list_segments(files, verdict.directory)
    if bases and not folder.is_in_use:
        last_path = f"{verdict.directory}/{segment_file_name(bases[-1], LOG_SUFFIX)}"
        first_path = f"{verdict.directory}/{segment_file_name(bases[0], LOG_SUFFIX)}"
        end_offset = verdict.log_end_offset
        recovery_point = folder.recovery_points.get(key, 0)
        log_start = folder.log_starts.get(key)
        if end_offset < recovery_point:
            verdict.faults.append(
                Fault(
                    last_path,
                    _size(files, last_path) - verdict.torn_tail_bytes,
                    f"the log ends at offset {end_offset}, below its recovery point {recovery_point}",
                )
            )
        if log_start is not None and log_start > end_offset:
            verdict.faults.append(
                Fault(last_path, 0, f"the log ends at offset {end_offset}, below its start {log_start}")
            )
        if log_start is not None and log_start < bases[0]:
            # Retention on a full disk deletes before it can write the new start, so this alone is no damage.
            reason = f"begins at {bases[0]}, and the log at {log_start}: deleted by retention, or missing"
            verdict.index_faults.append(Fault(first_path, 0, reason))
    return verdict


def _size(files: FileSystem, path: str) -> int:
    file = files.open(path)
    try:
        return file.size()
    finally:
        file.close()


def log_bytes(files: FileSystem, directory: str) -> int:
    """The size of all segments of a partition now, for a progress bar."""
    total = 0
    for base_offset in list_segments(files, directory):
        try:
            total += _size(files, f"{directory}/{segment_file_name(base_offset, LOG_SUFFIX)}")
        except FileNotFoundError:
            continue
    return total


__all__ = ["DataFolder", "log_bytes", "look_into", "verify_in_folder"]
