"""LeaveGroup, versions 0 to 5: a member leaves, or an administrator takes members out (version 3 and up, KIP-345).

From version 3 on each member has a code of its own; before, the one member's code is the answer's. A group that is not there:
UNKNOWN_MEMBER_ID.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.asking import ask, find_group
from penstock.broker.groups.classic_events import LeaveReply, LeaveRequested, LeavingMember, LeftMember, Token
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.pending_response import PendingResponse
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

FIRST_VERSION_WITH_MEMBERS = 3


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message | PendingResponse:
    """Let the members go."""
    has_list = context.api_version >= FIRST_VERSION_WITH_MEMBERS
    leaving: tuple[LeavingMember, ...] = (LeavingMember(member_id=request.member_id),)
    if has_list:
        leaving = tuple(
            LeavingMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                reason=member.reason or "",
            )
            for member in request.members
        )

    def event(token: Token) -> LeaveRequested:
        return LeaveRequested(token=token, members=leaving)

    try:
        shard = broker.groups.shard(request.group_id)
        known = shard.groups.get(request.group_id)
        if known is not None and known.membership is None:
            return _response(_nobody(leaving), has_list)
        group = find_group(shard, request.group_id, ClassicGroup)
    except ApiError as error:
        return _refused(error.code)
    return ask(context, group, event, lambda reply: _response(reply, has_list), _refused)


def _nobody(leaving: tuple[LeavingMember, ...]) -> LeaveReply:
    """The answer of a group that has offsets and never had members."""
    return LeaveReply(
        token=0,
        members=tuple(
            LeftMember(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                error_code=ErrorCode.UNKNOWN_MEMBER_ID,
            )
            for member in leaving
        ),
    )


def _refused(code: ErrorCode) -> Message:
    return Message(error_code=code)


def _response(reply: LeaveReply, has_list: bool) -> Message:
    if not has_list:
        only = reply.members[0].error_code if reply.members else ErrorCode.NONE
        return Message(error_code=reply.error_code or only)
    return Message(
        error_code=reply.error_code,
        members=[
            Message(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                error_code=member.error_code,
            )
            for member in reply.members
        ],
    )
