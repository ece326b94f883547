"""Who leads now, told beside the error of a broker that does not (KIP-951), so that a client need not ask for Metadata first.

Owns which errors get the hint. Pure: what this broker's image shows is what it tells; where that is no better (no leader, or still this broker) it
tells nothing.
"""

from collections.abc import Container, Iterable
from typing import Protocol

from penstock.broker.image import ClusterImage
from penstock.protocol.errors import ErrorCode
from penstock.protocol.tagged import NodeEndpoint

FIRST_PRODUCE_VERSION = 10
FIRST_FETCH_VERSION = 16
PRODUCE_CODES = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER})
FETCH_CODES = frozenset({ErrorCode.NOT_LEADER_OR_FOLLOWER, ErrorCode.FENCED_LEADER_EPOCH})


class Result(Protocol):
    """A partition's part of an answer to Produce or Fetch."""

    topic: str
    topic_id: bytes | None
    index: int
    error_code: int
    current_leader: tuple[int, int] | None


def tell_leaders(
    image: ClusterImage, node_id: int, listener: str, results: Iterable[Result], codes: Container[int]
) -> list[NodeEndpoint]:
    """Put the present leader into each result with one of `codes`; returns where those leaders listen. `node_id` is this broker."""
    endpoints: dict[int, NodeEndpoint] = {}
    for result in results:
        if result.error_code not in codes:
            continue
        topic = image.topic(result.topic) if result.topic_id is None else image.topic_by_id(result.topic_id)
        state = None if topic is None else image.partition(topic.topic_id, result.index)
        broker = None if state is None or state.leader == node_id else image.brokers.get(state.leader)
        if state is None or broker is None or listener not in broker.endpoints:
            continue
        result.current_leader = state.leader, state.leader_epoch
        endpoint = broker.endpoints[listener]
        endpoints[state.leader] = NodeEndpoint(state.leader, endpoint.host, endpoint.port, broker.rack)
    return list(endpoints.values())


__all__ = ["FETCH_CODES", "FIRST_FETCH_VERSION", "FIRST_PRODUCE_VERSION", "PRODUCE_CODES", "tell_leaders"]
