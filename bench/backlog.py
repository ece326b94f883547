"""What do bounds of the backlog cost on many partitions, far from the bound? Penstock beside itself without them.

    .venv/bin/python -m bench.backlog [--rounds 7] [--partitions 1000] [--seconds 2]

One topic, whose configs change between the slices of a round: without a bound, with a bound in records, in bytes, and in age, all far away. Frames with one
record of 100 B go to the partitions in turn, several in flight, while a group commits the ends of all partitions, each time that every partition has got four
(also where nothing is bounded; by requests and not by time, so that a request has its share of the commits' cost at any rate). Shown are medians, and ratios of medians with the lowest and highest of a single round; of the CPU time also the least, which a busy
machine disturbs least.

Then starts, in turns: of a folder with as many partitions without a bound, and of one with bounds and a group that has committed to all. To the first
answer, and to the first ack in the last partition, which a bounded one gives when the groups are read.
"""

import importlib
import os
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench.driver import LoadFailed
from bench.frames import CORRELATION_ID_POSITION, make_batch, produce_answer, produce_request
from bench.processes import Meter, on_cores
from bench.report import file_system_of, git_state, machine, write_json
from bench.startup import Broker

RESULTS = Path(__file__).parent / "results" / "local"
TOPIC = "topic-0"
GROUP = "g"
FAR = 10**12
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "no bound": {},
    "records": {"backlog.max.records": str(FAR)},
    "bytes": {"backlog.max.bytes": str(FAR)},
    "age": {"backlog.max.age.ms": str(FAR)},
}
BOUNDS = ("backlog.max.records", "backlog.max.bytes", "backlog.max.age.ms", "backlog.groups")
WINDOW = 32
SETTLE_S = 0.3
LIMIT_S = 60.0
_SIZE = struct.Struct(">i")


@dataclass(slots=True)
class Slice:
    """What one variant did in one round."""

    requests_per_s: float
    cpu_us_per_request: float
    p99_us: float


@dataclass(slots=True)
class Load:
    """Frames for all partitions in turn, and the commits beside them, over two connections."""

    address: tuple[str, int]
    partitions: int
    commit_requests: int
    ends: list[int] = field(init=False)
    """What was acked by partition."""

    def __post_init__(self) -> None:
        self.ends = [0] * self.partitions
        batch = make_batch(1, 100).data
        self._frames = [bytearray(produce_request(TOPIC, batch, partition=n)) for n in range(self.partitions)]
        for number, frame in enumerate(self._frames):
            _SIZE.pack_into(frame, CORRELATION_ID_POSITION, number)
        self._producing = socket.create_connection(self.address, timeout=LIMIT_S)
        self._producing.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._committing = socket.create_connection(self.address, timeout=LIMIT_S)
        self._next = 0
        self._commit_is_open = False
        self._find_coordinator()

    _frames: list[bytearray] = field(init=False)
    _producing: socket.socket = field(init=False)
    _committing: socket.socket = field(init=False)
    _next: int = field(init=False)
    _commit_is_open: bool = field(init=False)

    def _find_coordinator(self) -> None:
        """Ask for it (version 0) until there is one: the first question makes the topic."""
        request = struct.pack(">hhi", 10, 0, 1) + _text("bench") + _text(GROUP)
        until = time.perf_counter() + LIMIT_S
        while time.perf_counter() < until:
            self._committing.sendall(_SIZE.pack(len(request)) + request)
            (size,) = _SIZE.unpack(self._committing.recv(4, socket.MSG_WAITALL) or _lost())
            (code,) = struct.unpack_from(">h", self._committing.recv(size, socket.MSG_WAITALL), 4)
            if not code:
                return
            time.sleep(0.01)
        raise LoadFailed("there is no coordinator")

    def close(self) -> None:
        """End both connections."""
        self._producing.close()
        self._committing.close()

    def run(self, seconds: float, server_pid: int, least: int = 0) -> Slice:
        """Go on for so long, and for `least` requests; all that was sent is answered at the end. Raises LoadFailed."""
        latencies: list[float] = []
        sent: list[float] = []
        with Meter(server_pid) as meter:
            begin = time.perf_counter()
            commit_at = self.commit_requests
            first = self._next
            self._send(WINDOW, sent)
            buffer = bytearray()
            size = 0
            while len(latencies) < len(sent):
                buffer += self._producing.recv(1 << 16) or _lost()
                now = time.perf_counter()
                if not size:
                    size = 4 + _SIZE.unpack_from(buffer)[0]
                answer = produce_answer(TOPIC, size)
                done = len(buffer) // size
                for place in range(done):
                    number = (first + len(latencies)) % self.partitions
                    try:
                        answer.check(buffer, place * size, number)
                    except ValueError as error:
                        raise LoadFailed(str(error)) from None
                    latencies.append(now - sent[len(latencies)])
                    self.ends[number] += 1
                del buffer[: done * size]
                if now - begin < seconds or len(latencies) < least:
                    self._send(done, sent)
                if len(latencies) >= commit_at:
                    self.commit()
                    commit_at += self.commit_requests
            self._end_commit()
        return Slice(
            len(latencies) / meter.seconds,
            1e6 * meter.server_cpu_seconds / len(latencies),
            1e6 * sorted(latencies)[int(len(latencies) * 0.99)],
        )

    def _send(self, count: int, sent: list[float]) -> None:
        frames = [self._frames[(self._next + each) % self.partitions] for each in range(count)]
        self._next = (self._next + count) % self.partitions
        sent += [time.perf_counter()] * count
        if frames:
            self._producing.sendall(b"".join(frames))

    def commit(self, *, wait: bool = False) -> None:
        """Commit the ends of all partitions (OffsetCommit 2, outside of any generation); the last one's answer is read first."""
        self._end_commit()
        body = _text(GROUP) + struct.pack(">i", -1) + _text("") + struct.pack(">qi", -1, 1) + _text(TOPIC)
        body += struct.pack(">i", self.partitions)
        body += b"".join(struct.pack(">iqh", number, end, 0) for number, end in enumerate(self.ends))
        head = struct.pack(">hhi", 8, 2, 1) + _text("bench")
        self._committing.sendall(_SIZE.pack(len(head) + len(body)) + head + body)
        self._commit_is_open = True
        if wait:
            self._end_commit()

    def _end_commit(self) -> None:
        if not self._commit_is_open:
            return
        (size,) = _SIZE.unpack(self._committing.recv(4, socket.MSG_WAITALL) or _lost())
        answer = self._committing.recv(size, socket.MSG_WAITALL)
        first = 4 + 4 + 2 + len(TOPIC) + 4
        codes = {struct.unpack_from(">h", answer, place + 4)[0] for place in range(first, size, 6)}
        if codes != {0}:
            raise LoadFailed(f"OffsetCommit was answered with {sorted(codes)}")
        self._commit_is_open = False


def _lost() -> bytes:
    raise LoadFailed("the broker closed the connection")


def _text(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


class Topic:
    """The topic and its configs, through librdkafka's admin client."""

    def __init__(self, bootstrap: str, partitions: int) -> None:
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        self._admin: Any = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
        topic = NewTopic(TOPIC, num_partitions=partitions, replication_factor=1)
        self._admin.create_topics([topic])[TOPIC].result(LIMIT_S)

    def bound(self, configs: Mapping[str, str]) -> None:
        """Let these bounds hold, and no others."""
        kafka: Any = importlib.import_module("confluent_kafka.admin")  # its stubs export none of these
        operation = kafka.AlterConfigOpType
        wanted = {**configs, "backlog.groups": GROUP} if configs else {}
        entries = [
            kafka.ConfigEntry(
                name,
                wanted.get(name, ""),
                incremental_operation=operation.SET if name in wanted else operation.DELETE,
            )
            for name in BOUNDS
        ]
        resource = kafka.ConfigResource(kafka.ResourceType.TOPIC, TOPIC, incremental_configs=entries)
        for done in self._admin.incremental_alter_configs([resource]).values():
            done.result(LIMIT_S)


@contextmanager
def running(folder: Path, cores: Sequence[int]) -> Generator[Broker]:
    """A broker on these cores, with acks from the page cache: the bound's cost is not to drown in syncs."""
    folder.mkdir(exist_ok=True)
    broker = Broker(folder, ["write.caching=true"])
    with on_cores(cores):
        broker.start(0)
    try:
        yield broker
    finally:
        broker.stop()


def measure(
    folder: Path,
    cores: Sequence[int],
    drivers: Sequence[int],
    partitions: int,
    rounds: int,
    seconds: float,
    commit_requests: int,
) -> dict[str, list[Slice]]:
    """Each variant once in each round, beginning with another one each time; one round before them warms up."""
    names = list(VARIANTS)
    found: dict[str, list[Slice]] = {name: [] for name in names}
    with running(folder, cores) as broker, on_cores(drivers):
        topic = Topic(broker.bootstrap, partitions)
        load = Load(broker.address, partitions, commit_requests)
        try:
            load.run(0, broker.pid, least=partitions)
            load.commit(wait=True)
            for number in range(-1 if rounds > 1 else 0, rounds):
                for place in range(len(names)):
                    name = names[(number + place) % len(names)]
                    topic.bound(VARIANTS[name])
                    load.run(min(SETTLE_S, seconds), broker.pid, least=partitions)
                    measured = load.run(seconds, broker.pid)
                    if number >= 0:
                        found[name].append(measured)
        finally:
            load.close()
    return found


def start_times(
    folder: Path, cores: Sequence[int], partitions: int, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds to the first answer, and to the first ack in the last partition, without a bound and with all three."""
    brokers: dict[str, Broker] = {}
    every = {name: text for configs in VARIANTS.values() for name, text in configs.items()}
    for name, configs in {"no bound": {}, "all bounds": every}.items():
        with running(folder / name, cores) as broker:
            topic = Topic(broker.bootstrap, partitions)
            topic.bound(configs)
            load = Load(broker.address, partitions, 4 * partitions)
            load.run(0, broker.pid, least=partitions)
            load.commit(wait=True)
            load.close()
            brokers[name] = broker
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in brokers}
    frame = produce_request(TOPIC, make_batch(1, 100).data, partition=partitions - 1)
    for number in range(-1 if rounds > 1 else 0, rounds):
        for name, broker in brokers.items():
            begin = time.perf_counter()
            with on_cores(cores):
                started = broker.start(1)
            try:
                acked_s = _first_ack(broker.address, frame) - begin
            finally:
                broker.stop()
            if number >= 0:
                found[name].append((started.first_answer_s, acked_s))
    return found


def _first_ack(address: tuple[str, int], frame: bytes) -> float:
    """When the request was acked, by perf_counter. Tried again while the broker does not lead the partition yet."""
    until = time.perf_counter() + LIMIT_S
    with socket.create_connection(address, timeout=LIMIT_S) as connection:
        while True:
            connection.sendall(frame)
            (size,) = _SIZE.unpack(connection.recv(4, socket.MSG_WAITALL) or _lost())
            answer = _SIZE.pack(size) + connection.recv(size, socket.MSG_WAITALL)
            try:
                produce_answer(TOPIC, len(answer)).check(answer, 0, 0)
            except ValueError as error:
                if time.perf_counter() > until:
                    raise LoadFailed(str(error)) from None
                time.sleep(0.001)
            else:
                return time.perf_counter()


def rows_of(found: Mapping[str, Sequence[Slice]]) -> list[dict[str, object]]:
    """Medians by variant, with the ratios to the first one."""
    base = next(iter(found.values()))
    rows: list[dict[str, object]] = []
    for name, slices in found.items():
        row: dict[str, object] = {"variant": name, "durability": "page cache"}
        for metric in Slice.__slots__:
            mine = [float(getattr(each, metric)) for each in slices]
            theirs = [float(getattr(each, metric)) for each in base]
            single = [a / b for a, b in zip(mine, theirs, strict=True)]
            row[metric] = round(statistics.median(mine), 1)
            row[f"{metric}_ratio"] = round(statistics.median(mine) / statistics.median(theirs), 3)
            row[f"{metric}_ratios"] = [round(min(single), 3), round(max(single), 3)]
        row["cpu_us_per_request_least"] = round(min(each.cpu_us_per_request for each in slices), 1)
        rows.append(row)
    return rows


def _show(rows: Sequence[Mapping[str, Any]], starts: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        print(
            f"{row['variant']:<10} {row['requests_per_s']:9,.0f} requests/s"
            f"  {_ratio(row, 'requests_per_s')}   {row['cpu_us_per_request']:6.1f} µs CPU/request"
            f"  {_ratio(row, 'cpu_us_per_request')}  least {row['cpu_us_per_request_least']:.1f}   p99 {row['p99_us']:,.0f} µs  {_ratio(row, 'p99_us')}"
        )
    for row in starts:
        print(
            f"start, {row['variant']:<10}  first answer {row['first_answer_ms']:.0f} ms, first ack {row['first_ack_ms']:.0f} ms"
        )


def _ratio(row: Mapping[str, Any], metric: str) -> str:
    low, high = row[f"{metric}_ratios"]
    return f"{row[f'{metric}_ratio']:.3f} ({low:.2f} to {high:.2f})"


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=7, help="Rounds that count; one before them warms up.")
@click.option("--partitions", default=1000, help="Of the topic.")
@click.option("--seconds", default=2.0, help="Of each slice.")
@click.option("--per-commit", default=4, help="Requests to each partition between two commits to all.")
@click.option("--starts", default=7, help="Starts of each folder that count; 0 leaves them out.")
@click.option("--broker-cores", default="0", help="Cores of the broker.")
@click.option("--driver-cores", default="1", help="Cores of the load.")
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the broker writes.")
@click.option("--results", default=str(RESULTS), help="Folder for the JSON.")
def main(
    rounds: int,
    partitions: int,
    seconds: float,
    per_commit: int,
    starts: int,
    broker_cores: str,
    driver_cores: str,
    data_dir: str,
    results: str,
) -> None:
    """Measure what bounds cost that are far away."""
    cores = [int(part) for part in broker_cores.split(",") if part]
    drivers = [int(part) for part in driver_cores.split(",") if part]
    with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch:
        commit_requests = per_commit * partitions
        rows = rows_of(
            measure(Path(scratch, "load"), cores, drivers, partitions, rounds, seconds, commit_requests)
        )
        times = start_times(Path(scratch), cores, partitions, starts) if starts else {}
    start_rows: list[dict[str, object]] = [
        {
            "variant": name,
            "first_answer_ms": round(1000 * statistics.median(first for first, _ in each), 1),
            "first_ack_ms": round(1000 * statistics.median(acked for _, acked in each), 1),
        }
        for name, each in times.items()
    ]
    _show(rows, start_rows)
    document: dict[str, object] = {
        "format": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "machine": machine(),
        "run": {
            "bench": "backlog",
            "rounds": rounds,
            "partitions": partitions,
            "seconds": seconds,
            "per_commit": per_commit,
            "starts": starts,
            "broker_cores": cores,
            "file_system": file_system_of(Path(data_dir)),
        },
        "rows": rows,
        "starts": start_rows,
    }
    print(f"written to {os.path.relpath(write_json(document, Path(results)))}")


if __name__ == "__main__":
    main()
