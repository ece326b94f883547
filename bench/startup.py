"""How long does a start take, and how much memory does a broker hold? Penstock alone, with its defaults.

    .venv/bin/python -m bench.startup [--rounds 10] [--topics 100] [--gigabytes 1]

Start: from the fork of `penstock serve` to the first answer to ApiVersions, and to a Metadata answer that names a leader for every topic;
after a clean stop, with a warm cache. Memory: resident after a start with all topics (idle), and the most that was ever resident while data
is produced in frames of 1 MB and by librdkafka, and consumed by both. Prints medians, with the lowest and the highest; not part of
`make bench`, for it compares with nothing.
"""

import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench import driver, librdkafka
from bench.driver import Limits
from bench.frames import make_batch_of_size
from bench.ports import free_ports
from bench.processes import answers_api_versions, resident_bytes, tail

LIMIT_S = 30.0
POLL_S = 0.001
MB = 1_000_000
VALUE_SIZE_BYTES = 1_000


class NotStarted(Exception):
    """The broker ended, or did not answer in time."""


@dataclass(frozen=True, slots=True)
class Start:
    """One start in seconds since the fork."""

    first_answer_s: float
    all_leaders_s: float
    resident_bytes: int


class Broker:
    """`penstock serve` on one port and folder, started and stopped over and over."""

    def __init__(self, directory: Path, settings: Sequence[str]) -> None:
        (port,) = free_ports(1)
        self.address = ("127.0.0.1", port)
        self.bootstrap = f"127.0.0.1:{port}"
        self.log_path = directory / "broker.log"
        program = str(Path(sys.executable).with_name("penstock"))
        self._command = [program, "serve", "--data-dir", str(directory / "data"), "--listen", self.bootstrap]
        for setting in settings:
            self._command += ["--set", setting]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self, topic_count: int) -> Start:
        """Start, and measure until `topic_count` topics have leaders. Raises NotStarted."""
        with self.log_path.open("ab") as log:
            begin = time.perf_counter()
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self._wait(lambda: answers_api_versions(*self.address), begin)
            first_answer_s = time.perf_counter() - begin
            self._wait(lambda: leader_count(self.address) >= topic_count, begin)
        return Start(first_answer_s, time.perf_counter() - begin, resident_bytes(self.pid))

    def _wait(self, event: Any, begin: float) -> None:
        assert self._process is not None
        while not event():
            if self._process.poll() is not None or time.perf_counter() - begin > LIMIT_S:
                raise NotStarted(tail(self.log_path))
            time.sleep(POLL_S)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(LIMIT_S)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(LIMIT_S)

    def resident_bytes_max(self) -> int:
        """The most that was ever resident."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise NotStarted("no VmHWM")


def leader_count(address: tuple[str, int]) -> int:
    """Topics whose partition 0 has a leader, by Metadata v1 of all topics."""
    request = struct.pack(">hhihi", 3, 1, 1, -1, -1)
    with socket.create_connection(address, timeout=LIMIT_S) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))
        answer = connection.recv(size, socket.MSG_WAITALL)
    position = 4
    (brokers,) = struct.unpack_from(">i", answer, position)
    position += 4
    for _ in range(brokers):
        position = _skip_text(answer, position + 4) + 4
        position = _skip_text(answer, position)
    (topics,) = struct.unpack_from(">i", answer, position + 4)
    position += 8
    led = 0
    for _ in range(topics):
        position = _skip_text(answer, position + 2) + 1
        (partitions,) = struct.unpack_from(">i", answer, position)
        position += 4
        for _ in range(partitions):
            error, index, leader = struct.unpack_from(">hii", answer, position)
            led += index == 0 and error == 0 and leader >= 0
            position += 10
            for _ in range(2):
                (count,) = struct.unpack_from(">i", answer, position)
                position += 4 + 4 * count
    return led


def _skip_text(answer: bytes, position: int) -> int:
    (size,) = struct.unpack_from(">h", answer, position)
    return position + 2 + max(int(size), 0)


def create_topics(bootstrap: str, count: int) -> None:
    """`count` topics of one partition, with a record each."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin: Any = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    names = [f"topic-{number}" for number in range(count)]
    created = admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1) for name in names])
    for future in created.values():
        future.result(LIMIT_S)
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for name in names:
        producer.produce(name, b"x", partition=0)
    producer.flush(LIMIT_S)


def move(broker: Broker, size_bytes: int) -> None:
    """Produce and consume `size_bytes` in frames of 1 MB, then as much by librdkafka in records of 1 KB."""
    batch = make_batch_of_size(1_000_000, VALUE_SIZE_BYTES)
    limits = Limits(seconds=600.0, bytes_max=size_bytes, requests_max=1 << 40)
    driver.produce(broker.address, "topic-0", batch, window=5, limits=limits)
    end = librdkafka.end_offset(broker.bootstrap, "topic-0")
    driver.fetch(broker.address, "topic-0", end_offset=end, limits=limits)
    count = size_bytes // VALUE_SIZE_BYTES
    value = os.urandom(VALUE_SIZE_BYTES)
    librdkafka.produce_records(broker.bootstrap, "topic-1", value=value, record_count=count, seconds=600.0)
    librdkafka.consume_records(broker.bootstrap, "topic-1", record_count=count, seconds=600.0)


def _line(name: str, values: Sequence[float], unit: str) -> str:
    return f"{name:<44} {statistics.median(values):8.1f} {unit}   ({min(values):.1f} to {max(values):.1f})"


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=10, help="Starts that count; one before them warms the cache.")
@click.option("--topics", default=100, help="Topics of one partition.")
@click.option("--gigabytes", default=1.0, help="Data in each of the two loads; 0 leaves them out.")
@click.option("--set", "settings", multiple=True, help="A broker setting, key=value.")
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the broker writes.")
def main(rounds: int, topics: int, gigabytes: float, settings: Sequence[str], data_dir: str) -> None:
    """Time starts and measure memory."""
    with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch:
        broker = Broker(Path(scratch), settings)
        broker.start(0)
        try:
            create_topics(broker.bootstrap, topics)
            broker.stop()
            broker.start(topics)
            starts: list[Start] = []
            for _ in range(rounds):
                broker.stop()
                starts.append(broker.start(topics))
            print(
                f"{topics} topics of one partition, after a clean stop; {rounds} starts {' '.join(settings)}"
            )
            print(_line("start to first answer", [1000 * each.first_answer_s for each in starts], "ms"))
            print(
                _line(
                    "start to a leader for every topic", [1000 * each.all_leaders_s for each in starts], "ms"
                )
            )
            print(_line("resident, idle", [each.resident_bytes / MB for each in starts], "MB"))
            if gigabytes:
                move(broker, int(gigabytes * 1_000_000_000))
                name = f"most resident, {gigabytes:g} GB in and out, twice"
                print(_line(name, [broker.resident_bytes_max() / MB], "MB"))
                print(_line("resident after it", [resident_bytes(broker.pid) / MB], "MB"))
        finally:
            broker.stop()


if __name__ == "__main__":
    main()
