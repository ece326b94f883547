"""ElectLeaders, versions 0 to 2: gives leadership to first replicas, or to any live replica of partitions without a leader (KIP-183, KIP-460).

- Version 0 knows the preferred election only. An unclean one may lose records; it does nothing where there is a leader.
- Null for the partitions means all; those that need no election are left out of the answer then.
- The answer goes out when this broker, the controller, has seen the change; other brokers see it at about the same time.
"""

from typing import TYPE_CHECKING

from penstock.broker.context import RequestContext
from penstock.broker.controller.elections import Election
from penstock.broker.controller.partition_admin import Outcome, PartitionAdmin, Place
from penstock.broker.errors import ApiError
from penstock.broker.readiness import wait_until_seen
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

_ELECTIONS = {0: Election.PREFERRED, 1: Election.UNCLEAN}


async def handle(broker: "Broker", context: RequestContext, request: Message) -> Message:
    """Elect, and wait until that is seen."""
    election = _ELECTIONS.get(request.election_type)
    asks_for_all = request.topic_partitions is None
    admin = PartitionAdmin(broker.store, broker.config, broker.watch)
    try:
        if election is None:
            raise ApiError(ErrorCode.INVALID_REQUEST, "unknown election type")
        outcome = await admin.elect(_places(broker, request), election)
    except ApiError as error:
        return Message(error_code=error.code, replica_election_results=_refused(broker, request, error))
    await wait_until_seen(broker, outcome.revision, request.timeout_ms)
    return Message(error_code=ErrorCode.NONE, replica_election_results=_results(outcome, asks_for_all))


def _places(broker: "Broker", request: Message) -> list[Place]:
    if request.topic_partitions is None:
        return [
            (topic.name, partition.index)
            for topic in broker.image.topics.values()
            for partition in broker.image.partitions(topic.topic_id)
        ]
    return list(dict.fromkeys((t.topic, index) for t in request.topic_partitions for index in t.partitions))


def _refused(broker: "Broker", request: Message, error: ApiError) -> list[Message]:
    """Version 0 has no error for the whole, so each partition has it."""
    return _results(Outcome(dict.fromkeys(_places(broker, request), error)), asks_for_all=False)


def _results(outcome: Outcome, asks_for_all: bool) -> list[Message]:
    topics: dict[str, list[Message]] = {}
    for (topic, index), error in outcome.errors.items():
        if asks_for_all and error is not None and error.code == ErrorCode.ELECTION_NOT_NEEDED:
            continue
        topics.setdefault(topic, []).append(
            Message(
                partition_id=index,
                error_code=error.code if error else ErrorCode.NONE,
                error_message=str(error) if error else None,
            )
        )
    return [Message(topic=topic, partition_result=results) for topic, results in topics.items()]
