"""DescribeGroups, versions 0 to 6: state and members of classic groups.

A group that is not there, or is of the consumer protocol: GROUP_ID_NOT_FOUND from version 6 on (KIP-1043), before that a Dead group without an
error. The members' metadata and assignments are shown in a stable group only, as in Kafka.
"""

from typing import TYPE_CHECKING

from penstock.broker import authorized_operations
from penstock.broker.context import RequestContext
from penstock.broker.errors import ApiError
from penstock.broker.groups.classic_events import ClassicState
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

FIRST_VERSION_WITH_NOT_FOUND = 6


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Describe each of them."""
    operations = authorized_operations.NOT_ASKED
    if request.include_authorized_operations:
        operations = authorized_operations.ON_GROUP
    return Message(
        groups=[
            _describe(broker, context.api_version, group_id, operations)
            for group_id in dict.fromkeys(
                request.groups
            )  # an answer is not to be a thousand times its request
        ]
    )


def _describe(broker: "Broker", version: int, group_id: str, operations: int) -> Message:
    try:
        group = broker.groups.shard(group_id, allow_empty_id=True).groups.get(group_id)
        membership = group.membership if group is not None else None
        if group is None or not (membership is None or isinstance(membership, ClassicGroup)):
            return _absent(version, group_id, operations)
    except ApiError as error:
        return Message(
            group_id=group_id,
            error_code=error.code,
            error_message=str(error),
            authorized_operations=operations,
        )
    if membership is None:
        return Message(
            group_id=group_id, group_state=ClassicState.EMPTY.value, authorized_operations=operations
        )
    is_stable = membership.state is ClassicState.STABLE
    return Message(
        error_code=ErrorCode.NONE,
        group_id=group_id,
        group_state=membership.state.value,
        protocol_type=membership.protocol_type or "",
        protocol_data=(membership.protocol_name or "") if is_stable else "",
        members=[
            Message(
                member_id=member.member_id,
                group_instance_id=member.group_instance_id,
                client_id=member.client_id,
                client_host=member.client_host,
                member_metadata=member.subscription,
                member_assignment=member.assignment,
            )
            for member in membership.members()
        ],
        authorized_operations=operations,
    )


def _absent(version: int, group_id: str, operations: int) -> Message:
    is_new = version >= FIRST_VERSION_WITH_NOT_FOUND
    return Message(
        error_code=ErrorCode.GROUP_ID_NOT_FOUND if is_new else ErrorCode.NONE,
        error_message=f"Group {group_id} not found." if is_new else None,
        group_id=group_id,
        group_state=ClassicState.DEAD.value,
        authorized_operations=operations,
    )
