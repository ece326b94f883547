"""What do writers notice when a cluster grows and shrinks? Three brokers with etcd on this machine; a fourth joins, and the first is drained.

    .venv/bin/python -m bench.scaling [--gigabytes 2] [--rate 2000] [--partitions 12] [--throttle 50MB] [--data-dir DIR]

The topics are filled, and librdkafka writes records of 1 kB at a steady rate with acks=all, while `penstock cluster rebalance` and then
`penstock cluster drain 1` move partitions. Shown for each phase: time from a record's handing over to its ack (linger 1 ms), median, p99 and longest; how much
was moved how fast; and how many records failed, which must be none. Once as fast as it goes, once with `--throttle`. All brokers share the machine's cores
with the writer, so the figures are of a busy machine.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench.clusters import COUNT, ClusterSubject, Node, create_topic, penstock_cluster
from bench.peers import PeerFailed, PeerMissing
from bench.report import file_system_of, git_state, machine, write_json
from bench.subjects import CACHING, DURABLE

TOPIC = "scaled"
VALUE = b"x" * 1000
LIMIT_S = 1800.0


class SteadyWriter:
    """Writes at a rate to all partitions in turn until `stop`; keeps when each record was handed over, and how long its ack took."""

    def __init__(self, bootstrap: str, partition_count: int, rate_per_s: int) -> None:
        from confluent_kafka import Producer

        self.acks: list[tuple[float, float]] = []
        """Monotonic seconds, and the latency in ms."""
        self.failures: list[str] = []
        self._producer: Any = Producer(
            {"bootstrap.servers": bootstrap, "acks": "all", "linger.ms": 1, "log_level": 0}
        )
        self._partition_count, self._rate_per_s = partition_count, rate_per_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for all acks."""
        self._stopping.set()
        self._thread.join()
        self._producer.flush(60)

    def _run(self) -> None:
        begin, count = time.monotonic(), 0
        while not self._stopping.is_set():
            while count < (time.monotonic() - begin) * self._rate_per_s:
                self._producer.produce(
                    TOPIC,
                    VALUE,
                    partition=count % self._partition_count,
                    on_delivery=self._done(time.monotonic()),
                )
                count += 1
            self._producer.poll(min(0.01, 1 / self._rate_per_s))  # ends early when acks come

    def _done(self, handed_over: float) -> Callable[[Any, Any], None]:
        def done(error: Any, _: Any) -> None:
            if error is not None:
                self.failures.append(str(error))
            self.acks.append((handed_over, (time.monotonic() - handed_over) * 1000))

        return done


@dataclass(slots=True)
class Phase:
    """What a stretch of time brought. Times in ms; `moved_mb` is what new replicas fetched."""

    name: str
    seconds: float = 0.0
    record_count: int = 0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    moved_mb: float = 0.0
    latencies: list[float] = field(default_factory=list[float], repr=False)

    def line(self) -> str:
        """For a person."""
        moved = (
            f", moved {self.moved_mb:.0f} MB at {self.moved_mb / self.seconds:.0f} MB/s"
            if self.moved_mb
            else ""
        )
        return (
            f"{self.name:<24} {self.seconds:>6.1f} s  {self.record_count:>8,} acks: "
            f"p50 {self.p50_ms:>6.1f} ms, p99 {self.p99_ms:>6.1f}, longest {self.max_ms:>7.1f}{moved}"
        )


def fill(subject: ClusterSubject, partition_count: int, size_bytes: int) -> None:
    """Write so many bytes, evenly."""
    from confluent_kafka import Producer

    producer: Any = Producer({"bootstrap.servers": subject.bootstrap, "acks": "all", "log_level": 0})
    chunk = [{"value": os.urandom(10_000)} for _ in range(100)]
    for number in range(max(1, size_bytes // 1_000_000)):
        while len(producer) > 20_000:
            producer.poll(0.01)
        producer.produce_batch(TOPIC, chunk, partition=number % partition_count)
        producer.poll(0)
    if producer.flush(LIMIT_S):
        raise PeerFailed("the topic could not be filled")


def run_command(subject: ClusterSubject, *arguments: str) -> None:
    """`penstock cluster …`, to its end. Raises PeerFailed."""
    command = [str(Path(sys.executable).with_name("penstock")), "cluster", *arguments]
    bootstrap = ["--bootstrap", subject.bootstrap]
    done = subprocess.run(
        [*command, *bootstrap], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode != 0:
        raise PeerFailed(f"penstock cluster {' '.join(arguments)}: {done.stdout}{done.stderr}")


def size_of(node: Node) -> int:
    """Bytes of the topic's logs in the folder of a broker."""
    return sum(path.stat().st_size for path in node.data_directory.glob(f"{TOPIC}-*/*.log"))


def measure(
    subject: ClusterSubject,
    partition_count: int,
    size_bytes: int,
    rate_per_s: int,
    quiet_s: float,
    throttle: str,
) -> tuple[list[Phase], list[str]]:
    """All phases, and what failed."""
    *three, fourth = subject.nodes
    fourth.stop()
    subject.nodes[-1].process = None
    assignment = [[(index + shift) % COUNT + 1 for shift in range(COUNT)] for index in range(partition_count)]
    create_topic(subject, TOPIC, assignment)
    fill(subject, partition_count, size_bytes)
    limit = ["--throttle", throttle] if throttle else []
    writer = SteadyWriter(subject.bootstrap, partition_count, rate_per_s)
    phases: list[Phase] = []

    def timed(name: str, work: Callable[[], object], growing: Sequence[Node] = ()) -> None:
        before, begin = sum(map(size_of, growing)), time.monotonic()
        work()
        phase = Phase(name, time.monotonic() - begin)
        if growing:
            written = rate_per_s * len(VALUE) * phase.seconds * len(growing) * COUNT / len(subject.nodes)
            phase.moved_mb = max(0.0, sum(map(size_of, growing)) - before - written) / 1e6
        phase.latencies.extend(ms for at, ms in list(writer.acks) if at >= begin)
        phases.append(_summed(phase))

    try:
        time.sleep(quiet_s / 2)  # the first records find leaders
        timed("before", lambda: time.sleep(quiet_s))
        fourth.start()
        fourth.await_ready()
        time.sleep(1)
        timed("a fourth joins", lambda: run_command(subject, "rebalance", "--yes", *limit), [fourth])
        timed("four brokers", lambda: time.sleep(quiet_s))
        timed(
            "the first is drained",
            lambda: run_command(subject, "drain", "1", "--yes", *limit),
            [*three[1:], fourth],
        )
        three[0].stop()
        three[0].process = None
        timed("the first is gone", lambda: time.sleep(quiet_s))
    finally:
        writer.stop()
    return phases, writer.failures


def _summed(phase: Phase) -> Phase:
    ordered = sorted(phase.latencies)
    phase.record_count = len(ordered)
    if ordered:
        phase.p50_ms, phase.max_ms = statistics.median(ordered), ordered[-1]
        phase.p99_ms = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return phase


@click.command(context_settings={"show_default": True})
@click.option("--gigabytes", default=2.0, help="Bytes of records in the topic at the start, once.")
@click.option("--rate", default=2000, help="Records of 1 kB a second.")
@click.option("--partitions", default=12)
@click.option("--quiet-seconds", default=20.0, help="Length of the phases in which nothing moves.")
@click.option("--throttle", default="50MB", help="Of the second run; empty for none.")
@click.option("--durability", type=click.Choice([CACHING, DURABLE]), default=DURABLE)
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the brokers write.")
@click.option("--results", default="bench/results/local", help="Where the JSON goes.")
def main(
    gigabytes: float,
    rate: int,
    partitions: int,
    quiet_seconds: float,
    throttle: str,
    durability: str,
    data_dir: str,
    results: str,
) -> None:
    """Time acks while partitions move."""
    cores = [sorted(os.sched_getaffinity(0))]
    rows: list[dict[str, Any]] = []
    for limit in dict.fromkeys(["", throttle]):
        with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch:
            try:
                with penstock_cluster(durability, Path(scratch), cores, count=COUNT + 1) as subject:
                    size_bytes = int(gigabytes * 1e9)
                    phases, failures = measure(subject, partitions, size_bytes, rate, quiet_seconds, limit)
            except PeerMissing as missing:
                raise click.ClickException(str(missing)) from None
            except PeerFailed as failed:
                raise click.ClickException(str(failed)) from None
        click.echo(
            f"{f'throttled to {limit}/s' if limit else 'without a throttle'}: {len(failures)} records failed"
        )
        for phase in phases:
            click.echo(f"  {phase.line()}")
        told = [
            {key: value for key, value in asdict(phase).items() if key != "latencies"} for phase in phases
        ]
        rows.append({"throttle": limit, "failed": len(failures), "failures": failures[:5], "phases": told})
    document = {
        "bench": "scaling",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": {"gigabytes": gigabytes, "rate": rate, "partitions": partitions, "durability": durability},
        "file_system": file_system_of(Path(data_dir)),
        "machine": machine(),
        "git": git_state(),
        "rows": rows,
    }
    click.echo(f"written to {os.path.relpath(write_json(document, Path(results)))}")


if __name__ == "__main__":
    main()
