"""Heartbeat, versions 0 to 4: a member of a classic group lives, and learns whether to join again (REBALANCE_IN_PROGRESS)."""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.asking import ask, find_group
from penstock.broker.groups.classic_events import HeartbeatReceived, HeartbeatReply, Token
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.pending_response import PendingResponse
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message | PendingResponse:
    """Take the heartbeat."""

    def event(token: Token) -> HeartbeatReceived:
        return HeartbeatReceived(
            token=token,
            generation=request.generation_id,
            member_id=request.member_id,
            group_instance_id=request.group_instance_id,
        )

    try:
        group = find_group(broker.groups.shard(request.group_id), request.group_id, ClassicGroup)
    except ApiError as error:
        # while groups are loaded members are to go on as if nothing were, as in Kafka: their session begins anew
        loading = error.code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        return _refused(ErrorCode.NONE if loading else error.code)
    return ask(context, group, event, _response, _refused)


def _refused(code: ErrorCode) -> Message:
    return Message(error_code=code)


def _response(reply: HeartbeatReply) -> Message:
    return Message(error_code=reply.error_code)
