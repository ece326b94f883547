"""Calls of the storage layer on workers, with one rule: what the disk did is a `StorageError`.

The file-system port leaves a missing file a `FileNotFoundError`, since some callers ask for it. Under an open log it means that somebody
took files away behind the broker's back. That is the end of one partition, never of the broker, so it is an error of the disk here.
"""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from penstock.runtime.files import DiskError
from penstock.runtime.threads import Threads

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def run_storage(threads: Threads, function: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run `function(*args)` on a worker. Raises what it raises, and DiskError where a file or directory has gone. Cancellation: as `Threads.run`."""
    try:
        return await threads.run(function, *args)
    except (FileNotFoundError, FileExistsError) as error:
        raise DiskError(f"changed behind the broker's back: {error}") from error


__all__ = ["run_storage"]
