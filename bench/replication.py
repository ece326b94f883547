"""What does replication cost? Three brokers on this machine, acks=all: Penstock on etcd, and Apache Kafka (KRaft).

    .venv/bin/python -m bench.replication [--rounds 5] [--part produce --part catch-up --part cold] [--data-dir DIR]

- produce: three replicas against one, and against Kafka with three brokers; frames made beforehand and librdkafka, interleaved rounds, ratios of
  medians, for both settings of `write.caching`. CPU is that of all brokers.
- catch-up: how fast a follower that was stopped takes what it lacks, in MB/s, from the first byte that it appends to the last.
- cold: one acked record at a time on the leader (one replica), in turns alone, and beside a follower that fetches a whole partition from it: from the
  page cache, and from the disk. What the disk adds is the ratio of the last two; with `--throttle` both go at one rate. The leader has a core to
  itself where there are two. `cold_reads.py` looks closer.

The three brokers and the load share the cores named by `--broker-cores` and `--driver-cores`. Not part of `make bench`.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench import driver, librdkafka
from bench.clusters import COUNT, LEADER, ClusterSubject, Node, create_topic, kafka_nodes, penstock_cluster
from bench.driver import Limits, Load, wait_for_topic
from bench.frames import Batch
from bench.lone_write import VALUE
from bench.peers import PeerFailed, PeerMissing
from bench.processes import on_cores
from bench.produce_frames import batch_of, limits, one_record
from bench.report import file_system_of, git_state, machine, show_case, write_json
from bench.rounds import TINY, Case, Scale, Series, ratios, run_case
from bench.subjects import CACHING, DURABLE, TOPIC_TIMEOUT_S, Subject

BENCH = "replication"
MB = 1_000_000
WINDOW = 4
LIMIT_S = 300.0
BESIDE_S_MAX = 10.0
"""A follower that makes room takes long; when nobody writes any more it takes the rest at full speed."""
POLL_S = 0.002
WRITES_A_LOOK = 20
FOLLOWER = COUNT
DURABILITIES = (CACHING, DURABLE)
PARTS = ("produce", "catch-up", "cold")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the options say."""

    rounds: int
    warm_up: int
    scale: Scale
    peers: Sequence[str]
    catch_up_mb: int
    cold_mb: int
    throttle_mb_per_s: int
    broker_cores: Sequence[int]
    driver_cores: Sequence[int]


# Produce


def whole_cluster(measure: Callable[[Subject, str, Scale], Load]) -> Callable[[Subject, str, Scale], Load]:
    """The same measurement, with the CPU of all brokers for that of one."""

    def measured(subject: Subject, topic: str, scale: Scale) -> Load:
        assert isinstance(subject, ClusterSubject)
        before = subject.cpu_seconds
        load = measure(subject, topic, scale)
        load.meter.server_cpu_seconds = subject.cpu_seconds - before
        return load

    return measured


def _frames(batch: Callable[[], Batch], window: int) -> Callable[[Subject, str, Scale], Load]:
    def measure(subject: Subject, topic: str, scale: Scale) -> Load:
        return driver.produce(subject.address, topic, batch(), window=window, limits=limits(scale))

    return whole_cluster(measure)


def _records(subject: Subject, topic: str, scale: Scale) -> Load:
    value = VALUE * 10
    count = min(scale.records_max, scale.bytes_max // len(value))
    return librdkafka.produce_records(
        subject.bootstrap, topic, value=value, record_count=count, seconds=scale.seconds
    )


def produce_cases(durability: str, names: Sequence[str]) -> list[Case]:
    """The rows of the first part."""
    return [
        Case(BENCH, "1 MB of 1 KB records, 4 in flight", durability, names, _frames(_megabyte, WINDOW)),
        Case(BENCH, "16 KB of 1 KB records, 8 in flight", durability, names, _frames(_small, 8)),
        Case(BENCH, "1 record of 100 B, 1 in flight", durability, names, _frames(one_record, 1)),
        Case(BENCH, "librdkafka, 1 KB records", durability, names, whole_cluster(_records)),
    ]


def _megabyte() -> Batch:
    return batch_of(1 << 20, 1 << 10)


def _small() -> Batch:
    return batch_of(16 << 10, 1 << 10)


# Catch-up


def log_bytes(node: Node, topic: str) -> int:
    """What a node has of partition 0."""
    return sum(path.stat().st_size for path in node.data_directory.glob(f"{topic}-0/*.log"))


def fill(subject: Subject, topic: str, megabytes: int) -> None:
    """Produce about that much in batches of 1 MB."""
    bounds = Limits(seconds=3600.0, bytes_max=megabytes * MB, requests_max=1 << 40)
    driver.produce(subject.address, topic, _megabyte(), window=WINDOW, limits=bounds)


def catch_up(subject: ClusterSubject, topic: str, megabytes: int) -> float:
    """Stop the last node, write, start it, and watch its log grow; MB/s. Its replica is whole on return."""
    follower, leader = subject.nodes[FOLLOWER - 1], subject.nodes[LEADER - 1]
    follower.stop()
    fill(subject, topic, megabytes)
    have, whole = log_bytes(follower, topic), log_bytes(leader, topic)
    follower.start()
    begin = _await_bytes(subject, follower, topic, have + 1)
    end = _await_bytes(subject, follower, topic, whole)
    follower.await_ready()
    return (whole - have) / MB / (end - begin)


def _await_bytes(subject: ClusterSubject, node: Node, topic: str, size_bytes: int) -> float:
    deadline = time.perf_counter() + LIMIT_S
    while log_bytes(node, topic) < size_bytes:
        subject.check_alive()
        if time.perf_counter() > deadline:
            raise PeerFailed(
                f"{subject.name}: the follower has {log_bytes(node, topic)} of {size_bytes} bytes"
            )
        time.sleep(POLL_S)
    return time.perf_counter()


# Cold


@dataclass(slots=True)
class Beside:
    """Latencies in seconds of one acked record at a time, by round."""

    alone: list[list[float]] = field(default_factory=list[list[float]])
    warm: list[list[float]] = field(default_factory=list[list[float]])
    cold: list[list[float]] = field(default_factory=list[list[float]])
    mb_per_s: dict[str, list[float]] = field(default_factory=lambda: {"warm": [], "cold": []})

    def summary(self) -> dict[str, float]:
        """Medians over the rounds of p50, p99 and mean (µs), and of the follower's MB/s."""
        told: dict[str, float] = {}
        for name in ("alone", "warm", "cold"):
            each: list[list[float]] = getattr(self, name)
            cuts = [statistics.quantiles(round_, n=100) for round_ in each]
            told[f"{name}_p50_us"] = statistics.median(cut[49] for cut in cuts) * 1e6
            told[f"{name}_p99_us"] = statistics.median(cut[98] for cut in cuts) * 1e6
            told[f"{name}_mean_us"] = statistics.median(statistics.fmean(round_) for round_ in each) * 1e6
        for name, figures in self.mb_per_s.items():
            told[f"{name}_follower_mb_per_s"] = statistics.median(figures)
        return told


HOT, FETCHED = "hot", "fetched"


def forget(node: Node, topic: str) -> None:
    """Put the topic's segments out of the page cache."""
    os.sync()
    for path in node.data_directory.glob(f"{topic}-0/*.log"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def warm(node: Node, topic: str) -> None:
    """Read the topic's segments into the page cache."""
    for path in node.data_directory.glob(f"{topic}-0/*.log"):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


def write_while(subject: Subject, goes_on: Callable[[], bool], seconds_max: float) -> list[float]:
    """One record in flight on the hot topic for as long as it is said to; the latencies."""
    found: list[float] = []
    deadline = time.perf_counter() + seconds_max
    bounds = Limits(seconds=3600.0, bytes_max=1 << 40, requests_max=WRITES_A_LOOK)
    while goes_on() and time.perf_counter() < deadline:
        found += driver.produce(subject.address, HOT, one_record(), window=1, limits=bounds).latencies_s
    return found


def beside_follower(subject: ClusterSubject, how: str, row: Beside) -> None:
    """One turn: the last node loses its replica and fetches it anew, while the hot topic is written to."""
    leader, follower = subject.nodes[LEADER - 1], subject.nodes[FOLLOWER - 1]
    follower.stop()
    for folder in follower.data_directory.glob(f"{FETCHED}-0*"):
        shutil.rmtree(folder)
    whole = log_bytes(leader, FETCHED)
    (warm if how == "warm" else forget)(leader, FETCHED)
    follower.start()
    begin = _await_bytes(subject, follower, FETCHED, 1)
    have = log_bytes(follower, FETCHED)
    found = write_while(subject, lambda: log_bytes(follower, FETCHED) < whole, BESIDE_S_MAX)
    row.mb_per_s[how].append((log_bytes(follower, FETCHED) - have) / MB / (time.perf_counter() - begin))
    (row.warm if how == "warm" else row.cold).append(found)
    _await_bytes(subject, follower, FETCHED, whole)
    follower.await_ready()


def measure_beside(subject: ClusterSubject, plan: Plan) -> Beside:
    """All turns of one cluster."""
    for topic, nodes in ((HOT, [LEADER]), (FETCHED, [LEADER, FOLLOWER])):
        create_topic(subject, topic, [nodes], {"follower.replication.throttled.replicas": "*"})
        wait_for_topic(subject.address, topic, TOPIC_TIMEOUT_S)
    fill(subject, FETCHED, plan.cold_mb)
    row = Beside()
    write_while(subject, lambda: True, plan.scale.seconds)
    for _ in range(plan.rounds):
        row.alone.append(write_while(subject, lambda: True, plan.scale.seconds))
        beside_follower(subject, "warm", row)
        beside_follower(subject, "cold", row)
    return row


# The run


@contextmanager
def clusters(plan: Plan, durability: str, scratch: Path, console: Console) -> Generator[list[ClusterSubject]]:
    """The clusters that can be had with this durability; one line for each that can't."""
    starters = {"penstock": penstock_cluster, "kafka": kafka_nodes}
    with ExitStack() as stack:
        found: list[ClusterSubject] = []
        for name in plan.peers:
            try:
                started = starters[name](durability, scratch / name, [plan.broker_cores])
                found.append(stack.enter_context(started))
            except PeerMissing as missing:
                console.print(f"without {name} ({durability}): {missing}")
        yield found


def run_produce(plan: Plan, started: Sequence[ClusterSubject], durability: str, console: Console) -> Any:
    """The first part; its rows for the JSON."""
    subjects = [
        subject.with_replication(f"{subject.name}{'' if count > 1 else ', 1 replica'}", count)
        for subject in started
        for count in (COUNT, 1)
    ]
    rows: list[Any] = []
    for case in produce_cases(durability, [subject.name for subject in subjects]):
        series = run_case(case, subjects, rounds=plan.rounds, warm_up=plan.warm_up, scale=plan.scale)
        found = ratios(series)
        show_case(console, series, found)
        rows += [_row(each) for each in series] + [asdict(ratio) for ratio in found]
    return rows


def _row(series: Series) -> dict[str, Any]:
    subject = series.subject
    return {
        "case": series.case.name,
        "subject": subject.name,
        "version": subject.version,
        "durability": subject.durability,
        "settings": subject.settings,
        "median": dict(series.median),
        "rounds": [dict(each) for each in series.rounds],
    }


def run_catch_up(plan: Plan, started: Sequence[ClusterSubject], durability: str, console: Console) -> Any:
    """The second part, in alternation; its rows for the JSON."""
    topic = "catching-up"
    figures: dict[str, list[float]] = {subject.name: [] for subject in started}
    for subject in started:
        subject.create_topic(topic)
    for number in range(-1, plan.rounds):
        for subject in started:
            found = catch_up(subject, topic, plan.catch_up_mb)
            if number >= 0:
                figures[subject.name].append(found)
    rows: list[Any] = []
    for subject in started:
        subject.delete_topic(topic)
        mine = figures[subject.name]
        console.print(
            f"catch-up of {plan.catch_up_mb} MB: {subject.name} ({subject.settings}): {statistics.median(mine):.0f} MB/s "
            f"({min(mine):.0f} to {max(mine):.0f})",
            highlight=False,
        )
        rows.append({"subject": subject.name, "settings": subject.settings, "mb_per_s": mine})
    return rows


def run_cold(plan: Plan, durability: str, scratch: Path, console: Console) -> Any:
    """The third part, Penstock alone, with the leader on a core of its own."""
    leader_cores, others = plan.broker_cores[:1], plan.broker_cores[1:] or plan.broker_cores
    settings: dict[str, str] = {}
    if plan.throttle_mb_per_s:
        settings["follower.replication.throttled.rate"] = str(plan.throttle_mb_per_s * MB)
    cores = [leader_cores, others]
    with penstock_cluster(durability, scratch / "cold", cores, settings) as subject, on_cores(others):
        told = measure_beside(subject, plan).summary()
    console.print(
        f"one record of 100 B at a time, beside a follower that fetches {plan.cold_mb} MB ({durability}):"
    )
    for name in ("alone", "warm", "cold"):
        cells = [f"{figure} {told[f'{name}_{figure}_us']:,.0f} µs" for figure in ("p50", "p99", "mean")]
        rate = told.get(f"{name}_follower_mb_per_s")
        console.print(f"  {name:>5}: {', '.join(cells)}" + (f", {rate:.0f} MB/s" if rate else ""))
    for figure in ("p50", "p99", "mean"):
        to_warm = told[f"cold_{figure}_us"] / told[f"warm_{figure}_us"]
        to_alone = told[f"cold_{figure}_us"] / told[f"alone_{figure}_us"]
        console.print(f"  {figure}: cold / warm {to_warm:.2f}, cold / alone {to_alone:.2f}", highlight=False)
    return [{"durability": durability, **told}]


def run(
    plan: Plan, parts: Sequence[str], durabilities: Sequence[str], data_directory: Path, console: Console
) -> dict[str, Any]:
    """All parts, with one durability after the other; the rows by part."""
    found: dict[str, Any] = {part: [] for part in parts}
    for durability in durabilities:
        with tempfile.TemporaryDirectory(dir=data_directory, ignore_cleanup_errors=True) as folder:
            scratch = Path(folder)
            if {"produce", "catch-up"} & set(parts):
                with clusters(plan, durability, scratch, console) as started, on_cores(plan.driver_cores):
                    if "produce" in parts:
                        found["produce"] += run_produce(plan, started, durability, console)
                    if "catch-up" in parts:
                        found["catch-up"] += run_catch_up(plan, started, durability, console)
            if "cold" in parts:
                found["cold"] += run_cold(plan, durability, scratch, console)
    return found


def cores_of(text: str) -> list[int]:
    """`0,1` as numbers; empty stands for all."""
    return [int(part) for part in text.split(",") if part] or sorted(os.sched_getaffinity(0))


@click.command(context_settings={"show_default": True})
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, help="What to do.")
@click.option(
    "--durability", "durabilities", multiple=True, type=click.Choice(DURABILITIES), default=DURABILITIES
)
@click.option("--rounds", default=5, help="Measurements of each row.")
@click.option(
    "--warm-up",
    default=8,
    help="Measurements before the first that counts: three JVMs on two cores are long in compiling.",
)
@click.option("--seconds", default=3.0, help="The longest that one measurement may take.")
@click.option("--peers", default="penstock,kafka", help="Who takes part.")
@click.option("--catch-up-mb", default=1000, help="What a follower lacks.")
@click.option("--cold-mb", default=2000, help="What a follower fetches beside the hot path.")
@click.option(
    "--throttle", default=0, help="MB/s of that follower, follower.replication.throttled.rate; 0 for none."
)
@click.option("--broker-cores", default="", help="Cores of all brokers; all by default.")
@click.option("--driver-cores", default="", help="Cores of the load; all by default.")
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the brokers write: a real disk.")
@click.option("--results", default="bench/results/local", help="Where the JSON goes.")
@click.option("--tiny", is_flag=True, help="Next to no load: to see that all works, not for figures.")
def main(
    parts: Sequence[str],
    durabilities: Sequence[str],
    rounds: int,
    warm_up: int,
    seconds: float,
    peers: str,
    catch_up_mb: int,
    cold_mb: int,
    throttle: int,
    broker_cores: str,
    driver_cores: str,
    data_dir: str,
    results: str,
    tiny: bool,
) -> None:
    """Measure what replication costs."""
    scale = TINY if tiny else Scale(seconds=seconds)
    plan = Plan(
        rounds,
        warm_up,
        scale,
        peers.split(","),
        catch_up_mb,
        cold_mb,
        throttle,
        cores_of(broker_cores),
        cores_of(driver_cores),
    )
    described = machine()
    console = Console(width=None if os.isatty(1) else 200)
    try:
        rows = run(plan, parts, durabilities, Path(data_dir), console)
    except (PeerFailed, PeerMissing) as failed:
        raise click.ClickException(str(failed)) from None
    document = {
        "bench": BENCH,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "file_system": file_system_of(Path(data_dir)),
        "machine": described,
        "plan": asdict(plan),
        "git": git_state(),
        "rows": rows,
    }
    console.print(f"written to {os.path.relpath(write_json(document, Path(results)))}")


if __name__ == "__main__":
    main()
