"""`penstock export` as a process against a broker: what DuckDB and polars find is what the log has, each record once."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import polars
import pytest
from tests.support.clients import kcat
from tests.support.commands import Commands
from tests.support.deadline import until
from tests.support.processes import RunningServer
from tests.support.topics import fresh_name
from tests.support.zookeeper_days import lines_of, produce_days, timed_lines

DAY = "2015-07-29"
PARTITIONS = 3
COLUMNS = ["topic", "partition", "offset", "timestamp", "key", "value", "headers"]


@pytest.fixture(scope="module")
def commands(server: RunningServer) -> Commands:
    return Commands(server.bootstrap)


@pytest.fixture(scope="module")
def topic(commands: Commands) -> str:
    return days_topic(commands)


def days_topic(commands: Commands, times: int = 1) -> str:
    name = fresh_name("export")
    commands.good("topic", "create", name, "--partitions", str(PARTITIONS), "--config", "retention.ms=-1")
    for _ in range(times):
        produce_days(commands.bootstrap, name, partitions=PARTITIONS, compression="zstd")
    return name


def manifest_of(folder: Path) -> Any:
    return json.loads((folder / "_manifest.json").read_bytes())


def by_duckdb(query: str) -> Sequence[Any]:
    with duckdb.connect() as connection:
        return connection.execute(query).fetchall()


def by_kcat(bootstrap: str, topic: str) -> list[tuple[int, int, int, bytes]]:
    """Partition, offset, time and value of every record."""
    found: list[tuple[int, int, int, bytes]] = []
    out = kcat.run("-b", bootstrap, "-C", "-q", "-e", "-t", topic, "-f", r"%p %o %T %s\n")
    for line in out.split(b"\n")[:-1]:
        partition, offset, time_ms, value = line.split(b" ", 3)
        found.append((int(partition), int(offset), int(time_ms), value))
    return sorted(found)


def test_a_day_as_parquet_is_what_the_log_has_of_it(commands: Commands, topic: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = commands.good("export", topic, "--day", DAY, "--partition-by", "hour", "--out", str(out), "--json")
    assert json.loads(done.out)["records"] == len(lines_of(DAY))
    files = f"read_parquet('{out}/**/*.parquet', hive_partitioning = true)"
    assert by_duckdb(f"select day::varchar, count(*) from {files} group by day") == [(DAY, 1523)]
    assert by_duckdb(f"select count(*) from {files} where hour <> hour(timestamp at time zone 'UTC')") == [
        (0,)
    ]
    rows = by_duckdb(f'select partition, "offset", epoch_ms(timestamp), value from {files} order by all')
    start_ms, end_ms = 1438128000000, 1438214400000
    log = by_kcat(commands.bootstrap, topic)
    assert [tuple(row) for row in rows] == [row for row in log if start_ms <= row[2] < end_ms]
    frame = polars.read_parquet(f"{out}/**/*.parquet")
    assert frame.columns[:7] == COLUMNS
    assert frame.height == 1523


def test_arrow_files_are_read_by_polars(commands: Commands, topic: str, tmp_path: Path) -> None:
    commands.good("export", topic, "--format", "arrow", "--out", str(tmp_path))
    (path,) = (tmp_path / each["path"] for each in manifest_of(tmp_path)["files"])
    frame = polars.read_ipc(path)
    for number in (0, 1, 5, 97, 1999):
        time_ms, line = timed_lines()[number]
        chosen = (polars.col("partition") == number % 3) & (polars.col("offset") == number // 3)
        (record,) = frame.filter(chosen).to_dicts()
        assert record["value"] == line
        assert record["key"] == (b"k%d" % (number % 10) if number % 3 else None)
        assert record["timestamp"].timestamp() * 1000 == pytest.approx(time_ms)
        assert record["headers"] == ([{"name": "n", "value": b"%d" % number}] if number % 5 == 0 else [])


def test_killed_in_the_middle_and_run_again_each_record_is_there_once(
    commands: Commands, tmp_path: Path
) -> None:
    topic = days_topic(commands, times=2)
    folder, group = killed_in_the_middle(commands, topic, tmp_path)
    commands.good(*export_line(topic, folder, group))
    files = f"read_parquet('{folder}/**/*.parquet')"
    query = f'select partition, "offset", epoch_ms(timestamp), value from {files} order by all'
    expected = by_kcat(commands.bootstrap, topic)
    assert [tuple(row) for row in by_duckdb(query)] == expected
    assert len(expected) == 4000
    of_the_day = f"select count(*) from read_parquet('{folder}/day={DAY}/*.parquet')"
    assert by_duckdb(of_the_day) == [(2 * len(lines_of(DAY)),)]
    (told,) = commands.good("offsets", topic, "--group", group, "--json").lines
    committed = {each["partition"]: each["committed"] for each in json.loads(told)["partitions"]}
    progress = manifest_of(folder)["partitions"]
    assert committed == {int(index): each["next"] for index, each in progress.items()}
    produce_days(commands.bootstrap, topic, partitions=PARTITIONS, compression="gzip")
    commands.good(*export_line(topic, folder, group))  # only what is new
    query = f'select count(*), count(distinct (partition, "offset")) from {files}'
    assert by_duckdb(query) == [(6000, 6000)]


def killed_in_the_middle(commands: Commands, topic: str, tmp_path: Path) -> tuple[Path, str]:
    """Kill an export when its manifest names two files; begin anew where it was done by then. Returns the folder and the group."""
    for attempt in range(10):
        folder, group = tmp_path / str(attempt), fresh_name("exporter")
        manifest = folder / "_manifest.json"
        with commands.running(*export_line(topic, folder, group, file_max_bytes=5000)) as process:
            until(lambda: manifest.exists() and len(manifest_of(folder)["files"]) >= 2, "two files")  # noqa: B023
            process.kill()
            process.wait()
        if not manifest_of(folder)["is_complete"]:
            return folder, group
    raise AssertionError("always killed too late")


def export_line(topic: str, folder: Path, group: str, *, file_max_bytes: int = 1 << 29) -> list[str]:
    layout = ["--out", str(folder), "--partition-by", "day", "--max-file-bytes", str(file_max_bytes)]
    return ["export", topic, "--group", group, *layout]


def test_a_group_with_members_is_refused_before_anything_is_written(
    commands: Commands, topic: str, tmp_path: Path
) -> None:
    group = fresh_name("busy")
    with commands.running("consume", topic, "--group", group, "--from", "beginning") as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = commands.run("export", topic, "--group", group, "--format", "csv", "--out", str(tmp_path))
    assert done.exit_code == 1
    # Which of the two depends on whether that member commits while this one looks.
    assert f"group {group}: not committed" in done.err or f"somebody else has moved group {group}" in done.err
    assert list(tmp_path.glob("part-*")) == []


def test_json_values_are_spread_into_columns(commands: Commands, tmp_path: Path) -> None:
    topic = fresh_name("json")
    commands.good("topic", "create", topic, "--partitions", "1")
    values = [b'{"id": 1, "user": {"name": "Ada"}}', b'{"id": "two"}', b"no JSON"]
    commands.good("produce", topic, stdin=b"\n".join(values))
    done = commands.good("export", topic, "--json-columns", "id:int64,user.name", "--out", str(tmp_path))
    assert "column id: 1 value of another type" in done.err
    frame = polars.read_parquet(tmp_path / "*.parquet")
    assert frame.select("id", "user.name").rows() == [(1, "Ada"), (None, None), (None, None)]
    assert frame["value"].to_list() == values


@pytest.mark.parametrize(
    ("flags", "exit_code", "message"),
    [
        (("--day", DAY, "--group", "g"), 2, "--group says from where to where"),
        (("--day", DAY, "--from", "0"), 2, "--day goes with neither"),
        (("--format", "csv", "--compression", "zstd"), 2, "csv has none"),
        (("--format", "csv", "--flatten-json"), 2, "are for parquet and arrow"),
        (("--json-columns", "a:long"), 2, "'a:long' is no column"),
        (("--partition", "9"), 1, "has no partition 9"),
        (("--from", "stored"), 2, "what --group means"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    commands: Commands, topic: str, tmp_path: Path, flags: tuple[str, ...], exit_code: int, message: str
) -> None:
    done = commands.run("export", topic, "--out", str(tmp_path), *flags)
    assert (done.exit_code, message in done.err, done.err.count("\n")) == (exit_code, True, 1), done


def test_another_export_into_the_same_folder_is_refused(
    commands: Commands, topic: str, tmp_path: Path
) -> None:
    commands.good("export", topic, "--format", "jsonl", "--to", "5", "--out", str(tmp_path))
    done = commands.run("export", topic, "--format", "jsonl", "--to", "6", "--out", str(tmp_path))
    assert done.exit_code == 1
    assert "holds another export (end 5, now 6)" in done.err
