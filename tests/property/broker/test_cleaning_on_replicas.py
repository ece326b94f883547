"""Retention and compaction on three brokers that die and come back, one with an empty disk, in virtual time.

Each replica cleans its own log, and none waits for the others. Checked on every replica in the end: the latest acked record of each key is there and is the
latest (PROPERTIES K2), log starts never fall and stay at or below the high watermark (K1), offsets rise and name the same records everywhere.
`CLEANING_RUNS` says how many runs are tried (`make long` tries many); the n-th run is the same everywhere.
"""

import logging
import os
from collections.abc import Iterator
from random import Random

import pytest
import trio
from tests.support.crashes.deterministic import run_in_virtual_time
from tests.support.logs import read_batches
from tests.support.machine_cluster import MemoryCluster, machine_cluster
from tests.support.memory_files import MemoryFiles

from penstock import Producer
from penstock.broker.partition import Partition
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.protocol.records import decode_records

RUNS = int(os.environ.get("CLEANING_RUNS", "1"))
FIRST_RUN = int(os.environ.get("CLEANING_FIRST_RUN", "0"))
ROUNDS = 3
KEYS = 12
TOPICS = {
    "compacted": {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.01"},
    "retained": {"retention.bytes": "6000", "file.delete.delay.ms": "0"},
}
PROPERTIES = {"log_cleaner_backoff_ms": "200"}
Record = tuple[bytes | None, bytes | None]


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Brokers that die have much to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def records_of(partition: Partition) -> dict[int, Record]:
    """Key and value by offset, from the log start on."""
    log = partition.log
    return {
        record.offset: (record.key, record.value)
        for raw in read_batches(log)
        for record in decode_records(memoryview(raw), output_max_bytes=1 << 20)
        if record.offset >= log.log_start_offset
    }


class Writer:
    """Writes records with a few keys to both topics, and remembers those that were acked."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self.acked: dict[str, dict[int, Record]] = {topic: {} for topic in TOPICS}

    async def run(self) -> None:
        """Until cancelled."""
        chance = self._cluster.random
        async with Producer(self._cluster.bootstrap, environment=self._cluster.client("writer")) as producer:
            number = 0
            while True:
                for topic in TOPICS:
                    number += 1
                    key = b"k%d" % chance.randrange(KEYS)
                    value = (
                        None if chance.random() < 0.1 else b"%d %s" % (number, b"x" * chance.randrange(200))
                    )
                    record = await producer.send(topic, value, key=key, partition=0)
                    self.acked[topic][record.offset] = key, value
                await trio.sleep(chance.random() / 20)


class Starts:
    """Watches that log starts never fall and stay below the high watermark, for as long as a broker keeps its disk."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self._last: dict[tuple[int, str], int] = {}
        self._is_above: dict[tuple[int, str], bool] = {}
        self.failures: list[str] = []

    def forget(self, node_id: int) -> None:
        """Its disk is a new one."""
        for topic in TOPICS:
            self._last.pop((node_id, topic), None)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            for node_id in self._cluster.members:
                for topic in TOPICS:
                    self._look(node_id, topic)
            await trio.sleep(0.02)

    def _look(self, node_id: int, topic: str) -> None:
        partition = self._cluster.partition(node_id, topic)
        if partition is None or partition.is_offline:
            return
        start = partition.log.log_start_offset
        # A replica that starts over has its log begin anew on a worker, and its high watermark a moment later.
        was_above, self._is_above[node_id, topic] = (
            self._is_above.get((node_id, topic), False),
            start > partition.high_watermark,
        )
        is_above = start > partition.high_watermark and (was_above or partition.is_leader)
        if start < self._last.get((node_id, topic), 0) or is_above:
            self.failures.append(
                f"{topic} on {node_id}: {self._last}, now {start} of {partition.high_watermark}"
            )
        self._last[node_id, topic] = start


async def one_round(cluster: MemoryCluster, starts: Starts, *, wipes: bool) -> None:
    """A broker ends, perhaps with its disk, and comes back."""
    await trio.sleep(1 + cluster.random.random() * 2)
    victim = (
        cluster.leader("compacted") if cluster.random.random() < 0.7 else cluster.random.choice((1, 2, 3))
    )
    await (cluster.kill(victim) if wipes or cluster.random.random() < 0.5 else cluster.cut_power(victim))
    await trio.sleep(cluster.random.choice((0.5, 6.0)))
    if wipes:
        await cluster.until(
            lambda: all(victim not in cluster.state(topic).isr for topic in TOPICS), "it is out of the ISR"
        )
        cluster.members[victim].disk = MemoryFiles()
        starts.forget(victim)
    await cluster.start(victim)
    for topic in TOPICS:
        await cluster.until(lambda topic=topic: len(cluster.state(topic).isr) == 3, "all are in sync again")  # type: ignore[misc]


def check(cluster: MemoryCluster, writer: Writer) -> None:
    """Hold each replica to what was acked."""
    for topic in TOPICS:
        acked = writer.acked[topic]
        for node_id in (1, 2, 3):
            partition = cluster.partition(node_id, topic)
            assert partition is not None
            found = records_of(partition)
            assert list(found) == sorted(found)
            wrong = {at: record for at, record in found.items() if at in acked and acked[at] != record}
            assert not wrong, f"{topic} on {node_id} has other records than were acked: {wrong}"
            if topic == "compacted":
                latest = {key: (at, value) for at, (key, value) in sorted(acked.items())}
                kept = {key: (at, value) for at, (key, value) in found.items()}
                for key, (at, value) in latest.items():
                    assert kept[key][0] > at or kept[key] == (at, value), f"{key!r} on {node_id}: {kept[key]}"
                assert len(found) < len(acked) * 0.8, "nothing was compacted"
            else:
                missing = [at for at in acked if at >= partition.log.log_start_offset and at not in found]
                assert not missing, f"{topic} on {node_id} lacks {missing[:5]}"
                assert partition.log.log_start_offset > 0, "nothing was deleted"


async def survive(seed: int) -> None:
    """Rounds of death beside cleaning, then everything is compared."""
    async with machine_cluster(3, Random(seed), **PROPERTIES) as cluster:
        async with Admin(cluster.bootstrap, environment=cluster.client("admin")) as admin:
            configs = {"min.insync.replicas": "2"}
            topics = [
                NewTopic(name=name, partition_count=1, replication_factor=3, configs=configs | more)
                for name, more in TOPICS.items()
            ]
            await admin.create_topics(topics)
        writer, starts = Writer(cluster), Starts(cluster)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            nursery.start_soon(starts.run)
            for number in range(ROUNDS):
                await one_round(cluster, starts, wipes=number == 1)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        await trio.sleep(2)
        assert not starts.failures, starts.failures[0]
        check(cluster, writer)


@pytest.mark.parametrize("seed", range(FIRST_RUN, FIRST_RUN + RUNS))
def test_cleaning_on_replicas_loses_nothing_that_it_should_keep(seed: int) -> None:
    run_in_virtual_time(survive, seed)
