"""SyncGroup, versions 0 to 5: the leader hands in the assignments, and everybody gets its own.

Waits until the leader's assignments are stored. Version 5 and up says which protocol it means (KIP-559); another one than the group's is
INCONSISTENT_GROUP_PROTOCOL. A group that is not there, or is of the consumer protocol: UNKNOWN_MEMBER_ID.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.asking import ask, find_group
from penstock.broker.groups.classic_events import SyncReply, SyncRequested, Token
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.pending_response import PendingResponse
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker


SMALL_ASSIGNMENT_BYTES = 64 * 1024
"""Up to this much for the whole group is taken whatever memory groups have."""


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message | PendingResponse:
    """Sync; the answer may be long in coming."""

    def event(token: Token) -> SyncRequested:
        return SyncRequested(
            token=token,
            generation=request.generation_id,
            member_id=request.member_id,
            group_instance_id=request.group_instance_id,
            protocol_type=request.protocol_type,
            protocol_name=request.protocol_name,
            assignments={entry.member_id: entry.assignment for entry in request.assignments},
        )

    try:
        group = find_group(broker.groups.shard(request.group_id), request.group_id, ClassicGroup)
    except ApiError as error:
        return _refused(error.code)
    size = sum(len(entry.assignment) for entry in request.assignments)
    if size > SMALL_ASSIGNMENT_BYTES and not broker.groups.memory.admit(size):
        return _refused(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    return ask(context, group, event, _response, _refused)


def _refused(code: ErrorCode) -> Message:
    return Message(error_code=code)


def _response(reply: SyncReply) -> Message:
    return Message(
        error_code=reply.error_code,
        protocol_type=reply.protocol_type,
        protocol_name=reply.protocol_name,
        assignment=reply.assignment,
    )
