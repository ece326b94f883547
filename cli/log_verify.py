"""`penstock log verify`: read everything in partitions or a data folder, and say what is wrong.

Owns the exit code: 1 when anything at all is not as it should be, be it only a torn tail or a wrong index, which a broker mends when it
starts (but for what a running broker is at work on). Verdicts come from `penstock.storage.verify` and `verify_folder`.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import click

from penstock.cli.failure import CommandFailed
from penstock.cli.log_lines import VerdictPrinter
from penstock.cli.log_places import DataFolderPath, PartitionFolder, SegmentFile, place_of
from penstock.cli.log_progress import ByteProgress, byte_progress
from penstock.runtime.files import FileSystem
from penstock.runtime.posix_files import PosixFileSystem
from penstock.runtime.system_clock import SystemClock
from penstock.storage.layout import LOG_SUFFIX, META_PROPERTIES, partition_directory_name, segment_file_name
from penstock.storage.survey import Progress
from penstock.storage.verify import PartitionVerdict, verify_partition, verify_segment
from penstock.storage.verify_folder import DataFolder, log_bytes, look_into, verify_in_folder

paths_argument = click.argument("paths", metavar="PATH...", nargs=-1, required=True)
compacted_option = click.option("--compacted", is_flag=True, help="Gaps between offsets are no fault.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")


@dataclass(frozen=True, slots=True)
class _Job:
    """One thing to verify: a partition of a data folder, a folder by itself, or (with `base_offset`) one segment."""

    name: str
    directory: str
    folder: DataFolder | None = None
    base_offset: int | None = None

    def size_bytes(self, files: FileSystem) -> int:
        """How much there is to read."""
        if self.base_offset is None:
            return log_bytes(files, self.directory)
        file = files.open(f"{self.directory}/{segment_file_name(self.base_offset, LOG_SUFFIX)}")
        try:
            return file.size()
        finally:
            file.close()

    def verdict(self, files: FileSystem, compacted: bool, progress: Progress) -> PartitionVerdict:
        """Read it."""
        if self.base_offset is not None:
            return verify_segment(
                files, self.directory, self.base_offset, compacted=compacted, progress=progress
            )
        key = PartitionFolder(self.directory).key
        if self.folder is not None and key is not None:
            return verify_in_folder(files, self.folder, key, compacted=compacted, progress=progress)
        return verify_partition(files, self.directory, compacted=compacted, progress=progress)


@click.command()
@paths_argument
@compacted_option
@json_option
def verify(paths: tuple[str, ...], compacted: bool, as_json: bool) -> None:
    """Check checksums, offsets, indexes, snapshots and checkpoints.

    The exit code is 1 when anything is wrong. A torn tail and wrong indexes are told too, though a broker mends
    them when it starts. Nothing is changed, so it may run beside a broker: what that is writing may look
    unfinished, and is not held against it. Where a log was compacted its folder says; for one that comes from
    Apache Kafka say --compacted.
    """
    files = PosixFileSystem()
    clock = SystemClock()
    folders: list[DataFolder] = []
    jobs = [job for path in paths for job in _jobs(files, path, folders)]
    total_bytes = 0 if as_json else sum(job.size_bytes(files) for job in jobs)
    printer = VerdictPrinter([job.name for job in jobs], as_json=as_json)
    with byte_progress(total_bytes, is_shown=not as_json) as progress:
        begin_ms = clock.wall_ms()
        printer.print_folders(folders, progress.print)
        for job in jobs:
            _verify_one(files, job, compacted, printer, progress)
        took_s = (clock.wall_ms() - begin_ms) / 1000
    printer.print_summary(took_s)
    sys.stdout.flush()
    _end(printer, len(jobs), folders)


def _verify_one(
    files: FileSystem, job: _Job, compacted: bool, printer: VerdictPrinter, progress: ByteProgress
) -> None:
    progress.begin(job.name)
    try:
        verdict = job.verdict(files, compacted, progress.advance)
    except FileNotFoundError:
        if job.folder is None or not job.folder.is_in_use:
            raise
        progress.print(f"{job.name}: gone while this ran: the topic was deleted")
        return
    printer.print(job.name, verdict, progress.print)


def _end(printer: VerdictPrinter, job_count: int, folders: Sequence[DataFolder]) -> None:
    wrong = [f"{printer.bad_count} of {job_count} not as they should be"] if printer.bad_count else []
    wrong += [f"{folder.path} has damaged files of its own" for folder in folders if folder.faults]
    if wrong:
        raise CommandFailed("; ".join(wrong))


def _jobs(files: FileSystem, path: str, folders: list[DataFolder]) -> list[_Job]:
    """What a path asks for; a whole data folder is added to `folders`."""
    place = place_of(files, path)
    if isinstance(place, SegmentFile):
        if place.suffix != LOG_SUFFIX:
            raise CommandFailed(f"{path}: verify takes a folder or a {LOG_SUFFIX} file")
        return [_Job(path, place.directory, base_offset=place.base_offset)]
    if isinstance(place, DataFolderPath):
        folder = look_into(files, place.path)
        folders.append(folder)
        return [
            _Job(partition_directory_name(*key), folder.directory(key), folder) for key in folder.partitions
        ]
    has_data_folder = place.key is not None and files.exists(f"{place.data_folder}/{META_PROPERTIES}")
    return [
        _Job(
            place.directory, place.directory, look_into(files, place.data_folder) if has_data_folder else None
        )
    ]


__all__ = ["compacted_option", "json_option", "paths_argument", "verify"]
