"""A broker in a process of its own whose disk is counted, and slowed if asked to, and whose event loop is watched.

    python -m bench.measured_broker --data-dir DIR --port 9092 --slowness 10

Prints a line once it answers. On SIGTERM it stops and prints one line of JSON: fsyncs of logs, the most at once, and the longest steps of
the event loop. The disk is slowed where it has to be waited for: an fsync, an open, a rename, a removal, a truncation, and a read of
what is not in the page cache take `--slowness` times as long as they do; appends to the page cache stay as fast as they are.
"""

import gc
import heapq
import json
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TypeVar

import click
import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.server import RunningBroker, serve
from penstock.cli.main import GC_THRESHOLD
from penstock.runtime.files import File, FileLock, FileSystem
from penstock.runtime.production import production_environment
from penstock.storage.layout import LOG_SUFFIX

T = TypeVar("T")

STEPS_KEPT = 5


class Counts:
    """What the disk was asked for."""

    def __init__(self, slowness: float) -> None:
        self.slowness = slowness
        self.syncs = self.running = self.running_max = 0
        self._lock = threading.Lock()

    def slowly(self, call: Callable[[], T]) -> T:
        """Do it, and take `slowness` times as long."""
        begin = time.perf_counter()
        try:
            return call()
        finally:
            if self.slowness > 1:
                time.sleep((time.perf_counter() - begin) * (self.slowness - 1))

    def sync(self, call: Callable[[], None]) -> None:
        """An fsync of a log."""
        with self._lock:
            self.syncs += 1
            self.running += 1
            self.running_max = max(self.running_max, self.running)
        try:
            self.slowly(call)
        finally:
            with self._lock:
                self.running -= 1


class MeasuredFiles:
    """The file system under `Counts`."""

    def __init__(self, files: FileSystem, counts: Counts) -> None:
        self._files = files
        self._counts = counts
        self.exists = files.exists
        self.list_directory = files.list_directory
        self.free_bytes = files.free_bytes
        self.total_bytes = files.total_bytes

    def open(self, path: str, *, write: bool = False, create: bool = False) -> "MeasuredFile":
        """The port's."""
        opened = self._counts.slowly(lambda: self._files.open(path, write=write, create=create))
        return MeasuredFile(opened, self._counts)

    def make_directories(self, path: str) -> None:
        """The port's."""
        self._counts.slowly(lambda: self._files.make_directories(path))

    def rename(self, source: str, target: str) -> None:
        """The port's."""
        self._counts.slowly(lambda: self._files.rename(source, target))

    def unlink(self, path: str) -> None:
        """The port's."""
        self._counts.slowly(lambda: self._files.unlink(path))

    def remove_tree(self, path: str) -> None:
        """The port's."""
        self._counts.slowly(lambda: self._files.remove_tree(path))

    def sync_directory(self, path: str) -> None:
        """The port's."""
        self._counts.slowly(lambda: self._files.sync_directory(path))

    def lock(self, path: str) -> FileLock | None:
        """The port's."""
        return self._files.lock(path)


class MeasuredFile:
    """One open file of it."""

    def __init__(self, file: File, counts: Counts) -> None:
        self._file = file
        self._counts = counts
        self.path = file.path
        self.fileno = file.fileno
        self.size = file.size
        self.pwrite = file.pwrite
        self.is_resident = file.is_resident
        self.will_need = file.will_need
        self.wont_need = file.wont_need

    def pread(self, count: int, position: int) -> bytes:
        """The port's."""
        if self._file.is_resident(position, count):
            return self._file.pread(count, position)
        return self._counts.slowly(lambda: self._file.pread(count, position))

    def pread_into(self, buffer: bytearray | memoryview, position: int) -> int:
        """The port's."""
        if self._file.is_resident(position, len(buffer)):
            return self._file.pread_into(buffer, position)
        return self._counts.slowly(lambda: self._file.pread_into(buffer, position))

    def truncate(self, size: int) -> None:
        """The port's."""
        self._counts.slowly(lambda: self._file.truncate(size))

    def datasync(self) -> None:
        """The port's."""
        if self.path.endswith(LOG_SUFFIX):
            self._counts.sync(self._file.datasync)
        else:
            self._counts.slowly(self._file.datasync)

    def close(self) -> None:
        """The port's."""
        self._counts.slowly(self._file.close)


class LongestSteps(trio.abc.Instrument):
    """How long the event loop was in one task's hand."""

    def __init__(self) -> None:
        self._begin = 0.0
        self.longest: list[tuple[float, str]] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """A task runs."""
        self._begin = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """It gives the loop back."""
        if not self._begin:
            return  # the step in which this began to look
        step = (time.perf_counter() - self._begin, task.name)
        if len(self.longest) < STEPS_KEPT:
            heapq.heappush(self.longest, step)
        elif step > self.longest[0]:
            heapq.heapreplace(self.longest, step)


async def run(config: BrokerConfig, counts: Counts) -> None:
    """Serve until SIGTERM, then tell."""
    real = production_environment()
    environment = replace(real, files=MeasuredFiles(real.files, counts))
    steps = LongestSteps()

    def started(_: RunningBroker) -> None:
        gc.freeze()
        gc.set_threshold(GC_THRESHOLD)
        trio.lowlevel.add_instrument(steps)
        counts.syncs = counts.running_max = 0
        print("started", flush=True)

    async def stop_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for _ in signals:
            trio.lowlevel.remove_instrument(steps)
            told = {
                "syncs": counts.syncs,
                "syncs_at_once_max": counts.running_max,
                "longest_steps": [[seconds, name] for seconds, name in sorted(steps.longest, reverse=True)],
            }
            print(json.dumps(told), flush=True)
            scope.cancel()

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal, signals, nursery.cancel_scope)
            await serve(environment, config, started=started)


@click.command()
@click.option("--data-dir", required=True)
@click.option("--port", required=True, type=int)
@click.option("--slowness", default=1.0)
@click.option("--realtime", is_flag=True)
def main(data_dir: str, port: int, slowness: float, realtime: bool) -> None:
    """Serve on a measured disk."""
    if realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    listeners = f"PLAINTEXT://127.0.0.1:{port}"
    config = BrokerConfig.from_properties({"log.dirs": data_dir, "listeners": listeners})
    trio.run(run, config, Counts(slowness))


if __name__ == "__main__":
    main()
