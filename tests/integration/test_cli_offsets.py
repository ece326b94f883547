"""`penstock offsets` as a process against a broker."""

import json
import os
import pty
import re
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Commands
from tests.support.loghub import FILES
from tests.support.processes import RunningServer, running_server

STYLE = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture(scope="module")
def commands(server: RunningServer) -> Commands:
    return Commands(server.bootstrap)


@pytest.fixture(scope="module")
def topic(commands: Commands) -> str:
    """Two partitions, 2000 real lines in the first, with the first ten deleted; nothing in the second."""
    name = f"offsets-{uuid.uuid4().hex[:8]}"
    commands.good("topic", "create", name, "--partitions", "2")
    commands.good("produce", name, "--file", str(FILES[0]), "--partition", "0")
    return name


@pytest.fixture
def group(commands: Commands, topic: str) -> str:
    """A group that has consumed half of the topic."""
    name = f"offsets-{uuid.uuid4().hex[:8]}"
    commands.good("consume", topic, "--group", name, "--count", "1000")
    return name


def total(commands: Commands, *arguments: str) -> Any:
    return json.loads(commands.good("offsets", *arguments, "--json").out)["total"]


def test_a_topic_shows_where_its_partitions_stand_and_who_consumes_it(
    commands: Commands, topic: str, group: str
) -> None:
    rows = [line.split() for line in commands.good("offsets", topic).lines]
    assert rows[:4] == [
        ["TOPIC", "PARTITION", "START", "HIGH", "WATERMARK", "LAST", "STABLE"],
        [topic, "0", "0", "2000", "2000"],
        [topic, "1", "0", "0", "0"],
        ["total", "2", "0", "2000", "2000"],
    ]
    assert [group, "Empty", "1", "1000"] in [row[:4] for row in rows]


def test_the_lag_of_a_group_is_told_in_records_and_in_time(
    commands: Commands, topic: str, group: str
) -> None:
    picture = json.loads(commands.good("offsets", "--group", group, "--json").out)
    partition, nothing_committed = picture["partitions"]
    assert (nothing_committed["partition"], nothing_committed["committed"]) == (1, None)
    assert (partition["committed"], partition["high_watermark"], partition["lag"]) == (1000, 2000, 1000)
    first_ms = json.loads(
        commands.good("consume", topic, "--from", "1000", "--count", "1", "--json", "--partition", "0").out
    )["timestamp"]
    age_ms = partition["lag_ms"]
    assert isinstance(age_ms, int)
    again = json.loads(commands.good("offsets", "--group", group, "--json").out)
    assert first_ms > 0
    assert again["partitions"][0]["lag_ms"] > age_ms  # it grows with the clock, not with the records
    commands.good("consume", topic, "--group", group, "--exit")
    assert total(commands, "--group", group) | {"committed": 0} == {
        "log_start": 0,
        "high_watermark": 2000,
        "last_stable": 2000,
        "committed": 0,
        "lag": 0,
        "lag_ms": 0,
    }


def test_a_monitor_gets_exit_code_1_and_one_line_when_a_limit_is_exceeded(
    commands: Commands, topic: str, group: str
) -> None:
    commands.good("offsets", "--group", group, "--max-lag", "1000")
    commands.good("offsets", "--group", group, "--max-lag-time", "10d")
    done = commands.run("offsets", "--group", group, "--max-lag", "999")
    assert done.exit_code == 1
    assert done.lines[0].startswith("TOPIC")
    assert done.err == f"penstock: group {group}: the lag is 1000 records, more than 999\n"
    done = commands.run("offsets", "--group", group, "--max-lag-time", "1ms", "--json")
    assert done.exit_code == 1
    assert re.fullmatch(rf"penstock: group {group}: the time lag is [^,]+, more than 1 ms\n", done.err)
    json.loads(done.out)


def test_a_partition_that_nothing_is_committed_for_counts_with_all_that_is_in_it(
    commands: Commands, topic: str
) -> None:
    name = f"offsets-{uuid.uuid4().hex[:8]}"
    commands.good("group", "reset", name, "--to-earliest", "--topic", f"{topic}:1", "--yes")
    for named in ([], [topic]):
        done = commands.run("offsets", "--group", name, *named, "--max-lag", "0")
        assert done.exit_code == 1
        assert done.err == (
            f"penstock: group {name}: the lag is 2000 records, more than 0, nothing is committed for {topic}-0\n"
        )
    assert commands.run("offsets", "--group", name, topic, "--max-lag-time", "10d").exit_code == 1


def test_watching_shows_rates_and_survives_a_broker_that_goes_away(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        commands = Commands(server.bootstrap)
        commands.good("topic", "create", "watched", "--partitions", "1")
        commands.good("produce", "watched", stdin=b"a\nb\nc\n")
        commands.good("consume", "watched", "--group", "watchers", "--count", "1")
        with commands.running("offsets", "--group", "watchers", "--watch", "0.2", "--json") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            first = json.loads(process.stdout.readline())
            assert first["total"]["lag"] == 2
            assert first["total"]["in_per_s"] is None
            commands.good("produce", "watched", stdin=b"d\n" * 100)
            while (picture := json.loads(process.stdout.readline()))["total"]["lag"] < 102:
                pass
            assert picture["total"]["in_per_s"] > 0
            assert picture["total"]["out_per_s"] == 0
            assert picture["total"]["drained_in_s"] is None
            server.kill()
            trouble = process.stderr.readline().decode()
            assert trouble.startswith("penstock: ")
            assert server.bootstrap in trouble
            server.start()
            while json.loads(process.stdout.readline())["total"]["lag"] != 102:
                pass
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
            assert b"Traceback" not in process.stderr.read()


def test_a_terminal_is_drawn_in_place(commands: Commands, topic: str, group: str) -> None:
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        commands.line(
            "offsets", topic, "--group", group, "--watch", "0.1", "--bootstrap", commands.bootstrap
        ),
        stdin=follower,
        stdout=follower,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"},
    )
    os.close(follower)
    seen = bytearray()
    try:
        while seen.count(b"COMMITTED") < 3:
            seen += os.read(leader, 4096)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.wait(20) == 130
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.communicate()
        os.close(leader)
    text = STYLE.sub(b"", bytes(seen)).decode()
    assert "DRAINED" in text
    assert f"group {group}, Empty" in text
    assert b"\x1b[1A" in seen or b"\x1b[2K" in seen, "the cursor goes up again instead of writing on"


def test_a_watch_that_nobody_reads_any_more_ends(commands: Commands, topic: str) -> None:
    done = commands.in_shell(f"penstock offsets {topic} --watch 0.1 --json | head -n 2")
    assert len(done.lines) == 2
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        (("no-such-topic",), 1, "topic no-such-topic: unknown topic or partition"),
        (("--group", "no-such-group"), 1, "group no-such-group: group id not found"),
        (("no-such-topic", "--watch", "1"), 1, "topic no-such-topic: unknown topic or partition"),
        (("--watch", "no-such-topic"), 1, "topic no-such-topic: unknown topic or partition"),
        (("x", "--bootstrap", "127.0.0.1:1"), 1, "no broker to be reached"),
        ((), 2, "name a topic, or a group"),
        (("x", "--max-lag", "1"), 2, "need --group"),
        (("--group", "g", "--max-lag", "-1"), 2, "-1 is not in the range"),
        (("--group", "g", "--max-lag-time", "soon"), 2, "'soon' is no length of time"),
        (("x", "--watch", "0"), 2, "0"),
    ],
)
def test_what_can_not_work_is_told_without_a_traceback(
    commands: Commands, arguments: tuple[str, ...], exit_code: int, complaint: str
) -> None:
    done = commands.run("offsets", *arguments)
    assert (done.exit_code, done.out) == (exit_code, b"")
    assert complaint in done.err
    assert "Traceback" not in done.err
