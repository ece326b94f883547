"""Groups of three brokers go on when their coordinator is killed or stopped: both protocols, librdkafka's, Java's and our own members.

What clients were told is kept: every record is processed, acked commits are in `__consumer_offsets` and never go back. The same for leaders of
the topic, with more clients and more kills, is in `tests/faults/cluster/`.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.cluster.cluster import Cluster, running_cluster
from tests.support.cluster.readers import Group
from tests.support.cluster.traffic import traffic
from tests.support.deadline import until
from tests.support.wire import ConnectionEnded, connect

from penstock.broker.groups.offsets_topic import OFFSETS_TOPIC

PARTITIONS = 3
MEMBERS = {"classic": ("librdkafka", "penstock"), "consumer": ("librdkafka", "penstock", "java")}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path) as cluster:
        yield cluster
        print(cluster.log_tails())


def coordinator_of(cluster: Cluster, group: str) -> int:
    """The node id of a group's coordinator, from whichever broker answers."""

    def ask() -> int | None:
        for broker in cluster.awake:
            try:
                with connect(broker.bootstrap) as connection:
                    answer = connection.request("find_coordinator", 4, key_type=0, coordinator_keys=[group])
            except (OSError, ConnectionEnded):
                continue
            if not answer.coordinators[0].error_code:
                return int(answer.coordinators[0].node_id)
        return None

    return until(ask, f"the coordinator of {group}", limit_s=30)


def test_groups_lose_commits_or_records_when_their_coordinator_dies(cluster: Cluster, tmp_path: Path) -> None:
    topic = cluster.create_topic("shared", partitions=PARTITIONS)
    with ExitStack() as stack:
        load = stack.enter_context(
            traffic(
                cluster.bootstrap, topic, PARTITIONS, tmp_path / "load", writers=("librdkafka",), members=()
            )
        )
        groups = [
            Group(cluster.bootstrap, topic, members, tmp_path / protocol, protocol)
            for protocol, members in MEMBERS.items()
        ]
        for group in groups:
            stack.callback(group.close)
        for group in groups:
            group.await_commits(5)
        cluster.await_whole(OFFSETS_TOPIC)
        for group, end in zip(groups, ("kill", "stop"), strict=True):
            broker = cluster.brokers[coordinator_of(cluster, group.group)]
            began = time.monotonic()
            broker.kill() if end == "kill" else broker.stop()
            for each in groups:
                each.await_commits()
            print(
                f"{end} of the coordinator of {group.group}: all commit again {time.monotonic() - began:.2f} s later"
            )
            assert coordinator_of(cluster, group.group) != broker.node_id
            broker.start()
            cluster.await_whole(topic, OFFSETS_TOPIC)
        load.finish()
        ends = load.end_offsets()
        found = load.stored()
        for group in groups:
            load.await_group(group, ends)
            group.stop()
            print(f"{load.check_group(group, found)} commits of {group.group} compared")
