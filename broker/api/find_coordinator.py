"""FindCoordinator, versions 0 to 5: there are no coordinators yet.

Groups and transactions come later. The API is served because librdkafka turns lz4 off, silently, for a broker that does not have it
(DESIGN section 4, trap 3). The answer is the one that Kafka gives while its coordinators start: COORDINATOR_NOT_AVAILABLE, with a message.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

FIRST_VERSION_WITH_KEY_LIST = 4
NO_NODE = -1
REASON = "this broker does not serve consumer groups and transactions yet"


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Answer for every key that nobody coordinates it."""
    nobody = {
        "node_id": NO_NODE,
        "host": "",
        "port": NO_NODE,
        "error_code": ErrorCode.COORDINATOR_NOT_AVAILABLE,
        "error_message": REASON,
    }
    if context.api_version < FIRST_VERSION_WITH_KEY_LIST:
        return Message(**nobody)
    return Message(coordinators=[Message(key=key, **nobody) for key in request.coordinator_keys])
