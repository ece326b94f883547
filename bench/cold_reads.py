"""What does a reader of cold data cost those who write and read at the end of a log? Penstock on etcd, two brokers, on a real disk.

    .venv/bin/python -m bench.cold_reads [--rounds 5] [--seconds 3] [--cold-mb 1000] [--data-dir DIR]

Two figures of the hot path: one record of 100 B at a time until its ack (frames made beforehand), and from `produce` until a consumer has it
(librdkafka at both ends). Each is taken in turns with nothing beside; beside a consumer that reads a gigabyte of another topic from the disk, again
and again and as fast as it can; and beside a follower that was emptied and fetches that topic anew. Shown are medians over the rounds, the
ratios of those to nothing beside, what the cold reader got in MB/s meanwhile and how much of the topic the page cache has afterwards.

The leader has a core to itself where there are two; all else shares the others, so a ratio has the cold reader's own work in it, too. Not part of
`make bench`, for it compares with nothing.
"""

import ctypes
import mmap
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench import driver, librdkafka
from bench.clusters import LEADER, ClusterSubject, Node, create_topic, penstock_cluster
from bench.driver import Address, Limits, wait_for_topic
from bench.lone_write import VALUE
from bench.peers import PeerFailed, PeerMissing
from bench.processes import on_cores
from bench.produce_frames import one_record
from bench.replication import FETCHED, HOT, MB, cores_of, fill, forget, log_bytes
from bench.report import file_system_of, git_state, machine, write_json
from bench.subjects import CACHING, DURABLE, TOPIC_TIMEOUT_S

BENCH = "cold_reads"
FOLLOWER = 2
NOTHING, CONSUMER, CATCHING_UP = "nothing", "a cold consumer", "a follower that catches up"
BESIDE = (NOTHING, CONSUMER, CATCHING_UP)
WRITE, END_TO_END = "write", "end to end"
FIGURES = ("p50", "p99", "mean")
STEP_S = 0.1
LIMIT_S = 300.0
POLL_S = 0.005
RECORD_BYTES = 1100
"""A little more than a record of the cold topic takes."""
NEAR_BYTES = 80 * MB
"""Left out at the end of the cold topic: there the broker takes nobody for cold."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the options say."""

    rounds: int
    seconds: float
    cold_mb: int


@dataclass(slots=True)
class Found:
    """One row: by round, latencies in seconds, and what the cold reader got."""

    beside: str
    latencies: dict[str, list[list[float]]] = field(default_factory=lambda: {WRITE: [], END_TO_END: []})
    mb_per_s: list[float] = field(default_factory=list[float])
    cached_share: list[float] = field(default_factory=list[float])

    def summary(self) -> dict[str, float]:
        """Medians over the rounds, in µs."""
        told: dict[str, float] = {}
        for what, rounds in self.latencies.items():
            cuts = [statistics.quantiles(each, n=100) for each in rounds]
            told[f"{what} p50"] = statistics.median(cut[49] for cut in cuts) * 1e6
            told[f"{what} p99"] = statistics.median(cut[98] for cut in cuts) * 1e6
            told[f"{what} mean"] = statistics.median(statistics.fmean(each) for each in rounds) * 1e6
        if self.mb_per_s:
            told["MB/s"] = statistics.median(self.mb_per_s)
            told["cached share"] = statistics.median(self.cached_share)
        return told


# The readers of cold data


def cached_share(node: Node, topic: str) -> float:
    """How much of the topic's segments is in the page cache, by mincore(2)."""
    resident = total = 0
    for path in node.data_directory.glob(f"{topic}-0/*.log"):
        size_bytes = path.stat().st_size
        if not size_bytes:
            continue
        with path.open("r+b") as file, mmap.mmap(file.fileno(), size_bytes) as mapped:
            pages = (ctypes.c_ubyte * -(-size_bytes // mmap.PAGESIZE))()
            start = ctypes.c_char.from_buffer(mapped)
            address = ctypes.c_void_p(ctypes.addressof(start))
            ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size_bytes), pages)
            del start
        resident += sum(page & 1 for page in pages)
        total += len(pages)
    return resident / total


def keep_reading(address: Address, end_offset: int, read_bytes: "Synchronized[int]") -> None:
    """The consumer's process: from start to `end_offset` again and again, until it is killed."""
    offset = 0
    while True:
        bounds = Limits(seconds=STEP_S, bytes_max=1 << 40)
        load = driver.fetch(address, FETCHED, start_offset=offset, end_offset=end_offset, limits=bounds)
        read_bytes.value += load.size_bytes
        offset = load.record_count if load.record_count < end_offset else 0


@contextmanager
def consuming(subject: ClusterSubject, row: Found) -> Generator[None]:
    """A cold consumer runs inside the block."""
    leader = subject.nodes[LEADER - 1]
    forget(leader, FETCHED)
    end_offset = max(1, (log_bytes(leader, FETCHED) - NEAR_BYTES) // RECORD_BYTES)
    spawning = multiprocessing.get_context("spawn")
    read_bytes = spawning.Value("q", 0)
    process = spawning.Process(target=keep_reading, args=(subject.address, end_offset, read_bytes))
    process.start()
    try:
        _await(subject, lambda: read_bytes.value > 0)
        have, begin = read_bytes.value, time.perf_counter()
        yield
        row.mb_per_s.append((read_bytes.value - have) / MB / (time.perf_counter() - begin))
        row.cached_share.append(cached_share(leader, FETCHED))
    finally:
        process.kill()
        process.join()


@contextmanager
def catching_up(subject: ClusterSubject, row: Found) -> Generator[None]:
    """The follower has lost its replica and fetches it inside the block, from the leader's disk; it is whole afterwards."""
    leader, follower = subject.nodes[LEADER - 1], subject.nodes[FOLLOWER - 1]
    follower.stop()
    for folder in follower.data_directory.glob(f"{FETCHED}-0*"):
        shutil.rmtree(folder)
    whole = log_bytes(leader, FETCHED)
    forget(leader, FETCHED)
    follower.start()
    _await(subject, lambda: log_bytes(follower, FETCHED) > 0)
    have, begin = log_bytes(follower, FETCHED), time.perf_counter()
    yield
    row.mb_per_s.append((log_bytes(follower, FETCHED) - have) / MB / (time.perf_counter() - begin))
    row.cached_share.append(cached_share(leader, FETCHED))
    _await(subject, lambda: log_bytes(follower, FETCHED) >= whole)
    follower.await_ready()


@contextmanager
def alone(subject: ClusterSubject, row: Found) -> Generator[None]:
    """Nothing runs beside."""
    yield


LOADS = {NOTHING: alone, CONSUMER: consuming, CATCHING_UP: catching_up}


def _await(subject: ClusterSubject, done: Any) -> None:
    deadline = time.perf_counter() + LIMIT_S
    while not done():
        subject.check_alive()
        if time.perf_counter() > deadline:
            raise PeerFailed("the cold reader does not get on")
        time.sleep(POLL_S)


# The hot path


def measure_round(subject: ClusterSubject, number: int, plan: Plan, rows: Sequence[Found]) -> None:
    """All rows in turn, beginning with another one each round."""
    for place in range(len(rows)):
        row = rows[(number + place) % len(rows)]
        topic = f"passed-on-{number}-{place}"  # read from its start, so it is new
        create_topic(subject, topic, [[LEADER]])
        wait_for_topic(subject.address, topic, TOPIC_TIMEOUT_S)
        with LOADS[row.beside](subject, row):
            bounds = Limits(seconds=plan.seconds, bytes_max=1 << 40)
            load = driver.produce(subject.address, HOT, one_record(), window=1, limits=bounds)
            row.latencies[WRITE].append(list(load.latencies_s))
            load = librdkafka.end_to_end(
                subject.bootstrap, topic, value=VALUE, count=1 << 40, seconds=plan.seconds
            )
            row.latencies[END_TO_END].append(list(load.latencies_s))


def measure(subject: ClusterSubject, plan: Plan) -> list[Found]:
    """All rounds."""
    for topic, nodes in ((HOT, [LEADER]), (FETCHED, [LEADER, FOLLOWER])):
        create_topic(subject, topic, [nodes])
        wait_for_topic(subject.address, topic, TOPIC_TIMEOUT_S)
    fill(subject, FETCHED, plan.cold_mb)
    rows = [Found(beside) for beside in BESIDE]
    bounds = Limits(seconds=plan.seconds, bytes_max=1 << 40)
    driver.produce(subject.address, HOT, one_record(), window=1, limits=bounds)
    for number in range(plan.rounds):
        measure_round(subject, number, plan, rows)
    return rows


def show(console: Console, rows: Sequence[Found], durability: str) -> None:
    """One line for each row and figure of the hot path."""
    told = {row.beside: row.summary() for row in rows}
    console.print(
        f"one record of 100 B at a time ({durability}); in brackets: times as long as beside nothing"
    )
    for what in (WRITE, END_TO_END):
        for beside, summary in told.items():
            cells: list[str] = []
            for figure in FIGURES:
                name = f"{what} {figure}"
                cells.append(f"{figure} {summary[name]:,.0f} µs ({summary[name] / told[NOTHING][name]:.2f})")
            if "MB/s" in summary:
                cells.append(f"{summary['MB/s']:.0f} MB/s, {summary['cached share']:.0%} cached afterwards")
            console.print(f"  {what}, beside {beside}: {', '.join(cells)}", highlight=False)


@click.command(context_settings={"show_default": True})
@click.option(
    "--durability", "durabilities", multiple=True, type=click.Choice((CACHING, DURABLE)), default=(CACHING,)
)
@click.option("--rounds", default=5, help="Turns of each row.")
@click.option("--seconds", default=3.0, help="Of each measurement; two are made in a turn.")
@click.option("--cold-mb", default=1000, help="What there is to be read from the disk.")
@click.option(
    "--cores", default="", help="The first is the leader's, the others are everybody else's; all by default."
)
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the brokers write: a real disk.")
@click.option("--results", default="bench/results/local", help="Where the JSON goes.")
def main(
    durabilities: Sequence[str],
    rounds: int,
    seconds: float,
    cold_mb: int,
    cores: str,
    data_dir: str,
    results: str,
) -> None:
    """Measure what cold readers cost."""
    plan = Plan(rounds, seconds, cold_mb)
    described = machine()
    console = Console(width=None if os.isatty(1) else 200)
    leader_cores = cores_of(cores)[:1]
    others = cores_of(cores)[1:] or leader_cores
    told: list[dict[str, Any]] = []
    for durability in durabilities:
        try:
            with (
                tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as folder,
                penstock_cluster(durability, Path(folder), [leader_cores, others], count=2) as subject,
                on_cores(others),
            ):
                rows = measure(subject, plan)
        except (PeerFailed, PeerMissing) as failed:
            raise click.ClickException(str(failed)) from None
        show(console, rows, durability)
        told += [{"beside": row.beside, "durability": durability, "summary": row.summary()} for row in rows]
    document = {
        "bench": BENCH,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "file_system": file_system_of(Path(data_dir)),
        "machine": described,
        "plan": asdict(plan),
        "git": git_state(),
        "rows": told,
    }
    console.print(f"written to {os.path.relpath(write_json(document, Path(results)))}")


if __name__ == "__main__":
    main()
