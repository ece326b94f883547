"""`penstock cluster` where people err, and what it makes of a cluster; the moves themselves are in `tests/faults/cluster/test_scaling.py`."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli import cluster_reassign as by_hand
from penstock.cli.cluster import command
from penstock.cli.cluster_files import parse_reassignments, reassignments_text
from penstock.cli.cluster_moves import Work
from penstock.cli.cluster_view import ClusterLook, progress_of, show
from penstock.cli.failure import CalledWrongly, CommandFailed
from penstock.client.errors import BrokerError
from penstock.client.metadata import Address, Node, PartitionMetadata, TopicPartition
from penstock.client.placement_values import BrokerListing, ClusterDescription, LogDirectory, Reassignment
from penstock.protocol.errors import ErrorCode

ZERO, ONE = TopicPartition("t", 0), TopicPartition("t", 1)


def partition(index: int, replicas: tuple[int, ...], isr: tuple[int, ...], leader: int) -> PartitionMetadata:
    return PartitionMetadata(index, leader, 0, replicas, isr, ())


@pytest.fixture
def found() -> ClusterLook:
    """Partition 0 moves from 1,2 to 3,1 and is half done; partition 1 lacks broker 4, which is gone."""
    brokers = {
        node_id: BrokerListing(Node(node_id, Address("host", 9090 + node_id), "abc"[node_id - 1]))
        for node_id in (1, 2, 3)
    }
    partitions = {ZERO: partition(0, (3, 1, 2), (1, 2), 1), ONE: partition(1, (2, 4), (2,), 2)}
    sizes: dict[int, dict[TopicPartition, int]] = {
        1: {ZERO: 1000},
        2: {ZERO: 1000, ONE: 50},
        3: {ZERO: 250},
    }
    return ClusterLook(
        ClusterDescription("c", 2, brokers),
        partitions,
        {ZERO: Reassignment((3, 1, 2), (3,), (2,))},
        {node_id: [LogDirectory("/d", 9000, 8000, held)] for node_id, held in sizes.items()},
    )


def test_a_move_is_told_as_what_is_on_disk_and_not_as_what_it_is_to_be(found: ClusterLook) -> None:
    assert found.placement().partitions == {ZERO: (3, 1), ONE: (2, 4)}
    assert progress_of(found, ZERO, found.moves[ZERO]) == (250, 1000)
    assert found.gone == [4]


def test_what_a_cluster_lacks_is_not_told(found: ClusterLook, capsys: pytest.CaptureFixture[str]) -> None:
    show(found, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cluster c: 3 brokers, controller 2, 2 partitions"
    assert [line.split() for line in lines[3:7]] == [
        ["1", "host:9091", "a", "up", "1", "1", "1.0", "kB", "8.0", "kB"],
        ["2", "host:9092", "b", "controller", "1", "2", "1.1", "kB", "8.0", "kB"],
        ["3", "host:9093", "c", "up", "0", "1", "250", "B", "8.0", "kB"],
        ["4", "-", "-", "gone", "0", "1", "-", "-"],
    ]
    assert "1 partition under-replicated: t-1" in lines
    assert lines[-1].split() == ["t-0", "1,2", "3,1", "1.0", "kB", "25", "%"]


def test_an_unreachable_broker_is_called_empty(
    found: ClusterLook, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = BrokerError(ErrorCode.BROKER_NOT_AVAILABLE, "no")
    show(ClusterLook(found.cluster, found.partitions, {}, {**found.folders, 1: silent}), as_json=False)
    assert capsys.readouterr().out.splitlines()[3].split() == ["1", "host:9091", "a", "unreachable", *"11--"]


def test_a_plan_forgets_what_moves_already_or_counts_bytes_twice(found: ClusterLook) -> None:
    work = Work(found, {ONE: (3, 2), ZERO: (1, 3)})
    assert work.coming == {ZERO: ((1, 2), (3,)), ONE: ((2, 4), (3,))}
    assert work.total_bytes == 750 + 50


@pytest.mark.parametrize(
    ("to", "indexes", "expected"),
    [
        ("1,2", (), {ZERO: (1, 2), ONE: (2, 1)}),
        ("3", (1,), {ONE: (3,)}),
    ],
)
def test_a_topics_leaders_crowd_the_first_broker(
    found: ClusterLook, to: str, indexes: tuple[int, ...], expected: dict[TopicPartition, tuple[int, ...]]
) -> None:
    assert by_hand.targets(found, "t", indexes, to) == expected


@pytest.mark.parametrize(
    ("topic", "indexes", "to", "complaint"),
    [
        ("u", (), "1", "there is no topic u"),
        ("t", (7,), "1", "there is no partition t-7"),
        ("t", (), "1,x", "no list of brokers"),
    ],
)
def test_what_is_not_there_is_moved(
    found: ClusterLook, topic: str, indexes: tuple[int, ...], to: str, complaint: str
) -> None:
    with pytest.raises(CommandFailed, match=complaint):
        by_hand.targets(found, topic, indexes, to)


def test_a_move_to_nowhere_or_twice_to_one_broker_is_begun(found: ClusterLook) -> None:
    with pytest.raises(CommandFailed, match="t-1: there is no broker 9"):
        by_hand.checked(found, {ONE: (1, 9)})
    with pytest.raises(CommandFailed, match="t-1: a broker is named twice in 1,1"):
        by_hand.checked(found, {ONE: (1, 1)})
    with pytest.raises(CommandFailed, match="there is no partition t-5"):
        by_hand.checked(found, {TopicPartition("t", 5): (1,)})
    assert by_hand.checked(found, {ZERO: (3, 1), ONE: (1, 2)}) == {ONE: (1, 2)}


def test_kafkas_file_is_read_otherwise_than_kafka_does() -> None:
    text = (
        '{"version":1,"partitions":[{"topic":"t","partition":0,"replicas":[3,1],"log_dirs":["any","any"]}]}'
    )
    assert parse_reassignments(text, "f") == {ZERO: (3, 1)}
    assert reassignments_text({ZERO: (3, 1)}) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "f: this is not JSON"),
        ("[]", "f: this is not {"),
        ('{"version":2,"partitions":[]}', "f: this is not {"),
        ('{"partitions":[]}', "there is no partition in it"),
        ('{"partitions":[{"topic":"t","partition":0,"replicas":[]}]}', "this is no partition with replicas"),
        (
            '{"partitions":[{"topic":"t","partition":0,"replicas":["1"]}]}',
            "this is no partition with replicas",
        ),
        ('{"partitions":[{"topic":"t","partition":0,"replicas":[1],"log_dirs":["/a"]}]}', "log_dirs is any"),
        (
            '{"partitions":[{"topic":"t","partition":0,"replicas":[1]},{"topic":"t","partition":0,"replicas":[2]}]}',
            "t-0 is there twice",
        ),
    ],
)
def test_a_file_that_is_wrong_is_a_traceback(text: str, complaint: str) -> None:
    with pytest.raises(CalledWrongly) as raised:
        parse_reassignments(text, "f")
    assert complaint in str(raised.value)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, [*arguments, "--bootstrap", "127.0.0.1:1"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("rebalance", "--throttle", "fast"), "'fast' is no rate such as 50MB"),
        (("rebalance", "--throttle", "0"), "'0' is no rate"),
        (("reassign",), "give --topic and --to, or --file"),
        (("reassign", "--topic", "t", "--execute"), "give --file with one of"),
        (("reassign", "--verify", "--cancel"), "give --file with one of"),
        (("drain", "one"), "not a valid integer"),
    ],
)
def test_a_wrong_call_asks_a_cluster_first(arguments: tuple[str, ...], complaint: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert complaint in done.output


def test_a_file_that_is_missing_is_a_traceback(tmp_path: Path) -> None:
    done = run("reassign", "--file", str(tmp_path / "none.json"), "--verify")
    assert done.exit_code == 2
    assert "none.json: no such file" in done.output
