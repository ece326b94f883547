"""Do quotas hold, and does who goes too fast slow others down? Penstock alone.

    .venv/bin/python -m bench.quotas [--seconds 30] [--rate 2000000] [--clients librdkafka,java] [--data-dir DIR]

Each offender sends or reads as fast as it can for the length of a row, under a quota (`producer_byte_rate`, `consumer_byte_rate`) for the default
client id: librdkafka in a process of its own, and Apache Kafka's perf tools in a JVM. Beside it a well-behaved client with a client id of its own, and
so with a bucket of its own, writes one record of 100 B after the other, 100 a second, and each waits for its ack. Shown are what the offender got,
as a share of its rate times the seconds, and p50 and p99 of the other one; with nobody beside it; and beside the producers without any quota, to
show what they would do.

What a producer got is what the topic's log has grown by in the time that began with its first byte; what a consumer got, the records that it was
handed, as they lie in the log. A bucket begins full, with one second's worth, which is in the figure: 30 s of a quota are 31/30.

The broker has a core to itself where there are two. Not part of `make bench`, for it compares with nothing.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
import trio
from rich.console import Console

from bench.driver import wait_for_topic
from bench.frames import make_batch, produce_answer, produce_request
from bench.peers import PeerFailed, PeerMissing
from bench.peers.kafka import Tool, tool_command
from bench.processes import on_cores, tail
from bench.report import file_system_of, git_state, machine, write_json
from bench.startup import Broker
from bench.subjects import TOPIC_TIMEOUT_S
from penstock.client.admin import Admin
from penstock.client.admin_quotas import QuotaEntity
from penstock.client.admin_values import NewTopic

BENCH = "quotas"
VALUE_SIZE_BYTES = 1000
WRITES_PER_S = 100
WARM_UP_S = 1.0
LIMIT_S = 60.0
POLL_S = 0.01
OFFENDER = "offender"
TOPIC, READ_TOPIC, GOOD_TOPIC = "offended", "read", "well-behaved"
PRODUCED, CONSUMED = "producer_byte_rate", "consumer_byte_rate"
EACH_CLIENT = QuotaEntity(client_id="")


@dataclass(frozen=True, slots=True)
class Row:
    """What one row found. `share` is what the offender got of its rate; 0 where it has none. Latencies in ms."""

    beside: str
    quota: str
    rate: int
    seconds: float
    got_bytes: int
    share: float
    writes: int
    p50_ms: float
    p99_ms: float
    max_ms: float

    def line(self) -> str:
        """A line of the table."""
        share = f"{self.share:>7.1%}" if self.share else f"{'':>7}"
        return (
            f"{self.beside:<28} {self.quota:<19} {self.got_bytes / 1e6:>8.1f} {share}"
            f" {self.p50_ms:>8.2f} {self.p99_ms:>8.2f} {self.max_ms:>8.2f}"
        )


HEADER = f"{'beside':<28} {'quota':<19} {'got MB':>8} {'share':>7} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}"


# The well-behaved client


class WellBehaved:
    """Writes one record after the other at a steady pace until it is stopped."""

    def __init__(self, broker: Broker) -> None:
        self._frame = produce_request(GOOD_TOPIC, make_batch(1, 100).data)
        self._socket = socket.create_connection(broker.address, timeout=LIMIT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stopped = threading.Event()
        self.latencies_s: list[float] = []

    def run(self, seconds: float) -> None:
        """Write for so long."""
        begin = due = time.perf_counter()
        while (now := time.perf_counter()) < begin + seconds:
            if now < due:
                time.sleep(due - now)
            sent = time.perf_counter()
            self._socket.sendall(self._frame)
            answer = self._socket.recv(4096)
            self.latencies_s.append(time.perf_counter() - sent)
            produce_answer(GOOD_TOPIC, len(answer)).check(answer, 0, 0)
            due = max(due + 1 / WRITES_PER_S, sent)

    def close(self) -> None:
        """Leave."""
        self._socket.close()


# The offenders

PRODUCE_FOR_EVER = """
import sys
from confluent_kafka import Producer
producer = Producer({"bootstrap.servers": sys.argv[1], "client.id": sys.argv[2], "linger.ms": 5, "batch.size": 100_000,
                     "queue.buffering.max.kbytes": 4000, "log_level": 0})
value = bytes(int(sys.argv[4]))
while True:
    try:
        producer.produce(sys.argv[3], value)
        producer.poll(0)
    except BufferError:
        producer.poll(0.01)
"""
CONSUME_FOR_EVER = """
import sys
from confluent_kafka import Consumer, TopicPartition
consumer = Consumer({"bootstrap.servers": sys.argv[1], "client.id": sys.argv[2], "group.id": "offender", "log_level": 0,
                     "enable.auto.commit": False})
consumer.assign([TopicPartition(sys.argv[3], 0, 0)])
count = 0
while True:
    count += len(consumer.consume(500, 0.1))
    print(count, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Offender:
    """How to start one, what it is held by, and how it tells how many records it was handed (a producer does not)."""

    name: str
    quota: str
    command: Callable[[Broker, Path], Sequence[str]]
    count_of: Callable[[str], int] | None = None


def _librdkafka(program: str, topic: str) -> Callable[[Broker, Path], Sequence[str]]:
    def command(broker: Broker, scratch: Path) -> Sequence[str]:
        return [sys.executable, "-c", program, broker.bootstrap, OFFENDER, topic, str(VALUE_SIZE_BYTES)]

    return command


def _java_producer(broker: Broker, scratch: Path) -> Sequence[str]:
    size = ("--record-size", str(VALUE_SIZE_BYTES), "--num-records", "1000000000", "--throughput", "-1")
    return tool_command(
        Tool.PRODUCER_PERF_TEST,
        *("--topic", TOPIC, *size),
        *("--producer-props", f"bootstrap.servers={broker.bootstrap}", f"client.id={OFFENDER}"),
        jvm=("-Xmx256M",),
    )


def _java_consumer(broker: Broker, scratch: Path) -> Sequence[str]:
    config = scratch / "consumer.properties"
    config.write_text(f"client.id={OFFENDER}\n")
    return tool_command(
        Tool.CONSUMER_PERF_TEST,
        *("--bootstrap-server", broker.bootstrap, "--topic", READ_TOPIC, "--messages", "1000000000"),
        *("--consumer.config", str(config), "--timeout", "100000"),
        *("--show-detailed-stats", "--reporting-interval", "250", "--hide-header"),
        jvm=("-Xmx256M",),
    )


def _java_count(line: str) -> int:
    """time, thread, MB, MB/s, messages, ...: those of the perf tool."""
    fields = line.split(", ")
    return int(fields[4]) if len(fields) > 5 and fields[4].isdigit() else 0


OFFENDERS = {
    "librdkafka": (
        Offender("librdkafka, producing", PRODUCED, _librdkafka(PRODUCE_FOR_EVER, TOPIC)),
        Offender("librdkafka, consuming", CONSUMED, _librdkafka(CONSUME_FOR_EVER, READ_TOPIC), int),
    ),
    "java": (
        Offender("Java, producing", PRODUCED, _java_producer),
        Offender("Java, consuming", CONSUMED, _java_consumer, _java_count),
    ),
}


class RunningOffender:
    """A process that goes as fast as it may."""

    def __init__(self, offender: Offender, broker: Broker, scratch: Path) -> None:
        self._offender = offender
        self._segments = scratch / "data" / f"{TOPIC}-0"
        self._before = self._log_bytes()
        self._log = scratch / "offender.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                offender.command(broker, scratch),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._count = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if self._offender.count_of is not None:
                    self._count = max(self._count, self._offender.count_of(line.decode()))

    def _log_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._segments.glob("*.log"))

    def got(self, record_bytes: float) -> int:
        """Bytes so far; records of the topic that is read take `record_bytes` each."""
        if self._offender.count_of is None:
            return self._log_bytes() - self._before
        return int(self._count * record_bytes)

    def await_first(self) -> None:
        """Return when it has got something."""
        deadline = time.perf_counter() + LIMIT_S
        while not self.got(1.0):
            if self._process.poll() is not None or time.perf_counter() > deadline:
                raise PeerFailed(f"{self._offender.name} does nothing:\n{tail(self._log)}")
            time.sleep(POLL_S)

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        self._reader.join()


# The rows


@dataclass(frozen=True, slots=True)
class Plan:
    """What the options say."""

    seconds: float
    rate: int
    clients: Sequence[str]


class Bench:
    """One broker, and the rows that were measured on it."""

    def __init__(self, plan: Plan, broker: Broker, scratch: Path, console: Console) -> None:
        self._plan = plan
        self._broker = broker
        self._scratch = scratch
        self._console = console
        self._record_bytes = 0.0
        self.rows: list[Row] = []

    def run(self) -> None:
        """All rows."""
        trio.run(self._prepare)
        self._measure(None, 0)
        offenders = [each for name in self._plan.clients for each in OFFENDERS[name]]
        for offender in offenders:
            self._measure(offender, self._plan.rate)
        for offender in offenders:
            if offender.quota == PRODUCED:
                self._measure(offender, 0)

    async def _prepare(self) -> None:
        async with Admin(self._broker.bootstrap) as admin:
            names = (TOPIC, READ_TOPIC, GOOD_TOPIC)
            await admin.create_topics([NewTopic(name=name, partition_count=1) for name in names])
        for name in (TOPIC, READ_TOPIC, GOOD_TOPIC):
            wait_for_topic(self._broker.address, name, TOPIC_TIMEOUT_S)
        if any(each.quota == CONSUMED for name in self._plan.clients for each in OFFENDERS[name]):
            self._fill(int(self._plan.rate * (self._plan.seconds + 5)))

    def _fill(self, wanted_bytes: int) -> None:
        """Give consumers more to read than they can have."""
        from confluent_kafka import Producer

        producer = Producer(
            {"bootstrap.servers": self._broker.bootstrap, "linger.ms": 5, "batch.size": 100_000}
        )
        count = wanted_bytes // VALUE_SIZE_BYTES
        for number in range(count):
            producer.produce(READ_TOPIC, bytes(VALUE_SIZE_BYTES))
            if number % 1000 == 0:
                producer.flush()
        producer.flush()
        log_bytes = sum(p.stat().st_size for p in (self._scratch / "data" / f"{READ_TOPIC}-0").glob("*.log"))
        self._record_bytes = log_bytes / count

    def _measure(self, offender: Offender | None, rate: int) -> None:
        trio.run(self._set_quota, offender, rate)
        seconds = self._plan.seconds if offender is not None and rate else self._plan.seconds / 3
        client = WellBehaved(self._broker)
        try:
            client.run(min(WARM_UP_S, seconds))
            client.latencies_s.clear()
            with self._beside(offender) as got:
                client.run(seconds)
                got_bytes = got()
        finally:
            client.close()
        cuts = statistics.quantiles(client.latencies_s, n=100)
        row = Row(
            "nobody" if offender is None else offender.name,
            "" if offender is None or not rate else f"{offender.quota}",
            rate,
            seconds,
            got_bytes,
            got_bytes / (rate * seconds) if rate else 0.0,
            len(client.latencies_s),
            cuts[49] * 1000,
            cuts[98] * 1000,
            max(client.latencies_s) * 1000,
        )
        self.rows.append(row)
        self._console.print(row.line(), highlight=False)

    @contextmanager
    def _beside(self, offender: Offender | None) -> Generator[Callable[[], int]]:
        if offender is None:
            yield lambda: 0
            return
        running = RunningOffender(offender, self._broker, self._scratch)
        try:
            running.await_first()
            yield lambda: running.got(self._record_bytes)
        finally:
            running.end()

    async def _set_quota(self, offender: Offender | None, rate: int) -> None:
        """One quota, for each client id, or none."""
        wanted: dict[str, float | None] = {PRODUCED: None, CONSUMED: None}
        if offender is not None and rate:
            wanted[offender.quota] = rate
        async with Admin(self._broker.bootstrap) as admin:
            (outcome,) = (await admin.alter_quotas({EACH_CLIENT: wanted})).values()
            if outcome is not None:
                raise outcome


def available(clients: Sequence[str], console: Console) -> list[str]:
    """Those that can be had here."""
    found: list[str] = []
    for name in clients:
        try:
            if name == "java":
                tool_command(Tool.PRODUCER_PERF_TEST)
            found.append(name)
        except PeerMissing as missing:
            console.print(f"{name} is left out: {missing}")
    return found


@click.command(context_settings={"show_default": True})
@click.option("--seconds", default=30.0, help="Of each row with a quota; a third of it for the others.")
@click.option("--rate", default=2_000_000, help="Bytes a second.")
@click.option("--clients", default="librdkafka,java", help="Who offends.")
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the broker writes: on a real disk.")
@click.option("--results", default="bench/results/local", help="Where the JSON goes.")
def main(seconds: float, rate: int, clients: str, data_dir: str, results: str) -> None:
    """Measure whether quotas hold."""
    console = Console(width=120)
    plan = Plan(seconds, rate, available(clients.split(","), console))
    described = machine()
    with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch:
        broker = Broker(Path(scratch), [])
        with on_cores({0}):
            broker.start(0)
        try:
            console.print(HEADER, highlight=False)
            bench = Bench(plan, broker, Path(scratch), console)
            with on_cores({1}):
                bench.run()
        finally:
            broker.stop()
    document = {
        "format": 1,
        "bench": BENCH,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "machine": described,
        "run": {**asdict(plan), "file_system": file_system_of(Path(data_dir))},
        "rows": [asdict(row) for row in bench.rows],
    }
    console.print(f"written to {os.path.relpath(write_json(document, Path(results)))}")


if __name__ == "__main__":
    main()
