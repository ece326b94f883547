"""Metadata, versions 0 to 13: brokers, topics, leaders, as seen through the listener that the request came in by.

- Which topics: null means all (from version 1 on); an empty list means all in version 0 and none later.
- By id (KIP-516): from version 12 on, where the name may be null; an unknown id is UNKNOWN_TOPIC_ID. Versions 10 and 11 have the field but no
  meaning for it, so a name must be there.
- Auto creation (`auto.create.topics.enable`, and `allow_auto_topic_creation`, always true before version 4): the topic is made and, if it can be used
  within the patience below, answered as it is; else LEADER_NOT_AVAILABLE, upon which clients ask again. Internal topics are never made so.
- Authorized operations on request (KIP-430); the cluster's in versions 8 to 10 only.
- No endpoint of the listener on a leader: LISTENER_NOT_FOUND, before version 6 LEADER_NOT_AVAILABLE (KIP-103).
"""

from typing import TYPE_CHECKING

import trio

from penstock.broker import authorized_operations
from penstock.broker.cluster_view import ClusterView, PartitionView
from penstock.broker.context import RequestContext
from penstock.broker.image import TopicImage
from penstock.broker.names import INTERNAL_TOPICS, topic_name_fault
from penstock.broker.readiness import wait_until_seen
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

NO_TOPIC_ID = bytes(16)
AUTO_CREATION_PATIENCE_MS = 2_000
AUTO_CREATION_COUNT_MAX = 100
"""Topics made for one request; the client asks again for the rest."""
FIRST_VERSION_BY_ID = 12
FIRST_VERSION_WITH_LISTENER_NOT_FOUND = 6


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Describe the topics asked for, and all brokers."""
    version = context.api_version
    wanted = request.topics
    if wanted is None or (version == 0 and not wanted):
        wanted = None
    failures: dict[str, ErrorCode] = {}
    if wanted and request.allow_auto_topic_creation and broker.config.auto_create_topics_enable:
        failures = await _create_missing(broker, wanted)
    # From here on nothing awaits, so brokers, leaders and topics are of one revision.
    view = ClusterView(
        broker.image,
        context.listener,
        node_id=broker.config.node_id,
        is_offline=broker.partitions.is_offline,
    )
    topic_operations = authorized_operations.NOT_ASKED
    if request.include_topic_authorized_operations:
        topic_operations = authorized_operations.ON_TOPIC
    answer = _Answer(broker, view, version, topic_operations, failures)
    cluster_operations = authorized_operations.NOT_ASKED
    if request.include_cluster_authorized_operations:
        cluster_operations = authorized_operations.ON_CLUSTER
    return Message(
        brokers=[
            Message(node_id=b.node_id, host=b.endpoint.host, port=b.endpoint.port, rack=b.rack)
            for b in view.brokers
        ],
        cluster_id=broker.cluster_id,
        controller_id=view.controller_id,
        topics=answer.all_topics() if wanted is None else answer.chosen_topics(wanted),
        cluster_authorized_operations=cluster_operations,
    )


async def _create_missing(broker: "Broker", wanted: list[Message]) -> dict[str, ErrorCode]:
    """Make the topics that are not there; returns the code to answer for those that are not usable yet."""
    names = dict.fromkeys(topic.name for topic in wanted if topic.topic_id == NO_TOPIC_ID)
    missing = [
        name
        for name in names
        if name is not None
        and broker.image.topic(name) is None
        and topic_name_fault(name) is None
        and name not in INTERNAL_TOPICS
    ]
    missing = missing[:AUTO_CREATION_COUNT_MAX]
    failures = dict.fromkeys(missing, ErrorCode.LEADER_NOT_AVAILABLE)
    with trio.move_on_after(AUTO_CREATION_PATIENCE_MS / 1000):
        failed = await broker.needed_topics.make(missing)
        failures = {name: _creation_failure(error.code) for name, error in failed.items()}
    made = [topic.topic_id for name in missing if (topic := broker.image.topic(name))]
    if not await wait_until_seen(broker, 0, AUTO_CREATION_PATIENCE_MS, topic_ids=made):
        failures |= {name: ErrorCode.LEADER_NOT_AVAILABLE for name in missing if name not in failures}
    return failures


def _creation_failure(code: ErrorCode) -> ErrorCode:
    """What to answer where auto creation failed: what only the asker can mend as it is, all else so that it asks again."""
    if code in (
        ErrorCode.INVALID_REPLICATION_FACTOR,
        ErrorCode.INVALID_TOPIC_EXCEPTION,
        ErrorCode.INVALID_CONFIG,
    ):
        return code
    return ErrorCode.LEADER_NOT_AVAILABLE


class _Answer:
    """The topics of one response."""

    def __init__(
        self,
        broker: "Broker",
        view: ClusterView,
        version: int,
        topic_operations: int,
        failures: dict[str, ErrorCode],
    ) -> None:
        self._image = broker.image
        self._view = view
        self._version = version
        self._operations = topic_operations
        self._failures = failures

    def all_topics(self) -> list[Message]:
        return [self._topic(topic) for topic in self._image.topics.values()]

    def chosen_topics(self, wanted: list[Message]) -> list[Message]:
        different = dict.fromkeys((topic.name, topic.topic_id) for topic in wanted)
        return [self._chosen(name, topic_id) for name, topic_id in different]

    def _chosen(self, name: str | None, topic_id: bytes) -> Message:
        if topic_id != NO_TOPIC_ID and self._version >= FIRST_VERSION_BY_ID:
            topic = self._image.topic_by_id(topic_id)
            return self._topic(topic) if topic else _absent(ErrorCode.UNKNOWN_TOPIC_ID, None, topic_id)
        if name is None:
            code = ErrorCode.INVALID_REQUEST
            if self._version >= FIRST_VERSION_BY_ID:
                code = ErrorCode.UNKNOWN_TOPIC_ID
            return _absent(code, None if self._version >= FIRST_VERSION_BY_ID else "", topic_id)
        topic = self._image.topic(name)
        if topic is not None:
            return self._topic(topic)
        if topic_name_fault(name) is not None:
            return _absent(ErrorCode.INVALID_TOPIC_EXCEPTION, name)
        return _absent(self._failures.get(name, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION), name)

    def _topic(self, topic: TopicImage) -> Message:
        return Message(
            error_code=ErrorCode.NONE,
            name=topic.name,
            topic_id=topic.topic_id,
            is_internal=topic.name in INTERNAL_TOPICS,
            partitions=[self._partition(p) for p in self._view.partitions(topic.topic_id)],
            topic_authorized_operations=self._operations,
        )

    def _partition(self, partition: PartitionView) -> Message:
        code = partition.error_code
        if code == ErrorCode.LISTENER_NOT_FOUND and self._version < FIRST_VERSION_WITH_LISTENER_NOT_FOUND:
            code = ErrorCode.LEADER_NOT_AVAILABLE
        return Message(
            error_code=code,
            partition_index=partition.index,
            leader_id=partition.leader,
            leader_epoch=partition.leader_epoch,
            replica_nodes=partition.replicas,
            isr_nodes=partition.isr,
            offline_replicas=partition.offline_replicas,
        )


def _absent(code: ErrorCode, name: str | None, topic_id: bytes = NO_TOPIC_ID) -> Message:
    is_internal = name in INTERNAL_TOPICS
    return Message(error_code=code, name=name, topic_id=topic_id, is_internal=is_internal, partitions=[])
