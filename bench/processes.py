"""Processes under measurement: where they run, what they cost, which ports they get. Linux only (`/proc`, CPU affinity).

Owns nothing that lives on: every function leaves the calling process as it found it.
"""

import os
import socket
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


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


def free_ports(count: int) -> list[int]:
    """Loopback ports that were free just now; all are held until the last is found, so that they differ."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def cpu_seconds(pid: int) -> float:
    """User and system time that a process has used so far, all its threads, in seconds (10 ms grain)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def resident_bytes(pid: int) -> int:
    """Resident memory of a process now, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log, for an error message."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
