"""The environment of a real process: this machine's clocks, sockets, files and threads.

What only some processes need (SQLite, etcd) is imported when a metadata store is opened.
"""

from contextlib import AbstractAsyncContextManager
from functools import partial

from penstock.runtime.clock import Clock, Random
from penstock.runtime.environment import Environment
from penstock.runtime.metadata import MetadataError, MetadataStore
from penstock.runtime.posix_files import PosixFileSystem
from penstock.runtime.process_limits import open_files_limit
from penstock.runtime.sockets import SocketNetwork
from penstock.runtime.system_clock import SystemClock, SystemRandom
from penstock.runtime.threads import Threads
from penstock.runtime.worker_threads import WorkerThreads


def production_environment() -> Environment:
    """The real ports. Opens nothing and starts nothing."""
    clock = SystemClock()
    random = SystemRandom()
    threads = WorkerThreads()
    return Environment(
        clock=clock,
        random=random,
        network=SocketNetwork(),
        files=PosixFileSystem(),
        threads=threads,
        open_metadata=partial(open_metadata, clock=clock, random=random, threads=threads),
        open_files_max=open_files_limit(),
    )


def open_metadata(
    location: str, *, clock: Clock, random: Random, threads: Threads
) -> AbstractAsyncContextManager[MetadataStore]:
    """The store behind `location`: an etcd cluster (`etcd://…`, `etcds://…`), or the path of an SQLite file, in a directory that exists.

    Entering it raises MetadataError when another process has the file open, when it is no store of ours, or when the location makes no
    sense. It does not wait for etcd.
    """
    scheme, separator, _ = location.partition("://")
    if scheme in ("etcd", "etcds") and separator:
        from penstock.runtime.etcd_metadata import open_etcd_metadata

        return open_etcd_metadata(location, clock=clock, random=random, threads=threads)
    if separator:
        raise MetadataError(f"there is no metadata store for {scheme}://, only for etcd:// and etcds://")
    from penstock.runtime.sqlite_metadata import open_sqlite_metadata

    return open_sqlite_metadata(location, clock=clock, random=random, threads=threads)


__all__ = ["open_metadata", "production_environment"]
