import json
from collections.abc import Sequence

import pytest
from tests.support.scripted_broker import (
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)

from penstock.cli.main import run
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

NODES = {1: ("localhost", 9092)}
TOPIC_ID = b"0123456789abcdef"


class Cluster:
    """A one-broker cluster with the topics `orders` (two partitions, the second without a leader) and `bills`."""

    def __init__(self) -> None:
        self.topics: dict[str, Sequence[int]] = {"orders": [1, -1], "bills": [1]}
        self.broker = ScriptedBroker(
            {
                ApiKey.METADATA: self.metadata,
                ApiKey.LIST_OFFSETS: self.offsets,
                ApiKey.DESCRIBE_CONFIGS: self.configs,
                ApiKey.DESCRIBE_LOG_DIRS: self.may_not_see,
                ApiKey.CREATE_TOPICS: self.create,
                ApiKey.DELETE_TOPICS: self.delete,
                ApiKey.CREATE_PARTITIONS: self.grow,
                ApiKey.INCREMENTAL_ALTER_CONFIGS: self.alter,
            }
        )

    def run(self, *arguments: str) -> int:
        network = ScriptedNetwork({("localhost", 9092): self.broker})
        return run(["topic", *arguments], obj=scripted_environment(network))

    def metadata(self, version: int, request: Message) -> Message:
        wanted = self.topics if request.topics is None else [topic.name for topic in request.topics]
        known = {name: self.topics.get(name, ()) for name in wanted}
        answer = metadata_answer(NODES, known)
        for topic in answer.topics:
            topic.error_code = 0 if topic.partitions else ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            topic.is_internal = topic.name.startswith("__")
        return answer

    def offsets(self, version: int, request: Message) -> Message:
        return Message(
            topics=[
                Message(
                    name=topic.name,
                    partitions=[
                        Message(
                            partition_index=entry.partition_index,
                            offset=42 if entry.timestamp == -1 else 17,
                            timestamp=-1,
                        )
                        for entry in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    def configs(self, version: int, request: Message) -> Message:
        return Message(
            results=[
                Message(
                    resource_type=each.resource_type,
                    resource_name=each.resource_name,
                    configs=[
                        Message(name="retention.ms", value="5", config_source=1),
                        Message(name="segment.ms", value="6", config_source=5),
                    ],
                )
                for each in request.resources
            ]
        )

    def may_not_see(self, version: int, request: Message) -> Message:
        return Message(error_code=ErrorCode.CLUSTER_AUTHORIZATION_FAILED, results=[])

    def create(self, version: int, request: Message) -> Message:
        return Message(topics=[self.created(topic.name) for topic in request.topics])

    def created(self, name: str) -> Message:
        if name in self.topics:
            code = ErrorCode.TOPIC_ALREADY_EXISTS
            return Message(name=name, error_code=code, error_message="It is\nthere.")
        return Message(name=name, topic_id=TOPIC_ID, num_partitions=3, replication_factor=1)

    def delete(self, version: int, request: Message) -> Message:
        return Message(
            responses=[
                Message(name=topic.name, error_code=0 if topic.name in self.topics else 3)
                for topic in request.topics
            ]
        )

    def grow(self, version: int, request: Message) -> Message:
        return Message(
            results=[
                Message(name=topic.name, error_code=0 if topic.count > 2 else ErrorCode.INVALID_PARTITIONS)
                for topic in request.topics
            ]
        )

    def alter(self, version: int, request: Message) -> Message:
        return Message(
            responses=[
                Message(resource_type=each.resource_type, resource_name=each.resource_name)
                for each in request.resources
            ]
        )


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


Capture = pytest.CaptureFixture[str]


def test_created_topics_are_told_and_a_failure_sets_the_exit_code(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run("create", "new", "orders", "--partitions", "3", "--config", "retention.ms=1") == 1
    out, err = capsys.readouterr()
    assert out == "created new: 3 partitions\n"
    assert err == "penstock: topic orders: It is there. (TOPIC_ALREADY_EXISTS)\n"
    (request,) = cluster.broker.bodies(ApiKey.CREATE_TOPICS)
    assert [topic.num_partitions for topic in request.topics] == [3, 3]
    assert request.topics[0].configs == [Message(name="retention.ms", value="1")]


def test_a_topic_that_is_there_is_fine_where_that_was_asked(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run("create", "orders", "--if-not-exists") == 0
    assert capsys.readouterr().out == "orders is there already\n"


def test_a_dry_run_only_asks(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run("create", "new", "--dry-run") == 0
    assert cluster.run("alter", "orders", "--config", "a=1", "--delete-config", "b", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines() == [
        "could create new: 3 partitions",
        "orders: a=1 is possible",
        "orders: b could have its default again",
    ]
    assert cluster.broker.bodies(ApiKey.CREATE_TOPICS)[0].validate_only
    assert cluster.broker.bodies(ApiKey.INCREMENTAL_ALTER_CONFIGS)[0].validate_only


def test_a_list_in_a_pipe_is_plain_columns(cluster: Cluster, capsys: Capture) -> None:
    cluster.topics["__hidden"] = [1]
    assert cluster.run("list") == 0
    assert capsys.readouterr().out.splitlines() == [
        "TOPIC   PARTITIONS  REPLICAS  ID",
        "bills            1         1  MDEyMzQ1Njc4OWFiY2RlZg",
        "orders           2         1  MDEyMzQ1Njc4OWFiY2RlZg",
    ]
    assert cluster.run("list", "--internal") == 0
    assert "__hidden" in capsys.readouterr().out


def test_a_list_in_json_is_one_object_a_line(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run("list", "--json") == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "topic": "bills",
        "id": "MDEyMzQ1Njc4OWFiY2RlZg",
        "partitions": 1,
        "replication_factor": 1,
        "internal": False,
    }
    assert second["topic"] == "orders"


def test_an_empty_list_is_nothing_on_stdout(cluster: Cluster, capsys: Capture) -> None:
    cluster.topics.clear()
    assert cluster.run("list") == 0
    assert capsys.readouterr() == ("", "no topics\n")


def test_a_description_shows_what_it_can_of_a_partition_without_a_leader(
    cluster: Cluster, capsys: Capture
) -> None:
    assert cluster.run("describe", "orders", "nowhere") == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "topic orders, id MDEyMzQ1Njc4OWFiY2RlZg",
        "PARTITION  LEADER  EPOCH  REPLICAS  ISR  START  END",
        "        0       1      3  1         1       17   42",
        "        1       -      3  1         1        -    -",
        "",
        "CONFIG        VALUE  SET FOR",
        "retention.ms  5      topic",
    ]
    assert err == "penstock: topic nowhere: unknown topic or partition (UNKNOWN_TOPIC_OR_PARTITION)\n"


def test_a_description_in_json_has_all_there_is(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run("describe", "orders", "--json", "--all-configs") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["partitions"][0]["end_offset"] == 42
    assert described["partitions"][1]["end_offset"] is None
    assert described["configs"]["segment.ms"] == {"value": "6", "source": "default_config"}


def test_an_alteration_sends_each_change_and_tells_it(cluster: Cluster, capsys: Capture) -> None:
    assert (
        cluster.run("alter", "orders", "--config", "a=x=y", "--delete-config", "b", "--partitions", "4") == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        "orders: a=x=y",
        "orders: b has its default again",
        "orders: 4 partitions now",
    ]
    (request,) = cluster.broker.bodies(ApiKey.INCREMENTAL_ALTER_CONFIGS)
    assert [(each.name, each.config_operation, each.value) for each in request.resources[0].configs] == [
        ("a", 0, "x=y"),
        ("b", 1, None),
    ]


def test_a_refused_alteration_is_one_line(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run("alter", "orders", "--partitions", "1") == 1
    assert capsys.readouterr() == ("", "penstock: topic orders: invalid partitions (INVALID_PARTITIONS)\n")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("alter", "orders"), "nothing to alter"),
        (("alter", "orders", "--config", "a=1", "--delete-config", "a"), "both set and deleted"),
        (("alter", "orders", "--config", "a"), "'a' is not of the form KEY=VALUE"),
        (("create", "x", "--config", "=1"), "'=1' is not of the form KEY=VALUE"),
        (("create", "x", "--config", "a=1", "--config", "a=2"), "a is set twice"),
        (("create",), "Missing argument"),
        (("create", "x", "--partitions", "0"), "0 is not in the range"),
        (("delete", "orders"), "delete needs --yes"),
        (("list", "--bootstrap", "a:b"), "--bootstrap: 'a:b': 'b' is no port"),
        (("frobnicate",), "No such command"),
    ],
)
def test_a_wrong_call_is_exit_code_2_and_nothing_is_sent(
    cluster: Cluster, capsys: Capture, arguments: Sequence[str], complaint: str
) -> None:
    assert cluster.run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert cluster.broker.requests == []


def test_a_deletion_tells_what_is_gone_and_what_was_not_there(cluster: Cluster, capsys: Capture) -> None:
    assert cluster.run("delete", "orders", "nowhere", "--yes") == 1
    out, err = capsys.readouterr()
    assert out == "deleted orders\n"
    assert "topic nowhere: unknown topic or partition" in err
    assert cluster.run("delete", "nowhere", "--yes", "--if-exists") == 0
    assert cluster.run("delete", "orders", "--yes", "--json") == 0
    assert capsys.readouterr().out == '{"topic":"orders","deleted":true}\n'


def test_a_broker_that_can_not_be_reached_is_one_line_with_address_and_reason(
    cluster: Cluster, capsys: Capture
) -> None:
    assert cluster.run("list", "--bootstrap", "elsewhere:1") == 1
    assert capsys.readouterr() == (
        "",
        "penstock: no broker to be reached: can't connect to elsewhere:1: Connection refused\n",
    )


def thin(partition: Message, replicas: list[int], isr: list[int]) -> None:
    """Let a partition have lost replicas."""
    partition.replica_nodes, partition.isr_nodes = replicas, isr
    partition.offline_replicas = sorted(set(replicas) - set(isr))


class ThinCluster(Cluster):
    """orders-0 has all, orders-1 has no leader and one of three in sync, bills-0 two of three; two are wanted."""

    def metadata(self, version: int, request: Message) -> Message:
        answer = super().metadata(version, request)
        for topic in answer.topics:
            for partition in topic.partitions:
                isr = {("orders", 0): [1, 2, 3], ("orders", 1): [2]}.get(
                    (topic.name, partition.partition_index), [1, 2]
                )
                thin(partition, [1, 2, 3], isr)
        return answer

    def configs(self, version: int, request: Message) -> Message:
        answer = super().configs(version, request)
        for result in answer.results:
            result.configs.append(Message(name="min.insync.replicas", value="2", config_source=5))
        return answer


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--under-replicated-partitions", ["bills-0", "orders-1"]),
        ("--unavailable-partitions", ["orders-1"]),
        ("--under-min-isr-partitions", ["orders-1"]),
        ("--at-min-isr-partitions", ["bills-0"]),
    ],
)
def test_partitions_that_lack_something_are_picked_from_all_topics(
    capsys: pytest.CaptureFixture[str], option: str, expected: list[str]
) -> None:
    assert ThinCluster().run("describe", option, "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [f"{one['topic']}-{one['partition']}" for one in found] == expected


def test_what_is_picked_shows_who_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ThinCluster().run("describe", "orders", "--under-replicated-partitions") == 0
    assert capsys.readouterr().out.splitlines() == [
        "TOPIC   PARTITION  LEADER  REPLICAS  ISR  OFFLINE",
        "orders          1       -  1,2,3     2    1,3",
    ]
    assert Cluster().run("describe", "--under-replicated-partitions") == 0
    assert capsys.readouterr().out == ""


def test_a_topic_that_lacks_replicas_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert ThinCluster().run("describe", "orders") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-1] == "OFFLINE"
    assert lines[3].split()[-1] == "1,3"
    assert "under-replicated: 1 of 2 partitions" in lines


def test_nothing_named_and_nothing_asked_for_is_a_wrong_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert Cluster().run("describe") == 2
    assert "name a topic" in capsys.readouterr().err
