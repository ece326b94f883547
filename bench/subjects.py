"""What is measured: the bare loop, Penstock and Apache Kafka, each as a process on its own core, seen through one class.

Owns how each is started with which durability, and how a topic comes and goes. Knows nothing of what is measured.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.driver import Address, wait_for_topic
from bench.peers import PeerFailed, PeerMissing
from bench.peers.kafka import kafka_broker, kafka_version
from bench.ports import free_ports
from bench.processes import answers_api_versions, on_cores, tail

START_TIMEOUT_S = 30
TOPIC_TIMEOUT_S = 30

CACHING = "page cache"
"""Acked once the bytes are in the page cache: `write.caching=true`, Kafka's default."""
DURABLE = "synced"
"""Acked once an fdatasync covers the bytes: `write.caching=false`, Kafka with `flush.messages=1`."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running server. `settings` says its durability in its own words."""

    name: str
    durability: str
    settings: str
    version: str
    address: Address
    pid: int
    data_directory: Path
    has_topics: bool
    log_path: Path | None = None

    @property
    def bootstrap(self) -> str:
        """`host:port`."""
        return f"{self.address[0]}:{self.address[1]}"

    def create_topic(self, topic: str) -> None:
        """A new topic of one partition, ready for records. The bare loop takes any name."""
        if not self.has_topics:
            return
        from confluent_kafka.cimpl import NewTopic

        admin = self._admin()  # held: its futures end with it
        created = admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
        created[topic].result(TOPIC_TIMEOUT_S)
        wait_for_topic(self.address, topic, TOPIC_TIMEOUT_S)

    def delete_topic(self, topic: str) -> None:
        """Remove the topic and wait until its files are gone: their removal must not fall into the next measurement."""
        if not self.has_topics:
            for path in self.data_directory.iterdir():
                os.truncate(path, 0)
            return
        admin = self._admin()
        admin.delete_topics([topic])[topic].result(TOPIC_TIMEOUT_S)
        deadline = time.monotonic() + TOPIC_TIMEOUT_S
        while any(self.data_directory.glob(f"{topic}-*")) and time.monotonic() < deadline:
            time.sleep(0.02)

    def check_alive(self) -> None:
        """Raise PeerFailed with the end of its log when the process is gone."""
        # A zombie keeps its /proc entry; the state stands after the name in parentheses.
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            state = "X"
        if state in "ZX":
            raise PeerFailed(f"{self.name} ended:\n{tail(self.log_path) if self.log_path else ''}")

    def _admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})


@contextmanager
def bare_loop(durability: str, directory: Path, cores: Sequence[int]) -> Generator[Subject]:
    """The yardstick. It never syncs: PeerMissing where that is asked for."""
    if durability != CACHING:
        raise PeerMissing("the bare loop does not sync")
    data = directory / "bare"
    data.mkdir()
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bench.bare_loop", "--port", str(port), "--file", str(data / "log")]
    log_path = directory / "bare.log"
    with _process(command, port, log_path, cores) as pid:
        yield Subject("bare", durability, "no sync", "-", ("127.0.0.1", port), pid, data, False, log_path)


@contextmanager
def penstock(durability: str, directory: Path, cores: Sequence[int]) -> Generator[Subject]:
    """`penstock serve` from this tree's environment."""
    program = Path(sys.executable).with_name("penstock")
    if not program.exists():
        raise PeerMissing(f"penstock is not installed beside {sys.executable}: make run")
    settings = f"write.caching={'true' if durability == CACHING else 'false'}"
    data = directory / "penstock"
    (port,) = free_ports(1)
    command = [
        str(program),
        "serve",
        "--data-dir",
        str(data),
        "--listen",
        f"127.0.0.1:{port}",
        "--set",
        "log.segment.delete.delay.ms=0",
        "--set",
        settings,
    ]
    log_path = directory / "penstock.log"
    with _process(command, port, log_path, cores) as pid:
        import penstock as package

        version = str(getattr(package, "__version__", "-"))
        address = ("127.0.0.1", port)
        yield Subject("penstock", durability, settings, version, address, pid, data, True, log_path)


@contextmanager
def kafka(durability: str, directory: Path, cores: Sequence[int]) -> Generator[Subject]:
    """Apache Kafka with its own defaults but for the sync."""
    properties = {"log.segment.delete.delay.ms": "0", "auto.create.topics.enable": "false"}
    settings = "flush.messages unset"
    if durability == DURABLE:
        properties["log.flush.interval.messages"] = "1"
        settings = "flush.messages=1"
    with kafka_broker(properties, directory=directory / "kafka", cores=cores) as broker:
        yield Subject(
            "kafka",
            durability,
            settings,
            kafka_version(),
            (broker.host, broker.port),
            broker.pid,
            broker.data_directory,
            True,
            broker.log_path,
        )


Starter = Callable[[str, Path, Sequence[int]], Any]
STARTERS: dict[str, Starter] = {"bare": bare_loop, "penstock": penstock, "kafka": kafka}


@contextmanager
def _process(command: Sequence[str], port: int, log_path: Path, cores: Sequence[int]) -> Generator[int]:
    """Run a server until the block ends; the block starts when it answers ApiVersions. Raises PeerFailed."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with log_path.open("wb") as log, on_cores(cores):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers_api_versions("127.0.0.1", port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PeerFailed(f"{Path(command[0]).name} did not start:\n{tail(log_path)}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.kill()
        process.wait()
