"""What comes out: tables for people, JSON for whoever compares runs.

Owns the description of the machine and the form of both outputs. Every row names its durability. MB and GB are 10^6 and 10^9 bytes.
"""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.rounds import Metrics, Ratio, Scale, Series
from bench.targets import Verdict

FORMAT = 1
ROOT = Path(__file__).parent.parent
PACKAGES = ("penstock", "trio", "crc32c", "confluent-kafka")

COLUMNS: Mapping[str, tuple[str, str]] = {
    "mb_per_s": ("MB/s", ",.1f"),
    "records_per_s": ("records/s", ",.0f"),
    "requests_per_s": ("requests/s", ",.0f"),
    "p50_us": ("p50 µs", ",.0f"),
    "p99_us": ("p99 µs", ",.0f"),
    "cpu_s_per_gb": ("CPU s/GB", ",.2f"),
    "cpu_us_per_request": ("CPU µs/request", ",.1f"),
    "server_busy": ("server busy", ".0%"),
    "driver_busy": ("driver busy", ".0%"),
    "resident_mb": ("resident MB", ",.0f"),
}
RATIOS_SHOWN = ("mb_per_s", "p50_us", "p99_us", "cpu_s_per_gb")


@dataclass(frozen=True, slots=True)
class RunDescription:
    """How a run was made, as it is kept beside its figures."""

    rounds: int
    warm_up: int
    scale: Scale
    broker_cores: Sequence[int]
    driver_cores: Sequence[int]
    data_directory: Path


def machine() -> dict[str, object]:
    """The machine, as far as it bears on the figures."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_kb = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gb": round(memory_kb / 1e6, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_average_at_start": os.getloadavg()[0],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def file_system_of(path: Path) -> str:
    """The type of the file system that a path is on (`ext4`); the longest mount point that covers it."""
    best, kind = "", "unknown"
    target = str(path.resolve())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, point, found, *_ = line.split()
        covers = target == point or target.startswith(point.rstrip("/") + "/")
        if covers and len(point) >= len(best):
            best, kind = point, found
    return kind


def git_state() -> dict[str, object]:
    """The commit, and whether the tree differs from it."""

    def git(*arguments: str) -> str:
        if shutil.which("git") is None:
            return ""
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {
        "commit": git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(git("status", "--porcelain", "-uno")),
    }


def as_json(
    run: RunDescription,
    described: Mapping[str, object],
    all_series: Sequence[Series],
    all_ratios: Sequence[Ratio],
    verdicts: Sequence[Verdict],
    failures: Sequence[str],
) -> dict[str, object]:
    """The whole run as one document."""
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "machine": dict(described),
        "run": {
            "rounds": run.rounds,
            "warm_up": run.warm_up,
            "scale": asdict(run.scale),
            "broker_cores": list(run.broker_cores),
            "driver_cores": list(run.driver_cores),
            "file_system": file_system_of(run.data_directory),
        },
        "rows": [_row(series) for series in all_series],
        "ratios": [asdict(ratio) for ratio in all_ratios],
        "targets": [asdict(verdict) for verdict in verdicts],
        "failures": list(failures),
    }


def _row(series: Series) -> dict[str, object]:
    return {
        "bench": series.case.bench,
        "case": series.case.name,
        "subject": series.subject.name,
        "version": series.subject.version,
        "durability": series.subject.durability,
        "settings": series.subject.settings,
        "median": _rounded(series.median),
        "rounds": [_rounded(each) for each in series.rounds],
    }


def _rounded(metrics: Metrics) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in metrics.items()}


def write_json(document: Mapping[str, object], directory: Path) -> Path:
    """Write a run's document under a name made of its time and commit; returns the path."""
    directory.mkdir(parents=True, exist_ok=True)
    stamp = str(document["date"])[:16].replace(":", "").replace("T", "-")
    path = directory / f"{stamp}-{str(git_state()['commit'])[:8]}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    return path


def show_case(console: Console, all_series: Sequence[Series], all_ratios: Sequence[Ratio]) -> None:
    """One table for a case: a line for each subject, and under it the ratios with their spread."""
    first = all_series[0]
    present = [name for name in COLUMNS if any(name in series.median for series in all_series)]
    title = f"{first.case.bench}: {first.case.name} ({first.case.durability}, {len(first.rounds)} rounds)"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("")
    table.add_column("durability")
    for name in present:
        table.add_column(COLUMNS[name][0], justify="right")
    for series in all_series:
        median = series.median
        figures = [format(median[name], COLUMNS[name][1]) if name in median else "" for name in present]
        table.add_row(series.subject.name, series.subject.settings, *figures)
    console.print(table)
    for line in _ratio_lines(all_ratios):
        console.print(f"  {line}")


def _ratio_lines(all_ratios: Iterable[Ratio]) -> list[str]:
    lines: dict[str, list[str]] = {}
    for ratio in all_ratios:
        if ratio.metric in RATIOS_SHOWN:
            text = f"{COLUMNS[ratio.metric][0]} {ratio.ratio:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"
            lines.setdefault(f"{ratio.of} / {ratio.to}", []).append(text)
    return [f"{pair}: {', '.join(texts)}" for pair, texts in lines.items()]


def show_targets(console: Console, verdicts: Sequence[Verdict]) -> None:
    """What was promised, what was measured, and whether it holds."""
    if not verdicts:
        return
    table = Table(title="Targets", title_justify="left", title_style="bold")
    for name in ("bench", "case", "durability", "figure", "promised", "measured", ""):
        table.add_column(name)
    for verdict in verdicts:
        promised = f"{'>=' if verdict.at_least else '<='} {verdict.bound:g} of {verdict.to}"
        measured = f"{verdict.ratio:.2f} ({verdict.low:.2f}-{verdict.high:.2f})"
        held = "[green]holds" if verdict.holds else "[red]falls short"
        label = COLUMNS.get(verdict.metric, (verdict.metric, ""))[0]
        table.add_row(verdict.bench, verdict.case, verdict.durability, label, promised, measured, held)
    console.print(table)
