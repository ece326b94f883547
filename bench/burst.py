"""A burst of a million records in ten seconds against a consumer group that takes 20,000 a second: what becomes of the records, of the broker, and of latency.

    .venv/bin/python -m bench.burst [--records 1000000] [--seconds 10] [--pace 20000] [--plot burst.svg]

Played in turn: Penstock without a bound and with each `backlog.policy`, and Apache Kafka without a bound (it has none). Each has a fresh broker, which is
the only process on its core where there are two; librdkafka at both ends, idempotent, one partition, records of 100 B. Some seconds at half of the
consumer's pace come before the burst: that is "at rest".

Shown: what was acked, refused and lost (each acked record is to arrive exactly once at the offset of its ack), the greatest backlog, as sampled and as the
acks give it away, p99 from `produce` to the ack at rest and in the burst, the time that the backlog took to drain beside what the pace gives, and the broker's
resident memory. Not part of `make bench`.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from rich.console import Console

from bench import burst_figures as figures
from bench.burst_figures import Samples
from bench.burst_load import FAILED, REFUSED, Consumed, Produced
from bench.driver import wait_for_topic
from bench.peers import PeerFailed, PeerMissing
from bench.processes import cpu_seconds, on_cores, resident_bytes
from bench.replication import cores_of
from bench.report import file_system_of, git_state, machine, write_json
from bench.subjects import CACHING, DURABLE, STARTERS, TOPIC_TIMEOUT_S, Subject
from penstock.cli.demo_plot import Curve, Panel, Row, svg

BENCH = "burst"
TOPIC, GROUP = "burst", "burst-consumers"
UNBOUNDED = "unbounded"
POLICIES = (UNBOUNDED, "reject", "hold", "throttle")
REST_SHARE = 0.5
SAMPLE_S = 0.1
READY_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0
_REFUSED_LINE = re.compile(rf"{TOPIC}-0: (\d+) records were refused")


@dataclass(frozen=True, slots=True)
class Plan:
    """What the options say."""

    records: int
    seconds: float
    pace: int
    rest_seconds: float
    bound: int

    @property
    def rest_records(self) -> int:
        """So many come before the burst."""
        return max(2, int(self.pace * REST_SHARE * self.rest_seconds))

    @property
    def batch_records(self) -> int:
        """The default of librdkafka, but no more than a part of the bound: a batch that is larger by itself is refused by every policy."""
        return min(10_000, max(1, self.bound // 10))


@dataclass(frozen=True, slots=True)
class Turn:
    """One subject with one policy."""

    subject: str
    policy: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.subject}, {self.policy}"


@dataclass(slots=True)
class Found:
    """All of one turn."""

    turn: Turn
    version: str
    durability: str
    produced: Produced
    consumed: Consumed
    samples: Samples
    refused_by_broker: int | None
    broker_cpu_s: float


class Sampler:
    """Looks at the broker from outside, on a thread of its own, until `stop`."""

    def __init__(self, subject: Subject) -> None:
        self.samples = Samples()
        self._subject = subject
        self._partition = TopicPartition(TOPIC, 0)
        self._consumer = Consumer({"bootstrap.servers": subject.bootstrap, "group.id": GROUP, "log_level": 0})
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler")
        self._thread.start()

    def stop(self) -> None:
        """Take no more."""
        self._is_over.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            _, end_offset = self._consumer.get_watermark_offsets(self._partition, timeout=TOPIC_TIMEOUT_S)
            (committed,) = self._consumer.committed([self._partition], timeout=TOPIC_TIMEOUT_S)
            samples = self.samples
            samples.at_s.append(time.monotonic())
            samples.end_offset.append(int(end_offset))
            samples.committed.append(max(0, committed.offset))
            samples.resident_bytes.append(resident_bytes(self._subject.pid))


@contextmanager
def end_of(what: str, subject: Subject, out: Path, **options: object) -> "Generator[subprocess.Popen[bytes]]":
    """One end of the burst, ready to begin; killed if it does not end by itself within the block."""
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    fixed = ["--bootstrap", subject.bootstrap, "--topic", TOPIC, "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.burst_load", what, *fixed, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise PeerFailed(f"the burst can't {what}")
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def tell(process: "subprocess.Popen[bytes]", text: str) -> None:
    """A line on its standard input."""
    assert process.stdin is not None
    process.stdin.write(f"{text}\n".encode())
    process.stdin.flush()


def create_topic(subject: Subject, policy: str, bound: int) -> None:
    """One partition; with the bound that the policy asks for."""
    configs: dict[str, str] = {}
    if policy != UNBOUNDED:
        configs = {
            "backlog.max.records": str(bound),
            "backlog.policy": policy,
            "backlog.groups": GROUP,
        }
    admin: Any = AdminClient({"bootstrap.servers": subject.bootstrap, "log_level": 0})
    topic = NewTopic(TOPIC, num_partitions=1, replication_factor=1, config=configs)
    admin.create_topics([topic])[TOPIC].result(TOPIC_TIMEOUT_S)
    wait_for_topic(subject.address, TOPIC, TOPIC_TIMEOUT_S)


def play(subject: Subject, turn: Turn, plan: Plan, folder: Path) -> Found:
    """One turn against a running broker, which has stopped afterwards."""
    create_topic(subject, turn.policy, plan.bound)
    outs = {what: folder / f"{what}.out" for what in ("produce", "consume")}
    load = {
        "records": plan.records,
        "seconds": plan.seconds,
        "rest_records": plan.rest_records,
        "rest_seconds": plan.rest_seconds,
        "batch_records": plan.batch_records,
    }
    with (
        end_of("consume", subject, outs["consume"], group=GROUP, pace=plan.pace) as consumer,
        end_of("produce", subject, outs["produce"], **load) as producer,
    ):
        sampler = Sampler(subject)
        try:
            tell(consumer, "go")
            tell(producer, "go")
            _until_ended(producer, "produce", plan)
            produced = Produced.load(outs["produce"])
            tell(consumer, str(max(produced.offsets) + 1))
            _until_ended(consumer, "consume", plan)
        finally:
            sampler.stop()
    spent_s = cpu_seconds(subject.pid)
    refused = refused_by(subject) if turn.policy != UNBOUNDED else None
    consumed = Consumed.load(outs["consume"])
    return Found(
        turn, subject.version, subject.durability, produced, consumed, sampler.samples, refused, spent_s
    )


def _until_ended(process: "subprocess.Popen[bytes]", what: str, plan: Plan) -> None:
    at_pace_s = (plan.records + plan.rest_records) / plan.pace
    limit_s = plan.rest_seconds + plan.seconds + 3 * at_pace_s + READY_LIMIT_S
    try:
        if process.wait(limit_s):
            raise PeerFailed(f"the burst's end that was to {what} failed")
    except subprocess.TimeoutExpired:
        raise PeerFailed(f"the burst's end that was to {what} did not end within {limit_s:.0f} s") from None


def refused_by(subject: Subject) -> int:
    """Stop the broker, and read in its log how many records it has refused."""
    os.kill(subject.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT_S
    while time.monotonic() < deadline:
        try:
            subject.check_alive()
        except PeerFailed:
            break
        time.sleep(SAMPLE_S)
    assert subject.log_path is not None
    found = _REFUSED_LINE.search(subject.log_path.read_text(errors="replace"))
    return int(found.group(1)) if found else 0


# What comes out


def row(found: Found, plan: Plan) -> dict[str, Any]:
    """The figures of a turn, and over time what the plot shows."""
    produced, consumed, samples = found.produced, found.consumed, found.samples
    checked = figures.check(produced, consumed)
    drain_s, expected_s = figures.drain(produced, consumed, plan.pace)
    at_rest = [
        size
        for at_s, size in zip(samples.at_s, samples.resident_bytes, strict=True)
        if at_s < produced.burst_at_s
    ]
    p99s = {
        f"{when}_{name}_ms": figures.quantile_ms(figures.latencies(produced, at_rest=when == "rest"), share)
        for when in ("rest", "burst")
        for name, share in (("p50", 0.5), ("p99", 0.99))
    }
    refusals = figures.latencies(produced, at_rest=False, outcome=REFUSED)
    return {
        "subject": found.turn.subject,
        "version": found.version,
        "durability": found.durability,
        "policy": found.turn.policy,
        **asdict(checked),
        "refused_by_broker": found.refused_by_broker,
        "last_error": produced.last_error,
        "bound": None if found.turn.policy == UNBOUNDED else plan.bound,
        "backlog_max_sampled": max(samples.backlog, default=0),
        "backlog_max_by_acks": figures.backlog_by_acks(produced, consumed),
        **p99s,
        "refusal_p99_ms": figures.quantile_ms(refusals, 0.99),
        "acked_per_s_at_the_bound": _at_the_bound(found, plan),
        "drain_s": round(drain_s, 2),
        "drain_at_pace_s": round(expected_s, 2),
        "rest_resident_mb": round(max(at_rest, default=0) / 1e6, 1),
        "max_resident_mb": round(max(samples.resident_bytes, default=0) / 1e6, 1),
        "broker_cpu_s": round(found.broker_cpu_s, 2),
        "series": series(found),
    }


def _at_the_bound(found: Found, plan: Plan) -> float | None:
    if found.turn.policy == UNBOUNDED:
        return None
    rate = figures.rate_at_the_bound(found.produced, plan.bound)
    return None if rate is None else round(rate)


def series(found: Found) -> dict[str, list[tuple[float, float]]]:
    """What is plotted: (seconds since the first record, value)."""
    produced, samples = found.produced, found.samples
    begin_s = produced.rest_at_s
    until_s = max([*samples.at_s[-1:], begin_s])

    def sampled(values: Sequence[float]) -> list[tuple[float, float]]:
        return [(round(at_s - begin_s, 2), value) for at_s, value in zip(samples.at_s, values, strict=True)][
            ::2
        ]

    def ended(outcome: int | None) -> list[tuple[float, float]]:
        times = [
            at_s
            for offset, at_s in zip(produced.offsets, produced.ended_at_s, strict=True)
            if (offset >= 0 if outcome is None else offset == outcome)
        ]
        return figures.rates(times, begin_s, until_s)

    consumed_at = [
        (at_s, offset)
        for at_s, offset in zip(found.consumed.committed_at_s, found.consumed.committed, strict=True)
    ]
    return {
        "backlog": sampled(samples.backlog),
        "resident_mb": sampled([round(size / 1e6, 1) for size in samples.resident_bytes]),
        "acked_per_s": ended(None),
        "refused_per_s": ended(REFUSED),
        "failed_per_s": ended(FAILED),
        "consumed_per_s": _consumed_rates(consumed_at, begin_s),
        "p99_ms": figures.p99_series(produced, begin_s),
        "burst": [(round(produced.burst_at_s - begin_s, 2), 0.0)],
    }


def _consumed_rates(commits: Sequence[tuple[float, int]], begin_s: float) -> list[tuple[float, float]]:
    told: list[tuple[float, float]] = []
    last_s, last = begin_s, 0
    for at_s, offset in commits:
        if at_s - last_s >= 2 * figures.STEP_S:
            told.append((round(at_s - begin_s, 2), (offset - last) / (at_s - last_s)))
            last_s, last = at_s, offset
    return told


def show(console: Console, told: dict[str, Any]) -> None:
    """A few lines for a turn."""

    def ms(name: str) -> str:
        return "-" if told[name] is None else f"{told[name]:,.1f} ms"

    refused = f"{told['refused']:,} refused"
    if told["refused_by_broker"] is not None:
        refused += f" (by the broker's count {told['refused_by_broker']:,})"
    bound = "" if told["bound"] is None else f", bound {told['bound']:,}"
    lines = [
        f"[bold]{told['subject']}, {told['policy']}[/bold] ({told['durability']})",
        (
            f"  {told['acked']:,} acked, {refused}, {told['failed']:,} failed, "
            f"{told['lost']} lost, {told['doubled']} doubled, {told['unasked']} refused and there"
        ),
        f"  backlog at most {told['backlog_max_sampled']:,} (sampled), {told['backlog_max_by_acks']:,} (by acks){bound}",
        f"  p99 at rest {ms('rest_p99_ms')}, in the burst {ms('burst_p99_ms')}, of refusals {ms('refusal_p99_ms')}",
        f"  drained in {told['drain_s']:.1f} s; at its pace {told['drain_at_pace_s']:.1f} s",
        f"  memory at rest {told['rest_resident_mb']:.0f} MB, at most {told['max_resident_mb']:.0f} MB",
    ]
    if told["acked_per_s_at_the_bound"] is not None:
        lines.append(f"  at the bound {told['acked_per_s_at_the_bound']:,} acked a second")
    if told["last_error"]:
        lines.append(f"  last error: {told['last_error']}")
    console.print("\n".join(lines), highlight=False)


def plotted(rows: Sequence[dict[str, Any]], plan: Plan) -> str:
    """The plot, as SVG: a column for each turn."""

    def panels(curves: Sequence[tuple[str, str, str]], *, bounded: bool = False) -> list[Panel]:
        return [
            Panel(
                [
                    Curve(name, color, told["series"][key], is_area=key == "backlog")
                    for name, color, key in curves
                ],
                told["bound"] if bounded else None,
                _shade(told, plan),
            )
            for told in rows
        ]

    title = (
        f"{plan.records:,} records in {plan.seconds:g} s; the consumers take {plan.pace:,} a second, "
        "records of 100 B, one partition, librdkafka"
    )
    figures_shown = [
        Row("backlog, records", panels([("backlog", "#0969da", "backlog")], bounded=True)),
        Row(
            "records a second",
            panels(
                [
                    ("acked", "#1a7f37", "acked_per_s"),
                    ("refused", "#cf222e", "refused_per_s"),
                    ("consumed", "#0969da", "consumed_per_s"),
                ]
            ),
        ),
        Row("ack p99, ms", panels([("p99", "#bc4c00", "p99_ms")])),
        Row("broker memory, MB", panels([("memory", "#8250df", "resident_mb")])),
    ]
    return svg(title, [f"{told['subject']}, {told['policy']}" for told in rows], figures_shown)


def _shade(told: dict[str, Any], plan: Plan) -> tuple[float, float]:
    ((begin_s, _),) = told["series"]["burst"]
    return begin_s, begin_s + plan.seconds


def turns_of(subjects: Sequence[str], policies: Sequence[str]) -> list[Turn]:
    """Kafka has no bound, so it takes part where there is none."""
    return [
        Turn(subject, policy)
        for policy in policies
        for subject in subjects
        if subject != "kafka" or policy == UNBOUNDED
    ]


@click.command(context_settings={"show_default": True})
@click.option("--records", default=1_000_000, help="Of the burst.")
@click.option("--seconds", default=10.0, help="In which they are to be sent.")
@click.option("--pace", default=20_000, help="Records a second that the consumer takes.")
@click.option("--rest-seconds", default=5.0, help="At half of that pace, before the burst.")
@click.option("--bound", default=100_000, help="backlog.max.records, where there is a bound.")
@click.option("--subjects", default="penstock,kafka", help="Who takes part.")
@click.option("--policies", default=",".join(POLICIES), help="What bounds the backlog, in turn.")
@click.option("--durability", type=click.Choice((CACHING, DURABLE)), default=CACHING)
@click.option(
    "--cores", default="", help="The first is the broker's, the others the clients'; all by default."
)
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the brokers write.")
@click.option("--results", default="bench/results/local", help="Where the JSON goes.")
@click.option("--plot", default="", help="An SVG file.")
def main(
    records: int,
    seconds: float,
    pace: int,
    rest_seconds: float,
    bound: int,
    subjects: str,
    policies: str,
    durability: str,
    cores: str,
    data_dir: str,
    results: str,
    plot: str,
) -> None:
    """Send a burst, and see what becomes of it."""
    plan = Plan(records, seconds, pace, rest_seconds, bound)
    described = machine()
    console = Console(width=None if os.isatty(1) else 200)
    broker_cores = cores_of(cores)[:1]
    others = cores_of(cores)[1:] or broker_cores
    rows: list[dict[str, Any]] = []
    for turn in turns_of(subjects.split(","), policies.split(",")):
        try:
            with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as folder:
                start = STARTERS[turn.subject]
                with start(durability, Path(folder), broker_cores) as subject, on_cores(others):
                    rows.append(row(play(subject, turn, plan, Path(folder)), plan))
        except PeerMissing as missing:
            console.print(f"without {turn.name}: {missing}", highlight=False)
            continue
        except PeerFailed as failed:
            raise click.ClickException(f"{turn.name}: {failed}") from None
        show(console, rows[-1])
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
    if plot and rows:
        Path(plot).write_text(plotted(rows, plan))


if __name__ == "__main__":
    main()
