"""The one place that knows the names of files and the constants of their formats.

Described for people, with a worked example, in `docs/on-disk-format.md`. Knows no contents beyond fixed-size entries: the modules
that own a file encode it. All of it is Apache Kafka's own layout, so that its tools read a Penstock directory.

Source: Kafka's `LogFileUtils`, `UnifiedLog`, `OffsetIndex`, `TimeIndex`, `LogManager`.
"""

import re

LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".index"
TIME_INDEX_SUFFIX = ".timeindex"
TRANSACTION_INDEX_SUFFIX = ".txnindex"
SNAPSHOT_SUFFIX = ".snapshot"
DELETED_SUFFIX = ".deleted"
CLEANED_SUFFIX = ".cleaned"
"""Of a segment that compaction is writing; worth nothing yet."""
SWAP_SUFFIX = ".swap"
"""Of a segment that takes the place of those it was made of: they go, it stays."""
TEMPORARY_SUFFIX = ".tmp"
SAVED_SUFFIX = ".saved.tmp"
"""What is written beside the log's own work, until it is put in its place."""
DELETED_DIRECTORY_SUFFIX = "-delete"
STRAY_DIRECTORY_SUFFIX = "-stray"
DAMAGED_DIRECTORY_SUFFIX = "-damaged"

SEGMENT_SUFFIXES = (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, TRANSACTION_INDEX_SUFFIX)
"""What belongs to one segment, the log first: without it the rest is nothing."""

LEADER_EPOCH_CHECKPOINT = "leader-epoch-checkpoint"
PARTITION_METADATA = "partition.metadata"
COMPACTION_CHECKPOINT = "compaction-checkpoint"

RECOVERY_POINT_CHECKPOINT = "recovery-point-offset-checkpoint"
LOG_START_CHECKPOINT = "log-start-offset-checkpoint"
HIGH_WATERMARK_CHECKPOINT = "replication-offset-checkpoint"
CLEANER_CHECKPOINT = "cleaner-offset-checkpoint"
"""Up to where each log was compacted. Where offsets may be missing, its own `compaction-checkpoint` says."""
META_PROPERTIES = "meta.properties"
CLEAN_SHUTDOWN = ".kafka_cleanshutdown"
LOCK = ".lock"
METADATA_DATABASE = "metadata.db"
"""The embedded metadata store, unless it was put elsewhere; SQLite keeps files beside it whose names begin alike."""
REPAIRED_DIRECTORY = "repaired"
"""What `penstock log repair` took out of logs."""

FORMAT_VERSION = 1
"""Of the data directory as a whole, in `meta.properties`; raised when an older Penstock could misread it."""

INDEX_ENTRY_SIZE_BYTES = 8
"""Relative offset int32, position int32."""
TIME_INDEX_ENTRY_SIZE_BYTES = 12
"""Timestamp int64, relative offset int32."""

OFFSET_MAX = 2**63 - 1
RELATIVE_OFFSET_MAX = 2**31 - 1
SEGMENT_SIZE_BYTES_MAX = 2**31 - 1

TOPIC_NAME_LENGTH_MAX = 249
_FILE_NAME_LENGTH_MAX = 255
_SEGMENT_FILE = re.compile(r"([0-9]{20})(\.[a-z]+)")
_PARTITION_DIRECTORY = re.compile(r"([a-zA-Z0-9._-]{1,249})-(0|[1-9][0-9]{0,9})")


def segment_file_name(base_offset: int, suffix: str) -> str:
    """`00000000000000000042.log` for (42, ".log"); a snapshot's number is the offset that it is valid at."""
    return f"{base_offset:020d}{suffix}"


def parse_segment_file_name(name: str) -> tuple[int, str] | None:
    """Offset and suffix; None for any other file, temporary and `.deleted` ones among them."""
    match = _SEGMENT_FILE.fullmatch(name)
    if match is None or int(match[1]) > OFFSET_MAX:
        return None
    return int(match[1]), match[2]


def parent_directory(path: str) -> str:
    """The directory that names `path`: `/` and `.` where nothing stands before the last name."""
    parent = path.rpartition("/")[0]
    return parent or ("/" if path.startswith("/") else ".")


def partition_directory_name(topic: str, partition: int) -> str:
    """`<topic>-<partition>`. The topic must be a valid name: nothing is escaped here."""
    return f"{topic}-{partition}"


def parse_partition_directory_name(name: str) -> tuple[str, int] | None:
    """Topic and partition; None where the name is not one of a live partition."""
    match = _PARTITION_DIRECTORY.fullmatch(name)
    if match is None or match[1] in (".", "..") or int(match[2]) > RELATIVE_OFFSET_MAX:
        return None
    return match[1], int(match[2])


def put_aside_directory_name(topic: str, partition: int, unique: str, suffix: str) -> str:
    """`<topic>-<partition>.<unique><suffix>`, the topic cut as far as the file system's name limit asks for.

    `suffix` is `-delete`, `-stray` or `-damaged`. No live partition has such a name, for theirs end in a number.
    """
    rest = f"-{partition}.{unique}{suffix}"
    return topic[: _FILE_NAME_LENGTH_MAX - len(rest)] + rest
