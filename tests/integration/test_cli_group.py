"""`penstock group` as a process against a broker."""

import json
import signal
import uuid
from typing import Any

import pytest
from tests.support.commands import Commands
from tests.support.deadline import until
from tests.support.loghub import FILES
from tests.support.processes import RunningServer


@pytest.fixture(scope="module")
def commands(server: RunningServer) -> Commands:
    return Commands(server.bootstrap)


@pytest.fixture(scope="module")
def topic(commands: Commands) -> str:
    """Two partitions: the first has 2000 real lines, the second one record of 2015 and one of now."""
    name = f"group-{uuid.uuid4().hex[:8]}"
    commands.good("topic", "create", name, "--partitions", "2")
    commands.good("produce", name, "--file", str(FILES[0]), "--partition", "0")
    records = b'{"value":"old","timestamp":1438128000000}\n{"value":"new"}'
    commands.good("produce", name, "--json", "--partition", "1", stdin=records)
    return name


@pytest.fixture
def group(commands: Commands, topic: str) -> str:
    """A group that has consumed all of the topic, and has no members."""
    name = f"group-{uuid.uuid4().hex[:8]}"
    commands.good("consume", topic, "--group", name, "--exit")
    return name


def described(commands: Commands, group: str) -> Any:
    return json.loads(commands.good("group", "describe", group, "--json").out)


def offsets_of(commands: Commands, group: str) -> list[int | None]:
    return [each["committed"] for each in described(commands, group)["partitions"]]


def test_a_group_is_listed_described_and_deleted(commands: Commands, topic: str, group: str) -> None:
    listed = [json.loads(line) for line in commands.good("group", "list", "--json").lines]
    assert {"group": group, "state": "Empty", "type": "classic", "protocol_type": "consumer"} in listed
    assert group in commands.good("group", "list", "--state", "empty", "--type", "classic").out.decode()
    assert group not in commands.good("group", "list", "--state", "stable").out.decode()
    assert offsets_of(commands, group) == [2000, 2]
    done = commands.run("group", "delete", group, "no-such-group", "--yes")
    assert done.exit_code == 1
    assert done.lines == [f"deleted {group}"]
    assert done.err == "penstock: group no-such-group: group id not found (GROUP_ID_NOT_FOUND)\n"
    assert commands.run("group", "describe", group).exit_code == 1
    commands.good("group", "delete", group, "--yes", "--if-exists")


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_members_partitions_are_shown_and_keep_its_group_as_it_is(
    commands: Commands, topic: str, group: str, protocol: str
) -> None:
    member = ("consume", topic, "--group", group, "--group-protocol", protocol)
    with commands.running(*member) as process:
        found = until(
            lambda: (found := described(commands, group))["state"] == "Stable" and found, "a stable group"
        )
        (one,) = found["members"]
        assert one["client_id"] == "penstock-cli"
        assert one["client_host"] == "127.0.0.1"
        assert one["partitions"] == [{"topic": topic, "partition": index} for index in (0, 1)]
        assert found["type"] == protocol
        assert [each["member_id"] for each in found["partitions"]] == [one["member_id"]] * 2

        done = commands.run("group", "reset", group, "--to-earliest", "--yes")
        assert (done.exit_code, done.out) == (1, b"")
        assert done.err == (
            f"penstock: group {group} has 1 member (Stable): stop them before its offsets are reset\n"
        )
        done = commands.run("group", "delete", group, "--yes")
        assert (done.exit_code, done.err.count("\n")) == (1, 1)
        assert "NON_EMPTY_GROUP" in done.err
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    assert offsets_of(commands, group) == [2000, 2]


def test_a_plan_is_shown_and_nothing_is_done_before_it_is_agreed_to(
    commands: Commands, topic: str, group: str
) -> None:
    done = commands.good("group", "reset", group, "--to-earliest")
    assert done.err == "penstock: this is the plan; nothing was done: add --yes to do it\n"
    assert [line.split() for line in done.lines] == [
        ["TOPIC", "PARTITION", "COMMITTED", "NEW", "CHANGE"],
        [topic, "0", "2000", "0", "-2000"],
        [topic, "1", "2", "0", "-2"],
    ]
    assert offsets_of(commands, group) == [2000, 2]
    done = commands.good("group", "reset", group, "--to-earliest", "--yes")
    assert done.err == f"reset 2 partitions of group {group}\n"
    assert offsets_of(commands, group) == [0, 0]


def test_a_reset_goes_where_it_is_told_and_stays_within_the_log(
    commands: Commands, topic: str, group: str
) -> None:
    for flags, expected in (
        (("--to-time", "2015-07-30"), [0, 1]),
        (("--to-latest",), [2000, 2]),
        (("--to-offset", "100"), [100, 2]),
        (("--shift", "-1"), [99, 1]),
        (("--shift", "-50", "--topic", f"{topic}:0"), [49, 1]),
        (("--to-time", "now"), [2000, 2]),
        (("--to-earliest", "--topic", f"{topic}:1"), [2000, 0]),
    ):
        done = commands.good("group", "reset", group, *flags, "--yes", "--json")
        assert all(json.loads(line)["done"] for line in done.lines)
        assert offsets_of(commands, group) == expected, flags
    assert commands.good("consume", topic, "--group", group, "--exit").lines == ["old", "new"]


def test_a_reset_of_a_group_that_is_not_there_makes_it(commands: Commands, topic: str) -> None:
    name = f"new-{uuid.uuid4().hex[:8]}"
    done = commands.run("group", "reset", name, "--to-latest")
    assert (done.exit_code, done.err) == (
        1,
        f"penstock: group {name} has no committed offsets; name topics with --topic\n",
    )
    commands.good("group", "reset", name, "--to-latest", "--topic", topic, "--yes")
    assert offsets_of(commands, name) == [2000, 2]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "complaint"),
    [
        (("describe", "no-such-group"), 1, "group no-such-group: group id not found"),
        (("list", "--bootstrap", "127.0.0.1:1"), 1, "no broker to be reached"),
        (("list", "--state", "odd"), 2, "odd"),
        (("delete", "g"), 2, "delete needs --yes"),
        (("reset", "g"), 2, "say where to, once"),
        (("reset", "g", "--to-latest", "--to-earliest"), 2, "say where to, once"),
        (("reset", "g", "--to-time", "soon"), 2, "'soon' is no time"),
        (("reset", "g", "--to-offset", "-1"), 2, "-1 is not in the range"),
        (("reset", "g", "--shift", "1", "--topic", "{topic}"), 1, "nothing to shift: no offset is committed"),
        (("reset", "g", "--to-latest", "--topic", "{topic}:9"), 1, "has no partition 9"),
        (("reset", "g", "--to-latest", "--topic", "{topic}:x"), 2, "'x' is no partition"),
        (("reset", "g", "--to-latest", "--topic", "no-such-topic"), 1, "unknown topic or partition"),
    ],
)
def test_what_can_not_work_is_told_without_a_traceback(
    commands: Commands, topic: str, arguments: tuple[str, ...], exit_code: int, complaint: str
) -> None:
    done = commands.run("group", *(each.format(topic=topic) for each in arguments))
    assert (done.exit_code, done.out) == (exit_code, b"")
    assert complaint in done.err
    assert "Traceback" not in done.err
