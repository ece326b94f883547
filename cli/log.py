"""`penstock log`: look into the files of partitions, and repair them, with no broker running.

Owns `dump` and what the subcommands are. What paths stand for is in `penstock.cli.log_places`, how things look in `penstock.cli.log_lines`;
`verify` and `repair` have modules of their own.
"""

import sys
from collections.abc import Iterator

import click

from penstock.cli.failure import CommandFailed
from penstock.cli.log_lines import BatchPrinter, print_index, print_snapshot, print_time_index
from penstock.cli.log_places import segment_files
from penstock.cli.log_repair import repair
from penstock.cli.log_verify import compacted_option, json_option, paths_argument, verify
from penstock.runtime.files import FileSystem
from penstock.runtime.posix_files import PosixFileSystem
from penstock.storage.batch_walk import ChainRules
from penstock.storage.checkpoint import gaps_allowed_below
from penstock.storage.dump import (
    DumpedBatch,
    Fault,
    dump_offset_index,
    dump_segment,
    dump_snapshot,
    dump_time_index,
)
from penstock.storage.layout import INDEX_SUFFIX, LOG_SUFFIX, TIME_INDEX_SUFFIX


@click.group("log")
def command() -> None:
    """Look into the files of partitions, and repair them, with no broker needed.

    PATH is a partition's folder, one of its files, or a whole data folder.
    """


command.add_command(verify)
command.add_command(repair)


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
    for place in segment_files(files, paths):
        if place.suffix == LOG_SUFFIX:
            printer.print(_segment(files, place.directory, place.base_offset, compacted))
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


def _segment(
    files: FileSystem, directory: str, base_offset: int, compacted: bool
) -> Iterator[DumpedBatch | Fault]:
    gaps_below = gaps_allowed_below(files, directory, compacted=compacted)
    rules = ChainRules(gaps_below, epoch_at=None, index_interval_bytes=0)
    return dump_segment(files, directory, base_offset, rules=rules)
