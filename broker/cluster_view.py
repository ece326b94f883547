"""The cluster as a client sees it through one listener: what Metadata, DescribeCluster and DescribeTopicPartitions have in common.

Owns which brokers and leaders can be told to a client: those that have registered the listener by which it asks. Pure.
"""

from collections.abc import Callable
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
    is_fenced: bool = False


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
    eligible_leader_replicas: tuple[int, ...] = ()


NO_CONTROLLER = -1


def _none_offline(topic_id: bytes, index: int) -> bool:
    return False


class ClusterView:
    """An image through a listener; good until the next await.

    `is_offline` says of a partition of `node_id`'s (this broker's) whether it is not served since its log is damaged or failed. To a client it has no
    leader then, and an offline replica, as a partition in a failed log directory has with Kafka. A broker that is starting does not answer yet, which may
    take long where logs are recovered: it is left out unless `includes_starting`.
    """

    def __init__(
        self,
        image: ClusterImage,
        listener: str,
        *,
        node_id: int = NO_LEADER,
        is_offline: Callable[[bytes, int], bool] = _none_offline,
        includes_starting: bool = False,
    ) -> None:
        self._image = image
        self._node_id = node_id
        self._is_offline = is_offline
        self.brokers = [
            BrokerView(broker.node_id, broker.endpoints[listener], broker.rack, broker.is_fenced)
            for _, broker in sorted(image.brokers.items())
            if listener in broker.endpoints and (includes_starting or not broker.is_starting)
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
        leader = self._image.brokers.get(state.leader)
        if leader is None or leader.is_starting:
            code = ErrorCode.LEADER_NOT_AVAILABLE
        elif leader.node_id not in self._reachable:
            code = ErrorCode.LISTENER_NOT_FOUND
        is_offline_here = self._is_offline(state.topic_id, state.index)
        if is_offline_here and state.leader == self._node_id:
            code = ErrorCode.LEADER_NOT_AVAILABLE
        return PartitionView(
            code,
            state.index,
            NO_LEADER if code else state.leader,
            state.leader_epoch,
            state.replicas,
            state.isr,
            tuple(
                node_id
                for node_id in state.replicas
                if node_id not in self._reachable or (is_offline_here and node_id == self._node_id)
            ),
            state.eligible_leader_replicas,
        )
