"""How many crashes, torn writes, flipped bits and failing calls a test run has tried, for `docs/durability.md`.

Owns the sums of one process; `tests/conftest.py` adds up the processes of a run, prints one line, and writes the JSON file that the
environment variable PENSTOCK_TRIALS names.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

PATH_VARIABLE = "PENSTOCK_TRIALS"

TRIALS: Counter[str] = Counter()
"""By kind, since this process began."""


def count_trials(counts: Mapping[str, int]) -> None:
    """Add what a test has tried."""
    TRIALS.update(counts)


def told(counts: Mapping[str, int]) -> str:
    """One line."""
    return "tried: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items()))


def write_trials(path: Path, counts: Mapping[str, int]) -> None:
    """A JSON object of numbers by kind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dict(sorted(counts.items())), indent=2) + "\n", encoding="utf-8")
