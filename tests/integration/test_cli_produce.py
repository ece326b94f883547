"""`penstock produce` as a process against a broker."""

import json
import re
import shlex
import signal
import subprocess
import uuid
from functools import partial
from pathlib import Path

import pytest
from tests.support.commands import Commands
from tests.support.deadline import until
from tests.support.loghub import FILES, lines
from tests.support.processes import RunningServer


@pytest.fixture
def commands(server: RunningServer) -> Commands:
    return Commands(server.bootstrap)


@pytest.fixture
def topic(commands: Commands) -> str:
    """A fresh topic with one partition."""
    name = f"produce-{uuid.uuid4().hex[:8]}"
    commands.good("topic", "create", name, "--partitions", "1")
    return name


def values(commands: Commands, topic: str) -> list[bytes]:
    """What a topic holds, in order."""
    return commands.good("consume", topic, "--exit", "--format", r"%s\n").out.split(b"\n")[:-1]


def test_every_line_of_stdin_is_a_record_byte_for_byte(commands: Commands, topic: str) -> None:
    done = commands.good("produce", topic, stdin=FILES[0].read_bytes())
    assert values(commands, topic) == list(lines("OpenSSH"))
    assert done.out == b""
    assert done.err.startswith("penstock: 2000 records acked (223.2 kB) in ")


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_files_come_one_after_the_other_in_every_codec(
    commands: Commands, topic: str, compression: str
) -> None:
    files = [part for path in FILES for part in ("--file", str(path))]
    commands.good("produce", topic, *files, "--compression", compression, "--acks", "leader")
    assert values(commands, topic) == list(lines())


def test_what_consume_writes_as_json_produce_reads(commands: Commands, topic: str) -> None:
    copy = f"{topic}-copy"
    commands.good("topic", "create", copy, "--partitions", "1")
    records = [
        {
            "key": "k",
            "value": "ü\u2028",
            "headers": [{"name": "h", "value": "v"}],
            "timestamp": 1438128000000,
        },
        {"key_base64": "/wA=", "value_base64": "gA==", "headers": [{"name": "b", "value_base64": "/w=="}]},
        {"key": "gone", "value": None, "headers": {"empty": None}},
        {"value": {"n": [1, 2]}, "partition": 0},
    ]
    text = "\n".join(map(json.dumps, records)).encode()
    commands.good("produce", topic, "--json", stdin=text)
    first = commands.good("consume", topic, "--exit", "--json")
    commands.good("produce", copy, "--json", stdin=first.out)
    second = commands.good("consume", copy, "--exit", "--json")
    before, after = ([json.loads(line) for line in done.lines] for done in (first, second))
    assert [each | {"topic": ""} for each in after] == [each | {"topic": ""} for each in before]
    assert before[0]["timestamp"] == 1438128000000
    assert before[1]["value_base64"] == "gA=="
    assert before[2]["value"] is None
    assert before[3]["value"] == '{"n":[1,2]}'


def test_keys_decide_the_partition_and_equal_keys_stay_together(commands: Commands, topic: str) -> None:
    spread = f"{topic}-spread"
    commands.good("topic", "create", spread, "--partitions", "3")
    text = b"\n".join(b"%d\tvalue %d" % (number % 10, number) for number in range(100))
    commands.good("produce", spread, "--key-separator", r"\t", stdin=text)
    done = commands.good("consume", spread, "--exit", "--format", r"%p %k %s\n")
    homes: dict[str, set[str]] = {}
    for line in done.lines:
        partition, key, _ = line.split(" ", 2)
        homes.setdefault(key, set()).add(partition)
    assert len(homes) == 10
    assert all(len(partitions) == 1 for partitions in homes.values())
    assert len({partition for partitions in homes.values() for partition in partitions}) > 1


def test_a_bad_line_is_told_by_its_number_and_the_others_are_sent(commands: Commands, topic: str) -> None:
    text = b'{"value":"a"}\nnonsense\n{"value":"b","partition":7}\n{"value":"c"}\n{"valeu":"d"}\n'
    done = commands.run("produce", topic, "--json", stdin=text)
    assert done.exit_code == 1
    assert values(commands, topic) == [b"a", b"c"]
    complaints = done.err.splitlines()
    assert complaints[0].startswith("penstock: line 2: no JSON: ")
    assert any(line.startswith("penstock: line 3: partition=7") for line in complaints)
    assert "penstock: line 5: unknown field 'valeu'" in complaints
    assert complaints[-1].startswith("penstock: 2 records acked (2 B)")
    assert complaints[-1].endswith("; 3 records failed")


def test_a_line_that_is_too_large_is_told_and_the_others_are_sent(commands: Commands, topic: str) -> None:
    done = commands.run("produce", topic, stdin=b"first\n" + b"x" * 3_000_000 + b"\nlast")
    assert done.exit_code == 1
    assert values(commands, topic) == [b"first", b"last"]
    assert done.err.startswith("penstock: line 2: a record of 3000")


def test_what_the_broker_refuses_is_told_and_the_next_lines_are_tried(
    commands: Commands, topic: str, tmp_path: Path
) -> None:
    commands.good("topic", "alter", topic, "--config", "max.message.bytes=1000")
    path = tmp_path / "lines"
    path.write_bytes(b"small\n" + b"y" * 2000 + b"\n")
    until(
        lambda: "MESSAGE_TOO_LARGE" in commands.run("produce", topic, "--file", str(path)).err,
        "the broker to follow its topic's config",
    )
    done = commands.run("produce", topic, "--file", str(path))
    assert done.exit_code == 1
    assert f"penstock: {path}: lines 1 to 2: 1 of 2 records were not acked: " in done.err
    assert "; 1 record failed" in done.err


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        (("no-such-topic",), 1, "topic no-such-topic: unknown topic or partition"),
        (("{topic}", "--file", "/no/such/file"), 1, "/no/such/file: no such file"),
        (("{topic}", "--partition", "5"), 1, "has no partition 5"),
        (("{topic}", "--bootstrap", "127.0.0.1:1"), 1, "no broker to be reached"),
        (("{topic}", "--bootstrap", "a:b"), 2, "--bootstrap: 'a:b': 'b' is no port"),
        (("{topic}", "--json", "--key-separator", ":"), 2, "don't go together"),
        (("{topic}", "--key-separator", ""), 2, "--key-separator is empty"),
        (("{topic}", "--acks", "many"), 2, "many"),
        (("{topic}", "--frobnicate"), 2, "--frobnicate"),
        ((), 2, "TOPIC"),
    ],
)
def test_what_can_not_work_is_told_without_a_traceback(
    commands: Commands, topic: str, arguments: tuple[str, ...], exit_code: int, complaint: str
) -> None:
    done = commands.run("produce", *(each.format(topic=topic) for each in arguments), stdin=b"line\n")
    assert done.exit_code == exit_code
    assert done.out == b""
    assert complaint in done.err
    assert "Traceback" not in done.err
    if exit_code == 1:
        assert done.err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_sends_what_was_read_and_says_how_much(
    commands: Commands, topic: str, number: signal.Signals
) -> None:
    with commands.running("produce", topic) as process:
        assert process.stdin is not None
        process.stdin.write(b"one\ntwo\nthe rest of a line")
        process.stdin.flush()
        until(lambda: values(commands, topic) == [b"one", b"two"], "the lines to be sent while stdin is open")
        process.send_signal(number)
        assert process.wait(20) == 128 + number  # while stdin is still open: its end would end the line
        assert process.stderr is not None
        err = process.stderr.read()
    assert err.decode().startswith("penstock: 2 records acked (6 B) in ")
    assert err.count(b"\n") == 1


def test_a_line_is_sent_when_it_is_typed_not_when_the_input_ends(commands: Commands, topic: str) -> None:
    with commands.running("produce", topic) as process:
        assert process.stdin is not None
        for count in (1, 2):
            process.stdin.write(b"line\n")
            process.stdin.flush()
            until(partial(has_values, commands, topic, count), "the line to arrive")


def has_values(commands: Commands, topic: str, count: int) -> bool:
    return len(values(commands, topic)) == count


def test_a_large_file_comes_out_as_it_went_in(commands: Commands, topic: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes((FILES[0].read_bytes() + b"\n") * 100)
    done = commands.in_shell(
        f"penstock produce {topic} --file {path} && penstock consume {topic} --exit | cmp - {path}"
    )
    assert (done.exit_code, done.out) == (0, b"")
    assert done.err.startswith("penstock: 200000 records acked (22.3 MB)")


def test_a_pipe_with_a_name_and_standard_input_are_files_like_others(
    commands: Commands, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "first").write_bytes(b"1\n")
    flags = ("--bootstrap", commands.bootstrap, "--file", str(tmp_path / "first"), "--file", "-")
    script = f"echo 2 | {shlex.join(commands.line('produce', topic, *flags))} --file <(echo 3)"
    subprocess.run(["bash", "-c", script], check=True, timeout=30)
    assert values(commands, topic) == [b"1", b"2", b"3"]


def test_a_folder_is_told_in_one_line_and_is_no_record(
    commands: Commands, topic: str, tmp_path: Path
) -> None:
    done = commands.run("produce", topic, "--file", str(tmp_path), "--file", str(FILES[0]))
    assert done.exit_code == 1
    assert re.fullmatch(rf"penstock: {tmp_path}: Is a directory\npenstock: 2000 records acked .*\n", done.err)
    assert "failed" not in done.err
