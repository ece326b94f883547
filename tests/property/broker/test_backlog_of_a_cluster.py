"""A bounded backlog in a cluster whose brokers stop, die and are cut off: never late, whoever leads, and not stuck when all is well again.

The group only ever commits forwards, so that what any leader knows of it is at most what it has committed: then the leader's log must never hold more
than the bound beyond the offset that was sent last.
"""

from random import Random

import pytest
import trio
from tests.support.backlog_clients import Client
from tests.support.examples import examples
from tests.support.machine_cluster import PORT, MemoryCluster, server_cluster
from trio.testing import MockClock

from penstock.client.connection import ConnectionSettings, open_connection
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode

BOUND = 20
TIME_S = 30.0
NONE, FULL = ErrorCode.NONE, ErrorCode.POLICY_VIOLATION
SHORT = {
    "broker_session_timeout_ms": "3000",
    "broker_heartbeat_interval_ms": "500",
    "replica_lag_time_max_ms": "3000",
    "offsets_topic_num_partitions": "1",
    "offsets_topic_replication_factor": "3",
}


class Trial:
    """One run."""

    def __init__(self, cluster: MemoryCluster, random: Random) -> None:
        self.cluster = cluster
        self.random = random
        self.sent_offset = 0
        """The highest offset whose commit has been sent."""
        self.codes: list[int] = []

    def check(self) -> None:
        """No leader's log holds more than the bound beyond what may be consumed."""
        for node_id in self.cluster.members:
            partition = self.cluster.partition(node_id, "orders")
            if partition is not None and partition.is_leader and not partition.is_fenced:
                backlog = partition.log.log_end_offset - self.sent_offset
                assert backlog <= BOUND, f"{backlog} records at broker {node_id}"

    async def ask(self, node_id: int, what: str, argument: int) -> int:
        """Produce, or commit, at one broker; the code, or -1 where there was no answer."""
        network = self.cluster.client("client").network
        codes = [-1]
        async with trio.open_nursery() as nursery:
            try:
                settings = ConnectionSettings(connect_timeout_ms=1000, request_timeout_ms=2000)
                client = Client(await open_connection(nursery, network, f"10.0.0.{node_id}", PORT, settings))
                if what == "commit":
                    codes.append(await client.commit(argument))
                else:
                    codes.append((await client.produce(argument, timeout_ms=1500))[0])
            except PenstockError:
                pass
            nursery.cancel_scope.cancel()
        return codes[-1]

    async def commit_in_the_end(self, offset: int) -> None:
        """Commit as soon as somebody takes it: the coordinator may have just begun to lead, and have its groups still to read."""
        codes = [-1]
        with trio.fail_after(10):
            while codes[-1] != NONE:
                codes.append(await self.ask(self.cluster.leader("__consumer_offsets"), "commit", offset))
                await trio.sleep(0.1)

    async def produce(self) -> None:
        """Somebody sends batches to whoever leads."""
        while True:
            await trio.sleep(self.random.uniform(0.0, 0.3))
            leader = self.cluster.leader("orders")
            if leader > 0:
                self.codes.append(await self.ask(leader, "produce", self.random.randint(1, 8)))
            self.check()

    async def consume(self) -> None:
        """The group commits some of what there is, at its coordinator."""
        while True:
            await trio.sleep(self.random.uniform(0.1, 0.8))
            leader, coordinator = self.cluster.leader("orders"), self.cluster.leader("__consumer_offsets")
            partition = self.cluster.partition(leader, "orders") if leader > 0 else None
            if partition is not None and coordinator > 0:
                ahead = max(partition.high_watermark - self.sent_offset, 0)
                self.sent_offset += self.random.randint(0, ahead)
                await self.ask(coordinator, "commit", self.sent_offset)
            self.check()

    async def break_things(self) -> None:
        """Now and then a broker is stopped, killed or cut off, one at a time."""
        while True:
            await trio.sleep(self.random.uniform(1, 5))
            node_id = self.random.choice(list(self.cluster.members))
            kind = self.random.choice(["stop", "kill", "cut"])
            if kind == "cut":
                self.cluster.cut(node_id)
            else:
                await (self.cluster.stop if kind == "stop" else self.cluster.kill)(node_id)
            await trio.sleep(self.random.uniform(1, 6))
            if kind == "cut":
                self.cluster.mend(node_id)
            else:
                await self.cluster.start(node_id)
            await self.cluster.settled("orders")
            await self.cluster.settled("__consumer_offsets")


@pytest.mark.parametrize("seed", range(examples(5)))
def test_a_leader_admits_too_much_or_is_stuck(seed: int) -> None:
    groups = "g" if seed % 2 else "*"

    async def run() -> None:
        async with server_cluster(1, 2, 3, **SHORT) as cluster:
            trial = Trial(cluster, Random(seed))
            await cluster.ask(1, ApiKey.FIND_COORDINATOR, 4, key_type=0, coordinator_keys=["g"])
            await cluster.until(lambda: cluster.image().topic("__consumer_offsets") is not None, "it is made")
            # its records are of 1970, and what retention takes is not unconsumed any more
            configs = {"backlog_max_records": str(BOUND), "backlog_groups": groups, "retention_ms": "-1"}
            await cluster.create("orders", (1, 2, 3), **configs)
            await cluster.settled("__consumer_offsets")
            coordinator = cluster.leader("__consumer_offsets")
            assert await trial.ask(coordinator, "commit", 0) == NONE
            await trio.sleep(2)  # by then every leader knows of the group
            with trio.move_on_after(TIME_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trial.produce)
                    nursery.start_soon(trial.consume)
                    nursery.start_soon(trial.break_things)
            for node_id, member in cluster.members.items():
                cluster.mend(node_id)
                if member.process is None:
                    await cluster.start(node_id)
            await cluster.settled("orders")
            await cluster.settled("__consumer_offsets")
            assert {NONE, FULL} <= set(trial.codes), "it was tried"
            leader = cluster.leader("orders")
            partition = cluster.partition(leader, "orders")
            assert partition is not None
            trial.sent_offset = partition.log.log_end_offset
            await trial.commit_in_the_end(trial.sent_offset)
            assert [await trial.ask(leader, "produce", n) for n in (BOUND, 1)] == [NONE, FULL]

    trio.run(run, clock=MockClock(autojump_threshold=0))
