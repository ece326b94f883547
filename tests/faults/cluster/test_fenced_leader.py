"""A leader that slept for longer than its session, and hears nothing of etcd, refuses when it wakes up: its clock is all that it has (PROPERTIES M2, D8)."""

from tests.faults.cluster.conftest import StartCluster
from tests.support import batches
from tests.support.cluster.hosts import namespaces
from tests.support.errors import ErrorCode
from tests.support.topics import PRODUCE_VERSION, fetch_values, produce_request, produce_values
from tests.support.wire import connect


def test_a_leader_that_slept_acks_what_its_successor_does_not_have(start_cluster: StartCluster) -> None:
    with namespaces() as network:
        cluster = start_cluster(network=network)
        topic = cluster.create_topic("paused", configs={"write.caching": "true"})  # else no ack comes at once
        leader = cluster.brokers[cluster.leader_of(topic, 0)]
        with connect(leader.bootstrap) as connection:
            produce_values(connection, topic, b"before")
            # Else the news of the successor would lie in its sockets as well, and some of the time it would read that first.
            network.cut_one_way(cluster.etcd.host, leader.host)
            leader.freeze()
            successor = cluster.brokers[cluster.await_new_leader(topic, 0, leader.node_id)]
            # With acks=1 nobody else would have to agree.
            late = produce_request(topic, batches.encode_batch([b"late"]), acks=1)
            number = connection.send("produce", PRODUCE_VERSION, late)
            with connect(successor.bootstrap) as elsewhere:
                assert produce_values(elsewhere, topic, b"after") == 1
            leader.thaw()
            answer = connection.receive("produce", PRODUCE_VERSION, number)
        code = answer.responses[0].partition_responses[0].error_code
        assert code == ErrorCode.not_leader_or_follower, answer
        network.heal()
        cluster.await_whole(topic)
        with connect(successor.bootstrap) as elsewhere:
            assert [value for _, value in fetch_values(elsewhere, topic)] == [b"before", b"after"]
