"""JoinGroup, versions 0 to 9: become, or go on being, a member of a classic group.

- Waits until the rebalance has all its members. Before version 1 there is no rebalance timeout: the session timeout stands for it.
- Version 4 and up: a new dynamic member is sent back once with MEMBER_ID_REQUIRED and its id (KIP-394).
- Version 9 and up: a static leader that comes back can be told to assign nothing (KIP-814).
- A group with members of the consumer protocol: INCONSISTENT_GROUP_PROTOCOL.
- A member id is the client id (the instance id of a static member) and a random UUID, as in Kafka.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.asking import ask
from penstock.broker.groups.classic_events import JoinReply, JoinRequested, Token
from penstock.broker.groups.classic_members import MEMBER_BYTES
from penstock.broker.groups.group import GROUP_BYTES, Group
from penstock.broker.groups.shard import GroupShard
from penstock.broker.pending_response import PendingResponse
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.clock import Random

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

SMALL_METADATA_BYTES = 64 * 1024
NAME_LENGTH_MAX = 1_000
"""Characters of a client's name in its member id: the longest name would make an id that no string holds."""
FIRST_VERSION_WITH_REBALANCE_TIMEOUT = 1
FIRST_VERSION_WITH_MEMBER_ID_REQUIRED = 4
FIRST_VERSION_WITH_NULL_PROTOCOL = 7
FIRST_VERSION_WITH_SKIPPED_ASSIGNMENT = 9


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message | PendingResponse:
    """Join; the answer may be long in coming."""

    def refused(code: ErrorCode) -> Message:
        return _response(context, JoinReply(token=0, error_code=code, member_id=request.member_id))

    try:
        shard = broker.groups.shard(request.group_id)
        if not _has_room(broker, shard, context, request):
            return refused(ErrorCode.GROUP_MAX_SIZE_REACHED)
        group = _group(broker, shard, request)
    except ApiError as error:
        return refused(error.code)

    def event(token: Token) -> JoinRequested:
        return _event(context, request, token, broker.groups.random)

    return ask(context, group, event, lambda reply: _response(context, reply), refused)


def _has_room(broker: "Broker", shard: GroupShard, context: RequestContext, request: Message) -> bool:
    """Whether memory may be taken for the request; a member that only joins again with little may do so at any time."""
    size = sum(len(protocol.name) + len(protocol.metadata) for protocol in request.protocols)
    if request.member_id and request.group_id in shard.groups and size <= SMALL_METADATA_BYTES:
        return True
    size += GROUP_BYTES + MEMBER_BYTES + 2 * len(request.group_id) + 2 * len(context.client_id or "")
    return broker.groups.memory.admit(size)


def _group(broker: "Broker", shard: GroupShard, request: Message) -> Group:
    """The group; made for a member that has no id yet, as nobody else can be a member of it. Raises ApiError."""
    group = shard.groups.get(request.group_id)
    if group is None:
        if request.member_id:
            raise ApiError(ErrorCode.UNKNOWN_MEMBER_ID)
        group = shard.add(request.group_id)
    broker.groups.classic.begin(group)
    return group


def _event(context: RequestContext, request: Message, token: Token, random: Random) -> JoinRequested:
    version = context.api_version
    rebalance_timeout_ms = request.session_timeout_ms
    if version >= FIRST_VERSION_WITH_REBALANCE_TIMEOUT:
        rebalance_timeout_ms = request.rebalance_timeout_ms
    return JoinRequested(
        token=token,
        member_id=request.member_id,
        fresh_member_id=f"{(request.group_instance_id or context.client_id or '')[:NAME_LENGTH_MAX]}-{_uuid(random)}",
        group_instance_id=request.group_instance_id,
        client_id=context.client_id or "",
        client_host="/" + context.peer.rpartition(":")[0],
        session_timeout_ms=request.session_timeout_ms,
        rebalance_timeout_ms=rebalance_timeout_ms,
        protocol_type=request.protocol_type,
        protocols=tuple((protocol.name, protocol.metadata) for protocol in request.protocols),
        requires_known_member_id=version >= FIRST_VERSION_WITH_MEMBER_ID_REQUIRED,
        can_skip_assignment=version >= FIRST_VERSION_WITH_SKIPPED_ASSIGNMENT,
        reason=request.reason or "",
    )


def _uuid(random: Random) -> str:
    """A random UUID (version 4) as text."""
    digits = bytearray(random.randbytes(16))
    digits[6] = digits[6] & 0x0F | 0x40
    digits[8] = digits[8] & 0x3F | 0x80
    text = digits.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _response(context: RequestContext, reply: JoinReply) -> Message:
    protocol_name = reply.protocol_name
    if protocol_name is None and context.api_version < FIRST_VERSION_WITH_NULL_PROTOCOL:
        protocol_name = ""
    return Message(
        error_code=reply.error_code,
        generation_id=reply.generation,
        protocol_type=reply.protocol_type,
        protocol_name=protocol_name,
        leader=reply.leader,
        skip_assignment=reply.skip_assignment,
        member_id=reply.member_id,
        members=[
            Message(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                metadata=member.metadata,
            )
            for member in reply.members
        ],
    )
