"""The command: replay a seed, or run fresh ones in parallel processes for hours.

    python -m tests.simulation.run 4711                       one seed; what was wrong, if anything was
    python -m tests.simulation.run 4711 --trace               all that happened, one line each
    python -m tests.simulation.run 4711 --bug "early ack"     with a planted bug
    python -m tests.simulation.run --hours 20 --jobs 2        simulated hours, fresh seeds from `--first` on (`make simulate HOURS=20`)

Exit status 1 if a property did not hold. A failing seed is told with the command that replays it.
"""

import argparse
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, replace

from tests.simulation.simulation import Options, Outcome, simulate


@dataclass(slots=True)
class Totals:
    """What many runs came to."""

    seeds: int = 0
    simulated_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter[str])
    checks: Counter[str] = field(default_factory=Counter[str])
    counts: Counter[str] = field(default_factory=Counter[str])
    failures: list[Outcome] = field(default_factory=list[Outcome])

    def add(self, outcome: Outcome) -> None:
        """One more."""
        self.seeds += 1
        self.simulated_s += outcome.simulated_s
        self.faults.update(outcome.faults)
        self.checks.update(outcome.checked)
        self.counts.update(outcome.counts)
        if outcome.violation_count:
            self.failures.append(outcome)

    def told(self) -> str:
        """In words."""
        lines = [
            f"{self.simulated_s / 3600:.2f} simulated hours, {self.seeds} seeds, {sum(self.faults.values())} faults",
            f"{sum(self.checks.values())} checks, {len(self.failures)} failing seeds",
            "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
            "checks: " + ", ".join(f"{name} {count}" for name, count in sorted(self.checks.items())),
            "work: " + ", ".join(f"{name} {count}" for name, count in self.counts.items()),
        ]
        return "\n".join(lines)


def command_of(options: Options) -> str:
    """What replays a run."""
    words = [".venv/bin/python -m tests.simulation.run", str(options.seed), f"--chaos {options.chaos_s:g}"]
    if options.broker_count is not None:
        words.append(f"--brokers {options.broker_count}")
    if options.faults is not None:
        words.append(f"--faults '{','.join(options.faults)}'")
    if options.has_backlog:
        words.append("--backlog")
    if options.bug:
        words.append(f"--bug '{options.bug}'")
    return " ".join(words)


def told(outcome: Outcome) -> str:
    """A failing run in words: options, what did not hold, the command."""
    lines = [f"seed {outcome.options.seed}: {outcome.violation_count} violations; {outcome.options}"]
    lines += [f"    {violation}" for violation in outcome.violations]
    return "\n".join([*lines, f"    {command_of(outcome.options)}"])


def fresh(seed: int, chaos_s: float = 20.0, *, bug: str = "") -> Options:
    """What a fresh seed is run with: a third of them has a bounded topic, by a draw of its own."""
    has_backlog = zlib.crc32(f"{seed}/backlog".encode()) % 3 == 0
    return Options(seed, chaos_s, bug=bug, has_backlog=has_backlog)


def run_many(hours: float, jobs: int, first: int, chaos_s: float, *, has_backlog: bool = False) -> Totals:
    """Fresh seeds until so many simulated hours are done. `has_backlog`: all of them with a bounded topic."""
    totals = Totals()
    seeds = _count_from(first)
    started = time.monotonic()
    with ProcessPoolExecutor(jobs, max_tasks_per_child=20) as pool:
        running: set[Future[Outcome]] = set()
        while running or totals.simulated_s < hours * 3600:
            while len(running) < jobs and totals.simulated_s < hours * 3600:
                options = fresh(next(seeds), chaos_s)
                options = replace(options, has_backlog=has_backlog or options.has_backlog)
                running.add(pool.submit(simulate, options))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                outcome = future.result()
                totals.add(outcome)
                if outcome.violation_count:
                    print(told(outcome), flush=True)
            if totals.seeds % 50 == 0:
                print(f"{time.monotonic() - started:.0f} s: {totals.told().splitlines()[:2]}", flush=True)
    return totals


def _count_from(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


def commit() -> str:
    """What is simulated."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("seed", type=int, nargs="?")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--chaos", type=float, default=20.0, help="simulated seconds with faults")
    parser.add_argument("--brokers", type=int, help="how many; by default the seed says")
    parser.add_argument("--faults", help="which, separated by commas; by default the seed says")
    parser.add_argument(
        "--backlog", action="store_true", help="with a bounded topic; fresh seeds: all of them"
    )
    parser.add_argument("--bug", default="", help="a planted bug")
    parser.add_argument("--hours", type=float, default=1.0, help="simulated hours, where no seed is given")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=int(time.time()) * 1000, help="the first fresh seed")
    arguments = parser.parse_args()
    if arguments.seed is None:
        print(f"commit {commit()}, seeds from {arguments.first} on, {arguments.jobs} at a time", flush=True)
        totals = run_many(
            arguments.hours, arguments.jobs, arguments.first, arguments.chaos, has_backlog=arguments.backlog
        )
        print(totals.told())
        return 1 if totals.failures else 0
    faults = None if arguments.faults is None else tuple(f for f in arguments.faults.split(",") if f)
    options = Options(
        arguments.seed,
        arguments.chaos,
        arguments.brokers,
        faults,
        arguments.bug,
        has_backlog=arguments.backlog,
    )
    outcome = simulate(options, print if arguments.trace else None)
    totals = Totals()
    totals.add(outcome)
    print(told(outcome) if outcome.violation_count else f"digest {outcome.digest}")
    print(totals.told())
    return 1 if outcome.violation_count else 0


if __name__ == "__main__":
    sys.exit(main())
