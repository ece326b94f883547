"""`penstock consume` as a process against a broker."""

import json
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest
from tests.support.commands import Commands
from tests.support.deadline import until
from tests.support.loghub import FILES, lines
from tests.support.processes import RunningServer, running_server

ALL = list(lines("OpenSSH"))


@pytest.fixture(scope="module")
def commands(server: RunningServer) -> Commands:
    return Commands(server.bootstrap)


@pytest.fixture(scope="module")
def topic(commands: Commands) -> str:
    """A topic with the 2000 real lines in one partition."""
    name = f"consume-{uuid.uuid4().hex[:8]}"
    commands.good("topic", "create", name, "--partitions", "1")
    commands.good("produce", name, "--file", str(FILES[0]))
    return name


@pytest.fixture(scope="module")
def days(commands: Commands) -> str:
    """Two partitions with a record for every six hours of three days, whose values are their times."""
    name = f"days-{uuid.uuid4().hex[:8]}"
    commands.good("topic", "create", name, "--partitions", "2")
    records = [
        {"value": f"{day}T{hour:02d}", "timestamp": midnight + hour * 3_600_000, "partition": hour // 6 % 2}
        for day, midnight in (
            ("2015-07-28", 1438041600000),
            ("2015-07-29", 1438128000000),
            ("2015-07-30", 1438214400000),
        )
        for hour in (0, 6, 12, 18)
    ]
    commands.good("produce", name, "--json", stdin="\n".join(map(json.dumps, records)).encode())
    return name


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:8]}"


def committed(commands: Commands, group: str) -> int | None:
    """The committed offset of a group's one partition; None before there is one, or an assignment."""
    done = commands.run("offsets", "--group", group, "--json")
    if done.exit_code:
        return None
    partitions = json.loads(done.out)["partitions"]
    if not partitions:
        return None
    (partition,) = partitions
    offset = partition["committed"]
    assert offset is None or isinstance(offset, int)
    return offset


def test_all_that_is_there_comes_out_byte_for_byte(commands: Commands, topic: str) -> None:
    assert commands.good("consume", topic, "--exit").out == b"".join(line + b"\n" for line in ALL)


def test_a_pace_changes_what_is_printed_or_is_not_kept(commands: Commands, topic: str) -> None:
    began_s = time.monotonic()
    done = commands.good("consume", topic, "--exit", "--count", "60", "--max-rate", "100")
    assert done.out == b"".join(line + b"\n" for line in ALL[:60])
    assert time.monotonic() - began_s >= 0.5


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--from", "10", "--to", "12"), ALL[10:12]),
        (("--from", "-3", "--exit"), ALL[-3:]),
        (("--from", "1990", "--to", "end", "--count", "4"), ALL[1990:1994]),
        (("--from", "-1h", "--count", "1"), ALL[:1]),
        (("--from", "@0", "--to", "1"), ALL[:1]),
        (("--from", "end", "--exit"), []),
        (("--from", "5000", "--exit"), []),
        (("--from", "20", "--to", "10"), []),
        (("--to", "1 d ago"), []),
        (("--from", "1999", "--partition", "0", "--exit", "--isolation", "read_committed"), ALL[1999:]),
    ],
)
def test_a_range_is_what_lies_in_it(
    commands: Commands, topic: str, flags: tuple[str, ...], expected: list[bytes]
) -> None:
    assert commands.good("consume", topic, *flags).out == b"".join(line + b"\n" for line in expected)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--day", "2015-07-29"), ["2015-07-29T00", "2015-07-29T06", "2015-07-29T12", "2015-07-29T18"]),
        (
            ("--day", "2015-07-29", "--tz", "America/New_York"),  # 04:00 to 04:00 in UTC
            ["2015-07-29T06", "2015-07-29T12", "2015-07-29T18", "2015-07-30T00"],
        ),
        (("--day", "2015-07-29", "--partition", "1"), ["2015-07-29T06", "2015-07-29T18"]),
        (("--from", "2015-07-30T12:00", "--exit"), ["2015-07-30T12", "2015-07-30T18"]),
        (("--from", "2015-07-30T12:00+02:00", "--to", "2015-07-30T12:00Z"), []),
        (("--to", "2015-07-28T06:00:00.001Z"), ["2015-07-28T00", "2015-07-28T06"]),
        (("--day", "2020-01-01"), []),
    ],
)
def test_a_day_is_what_was_written_on_it(
    commands: Commands, days: str, flags: tuple[str, ...], expected: list[str]
) -> None:
    assert sorted(commands.good("consume", days, *flags).lines) == expected


def test_partitions_come_in_the_order_of_time_when_asked_for(commands: Commands, days: str) -> None:
    found = commands.good("consume", days, "--exit", "--by-time").lines
    assert found == [f"2015-07-{day}T{hour:02d}" for day in (28, 29, 30) for hour in (0, 6, 12, 18)]
    some = commands.good("consume", days, "--day", "2015-07-29", "--by-time", "--count", "3").lines
    assert some == ["2015-07-29T00", "2015-07-29T06", "2015-07-29T12"]


def test_a_format_shows_the_fields_of_kcat(commands: Commands, topic: str) -> None:
    done = commands.good(
        "consume", topic, "--count", "1", "--format", r"%t\t%p %o [%k] %K %S %h 100%%\x21 %%s\n"
    )
    assert done.out == f"{topic}\t0 0 [] -1 {len(ALL[0])}  100%! %s\n".encode()
    framed = commands.good("consume", topic, "--count", "2", "--format", "%R%s").out
    assert framed == b"".join(len(line).to_bytes(4, "big") + line for line in ALL[:2])


def test_following_shows_what_comes_until_it_is_interrupted(commands: Commands) -> None:
    name = f"follow-{uuid.uuid4().hex[:8]}"
    commands.good("topic", "create", name, "--partitions", "1")
    commands.good("produce", name, stdin=b"before\n")
    with commands.running("consume", name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"before\n"
        commands.good("produce", name, stdin=b"after\n")
        assert process.stdout.readline() == b"after\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (130, b"", b"")


def test_a_member_goes_on_where_the_one_before_it_stopped(commands: Commands, topic: str, group: str) -> None:
    first = commands.good("consume", topic, "--group", group, "--count", "5")
    assert committed(commands, group) == 5
    rest = commands.good("consume", topic, "--group", group, "--exit")
    assert first.out + rest.out == b"".join(line + b"\n" for line in ALL)
    assert committed(commands, group) == 2000
    assert commands.good("consume", topic, "--group", group, "--exit").out == b""


def test_a_closed_pipe_ends_quietly_and_no_more_is_committed_than_was_written(
    commands: Commands, topic: str, group: str
) -> None:
    done = commands.in_shell(f"penstock consume {topic} --group {group} | head -n 3")
    assert (done.exit_code, done.err) == (0, "")
    assert done.out == b"".join(line + b"\n" for line in ALL[:3])
    offset = committed(commands, group)
    assert offset is not None
    assert 3 <= offset < 2000  # what head has read, and what it left in the pipe
    next_one = commands.good("consume", topic, "--group", group, "--count", "1")
    assert next_one.out == ALL[offset] + b"\n"


def test_what_waits_in_front_of_a_full_pipe_is_not_committed_and_the_member_stays(
    commands: Commands, topic: str, group: str
) -> None:
    with commands.running("consume", topic, "--group", group) as process:
        written = until(lambda: committed(commands, group), "the first commit")
        assert written < 1500  # the pipe takes 64 KiB; the lines are 225 KB
        describe = commands.good("group", "describe", group, "--json")
        assert len(json.loads(describe.out)["members"]) == 1
        assert process.stdout is not None
        received = b"".join(process.stdout.readline() for _ in ALL)
        assert received == b"".join(line + b"\n" for line in ALL)
        until(lambda: committed(commands, group) == 2000, "the commit of all of it")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert json.loads(commands.good("group", "describe", group, "--json").out)["members"] == []


def test_partitions_that_are_named_are_read_without_the_groups_deciding(
    commands: Commands, days: str, group: str
) -> None:
    done = commands.good("consume", days, "--group", group, "--partition", "1", "--count", "2")
    assert done.lines == ["2015-07-28T06", "2015-07-28T18"]
    offsets = json.loads(commands.good("offsets", "--group", group, "--json").out)
    assert [(each["partition"], each["committed"]) for each in offsets["partitions"]] == [(0, None), (1, 2)]


def test_two_members_share_the_partitions_and_print_every_record_once(
    commands: Commands, days: str, group: str
) -> None:
    with (
        commands.running("consume", days, "--group", group) as one,
        commands.running("consume", days, "--group", group) as two,
    ):

        def all_committed() -> bool:
            done = commands.run("offsets", "--group", group, "--json")
            return done.exit_code == 0 and json.loads(done.out)["total"]["committed"] == 12

        until(all_committed, "commits of all records")
        out: list[bytes] = []
        for process in (one, two):
            process.send_signal(signal.SIGINT)
        for process in (one, two):
            try:
                out += process.communicate(timeout=20)[0].splitlines()
            except subprocess.TimeoutExpired:
                pytest.fail("a member does not end")
    assert len(out) == len(set(out)) == 12


def test_members_and_producers_outlive_a_broker_that_goes_away(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        commands = Commands(server.bootstrap)
        commands.good("topic", "create", "t", "--partitions", "1")
        with (
            commands.running("produce", "t") as producer,
            commands.running("consume", "t", "--group", "g") as consumer,
        ):
            assert producer.stdin is not None
            assert consumer.stdout is not None
            producer.stdin.write(b"before\n")
            producer.stdin.flush()
            assert consumer.stdout.readline() == b"before\n"
            until(lambda: committed(commands, "g") == 1, "the commit")
            server.kill()
            producer.stdin.write(b"while it is away\n")
            producer.stdin.flush()
            server.start()
            assert consumer.stdout.readline() == b"while it is away\n"
            until(lambda: committed(commands, "g") == 2, "the commit")
            producer.stdin.close()
            assert producer.wait(20) == 0
            consumer.send_signal(signal.SIGINT)
            assert consumer.wait(20) == 130


@pytest.mark.parametrize(
    ("flags", "exit_code", "complaint"),
    [
        (("--bootstrap", "127.0.0.1:1"), 1, "no broker to be reached"),
        (("--partition", "7"), 1, "has no partition 7"),
        (("--partition", "x"), 2, "'x' is no partition"),
        (("--from", "lately"), 2, "--from: 'lately' is none of"),
        (("--from", "stored"), 2, "--from stored needs --group"),
        (("--group", "g", "--from", "17"), 2, "penstock group reset goes elsewhere"),
        (("--to", "beginning"), 2, "--to is an offset, a time, or end"),
        (("--day", "2015-13-01"), 2, "'2015-13-01' is no day"),
        (("--day", "2015-07-29", "--from", "0"), 2, "--day goes with neither"),
        (("--by-time",), 2, "--by-time needs an end"),
        (("--tz", "Mars/Olympus"), 2, "'Mars/Olympus' is no time zone"),
        (("--format", "%z"), 2, "there is no field %z"),
        (("--format", "plain"), 2, "neither text nor json"),
        (("--count", "0"), 2, "0 is not in the range"),
    ],
)
def test_what_can_not_work_is_told_without_a_traceback(
    commands: Commands, topic: str, flags: tuple[str, ...], exit_code: int, complaint: str
) -> None:
    done = commands.run("consume", topic, *flags)
    assert (done.exit_code, done.out) == (exit_code, b"")
    assert complaint in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("flags", [("--exit",), ("--group", "nobody"), ()])
def test_an_unknown_topic_is_told_at_once(commands: Commands, flags: tuple[str, ...]) -> None:
    done = commands.run("consume", "no-such-topic", *flags)
    assert (done.exit_code, done.out) == (1, b"")
    assert done.err == (
        "penstock: topic no-such-topic: unknown topic or partition (UNKNOWN_TOPIC_OR_PARTITION)\n"
    )


def test_a_group_without_a_name_is_a_wrong_call(commands: Commands, topic: str) -> None:
    done = commands.run("consume", topic, "--group", "", "--exit")
    assert (done.exit_code, done.out, done.err) == (2, b"", "penstock: --group is empty\n")
