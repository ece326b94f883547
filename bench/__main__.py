"""`python -m bench [BENCH...]`: runs benches in alternation over their subjects, prints tables and writes JSON."""

import os
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
from confluent_kafka import KafkaException
from rich.console import Console

from bench import consume_records, end_to_end, fetch_frames, lone_write, produce_frames, produce_records
from bench.driver import LoadFailed
from bench.peers import PeerFailed, PeerMissing
from bench.processes import on_cores
from bench.report import RunDescription, as_json, machine, show_case, show_targets, write_json
from bench.rounds import TINY, Case, Ratio, Scale, Series, ratios, run_case
from bench.subjects import CACHING, DURABLE, STARTERS, Subject
from bench.targets import judge

BENCHES: dict[str, Callable[[], list[Case]]] = {
    module.BENCH: module.cases
    for module in (produce_frames, fetch_frames, produce_records, consume_records, lone_write, end_to_end)
}
RESULTS = Path(__file__).parent / "results" / "local"


@contextmanager
def running(
    names: Sequence[str], durability: str, directory: Path, cores: Sequence[int], console: Console
) -> Generator[list[Subject]]:
    """Start the subjects that can be had with this durability; one line for each that can't."""
    with ExitStack() as stack:
        subjects: list[Subject] = []
        for name in names:
            try:
                subjects.append(stack.enter_context(STARTERS[name](durability, directory, cores)))
            except PeerMissing as missing:
                console.print(f"without {name} ({durability}): {missing}")
        yield subjects


@dataclass(slots=True)
class Outcome:
    """What a run found, in the order of its cases."""

    series: list[Series] = field(default_factory=list[Series])
    ratios: list[Ratio] = field(default_factory=list[Ratio])
    failures: list[str] = field(default_factory=list[str])


def run_benches(
    names: Sequence[str], subjects: Sequence[str], run: RunDescription, console: Console
) -> Outcome:
    """Run all cases of the named benches, first those in the page cache, then those synced. A case that fails costs only itself."""
    outcome = Outcome()
    cases = [case for name in names for case in BENCHES[name]()]
    for durability in (CACHING, DURABLE):
        chosen = [case for case in cases if case.durability == durability]
        wanted = [name for name in subjects if any(name in case.subjects for case in chosen)]
        if not wanted:
            continue
        with (
            tempfile.TemporaryDirectory(dir=run.data_directory, ignore_cleanup_errors=True) as scratch,
            running(wanted, durability, Path(scratch), run.broker_cores, console) as started,
            on_cores(run.driver_cores),
        ):
            for case in chosen:
                _run_one(case, started, run, console, outcome)
    return outcome


def _run_one(
    case: Case, subjects: Sequence[Subject], run: RunDescription, console: Console, outcome: Outcome
) -> None:
    try:
        series = run_case(case, subjects, rounds=run.rounds, warm_up=run.warm_up, scale=run.scale)
    except (LoadFailed, KafkaException, OSError) as error:
        outcome.failures.append(f"{case.bench}: {case.name} ({case.durability}): {error}")
        console.print(f"[red]failed:[/] {outcome.failures[-1]}", highlight=False)
        for subject in subjects:
            subject.check_alive()
        return
    if series:
        found = ratios(series)
        show_case(console, series, found)
        outcome.series += series
        outcome.ratios += found


def _cores(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


@click.command(context_settings={"show_default": True})
@click.argument("benches", nargs=-1, type=click.Choice(sorted(BENCHES)))
@click.option("--rounds", default=5, help="Measurements of each case on each subject.")
@click.option(
    "--warm-up", default=8, help="Measurements before the first that counts; a JVM compiles for long."
)
@click.option("--seconds", default=3.0, help="The longest that one measurement may take.")
@click.option("--subjects", default=",".join(STARTERS), help="Who takes part.")
@click.option("--broker-cores", default="0", help="Cores of every server.")
@click.option("--driver-cores", default="1", help="Cores of the load.")
@click.option(
    "--data-dir", default=tempfile.gettempdir(), help="Where the servers write; synced rows need a real disk."
)
@click.option("--results", default=str(RESULTS), help="Folder for the JSON.")
@click.option("--tiny", is_flag=True, help="Next to no load: to see that all works, not for figures.")
def main(
    benches: Sequence[str],
    rounds: int,
    warm_up: int,
    seconds: float,
    subjects: str,
    broker_cores: str,
    driver_cores: str,
    data_dir: str,
    results: str,
    tiny: bool,
) -> None:
    """Compare Penstock with a bare loop and with Apache Kafka; all benches unless some are named."""
    console = Console(width=None if os.isatty(1) else 200)
    chosen = subjects.split(",")
    unknown = set(chosen) - set(STARTERS)
    if unknown:
        raise click.UsageError(f"no such subject: {', '.join(sorted(unknown))}")
    scale = TINY if tiny else Scale(seconds=seconds)
    run = RunDescription(rounds, warm_up, scale, _cores(broker_cores), _cores(driver_cores), Path(data_dir))
    described = machine()
    try:
        outcome = run_benches(benches or list(BENCHES), chosen, run, console)
    except PeerFailed as failed:
        raise click.ClickException(str(failed)) from None
    verdicts = judge(outcome.ratios)
    show_targets(console, verdicts)
    document = as_json(run, described, outcome.series, outcome.ratios, verdicts, outcome.failures)
    path = write_json(document, Path(results))
    console.print(f"written to {os.path.relpath(path)}")
    if outcome.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
