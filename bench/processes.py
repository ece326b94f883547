"""Processes under measurement: where they run, what they cost. Linux only (`/proc`, CPU affinity).

Owns nothing that lives on: every function leaves the calling process as it found it.
"""

import os
import socket
import struct
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Self

_CPU_CLOCK_SCHEDULED = 2


@contextmanager
def on_cores(cores: Iterable[int] | None) -> Generator[None]:
    """Bind the calling thread to `cores` inside the block (None: leave it), so that a process started there inherits them.

    A process must be born on its cores: a JVM counts its CPUs once, at the start. Cores that this machine lacks are left out;
    when none is left, nothing is bound.
    """
    before = os.sched_getaffinity(0)
    wanted = before & set(cores) if cores is not None else set[int]()
    if wanted:
        os.sched_setaffinity(0, wanted)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far, all its threads, ended ones too.

    The sum that `/proc/<pid>/stat` shows in ticks of 10 ms, read from the process's CPU clock, which counts nanoseconds. Raises OSError
    when there is no such process.
    """
    # What clock_getcpuclockid(3) makes of a pid; Python has no name for it.
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK_SCHEDULED)


class Meter:
    """What happens between `with` and its end: seconds, CPU of this process, and CPU of a server (none for pid 0)."""

    def __init__(self, server_pid: int = 0) -> None:
        self._server_pid = server_pid
        self.seconds = 0.0
        self.driver_cpu_seconds = 0.0
        self.server_cpu_seconds = 0.0

    def __enter__(self) -> Self:
        self.server_cpu_seconds -= self._server_cpu_seconds()
        self.driver_cpu_seconds -= time.process_time()
        self.seconds -= time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter()
        self.driver_cpu_seconds += time.process_time()
        self.server_cpu_seconds += self._server_cpu_seconds()

    def _server_cpu_seconds(self) -> float:
        return cpu_seconds(self._server_pid) if self._server_pid else 0.0


def resident_bytes(pid: int) -> int:
    """Resident memory of a process now, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log, for an error message."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def answers_api_versions(host: str, port: int) -> bool:
    """Whether a broker answers ApiVersions v0 without an error: its socket may listen long before it serves."""
    request = struct.pack(">hhih", 18, 0, 1, -1)
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            connection.settimeout(5)
            connection.sendall(struct.pack(">i", len(request)) + request)
            answer = connection.recv(10, socket.MSG_WAITALL)
    except OSError:
        return False
    return len(answer) == 10 and struct.unpack(">iih", answer)[1:] == (1, 0)
