"""The group coordinator of one broker: which groups it answers for, and what keeps them going.

Owns the shards (one for each partition of `__consumer_offsets` that this broker leads), when they are loaded and closed, and the one timer of
all groups. Learns of leadership from the partition manager alone. Knows no request formats: those are in `broker/api/`.

Up: `run` is started after the partitions are; shards load in the background, and answer COORDINATOR_LOAD_IN_PROGRESS until they have. Down:
`close`, while the logs are still open. A shard that can't be read says COORDINATOR_NOT_AVAILABLE, and the log says why; as long as this broker
leads it, it is read again after a while: a want of descriptors passes, and nobody takes the leadership from a broker that lives.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import trio

from penstock.broker.backlog.registry import BacklogRegistry
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.errors import ApiError
from penstock.broker.groups.memory_budget import MemoryBudget
from penstock.broker.groups.offsets_topic import OFFSETS_TOPIC, partition_for
from penstock.broker.groups.shard_services import ShardServices
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.needed_topics import NeededTopics
from penstock.broker.partitions import PartitionManager
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.environment import Environment

if TYPE_CHECKING:
    from penstock.broker.groups.classic_driver import ClassicDriver
    from penstock.broker.groups.consumer_group_store import ConsumerGroupDriver
    from penstock.broker.groups.offset_table import CommittedOffset
    from penstock.broker.groups.serving import GroupServing
    from penstock.broker.groups.shard import GroupShard

log = logging.getLogger(__name__)

Spawn = Callable[[Callable[[], Awaitable[None]]], None]

PARALLEL_LOADS_MAX = 2
STEPS_PER_TURN = 50
"""Groups whose time has come that are stepped before others get their turn."""
TOPIC_PATIENCE_S = 5.0
"""How long who needs the offsets topic waits for it to be made; clients ask again."""
LOADING_PATIENCE_S = 1.0
"""How long who looks for a coordinator waits for it to be ready, where that is this broker; clients ask again."""
RELOAD_FIRST_S = 1.0
"""After a log could not be read for the first time; it doubles with each time."""
RELOAD_MAX_S = 30.0


class GroupCoordinator:
    """All groups of a broker."""

    def __init__(
        self,
        environment: Environment,
        config: BrokerConfig,
        image: ClusterImage,
        watch: MetadataWatch,
        topics: NeededTopics,
        partitions: PartitionManager,
        spawn: Spawn,
        backlogs: BacklogRegistry | None = None,
    ) -> None:
        self.config = config
        self.random = environment.random
        self._threads = environment.threads
        self._image = image
        self._watch = watch
        self._topics = topics
        self._partitions = partitions
        self._spawn = spawn
        self.services = ShardServices(environment.clock, config.group_max_count, backlogs)
        self.services.wake_timer = self._wake
        self.memory = MemoryBudget(config.group_memory_max_bytes, self._held_bytes, self.services.now_ms)
        """Asked before something new is kept."""
        self._next_expiry_ms = self.services.now_ms() + config.offsets_retention_check_interval_ms
        self._shards: dict[int, GroupShard] = {}
        self._creating = trio.Lock()
        self._load_limit = trio.CapacityLimiter(PARALLEL_LOADS_MAX)
        self._woken = trio.Event()
        self._loaded = trio.lowlevel.ParkingLot()
        self._is_closed = False

    @cached_property
    def _serving(self) -> "GroupServing":
        """What serves groups: loaded and made for the first shard."""
        from penstock.broker.groups.serving import GroupServing

        return GroupServing(self.services, self._image, self.config)

    @property
    def classic(self) -> "ClassicDriver":
        """The driver of classic groups."""
        return self._serving.classic

    @property
    def consumer(self) -> "ConsumerGroupDriver":
        """The driver of KIP-848's groups."""
        return self._serving.consumer

    # Looking up

    def shard(self, group_id: str, *, allow_empty_id: bool = False) -> "GroupShard":
        """The shard of a group.

        Raises ApiError: INVALID_GROUP_ID, NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE.
        """
        if not group_id and not allow_empty_id:
            raise ApiError(ErrorCode.INVALID_GROUP_ID)
        topic = self._image.topic(OFFSETS_TOPIC)
        if topic is None:
            raise ApiError(ErrorCode.NOT_COORDINATOR)
        shard = self._shards.get(partition_for(group_id, topic.partition_count))
        if shard is None or not shard.is_current:
            raise ApiError(
                ErrorCode.COORDINATOR_NOT_AVAILABLE if self._is_closed else ErrorCode.NOT_COORDINATOR
            )
        if shard.partition.is_fenced:  # another may be the coordinator already, and answer other offsets
            raise ApiError(ErrorCode.NOT_COORDINATOR)
        if not shard.is_loaded:
            raise ApiError(
                ErrorCode.COORDINATOR_NOT_AVAILABLE
                if shard.failure
                else ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
            )
        return shard

    def shards(self) -> "Iterable[GroupShard]":
        """All shards that are loaded and led."""
        return [shard for shard in self._shards.values() if shard.is_loaded and shard.is_current]

    def _held_bytes(self) -> int:
        return sum(group.held_bytes for shard in self._shards.values() for group in shard.groups.values())

    @property
    def is_loading(self) -> bool:
        """Whether groups may be missing from `shards` because their log is still being read, or its end is not committed yet."""
        return any(map(_is_loading, self._shards.values()))

    def _loads_any_of(self, group_ids: Iterable[str], partition_count: int) -> bool:
        shards = (self._shards.get(partition_for(group_id, partition_count)) for group_id in group_ids)
        return any(shard is not None and _is_loading(shard) for shard in shards)

    def leader_of(self, group_id: str) -> int | None:
        """The node id of the group's coordinator, from the image; None while there is none."""
        topic = self._image.topic(OFFSETS_TOPIC)
        if topic is None:
            return None
        state = self._image.partition(topic.topic_id, partition_for(group_id, topic.partition_count))
        return None if state is None or state.leader < 0 else state.leader

    # For bounded backlogs

    @property
    def knows_all_offsets(self) -> bool:
        """Whether this broker answers for all groups, and has read what they have committed."""
        topic = self._image.topic(OFFSETS_TOPIC)
        return topic is None or all(
            (shard := self._shards.get(index)) is not None and shard.is_loaded and shard.is_current
            for index in range(topic.partition_count)
        )

    def offsets_of(
        self, topic: str, partition: int | None = None
    ) -> "Iterator[tuple[str, int, CommittedOffset]]":
        """Group, partition and commit of all that is committed for a topic, or one partition of it, with groups that this broker answers for."""
        for shard in self.shards():
            for group_id, group in shard.groups.items():
                if partition is None:
                    for index, committed in group.offsets.of_topic(topic):
                        yield group_id, index, committed
                elif (found := group.offsets.get(topic, partition)) is not None:
                    yield group_id, partition, found

    async def ensure_topic(self, group_ids: Collection[str]) -> None:
        """Make `__consumer_offsets` where it is not there, and wait a while until this broker can serve those of the groups that are its own.

        Others' groups are not waited for. Raises ApiError.

        Cancellation: the topic is made or it isn't.
        """
        if self._image.topic(OFFSETS_TOPIC) is None:
            with trio.move_on_after(TOPIC_PATIENCE_S):
                async with self._creating:
                    if self._image.topic(OFFSETS_TOPIC) is None:
                        for error in (await self._topics.make([OFFSETS_TOPIC])).values():
                            raise error
        topic = self._image.topic(OFFSETS_TOPIC)
        if topic is None:
            raise ApiError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        with trio.move_on_after(LOADING_PATIENCE_S):
            await self._partitions.wait_ready(topic.topic_id)
            self._reconcile()
            while self._loads_any_of(group_ids, topic.partition_count):
                await self._loaded.park()

    # Following leadership

    def note(self, delta: ImageDelta) -> None:
        """The partition manager has acted on a change of the image."""
        if self._shards:
            self._serving.note(self.shards(), delta)
        self._reconcile()

    def _reconcile(self) -> None:
        """Load the shards of what is led now, and close the others."""
        if self._is_closed:
            return
        for index, shard in tuple(self._shards.items()):
            if not shard.is_current:
                shard.close()
                del self._shards[index]
        topic = self._image.topic(OFFSETS_TOPIC)
        for index in range(topic.partition_count if topic is not None else 0):
            partition = self._partitions.by_name(OFFSETS_TOPIC, index)
            if partition is not None and partition.is_leader and index not in self._shards:
                self._begin(self._serving.new_shard(partition), index)
        self.services.backlogs.refresh()

    def _begin(self, shard: "GroupShard", index: int) -> None:
        self._shards[index] = shard
        partition = shard.partition
        if (
            partition.log.log_start_offset == partition.log.log_end_offset
            and not partition.has_queued_appends
        ):
            shard.is_loaded = True  # a new topic's first group does not wait for a task
            return

        async def load_it() -> None:
            wait_s = RELOAD_FIRST_S
            while await self._fails_to_load(shard, index):
                await trio.sleep(wait_s)
                if not shard.is_current:
                    return
                wait_s = min(2 * wait_s, RELOAD_MAX_S)

        self._spawn(load_it)

    async def _fails_to_load(self, shard: "GroupShard", index: int) -> bool:
        """Load a shard; returns whether its log, which is still led here, could not be read. A bug is no reason to try again."""
        shard.failure, is_of_the_disk = None, False
        try:
            await self._serving.load(shard, self._threads, self._load_limit)
        except (PenstockError, FileNotFoundError) as error:
            shard.failure, is_of_the_disk = str(error) or type(error).__name__, True
            log.error("%s-%d: its groups can't be loaded: %s", OFFSETS_TOPIC, index, error)
        except Exception as error:
            shard.failure = str(error) or type(error).__name__
            log.exception("%s-%d: loading its groups ended by a bug", OFFSETS_TOPIC, index)
        self.services.backlogs.refresh()
        if not self.is_loading:
            log.info("groups loaded: %d", self.services.group_count)
        self._loaded.unpark_all()
        return is_of_the_disk and shard.is_current and not shard.is_loaded

    # Time

    def _wake(self) -> None:
        self._woken.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the partitions and keep the groups' time, for ever."""
        self._partitions.listen(self.note)
        self._reconcile()
        self.services.backlogs.set_source(self)
        task_status.started()
        services = self.services
        while True:
            self._woken = trio.Event()
            next_ms = min(services.deadlines.next_ms or self._next_expiry_ms, self._next_expiry_ms)
            with trio.move_on_after(max(next_ms - services.now_ms(), 0) / 1000):
                await self._woken.wait()
            for steps, group in enumerate(tuple(services.deadlines.due(services.now_ms())), start=1):
                self._serving.tick(group.shard, group.group_id)
                if steps % STEPS_PER_TURN == 0:
                    await trio.lowlevel.checkpoint()
            if self._next_expiry_ms <= services.now_ms():
                self._next_expiry_ms = services.now_ms() + self.config.offsets_retention_check_interval_ms
                if self._shards:
                    await self._serving.expiry.run(self.shards())

    def close(self) -> None:
        """Answer whoever waits, and take no more requests. What was appended is still committed or not when the logs close."""
        self._is_closed = True
        for shard in self._shards.values():
            shard.close()


def _is_loading(shard: "GroupShard") -> bool:
    return not shard.is_loaded and shard.is_current and not shard.failure


__all__ = ["GroupCoordinator"]
