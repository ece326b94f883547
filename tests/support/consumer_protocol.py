"""Groups of the consumer protocol by raw heartbeats, and a broker on which their sessions are short."""

from collections.abc import Callable, Mapping
from typing import Any

from tests.support.deadline import until
from tests.support.wire import Connection

from penstock.protocol.errors import ErrorCode

HEARTBEAT_VERSION = 1
FAST_GROUPS: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    "group.consumer.session.timeout.ms": "3000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "200",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.initial.rebalance.delay.ms": "0",
    "group.consumer.migration.policy": "disabled",
}
NOT_YET = {
    int(ErrorCode.COORDINATOR_NOT_AVAILABLE),
    int(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS),
    int(ErrorCode.NOT_COORDINATOR),
}
UNCHANGED: Mapping[str, Any] = {
    "rebalance_timeout": -1,
    "subscribed_topic_names": None,
    "topic_partitions": None,
}
"""What a heartbeat says that has nothing new to tell."""
JOIN: Mapping[str, Any] = {
    "member_epoch": 0,
    "rebalance_timeout": 5_000,
    "topic_partitions": [],
    "subscribed_topic_names": [],
}


def find_coordinator(connection: Connection, group: str) -> None:
    """Wait until the group has a coordinator that answers."""

    def found() -> bool:
        reply = connection.request("find_coordinator", 4, key_type=0, coordinator_keys=[group])
        return bool(reply.coordinators[0].error_code == 0)

    until(found, f"the coordinator of {group}", limit_s=30.0)


def heartbeat(connection: Connection, group: str, member_id: str, **fields: Any) -> Any:
    """One heartbeat; asked again while the coordinator is not there yet."""
    version = fields.pop("version", HEARTBEAT_VERSION)
    values = {**UNCHANGED, "group_id": group, "member_id": member_id, **fields}

    def answer() -> Any:
        reply = connection.request("consumer_group_heartbeat", version, **values)
        return None if reply.error_code in NOT_YET else reply

    return until(answer, f"an answer to a heartbeat of {group}", limit_s=30.0)


def join(connection: Connection, group: str, member_id: str, *topics: str, **fields: Any) -> Any:
    """Join with a full heartbeat."""
    values = {**JOIN, "subscribed_topic_names": list(topics), **fields}
    return heartbeat(connection, group, member_id, **values)


def partitions_of(reply: Any) -> dict[bytes, list[int]]:
    """The assignment of a reply, by topic id."""
    assert reply.assignment is not None
    return {bytes(topic.topic_id): sorted(topic.partitions) for topic in reply.assignment.topic_partitions}


def owning(assignment: Mapping[bytes, list[int]]) -> list[dict[str, Any]]:
    """What a member says it owns."""
    return [{"topic_id": topic_id, "partitions": partitions} for topic_id, partitions in assignment.items()]


def beat_until(
    connection: Connection, group: str, member_id: str, event: Callable[[Any], bool], **fields: Any
) -> Any:
    """Heartbeats until an answer is as wanted; the answer. Kafka from 4.3 on takes its time over a new target."""

    def seen() -> Any:
        reply = heartbeat(connection, group, member_id, **fields)
        assert reply.error_code == 0, reply
        return reply if event(reply) else None

    return until(seen, f"the wanted answer to heartbeats of {member_id}")


def describe(connection: Connection, group: str) -> Any:
    """ConsumerGroupDescribe's view of the group."""

    def answer() -> Any:
        shown = connection.request("consumer_group_describe", 1, group_ids=[group]).groups[0]
        return None if shown.error_code in NOT_YET else shown

    return until(answer, f"a description of {group}")
