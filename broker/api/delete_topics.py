"""DeleteTopics, versions 1 to 6: by name, from version 6 on also by topic id (KIP-516).

- An unknown name is UNKNOWN_TOPIC_OR_PARTITION, an unknown id UNKNOWN_TOPIC_ID with a null name.
- Version 6: name and id both or neither, or a topic given twice: INVALID_REQUEST.
- `delete.topic.enable=false`: TOPIC_DELETION_DISABLED, before version 3 INVALID_REQUEST (KIP-322).
- When the answer goes out the deletion is durable and this broker's metadata does not show the topic any more; files go behind.
"""

from collections import Counter
from typing import TYPE_CHECKING

from penstock.broker.config_table import shown
from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.image import ClusterImage, TopicImage
from penstock.broker.readiness import wait_until_seen
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

NO_TOPIC_ID = bytes(16)
FIRST_VERSION_WITH_IDS = 6
FIRST_VERSION_WITH_DELETION_DISABLED = 3


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Delete the topics one after the other."""
    wanted: list[tuple[str | None, bytes]] = [(name, NO_TOPIC_ID) for name in request.topic_names or ()]
    if context.api_version >= FIRST_VERSION_WITH_IDS:
        wanted = [(topic.name, topic.topic_id) for topic in request.topics]
    counts = Counter(wanted)
    responses: list[Message] = []
    revision = 0
    for name, topic_id in counts:
        topic: TopicImage | None = None
        code, message = ErrorCode.NONE, None
        try:
            if counts[name, topic_id] > 1:
                raise ApiError(ErrorCode.INVALID_REQUEST, "The topic is named twice.")
            topic = _find(broker.image, name, topic_id)
            revision = await broker.topics.delete(topic)
        except ApiError as error:
            code, message = error.code, str(error)
            if context.api_version < FIRST_VERSION_WITH_DELETION_DISABLED:
                code = _older(code)
        responses.append(
            Message(
                name=topic.name if topic else name,
                topic_id=topic.topic_id if topic else topic_id,
                error_code=code,
                error_message=message,
            )
        )
    await wait_until_seen(broker, revision, request.timeout_ms)
    return Message(responses=responses)


def _find(image: ClusterImage, name: str | None, topic_id: bytes) -> TopicImage:
    by_id = topic_id != NO_TOPIC_ID
    if by_id == (name is not None):
        raise ApiError(ErrorCode.INVALID_REQUEST, "A topic is named by either its name or its id.")
    if name is None:
        topic = image.topic_by_id(topic_id)
        if topic is None:
            raise ApiError(ErrorCode.UNKNOWN_TOPIC_ID)
        return topic
    topic = image.topic(name)
    if topic is None:
        raise ApiError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"There is no topic {shown(name)}.")
    return topic


def _older(code: ErrorCode) -> ErrorCode:
    return ErrorCode.INVALID_REQUEST if code == ErrorCode.TOPIC_DELETION_DISABLED else code
