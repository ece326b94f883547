"""Replicas that come, go, and are damaged, on three whole brokers in virtual time (PROPERTIES D1, D7, D10, K1)."""

from collections.abc import Awaitable, Callable
from random import Random

import pytest
import trio
from tests.support.crashes.deterministic import run_in_virtual_time
from tests.support.machine_cluster import MemoryCluster, machine_cluster

from penstock import Consumer
from penstock.broker import keys
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.broker.partition import Partition
from penstock.broker.partitions import FETCHED_ANEW_MAX
from penstock.client.admin import Admin
from penstock.client.metadata import TopicPartition
from penstock.consumer.errors import CorruptRecords
from penstock.runtime.files import DiskError
from penstock.runtime.metadata import Put
from penstock.storage.errors import CorruptBatch, LogFailed

TOPIC = "orders"
SEGMENT = "00000000000000000000.log"
Scene = Callable[[MemoryCluster], Awaitable[None]]


def play(scene: Scene, *, min_insync_replicas: str = "2", record_count: int = 40, **properties: str) -> None:
    """One scene on three brokers and a topic with some records of a hundred bytes."""

    async def run(seed: int) -> None:
        async with machine_cluster(3, Random(seed), **properties) as cluster:
            await cluster.make_topic(TOPIC, min_insync_replicas=min_insync_replicas)
            await cluster.fill(TOPIC, record_count)
            await cluster.settled(TOPIC)
            await scene(cluster)

    run_in_virtual_time(run, 11)


def followers(cluster: MemoryCluster) -> list[int]:
    state = cluster.state(TOPIC)
    return [node_id for node_id in state.replicas if node_id != state.leader]


def damage(cluster: MemoryCluster, node_id: int, *, position: int = 300) -> None:
    """Flip a bit of the oldest segment."""
    cluster.members[node_id].disk.flip(f"/data/{TOPIC}-0/{SEGMENT}", 8 * position)


# Damage


def test_a_follower_whose_log_can_not_be_opened_fetches_it_anew_and_keeps_the_damaged_one() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = followers(cluster)[0]
        await cluster.kill(victim)
        cluster.members[victim].disk.unlink("/data/recovery-point-offset-checkpoint")  # so all is verified
        damage(cluster, victim)
        await cluster.start(victim)
        await cluster.settled(TOPIC)
        kept = [name for name in cluster.names(victim) if name.endswith("-damaged")]
        assert len(kept) == 1
        assert kept[0].startswith(TOPIC)

    play(scene)


def test_a_damaged_replica_is_in_no_isr_before_it_is_empty() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = followers(cluster)[0]
        await cluster.kill(victim)
        cluster.members[victim].disk.unlink("/data/recovery-point-offset-checkpoint")
        damage(cluster, victim)
        isrs: list[tuple[int, ...]] = []
        disk = cluster.members[victim].disk

        def look(operation: str, path: str) -> None:
            if operation == "rename" and path == f"/data/{TOPIC}-0":
                isrs.append(cluster.state(TOPIC).isr)

        cluster.begin(victim)
        disk.before_change = look
        await cluster.settled(TOPIC)
        disk.before_change = None
        assert isrs
        assert all(victim not in isr for isr in isrs)

    play(scene)


def test_a_leader_that_reads_damage_gives_way_and_fetches_anew() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = cluster.leader(TOPIC)
        await cluster.stop(victim)
        damage(cluster, victim)
        await cluster.start(victim)
        await cluster.settled(TOPIC, compare=False)
        await cluster.set_leader(TOPIC, victim)
        await cluster.until(lambda: cluster.is_settled(TOPIC), "it leads again")
        with pytest.raises(CorruptRecords):
            await read_all(cluster)
        await cluster.until(lambda: cluster.leader(TOPIC) not in (-1, victim), "another leads")
        assert len(await read_all(cluster)) == 40
        await cluster.settled(TOPIC)

    play(scene, auto_leader_rebalance_enable="false")


async def read_all(cluster: MemoryCluster) -> list[int]:
    """The offsets of all records, as a consumer gets them."""
    environment = cluster.client("reader")
    async with Consumer(cluster.bootstrap, TOPIC, environment=environment) as consumer:
        return [record.offset async for record in consumer.read(TOPIC)]


async def leave_alone_and_damage(cluster: MemoryCluster) -> int:
    """Kill the followers, then the leader, which is the last of the ISR; its log is found damaged at the next start."""
    victim = cluster.leader(TOPIC)
    for node_id in followers(cluster):
        await cluster.kill(node_id)
    await cluster.until(lambda: cluster.state(TOPIC).isr == (victim,), "it is alone")
    await cluster.kill(victim)
    cluster.members[victim].disk.unlink("/data/recovery-point-offset-checkpoint")
    damage(cluster, victim)
    return victim


def test_the_last_of_the_isr_is_never_emptied() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = await leave_alone_and_damage(cluster)
        assert cluster.state(TOPIC).eligible_leader_replicas == ()
        await cluster.start(victim)
        await trio.sleep(5)
        assert cluster.state(TOPIC).isr == (victim,)
        assert cluster.partition(victim, TOPIC) is None
        assert f"{TOPIC}-0" in cluster.names(victim)
        assert kept_by(victim, cluster) == 0

    play(scene, min_insync_replicas="1")


def test_a_damaged_last_of_the_isr_gives_way_to_a_replica_that_has_all_that_is_committed() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = await leave_alone_and_damage(cluster)
        eligible = cluster.state(TOPIC).eligible_leader_replicas
        assert eligible
        await cluster.start(victim)
        for node_id in cluster.members.keys() - {victim}:
            await cluster.start(node_id)
        await cluster.settled(TOPIC)
        assert len(await read_all(cluster)) == 40

    play(scene)


# Logs that begin anew


async def take_in(cluster: MemoryCluster, node_id: int, *, leads: bool = False) -> None:
    """Have a replica in the ISR, as a leader stores it that goes by what the log had before; `leads`: it is elected as well."""
    state = cluster.state(TOPIC)
    leader = node_id if leads else state.leader
    isr = tuple(i for i in state.replicas if i in state.isr or i == node_id)
    taken = PartitionState(state.replicas, isr, leader, state.leader_epoch + leads)
    await cluster.store.transact(
        [], [Put(keys.partition_key(state.topic_id, 0), keys.encode_partition(taken))]
    )


@pytest.mark.parametrize("way", ["damaged", "moved"])
def test_a_log_that_begins_anew_is_in_no_isr_by_what_the_one_before_it_had(way: str) -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = followers(cluster)[0]
        partition, process = cluster.partition(victim, TOPIC), cluster.members[victim].process
        assert partition is not None
        assert process is not None
        process.worker_waits_s = (0.5,)
        replicas = cluster.state(TOPIC).replicas
        if way == "damaged":
            partition.note_storage_error(CorruptBatch(SEGMENT, 0, "found by the test"))
        else:
            await cluster.set_replicas(TOPIC, *(node_id for node_id in replicas if node_id != victim))
        await cluster.until(lambda: cluster.partition(victim, TOPIC) is None, "its log goes")
        await cluster.set_replicas(TOPIC, *replicas)
        await take_in(cluster, victim)
        await cluster.until(lambda: victim not in cluster.state(TOPIC).isr, "it leaves again", within_s=0.2)
        assert cluster.partition(victim, TOPIC) is None, "it leaves late"
        await cluster.settled(TOPIC)

    play(scene)


def test_a_damaged_log_that_is_the_last_by_now_is_not_put_aside_by_what_was_known_before() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = followers(cluster)[0]
        partition, process = cluster.partition(victim, TOPIC), cluster.members[victim].process
        assert partition is not None
        assert process is not None
        process.worker_waits_s = (0.5,)
        alone = PartitionState((victim,), (victim,), victim, 0)
        await cluster.store.transact(
            [],
            [
                Put(keys.partition_key(b"o" * 16, 0), keys.encode_partition(alone)),
                Put(keys.topic_key("other"), keys.encode_topic(TopicRecord(b"o" * 16, 1))),
            ],
        )
        await trio.sleep(0.05)  # its log is being opened, and what changes is acted on later
        partition.note_storage_error(CorruptBatch(SEGMENT, 0, "found by the test"))
        await cluster.until(lambda: victim not in cluster.state(TOPIC).isr, "it leaves")
        state = cluster.state(TOPIC)
        last = PartitionState(state.replicas, (victim,), victim, state.leader_epoch + 1)
        key = keys.partition_key(state.topic_id, 0)
        await cluster.store.transact([], [Put(key, keys.encode_partition(last))])
        await trio.sleep(5)
        assert kept_by(victim, cluster) == 0

    play(scene)


def test_a_log_that_has_begun_anew_leads_nobody_before_it_has_what_is_committed() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = followers(cluster)[0]
        await cluster.configure_topic(TOPIC, **{"follower.replication.throttled.replicas": "*"})
        await cluster.configure_brokers(**{"follower.replication.throttled.rate": "2000"})
        partition = cluster.partition(victim, TOPIC)
        assert partition is not None
        partition.note_storage_error(CorruptBatch(SEGMENT, 0, "found by the test"))
        await cluster.until(partition_is_gone(cluster, victim, partition), "another log is in its place")
        await take_in(cluster, victim, leads=True)
        epoch = cluster.state(TOPIC).leader_epoch
        await cluster.until(lambda: victim not in cluster.state(TOPIC).isr, "it leaves")
        begun = cluster.partition(victim, TOPIC)
        assert begun is not None
        assert begun.log.log_end_offset < 40
        assert begun.log.end_offset_for_epoch(epoch)[0] < epoch, "it led"
        await cluster.settled(TOPIC)
        assert begun.log.log_end_offset == 40
        assert [kept_by(node_id, cluster) for node_id in cluster.members if node_id != victim] == [0, 0]

    play(scene, replica_fetch_max_bytes="2048", replica_fetch_response_max_bytes="2048")


@pytest.mark.parametrize("follows_more", [False, True])
def test_a_log_that_begins_anew_where_there_is_nothing_comes_into_the_isr(follows_more: bool) -> None:
    """Who follows another partition of that leader, too, goes on in the fetch session in which it was told all."""

    async def scene(cluster: MemoryCluster) -> None:
        victim = followers(cluster)[0]
        if follows_more:
            await cluster.create("other", cluster.state(TOPIC).replicas)
            await cluster.settled("other")
            await trio.sleep(3.0)
        partition = cluster.partition(victim, TOPIC)
        assert partition is not None
        partition.note_storage_error(CorruptBatch(SEGMENT, 0, "found by the test"))
        await cluster.until(partition_is_gone(cluster, victim, partition), "another log is in its place")
        await cluster.settled(TOPIC, within_s=5.0)
        await cluster.fill(TOPIC, 1)
        await cluster.settled(TOPIC)

    play(scene, record_count=0)


# Replicas that are moved


def test_a_replica_that_is_moved_away_is_removed_and_comes_back_whole() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        moved = followers(cluster)[0]
        kept = [node_id for node_id in cluster.state(TOPIC).replicas if node_id != moved]
        await cluster.set_replicas(TOPIC, *kept)
        await cluster.until(lambda: cluster.partition(moved, TOPIC) is None, "it is gone")
        await cluster.until(
            lambda: f"{TOPIC}-0" not in cluster.names(moved), "its directory is out of the way"
        )
        await cluster.set_replicas(TOPIC, *kept, moved)
        await cluster.settled(TOPIC)
        await cluster.set_replicas(TOPIC, *kept)  # again, while what was first removed is still there
        await cluster.set_replicas(TOPIC, *kept, moved)
        await cluster.settled(TOPIC)

    play(scene)


def test_a_replica_that_was_moved_while_its_broker_was_away_is_removed_and_is_no_stray() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        moved = followers(cluster)[0]
        await cluster.stop(moved)
        kept = [node_id for node_id in cluster.state(TOPIC).replicas if node_id != moved]
        await cluster.set_replicas(TOPIC, *kept)
        await cluster.start(moved)
        assert not any(name.endswith("-stray") for name in cluster.names(moved))
        await cluster.until(
            lambda: not any(name.startswith(TOPIC) for name in cluster.names(moved)), "it is removed"
        )

    play(scene)


# Where logs begin


def test_log_starts_follow_the_leaders_and_stay_where_they_are_after_a_power_cut() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        async with Admin(cluster.bootstrap, environment=cluster.client("admin")) as admin:
            await admin.delete_records({TopicPartition(TOPIC, 0): 25})
        victim = followers(cluster)[0]

        def start_of(node_id: int) -> int:
            partition = cluster.partition(node_id, TOPIC)
            return -1 if partition is None else partition.log.log_start_offset

        await cluster.until(
            lambda: all(start_of(node_id) == 25 for node_id in followers(cluster)), "they follow"
        )
        await cluster.cut_power(victim)
        await cluster.start(victim)
        assert start_of(victim) == 25
        await cluster.settled(TOPIC)

    play(scene)


def test_a_new_replica_begins_where_its_leader_does() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        moved = followers(cluster)[0]
        kept = [node_id for node_id in cluster.state(TOPIC).replicas if node_id != moved]
        await cluster.set_replicas(TOPIC, *kept)
        async with Admin(cluster.bootstrap, environment=cluster.client("admin")) as admin:
            await admin.delete_records({TopicPartition(TOPIC, 0): 25})
        await cluster.set_replicas(TOPIC, *kept, moved)
        await cluster.settled(TOPIC)
        partition = cluster.partition(moved, TOPIC)
        assert partition is not None
        assert partition.log.log_start_offset == 25
        assert partition.log.segments[0].base_offset >= 20

    play(scene)


# The throttle


@pytest.mark.parametrize("replicas", ["*", ""])
def test_a_throttled_replica_catches_up_at_its_rate_and_slows_nobody_in_sync(replicas: str) -> None:
    async def scene(cluster: MemoryCluster) -> None:
        await cluster.configure_brokers(**{"follower.replication.throttled.rate": "2000"})
        await cluster.configure_topic(TOPIC, **{"follower.replication.throttled.replicas": replicas})
        moved = followers(cluster)[0]
        kept = [node_id for node_id in cluster.state(TOPIC).replicas if node_id != moved]
        await cluster.set_replicas(TOPIC, *kept)
        await cluster.until(lambda: cluster.partition(moved, TOPIC) is None, "it is gone")
        leader = cluster.partition(cluster.leader(TOPIC), TOPIC)
        assert leader is not None
        size_bytes = leader.log.size_bytes
        started = trio.current_time()
        await cluster.set_replicas(TOPIC, *kept, moved)
        await cluster.fill(TOPIC, 5)
        assert trio.current_time() - started < 0.5, "those in sync are not throttled"
        await cluster.settled(TOPIC)
        took_s = trio.current_time() - started
        least_s = (size_bytes - 2048) / 2000  # of the last answer nobody waits for
        assert took_s > least_s if replicas else took_s < 1

    play(scene, replica_fetch_max_bytes="2048", replica_fetch_response_max_bytes="2048")


def test_a_replica_whose_damage_is_met_by_a_cut_is_fetched_anew() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = followers(cluster)[0]
        partition = cluster.partition(victim, TOPIC)
        assert partition is not None
        log = partition.log
        with log.read(1, 1, 2, resident_only=False) as part:
            damage(cluster, victim, position=part.position + 8)  # the batch's length
        with pytest.raises(LogFailed):
            await partition.run_in_lane(lambda: log.truncate_to(2))
        await cluster.until(partition_is_gone(cluster, victim, partition), "it is put aside")
        partition.note_storage_error(DiskError("heard of late"))
        await cluster.settled(TOPIC)
        assert kept_by(victim, cluster) == 1

    play(scene)


def test_a_replica_that_is_damaged_again_and_again_does_not_fill_the_disk_with_what_is_kept() -> None:
    async def scene(cluster: MemoryCluster) -> None:
        victim = followers(cluster)[0]
        for _ in range(FETCHED_ANEW_MAX):
            partition = cluster.partition(victim, TOPIC)
            assert partition is not None
            partition.note_storage_error(CorruptBatch(SEGMENT, 0, "found by the test"))
            await cluster.until(partition_is_gone(cluster, victim, partition), "it is put aside")
            await cluster.settled(TOPIC)
        partition = cluster.partition(victim, TOPIC)
        assert partition is not None
        partition.note_storage_error(CorruptBatch(SEGMENT, 0, "found by the test"))
        await cluster.until(lambda: victim not in cluster.state(TOPIC).isr, "it counts no more")
        await trio.sleep(5)
        assert partition.is_offline
        assert kept_by(victim, cluster) == FETCHED_ANEW_MAX

    play(scene)


def partition_is_gone(cluster: MemoryCluster, node_id: int, partition: Partition) -> Callable[[], bool]:
    """Whether another one is in its place."""
    return lambda: cluster.partition(node_id, TOPIC) not in (None, partition)


def kept_by(node_id: int, cluster: MemoryCluster) -> int:
    """How many damaged replicas a broker has kept."""
    return sum(name.endswith("-damaged") for name in cluster.names(node_id))
