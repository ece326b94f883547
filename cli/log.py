"""`penstock log`: look into the files of a partition, with no broker running.

Owns what is read and when the exit code is 1: when anything at all is not as it should be, be it only a torn tail or a wrong index,
which a broker mends when it starts. Verdicts come from `penstock.storage.dump`, their look from `penstock.cli.log_lines`.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import click

from penstock.cli.failure import CommandFailed
from penstock.cli.log_lines import (
    BatchPrinter,
    print_index,
    print_snapshot,
    print_time_index,
    print_verdicts,
)
from penstock.runtime.files import FileSystem, StorageError
from penstock.runtime.posix_files import PosixFileSystem
from penstock.storage.batch_walk import ChainRules
from penstock.storage.dump import (
    DumpedBatch,
    Fault,
    PartitionVerdict,
    dump_offset_index,
    dump_segment,
    dump_snapshot,
    dump_time_index,
    list_segments,
    verify_partition,
)
from penstock.storage.layout import (
    INDEX_SUFFIX,
    LOG_SUFFIX,
    SNAPSHOT_SUFFIX,
    TIME_INDEX_SUFFIX,
    parent_directory,
    parse_partition_directory_name,
    parse_segment_file_name,
    segment_file_name,
)

paths_argument = click.argument("paths", metavar="PATH...", nargs=-1, required=True)
compacted_option = click.option("--compacted", is_flag=True, help="Gaps between offsets are no fault.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


@dataclass(frozen=True, slots=True)
class Place:
    """What a path stands for: one file of a partition (`base_offset` and `suffix` are set), or its whole folder."""

    directory: str
    base_offset: int = 0
    suffix: str = ""


@click.group("log")
def command() -> None:
    """Look into the files of a partition, with no broker running.

    PATH is a partition's folder, one of its files, or a whole data folder.
    """


@command.command()
@paths_argument
@click.option("--records", "with_records", is_flag=True, help="Show the records in each batch.")
@compacted_option
@json_option
def dump(paths: tuple[str, ...], with_records: bool, compacted: bool, as_json: bool) -> None:
    """Show every batch: offsets, position, codec, producer and checksum.

    Also reads .index, .timeindex and .snapshot files.
    """
    files = PosixFileSystem()
    printer = BatchPrinter(with_records=with_records, as_json=as_json)
    for place in _places(files, paths):
        if place.suffix in ("", LOG_SUFFIX):
            bases = [place.base_offset] if place.suffix else list_segments(files, place.directory)
            for base_offset in bases:
                printer.print(_segment(files, place.directory, base_offset, compacted))
        elif place.suffix == INDEX_SUFFIX:
            print_index(dump_offset_index(files, place.directory, place.base_offset), as_json=as_json)
        elif place.suffix == TIME_INDEX_SUFFIX:
            print_time_index(dump_time_index(files, place.directory, place.base_offset), as_json=as_json)
        else:
            print_snapshot(dump_snapshot(files, place.directory, place.base_offset), as_json=as_json)
    sys.stdout.flush()
    if printer.fault_count:
        raise CommandFailed(
            f"{printer.fault_count} {'fault' if printer.fault_count == 1 else 'faults'} found"
        )


@command.command()
@paths_argument
@compacted_option
@json_option
def verify(paths: tuple[str, ...], compacted: bool, as_json: bool) -> None:
    """Check checksums, offsets, indexes and snapshots.

    The exit code is 1 when anything is wrong. A torn tail and wrong indexes are told too, though a broker mends
    them when it starts; beside a running broker the newest segment may show both for no reason.
    """
    files = PosixFileSystem()
    verdicts = [_verdict(files, place, compacted) for place in _places(files, paths)]
    print_verdicts(verdicts, as_json=as_json)
    sys.stdout.flush()
    bad = sum(not _is_whole(verdict) for verdict in verdicts)
    if bad:
        raise CommandFailed(f"{bad} of {len(verdicts)} not as they should be")


def _is_whole(verdict: PartitionVerdict) -> bool:
    return verdict.is_good and not verdict.torn_tail_bytes and not verdict.index_faults


def _segment(
    files: FileSystem, directory: str, base_offset: int, compacted: bool
) -> Iterator[DumpedBatch | Fault]:
    rules = ChainRules(contiguous=not compacted, epoch_at=None, index_interval_bytes=0)
    return dump_segment(files, directory, base_offset, rules=rules)


def _verdict(files: FileSystem, place: Place, compacted: bool) -> PartitionVerdict:
    if not place.suffix:
        return verify_partition(files, place.directory, compacted=compacted)
    if place.suffix != LOG_SUFFIX:
        raise CommandFailed(f"{place.directory}: verify takes a folder or a {LOG_SUFFIX} file")
    path = f"{place.directory}/{segment_file_name(place.base_offset, place.suffix)}"
    verdict = PartitionVerdict(path, segment_count=1, log_start_offset=place.base_offset)
    for found in _segment(files, place.directory, place.base_offset, compacted):
        if isinstance(found, Fault):
            verdict.faults.append(found)
            continue
        verdict.faults += found.faults
        verdict.batch_count += 1
        verdict.record_count += found.header.record_count
        verdict.size_bytes += found.header.size_bytes
        verdict.log_end_offset = found.header.next_offset
    return verdict


def _places(files: FileSystem, paths: Iterable[str]) -> list[Place]:
    """What the paths stand for. Raises CommandFailed for one that is not there or nothing of a partition's."""
    return [place for path in paths for place in _places_of(files, path.rstrip("/") or "/")]


def _places_of(files: FileSystem, path: str) -> list[Place]:
    name = parse_segment_file_name(path.rpartition("/")[2])
    if name is not None:
        if not files.exists(path):
            raise CommandFailed(f"{path}: no such file")
        if name[1] not in (LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, SNAPSHOT_SUFFIX):
            raise CommandFailed(f"{path}: there is nothing to show of a {name[1]} file")
        return [Place(parent_directory(path), *name)]
    try:
        names = files.list_directory(path)
    except FileNotFoundError:
        raise CommandFailed(f"{path}: no such file or folder") from None
    except StorageError as error:
        raise CommandFailed(str(error)) from error
    if any(parse_segment_file_name(name) for name in names):
        return [Place(path)]
    partitions = [name for name in names if parse_partition_directory_name(name) is not None]
    if not partitions:
        raise CommandFailed(f"{path}: neither a partition's folder nor one that has any")
    return [Place(f"{path}/{name}") for name in partitions]
