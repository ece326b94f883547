"""From a request to a group's machine and back: what JoinGroup, SyncGroup, Heartbeat and LeaveGroup have in common.

Owns the life of a waiting request: its token, its answer, and what becomes of it when its connection goes or the broker stops. A member whose
connection is gone stays a member: only time or a request ends it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.classic_events import Token, TokenAbandoned
from penstock.broker.groups.group import Group
from penstock.broker.groups.shard import GroupShard
from penstock.broker.pending_response import PendingResponse
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

A = TypeVar("A")

WAITING_MAX = 20_000
"""Requests that wait for a shard's groups; past it they are told to come again."""


def ask(
    context: RequestContext,
    group: Group,
    make_event: Callable[[Token], Any],
    respond: Callable[[Any], Message],
    refused: Callable[[ErrorCode], Message],
) -> Message | PendingResponse:
    """Step the group with the event; the answer is there at once, or a promise of it.

    `respond` makes the response from the action that answers, `refused` one that only holds a code.
    """
    shard: GroupShard = group.shard
    if shard.waiting_count >= WAITING_MAX:
        return refused(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    pending = PendingResponse(context)
    token = shard.wait(lambda action: pending.answer(respond(action)))
    try:
        shard.step(group, make_event(token))
    except BaseException:
        shard.abandon(token)
        raise
    if pending.message is not None:
        return pending.message

    def forget() -> None:
        shard.abandon(token)
        if not shard.is_closed and group.membership is not None:
            shard.step(group, TokenAbandoned(token=token))

    pending.forget = forget
    pending.refuse = lambda: refused(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    return pending


def find_group(shard: GroupShard, group_id: str, kind: type) -> Group:
    """The group, if it has members of that kind. Raises ApiError UNKNOWN_MEMBER_ID: then nobody is a member of it."""
    group = shard.groups.get(group_id)
    if group is None or not isinstance(group.membership, kind):
        raise ApiError(ErrorCode.UNKNOWN_MEMBER_ID)
    return group
