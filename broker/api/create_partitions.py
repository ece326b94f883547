"""CreatePartitions, versions 0 to 3: raises the number of partitions of topics (KIP-195).

`count` is the new total; as many as now, or fewer, is INVALID_PARTITIONS. Assignments, where given, are for the new partitions only. Each topic
stands or falls by itself; one named twice is INVALID_REQUEST. The answer goes out when this broker's new replicas can be used, at the
latest after the timeout.
"""

from collections import Counter
from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.readiness import wait_until_seen
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Enlarge the topics one after the other."""
    counts = Counter(topic.name for topic in request.topics)
    results: dict[str, Message] = {}
    enlarged: list[bytes] = []
    revision = 0
    for topic in request.topics:
        if topic.name in results:
            continue
        code, message = ErrorCode.NONE, None
        try:
            if counts[topic.name] > 1:
                raise ApiError(ErrorCode.INVALID_REQUEST, "The topic is named twice.")
            revision = max(revision, await _enlarge(broker, topic, request.validate_only))
            known = broker.image.topic(topic.name)
            enlarged += [known.topic_id] if known else []
        except ApiError as error:
            code, message = error.code, str(error)
        results[topic.name] = Message(name=topic.name, error_code=code, error_message=message)
    await wait_until_seen(broker, revision, request.timeout_ms, topic_ids=enlarged)
    return Message(results=list(results.values()))


async def _enlarge(broker: "Broker", topic: Message, validate_only: bool) -> int:
    assignments = None
    if topic.assignments is not None:
        assignments = [tuple(entry.broker_ids) for entry in topic.assignments]
    return await broker.topics.create_partitions(
        topic.name, topic.count, assignments, validate_only=validate_only
    )
