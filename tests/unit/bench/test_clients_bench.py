"""The bench of client libraries runs to its end at next to no load, with every client in every row."""

import json
import sys
from pathlib import Path

from bench.client_load import CONSUMERS, PRODUCERS
from bench.clients import main
from click.testing import CliRunner


def test_every_client_moves_records_in_every_row(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--seconds", "0.1", "--results", str(tmp_path), "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    measured = {(row["case"], row["client"]) for row in rows}
    assert {client for _, client in measured} == {*PRODUCERS, *CONSUMERS}
    assert len(measured) == 5 * len(PRODUCERS) + 5 * len(CONSUMERS)
    assert all(row["records_per_s"] > 0 and row["cpu_us_per_record"] > 0 for row in rows)


def test_the_compiled_client_runs_in_the_environment_that_is_named(tmp_path: Path) -> None:
    client = "compiled penstock batches"
    chosen = ["--clients", client, "--compiled", sys.executable, "--direction", "consume"]
    where = ["--results", str(tmp_path), "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(main, ["--rounds", "1", "--seconds", "0.1", *chosen, *where])
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    assert [row["client"] for row in json.loads(path.read_text())["rows"]] == [client] * 5
