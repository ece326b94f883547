"""The load's own encoder against the broker's decoder, and its reading of answers against the broker's encoder."""

import struct

from bench.frames import FetchAnswer, fetch_request, make_batch, make_batch_of_size, produce_request

from penstock.protocol.fetch import FetchPartitionResult, decode_fetch_request, encode_fetch_response
from penstock.protocol.framing import read_request_header
from penstock.protocol.produce import decode_produce_request
from penstock.protocol.record_batch import check_produced_batch
from penstock.protocol.records import decode_records


class Slice:
    """Records that follow a response."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.count = len(data)


def test_a_made_batch_is_one_that_the_broker_takes() -> None:
    batch = make_batch(20, 1024)
    header = check_produced_batch(memoryview(bytearray(batch.data)))
    assert header.record_count == 20
    records = list(decode_records(memoryview(batch.data), output_max_bytes=1 << 20))
    assert [len(record.value or b"") for record in records] == [1024] * 20
    assert records[0].value != records[1].value


def test_a_full_batch_is_as_large_as_it_may_be() -> None:
    for size_max, value_size in ((16 << 10, 1 << 10), (1 << 20, 1 << 10), (1 << 20, 100)):
        size = len(make_batch_of_size(size_max, value_size).data)
        assert size_max - value_size - 10 < size <= size_max


def test_a_produce_request_says_what_was_meant() -> None:
    batch = make_batch(2, 100)
    frame = memoryview(bytearray(produce_request("some-topic", batch.data)))[4:]
    header = read_request_header(frame)
    assert (header.api_key, header.api_version, header.client_id) == (0, 9, "bench")
    request = decode_produce_request(9, frame[header.body_position :])
    assert (request.acks, request.transactional_id) == (-1, None)
    (partition,) = request.partitions
    assert (partition.topic, partition.index) == ("some-topic", 0)
    assert bytes(partition.records or b"") == batch.data


def test_a_fetch_request_carries_the_offset_packed_over_it() -> None:
    request, position = fetch_request("some-topic", partition_bytes_max=1 << 20)
    struct.pack_into(">q", request, position, 123456789)
    frame = memoryview(request)[4:]
    header = read_request_header(frame)
    decoded = decode_fetch_request(12, frame[header.body_position :])
    (partition,) = decoded.partitions
    assert (partition.topic, partition.fetch_offset, partition.max_bytes) == (
        "some-topic",
        123456789,
        1 << 20,
    )
    assert (decoded.min_bytes, decoded.session_id, decoded.session_epoch, decoded.isolation_level) == (
        1,
        0,
        -1,
        0,
    )


def test_a_torn_last_batch_in_an_answer_is_not_counted() -> None:
    batch = make_batch(5, 50).data
    second = struct.pack(">q", 5) + batch[8:]
    data = batch + second + second[:100]
    result = FetchPartitionResult("t", None, 0, 0, high_watermark=77, records=Slice(data))
    size, parts = encode_fetch_response(12, 0, 0, 0, [result])
    body = b"".join(part if isinstance(part, bytes) else data for part in parts)
    assert len(body) == size
    answer = struct.pack(">ii", size + 5, 1) + b"\0" + body
    assert FetchAnswer("t").read(memoryview(answer), 0) == (10, 2 * len(batch), 77)
