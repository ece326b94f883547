"""A cluster grows and shrinks under load: `penstock cluster` moves partitions while clients write, and so does Kafka's tool (PROPERTIES D1, D2)."""

import json
import signal
from pathlib import Path

from bench.peers.kafka import Tool
from tests.faults.cluster.conftest import StartCluster
from tests.support.clients import java
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.traffic import traffic
from tests.support.commands import Commands
from tests.support.deadline import until

PARTITIONS = 6


def held(cluster: Cluster, topic: str) -> dict[int, int]:
    counts = dict.fromkeys(cluster.brokers, 0)
    for view in cluster.partitions(topic).values():
        for node_id in view.replicas:
            counts[node_id] += 1
    return counts


def held_and_led(cluster: Cluster) -> tuple[list[int], list[int]]:
    """Of each broker, the internal topic's replicas too."""
    shown = Commands(cluster.bootstrap).good("cluster", "status", "--json").lines
    brokers = [row for line in shown if "broker" in (row := json.loads(line))]
    assert len(brokers) == len(cluster.brokers)
    return [row["replicas"] for row in brokers], [row["leads"] for row in brokers]


def test_a_broker_joins_and_another_leaves_and_a_record_is_refused_or_lost(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    cluster = start_cluster(offsets_topic_num_partitions="1")
    topic = cluster.create_topic("scaled", partitions=PARTITIONS)
    commands = Commands(cluster.bootstrap)
    folder, writers = tmp_path / "clients", ("librdkafka", "penstock")
    with traffic(cluster.bootstrap, topic, PARTITIONS, folder, writers=writers, members=()) as load:
        load.await_acks()
        cluster.add_broker(4).start()
        commands.good("cluster", "rebalance", "--yes")
        cluster.await_whole(topic, "__consumer_offsets")
        replica_counts, lead_counts = held_and_led(cluster)
        assert max(replica_counts) - min(replica_counts) <= 1
        assert max(lead_counts) - min(lead_counts) <= 1
        assert "there is nothing to move" in commands.good("cluster", "rebalance").out.decode()
        load.await_acks(3)
        done = commands.good("cluster", "drain", "1", "--yes", "--throttle", "50MB")
        assert "broker 1 is empty" in done.out.decode()
        assert held(cluster, topic)[1] == 0
        assert not [path for path in cluster.brokers[1].data_directory.glob(f"{topic}-?") if path.is_dir()]
        assert cluster.brokers.pop(1).stop() == 0
        left = Commands(cluster.brokers[2].bootstrap)
        assert "broker 1" in left.good("cluster", "unregister", "1").out.decode()
        load.await_acks(3)
        cluster.await_whole(topic)
        assert set(held(cluster, topic).values()) == {PARTITIONS}
        load.finish()
        load.check(cluster)


def fill(commands: Commands, topic: str) -> None:
    """Two megabytes, by a client that follows the leader wherever it goes."""
    lines = b"\n".join([b"x" * 50_000] * 40)
    commands.good("produce", topic, stdin=lines)


def test_a_move_does_not_outlive_its_command_or_can_not_be_taken_back(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """Throttled so that it takes half a minute: interrupted, told of, taken up, and cancelled by Kafka's tool."""
    cluster = start_cluster()
    topic = cluster.create_topic("slow", assignment=[[1, 2]])
    commands = Commands(cluster.bootstrap)
    fill(commands, topic)
    move = ("cluster", "reassign", "--topic", topic, "--to", "3,1", "--yes")
    with commands.running(*move, "--throttle", "50kB") as process:
        cluster.await_partition(topic, 0, lambda view: tuple(view.replicas) == (3, 1, 2))
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 130
    assert b"1 move goes on in the cluster, 0 were not begun" in told
    shown = commands.good("cluster", "status").out.decode()
    assert f"{topic}-0" in shown
    assert "1 partition on the move" in shown
    file = tmp_path / "move.json"
    entry = {"topic": topic, "partition": 0, "replicas": [3, 1]}
    file.write_text(json.dumps({"version": 1, "partitions": [entry]}))
    assert commands.run("cluster", "reassign", "--file", str(file), "--verify").exit_code == 1
    tool = ("--bootstrap-server", cluster.bootstrap, "--reassignment-json-file", str(file))
    out = java.run(Tool.REASSIGN_PARTITIONS, *tool, "--cancel").decode()
    assert f"Successfully cancelled reassignment of {topic}-0" in out or "Successfully cancelled" in out
    cluster.await_partition(topic, 0, lambda view: tuple(view.replicas) == (1, 2))
    assert (
        commands.good("cluster", "reassign", "--file", str(file), "--execute").lines[-1]
        == f"begun: {topic}-0"
    )
    until(
        lambda: commands.run("cluster", "reassign", "--file", str(file), "--verify").exit_code == 0,
        "an unthrottled move",
    )
    assert cluster.await_partition(topic, 0, lambda view: len(view.isr) == 2).replicas == (3, 1)
