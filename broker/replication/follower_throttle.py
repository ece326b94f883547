"""The throttle of replicas that catch up, on the follower's side: one bound for all leaders of a broker.

Owns which partitions go by it, and the count. Replicas in the ISR never do: who holds up no producer is slowed, who would is not. Source: KIP-73.
"""

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.broker.partition import Partition
from penstock.broker.replication_throttle import ReplicationQuota, ThrottledRates, is_throttled
from penstock.broker.settings import topic_config_for
from penstock.runtime.clock import Clock


class FollowerThrottle:
    """See the module. Its time is the monotonic clock."""

    def __init__(self, config: BrokerConfig, image: ClusterImage, clock: Clock) -> None:
        self._config = config
        self._image = image
        self._clock = clock
        self._quota = ReplicationQuota(ThrottledRates.of(config, image).follower)

    def note(self, delta: ImageDelta) -> bool:
        """The image changed; whether other partitions may go by the throttle now than those of `delta.partitions_changed`."""
        if delta.broker_configs_changed & {None, self._config.node_id}:
            rate = ThrottledRates.of(self._config, self._image).follower
            self._quota.set_rate(rate, self._now_ms())
            return True
        return bool(delta.topic_configs_changed)

    def holds_for(self, partition: Partition) -> bool:
        """Whether the partition goes by the throttle now."""
        if not self._quota.is_bounded or self._config.node_id in partition.machine.isr:
            return False
        effective = topic_config_for(self._config, self._image, partition.topic)
        replicas = effective.follower_replication_throttled_replicas
        return is_throttled(replicas, partition.index, self._config.node_id)

    def record(self, size_bytes: int) -> None:
        """So much was fetched of partitions that go by the throttle."""
        self._quota.record(size_bytes, self._now_ms())

    def is_spent(self) -> bool:
        """Whether they have to wait."""
        return self._quota.is_spent(self._now_ms())

    def wait_ms(self) -> float:
        """For how long; infinite where they need not wait, as nothing is to be looked at again then."""
        now_ms = self._now_ms()
        return self._quota.wait_ms(now_ms) if self._quota.is_spent(now_ms) else float("inf")

    def _now_ms(self) -> float:
        return self._clock.monotonic() * 1000


__all__ = ["FollowerThrottle"]
