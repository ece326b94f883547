"""What a run of an export has to do: from the manifest (if there is one), the log and the group.

Owns where each partition begins. Pure: all that is known is handed in.

The rule: the manifest is the truth. A group's committed offset counts for partitions that the manifest does not know; for the others it must be what
the manifest says it may be (its `next`, or `committed`: a run was killed between the manifest and the commit), or be gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.errors import PenstockError
from penstock.offline.manifest import ExportSpec, Gap, Manifest, PartitionProgress


class CannotGoOn(PenstockError):
    """The folder's export is not one that this run may continue; the message says why."""


@dataclass(frozen=True, slots=True)
class LogRange:
    """A partition now: the log start offset, where the wanted records begin at the earliest, and the end (exclusive)."""

    log_start: int
    first: int
    end: int


def plan_run(
    found: Manifest | None,
    wanted: Manifest,
    ranges: Mapping[int, LogRange],
    committed: Mapping[int, int] | None,
) -> Manifest:
    """The manifest to begin with: that of an unfinished run as it is; of a finished one with what is new; else `wanted` with all.

    `ranges` is of the partitions as they are now; `committed` of the group, by partition (None: there is no group). Raises CannotGoOn.
    """
    manifest = wanted if found is None else found
    if found is not None:
        _require_same(found, wanted)
    is_new_run = found is None or found.is_complete
    for index, log in sorted(ranges.items()):
        progress = manifest.partitions.get(index)
        if progress is None:
            if not is_new_run:
                continue  # its turn comes with the next run
            stored = -1 if committed is None else committed.get(index, -1)
            start = log.first if stored < 0 else max(min(stored, log.end), log.log_start)
            progress = manifest.partitions[index] = PartitionProgress(
                start, start, max(start, log.end), stored
            )
            if 0 <= stored < log.log_start:
                manifest.gaps.append(Gap(index, stored, log.log_start))
        else:
            _go_on(manifest, index, log, committed, is_new_run=is_new_run)
    if is_new_run:
        manifest.runs += 1
        manifest.is_complete = False
    return manifest


def _go_on(
    manifest: Manifest, index: int, log: LogRange, committed: Mapping[int, int] | None, *, is_new_run: bool
) -> None:
    name = f"{manifest.spec.topic}-{index}"
    progress = manifest.partitions[index]
    if log.end < progress.next:
        raise CannotGoOn(
            f"{name} ends at {log.end}, and was exported up to {progress.next}: it is another log than then"
        )
    if committed is not None:
        stored = committed.get(index, -1)
        if stored >= 0 and stored not in (progress.next, progress.committed):
            raise CannotGoOn(
                f"group {manifest.spec.group} stands at {stored} in {name}, but this folder's export at {progress.next}: somebody"
                " else has moved it. Export to another folder, or reset the group to where the export is"
            )
        progress.committed = stored
    if log.log_start > progress.next:
        manifest.gaps.append(Gap(index, progress.next, log.log_start))
        progress.next = log.log_start
        progress.end = max(progress.end, progress.next)
    if is_new_run:
        progress.end = max(progress.next, log.end)


def _require_same(found: Manifest, wanted: Manifest) -> None:
    if found.spec != wanted.spec:
        differing = [
            f"{name.replace('_', '-')} {_shown(getattr(found.spec, name))}, now {_shown(getattr(wanted.spec, name))}"
            for name in ExportSpec.__slots__
            if getattr(found.spec, name) != getattr(wanted.spec, name)
        ]
        raise CannotGoOn(f"the folder holds another export ({'; '.join(differing)}); choose another folder")
    if found.topic_id and wanted.topic_id and found.topic_id != wanted.topic_id:
        raise CannotGoOn(
            f"topic {found.spec.topic} was deleted and made again since the export in this folder"
        )


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


__all__ = ["CannotGoOn", "LogRange", "plan_run"]
