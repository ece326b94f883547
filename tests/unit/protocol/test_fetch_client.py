"""Fetch from the side of who asks: what a follower says that a consumer does not."""

import pytest

from penstock.protocol.fetch import (
    FetchPartition,
    FetchPartitionResult,
    FetchRequest,
    decode_fetch_request,
    encode_fetch_response,
)
from penstock.protocol.fetch_client import (
    REPLICA_FETCH_VERSION_MIN,
    decode_fetch_response,
    encode_fetch_request,
)
from penstock.protocol.tagged import NodeEndpoint

TOPIC_ID = b"i" * 16


def request(replica_id: int, replica_epoch: int) -> FetchRequest:
    partition = FetchPartition("", TOPIC_ID, 3, 5, 100, 4, 20, 1 << 20)
    return FetchRequest(replica_id, replica_epoch, 500, 1, 1 << 20, 0, 7, 8, [partition], [], "", None)


@pytest.mark.parametrize("version", range(REPLICA_FETCH_VERSION_MIN, 19))
def test_a_leader_reads_who_asks_and_where_the_followers_log_ends(version: int) -> None:
    asked = request(2, 4711)
    found = decode_fetch_request(version, memoryview(encode_fetch_request(version, asked)))
    assert found == asked


@pytest.mark.parametrize("version", [13, 14])
def test_versions_without_an_incarnation_still_name_the_replica(version: int) -> None:
    found = decode_fetch_request(version, memoryview(encode_fetch_request(version, request(2, 4711))))
    assert (found.replica_id, found.replica_epoch) == (2, -1)


@pytest.mark.parametrize("version", [13, 18])
def test_a_consumer_names_no_replica(version: int) -> None:
    found = decode_fetch_request(version, memoryview(encode_fetch_request(version, request(-1, -1))))
    assert (found.replica_id, found.replica_epoch) == (-1, -1)


@pytest.mark.parametrize("version", [12, 13, 18])
@pytest.mark.parametrize("diverging", [None, (3, 50), (0, 0)])
def test_divergence_is_told_apart_from_none(version: int, diverging: tuple[int, int] | None) -> None:
    result = FetchPartitionResult("t", TOPIC_ID, 0, 0, 10, 10, 0, diverging_epoch=diverging)
    _, parts = encode_fetch_response(version, 0, 0, 0, [result])
    body = b"".join(part for part in parts if isinstance(part, bytes))
    assert decode_fetch_response(version, memoryview(body)).partitions[0].diverging_epoch == diverging


@pytest.mark.parametrize("version", [12, 15, 16, 18])
def test_a_new_leader_and_where_it_listens_are_read(version: int) -> None:
    result = FetchPartitionResult("t", TOPIC_ID, 0, 6, -1, current_leader=(2, 7))
    _, parts = encode_fetch_response(version, 0, 0, 0, [result], [NodeEndpoint(2, "b2", 9092, "r")])
    answer = decode_fetch_response(version, memoryview(b"".join(p for p in parts if isinstance(p, bytes))))
    assert answer.partitions[0].current_leader == (2, 7)
    assert list(answer.node_endpoints) == ([NodeEndpoint(2, "b2", 9092, "r")] if version >= 16 else [])


def test_no_leader_is_read_where_none_is_told() -> None:
    _, parts = encode_fetch_response(18, 0, 0, 0, [FetchPartitionResult("t", TOPIC_ID, 0, 6, -1)])
    answer = decode_fetch_response(18, memoryview(b"".join(p for p in parts if isinstance(p, bytes))))
    assert (answer.partitions[0].current_leader, list(answer.node_endpoints)) == (None, [])
