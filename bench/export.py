"""How fast does a topic become Parquet? `python -m bench.export`: `penstock export` beside a script with confluent-kafka and pyarrow.

Whole processes, from start to exit, in turns within each round; a Penstock broker on core 0, they on core 1; three partitions in the page cache. Records are
JSON of different lengths with a key, as batches without compression and with zstd; the Parquet of both is zstd. Owns the load and the table; the
script is `export_script`. `penstock export` also syncs its files and keeps its manifest, the script does not.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from bench.processes import on_cores
from bench.report import file_system_of, git_state, machine, write_json
from bench.subjects import CACHING, penstock

RESULTS = Path(__file__).parent / "results" / "local"
ROOT = Path(__file__).parent.parent
LIMIT_S = 300
PARTITIONS = 3
DISTINCT = 2000
ID_BYTES = 20
SUBJECTS = ("penstock export", "confluent-kafka + pyarrow")
WORDS = [
    "order",
    "paid",
    "shipped",
    "basket",
    "customer",
    "north",
    "south",
    "express",
    "standard",
    "coupon",
    "invoice",
    "refund",
    "pending",
    "done",
]


@dataclass(frozen=True, slots=True)
class Case:
    """One load."""

    value_size_bytes: int
    compression: str

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.value_size_bytes} B, {self.compression}"


@dataclass(slots=True)
class Series:
    """What one of the two took in each round."""

    subject: str
    seconds: list[float] = field(default_factory=list[float])
    cpu_seconds: list[float] = field(default_factory=list[float])


def values_of(size_bytes: int) -> list[bytes]:
    """JSON of about that size, 70 % to 130 %, always the same; without its end, where the id will be."""
    random = Random(size_bytes)
    found: list[bytes] = []
    for _ in range(DISTINCT):
        wanted = random.randint(size_bytes * 7 // 10, size_bytes * 13 // 10)
        head = json.dumps({"amount": random.randint(1, 99_999) / 100, "note": ""})[:-2]
        note = ""
        while len(head) + len(note) < wanted - ID_BYTES:
            note += random.choice(WORDS) + " "
        found.append((head + note[: max(0, wanted - ID_BYTES - len(head))]).encode())
    return found


def chunk_of(values: Sequence[bytes], first: int) -> list[dict[str, bytes]]:
    """These values, each with an id of its own, and keys."""
    return [
        {"value": b'%s", "id": %d}' % (value, number * 7919), "key": b"k%d" % (number % 500)}
        for number, value in enumerate(values, first)
    ]


def fill(bootstrap: str, topic: str, case: Case, record_count: int) -> int:
    """Make the topic and write the records; returns the bytes of keys and values."""
    from confluent_kafka import Producer
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin: Any = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    settings = {
        "bootstrap.servers": bootstrap,
        "compression.type": case.compression,
        "linger.ms": 20,
        "log_level": 0,
    }
    producer: Any = Producer(settings)
    values = values_of(case.value_size_bytes)
    size_bytes = 0
    for index in range(PARTITIONS):
        left = record_count // PARTITIONS + (index < record_count % PARTITIONS)
        while left:
            while len(producer) > 90_000:
                producer.poll(0.005)
            sent = chunk_of(values, left)[:left]
            left -= producer.produce_batch(topic, sent, partition=index)
            size_bytes += sum(len(each["value"]) + len(each["key"]) for each in sent)
            producer.poll(0)
    assert producer.flush(60) == 0
    return size_bytes


def run(subject: str, bootstrap: str, topic: str, folder: Path) -> tuple[float, float, int]:
    """One export: seconds, CPU seconds of its process, and records."""
    if subject == SUBJECTS[0]:
        command = [sys.executable, "-m", "penstock.cli.main", "export", topic, "--bootstrap", bootstrap]
        command += ["--out", str(folder), "--json"]
    else:
        folder.mkdir()
        command = [sys.executable, "-m", "bench.export_script", bootstrap, topic, str(folder / "all.parquet")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=ROOT)
    seconds = time.perf_counter() - begin_s
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise click.ClickException(f"{subject}: {done.stderr.strip()[-2000:]}")
    told: Any = json.loads(done.stdout)
    records: int = told["records"] if subject == SUBJECTS[0] else told
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, records


@dataclass(frozen=True, slots=True)
class Measured:
    """A case with all its rounds."""

    case: Case
    record_count: int
    size_bytes: int
    series: Sequence[Series]

    def rate(self, series: Series) -> float:
        """Records a second, median."""
        return self.record_count / median(series.seconds)

    def row(self, series: Series) -> dict[str, object]:
        """For the JSON."""
        return {
            "bench": "export",
            "case": self.case.name,
            "subject": series.subject,
            "records": self.record_count,
            "records_per_s": round(self.rate(series)),
            "mb_per_s": round(self.size_bytes / median(series.seconds) / 1e6, 1),
            "cpu_us_per_record": round(median(series.cpu_seconds) / self.record_count * 1e6, 3),
            "rounds": [round(each, 3) for each in series.seconds],
        }


def measure(bootstrap: str, case: Case, record_count: int, rounds: int, scratch: Path) -> Measured:
    """Fill a topic once, and export it in turns; a first turn of each does not count, unless there is but one round."""
    topic = f"export-{case.value_size_bytes}-{case.compression}"
    size_bytes = fill(bootstrap, topic, case, record_count)
    series = [Series(name) for name in SUBJECTS]
    for number in range(-1 if rounds > 1 else 0, rounds):
        for each in series if number % 2 else series[::-1]:
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                seconds, cpu_seconds, records = run(each.subject, bootstrap, topic, Path(folder) / "out")
            if records != record_count:
                raise click.ClickException(f"{each.subject}: {records} of {record_count} records")
            if number >= 0:
                each.seconds.append(seconds)
                each.cpu_seconds.append(cpu_seconds)
    return Measured(case, record_count, size_bytes, series)


def show(console: Console, measured: Measured) -> None:
    """One table."""
    table = Table(title=measured.case.name, title_justify="left", title_style="bold")
    for name in ("", "records/s", "MB/s", "CPU µs/record", "penstock / it"):
        table.add_column(name, justify="right" if name else "left")
    ours = measured.series[0]
    for each in measured.series:
        row = measured.row(each)
        single = [b / a for a, b in zip(ours.seconds, each.seconds, strict=True)]
        ratio = measured.rate(ours) / measured.rate(each)
        shown = "" if each is ours else f"{ratio:.2f} ({min(single):.2f}-{max(single):.2f})"
        table.add_row(
            each.subject,
            f"{row['records_per_s']:,}",
            f"{row['mb_per_s']:,}",
            f"{row['cpu_us_per_record']:.2f}",
            shown,
        )
    console.print(table)


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=5, help="Exports by each of the two in each case.")
@click.option("--megabytes", default=300.0, help="Of values in each case.")
@click.option("--sizes", default="100,1024", help="Of values, in bytes, about.")
@click.option("--compressions", default="none,zstd", help="Of the batches in the topic.")
@click.option("--broker-cores", default="0", help="Cores of the broker.")
@click.option("--driver-cores", default="1", help="Cores of the exports.")
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the broker and the exports write.")
@click.option("--results", default=str(RESULTS), help="Folder for the JSON.")
def main(
    rounds: int,
    megabytes: float,
    sizes: str,
    compressions: str,
    broker_cores: str,
    driver_cores: str,
    data_dir: str,
    results: str,
) -> None:
    """Compare two ways from a topic to Parquet."""
    from importlib.metadata import version

    console = Console(width=None if os.isatty(1) else 160)
    cases = [
        Case(int(size), compression) for size in sizes.split(",") for compression in compressions.split(",")
    ]
    cores = [int(part) for part in broker_cores.split(",") if part]
    drivers = [int(part) for part in driver_cores.split(",") if part]
    found: list[Measured] = []
    with (
        tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch,
        penstock(CACHING, Path(scratch), cores) as subject,
        on_cores(drivers),
    ):
        for case in cases:
            count = max(PARTITIONS, int(megabytes * 1e6 / case.value_size_bytes))
            measured = measure(subject.bootstrap, case, count, rounds, Path(scratch))
            show(console, measured)
            found.append(measured)
    described = machine()
    described["packages"] = {
        name: version(name) for name in ("penstock", "confluent-kafka", "pyarrow", "numpy")
    }
    document: dict[str, object] = {
        "format": 1,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "machine": described,
        "run": {
            "rounds": rounds,
            "megabytes": megabytes,
            "broker_cores": cores,
            "driver_cores": drivers,
            "file_system": file_system_of(Path(data_dir)),
        },
        "rows": [measured.row(series) for measured in found for series in measured.series],
    }
    path = write_json(document, Path(results))
    console.print(f"written to {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
