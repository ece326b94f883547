"""One run of an export: batches in, files, manifest and committed offsets out.

Owns the order of steps, which is what makes every record be there exactly once whenever the process is killed:

    1. The manifest with the plan of the run is there before any file.
    2. Records go into temporary files.
    3. A checkpoint: the files are made whole and durable, then the manifest names them and says how far each partition is, then the group's
       offsets are committed up to there.

Killed before the manifest is replaced, the files of the checkpoint count for nothing and go when the next run begins; killed after, they
count, and the next run commits what the manifest says. Does not know where batches come from nor how a group commits.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.consumer.batch import ConsumerBatch
from penstock.offline.folder import AtomicFile, ExportFolder
from penstock.offline.manifest import ExportedFile, FileRange, Manifest
from penstock.offline.pieces import Encoder, Piece, Sink
from penstock.runtime.threads import Threads

if TYPE_CHECKING:  # it needs pyarrow, and most exports need neither
    from penstock.offline.json_columns import JsonColumns

FILE_MAX_BYTES = 512 * 1024 * 1024
"""Of records, as they are in memory, between two checkpoints."""
OPEN_FILES_MAX = 64
PENDING_MAX_BYTES = 128 * 1024 * 1024
"""What waits for its row group, over all files."""

NextBatch = Callable[[], Awaitable[ConsumerBatch | None]]
"""What comes next; None at the end."""
Commit = Callable[[Mapping[int, int]], Awaitable[None]]
"""Commits offsets, by partition; on return they are stored."""
_FAR_FUTURE = 1 << 63


@dataclass(slots=True)
class _OpenFile:
    name: str
    file: AtomicFile
    sink: Sink
    records: int = 0
    min_timestamp: int = _FAR_FUTURE
    max_timestamp: int = -_FAR_FUTURE
    partitions: dict[int, FileRange] = field(default_factory=dict[int, FileRange])

    def write(self, piece: Piece) -> None:
        self.sink.write(piece)
        self.records += piece.records
        self.min_timestamp = min(self.min_timestamp, piece.min_timestamp)
        self.max_timestamp = max(self.max_timestamp, piece.max_timestamp)
        known = self.partitions.get(piece.partition)
        if known is None:
            self.partitions[piece.partition] = FileRange(piece.first_offset, piece.last_offset, piece.records)
        else:
            known.last_offset = piece.last_offset
            known.records += piece.records


class ExportRun:
    """The blocking half: call it from one worker at a time. Raises StorageError, CorruptRecords, CannotWrite."""

    def __init__(
        self,
        folder: ExportFolder,
        manifest: Manifest,
        encoder: Encoder,
        json_columns: "JsonColumns | None" = None,
        *,
        file_max_bytes: int = FILE_MAX_BYTES,
        open_files_max: int = OPEN_FILES_MAX,
    ) -> None:
        self.manifest = manifest
        self.record_count = 0
        """Records of this run, so far."""
        self._folder = folder
        self._encoder = encoder
        self._json_columns = json_columns
        self._file_max_bytes = file_max_bytes
        self._open_files_max = open_files_max
        self._open: dict[str, _OpenFile] = {}
        self._next = {index: progress.next for index, progress in manifest.partitions.items()}
        self._sequence = manifest.next_sequence
        self._waiting_bytes = 0

    def begin(self) -> None:
        """Save the plan, and remove what a killed run has left."""
        self._folder.save(self.manifest)
        self._folder.remove_leftovers(self.manifest.next_sequence)

    def add(self, batch: ConsumerBatch) -> bool:
        """Take a batch. Returns whether a checkpoint is due."""
        for piece in self._encoder.pieces(batch):
            self._file_for(piece.folder).write(piece)
            self._waiting_bytes += piece.size_bytes
            self.record_count += piece.records
        self._next[batch.partition] = batch.next_offset
        self._flush_some()
        return self._waiting_bytes >= self._file_max_bytes or len(self._open) > self._open_files_max

    def checkpoint(self, *, is_last: bool = False) -> dict[int, int]:
        """Make durable all that was taken, and say so in the manifest. Returns the offsets to commit, by partition."""
        whole = [self._finished(each) for each in self._open.values()]
        if whole:
            self._folder.sync({each.path for each in whole})
        self._open.clear()
        self._waiting_bytes = 0
        manifest = self.manifest
        manifest.files += whole
        manifest.next_sequence = self._sequence
        for index, progress in manifest.partitions.items():
            progress.next = progress.end if is_last else self._next[index]
        if self._json_columns is not None:
            manifest.json_columns = self._json_columns.columns
        manifest.is_complete = is_last
        self._folder.save(manifest)
        return {index: progress.next for index, progress in manifest.partitions.items()}

    def committed(self, offsets: Mapping[int, int]) -> None:
        """The group has stored them."""
        for index, offset in offsets.items():
            self.manifest.partitions[index].committed = offset

    def discard(self) -> None:
        """Give up what is under way since the last checkpoint."""
        for each in self._open.values():
            each.file.discard()
        self._open.clear()

    def _file_for(self, folder: str) -> _OpenFile:
        found = self._open.get(folder)
        if found is None:
            name = f"{folder}part-{self._sequence:06d}-{self.manifest.spec.topic}.{self._encoder.extension}"
            self._sequence += 1
            file = self._folder.create(name)
            found = self._open[folder] = _OpenFile(name, file, self._encoder.open(file))
        return found

    def _finished(self, each: _OpenFile) -> ExportedFile:
        each.sink.close()
        digest = each.file.finish()
        return ExportedFile(
            each.name,
            each.file.size_bytes,
            digest,
            each.records,
            each.min_timestamp,
            each.max_timestamp,
            dict(sorted(each.partitions.items())),
        )

    def _flush_some(self) -> None:
        """Keep what waits in memory bounded, however many files are open."""
        while sum(each.sink.pending_bytes for each in self._open.values()) > PENDING_MAX_BYTES:
            max(self._open.values(), key=lambda each: each.sink.pending_bytes).sink.flush()


async def export(
    run: ExportRun,
    next_batch: NextBatch,
    threads: Threads,
    commit: Commit | None,
    advance: Callable[[int, int], None] = lambda partition, next_offset: None,
) -> None:
    """Do it all; `advance` is told of each partition's next offset. A commit that fails is raised: a rerun goes on by the manifest.

    Cancellation, and any error: what was checkpointed stays, the rest is given up.
    """
    try:
        await threads.run(run.begin)
        if commit is not None:
            # Also where it changes nothing: a group that has members refuses it, before anything is written.
            await _commit(run, {index: each.next for index, each in run.manifest.partitions.items()}, commit)
        while (batch := await next_batch()) is not None:
            is_due = await threads.run(run.add, batch)
            advance(batch.partition, batch.next_offset)
            if is_due:
                await _checkpoint(run, threads, commit, is_last=False)
        await _checkpoint(run, threads, commit, is_last=True)
    finally:
        run.discard()


async def _checkpoint(run: ExportRun, threads: Threads, commit: Commit | None, *, is_last: bool) -> None:
    offsets = await threads.run(lambda: run.checkpoint(is_last=is_last))
    if commit is not None:
        await _commit(run, offsets, commit)


async def _commit(run: ExportRun, offsets: Mapping[int, int], commit: Commit) -> None:
    await commit(offsets)
    run.committed(offsets)


__all__ = ["FILE_MAX_BYTES", "OPEN_FILES_MAX", "Commit", "ExportRun", "NextBatch", "export"]
