"""Three whole brokers that replicate, die, lose power and come back, in virtual time: what was acked is there once, in order, on every replica.

PROPERTIES D1, D2, D6, D7, T1 (and D3 by the machine's own assertions). `REPLICATION_RUNS` says how many runs are tried (`make long` tries
many); the n-th run is the same everywhere. `tests/simulation/` does this with more kinds of faults; here the fetchers and the logs are the point.
"""

import logging
import os
from collections.abc import Iterator
from random import Random

import pytest
import trio
from tests.support.crashes.deterministic import run_in_virtual_time
from tests.support.logs import read_values
from tests.support.machine_cluster import MemoryCluster, machine_cluster

from penstock import Producer

RUNS = int(os.environ.get("REPLICATION_RUNS", "6"))
FIRST_RUN = int(os.environ.get("REPLICATION_FIRST_RUN", "0"))
ROUNDS = 4
TOPIC = "orders"


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Brokers that die have much to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Writer:
    """Produces one record after the other, and remembers those that were acked."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self.acked: dict[int, bytes] = {}
        self.sent_count = 0

    async def run(self) -> None:
        """Until cancelled."""
        environment = self._cluster.client("writer")
        async with Producer(self._cluster.bootstrap, environment=environment) as producer:
            while True:
                value = b"%d %s" % (self.sent_count, b"x" * self._cluster.random.randrange(300))
                self.sent_count += 1
                record = await producer.send(TOPIC, value, partition=0)
                self.acked[record.offset] = value
                if self._cluster.random.random() < 0.3:
                    await trio.sleep(self._cluster.random.random() / 10)


def check_acked(cluster: MemoryCluster, writer: Writer) -> None:
    """Every replica has what was acked, where it was acked, and nothing twice."""
    for node_id in cluster.state(TOPIC).replicas:
        partition = cluster.partition(node_id, TOPIC)
        assert partition is not None
        found = {offset: value for offset, value in read_values(partition.log)}
        for offset, value in writer.acked.items():
            assert found.get(offset) == value, (
                f"broker {node_id} has {found.get(offset)!r} at {offset}, acked was {value!r}"
            )
        order = [int(value.split()[0]) for value in found.values() if value is not None]
        assert order == sorted(set(order)), f"broker {node_id} has records twice or out of order"


async def one_end(cluster: MemoryCluster, node_id: int) -> None:
    """End a broker in one of the ways in which they end."""
    match cluster.random.randrange(4):
        case 0:
            await cluster.stop(node_id)
        case 1:
            await cluster.kill(node_id)
        case 2:
            await cluster.cut_power(node_id)
        case _:
            await cluster.cut_power(node_id, keeps_some=True)


async def survive(seed: int) -> None:
    """Rounds of death with a writer, then everything is compared. Every third run counts what is appended, not what is durable."""
    async with machine_cluster(3, Random(seed)) as cluster:
        await cluster.make_topic(TOPIC, write_caching="true" if seed % 3 == 2 else "false")
        writer = Writer(cluster)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.run)
            for _ in range(ROUNDS):
                await one_round(cluster, writer)
            nursery.cancel_scope.cancel()
        await cluster.settled(TOPIC)
        check_acked(cluster, writer)
        assert not cluster.waits, f"{len(cluster.waits)} times an event loop may wait: {cluster.waits[0]}"


async def one_round(cluster: MemoryCluster, writer: Writer) -> None:
    """A broker ends, mostly the leader, and comes back."""
    await trio.sleep(cluster.random.random() * 2)
    leader = cluster.leader(TOPIC)
    is_leader = leader > 0 and cluster.random.random() < 0.6
    victim = leader if is_leader else cluster.random.choice((1, 2, 3))
    await one_end(cluster, victim)
    await trio.sleep(cluster.random.choice((0.0, 0.1, 2.0, 6.0)))
    await cluster.start(victim)
    before = len(writer.acked)
    await cluster.until(lambda: len(writer.acked) > before, "records are acked again")
    await cluster.until(lambda: len(cluster.state(TOPIC).isr) == 3, "all are in sync again")


@pytest.mark.parametrize("seed", range(FIRST_RUN, FIRST_RUN + RUNS))
def test_no_acked_record_is_lost_whoever_dies(seed: int) -> None:
    run_in_virtual_time(survive, seed)
