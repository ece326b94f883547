"""What the paths given to `penstock log` stand for: files of a partition, a partition's folder, or a data folder.

Owns the complaints about paths that are none of these. Reads names, not contents.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from penstock.cli.failure import CommandFailed
from penstock.runtime.files import FileSystem, StorageError
from penstock.storage.checkpoint import TopicPartition
from penstock.storage.dump import list_segments
from penstock.storage.layout import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    META_PROPERTIES,
    SNAPSHOT_SUFFIX,
    TIME_INDEX_SUFFIX,
    parent_directory,
    parse_partition_directory_name,
    parse_segment_file_name,
    partition_directory_name,
)


@dataclass(frozen=True, slots=True)
class SegmentFile:
    """One file of a partition."""

    directory: str
    base_offset: int
    suffix: str


@dataclass(frozen=True, slots=True)
class PartitionFolder:
    """A partition's folder."""

    directory: str

    @property
    def data_folder(self) -> str:
        """The folder that it lies in."""
        return parent_directory(self.directory)

    @property
    def key(self) -> TopicPartition | None:
        """Topic and partition; None for a folder that was renamed or copied elsewhere."""
        return parse_partition_directory_name(self.directory.rpartition("/")[2])


@dataclass(frozen=True, slots=True)
class DataFolderPath:
    """A whole data folder."""

    path: str
    partitions: tuple[TopicPartition, ...]


Place = SegmentFile | PartitionFolder | DataFolderPath


def place_of(files: FileSystem, path: str) -> Place:
    """What a path stands for. Raises CommandFailed for one that is not there or nothing of a broker's."""
    path = path.rstrip("/") or "/"
    name = parse_segment_file_name(path.rpartition("/")[2])
    if name is not None:
        if not files.exists(path):
            raise CommandFailed(f"{path}: no such file")
        if name[1] not in (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, SNAPSHOT_SUFFIX):
            raise CommandFailed(f"{path}: there is nothing to show of a {name[1]} file")
        return SegmentFile(parent_directory(path), *name)
    try:
        names = files.list_directory(path)
    except FileNotFoundError:
        raise CommandFailed(f"{path}: no such file or folder") from None
    except StorageError as error:
        raise CommandFailed(str(error)) from error
    if any(parse_segment_file_name(name) for name in names):
        return PartitionFolder(path)
    parsed = [key for name in names if (key := parse_partition_directory_name(name)) is not None]
    if not parsed and META_PROPERTIES not in names:
        raise CommandFailed(f"{path}: neither a partition's folder nor one that has any")
    return DataFolderPath(path, tuple(sorted(parsed)))


def partition_folders(files: FileSystem, paths: Iterable[str]) -> Iterator[PartitionFolder]:
    """The partitions' folders that the paths stand for. Raises CommandFailed for a file of one."""
    for path in paths:
        place = place_of(files, path)
        if isinstance(place, SegmentFile):
            raise CommandFailed(f"{path}: name the partition's folder, or the whole data folder")
        if isinstance(place, PartitionFolder):
            yield place
        else:
            for key in place.partitions:
                yield PartitionFolder(f"{place.path}/{partition_directory_name(*key)}")


def segment_files(files: FileSystem, paths: Iterable[str]) -> Iterator[SegmentFile]:
    """The files that the paths stand for: folders by their segments. Raises CommandFailed."""
    for path in paths:
        place = place_of(files, path)
        if isinstance(place, SegmentFile):
            yield place
            continue
        folders = [place] if isinstance(place, PartitionFolder) else partition_folders(files, [path])
        for folder in folders:
            for base_offset in list_segments(files, folder.directory):
                yield SegmentFile(folder.directory, base_offset, LOG_SUFFIX)


__all__ = [
    "DataFolderPath",
    "PartitionFolder",
    "Place",
    "SegmentFile",
    "partition_folders",
    "place_of",
    "segment_files",
]
