"""The benches that are run by themselves come to their end at next to no load. What their figures are these tests do not say."""

import json
from pathlib import Path

import pytest
from bench import backlog, beside_compaction, export, quotas, startup, unclean_start
from click.testing import CliRunner

ONE_MEGABYTE = "0.001"


def test_a_write_beside_a_compaction_is_not_timed(tmp_path: Path) -> None:
    arguments = ["--rounds", "1", "--records", "20000", "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(beside_compaction.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    _, *rows = (line.split() for line in done.output.splitlines())
    assert [row[0] for row in rows] == ["true", "false"]
    assert all(float(figure) > 0 for row in rows for figure in row[1:])


def test_exports_are_not_timed(tmp_path: Path) -> None:
    load = ["--rounds", "1", "--megabytes", "0.01", "--data-dir", str(tmp_path), "--results", str(tmp_path)]
    done = CliRunner().invoke(
        export.main, [*load, "--sizes", "100", "--compressions", "zstd"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    rows = json.loads(path.read_text())["rows"]
    assert [row["subject"] for row in rows] == list(export.SUBJECTS)
    assert all(row["records"] == 100 and row["records_per_s"] > 0 for row in rows)


def test_starts_are_not_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--rounds", "1", "--topics", "2", "--gigabytes", ONE_MEGABYTE, "--data-dir", str(tmp_path)]
    done = CliRunner().invoke(startup.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "start to a leader for every topic" in done.output
    assert "most resident" in done.output


def test_a_start_after_a_kill_is_not_timed(tmp_path: Path) -> None:
    checkpoints = "replica.high.watermark.checkpoint.interval.ms=50"
    load = ["--gigabytes", ONE_MEGABYTE, "--batch-bytes", "100000", "--above", "1", "--rounds", "1"]
    places = ["--data-dir", str(tmp_path), "--results", str(tmp_path)]
    arguments = [*load, *places, "--settle", "0.5", "--set", checkpoints]
    done = CliRunner().invoke(unclean_start.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert row["log_bytes"] > row["added_before_the_kill_bytes"] > 0
    assert row["served_s"] >= row["first_answer_s"] > 0


def test_bounds_on_many_partitions_are_not_timed(tmp_path: Path) -> None:
    load = ["--rounds", "1", "--partitions", "3", "--seconds", "0.05", "--starts", "1"]
    places = ["--data-dir", str(tmp_path), "--results", str(tmp_path)]
    done = CliRunner().invoke(backlog.main, [*load, *places], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    document = json.loads(path.read_text())
    assert [row["variant"] for row in document["rows"]] == list(backlog.VARIANTS)
    assert all(row["requests_per_s"] > 0 and row["cpu_us_per_request_ratio"] > 0 for row in document["rows"])
    assert all(row["first_ack_ms"] >= row["first_answer_ms"] > 0 for row in document["starts"])


def test_an_offender_is_not_held(tmp_path: Path) -> None:
    load = ["--seconds", "0.6", "--rate", "300000", "--clients", "librdkafka"]
    arguments = [*load, "--data-dir", str(tmp_path), "--results", str(tmp_path)]
    done = CliRunner().invoke(quotas.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    nobody, *held, free = json.loads(path.read_text())["rows"]
    assert (nobody["got_bytes"], free["rate"]) == (0, 0)
    assert [row["quota"] for row in held] == ["producer_byte_rate", "consumer_byte_rate"]
    assert all(0 < row["share"] < 6 for row in held), "a second's worth, and a batch"
    assert all(row["p99_ms"] >= row["p50_ms"] > 0 for row in (nobody, *held, free))
