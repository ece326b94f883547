"""The throttle of replicas that catch up, on the leader's side: one bound for all followers of a broker (KIP-73).

Owns which followers of which partitions go by it, and the count. Replicas in the ISR never do: who is in sync would be slowed out of it, and
every producer with it. Source: Kafka's `ReplicaManager.shouldLeaderThrottle`.
"""

from collections.abc import Sequence

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.broker.partition import Partition
from penstock.broker.replication_throttle import ReplicationQuota, ThrottledRates, is_throttled
from penstock.broker.settings import topic_config_for
from penstock.runtime.clock import Clock


class LeaderThrottle:
    """See the module. `note` is to be told of every change of the image. Its time is the monotonic clock."""

    def __init__(self, config: BrokerConfig, image: ClusterImage, clock: Clock) -> None:
        self._config = config
        self._image = image
        self._clock = clock
        self._quota = ReplicationQuota(ThrottledRates.of(config, image).leader)
        self._replicas: dict[str, Sequence[str]] = {}
        """`leader.replication.throttled.replicas` by topic, as far as it was asked for."""

    def note(self, delta: ImageDelta) -> None:
        """The image changed."""
        if delta.broker_configs_changed & {None, self._config.node_id}:
            self._replicas.clear()
            self._quota.set_rate(ThrottledRates.of(self._config, self._image).leader, self._now_ms())
        elif delta.topic_configs_changed:
            self._replicas.clear()

    def holds_for(self, partition: Partition, broker_id: int) -> bool:
        """Whether that follower of the partition goes by the throttle now."""
        if not self._quota.is_bounded or broker_id in partition.machine.isr:
            return False
        replicas = self._replicas.get(partition.topic)
        if replicas is None:
            effective = topic_config_for(self._config, self._image, partition.topic)
            replicas = self._replicas[partition.topic] = effective.leader_replication_throttled_replicas
        return is_throttled(replicas, partition.index, broker_id)

    def holds_back(self, partition: Partition, broker_id: int) -> bool:
        """Whether that follower is to get nothing of the partition at this moment."""
        return self.holds_for(partition, broker_id) and self._quota.is_spent(self._now_ms())

    def record(self, size_bytes: int) -> None:
        """So much was sent to followers that go by the throttle."""
        self._quota.record(size_bytes, self._now_ms())

    def wait_s(self) -> float:
        """How long until something may be sent to those that are held back."""
        return self._quota.wait_ms(self._now_ms()) / 1000

    def _now_ms(self) -> float:
        return self._clock.monotonic() * 1000


__all__ = ["LeaderThrottle"]
