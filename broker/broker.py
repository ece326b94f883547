"""One broker: everything that its handlers reach, and the order in which it comes up and goes down.

Owns the lifetime of the parts; none of them starts or ends another. Up: folder and its lock, metadata store, registration (a new
incarnation, fresh leader epochs), the watch, the logs. Down: the reverse, logs synced and closed, the folder marked clean, the lease
given back. A part that fails takes the broker down with its error.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import trio

from penstock.broker.backlog.held_bytes import HeldBytes
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.budget import ByteBudget
from penstock.broker.cluster_principal import EVERYBODY, ClusterPrincipals
from penstock.broker.deleted_files import DeletedFiles
from penstock.broker.fetch_sessions import FetchSessions
from penstock.broker.groups.coordinator import GroupCoordinator
from penstock.broker.image import ClusterImage
from penstock.broker.log_cleaner import LogCleaner
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.needed_topics import NeededTopics
from penstock.broker.open_files import ActiveFiles, FileShares, divide
from penstock.broker.partition_settings import PartitionServices
from penstock.broker.partitions import PartitionManager
from penstock.broker.patience import until_stored
from penstock.broker.producer_ids import ProducerIds
from penstock.broker.registration import Registration, join_cluster
from penstock.broker.rejoining import Remains
from penstock.broker.retention import Retention
from penstock.broker.topic_admin import TopicAdmin
from penstock.runtime.clock import Clock
from penstock.runtime.environment import Environment
from penstock.runtime.metadata import MetadataStore
from penstock.runtime.threads import Threads
from penstock.storage.data_directory import DataDirectory

if TYPE_CHECKING:
    from penstock.broker.cold_reads import ColdReads
    from penstock.broker.replication.fetchers import ReplicaFetchers
    from penstock.broker.replication.leader_throttle import LeaderThrottle

log = logging.getLogger(__name__)
T = TypeVar("T")

PARALLEL_SYNCS_MAX = 4
"""Syncs of different logs at once; more of them only queue at the disk, and workers are for other work, too."""
SEEN_PATIENCE_S = 2.0
"""How long a start waits until its own image shows it as it has registered."""


@dataclass(slots=True)
class Broker:
    """What a handler may use."""

    environment: Environment
    config: BrokerConfig
    cluster_id: str
    store: MetadataStore
    image: ClusterImage
    watch: MetadataWatch
    registration: Registration
    topics: TopicAdmin
    needed_topics: NeededTopics
    producer_ids: ProducerIds
    partitions: PartitionManager
    fetch_sessions: FetchSessions
    budget: ByteBudget
    groups: GroupCoordinator
    retention: Retention
    cleaner: LogCleaner
    shares: FileShares
    hot_bytes: int = 0
    """Of all produce requests so far; whoever handles them adds to it."""
    cluster_principals: ClusterPrincipals = EVERYBODY
    fetchers: "ReplicaFetchers | None" = None
    leader_throttle: "LeaderThrottle | None" = None
    clock: Clock = field(init=False)
    threads: Threads = field(init=False)
    _cold_reads: "ColdReads | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.clock = self.environment.clock
        self.threads = self.environment.threads

    @property
    def cold_reads(self) -> "ColdReads":
        """The turns of reads far from a log's end; there, and loaded, from the first of them on."""
        if self._cold_reads is None:
            from penstock.broker.cold_reads import ColdReads

            self._cold_reads = ColdReads(self)
        return self._cold_reads

    def reader_left(self, reader: Hashable) -> None:
        """A connection has ended: others get the turn that it may have been promised."""
        if self._cold_reads is not None:
            self._cold_reads.consumers.give_back(reader, self.clock.monotonic())

    async def hand_over(self) -> None:
        """Give leadership away before a stop, in a cluster; takes at most `shutdown.timeout.ms`. To be called while requests are served."""
        if self.config.is_clustered and self.config.controlled_shutdown_enable:
            from penstock.broker.handover import hand_over  # only in a cluster

            await hand_over(self.registration, self.watch, self.config.shutdown_timeout_ms / 1000)


def _no_listeners() -> None:
    """Of a broker without a server."""


@asynccontextmanager
async def open_broker(
    environment: Environment,
    config: BrokerConfig,
    addresses: Mapping[str, tuple[str, int]],
    stop: trio.Event | None = None,
    open_listeners: Callable[[], None] = _no_listeners,
) -> AsyncGenerator[Broker]:
    """A broker whose logs are open and led, until the block ends; then everything is closed in order.

    `addresses` are the host and port that each listener is bound to; `open_listeners` is called when requests can be served, and before
    others are told so. To be run in a shielded scope: closing is not to be cancelled. A
    cluster's metadata store is waited for, until `stop` is set.

    Raises PenstockError where the folder or the store can't be used, StartAbandoned (in a group or not) where `stop` was set meanwhile.
    """
    stop = trio.Event() if stop is None else stop
    run = environment.threads.run
    directory = await run(
        DataDirectory.open, environment.files, config.data_directory, config.node_id, environment.random
    )
    for note in directory.notes:
        log.warning("%s", note)
    shares = divide(environment.open_files_max)
    directory.pool.open_files_max = shares.closed_segments
    directory.pool.held_files_max = 2 * shares.closed_segments
    directory.pool.closes_later = True
    try:
        async with environment.open_metadata(config.metadata_location) as store:
            join = partial(join_cluster, store, environment.random, cluster_id=config.cluster_id)
            cluster_id = await _stored(join, config, stop)
            await run(directory.join_cluster, cluster_id)
            async with trio.open_nursery() as background:
                start = _Start(environment, config, directory, store, shares, background, stop)
                broker = await start.come_up(addresses, cluster_id, open_listeners)
                try:
                    yield broker
                finally:
                    # also when the background has failed and is cancelled: that is no reason to leave logs that need recovery
                    with trio.CancelScope(shield=True):
                        broker.groups.close()
                        if broker.fetchers is not None:
                            broker.fetchers.stop()
                        await broker.partitions.close()
                        await broker.registration.stop()
                    background.cancel_scope.cancel()
    finally:
        await run(directory.close)


async def _stored(attempt: Callable[[], Awaitable[T]], config: BrokerConfig, stop: trio.Event) -> T:
    """Do what needs the store; one that can't be reached is waited for in a cluster, and an error of a single broker. Raises StartAbandoned."""
    return await (until_stored(attempt, stop) if config.is_clustered else attempt())


@dataclass(frozen=True, slots=True)
class _Start:
    """A start under way: what its steps share. What only a cluster needs is imported by its step, not by a single broker."""

    environment: Environment
    config: BrokerConfig
    directory: DataDirectory
    store: MetadataStore
    shares: FileShares
    background: trio.Nursery
    stop: trio.Event

    async def come_up(
        self,
        addresses: Mapping[str, tuple[str, int]],
        cluster_id: str,
        open_listeners: Callable[[], None],
    ) -> Broker:
        """Take all steps, in their order."""
        environment, config = self.environment, self.config
        registration = await self._register(addresses)
        image = ClusterImage()
        watch = MetadataWatch(self.store, image)
        registration.catch_up = watch.wait_for
        budget = ByteBudget(config.queued_max_request_bytes)
        services = self._services(registration, watch, budget)
        deleted = self._start_deletions()
        partitions = PartitionManager(config, image, self.directory, services, deleted)
        watch.listen(partitions.note)
        await self._follow_store(registration, watch)
        await self.background.start(partitions.run)
        fetchers = await self._start_fetchers(watch, partitions, registration, services)
        topics = TopicAdmin(self.store, image, config, environment.random)
        needed_topics = NeededTopics(environment.network, config, watch, topics)
        groups = GroupCoordinator(
            environment, config, image, watch, needed_topics, partitions, self._spawn, services.backlogs
        )
        await self.background.start(groups.run)
        await self._ask_offsets(image, groups, services)
        open_listeners()
        await self._be_unfenced(registration, watch)
        return Broker(
            environment,
            config,
            cluster_id,
            self.store,
            image,
            watch,
            registration,
            topics,
            needed_topics,
            ProducerIds(self.store, self._spawn),
            partitions,
            FetchSessions(config.fetch_session_slots, environment.random),
            budget,
            groups,
            Retention(config, environment.clock, environment.threads, partitions, deleted),
            LogCleaner(config, environment.clock, environment.threads, partitions, self.directory),
            self.shares,
            fetchers=fetchers,
            leader_throttle=self._leader_throttle(watch),
        )

    def _spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        self.background.start_soon(task)

    async def _register(self, addresses: Mapping[str, tuple[str, int]]) -> Registration:
        """Join the brokers of the cluster, and stay among them."""
        environment, config = self.environment, self.config
        registration = Registration(
            self.store,
            config,
            environment.clock,
            environment.random,
            directory_id=self.directory.directory_id,
        )
        endpoints = config.endpoints({name: port for name, (_, port) in addresses.items()})
        register = partial(registration.start, endpoints, await self._remains())
        await _stored(register, config, self.stop)
        self.background.start_soon(registration.run)
        return registration

    async def _remains(self) -> Remains | None:
        """What a broker of a cluster has to compare with what counts on it."""
        if not self.config.is_clustered:
            return None
        found = await self.environment.threads.run(list, self.directory.partitions())
        return Remains(frozenset(found), self.directory.was_clean)

    def _services(
        self, registration: Registration, watch: MetadataWatch, budget: ByteBudget
    ) -> PartitionServices:
        """What partitions need; in a cluster the lease, and the way to change an ISR, besides."""
        environment, config = self.environment, self.config
        services = PartitionServices(
            environment.clock,
            environment.threads,
            self._spawn,
            trio.CapacityLimiter(PARALLEL_SYNCS_MAX),
            ActiveFiles(self.shares.active_segments),
            budget.hold,
            held=HeldBytes(config.backlog_held_max_bytes),
        )
        if not config.is_clustered:
            return services
        from penstock.broker.replication.isr_changes import IsrChanges

        changes = IsrChanges(
            config.node_id, self.store, watch.image, watch, registration, environment.clock, self._spawn
        )
        return replace(services, lease=registration, isr_changes=changes)

    async def _ask_offsets(
        self, image: ClusterImage, groups: GroupCoordinator, services: PartitionServices
    ) -> None:
        """Have bounded partitions told what is committed at other brokers."""
        if self.config.is_clustered:
            from penstock.broker.backlog.asking import OffsetAsker

            asker = OffsetAsker(self.environment, self.config, image, groups, services.backlogs)
            await self.background.start(asker.run)

    def _start_deletions(self) -> DeletedFiles:
        deleted = DeletedFiles(self.environment.clock, self.environment.threads)
        self.background.start_soon(deleted.run)
        for path in self.directory.deleted_paths:
            deleted.add(path, partial(self.directory.remove, path), 0)
        return deleted

    async def _follow_store(self, registration: Registration, watch: MetadataWatch) -> None:
        """Have the image, and keep it; in a cluster start the controller, too, before the logs.

        Those may take long to open, and other partitions wait for their leaders.
        """
        if not self.config.is_clustered:
            await watch.load()
            self.background.start_soon(watch.run)
            return
        from penstock.broker.controller.controller import Controller

        controller = Controller(self.store, self.config, watch, registration, self.environment.clock)
        watch.listen(controller.note)
        await until_stored(watch.load, self.stop)
        self.background.start_soon(watch.run)
        self.background.start_soon(controller.run)

    async def _start_fetchers(
        self,
        watch: MetadataWatch,
        partitions: PartitionManager,
        registration: Registration,
        services: PartitionServices,
    ) -> "ReplicaFetchers | None":
        """Fetch what this broker follows; None where there is no other broker."""
        if not self.config.is_clustered:
            return None
        from penstock.broker.replication.fetchers import ReplicaFetchers
        from penstock.broker.replication.follower import FollowerLogs

        logs = FollowerLogs(services, partitions.cutting)
        fetchers = ReplicaFetchers(self.environment, self.config, watch.image, partitions, registration, logs)
        await self.background.start(fetchers.run)
        return fetchers

    def _leader_throttle(self, watch: MetadataWatch) -> "LeaderThrottle | None":
        if not self.config.is_clustered:
            return None
        from penstock.broker.replication.leader_throttle import LeaderThrottle

        throttle = LeaderThrottle(self.config, watch.image, self.environment.clock)
        watch.listen(throttle.note)
        return throttle

    async def _be_unfenced(self, registration: Registration, watch: MetadataWatch) -> None:
        """Be open to leadership, and see it: whoever asks this broker from now on finds it in its image.

        An outage of the store at this moment does not hold up the start, nor a stop during it.
        """
        if not self.config.is_clustered:
            return
        self.background.start_soon(registration.ready)
        node_id = self.config.node_id
        with trio.move_on_after(SEEN_PATIENCE_S):
            while (me := watch.image.brokers.get(node_id)) is None or me.is_fenced:
                await watch.wait_for(watch.image.revision + 1)
