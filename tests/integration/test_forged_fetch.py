"""A fetch in a follower's name, made by hand and sent to a real leader, acks nothing: not until its followers really have the record.

Where each claim is refused is in `tests/unit/broker/test_cluster_principal.py`; this is the whole way from the socket.
"""

import struct
import time
from pathlib import Path

from tests.support import batches
from tests.support.cluster.cluster import running_cluster
from tests.support.errors import ErrorCode
from tests.support.topics import PRODUCE_VERSION, produce_request
from tests.support.wire import Connection, connect

FETCH_VERSION = 17
PATIENT = {"broker.session.timeout.ms": "60000", "broker.heartbeat.interval.ms": "1000"}
FORGED_S = 1.0


def forged_fetch(topic_id: bytes, epoch: int, offset: int, replica: tuple[int, int] | None) -> bytes:
    """The body of a Fetch, version 17, for partition 0 by `replica` (id and broker epoch), or by a consumer."""
    head = struct.pack(">iiibii", 0, 1, 1 << 20, 0, 0, -1)
    partition = struct.pack(">iiqiqix", 0, epoch, offset, -1, 0, 1 << 20)
    body = head + b"\2" + topic_id + b"\2" + partition + b"\0" + b"\1" + b"\1"
    if replica is None:
        return body + b"\0"
    return body + b"\1" + bytes((1, 13)) + struct.pack(">iqx", *replica)


def fetch(connection: Connection, body: bytes) -> tuple[int, int]:
    """The error code of the whole answer or of its partition, and the high watermark told."""
    answer = connection.receive("fetch", FETCH_VERSION, connection.send_body("fetch", FETCH_VERSION, body))
    if answer.error_code:
        return answer.error_code, -1
    (part,) = answer.responses[0].partitions
    return part.error_code, part.high_watermark


def test_forged_follower_fetches_ack_nothing(tmp_path: Path) -> None:
    with running_cluster(tmp_path, PATIENT) as cluster:
        topic = cluster.create_topic("forged")
        told = cluster.metadata(topic).topics[0]
        view = cluster.partitions(topic)[0]
        leader = cluster.brokers[view.leader]
        followers = [node_id for node_id in view.replicas if node_id != view.leader]
        for node_id in followers:
            cluster.brokers[node_id].freeze()
        with connect(leader.bootstrap) as producer, connect(leader.bootstrap) as forger:
            number = producer.send(
                "produce", PRODUCE_VERSION, produce_request(topic, batches.encode_batch([b"one"]), acks=-1)
            )
            topic_id = told.topic_id
            ends = time.monotonic() + FORGED_S
            guess = 0
            while time.monotonic() < ends:
                for replica in (
                    (followers[0], guess),
                    (followers[1], guess),
                    (77, guess),
                    (view.leader, guess),
                ):
                    code, _ = fetch(forger, forged_fetch(topic_id, view.leader_epoch, 1, replica))
                    assert code in (ErrorCode.stale_broker_epoch, ErrorCode.broker_id_not_registered)
                guess = 2**40 + guess
            consumer = forged_fetch(topic_id, view.leader_epoch, 0, None)
            assert fetch(forger, consumer) == (0, 0), "nothing is committed"
            for node_id in followers:
                cluster.brokers[node_id].thaw()
            answer = producer.receive("produce", PRODUCE_VERSION, number)
            assert answer.responses[0].partition_responses[0].error_code == 0
            assert fetch(forger, consumer) == (0, 1)
