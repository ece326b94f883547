"""What a coordinator needs once there is a shard: the drivers of both kinds of membership, the expiry, and the way a log becomes groups.

Made by the coordinator for its first shard, and loaded only then: the machinery of groups is a sixth of what a start would take, and a broker without
groups does not need it.
"""

from collections.abc import Iterable

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.groups.classic_driver import ClassicDriver
from penstock.broker.groups.classic_events import ClassicLimits, TimePassed
from penstock.broker.groups.consumer_group_events import ConsumerGroupLimits
from penstock.broker.groups.consumer_group_store import ConsumerGroupDriver
from penstock.broker.groups.expiry import Expiry
from penstock.broker.groups.loading import Replay, load
from penstock.broker.groups.offsets_topic import OFFSETS_TOPIC
from penstock.broker.groups.shard import GroupShard
from penstock.broker.groups.shard_services import ShardServices
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.broker.partition import Partition
from penstock.runtime.threads import Threads


class GroupServing:
    """See the module."""

    def __init__(self, services: ShardServices, image: ClusterImage, config: BrokerConfig) -> None:
        self.classic = ClassicDriver(
            ClassicLimits(
                group_min_session_timeout_ms=config.group_min_session_timeout_ms,
                group_max_session_timeout_ms=config.group_max_session_timeout_ms,
                group_initial_rebalance_delay_ms=config.group_initial_rebalance_delay_ms,
                group_max_size=config.group_max_size,
            ),
            services.clock,
        )
        self.consumer = ConsumerGroupDriver(
            ConsumerGroupLimits(
                session_timeout_ms=config.group_consumer_session_timeout_ms,
                max_size=config.group_consumer_max_size,
                assignors=tuple(config.group_consumer_assignors),
            ),
            image,
            services.clock,
        )
        """The driver of KIP-848's groups."""
        self.expiry = Expiry(services, image, config)
        self._services = services
        self._buffer_bytes = config.offsets_load_buffer_size
        services.drivers = (self.classic, self.consumer)

    def new_shard(self, partition: Partition) -> GroupShard:
        """The shard of a partition of `__consumer_offsets` that is led here; empty."""
        return GroupShard(partition, self._services)

    async def load(self, shard: GroupShard, threads: Threads, limit: trio.CapacityLimiter) -> None:
        """Fill a shard from its log. Raises what `loading.load` raises."""
        replay = Replay(shard, self.classic, self.consumer)
        await load(shard, replay, threads, self._buffer_bytes, limit)
        if shard.is_loaded:
            self.expiry.forget_gone_topics(shard)

    def note(self, shards: Iterable[GroupShard], delta: ImageDelta) -> None:
        """The cluster's topics may have changed."""
        for topic in delta.topics_removed:
            if topic.name != OFFSETS_TOPIC:
                self.expiry.forget_topic(shards, topic)
        self.consumer.note(shards, delta)

    @staticmethod
    def tick(shard: GroupShard, group_id: str) -> None:
        """A time has come that the group has waited for."""
        group = shard.groups.get(group_id)
        if group is not None and group.membership is not None:
            shard.try_step(group, TimePassed())


__all__ = ["GroupServing"]
