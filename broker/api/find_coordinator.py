"""FindCoordinator, versions 0 to 5: there are no coordinators yet.

Groups and transactions come later. The API is served because librdkafka turns lz4 off, silently, for a broker that does not have it
(DESIGN section 4, trap 3). For groups the answer is the one that Kafka gives while its coordinators start: COORDINATOR_NOT_AVAILABLE, with
a message. A transactional id is refused for good, with the code after which librdkafka and Java's client give up and say why.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

FIRST_VERSION_WITH_KEY_LIST = 4
NO_NODE = -1
TRANSACTION_KEY_TYPE = 1


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Answer for every key that nobody coordinates it."""
    if request.key_type == TRANSACTION_KEY_TYPE:
        code, what = ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "transactions"
    else:
        code, what = ErrorCode.COORDINATOR_NOT_AVAILABLE, "consumer groups"
    nobody = {
        "node_id": NO_NODE,
        "host": "",
        "port": NO_NODE,
        "error_code": code,
        "error_message": f"this broker does not serve {what} yet",
    }
    if context.api_version < FIRST_VERSION_WITH_KEY_LIST:
        return Message(**nobody)
    return Message(coordinators=[Message(key=key, **nobody) for key in request.coordinator_keys])
