"""The bench of client libraries runs to its end at next to no load, with every client in every row."""

import json
import sys
from pathlib import Path

from bench.client_load import CONSUMERS, PRODUCERS
from bench.clients import main
from click.testing import CliRunner


def measured(tmp_path: Path, *arguments: str) -> set[tuple[str, str]]:
    """Rows and clients that a run has measured."""
    where = ["--results", str(tmp_path), "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(
        main, ["--rounds", "1", "--seconds", "0.1", *where, *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    assert all(row["records_per_s"] > 0 and row["cpu_us_per_record"] > 0 for row in rows)
    return {(row["case"], row["client"]) for row in rows}


def test_every_client_moves_records(tmp_path: Path) -> None:
    found = measured(tmp_path, "--row", "100 B, 3 partitions")
    assert {client for _, client in found} == {*PRODUCERS, *CONSUMERS}
    assert len(found) == len(PRODUCERS) + len(CONSUMERS)


def test_every_row_has_records_moved(tmp_path: Path) -> None:
    found = measured(tmp_path, "--clients", "penstock send_many,confluent consume")
    assert len({row for row, _ in found}) == len(found) == 10


def test_the_compiled_client_runs_in_the_environment_that_is_named(tmp_path: Path) -> None:
    client = "compiled penstock batches"
    chosen = ["--clients", client, "--compiled", sys.executable, "--direction", "consume"]
    found = measured(tmp_path, "--row", "1024 B, 1 partition", *chosen)
    assert found == {("consume 1024 B, 1 partition", client)}
