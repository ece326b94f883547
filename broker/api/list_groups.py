"""ListGroups, versions 0 to 5: the groups that this broker coordinates, of both kinds.

Filters by state (version 4, KIP-518) and by type (version 5, KIP-848), whatever their case. A group of simple consumers is an empty classic
one without a protocol type, as in Kafka. While groups are still being loaded: COORDINATOR_LOAD_IN_PROGRESS.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.groups.classic_group import ClassicGroup
from penstock.broker.groups.group import Group
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

CONSUMER = "consumer"


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """List them."""
    states = {state.lower() for state in request.states_filter}
    types = {kind.lower() for kind in request.types_filter}
    if broker.groups.is_loading:
        return Message(error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, groups=[])
    listed = [_listed(group) for shard in broker.groups.shards() for group in shard.groups.values()]
    return Message(
        error_code=ErrorCode.NONE,
        groups=[
            group
            for group in listed
            if (not states or group.group_state.lower() in states)
            and (not types or group.group_type.lower() in types)
        ],
    )


def _listed(group: Group) -> Message:
    membership = group.membership
    if membership is None or isinstance(membership, ClassicGroup):
        state, protocol_type = "Empty", ""
        if membership is not None:
            state, protocol_type = membership.state.value, membership.protocol_type or ""
        return Message(
            group_id=group.group_id, protocol_type=protocol_type, group_state=state, group_type="classic"
        )
    state = str(membership.state.value)
    return Message(group_id=group.group_id, protocol_type=CONSUMER, group_state=state, group_type=CONSUMER)
