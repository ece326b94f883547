"""The folder that holds all partitions of one broker, and what is written down about them as a whole.

Owns the lock, `meta.properties`, the marker of a clean shutdown, the four checkpoint files, and the names of the partitions'
directories. Knows nothing of what is inside a log.

    meta.properties                    whose folder this is, and in which format
    .lock                              held while a broker runs
    .kafka_cleanshutdown               there while no broker has run since a clean stop
    recovery-point-offset-checkpoint   below it each log was durable
    log-start-offset-checkpoint        what DeleteRecords and retention have cut off
    replication-offset-checkpoint      high watermarks
    cleaner-offset-checkpoint          up to where each log is compacted
    orders-0/                          a partition
    orders-0.<topic id>-delete/        a deleted one on its way out
    orders-0.<topic id>-stray/         one that the metadata store does not know; never removed by the broker
    orders-0.<topic id>-damaged/       one that was damaged, and was fetched anew from another broker; never removed by the broker

Invariants:
    - The marker is gone, durably, before any log is opened, and comes back only after all of them were closed without an error.
    - An offset in a checkpoint is never that of an earlier partition of the same name: it is taken out, durably, before the new one exists.
    - Checkpoints are written by one worker at a time: they share a temporary file, and what one takes out the other must not put back.
    - Writing a checkpoint keeps the entries of partitions that could not be opened: without its recovery point damage looks like a torn tail.

Source: Kafka's `LogManager`, `MetaProperties`, `CleanShutdownFileHandler`.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from threading import Lock

from penstock.runtime.clock import Random
from penstock.runtime.files import FileLock, FileSystem, StorageError, read_file, replace_file
from penstock.storage.checkpoint import (
    TopicPartition,
    read_offset_checkpoint,
    read_partition_metadata,
    uuid_text,
    write_offset_checkpoint,
)
from penstock.storage.errors import CorruptFile, DataDirectoryInUse, TopicIdMismatch, UnsupportedFormat
from penstock.storage.layout import (
    CLEAN_SHUTDOWN,
    CLEANER_CHECKPOINT,
    DAMAGED_DIRECTORY_SUFFIX,
    DELETED_DIRECTORY_SUFFIX,
    FORMAT_VERSION,
    HIGH_WATERMARK_CHECKPOINT,
    LOCK,
    LOG_START_CHECKPOINT,
    LOG_SUFFIX,
    META_PROPERTIES,
    METADATA_DATABASE,
    OFFSET_MAX,
    PARTITION_METADATA,
    RECOVERY_POINT_CHECKPOINT,
    REPAIRED_DIRECTORY,
    STRAY_DIRECTORY_SUFFIX,
    TEMPORARY_SUFFIX,
    parent_directory,
    parse_partition_directory_name,
    parse_segment_file_name,
    partition_directory_name,
    put_aside_directory_name,
)
from penstock.storage.log import Log, create_log, open_log
from penstock.storage.log_config import LogConfig
from penstock.storage.segment_files import SegmentFiles

CHECKPOINTS = (
    RECOVERY_POINT_CHECKPOINT,
    LOG_START_CHECKPOINT,
    HIGH_WATERMARK_CHECKPOINT,
    CLEANER_CHECKPOINT,
)
"""The files of offsets by partition."""

_CLEAN_SHUTDOWN_CONTENT = b'{"version":0,"brokerEpoch":-1}'
_KAFKA_VERSION = "1"
_FORMAT_KEY = "penstock.format"


class DataDirectory:
    """See the module. Made by `open`; every method but the properties is for workers."""

    def __init__(self, files: FileSystem, path: str, lock: FileLock, properties: dict[str, str]) -> None:
        self.path = path
        self.pool = SegmentFiles(files)
        """The open files of all logs here."""
        self.was_clean = False
        """The broker before this one closed all logs, so opening verifies nothing."""
        self.recovery_points: dict[TopicPartition, int] = {}
        self.log_starts: dict[TopicPartition, int] = {}
        self.high_watermarks: dict[TopicPartition, int] = {}
        self.cleaner_offsets: dict[TopicPartition, int] = {}
        """The first offset of each log that compaction has not been over."""
        self.deleted_paths: list[str] = []
        """Directories of partitions that were deleted before this start, to be removed with `remove`; it may take long."""
        self.notes: list[str] = []
        """What was found wrong and got over, for the broker's log."""
        self._files = files
        self._lock = lock
        self._properties = properties
        self._checkpoints_lock = Lock()

    @classmethod
    def open(
        cls, files: FileSystem, path: str, node_id: int, random: Random | None = None
    ) -> "DataDirectory":
        """Lock the folder, made if it is missing, and read what stands in it besides the logs.

        `random` gives a new folder its directory id; without it the id stays empty.

        Raises:
            DataDirectoryInUse: another process holds the lock.
            UnsupportedFormat: written by a newer Penstock, for another node, by Apache Kafka, or a folder of other files.
            CorruptFile, StorageError
        """
        path = path.rstrip("/") or "/"
        _make_durably(files, path)
        _refuse_foreign(files, path)
        lock = lock_directory(files, path)
        try:
            directory = cls(files, path, lock, _properties_of(files, path, node_id))
            directory._start(node_id, random)
        except BaseException:
            lock.release()
            raise
        return directory

    def _start(self, node_id: int, random: Random | None) -> None:
        marker = f"{self.path}/{CLEAN_SHUTDOWN}"
        names = self._files.list_directory(self.path)
        self.was_clean = CLEAN_SHUTDOWN in names
        self.log_starts = read_offset_checkpoint(self._files, f"{self.path}/{LOG_START_CHECKPOINT}")
        self.recovery_points = self._read_expendable(RECOVERY_POINT_CHECKPOINT)
        self.high_watermarks = self._read_expendable(HIGH_WATERMARK_CHECKPOINT)
        was_clean = self.was_clean
        self.cleaner_offsets = self._read_expendable(CLEANER_CHECKPOINT)
        self.was_clean = was_clean  # without that one, compaction begins anew
        if not self._properties:
            self._write_properties(node_id, "", uuid_text(random.randbytes(16)) if random else "")
        self._files.unlink(marker)
        # Not only for the marker: what a killed process renamed here is seen, but a power cut could still undo it.
        self._files.sync_directory(self.path)
        sync_repaired(self._files, self.path)
        for name in names:
            if name.endswith(DELETED_DIRECTORY_SUFFIX):
                self.deleted_paths.append(f"{self.path}/{name}")
            elif name.endswith(TEMPORARY_SUFFIX):
                self._files.unlink(f"{self.path}/{name}")

    def _read_expendable(self, name: str) -> dict[TopicPartition, int]:
        """A checkpoint without which opening only takes longer."""
        try:
            return read_offset_checkpoint(self._files, f"{self.path}/{name}")
        except CorruptFile as error:
            self.notes.append(str(error))
            self.was_clean = False
            return {}

    # Whose folder it is

    @property
    def directory_id(self) -> str:
        """The UUID of this folder, as Kafka writes one (22 characters); empty if it was made without a source of randomness."""
        return self._properties.get("directory.id", "")

    @property
    def cluster_id(self) -> str:
        """The cluster that the folder belongs to; empty before `join_cluster`."""
        return self._properties.get("cluster.id", "")

    def join_cluster(self, cluster_id: str) -> None:
        """Write down the cluster on the first start, compare it on every later one. Raises UnsupportedFormat, StorageError."""
        if self.cluster_id == cluster_id:
            return
        if self.cluster_id:
            raise UnsupportedFormat(
                f"belongs to the cluster {self.cluster_id}, not to {cluster_id}", path=self.path
            )
        self._write_properties(int(self._properties["node.id"]), cluster_id, self.directory_id)

    def _write_properties(self, node_id: int, cluster_id: str, directory_id: str) -> None:
        properties = {
            "version": _KAFKA_VERSION,
            "node.id": str(node_id),
            "cluster.id": cluster_id,
            "directory.id": directory_id,
            _FORMAT_KEY: str(FORMAT_VERSION),
        }
        text = "".join(f"{key}={value}\n" for key, value in properties.items())
        replace_file(self._files, f"{self.path}/{META_PROPERTIES}", text.encode())
        self._properties = properties

    # Partitions

    def partition_path(self, topic: str, partition: int) -> str:
        """Where that partition's log is or would be."""
        return f"{self.path}/{partition_directory_name(topic, partition)}"

    def partitions(self) -> Iterator[TopicPartition]:
        """Every partition that has a directory here, deleted and stray ones left out."""
        for name in self._files.list_directory(self.path):
            parsed = parse_partition_directory_name(name)
            if parsed is not None:
                yield parsed

    def open_log(self, topic: str, partition: int, topic_id: bytes, config: LogConfig, now_ms: int) -> Log:
        """The log of a partition: opened, or made where there is none.

        A directory of another topic id, one that was deleted while this broker was away, is put aside as a stray first.

        Raises CorruptBatch, CorruptFile, StorageError.
        """
        path = self.partition_path(topic, partition)
        if self._holds_a_log(path):
            try:
                return open_log(
                    self._files,
                    path,
                    config=config,
                    topic_id=topic_id,
                    recovery_point=self.recovery_points.get((topic, partition), 0),
                    log_start_offset=self.log_starts.get((topic, partition), 0),
                    clean=self.was_clean,
                    now_ms=now_ms,
                    pool=self.pool,
                )
            except TopicIdMismatch:
                stray = self._put_aside(topic, partition, STRAY_DIRECTORY_SUFFIX)
                self.notes.append(f"{path} was of another topic of that name; it is {stray} now")
        with self._checkpoints_lock:
            self._forget_offsets((topic, partition))
        return create_log(self._files, path, topic_id, config, pool=self.pool)

    def _holds_a_log(self, path: str) -> bool:
        """Whether a partition's directory is more than the beginning of a creation that was cut short."""
        if self._files.exists(f"{path}/{PARTITION_METADATA}"):
            return True
        if not self._files.exists(path):
            return False
        parsed = (parse_segment_file_name(name) for name in self._files.list_directory(path))
        return any(found is not None and found[1] == LOG_SUFFIX for found in parsed)

    def remove(self, path: str) -> None:
        """Remove the directory of a deleted partition and all that is in it. Raises StorageError."""
        self._files.remove_tree(path)

    def sync_names(self) -> None:
        """Make renames of partitions' directories durable. Raises StorageError."""
        self._files.sync_directory(self.path)

    def put_damaged_aside(self, topic: str, partition: int) -> str:
        """Rename the directory of a damaged partition, durably, so that a new log can take its name; returns its new path. Raises StorageError."""
        return self._put_aside(topic, partition, DAMAGED_DIRECTORY_SUFFIX)

    def set_moved_aside(self, moved: Mapping[TopicPartition, bytes]) -> list[str]:
        """Rename, for removal, the directories of partitions in `moved` that are of the topic id given there; returns their new paths. Raises StorageError."""
        return [
            self._put_aside(topic, partition, DELETED_DIRECTORY_SUFFIX)
            for topic, partition in list(self.partitions())
            if (topic, partition) in moved and self._topic_id_of(topic, partition) == moved[topic, partition]
        ]

    def _topic_id_of(self, topic: str, partition: int) -> bytes | None:
        """None where the directory does not say."""
        path = f"{self.partition_path(topic, partition)}/{PARTITION_METADATA}"
        try:
            return read_partition_metadata(self._files, path)
        except CorruptFile:
            return None

    def set_strays_aside(self, known: AbstractSet[TopicPartition]) -> list[str]:
        """Rename the directories of all partitions that are not in `known`; returns their new paths. Raises StorageError."""
        return [
            self._put_aside(topic, partition, STRAY_DIRECTORY_SUFFIX)
            for topic, partition in list(self.partitions())
            if (topic, partition) not in known
        ]

    def _put_aside(self, topic: str, partition: int, suffix: str) -> str:
        path = self.partition_path(topic, partition)
        topic_id = read_partition_metadata(self._files, f"{path}/{PARTITION_METADATA}")
        unique = topic_id.hex() if topic_id else "unknown"
        number = 0
        while True:
            target = f"{self.path}/{put_aside_directory_name(topic, partition, unique, suffix)}"
            if not self._files.exists(target):
                break
            number += 1
            unique = f"{unique.partition('_')[0]}_{number}"
        self._files.rename(path, target)
        self._files.sync_directory(self.path)
        return target

    # Checkpoints

    def write_recovery_points(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Durable on return. The offsets are `durable_end_offset`s; those of partitions not named stay. Raises StorageError."""
        with self._checkpoints_lock:
            self.recovery_points = self._write(RECOVERY_POINT_CHECKPOINT, self.recovery_points, offsets)

    def write_log_starts(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Durable on return; to be done before `Log.delete_old_segments`. Raises StorageError."""
        with self._checkpoints_lock:
            self.log_starts = self._write(LOG_START_CHECKPOINT, self.log_starts, offsets)

    def write_high_watermarks(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Durable on return. Raises StorageError."""
        with self._checkpoints_lock:
            self.high_watermarks = self._write(HIGH_WATERMARK_CHECKPOINT, self.high_watermarks, offsets)

    def write_cleaner_offsets(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Durable on return. Raises StorageError."""
        with self._checkpoints_lock:
            self.cleaner_offsets = self._write(CLEANER_CHECKPOINT, self.cleaner_offsets, offsets)

    def lower_offsets(
        self, topic: str, partition: int, offset: int, log_start_offset: int = OFFSET_MAX
    ) -> None:
        """See that no checkpoint names an offset of this partition above `offset`, the lowest at which its log may end while it is being cut.

        That of log starts names none above `log_start_offset`: what was deleted stays so. Durable on return. Raises StorageError.
        """
        key = (topic, partition)
        with self._checkpoints_lock:
            for name, offsets in self._checkpoints():
                highest = log_start_offset if name == LOG_START_CHECKPOINT else offset
                if offsets.get(key, 0) > highest:
                    lowered = {**offsets, key: highest}
                    write_offset_checkpoint(self._files, f"{self.path}/{name}", lowered)
                    offsets[key] = highest

    def _checkpoints(self) -> tuple[tuple[str, dict[TopicPartition, int]], ...]:
        return (
            (RECOVERY_POINT_CHECKPOINT, self.recovery_points),
            (LOG_START_CHECKPOINT, self.log_starts),
            (HIGH_WATERMARK_CHECKPOINT, self.high_watermarks),
            (CLEANER_CHECKPOINT, self.cleaner_offsets),
        )

    def _write(
        self, name: str, old: Mapping[TopicPartition, int], new: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        merged = {
            key: offset
            for key, offset in old.items()
            if key not in new and self._files.exists(self.partition_path(*key))
        }
        merged.update(new)
        write_offset_checkpoint(self._files, f"{self.path}/{name}", merged)
        return merged

    def _forget_offsets(self, key: TopicPartition) -> None:
        for name, offsets in self._checkpoints():
            if key in offsets:
                kept = {other: offset for other, offset in offsets.items() if other != key}
                write_offset_checkpoint(self._files, f"{self.path}/{name}", kept)
                del offsets[key]

    # The end

    def mark_clean(self) -> None:
        """Say that every log was closed without an error. Durable on return. Raises StorageError."""
        replace_file(self._files, f"{self.path}/{CLEAN_SHUTDOWN}", _CLEAN_SHUTDOWN_CONTENT)

    def close(self) -> None:
        """Give the lock back; twice is allowed."""
        self._lock.release()


def lock_directory(files: FileSystem, path: str) -> FileLock:
    """The lock of a data directory, for who changes something in it. Raises DataDirectoryInUse, StorageError."""
    lock = files.lock(f"{path}/{LOCK}")
    if lock is None:
        raise DataDirectoryInUse("another process works in this data directory", path=path)
    return lock


def sync_repaired(files: FileSystem, path: str) -> None:
    """Make durable what a killed repair had moved out of partitions: once their directories are synced, it would else have no name."""
    parent = f"{path}/{REPAIRED_DIRECTORY}"
    if not files.exists(parent):
        return
    files.sync_directory(path)
    files.sync_directory(parent)
    for name in files.list_directory(parent):
        try:
            files.list_directory(f"{parent}/{name}")
        except StorageError:
            continue  # somebody's file
        files.sync_directory(f"{parent}/{name}")


def _make_durably(files: FileSystem, path: str) -> None:
    """Make the folder and its parents where they are missing, each durable before the next one is made.

    The lowest one that is there may be of a start that was killed before it had synced it. Once meta.properties is in it, it was synced.
    """
    missing: list[str] = []
    present = path
    while not files.exists(present):
        missing.append(present)
        present = parent_directory(present)
    if not files.exists(f"{path}/{META_PROPERTIES}"):
        _sync_name(files, present)
    for made in reversed(missing):
        files.make_directories(made)
        files.sync_directory(parent_directory(made))


def _sync_name(files: FileSystem, path: str) -> None:
    """Make the name of a directory durable. One whose parent we may not even list was not made by us."""
    parent = parent_directory(path)
    try:
        files.list_directory(parent)
    except StorageError:
        return
    files.sync_directory(parent)


def read_properties(files: FileSystem, path: str) -> dict[str, str]:
    """The content of the folder's meta.properties, empty where there is none. Raises UnsupportedFormat, CorruptFile, StorageError."""
    file_path = f"{path}/{META_PROPERTIES}"
    try:
        text = read_file(files, file_path).decode(errors="replace")
    except FileNotFoundError:
        return {}
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    properties = dict(line.split("=", 1) for line in lines if "=" in line)
    found = properties.get(_FORMAT_KEY)
    if found is None and "version" in properties and ("node.id" in properties or "broker.id" in properties):
        raise UnsupportedFormat(
            "a data directory of Apache Kafka, whose topics stand in its own metadata; give Penstock a folder of its own",
            path=file_path,
        )
    if found is None or not found.isdecimal() or properties.get("node.id") is None:
        raise CorruptFile("not the meta.properties of a Penstock data directory", path=file_path)
    if int(found) > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"format {found}, and this Penstock knows formats up to {FORMAT_VERSION}", path=file_path
        )
    return properties


def _properties_of(files: FileSystem, path: str, node_id: int) -> dict[str, str]:
    """The same for the broker that wants to work here. Raises UnsupportedFormat also for another node's folder."""
    properties = read_properties(files, path)
    if properties and properties["node.id"] != str(node_id):
        raise UnsupportedFormat(
            f"belongs to node {properties['node.id']}, not to {node_id}", path=f"{path}/{META_PROPERTIES}"
        )
    return properties


def _refuse_foreign(files: FileSystem, path: str) -> None:
    """Raise UnsupportedFormat for a folder without meta.properties that holds what is not a broker's.

    Whoever names the wrong folder would else find a broker's files among their own.
    """
    names = files.list_directory(path)
    if META_PROPERTIES in names:
        return
    foreign = [name for name in names if not _may_be_ours(name)]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UnsupportedFormat(
            f"no data directory of Penstock, and not empty (it has {foreign[0]}{more}); give an empty or a new folder",
            path=path,
        )


def _may_be_ours(name: str) -> bool:
    """Whether a broker, or the system (`lost+found`, hidden files), may have made a file of this name in a data directory."""
    return (
        name.startswith((".", METADATA_DATABASE))
        or name in ("lost+found", REPAIRED_DIRECTORY, *CHECKPOINTS)
        or name.endswith(
            (TEMPORARY_SUFFIX, DELETED_DIRECTORY_SUFFIX, STRAY_DIRECTORY_SUFFIX, DAMAGED_DIRECTORY_SUFFIX)
        )
        or parse_partition_directory_name(name) is not None
    )
