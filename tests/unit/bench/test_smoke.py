"""Every bench runs to its end at next to no load, and what it writes can be compared later. No JVM here."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench.__main__ import BENCHES, main
from bench.peers import PeerMissing
from bench.peers.kafka import find_java, kafka_version, libraries
from click.testing import CliRunner


def run(tmp_path: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    fixed = [
        "--tiny",
        "--rounds",
        "1",
        "--warm-up",
        "0",
        "--results",
        str(tmp_path),
        "--data-dir",
        str(tmp_path),
    ]
    done = CliRunner().invoke(main, [*fixed, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    return done.output, json.loads(path.read_text())


def test_every_bench_runs_and_names_the_durability_in_every_row(tmp_path: Path) -> None:
    _, document = run(tmp_path, "--subjects", "bare,penstock")
    rows = document["rows"]
    assert {row["bench"] for row in rows} == set(BENCHES)
    assert {(row["durability"], row["settings"]) for row in rows} == {
        ("page cache", "no sync"),
        ("page cache", "write.caching=true"),
        ("synced", "write.caching=false"),
    }
    assert all(row["median"]["mb_per_s"] > 0 and len(row["rounds"]) == 1 for row in rows)
    assert {"cpu", "cores", "kernel", "python"} <= set(document["machine"])
    assert document["git"]["commit"]
    assert document["failures"] == []


def test_what_is_missing_is_said_in_a_line_and_the_rest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    output, document = run(tmp_path, "lone_write", "--subjects", "bare,kafka")
    assert "without kafka (page cache): Apache Kafka needs a Java runtime" in output
    assert [row["subject"] for row in document["rows"]] == ["bare"]


def test_jars_that_are_not_cached_and_no_maven_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PEERS", str(tmp_path / "peers"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(PeerMissing, match=rf"Apache Kafka {kafka_version()} is not cached in .*no `mvn`"):
        libraries()
    with pytest.raises(PeerMissing, match="no `java` on the PATH"):
        find_java()
    assert not (tmp_path / "peers").exists()
