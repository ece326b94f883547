"""The benches of clusters come to their end at next to no load, with Penstock and etcd and no JVM. What their figures are these tests do not say."""

import json
from pathlib import Path
from typing import Any

from bench import cold_reads, failover, replication, scaling
from click.testing import CliRunner
from tests.support.requirements import need_program


def document_of(folder: Path) -> Any:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def test_what_replication_costs_is_not_measured(tmp_path: Path) -> None:
    need_program("etcd")
    size = ["--tiny", "--rounds", "1", "--warm-up", "0", "--catch-up-mb", "5", "--cold-mb", "30"]
    places = ["--data-dir", str(tmp_path), "--results", str(tmp_path)]
    arguments = [*size, *places, "--peers", "penstock", "--durability", "page cache"]
    done = CliRunner().invoke(replication.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = document_of(tmp_path)["rows"]
    produced = [row for row in rows["produce"] if "median" in row]
    assert {row["subject"] for row in produced} == {"penstock", "penstock, 1 replica"}
    assert all(row["median"]["mb_per_s"] > 0 and row["median"]["cpu_s_per_gb"] > 0 for row in produced)
    assert all(figure > 0 for row in rows["catch-up"] for figure in row["mb_per_s"])
    (cold,) = rows["cold"]
    assert cold["cold_p50_us"] > 0
    assert cold["warm_follower_mb_per_s"] > 0


def test_time_without_service_is_not_measured(tmp_path: Path) -> None:
    need_program("etcd")
    turns = ["--kills", "1", "--stops", "1", "--partitions", "3", "--session-ms", "2000"]
    places = ["--data-dir", str(tmp_path), "--results", str(tmp_path)]
    arguments = [*turns, *places, "--peers", "penstock", "--durability", "page cache"]
    done = CliRunner().invoke(failover.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = document_of(tmp_path)["rows"]
    assert [row["how"] for row in rows] == ["SIGTERM", "SIGKILL"]
    for row in rows:
        assert len(row["led"]) + len(row["followed"]) == 3
        assert row["summary"]["led"]["p99_ms"] > 0


def test_what_writers_notice_of_moving_partitions_is_not_timed(tmp_path: Path) -> None:
    need_program("etcd")
    size = ["--gigabytes", "0.01", "--rate", "100", "--partitions", "3", "--quiet-seconds", "0.5"]
    places = ["--data-dir", str(tmp_path), "--results", str(tmp_path)]
    arguments = [*size, *places, "--throttle", "", "--durability", "page cache"]
    done = CliRunner().invoke(scaling.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (row,) = document_of(tmp_path)["rows"]
    assert row["failed"] == 0
    assert [phase["name"] for phase in row["phases"]][1::2] == ["a fourth joins", "the first is drained"]
    assert all(
        phase["record_count"] > 0 and phase["p99_ms"] >= phase["p50_ms"] > 0 for phase in row["phases"]
    )
    assert all(phase["moved_mb"] > 0 for phase in row["phases"][1::2])


def test_what_a_cold_reader_costs_is_not_measured(tmp_path: Path) -> None:
    need_program("etcd")
    size = ["--rounds", "1", "--seconds", "0.2", "--cold-mb", "90"]
    arguments = [*size, "--data-dir", str(tmp_path), "--results", str(tmp_path)]
    done = CliRunner().invoke(cold_reads.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    alone, *beside = document_of(tmp_path)["rows"]
    assert len(beside) == 2
    assert all(row["summary"]["MB/s"] > 0 for row in beside)
    assert all(
        row["summary"][f"{what} p50"] > 0 for row in (alone, *beside) for what in ("write", "end to end")
    )
