"""Rolling restarts, all brokers killed at once, and a broker whose disk was replaced, under load (PROPERTIES D1, D2, D7, T1, G2)."""

from pathlib import Path

from tests.faults.cluster.conftest import StartCluster
from tests.support.cluster import replica_logs
from tests.support.cluster.cluster import Cluster
from tests.support.cluster.traffic import Traffic, traffic

PARTITIONS = 4
INTERNAL = "__consumer_offsets"


def restart_one_after_the_other(cluster: Cluster, topic: str, load: Traffic) -> None:
    for broker in cluster.brokers.values():
        assert broker.stop() == 0
        # Leadership has moved before it went: nobody waits for a lease to end.
        leaders = {view.leader for view in cluster.partitions(topic).values()}
        assert broker.node_id not in leaders
        assert -1 not in leaders
        load.await_acks(3)
        broker.start()
        cluster.await_whole(topic, INTERNAL)
        load.await_acks(3)


def kill_all(cluster: Cluster, topic: str, load: Traffic) -> None:
    for broker in cluster.brokers.values():
        broker.kill()
    cluster.start_all()
    cluster.await_whole(topic, INTERNAL)
    load.await_acks(3)


def replace_the_disk(cluster: Cluster, topic: str, load: Traffic) -> None:
    load.await_known(cluster.brokers)
    broker = cluster.brokers[cluster.leader_of(topic, 0)]
    broker.kill()
    broker.empty_disk()
    load.await_acks(3)
    broker.start()
    cluster.await_whole(topic, INTERNAL)
    load.await_acks(3)


def test_what_was_acked_is_lost_over_restarts(start_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = start_cluster()
    topic = cluster.create_topic("restarted", partitions=PARTITIONS)
    with traffic(
        cluster.bootstrap,
        topic,
        PARTITIONS,
        tmp_path / "clients",
        writers=("librdkafka", "aiokafka", "penstock"),
        members=("librdkafka", "penstock"),
    ) as load:
        load.await_acks()
        restart_one_after_the_other(cluster, topic, load)
        kill_all(cluster, topic, load)
        replace_the_disk(cluster, topic, load)
        load.finish()
        print(load.check(cluster))
    for broker in cluster.brokers.values():
        assert broker.stop() == 0
    replica_logs.check_folders(cluster)
