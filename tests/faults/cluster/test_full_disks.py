"""A full disk on a follower holds nobody up; one on a leader refuses, and takes writes again when there is room (PROPERTIES D1, D7, D12)."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.faults.cluster.conftest import StartCluster
from tests.support.batches import encode_batch
from tests.support.cluster.traffic import traffic
from tests.support.deadline import until
from tests.support.disks import fill_up, tiny_disk
from tests.support.errors import ErrorCode
from tests.support.topics import produce
from tests.support.wire import Connection, connect

DISK_SIZE_BYTES = 64 << 20
PARTITIONS = 1
FILLING = "filling"


def is_refused(connection: Connection, topic: str) -> bool:
    code = produce(connection, topic, encode_batch([b"x" * 10_000])).error_code
    assert code in (0, ErrorCode.kafka_storage_error)
    return bool(code)


@pytest.fixture
def tiny_disks(tmp_path: Path) -> Iterator[None]:
    with ExitStack() as stack:
        for node_id in (1, 2, 3):
            stack.enter_context(tiny_disk(tmp_path / f"data-{node_id}", DISK_SIZE_BYTES))
        yield


def test_a_full_disk_loses_what_was_acked_or_stops_the_others(
    tiny_disks: None, start_cluster: StartCluster, tmp_path: Path
) -> None:
    cluster = start_cluster(log_segment_bytes="1000000")
    topic = cluster.create_topic("full", partitions=PARTITIONS)
    writers = ("librdkafka", "penstock")
    with traffic(
        cluster.bootstrap, topic, PARTITIONS, tmp_path / "clients", writers=writers, members=()
    ) as load:
        load.await_acks()
        leader = cluster.brokers[cluster.leader_of(topic, 0)]
        follower = next(broker for broker in cluster.brokers.values() if broker is not leader)
        fill_up(follower.data_directory / FILLING)
        cluster.await_partition(topic, 0, lambda view: follower.node_id not in view.isr)
        load.await_acks()
        (follower.data_directory / FILLING).unlink()
        cluster.await_whole(topic)

        beside = cluster.create_topic("beside", assignment=[[leader.node_id, follower.node_id]])
        fill_up(leader.data_directory / FILLING)
        with connect(leader.bootstrap) as connection:
            until(lambda: is_refused(connection, beside), "a refusal for want of room")
        (leader.data_directory / FILLING).unlink()
        cluster.await_whole(topic)
        load.await_acks()
        load.finish()
        print(load.check(cluster))
