"""One broker: everything that its handlers reach, and the order in which it comes up and goes down.

Owns the lifetime of the parts; none of them starts or ends another. Up: folder and its lock, metadata store, registration (a new
incarnation, fresh leader epochs), the watch, the logs. Down: the reverse, logs synced and closed, the folder marked clean, the lease
given back. A part that fails takes the broker down with its error.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.budget import ByteBudget
from penstock.broker.cluster_principal import EVERYBODY, ClusterPrincipals
from penstock.broker.cold_reads import ColdReads
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
    from penstock.broker.replication.fetchers import ReplicaFetchers
    from penstock.broker.replication.leader_throttle import LeaderThrottle

log = logging.getLogger(__name__)

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
    cold_reads: ColdReads = field(default_factory=ColdReads)
    cluster_principals: ClusterPrincipals = EVERYBODY
    fetchers: "ReplicaFetchers | None" = None
    leader_throttle: "LeaderThrottle | None" = None
    clock: Clock = field(init=False)
    threads: Threads = field(init=False)

    def __post_init__(self) -> None:
        self.clock = self.environment.clock
        self.threads = self.environment.threads

    async def hand_over(self) -> None:
        """Give leadership away before a stop, in a cluster; takes at most `shutdown.timeout.ms`. To be called while requests are served."""
        if self.config.is_clustered and self.config.controlled_shutdown_enable:
            from penstock.broker.handover import hand_over  # only in a cluster

            await hand_over(self.registration, self.watch, self.config.shutdown_timeout_ms / 1000)


@asynccontextmanager
async def open_broker(
    environment: Environment,
    config: BrokerConfig,
    addresses: Mapping[str, tuple[str, int]],
    stop: trio.Event | None = None,
) -> AsyncGenerator[Broker]:
    """A broker whose logs are open and led, until the block ends; then everything is closed in order.

    `addresses` are the host and port that each listener is bound to. To be run in a shielded scope: closing is not to be cancelled. A
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
            cluster_id = await (until_stored(join, stop) if config.is_clustered else join())
            await run(directory.join_cluster, cluster_id)
            async with trio.open_nursery() as background:
                broker = await _come_up(
                    environment, config, addresses, directory, store, cluster_id, shares, background, stop
                )
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


async def _come_up(
    environment: Environment,
    config: BrokerConfig,
    addresses: Mapping[str, tuple[str, int]],
    directory: DataDirectory,
    store: MetadataStore,
    cluster_id: str,
    shares: FileShares,
    background: trio.Nursery,
    stop: trio.Event,
) -> Broker:
    def spawn(task: Callable[[], Awaitable[None]]) -> None:
        background.start_soon(task)

    registration = await _register(environment, config, addresses, directory, store, stop)
    background.start_soon(registration.run)
    budget = ByteBudget(config.queued_max_request_bytes)
    image = ClusterImage()
    watch = MetadataWatch(store, image)
    registration.catch_up = watch.wait_for
    services = PartitionServices(
        environment.clock,
        environment.threads,
        spawn,
        trio.CapacityLimiter(PARALLEL_SYNCS_MAX),
        ActiveFiles(shares.active_segments),
        budget.hold,
    )
    if config.is_clustered:
        services = _with_replication(environment, config, store, watch, registration, services)
    deleted = _start_deletions(environment, directory, background)
    partitions = PartitionManager(config, image, directory, services, deleted)
    watch.listen(partitions.note)
    if config.is_clustered:
        await _start_controller(environment, config, store, watch, registration, background)
    else:
        await background.start(watch.run)
    await background.start(partitions.run)
    fetchers = await _start_fetchers(
        environment, config, image, partitions, registration, services, background
    )
    topics = TopicAdmin(store, image, config, environment.random)
    needed_topics = NeededTopics(environment.network, config, watch, topics)
    groups = GroupCoordinator(environment, config, image, watch, needed_topics, partitions, spawn)
    await background.start(groups.run)
    await _be_unfenced(config, registration, watch, background)
    return Broker(
        environment,
        config,
        cluster_id,
        store,
        image,
        watch,
        registration,
        topics,
        needed_topics,
        ProducerIds(store, spawn),
        partitions,
        FetchSessions(config.fetch_session_slots, environment.random),
        budget,
        groups,
        Retention(config, environment.clock, environment.threads, partitions, deleted),
        LogCleaner(config, environment.clock, environment.threads, partitions, directory),
        shares,
        fetchers=fetchers,
        leader_throttle=_leader_throttle(environment, config, watch),
    )


async def _register(
    environment: Environment,
    config: BrokerConfig,
    addresses: Mapping[str, tuple[str, int]],
    directory: DataDirectory,
    store: MetadataStore,
    stop: trio.Event,
) -> Registration:
    """Join the brokers of the cluster; a store that can't be reached is waited for. Raises StartAbandoned."""
    registration = Registration(
        store, config, environment.clock, environment.random, directory_id=directory.directory_id
    )
    endpoints = config.endpoints({name: port for name, (_, port) in addresses.items()})
    register = partial(registration.start, endpoints, await _remains(environment, config, directory))
    await (until_stored(register, stop) if config.is_clustered else register())
    return registration


def _with_replication(
    environment: Environment,
    config: BrokerConfig,
    store: MetadataStore,
    watch: MetadataWatch,
    registration: Registration,
    services: PartitionServices,
) -> PartitionServices:
    """What partitions need in a cluster besides: the lease, and the way to change an ISR."""
    from penstock.broker.replication.isr_changes import IsrChanges  # a single broker does not load it

    changes = IsrChanges(
        config.node_id, store, watch.image, watch, registration, environment.clock, services.spawn
    )
    return replace(services, lease=registration, isr_changes=changes)


def _leader_throttle(
    environment: Environment, config: BrokerConfig, watch: MetadataWatch
) -> "LeaderThrottle | None":
    if not config.is_clustered:
        return None
    from penstock.broker.replication.leader_throttle import LeaderThrottle  # only in a cluster

    throttle = LeaderThrottle(config, watch.image, environment.clock)
    watch.listen(throttle.note)
    return throttle


def _start_deletions(
    environment: Environment, directory: DataDirectory, background: trio.Nursery
) -> DeletedFiles:
    deleted = DeletedFiles(environment.clock, environment.threads)
    background.start_soon(deleted.run)
    for path in directory.deleted_paths:
        deleted.add(path, partial(directory.remove, path), 0)
    return deleted


async def _start_fetchers(
    environment: Environment,
    config: BrokerConfig,
    image: ClusterImage,
    partitions: PartitionManager,
    registration: Registration,
    services: PartitionServices,
    background: trio.Nursery,
) -> "ReplicaFetchers | None":
    """Fetch what this broker follows; None where there is no other broker."""
    if not config.is_clustered:
        return None
    from penstock.broker.replication.fetchers import ReplicaFetchers  # only in a cluster
    from penstock.broker.replication.follower import FollowerLogs

    logs = FollowerLogs(services, partitions.cutting)
    fetchers = ReplicaFetchers(environment, config, image, partitions, registration, logs)
    await background.start(fetchers.run)
    return fetchers


async def _remains(
    environment: Environment, config: BrokerConfig, directory: DataDirectory
) -> Remains | None:
    """What a broker of a cluster has to compare with what counts on it."""
    if not config.is_clustered:
        return None
    return Remains(
        frozenset(await environment.threads.run(list, directory.partitions())), directory.was_clean
    )


async def _start_controller(
    environment: Environment,
    config: BrokerConfig,
    store: MetadataStore,
    watch: MetadataWatch,
    registration: Registration,
    background: trio.Nursery,
) -> None:
    """Start the watch and the controller, before the logs: those may take long to open, and other partitions wait for their leaders."""
    from penstock.broker.controller.controller import Controller  # only in a cluster

    controller = Controller(store, config, watch, registration, environment.clock)
    watch.listen(controller.note)
    await background.start(watch.run)
    background.start_soon(controller.run)


async def _be_unfenced(
    config: BrokerConfig, registration: Registration, watch: MetadataWatch, background: trio.Nursery
) -> None:
    """Be open to leadership, and see it: whoever asks this broker from now on finds it in its image.

    An outage of the store at this moment does not hold up the start, nor a stop during it.
    """
    if not config.is_clustered:
        return
    background.start_soon(registration.ready)
    with trio.move_on_after(SEEN_PATIENCE_S):
        while (me := watch.image.brokers.get(config.node_id)) is None or me.is_fenced:
            await watch.wait_for(watch.image.revision + 1)
