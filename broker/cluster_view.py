"""The cluster as a client sees it through one listener: what Metadata, DescribeCluster and DescribeTopicPartitions have in common.

Owns which brokers and leaders can be told to a client: those that have registered the listener by which it asks. Pure.
"""

from dataclasses import dataclass

from penstock.broker.image import ClusterImage, PartitionImage
from penstock.broker.keys import NO_LEADER, Endpoint
from penstock.protocol.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class BrokerView:
    """A live broker with its address on the asked listener."""

    node_id: int
    endpoint: Endpoint
    rack: str | None


@dataclass(frozen=True, slots=True)
class PartitionView:
    """A partition with the error that a client sees for it; `leader` is -1 then."""

    error_code: ErrorCode
    index: int
    leader: int
    leader_epoch: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    offline_replicas: tuple[int, ...]


NO_CONTROLLER = -1


class ClusterView:
    """An image through a listener; good until the next await."""

    def __init__(self, image: ClusterImage, listener: str) -> None:
        self._image = image
        self.brokers = [
            BrokerView(broker.node_id, broker.endpoints[listener], broker.rack)
            for _, broker in sorted(image.brokers.items())
            if listener in broker.endpoints
        ]
        self._reachable = {broker.node_id for broker in self.brokers}

    @property
    def controller_id(self) -> int:
        """The controller's node id, or -1."""
        controller = self._image.controller
        return NO_CONTROLLER if controller is None else controller.node_id

    def partitions(self, topic_id: bytes) -> list[PartitionView]:
        """All partitions of a topic, by index."""
        return [self.partition(state) for state in self._image.partitions(topic_id)]

    def partition(self, state: PartitionImage) -> PartitionView:
        """One partition."""
        code = ErrorCode.NONE
        if state.leader == NO_LEADER or state.leader not in self._image.brokers:
            code = ErrorCode.LEADER_NOT_AVAILABLE
        elif state.leader not in self._reachable:
            code = ErrorCode.LISTENER_NOT_FOUND
        return PartitionView(
            code,
            state.index,
            NO_LEADER if code else state.leader,
            state.leader_epoch,
            state.replicas,
            state.isr,
            tuple(node_id for node_id in state.replicas if node_id not in self._reachable),
        )
