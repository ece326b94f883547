"""Hand-packed Produce and Fetch against the compiled codec, which is checked against kio elsewhere."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.examples import examples
from tests.support.messages import messages

from penstock.protocol import fetch, produce
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.fetch import FetchPartitionResult, decode_fetch_request, encode_fetch_response
from penstock.protocol.message import Message
from penstock.protocol.produce import (
    ProducePartitionResult,
    decode_produce_request,
    encode_produce_response,
)
from penstock.protocol.schema import load_schema
from penstock.protocol.tagged import NodeEndpoint

int32 = st.integers(-(1 << 31), (1 << 31) - 1)
int64 = st.integers(-(1 << 63), (1 << 63) - 1)
names = st.text(max_size=200)
topic_ids = st.binary(min_size=16, max_size=16)
pairs = st.tuples(int32, int32)
endpoints = st.lists(st.builds(NodeEndpoint, int32, names, int32, st.none() | names), max_size=3)
QUICK = settings(deadline=None, max_examples=examples(30))


@pytest.mark.parametrize("version", range(3, 14))
@QUICK
@given(data=st.data())
def test_produce_request_is_read_as_the_codec_wrote_it(version: int, data: st.DataObject) -> None:
    request = data.draw(messages(load_schema(ApiKey.PRODUCE, version, request=True)))
    body = memoryview(encode_request(ApiKey.PRODUCE, version, request))
    decoded = decode_produce_request(version, body)
    assert decoded.transactional_id == request.transactional_id
    assert (decoded.acks, decoded.timeout_ms) == (request.acks, request.timeout_ms)
    topic_id_sent = version >= produce.FIRST_WITH_TOPIC_ID
    assert [(part.topic, part.topic_id, part.index, part.records) for part in decoded.partitions] == [
        (topic.name, topic.topic_id if topic_id_sent else None, part.index, part.records)
        for topic in request.topic_data
        for part in topic.partition_data
    ]


@pytest.mark.parametrize("version", range(4, 19))
@QUICK
@given(data=st.data())
def test_fetch_request_is_read_as_the_codec_wrote_it(version: int, data: st.DataObject) -> None:
    request = data.draw(messages(load_schema(ApiKey.FETCH, version, request=True)))
    decoded = decode_fetch_request(version, memoryview(encode_request(ApiKey.FETCH, version, request)))
    for name in ("max_wait_ms", "min_bytes", "max_bytes", "isolation_level", "session_id", "session_epoch"):
        assert getattr(decoded, name) == getattr(request, name)
    follower = (
        request.replica_state if version >= 15 else Message(replica_id=request.replica_id, replica_epoch=-1)
    )
    assert (decoded.replica_id, decoded.replica_epoch) == (follower.replica_id, follower.replica_epoch)
    assert (decoded.rack_id, decoded.cluster_id) == (request.rack_id, request.cluster_id)

    def topic_id(topic: Message) -> bytes | None:
        return topic.topic_id if version >= fetch.FIRST_WITH_TOPIC_ID else None

    expected = [
        fetch.FetchPartition(
            topic.topic,
            topic_id(topic),
            part.partition,
            part.current_leader_epoch,
            part.fetch_offset,
            part.last_fetched_epoch,
            part.log_start_offset,
            part.partition_max_bytes,
            part.replica_directory_id if part.replica_directory_id != bytes(16) else None,
        )
        for topic in request.topics
        for part in topic.partitions
    ]
    assert decoded.partitions == expected
    assert decoded.forgotten == [
        (topic.topic, topic_id(topic), index)
        for topic in request.forgotten_topics_data
        for index in topic.partitions
    ]


produce_results = st.builds(
    ProducePartitionResult,
    st.sampled_from(["", "orders", "päyments"]),
    st.sampled_from([bytes(16), bytes(range(16))]),
    int32,
    st.integers(-1, 133),
    int64,
    int64,
    int64,
    st.none() | names,
    st.none() | pairs.filter(lambda pair: pair != (-1, -1)),
    st.lists(st.tuples(int32, st.none() | names), max_size=2),
)


@pytest.mark.parametrize("version", range(3, 14))
@QUICK
@given(results=st.lists(produce_results, max_size=4), throttle_time_ms=int32, nodes=endpoints)
def test_produce_response_is_what_the_codec_reads(
    version: int, results: list[ProducePartitionResult], throttle_time_ms: int, nodes: list[NodeEndpoint]
) -> None:
    decoded = decode_response(
        ApiKey.PRODUCE, version, encode_produce_response(version, results, throttle_time_ms, nodes)
    )
    assert decoded.throttle_time_ms == throttle_time_ms
    assert endpoints_of(decoded) == (nodes if version >= 10 else [])
    by_id = version >= produce.FIRST_WITH_TOPIC_ID
    flat = [(topic, part) for topic in decoded.responses for part in topic.partition_responses]
    assert len(flat) == len(results)
    for (topic, part), result in zip(flat, results, strict=True):
        assert (topic.topic_id if by_id else topic.name) == (result.topic_id if by_id else result.topic)
        assert (part.index, part.error_code) == (result.index, result.error_code)
        assert (part.base_offset, part.log_append_time_ms) == (result.base_offset, result.log_append_time_ms)
        assert part.log_start_offset == (result.log_start_offset if version >= 5 else -1)
        assert part.error_message == (result.error_message if version >= 8 else None)
        errors = [(error.batch_index, error.batch_index_error_message) for error in part.record_errors]
        assert errors == (result.record_errors if version >= 8 else [])
        leader = part.current_leader.leader_id, part.current_leader.leader_epoch
        assert leader == (result.current_leader or (-1, -1) if version >= 10 else (-1, -1))


class Zeros:
    """Records of so many bytes."""

    def __init__(self, count: int) -> None:
        self.count = count


fetch_results = st.builds(
    FetchPartitionResult,
    st.sampled_from(["", "orders", "päyments"]),
    st.sampled_from([bytes(16), bytes(range(16))]),
    int32,
    st.integers(-1, 133),
    int64,
    int64,
    int64,
    st.none() | st.lists(st.tuples(int64, int64), max_size=2),
    int32,
    st.none() | st.tuples(int32, int64).filter(lambda pair: pair != (-1, -1)),
    st.none() | pairs.filter(lambda pair: pair != (-1, -1)),
    st.none() | st.tuples(int64, int32).filter(lambda pair: pair != (-1, -1)),
    st.builds(Zeros, st.sampled_from([0, 1, 126, 127, 128, 20_000])),
)


@pytest.mark.parametrize("version", range(4, 19))
@QUICK
@given(
    results=st.lists(fetch_results, max_size=4),
    head=st.tuples(int32, st.integers(-1, 133), int32),
    nodes=endpoints,
)
def test_fetch_response_is_what_the_codec_reads(
    version: int, results: list[FetchPartitionResult], head: tuple[int, int, int], nodes: list[NodeEndpoint]
) -> None:
    size_bytes, parts = encode_fetch_response(version, *head, results, nodes)
    body = b"".join(part if isinstance(part, bytes) else bytes(part.count) for part in parts)
    assert len(body) == size_bytes
    decoded = decode_response(ApiKey.FETCH, version, body)
    assert (decoded.throttle_time_ms, decoded.error_code, decoded.session_id) == (
        head if version >= 7 else (head[0], 0, 0)
    )
    assert endpoints_of(decoded) == (nodes if version >= 16 else [])
    by_id = version >= fetch.FIRST_WITH_TOPIC_ID
    flat = [(topic, part) for topic in decoded.responses for part in topic.partitions]
    assert len(flat) == len(results)
    for (topic, part), result in zip(flat, results, strict=True):
        assert (topic.topic_id if by_id else topic.topic) == (result.topic_id if by_id else result.topic)
        check_fetched(version, part, result)


def check_fetched(version: int, part: Message, result: FetchPartitionResult) -> None:
    assert (part.partition_index, part.error_code) == (result.index, result.error_code)
    assert (part.high_watermark, part.last_stable_offset) == (
        result.high_watermark,
        result.last_stable_offset,
    )
    assert part.log_start_offset == (result.log_start_offset if version >= 5 else -1)
    assert part.preferred_read_replica == (result.preferred_read_replica if version >= 11 else -1)
    aborted = part.aborted_transactions
    assert result.aborted_transactions == (
        None if aborted is None else [(each.producer_id, each.first_offset) for each in aborted]
    )
    assert part.records is not None
    assert bytes(part.records) == bytes(result.records.count)
    tagged = version >= 12
    diverging = part.diverging_epoch.epoch, part.diverging_epoch.end_offset
    assert diverging == ((tagged and result.diverging_epoch) or (-1, -1))
    leader = part.current_leader.leader_id, part.current_leader.leader_epoch
    assert leader == ((tagged and result.current_leader) or (-1, -1))
    snapshot = part.snapshot_id.end_offset, part.snapshot_id.epoch
    assert snapshot == ((tagged and result.snapshot_id) or (-1, -1))


def endpoints_of(response: Message) -> list[NodeEndpoint]:
    return [NodeEndpoint(each.node_id, each.host, each.port, each.rack) for each in response.node_endpoints]
