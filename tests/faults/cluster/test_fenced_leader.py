"""A leader that was paused for longer than its session comes back fenced: it acks nothing that its successor does not have (PROPERTIES M2, D8)."""

from tests.faults.cluster.conftest import StartCluster
from tests.support import batches
from tests.support.errors import ErrorCode
from tests.support.topics import PRODUCE_VERSION, produce_request, produce_values
from tests.support.wire import connect


def test_a_paused_leader_acks_what_came_while_it_slept(start_cluster: StartCluster) -> None:
    cluster = start_cluster()
    topic = cluster.create_topic("paused")
    leader = cluster.brokers[cluster.leader_of(topic, 0)]
    with connect(leader.bootstrap) as connection:
        produce_values(connection, topic, b"before")
        leader.freeze()
        successor = cluster.brokers[cluster.await_new_leader(topic, 0, leader.node_id)]
        # It lies in the leader's socket when it wakes up, before any news from etcd can. With acks=1 nobody else would have to agree.
        late = produce_request(topic, batches.encode_batch([b"late"]), acks=1)
        number = connection.send("produce", PRODUCE_VERSION, late)
        with connect(successor.bootstrap) as elsewhere:
            assert produce_values(elsewhere, topic, b"after") == 1
        leader.thaw()
        answer = connection.receive("produce", PRODUCE_VERSION, number)
    code = answer.responses[0].partition_responses[0].error_code
    assert code == ErrorCode.not_leader_or_follower, answer
    cluster.await_whole(topic)
