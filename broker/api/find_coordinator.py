"""FindCoordinator, versions 0 to 5: which broker leads the group's partition of `__consumer_offsets`.

- Any broker answers, from its image. The first request for a group makes that topic, and waits until it can be used; where that takes too long:
  COORDINATOR_NOT_AVAILABLE, upon which clients ask again. So it is while nobody leads the partition, or who does is not registered.
- Version 4 and up: several keys at once (KIP-699).
- A transactional id is refused for good, as there are no transactions yet: with the code after which librdkafka and Java's client give up
  and say why. Share groups (key type 2) come with version 6, which is not served: INVALID_REQUEST, as for any unknown key type.
"""

from typing import TYPE_CHECKING

from penstock.broker.cluster_view import ClusterView
from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

FIRST_VERSION_WITH_KEY_LIST = 4
NO_NODE = -1
GROUP_KEY_TYPE = 0
TRANSACTION_KEY_TYPE = 1


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Answer for every key who coordinates it."""
    refusal = None
    if request.key_type == TRANSACTION_KEY_TYPE:
        refusal = ApiError(
            ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "this broker does not serve transactions yet"
        )
    elif request.key_type != GROUP_KEY_TYPE:
        refusal = ApiError(ErrorCode.INVALID_REQUEST, f"unknown key type {request.key_type}")
    else:
        try:
            is_one = context.api_version < FIRST_VERSION_WITH_KEY_LIST
            await broker.groups.ensure_topic([request.key] if is_one else request.coordinator_keys)
        except ApiError as error:
            refusal = ApiError(ErrorCode.COORDINATOR_NOT_AVAILABLE, str(error))
    view = ClusterView(broker.image, context.listener)
    if context.api_version < FIRST_VERSION_WITH_KEY_LIST:
        found = _find(broker, view, request.key, refusal)
        return Message(**{**found, "error_message": found["error_message"] or ErrorCode.NONE.name})
    return Message(
        coordinators=[
            Message(key=key, **_find(broker, view, key, refusal)) for key in request.coordinator_keys
        ]
    )


def _find(broker: "Broker", view: ClusterView, group_id: str, refusal: ApiError | None) -> dict[str, object]:
    if refusal is None:
        leader = broker.groups.leader_of(group_id)
        for node in view.brokers:
            if node.node_id == leader:
                return {
                    "node_id": node.node_id,
                    "host": node.endpoint.host,
                    "port": node.endpoint.port,
                    "error_code": ErrorCode.NONE,
                    "error_message": "",
                }
        refusal = ApiError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    return {
        "node_id": NO_NODE,
        "host": "",
        "port": NO_NODE,
        "error_code": refusal.code,
        "error_message": str(refusal),
    }
