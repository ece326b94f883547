"""Which partition is fetched from which leader: one `LeaderFetcher` for each broker that this one follows anything of.

Owns the fetchers, and what they share. Told of each change of the image once the partitions know it, in the same turn. Decides nothing about
offsets, and reads no answer.

Source: Kafka's `ReplicaFetcherManager`.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVarTuple

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.broker.keys import Endpoint
from penstock.broker.partition import Partition
from penstock.broker.partition_machine import Role
from penstock.broker.partitions import PartitionManager
from penstock.broker.replication.fetcher import LeaderFetcher
from penstock.broker.replication.fetcher_machine import Key
from penstock.broker.replication.follower import FollowerLogs
from penstock.broker.replication.follower_throttle import FollowerThrottle
from penstock.broker.replication.log_starts import LogStarts
from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.runtime.environment import Environment

Ts = TypeVarTuple("Ts")


class Registered(Protocol):
    """What a fetch says of this broker (`broker.registration.Registration`)."""

    @property
    def create_revision(self) -> int:
        """Of the registration key; 0 while there is none."""
        ...


class ReplicaFetchers:
    """See the module. `run` in a nursery; told of changes by the partition manager that it is made with."""

    def __init__(
        self,
        environment: Environment,
        config: BrokerConfig,
        image: ClusterImage,
        partitions: PartitionManager,
        registration: Registered,
        logs: FollowerLogs,
    ) -> None:
        self.environment = environment
        self.config = config
        self.image = image
        self.partitions = partitions
        self.registration = registration
        self.logs = logs
        self.log_starts = LogStarts(partitions, self._log_start_moved)
        self.throttle = FollowerThrottle(config, image, environment.clock)
        self._leaders: dict[int, LeaderFetcher] = {}
        self._placed: dict[Key, tuple[int, Partition]] = {}
        """The leader that each is fetched from."""
        self._nursery: trio.Nursery | None = None
        self._is_over = False
        partitions.listen(self._note)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch what this broker follows, for ever. Cancellation: an append that has begun is done all the same."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.log_starts.run)
                for partition in self.partitions:
                    self._place(partition)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self._is_over = (
                        True  # the nursery takes nobody any more, though what is in it has not ended
                    )
        finally:
            self._nursery = None

    def stop(self) -> None:
        """Ask for nothing any more; what has begun in a log is done all the same."""
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    def spawn(self, job: Callable[[*Ts], Awaitable[None]], *args: *Ts) -> None:
        """Run a job that outlives the connection its work came by."""
        assert self._nursery is not None
        self._nursery.start_soon(job, *args)

    async def connect(self, endpoint: Endpoint, settings: ConnectionSettings) -> Connection:
        """Raises as `open_connection`."""
        assert self._nursery is not None
        network = self.environment.network
        return await open_connection(self._nursery, network, endpoint.host, endpoint.port, settings)

    def _note(self, delta: ImageDelta) -> None:
        """The image changed, and the partitions know it."""
        if self._nursery is None or self._is_over:
            return
        if self.throttle.note(delta):
            for key, (node_id, placed) in self._placed.items():
                self._leaders[node_id].machine.throttle(key, self.throttle.holds_for(placed))
        if delta.topic_configs_changed or delta.broker_configs_changed:
            for leader in self._leaders.values():  # what counts in a log may be otherwise
                leader.machine.touch_all()
        for state in delta.partitions_changed:
            partition = self.partitions.by_id(state.topic_id, state.index)
            if partition is None:
                self._unfollow((state.topic_id, state.index))
            else:
                self._place(partition)
        for topic in delta.topics_removed:
            for key in [key for key in self._placed if key[0] == topic.topic_id]:
                self._unfollow(key)
        for node_id in delta.brokers_changed:
            if node_id in self._leaders:
                self._leaders[node_id].moved()

    def _place(self, partition: Partition) -> None:
        """See that a partition is fetched from its leader, and from nobody else."""
        key, machine = (partition.topic_id, partition.index), partition.machine
        if machine.role is not Role.FOLLOWER:
            self._unfollow(key)
            return
        place = (machine.leader, partition)
        if self._placed.get(key, place) != place:
            self._unfollow(key)
        leader = self._leaders.get(machine.leader)
        if leader is None:
            leader = self._leaders[machine.leader] = LeaderFetcher(self, machine.leader)
            self.spawn(leader.run)
        self._placed[key] = place
        leader.follow(partition, machine.leader_epoch)
        leader.machine.throttle(key, self.throttle.holds_for(partition))

    def _log_start_moved(self, partition: Partition) -> None:
        key = (partition.topic_id, partition.index)
        if key in self._placed:
            node_id, _ = self._placed[key]
            self._leaders[node_id].note_log_start(key)

    def _unfollow(self, key: Key) -> None:
        place = self._placed.pop(key, None)
        if place is not None:
            node_id, _ = place
            leader = self._leaders[node_id]
            leader.machine.unfollow(key)
            if not len(leader.machine):
                del self._leaders[node_id]
                leader.end()


__all__ = ["ReplicaFetchers"]
