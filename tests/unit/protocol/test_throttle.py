"""throttle_time_ms lands in its own place of an encoded Produce answer, in every version."""

import pytest

from penstock.protocol.api import ApiKey, response_header_version
from penstock.protocol.codec import decode_response
from penstock.protocol.framing import response_prefix
from penstock.protocol.produce import ProducePartitionResult, encode_produce_response
from penstock.protocol.tagged import NodeEndpoint
from penstock.protocol.throttle import tell_produce_throttled

KEY = int(ApiKey.PRODUCE)
ID = bytes(range(16))


def answer(version: int, throttle_time_ms: int, endpoints: tuple[NodeEndpoint, ...] = ()) -> bytes:
    topic_id = ID if version >= 13 else None
    result = ProducePartitionResult("t" if topic_id is None else "", topic_id, 1, 0, 5, 6, 7)
    body = encode_produce_response(version, [result], throttle_time_ms, endpoints)
    return response_prefix(KEY, version, 9, len(body)) + body


@pytest.mark.parametrize("version", range(3, 14))
def test_other_bytes_than_the_time_are_written_over(version: int) -> None:
    assert tell_produce_throttled(version, answer(version, 0), 1234) == answer(version, 1234)


@pytest.mark.parametrize("version", [3, 8])
def test_longer_time_that_is_told_is_taken_back(version: int) -> None:
    assert tell_produce_throttled(version, answer(version, 2000), 1234) == answer(version, 2000)


@pytest.mark.parametrize("rack", [None, "r"])
@pytest.mark.parametrize("port", [9092, 256])
def test_where_the_new_leader_listens_is_written_over(port: int, rack: str | None) -> None:
    named = answer(10, 0, (NodeEndpoint(1, "h", port, rack),))
    assert tell_produce_throttled(10, named, 1234) == named
    start = 8 + response_header_version(KEY, 10)
    assert decode_response(KEY, 10, memoryview(named)[start:]).node_endpoints[0].port == port
