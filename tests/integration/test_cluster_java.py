"""Kafka's own tools on a cluster: reassignments, elections, and what a dead broker has left."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.peers.kafka import PeerFailed, Tool
from tests.support.clients import java
from tests.support.cluster.cluster import Cluster, running_cluster

AUTO_REBALANCE_OFF = {"auto.leader.rebalance.enable": "false"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster"), AUTO_REBALANCE_OFF) as running:
        yield running


def run(cluster: Cluster, tool: Tool, *arguments: str) -> str:
    return java.run(tool, *arguments, "--bootstrap-server", cluster.bootstrap).decode()


def plan(path: Path, topic: str, *replicas: list[int]) -> str:
    partitions = [{"topic": topic, "partition": i, "replicas": nodes} for i, nodes in enumerate(replicas)]
    path.write_text(json.dumps({"version": 1, "partitions": partitions}))
    return str(path)


def test_kafka_reassign_partitions_moves_replicas_and_verifies_it(cluster: Cluster, tmp_path: Path) -> None:
    topic = cluster.create_topic("moved", assignment=[(1, 2), (2, 1)])
    wanted = plan(tmp_path / "wanted.json", topic, [3, 2], [2, 3])
    begun = run(
        cluster,
        Tool.REASSIGN_PARTITIONS,
        "--reassignment-json-file",
        wanted,
        "--execute",
        "--throttle",
        "50000000",
    )
    assert "Successfully started partition reassignments" in begun
    cluster.await_partition(topic, 0, lambda view: view.replicas == (3, 2) and view.is_whole)
    cluster.await_partition(topic, 1, lambda view: view.replicas == (2, 3) and view.is_whole)
    assert cluster.leader_of(topic, 0) in (2, 3), "the old leader is no replica any more"
    verified = run(cluster, Tool.REASSIGN_PARTITIONS, "--reassignment-json-file", wanted, "--verify")
    assert len(re.findall("Reassignment of partition .* is completed", verified)) == 2
    assert "Clearing topic-level throttles" in verified


def test_kafka_leader_election_gives_leadership_to_the_first_replica(cluster: Cluster) -> None:
    topic = cluster.create_topic("led", assignment=[(1, 2, 3)])
    cluster.brokers[1].stop()
    cluster.await_new_leader(topic, 0, 1)
    cluster.brokers[1].start()
    cluster.await_whole(topic)
    done = run(cluster, Tool.LEADER_ELECTION, "--election-type", "preferred", "--all-topic-partitions")
    assert "Successfully completed leader election (PREFERRED) for partitions" in done
    assert cluster.leader_of(topic, 0) == 1


def test_kafka_topics_and_kafka_cluster_tell_of_a_dead_broker_and_remove_it(cluster: Cluster) -> None:
    topic = cluster.create_topic("reduced", assignment=[(2, 3)])
    cluster.brokers[3].stop()
    cluster.await_partition(topic, 0, lambda view: view.isr == (2,))
    described = run(cluster, Tool.TOPICS, "--describe", "--topic", topic)
    assert re.search(r"Isr: 2\s+Elr: 3\s+LastKnownElr:", described), described
    with pytest.raises(PeerFailed, match="alive"):
        run(cluster, Tool.CLUSTER, "unregister", "--id", "2")
    run(cluster, Tool.CLUSTER, "unregister", "--id", "3")
    cluster.brokers[3].start()
    cluster.await_whole(topic)
