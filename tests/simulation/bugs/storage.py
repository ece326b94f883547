"""Bugs in what is on disk."""

from typing import Any

from tests.simulation.bugs.planting import Bug, Patch

from penstock.storage import log_follower, log_writer, recovery
from penstock.storage.errors import LogFailed


def _no_rewrite(_: Any) -> Any:
    def rewrite(self: Any, found: Any) -> None:
        segment = found.segment
        segment.size_bytes = found.end_position
        segment.trusted_from = found.start_position
        if found.end_position < found.file_size_bytes:
            file = self._files.open(segment.path, write=True)
            file.truncate(found.end_position)
            file.close()

    return rewrite


def _append_without_producers(original: Any) -> Any:
    def append(self: Any, *args: Any, **more: Any) -> Any:
        producers, self._producers = self._producers, _Pass(self._producers)
        try:
            return original(self, *args, **more)
        finally:
            self._producers = producers

    return append


def _sync_again(original: Any) -> Any:
    def sync(self: Any) -> int:
        had_failed = self._failure is not None
        try:
            return int(original(self))
        except LogFailed:
            if had_failed:
                raise
            self._failure = None
            return int(original(self))

    return sync


class _Pass:
    """The table of producers, but for updates."""

    def __init__(self, producers: Any) -> None:
        self._producers = producers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producers, name)

    def update(self, *_: object) -> None:
        return


_OPENING: Any = vars(recovery)["_Opening"]

BUGS = (
    Bug(
        "no fsync after recovery",
        "what recovery has found is served without writing and syncing it again",
        [Patch(_OPENING, "_rewrite", _no_rewrite)],
        faults=("slow disk", "power cut after a kill"),
        seed=10,
        found_by=("D9",),
    ),
    Bug(
        "followers know no producers",
        "a follower does not note who produced what, and takes a retry for something new once it leads",
        [Patch(log_follower.LogFollower, "append_as_follower", _append_without_producers)],
        faults=("slow disk", "kill", "freeze"),
        seed=1,
        found_by=("T1",),
    ),
    Bug(
        "failed sync tried again",
        "fsyncgate: a sync that failed is tried again, and believed the second time, though the pages are gone",
        [Patch(log_writer.LogWriter, "_sync", _sync_again)],
        faults=("disk error", "power cut", "power cut of all"),
        seed=5,
        found_by=("D9",),
    ),
)
