"""A plan carried out on a cluster that is made of dictionaries: in bounded steps, taken up again, changed by others meanwhile."""

import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import pytest
from trio.testing import MockClock

from penstock.cli.cluster_moves import AT_ONCE_MAX, Work, carry_out
from penstock.cli.cluster_plan import rebalance
from penstock.cli.cluster_view import look
from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigChange, ConfigOperation, ConfigResource
from penstock.client.errors import BrokerError
from penstock.client.metadata import Address, Node, PartitionMetadata, TopicMetadata, TopicPartition
from penstock.client.placement_values import BrokerListing, ClusterDescription, LogDirectory, Reassignment
from penstock.protocol.errors import ErrorCode

SIZE = 100
LOOKS_PER_MOVE = 6


class FakeCluster:
    """Moves take a few looks each. `meanwhile` is called at each look."""

    def __init__(self, replicas: Mapping[TopicPartition, tuple[int, ...]], node_ids: Sequence[int]) -> None:
        self.replicas = dict(replicas)
        self.leaders = {partition: nodes[0] for partition, nodes in replicas.items()}
        self.node_ids = node_ids
        self.targets: dict[TopicPartition, tuple[int, ...]] = {}
        self.looks_left: dict[TopicPartition, int] = {}
        self.most_at_once = 0
        self.configs: dict[tuple[str, str], str] = {}
        self.throttled_when_begun: list[bool] = []
        self.refused: set[TopicPartition] = set()
        self.meanwhile: Callable[[], object] = lambda: None

    @property
    def admin(self) -> Admin:
        return cast(Admin, self)

    async def describe_brokers(self) -> ClusterDescription:
        brokers = {n: BrokerListing(Node(n, Address("host", 9090 + n))) for n in self.node_ids}
        return ClusterDescription("c", 1, brokers)

    async def list_topics(self) -> list[TopicMetadata]:
        partitions = {
            each.partition: PartitionMetadata(each.partition, self.leaders[each], 0, nodes, nodes, ())
            for each, nodes in self.replicas.items()
        }
        return [TopicMetadata("t", None, False, partitions)]

    async def list_partition_reassignments(self) -> dict[TopicPartition, Reassignment]:
        self.meanwhile()
        for partition in list(self.looks_left):
            self.looks_left[partition] -= 1
            if self.looks_left[partition] <= 0:
                self.replicas[partition] = self.targets.pop(partition)
                del self.looks_left[partition]
        self.most_at_once = max(self.most_at_once, len(self.targets))
        moves: dict[TopicPartition, Reassignment] = {}
        for each, target in self.targets.items():
            old = self.replicas[each]
            adding = tuple(n for n in target if n not in old)
            removing = tuple(n for n in old if n not in target)
            moves[each] = Reassignment((*target, *removing), adding, removing)
        return moves

    async def describe_log_dirs(self, node_ids: Iterable[int]) -> dict[int, list[LogDirectory]]:
        return {
            n: [LogDirectory("/d", None, None, {p: SIZE for p, nodes in self.replicas.items() if n in nodes})]
            for n in node_ids
        }

    async def alter_partition_reassignments(
        self, targets: Mapping[TopicPartition, Sequence[int] | None]
    ) -> dict[TopicPartition, BrokerError | None]:
        self.throttled_when_begun.append(bool(self.configs))
        outcomes: dict[TopicPartition, BrokerError | None] = {}
        for partition, nodes in targets.items():
            if partition in self.refused:
                outcomes[partition] = BrokerError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"{partition}: no")
                continue
            assert nodes is not None
            self.targets[partition], self.looks_left[partition] = tuple(nodes), LOOKS_PER_MOVE
            outcomes[partition] = None
        return outcomes

    async def elect_leaders(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, None]:
        self.leaders |= {partition: self.replicas[partition][0] for partition in partitions}
        return {}

    async def alter_configs(
        self, changes: Mapping[ConfigResource, Sequence[ConfigChange]]
    ) -> dict[ConfigResource, None]:
        for resource, its in changes.items():
            for change in its:
                if change.operation is ConfigOperation.DELETE:
                    self.configs.pop((str(resource), change.name), None)
                else:
                    self.configs[str(resource), change.name] = str(change.value)
        return dict.fromkeys(changes)

    def cancel(self, partition: TopicPartition) -> None:
        self.targets.pop(partition, None)
        self.looks_left.pop(partition, None)


def crowded(count: int) -> FakeCluster:
    """All on two brokers of three."""
    return FakeCluster({TopicPartition("t", index): (1, 2) for index in range(count)}, [1, 2, 3])


async def work_for(cluster: FakeCluster, throttle: int | None = None) -> Work:
    found = await look(cluster.admin)
    return Work(found, rebalance(found.placement()), throttle)


async def test_all_partitions_move_at_once_or_some_never(autojump_clock: MockClock) -> None:
    cluster = crowded(90)
    work = await work_for(cluster)
    assert await carry_out(cluster.admin, work) == 0
    counts = [sum(n in nodes for nodes in cluster.replicas.values()) for n in (1, 2, 3)]
    assert counts == [60, 60, 60]
    assert sorted(list(cluster.leaders.values()).count(n) for n in (1, 2, 3)) == [30, 30, 30]
    assert cluster.most_at_once == AT_ONCE_MAX


async def test_a_move_begins_without_its_throttle_or_leaves_it_behind(autojump_clock: MockClock) -> None:
    cluster = crowded(3)
    seen: list[dict[tuple[str, str], str]] = []
    work = await work_for(cluster, throttle=5000)
    cluster.meanwhile = lambda: seen.append(dict(cluster.configs))
    assert await carry_out(cluster.admin, work) == 0
    assert all(cluster.throttled_when_begun)
    rate = {("broker 3", f"{side}.replication.throttled.rate"): "5000" for side in ("leader", "follower")}
    assert rate.items() <= seen[1].items()
    coming = {f"{each.partition}:3" for each in work.plan if work.added(each)}
    assert set(seen[1]["topic t", "follower.replication.throttled.replicas"].split(",")) == coming
    assert cluster.configs == {}


async def test_what_others_took_back_is_called_done(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = crowded(3)
    work = await work_for(cluster)
    taken = min(each for each in work.plan if work.added(each))
    cluster.meanwhile = lambda: cluster.cancel(taken)
    assert await carry_out(cluster.admin, work) == 1
    assert f"penstock: {taken} was to be on" in capsys.readouterr().err


async def test_a_partition_that_is_refused_keeps_others_from_moving(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = crowded(6)
    work = await work_for(cluster)
    moving = [each for each in work.plan if work.added(each)]
    cluster.refused = {moving[0]}
    assert await carry_out(cluster.admin, work) == 1
    assert capsys.readouterr().err == f"penstock: {moving[0]}: no (INVALID_REPLICA_ASSIGNMENT)\n"
    assert all(cluster.replicas[each] == work.plan[each] for each in moving[1:])


async def test_an_interrupted_plan_is_lost(
    autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = crowded(90)
    first = await work_for(cluster)
    looks = iter(range(9))

    def interrupt() -> None:
        if next(looks, 0) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    cluster.meanwhile = interrupt
    assert await carry_out(cluster.admin, first) == 130
    assert f"{AT_ONCE_MAX} moves go on in the cluster" in capsys.readouterr().err
    cluster.meanwhile = lambda: None
    again = await work_for(cluster)
    assert len(again.plan) == len(first.plan) - AT_ONCE_MAX
    assert again.total_bytes == sum(SIZE * len(added) for _, added in again.coming.values())
    assert await carry_out(cluster.admin, again) == 0
    assert cluster.replicas.items() >= first.plan.items()


async def test_a_topic_that_was_deleted_meanwhile_is_an_error(autojump_clock: MockClock) -> None:
    cluster = crowded(3)
    work = await work_for(cluster)
    gone = min(each for each in work.plan if work.added(each))

    def delete() -> None:
        cluster.cancel(gone)
        cluster.replicas.pop(gone, None)

    cluster.meanwhile = delete
    assert await carry_out(cluster.admin, work) == 0
