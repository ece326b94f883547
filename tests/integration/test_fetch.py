"""Fetch by raw requests: waiting, limits, and what may be seen."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support import batches
from tests.support.errors import ErrorCode
from tests.support.processes import RunningServer
from tests.support.topics import (
    FETCH_VERSION,
    create_topic,
    fetch,
    fetch_request,
    fetch_values,
    list_offset,
    produce_values,
)
from tests.support.wire import Connection, connect

LONG_MS = 15_000
"""A wait that a test never sits out."""
SHORT_MS = 300


def elapsed_ms(start: float) -> float:
    return (time.monotonic() - start) * 1000


def test_a_long_poll_sleeps_through_an_append(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "poll")
    with connect(server.bootstrap) as waiting:
        start = time.monotonic()
        values = fetch_request({(topic, 0): 0}, max_wait_ms=LONG_MS)
        number = waiting.send("fetch", FETCH_VERSION, values)
        produce_values(connection, topic, b"wake")
        reply = waiting.receive("fetch", FETCH_VERSION, number)
    answer = reply.responses[0].partitions[0]
    assert batches.values_of(answer.records) == [(0, b"wake")]
    assert elapsed_ms(start) < LONG_MS / 3


def test_a_long_poll_of_many_partitions_watches_only_the_first(
    server: RunningServer, connection: Connection
) -> None:
    topic = create_topic(connection, "poll-many", partitions=20)
    with connect(server.bootstrap) as waiting:
        start = time.monotonic()
        wanted = {(topic, index): 0 for index in range(20)}
        number = waiting.send("fetch", FETCH_VERSION, fetch_request(wanted, max_wait_ms=LONG_MS))
        produce_values(connection, topic, b"wake", partition=17)
        reply = waiting.receive("fetch", FETCH_VERSION, number)
    told = {each.partition_index: each.records for each in reply.responses[0].partitions}
    assert batches.values_of(told[17]) == [(0, b"wake")]
    assert elapsed_ms(start) < LONG_MS / 3


def test_an_empty_long_poll_answers_at_once_or_never(connection: Connection) -> None:
    topic = create_topic(connection, "poll-empty")
    start = time.monotonic()
    answer = fetch(connection, topic, 0, max_wait_ms=SHORT_MS)
    assert answer.records == b""
    assert SHORT_MS * 0.9 <= elapsed_ms(start) < LONG_MS


def test_min_bytes_is_not_waited_for(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "min-bytes")
    with connect(server.bootstrap) as waiting:
        values = fetch_request({(topic, 0): 0}, max_wait_ms=LONG_MS, min_bytes=3000)
        number = waiting.send("fetch", FETCH_VERSION, values)
        for part in (b"a", b"b", b"c"):
            produce_values(connection, topic, part * 1000)
        reply = waiting.receive("fetch", FETCH_VERSION, number)
    answer = reply.responses[0].partitions[0]
    assert [value[:1] for _, value in batches.values_of(answer.records)] == [b"a", b"b", b"c"]


def test_min_bytes_holds_the_answer_past_its_time(connection: Connection) -> None:
    topic = create_topic(connection, "min-bytes-late")
    produce_values(connection, topic, b"little")
    start = time.monotonic()
    answer = fetch(connection, topic, 0, max_wait_ms=SHORT_MS, min_bytes=1 << 20)
    assert batches.values_of(answer.records) == [(0, b"little")]
    assert SHORT_MS * 0.9 <= elapsed_ms(start) < LONG_MS


def test_a_waiting_fetch_blocks_other_connections(server: RunningServer, connection: Connection) -> None:
    topic = create_topic(connection, "poll-alone")
    with connect(server.bootstrap) as waiting:
        waiting.send("fetch", FETCH_VERSION, fetch_request({(topic, 0): 0}, max_wait_ms=LONG_MS))
        start = time.monotonic()
        assert connection.request("api_versions", 0).error_code == 0
        assert elapsed_ms(start) < LONG_MS / 3


def test_answers_of_one_connection_come_out_of_order(server: RunningServer, connection: Connection) -> None:
    """A request behind a long poll is answered after it (DESIGN section 4)."""
    topic = create_topic(connection, "pipeline")
    produce_values(connection, topic, b"x")
    with connect(server.bootstrap) as pipelined:
        numbers = [
            pipelined.send("fetch", FETCH_VERSION, fetch_request({(topic, 0): 1}, max_wait_ms=SHORT_MS)),
            pipelined.send("fetch", FETCH_VERSION, fetch_request({(topic, 0): 0})),
            pipelined.send("fetch", FETCH_VERSION, fetch_request({(topic, 0): 1})),
        ]
        replies = [pipelined.receive("fetch", FETCH_VERSION, number) for number in numbers]
    sizes = [len(reply.responses[0].partitions[0].records) for reply in replies]
    assert (sizes[0], sizes[2]) == (0, 0)
    assert sizes[1] > 0


def test_max_bytes_of_a_partition_is_passed(connection: Connection) -> None:
    topic = create_topic(connection, "partition-max")
    for _ in range(10):
        produce_values(connection, topic, b"x" * 1000)
    answer = fetch(connection, topic, 0, partition_max_bytes=3500)
    whole = batches.split_batches(answer.records)
    assert len(whole) == 3
    assert len(answer.records) <= 3500


def test_max_bytes_of_a_request_is_passed(connection: Connection) -> None:
    """The first partition gets its batch whatever the size, the others only what room is left."""
    topic = create_topic(connection, "request-max", partitions=3)
    for index in range(3):
        produce_values(connection, topic, b"x" * 5000, partition=index)
    wanted = {(topic, index): 0 for index in range(3)}
    reply = connection.request("fetch", FETCH_VERSION, **fetch_request(wanted, max_bytes=6000))
    sizes = [len(each.records) for each in reply.responses[0].partitions]
    assert sum(sizes) <= 6000
    assert sum(size > 0 for size in sizes) == 1


def test_fetching_goes_on_at_the_wrong_offset_across_batches(connection: Connection) -> None:
    """Small answers, each from where the last one ended, make the whole."""
    topic = create_topic(connection, "walk")
    for number in range(30):
        produce_values(connection, topic, b"%d" % number, b"x" * (number * 37 % 400))
    found: list[tuple[int, bytes]] = []
    while len(found) < 60:
        answer = fetch(connection, topic, len(found), partition_max_bytes=500)
        found += [each for each in batches.values_of(answer.records) if each[0] >= len(found)]
    assert found == fetch_values(connection, topic)
    assert [offset for offset, _ in found] == list(range(60))


@pytest.mark.parametrize("offset", [-5, 4, 2**60])
def test_an_offset_out_of_range_is_served(offset: int, connection: Connection) -> None:
    topic = create_topic(connection, "range")
    produce_values(connection, topic, b"0", b"1", b"2")
    answer = fetch(connection, topic, offset)
    assert answer.error_code == ErrorCode.offset_out_of_range
    assert answer.records == b""


def test_reading_at_the_high_watermark_is_an_error(connection: Connection) -> None:
    topic = create_topic(connection, "end")
    produce_values(connection, topic, b"0", b"1", b"2")
    answer = fetch(connection, topic, 3)
    assert (answer.error_code, answer.records, answer.high_watermark) == (0, b"", 3)
    assert (answer.log_start_offset, answer.last_stable_offset) == (0, 3)


def test_deleted_records_are_served(connection: Connection) -> None:
    topic = create_topic(connection, "deleted")
    for value in (b"0", b"1", b"2", b"3"):
        produce_values(connection, topic, value)
    wanted = [{"name": topic, "partitions": [{"partition_index": 0, "offset": 2}]}]
    reply = connection.request("delete_records", 2, topics=wanted, timeout=5000)
    answer = reply.topics[0].partitions[0]
    assert (answer.error_code, answer.low_watermark) == (0, 2)
    assert fetch(connection, topic, 1).error_code == ErrorCode.offset_out_of_range
    assert batches.values_of(fetch(connection, topic, 2).records) == [(2, b"2"), (3, b"3")]
    assert list_offset(connection, topic, -2)[0] == 2
    beyond = [{"name": topic, "partitions": [{"partition_index": 0, "offset": 5}]}]
    refused = connection.request("delete_records", 2, topics=beyond, timeout=5000)
    assert refused.topics[0].partitions[0].error_code == ErrorCode.offset_out_of_range
    everything = [{"name": topic, "partitions": [{"partition_index": 0, "offset": -1}]}]
    emptied = connection.request("delete_records", 2, topics=everything, timeout=5000)
    assert emptied.topics[0].partitions[0].low_watermark == 4
    assert produce_values(connection, topic, b"4") == 4


def test_an_unknown_partition_hides_the_known_one(connection: Connection) -> None:
    topic = create_topic(connection, "known")
    produce_values(connection, topic, b"x")
    values = fetch_request({(topic, 0): 0, (topic, 7): 0, ("no-such-topic", 0): 0})
    reply = connection.request("fetch", FETCH_VERSION, **values)
    told = {
        (each.topic, part.partition_index): (ErrorCode(part.error_code), len(part.records or b"") > 0)
        for each in reply.responses
        for part in each.partitions
    }
    unknown = (ErrorCode.unknown_topic_or_partition, False)
    assert told == {(topic, 0): (ErrorCode.none, True), (topic, 7): unknown, ("no-such-topic", 0): unknown}


def test_many_readers_and_a_writer_see_different_logs(server: RunningServer, connection: Connection) -> None:
    """Four readers follow a log while it grows; each sees the same offsets with the same values, once, in order."""
    topic = create_topic(connection, "follow")
    count = 200

    def follow() -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        with connect(server.bootstrap) as reading:
            while len(found) < count:
                answer = fetch(reading, topic, len(found), max_wait_ms=LONG_MS)
                found += [each for each in batches.values_of(answer.records) if each[0] >= len(found)]
        return found

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(follow) for _ in range(4)]
        for number in range(count):
            produce_values(connection, topic, b"%d" % number)
        expected = [(number, b"%d" % number) for number in range(count)]
        assert [reader.result(60) == expected for reader in readers] == [True] * 4
