"""How many records a second does each client library move? `python -m bench.clients`: Penstock's, confluent-kafka, aiokafka and kafka-python.

All work on one Penstock broker (core 0), each measurement in a fresh process on core 1, in rotating order within each round. Owns the
order and the tables; what a client does is in `client_load`. With --compiled, Penstock is measured once more from an environment that has
its compiled wheel (`make compiled`). Producers: acks=all, batches up to 1 MiB, 5 ms of linger, no compression,
no keys. Consumers: partitions assigned by hand, read from the start, the topic in the page cache, batches of at most 10,000 records.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.client_load import CONSUMERS, PRODUCERS, Measured, Task
from bench.processes import on_cores
from bench.report import file_system_of, git_state, machine, write_json
from bench.subjects import CACHING, Subject, penstock

RESULTS = Path(__file__).parent / "results" / "local"
LIMIT_S = 300
OURS = "penstock"
COMPILED = "compiled penstock"
"""Begins the names of the same clients in the environment with the compiled wheel."""
PACKAGES = ("penstock", "confluent-kafka", "aiokafka", "kafka-python")


@dataclass(frozen=True, slots=True)
class Row:
    """One load: what every client of a kind is measured with."""

    direction: str
    value_size_bytes: int
    partition_count: int
    is_mixed: bool = False

    @property
    def name(self) -> str:
        """As the tables have it."""
        plural = "s" if self.partition_count > 1 else ""
        mixed = " (60 % to 140 %)" if self.is_mixed else ""
        return f"{self.direction} {self.value_size_bytes} B{mixed}, {self.partition_count} partition{plural}"

    @property
    def clients(self) -> Sequence[str]:
        """Who takes part."""
        names = list(PRODUCERS if self.direction == "produce" else CONSUMERS)
        return [*[COMPILED + name.removeprefix(OURS) for name in names if name.startswith(OURS)], *names]


@dataclass(slots=True)
class Series:
    """One client on one row: what each round brought."""

    client: str
    rounds: list[Measured] = field(default_factory=list[Measured])

    @property
    def rates(self) -> list[float]:
        """Records a second in each round."""
        return [each.record_count / each.seconds for each in self.rounds]

    @property
    def rate(self) -> float:
        """Median of the rates."""
        return median(self.rates)

    @property
    def cpu_us_per_record(self) -> float:
        """Median CPU time of the client's process for a record, in µs."""
        return median(each.cpu_seconds / each.record_count * 1e6 for each in self.rounds)


class Topics:
    """Topics on the broker under test, made and filled."""

    def __init__(self, subject: Subject) -> None:
        from confluent_kafka.admin import AdminClient

        self._bootstrap = subject.bootstrap
        self._admin: Any = AdminClient({"bootstrap.servers": subject.bootstrap, "log_level": 0})
        self._count = 0

    def create(self, partition_count: int) -> str:
        """A new topic; returns its name."""
        from confluent_kafka.cimpl import NewTopic

        self._count += 1
        name = f"clients-{self._count}"
        self._admin.create_topics([NewTopic(name, partition_count, 1)])[name].result(30)
        return name

    def fill(self, name: str, partition_count: int, values: Sequence[bytes], record_count: int) -> None:
        """Write `record_count` records in all, evenly, with these values again and again."""
        from confluent_kafka import Producer

        producer: Any = Producer({"bootstrap.servers": self._bootstrap, "log_level": 0})
        chunk = [{"value": value} for value in values]
        for index in range(partition_count):
            left = record_count // partition_count + (index < record_count % partition_count)
            while left:
                while len(producer) > 90_000:
                    producer.poll(0.005)
                left -= producer.produce_batch(name, chunk[:left], partition=index)
                producer.poll(0)
        assert producer.flush(60) == 0

    def delete(self, name: str) -> None:
        """Remove it."""
        self._admin.delete_topics([name])[name].result(30)


def measure(
    client: str, subject: Subject, topic: str, row: Row, record_count: int, compiled: str
) -> Measured:
    """One client in a process of its own; `compiled` is the Python of the environment with the compiled wheel."""
    python, load = sys.executable, client
    if client.startswith(COMPILED):
        python, load = compiled, OURS + client.removeprefix(COMPILED)
    done = subprocess.run(
        [
            *(python, "-m", "bench.client_load", load, "--bootstrap", subject.bootstrap),
            *("--topic", topic, "--partitions", str(row.partition_count)),
            *("--value-size", str(row.value_size_bytes), "--records", str(record_count)),
            *(("--mixed",) if row.is_mixed else ()),
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        cwd=Path(__file__).parent.parent,
    )
    if done.returncode != 0:
        raise click.ClickException(f"{client}: {done.stderr.strip()[-2000:]}")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def run_row(
    row: Row, subject: Subject, clients: Sequence[str], rounds: int, seconds: float, compiled: str
) -> list[Series]:
    """All rounds of one row. Each client gets as many records as it moves in about `seconds`, found in a round that does not count."""
    topics = Topics(subject)
    series = [Series(client) for client in row.clients if client in clients]
    counts = {each.client: 1000 for each in series}
    filled = ""
    if row.direction == "consume" and series:
        filled = topics.create(row.partition_count)
        records = max(1000, int(1_000_000 * seconds / 2))
        topics.fill(filled, row.partition_count, _values(row), records)
    for number in range(-2 if seconds >= 1 else 0, rounds):
        shift = number % len(series) if series else 0
        for each in series[shift:] + series[:shift]:
            topic = filled or topics.create(row.partition_count)
            found = measure(each.client, subject, topic, row, counts[each.client], compiled)
            if not filled:
                topics.delete(topic)
            if number >= 0:
                each.rounds.append(found)
            elif seconds >= 1:
                limit = int(1_000_000 * seconds / 2)
                wanted = found.record_count / found.seconds * seconds
                counts[each.client] = max(1000, min(limit, int(wanted), counts[each.client] * 100))
    if filled:
        topics.delete(filled)
    return series


def _values(row: Row) -> list[bytes]:
    return Task("", "", 0, row.value_size_bytes, 0, row.is_mixed).distinct


def show(console: Console, row: Row, all_series: Sequence[Series]) -> None:
    """One table for a row, the fastest of Penstock's compared with all others."""
    ours = best(each for each in all_series if each.client.startswith(OURS))
    table = Table(title=row.name, title_justify="left", title_style="bold")
    for name in ("client", "records/s", "lowest", "highest", "client CPU µs/record", "penstock / it"):
        table.add_column(name, justify="left" if name == "client" else "right")
    for each in all_series:
        ratio = "" if ours is None or each is ours else f"{ours.rate / each.rate:.2f} ({_spread(ours, each)})"
        figures = [f"{each.rate:,.0f}", f"{min(each.rates):,.0f}", f"{max(each.rates):,.0f}"]
        table.add_row(each.client, *figures, f"{each.cpu_us_per_record:.2f}", ratio)
    console.print(table)


def best(all_series: Iterable[Series]) -> Series | None:
    """The one with the highest median."""
    return max(all_series, key=lambda each: each.rate, default=None)


def _spread(ours: Series, theirs: Series) -> str:
    single = [a / b for a, b in zip(ours.rates, theirs.rates, strict=True)]
    return f"{min(single):.2f}-{max(single):.2f}"


def _document(
    row_series: Sequence[tuple[Row, Sequence[Series]]], run: dict[str, object]
) -> dict[str, object]:
    from importlib.metadata import version

    described = machine()
    described["packages"] = {name: version(name) for name in PACKAGES}
    rows = [
        {
            "bench": "clients",
            "case": row.name,
            "client": each.client,
            "records_per_s": round(each.rate),
            "cpu_us_per_record": round(each.cpu_us_per_record, 3),
            "rounds": [round(rate) for rate in each.rates],
        }
        for row, all_series in row_series
        for each in all_series
    ]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {"format": 1, "date": date, "git": git_state(), "machine": described, "run": run, "rows": rows}


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=5, help="Measurements of each client on each row.")
@click.option(
    "--seconds", default=2.0, help="About how long one measurement takes; below 1: next to no load."
)
@click.option("--clients", default="", help="A comma-separated part of the clients.")
@click.option("--compiled", default="", help="The Python of an environment with Penstock's compiled wheel.")
@click.option("--direction", type=click.Choice(["produce", "consume", "both"]), default="both")
@click.option("--row", "part_of_name", default="", help="Only rows whose name has this text.")
@click.option("--broker-cores", default="0", help="Cores of the broker.")
@click.option("--driver-cores", default="1", help="Cores of the clients.")
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the broker writes.")
@click.option("--results", default=str(RESULTS), help="Folder for the JSON.")
def main(
    rounds: int,
    seconds: float,
    clients: str,
    compiled: str,
    direction: str,
    part_of_name: str,
    broker_cores: str,
    driver_cores: str,
    data_dir: str,
    results: str,
) -> None:
    """Compare client libraries on one broker."""
    console = Console(width=None if os.isatty(1) else 160)
    chosen = clients.split(",") if clients else everybody(with_compiled=bool(compiled))
    directions = ["produce", "consume"] if direction == "both" else [direction]
    rows = [Row(way, size, count) for way in directions for size in (100, 1024) for count in (1, 3)]
    rows += [Row(way, 100, 1, is_mixed=True) for way in directions]
    found: list[tuple[Row, Sequence[Series]]] = []
    with (
        tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch,
        penstock(CACHING, Path(scratch), _cores(broker_cores)) as subject,
        on_cores(_cores(driver_cores)),
    ):
        for row in [row for row in rows if part_of_name in row.name]:
            series = run_row(row, subject, chosen, rounds, seconds, compiled)
            show(console, row, series)
            found.append((row, series))
    run: dict[str, object] = {
        "rounds": rounds,
        "seconds": seconds,
        "broker_cores": _cores(broker_cores),
        "driver_cores": _cores(driver_cores),
        "file_system": file_system_of(Path(data_dir)),
    }
    path = write_json(_document(found, run), Path(results))
    console.print(f"written to {os.path.relpath(path)}")


def everybody(*, with_compiled: bool) -> list[str]:
    """All clients, in both directions; the compiled ones only where they can be had."""
    names = [name for direction in ("produce", "consume") for name in Row(direction, 0, 1).clients]
    return [name for name in names if with_compiled or not name.startswith(COMPILED)]


def _cores(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


if __name__ == "__main__":
    main()
