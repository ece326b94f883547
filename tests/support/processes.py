"""Brokers as processes: started on free loopback ports, killed, restarted on the same port and folder, ended with the test.

`RunningServer` is all that a test knows. Behind it stands Penstock, or Apache Kafka when PENSTOCK_TEST_PEER=kafka is set: with that
the expectations of the client tests can be held against the broker that they were written after.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Protocol

from bench.ports import free_ports
from tests.support.deadline import until
from tests.support.requirements import need
from tests.support.wire import Connection, address_of

PEER = os.environ.get("PENSTOCK_TEST_PEER", "penstock")
IS_KAFKA = PEER == "kafka"
START_LIMIT_S = 30.0
STOP_LIMIT_S = 30.0
ADDRESS = re.compile(r"(\d+\.\d+\.\d+\.\d+|localhost):(\d+)")


class RunningServer(Protocol):
    """A broker process and its data folder."""

    @property
    def bootstrap(self) -> str:
        """`host:port`; the same after a restart."""
        ...

    @property
    def data_directory(self) -> Path:
        """The folder with a folder for each partition."""
        ...

    @property
    def pid(self) -> int:
        """The process that runs now."""
        ...

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        ...

    def stop(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        ...

    def start(self) -> None:
        """Start again on the same port and folder; returns when it answers."""
        ...

    def log_text(self) -> str:
        """What it wrote to its log so far."""
        ...


RECORDS_OF_ANY_AGE_STAY = {
    "log.retention.check.interval.ms": "86400000",
    "log.initial.task.delay.ms": "86400000",
}
"""Tests write records of 1970 and of 2015; retention would have them, in some runs and not in others. Who tests it sets both."""


class PenstockServer:
    """`penstock serve` of the environment that runs the tests."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str],
        environment: Mapping[str, str],
        open_files_max: int = 0,
    ) -> None:
        self._open_files_max = open_files_max
        self.data_directory = directory / "data"
        self.log_path = directory / "broker.log"
        (port,) = free_ports(1)
        self._listen = f"127.0.0.1:{port}"
        self.bootstrap = ""
        self._settings = {**RECORDS_OF_ANY_AGE_STAY, **settings}
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        return self._process.pid

    def command(self) -> list[str]:
        """The command line; the port stays its own while it is dead."""
        program = Path(sys.executable).with_name("penstock")
        settings = [part for key, value in self._settings.items() for part in ("--set", f"{key}={value}")]
        limited = ["sh", "-c", f'ulimit -n {self._open_files_max} && exec "$@"', "sh"]
        return [
            *(limited if self._open_files_max else ()),
            str(program),
            "serve",
            "--data-dir",
            str(self.data_directory),
            "--listen",
            self._listen,
            *settings,
        ]

    def start(self) -> None:
        """Start, or start again on the same port and folder; returns when it answers."""
        self.data_directory.parent.mkdir(parents=True, exist_ok=True)
        begin = self.log_path.stat().st_size if self.log_path.exists() else 0
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self._environment},
            )
        self.bootstrap = until(
            lambda: self._announced_address(begin), "the broker's start line", limit_s=START_LIMIT_S
        )
        until(lambda: answers(self.bootstrap), "an answer to ApiVersions", limit_s=START_LIMIT_S)

    def _announced_address(self, begin: int) -> str | None:
        assert self._process is not None
        with self.log_path.open("rb") as log:
            log.seek(begin)
            text = log.read().decode(errors="replace")
        ended = self._process.poll()
        assert ended is None, f"the broker ended with {ended} at start:\n{text[-3000:]}"
        complete = text[: text.rfind("\n") + 1]
        found = ADDRESS.search(complete)
        return None if found is None else f"127.0.0.1:{found.group(2)}"

    def kill(self) -> None:
        """SIGKILL, and wait for the end. No error when it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(STOP_LIMIT_S)

    def log_text(self) -> str:
        """What it wrote to stdout and stderr so far."""
        return self.log_path.read_text(errors="replace")


class KafkaServer:
    """Apache Kafka behind the same handle."""

    def __init__(self, directory: Path, settings: Mapping[str, str], stack: contextlib.ExitStack) -> None:
        from bench.peers.kafka import PeerMissing, kafka_broker

        own = {key: value for key, value in settings.items() if key not in PENSTOCK_ONLY}
        try:
            self._broker = stack.enter_context(
                kafka_broker(own, directory=directory / "kafka", is_measured=False)
            )
        except PeerMissing as missing:
            need(False, str(missing))
            raise
        self.bootstrap = self._broker.bootstrap
        self.data_directory = self._broker.data_directory
        self._process = self._broker.process
        stack.callback(self.kill)

    @property
    def pid(self) -> int:
        """The process that runs now."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        self._process.terminate()
        return self._process.wait(STOP_LIMIT_S)

    def start(self) -> None:
        """Start again; returns when it answers."""
        with self._broker.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._broker.process.args,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._broker.directory,
            )
        until(lambda: answers(self.bootstrap), "an answer to ApiVersions", limit_s=START_LIMIT_S)

    def log_text(self) -> str:
        """Its log so far."""
        return self._broker.log_path.read_text(errors="replace")


PENSTOCK_ONLY = {"write.caching"}


@contextlib.contextmanager
def running_server(
    directory: Path,
    settings: Mapping[str, str] | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    open_files_max: int = 0,
) -> Generator[RunningServer]:
    """A fresh broker whose files are below `directory`; killed when the block is left. It may open `open_files_max` files, if that is given."""
    with contextlib.ExitStack() as stack:
        if IS_KAFKA:
            yield KafkaServer(directory, settings or {}, stack)
            return
        server = PenstockServer(directory, settings or {}, environment or {}, open_files_max)
        stack.callback(server.kill)
        server.start()
        yield server


def answers(bootstrap: str) -> bool:
    """Whether ApiVersions v0 is answered without an error."""
    try:
        with Connection(address_of(bootstrap)) as connection:
            return bool(connection.request("api_versions", 0).error_code == 0)
    except (OSError, AssertionError):
        return False


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until no thread runs: each is stopped, or in a system call from which it will not come back."""
    os.kill(pid, signal.SIGSTOP)

    def is_still() -> bool:
        states = {
            stat.read_text().rpartition(")")[2].split()[0]
            for stat in Path(f"/proc/{pid}/task").glob("*/stat")
        }
        return states <= {"T", "D"}

    until(is_still, f"process {pid} frozen")


def resident_bytes(pid: int) -> int:
    """Resident memory of a process now."""
    return _status_bytes(pid, "VmRSS")


def resident_bytes_max(pid: int) -> int:
    """The most resident memory that a process ever had."""
    return _status_bytes(pid, "VmHWM")


def _status_bytes(pid: int, name: str) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None, f"no {name} of process {pid}"
    return int(found.group(1)) * 1024
