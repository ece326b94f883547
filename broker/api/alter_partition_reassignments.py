"""AlterPartitionReassignments, versions 0 and 1: moves partitions to other replicas, or (null) cancels that (KIP-455, KIP-860).

- The answer goes out when the move has begun; ListPartitionReassignments tells how it goes on.
- A target that is not in force yet can be replaced by another; then a cancellation goes back to the replicas from before the first.
- Version 1 can forbid a change of the replication factor.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.controller.partition_admin import Outcome, PartitionAdmin, Place
from penstock.broker.errors import ApiError
from penstock.broker.readiness import wait_until_seen
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

FIRST_VERSION_WITH_FACTOR_CHECK = 1


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Begin or cancel, and wait until that is seen."""
    targets: dict[Place, tuple[int, ...] | None] = {}
    for topic in request.topics:
        for partition in topic.partitions:
            replicas = partition.replicas
            targets[topic.name, partition.partition_index] = None if replicas is None else tuple(replicas)
    may_change_factor = True
    if context.api_version >= FIRST_VERSION_WITH_FACTOR_CHECK:
        may_change_factor = request.allow_replication_factor_change
    admin = PartitionAdmin(broker.store, broker.config, broker.watch)
    try:
        outcome = await admin.reassign(targets, may_change_factor=may_change_factor)
    except ApiError as error:
        return Message(
            allow_replication_factor_change=may_change_factor,
            error_code=error.code,
            error_message=str(error),
            responses=[],
        )
    await wait_until_seen(broker, outcome.revision, request.timeout_ms)
    return Message(
        allow_replication_factor_change=may_change_factor,
        error_code=ErrorCode.NONE,
        error_message=None,
        responses=_responses(outcome),
    )


def _responses(outcome: Outcome) -> list[Message]:
    topics: dict[str, list[Message]] = {}
    for (topic, index), error in outcome.errors.items():
        topics.setdefault(topic, []).append(
            Message(
                partition_index=index,
                error_code=error.code if error else ErrorCode.NONE,
                error_message=str(error) if error else None,
            )
        )
    return [Message(name=topic, partitions=partitions) for topic, partitions in topics.items()]
