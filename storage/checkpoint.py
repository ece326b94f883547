"""Kafka's small text files: checkpoints (version, count, lines) and `partition.metadata`.

Owns their syntax and that they are replaced atomically and durably. Knows neither what the numbers mean nor when to write them.

    0                       version
    2                       count of entries
    orders 0 4711           entry: for offset checkpoints topic, partition, offset; for leader epochs epoch, start offset
    orders 1 12
    ~crc32c 0 3698852810    in offset checkpoints: of the entries before it; to Kafka a partition that is not there

A bit that flips in an offset gives another offset, and nothing else would tell: a log start that was too high would hide records. What is
in the other files is held against the batches or the metadata store.

A partition's `compaction-checkpoint`, which Kafka does not have, is one such entry: the offset below which others may be missing.

Source: Kafka's `CheckpointFile`, `OffsetCheckpointFile`, `LeaderEpochCheckpointFile`, `PartitionMetadataFile`.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping

from penstock.protocol.checksum import crc32c
from penstock.runtime.files import FileSystem, read_file, replace_file
from penstock.storage.errors import CorruptFile
from penstock.storage.layout import COMPACTION_CHECKPOINT, OFFSET_MAX

VERSION = 0
TOPIC_ID_SIZE_BYTES = 16
_OFFSET_DIGITS_MAX = 20
_CHECKSUM = "~crc32c"
"""No topic can have that name."""

TopicPartition = tuple[str, int]


def read_offset_checkpoint(files: FileSystem, path: str) -> dict[TopicPartition, int]:
    """All offsets by (topic, partition); empty if the file is missing. A file without a checksum is taken as it is. Raises CorruptFile."""
    offsets: dict[TopicPartition, int] = {}
    entries = _read_entries(files, path, field_count=3)
    if entries and entries[-1][0] == _CHECKSUM:
        told = entries.pop()[2]
        if _number(path, told) != _checksum(" ".join(fields) for fields in entries):
            raise CorruptFile("the entries fail their CRC-32C check", path=path)
    for topic, partition, offset in entries:
        offsets[topic, _number(path, partition)] = _number(path, offset)
    return offsets


def write_offset_checkpoint(files: FileSystem, path: str, offsets: Mapping[TopicPartition, int]) -> None:
    """Replace the file; durable on return, and untouched if this raises."""
    lines = [f"{topic} {partition} {offsets[topic, partition]}" for topic, partition in offsets]
    checksum = [f"{_CHECKSUM} 0 {_checksum(lines)}"] if lines else []
    _write_entries(files, path, lines + checksum)


def read_epoch_checkpoint(files: FileSystem, path: str) -> list[tuple[int, int]] | None:
    """(leader epoch, start offset) in the order of the file; None if it is missing. Raises CorruptFile."""
    try:
        return [
            (_number(path, epoch), _number(path, start_offset))
            for epoch, start_offset in _read_entries(files, path, field_count=2, missing_ok=False)
        ]
    except FileNotFoundError:
        return None


def write_epoch_checkpoint(files: FileSystem, path: str, entries: Iterable[tuple[int, int]]) -> None:
    """Replace the file; durable on return, and untouched if this raises."""
    _write_entries(files, path, (f"{epoch} {start_offset}" for epoch, start_offset in entries))


def read_gaps_below(files: FileSystem, path: str) -> int:
    """Below which offset a log has been compacted; 0 if the file is missing. Raises CorruptFile."""
    entries = _read_entries(files, path, field_count=1)
    return max((_number(path, fields[0]) for fields in entries), default=0)


def gaps_allowed_below(files: FileSystem, directory: str, *, compacted: bool = False) -> int:
    """Below which offset batches may be missing in a partition's directory, for those who only look.

    Everywhere if `compacted`, or if the file that says it can't be read. Raises StorageError.
    """
    if compacted:
        return OFFSET_MAX
    try:
        return read_gaps_below(files, f"{directory}/{COMPACTION_CHECKPOINT}")
    except CorruptFile:
        return OFFSET_MAX


def write_gaps_below(files: FileSystem, directory: str, offset: int) -> None:
    """Replace a partition's `compaction-checkpoint`; durable on return, and untouched if this raises."""
    _write_entries(files, f"{directory}/{COMPACTION_CHECKPOINT}", [str(offset)])


def read_partition_metadata(files: FileSystem, path: str) -> bytes | None:
    """The 16 bytes of the topic id; None if the file is missing. Raises CorruptFile."""
    try:
        lines = _read_lines(files, path)
    except FileNotFoundError:
        return None
    values = dict(line.split(": ", 1) for line in lines if ": " in line)
    if values.get("version") != str(VERSION) or "topic_id" not in values:
        raise CorruptFile("not a partition.metadata of version 0", path=path)
    try:
        topic_id = base64.b64decode(values["topic_id"] + "==", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        topic_id = b""
    if len(topic_id) != TOPIC_ID_SIZE_BYTES:
        raise CorruptFile("the topic id is not the base64 of 16 bytes", path=path)
    return topic_id


def write_partition_metadata(files: FileSystem, path: str, topic_id: bytes) -> None:
    """Replace the file; durable on return."""
    replace_file(files, path, f"version: {VERSION}\ntopic_id: {uuid_text(topic_id)}".encode())


def uuid_text(uuid: bytes) -> str:
    """16 bytes as Kafka writes a UUID: base64 with `-` and `_`, without padding."""
    return base64.urlsafe_b64encode(uuid).decode().rstrip("=")


def is_nearly(uuid: bytes, other: bytes) -> bool:
    """Whether two UUIDs that are not equal differ in one character as written: no two that were drawn do."""
    return sum(a != b for a, b in zip(uuid_text(uuid), uuid_text(other), strict=True)) == 1


def _read_lines(files: FileSystem, path: str) -> list[str]:
    try:
        return read_file(files, path).decode().splitlines()
    except UnicodeDecodeError:
        raise CorruptFile("not text", path=path) from None


def _read_entries(
    files: FileSystem, path: str, *, field_count: int, missing_ok: bool = True
) -> list[list[str]]:
    try:
        lines = _read_lines(files, path)
    except FileNotFoundError:
        if missing_ok:
            return []
        raise
    if len(lines) < 2 or lines[0] != str(VERSION) or lines[1] != str(len(lines) - 2):
        raise CorruptFile("version or count of entries is wrong", path=path)
    entries = [line.split(" ") for line in lines[2:]]
    if any(len(fields) != field_count for fields in entries):
        raise CorruptFile(f"an entry has not {field_count} fields", path=path)
    return entries


def _write_entries(files: FileSystem, path: str, entries: Iterable[str]) -> None:
    lines = list(entries)
    replace_file(files, path, "\n".join([str(VERSION), str(len(lines)), *lines, ""]).encode())


def _checksum(lines: Iterable[str]) -> int:
    return crc32c("\n".join(lines).encode())


def _number(path: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _OFFSET_DIGITS_MAX:
        raise CorruptFile(f"{text[:_OFFSET_DIGITS_MAX]!r} is not a number", path=path)
    return int(text)
