"""ConsumerGroupHeartbeat, versions 0 and 1: a member of a consumer-protocol group joins, lives and leaves (KIP-848, KIP-1082).

Owns what a request must have to be looked at at all, and the two ways between wire and machine. From version 1 on the client makes its
member id itself; in version 0 an empty one gets one here. The answer waits for what it shows to be committed.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.asking import ask
from penstock.broker.groups.classic_events import Token
from penstock.broker.groups.consumer_group import ConsumerGroup
from penstock.broker.groups.consumer_group_events import (
    JOIN_EPOCH,
    STATIC_LEAVE_EPOCH,
    Assignment,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
)
from penstock.broker.groups.consumer_memory import growth_bytes, subscription_bytes
from penstock.broker.groups.group import GROUP_BYTES
from penstock.broker.pending_response import PendingResponse
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.groups.group import Group
    from penstock.broker.groups.shard import GroupShard

FIRST_VERSION_WITH_CLIENT_IDS = 1
NOT_SERVED = "group.coordinator.rebalance.protocols does not name consumer."


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message | PendingResponse:
    """Take one heartbeat; the answer waits for what it shows to be committed."""
    if not broker.config.serves_consumer_protocol:
        return _refusal(ErrorCode.UNSUPPORTED_VERSION, NOT_SERVED)
    fault = _fault(request, context.api_version)
    if fault is not None:
        return _refusal(ErrorCode.INVALID_REQUEST, fault)
    member_id = request.member_id or _fresh_member_id(broker)

    def event(token: Token) -> ConsumerHeartbeat:
        return ConsumerHeartbeat(
            token=token,
            member_id=member_id,
            member_epoch=request.member_epoch,
            instance_id=request.instance_id,
            rack_id=request.rack_id,
            rebalance_timeout_ms=request.rebalance_timeout_ms,
            client_id=context.client_id or "",
            client_host=f"/{context.peer.rpartition(':')[0]}",
            topic_names=_names(request.subscribed_topic_names),
            topic_regex=request.subscribed_topic_regex,
            server_assignor=request.server_assignor,
            owned=_owned(request.topic_partitions),
        )

    try:
        shard = broker.groups.shard(request.group_id)
        _check_size(broker, shard, request.group_id, event(0))
        group = _group(broker, shard, request)
    except ApiError as error:
        return _refusal(error.code, error.message)

    def respond(reply: ConsumerHeartbeatReply) -> Message:
        if reply.error_code:
            broker.groups.consumer.drop_unused(group)
        return _response(broker, reply)

    return ask(context, group, event, respond, lambda code: _refusal(code, None))


def _group(broker: "Broker", shard: "GroupShard", request: Message) -> "Group":
    """The group, made where a member joins. Raises ApiError."""
    group = shard.groups.get(request.group_id)
    if request.member_epoch == JOIN_EPOCH:
        group = group or shard.add(request.group_id)
        broker.groups.consumer.begin(group)
    elif group is None or not broker.groups.consumer.handles(group):
        raise ApiError(ErrorCode.GROUP_ID_NOT_FOUND, f"There is no consumer group {request.group_id}.")
    return group


def _check_size(broker: "Broker", shard: "GroupShard", group_id: str, beat: ConsumerHeartbeat) -> None:
    """Raises ApiError where the member would take more than groups may, or than a record may hold.

    Such a record would fail the store that it shares with what others have sent.
    """
    if beat.member_epoch < JOIN_EPOCH:
        return
    if subscription_bytes(beat) > shard.partition.settings.max_message_bytes // 2:
        raise ApiError(ErrorCode.INVALID_REQUEST, "The subscription is larger than a record may be.")
    group = shard.groups.get(group_id)
    stored = (
        group.membership.stored if group is not None and isinstance(group.membership, ConsumerGroup) else None
    )
    growth = growth_bytes(stored, beat)
    if group is None:
        growth += GROUP_BYTES + 2 * len(group_id)
    if growth and not broker.groups.memory.admit(growth):
        raise ApiError(ErrorCode.GROUP_MAX_SIZE_REACHED, "Groups take as much memory as they may.")


def _fault(request: Message, version: int) -> str | None:
    """What makes the request one that no member sends; None for nothing."""
    epoch = request.member_epoch
    needs_id = version >= FIRST_VERSION_WITH_CLIENT_IDS or epoch != JOIN_EPOCH
    if not request.group_id:
        return "GroupId can't be empty."
    if needs_id and not request.member_id:
        return "MemberId can't be empty."
    for name, value in (("InstanceId", request.instance_id), ("RackId", request.rack_id)):
        if value == "":
            return f"{name} can't be empty."
    if epoch == JOIN_EPOCH:
        return _join_fault(request)
    if epoch == STATIC_LEAVE_EPOCH and request.instance_id is None:
        return "InstanceId can't be null when a static member leaves for a while."
    if epoch < STATIC_LEAVE_EPOCH:
        return f"MemberEpoch is {epoch}, which is invalid."
    return None


def _join_fault(request: Message) -> str | None:
    if request.rebalance_timeout_ms == -1:
        return "RebalanceTimeoutMs must be provided in the first request."
    if request.topic_partitions is None or request.topic_partitions:
        return "TopicPartitions must be empty when (re-)joining."
    if request.subscribed_topic_names is None and request.subscribed_topic_regex is None:
        return "SubscribedTopicNames or SubscribedTopicRegex must be set when (re-)joining."
    return None


def _names(names: Iterable[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)


def _owned(topics: Iterable[Message] | None) -> Assignment | None:
    if topics is None:
        return None
    owned: dict[bytes, frozenset[int]] = {}
    for topic in topics:
        indexes = frozenset(topic.partitions)
        if indexes:
            owned[topic.topic_id] = owned.get(topic.topic_id, frozenset()) | indexes
    return owned


def _fresh_member_id(broker: "Broker") -> str:
    text = broker.groups.random.randbytes(16).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _response(broker: "Broker", reply: ConsumerHeartbeatReply) -> Message:
    if reply.error_code:
        return _refusal(reply.error_code, reply.error_message)
    assignment = None
    if reply.assignment is not None:
        assignment = Message(
            topic_partitions=[
                Message(topic_id=topic_id, partitions=sorted(indexes))
                for topic_id, indexes in sorted(reply.assignment.items())
            ]
        )
    return Message(
        error_code=ErrorCode.NONE,
        member_id=reply.member_id,
        member_epoch=reply.member_epoch,
        heartbeat_interval_ms=broker.config.group_consumer_heartbeat_interval_ms,
        assignment=assignment,
    )


def _refusal(code: ErrorCode, message: str | None) -> Message:
    return Message(error_code=code, error_message=message)
