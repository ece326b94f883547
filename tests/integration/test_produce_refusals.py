"""Record batches that are not what they claim: Kafka's error code, nothing appended, and the connection lives on."""

from collections.abc import Callable

import pytest
from tests.support import batches
from tests.support.batches import encode_batch, patched
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA
from tests.support.topics import (
    create_topic,
    fetch,
    fetch_values,
    fresh_name,
    list_offset,
    produce,
    produce_request,
    produce_values,
)
from tests.support.wire import Connection

GOOD = encode_batch([b"one", b"two"])
CODEC_UNKNOWN = 7
REFUSED: dict[str, tuple[Callable[[], bytes | None], set[ErrorCode]]] = {
    "wrong CRC": (lambda: GOOD[:-1] + b"?", {ErrorCode.corrupt_message}),
    "truncated in the records": (lambda: GOOD[:-3], {ErrorCode.corrupt_message, ErrorCode.invalid_record}),
    "truncated in the header": (lambda: GOOD[:40], {ErrorCode.corrupt_message, ErrorCode.invalid_record}),
    "length too small": (lambda: patched(GOOD, ">i", 8, 20), {ErrorCode.corrupt_message}),
    "length negative": (lambda: patched(GOOD, ">i", 8, -1), {ErrorCode.corrupt_message}),
    "length past the field": (
        lambda: patched(GOOD, ">i", 8, 1 << 30),
        {ErrorCode.corrupt_message, ErrorCode.invalid_record},
    ),
    "trailing bytes": (lambda: GOOD + b"\0\0\0", {ErrorCode.corrupt_message, ErrorCode.invalid_record}),
    "two batches": (lambda: GOOD + GOOD, {ErrorCode.invalid_record}),
    "count too small": (
        lambda: patched(GOOD, ">i", batches.COUNT_POSITION, 1),
        {ErrorCode.invalid_record},
    ),
    "count too large": (
        lambda: patched(GOOD, ">i", batches.COUNT_POSITION, 3),
        {ErrorCode.invalid_record},
    ),
    "count of 2^31-1": (
        lambda: patched(GOOD, ">i", batches.COUNT_POSITION, 2**31 - 1),
        {ErrorCode.invalid_record},
    ),
    "last offset delta too large": (
        lambda: patched(GOOD, ">i", batches.LAST_OFFSET_DELTA_POSITION, 5),
        {ErrorCode.invalid_record},
    ),
    "last offset delta negative": (
        lambda: patched(GOOD, ">i", batches.LAST_OFFSET_DELTA_POSITION, -1),
        {ErrorCode.invalid_record, ErrorCode.corrupt_message},
    ),
    "no records in the batch": (
        lambda: patched(
            patched(GOOD[: batches.HEADER_SIZE_BYTES], ">i", 8, batches.HEADER_SIZE_BYTES - 12),
            ">i",
            batches.COUNT_POSITION,
            0,
        ),
        {ErrorCode.invalid_record},
    ),
    "a codec that is none": (
        lambda: patched(GOOD, ">h", batches.ATTRIBUTES_POSITION, CODEC_UNKNOWN),
        {ErrorCode.corrupt_message, ErrorCode.unsupported_compression_type, ErrorCode.invalid_record},
    ),
    "magic 1": (
        lambda: patched(GOOD, ">b", batches.MAGIC_POSITION, 1),
        {ErrorCode.invalid_record, ErrorCode.corrupt_message, ErrorCode.unsupported_for_message_format},
    ),
    "magic 9": (
        lambda: patched(GOOD, ">b", batches.MAGIC_POSITION, 9),
        {ErrorCode.invalid_record, ErrorCode.corrupt_message},
    ),
    "a sequence without a producer": (
        lambda: encode_batch([b"x"], base_sequence=5),
        {ErrorCode.invalid_record, ErrorCode.none},
    ),
    "a producer without a sequence": (
        lambda: encode_batch([b"x"], producer_id=2**40, producer_epoch=0),
        {ErrorCode.invalid_record},
    ),
    "transactional without a transaction": (
        lambda: encode_batch([b"x"], attributes=batches.TRANSACTIONAL),
        {
            ErrorCode.invalid_record,
            ErrorCode.invalid_txn_state,
            ErrorCode.transactional_id_authorization_failed,
        },
    ),
    "no bytes": (lambda: b"", {ErrorCode.invalid_record, ErrorCode.corrupt_message}),
    "null": (lambda: None, {ErrorCode.invalid_record, ErrorCode.corrupt_message}),
}


LEFT_BY_KAFKA = {"trailing bytes", "a codec that is none", "null"}
"""Apache Kafka trims the first, answers UNKNOWN_SERVER_ERROR to the second, and nothing at all to the third."""


@pytest.mark.parametrize("name", [name for name in REFUSED if not IS_KAFKA or name not in LEFT_BY_KAFKA])
def test_a_bad_batch_is_stored_or_ends_the_connection(name: str, connection: Connection) -> None:
    topic = create_topic(connection, "refused")
    produce_values(connection, topic, b"before")
    make, codes = REFUSED[name]
    answer = produce(connection, topic, make())
    assert ErrorCode(answer.error_code) in codes
    assert answer.error_code == 0 or answer.base_offset == -1
    produce_values(connection, topic, b"after")
    values = [value for _, value in fetch_values(connection, topic)]
    assert values == [b"before", b"after"] or (ErrorCode.none in codes and len(values) == 3)


def test_one_bad_partition_spoils_the_others_of_a_request(connection: Connection) -> None:
    topic = create_topic(connection, "mixed", partitions=2)
    request = produce_request(topic, GOOD)
    request["topic_data"][0]["partition_data"].append({"index": 1, "records": GOOD[:-1] + b"?"})
    reply = connection.request("produce", 9, **request)
    told = {each.index: ErrorCode(each.error_code) for each in reply.responses[0].partition_responses}
    assert told == {0: ErrorCode.none, 1: ErrorCode.corrupt_message}
    assert fetch_values(connection, topic) == [(0, b"one"), (1, b"two")]
    assert fetch_values(connection, topic, partition=1) == []


@pytest.mark.parametrize("partition", [1, -1, 2**31 - 1])
def test_a_partition_that_is_not_there_is_made(partition: int, connection: Connection) -> None:
    topic = create_topic(connection, "one-partition")
    answer = produce(connection, topic, GOOD, partition=partition)
    assert answer.error_code == ErrorCode.unknown_topic_or_partition


@pytest.mark.parametrize("name", ["../x", "..", ".", "a/b", "", "a\0b", "a" * 250, "ü", "a b"])
def test_a_name_that_is_no_topic_name_is_produced_to(name: str, connection: Connection) -> None:
    answer = produce(connection, name, GOOD)
    expected = {ErrorCode.unknown_topic_or_partition, ErrorCode.invalid_topic_exception}
    assert ErrorCode(answer.error_code) in expected
    made = [{"name": name, "num_partitions": 1, "replication_factor": 1}]
    reply = connection.request("create_topics", 7, topics=made, timeout=5000)
    assert reply.topics[0].error_code == ErrorCode.invalid_topic_exception


def test_an_unknown_topic_is_made_though_the_setting_says_no(connection: Connection) -> None:
    name = fresh_name("unknown")
    assert produce(connection, name, GOOD).error_code == ErrorCode.unknown_topic_or_partition
    asked = connection.request(
        "metadata", 12, topics=[{"name": name, "topic_id": None}], allow_auto_topic_creation=True
    )
    assert asked.topics[0].error_code == ErrorCode.unknown_topic_or_partition


def test_acks_2_is_taken_for_all(connection: Connection) -> None:
    topic = create_topic(connection, "acks")
    assert produce(connection, topic, GOOD, acks=2).error_code == ErrorCode.invalid_required_acks
    assert list_offset(connection, topic, -1)[0] == 0


def test_acks_1_waits_for_nothing_and_tells_no_offset(connection: Connection) -> None:
    topic = create_topic(connection, "leader-acks")
    assert produce(connection, topic, GOOD, acks=1).base_offset == 0
    assert produce(connection, topic, GOOD, acks=1).base_offset == 2


def test_a_timestamp_of_the_far_future_is_stored(connection: Connection) -> None:
    """It would keep its segment from retention for ever; Kafka's bound is an hour ahead."""
    topic = create_topic(connection, "future")
    answer = produce(connection, topic, encode_batch([b"x"], timestamps_ms=[2**53]))
    assert answer.error_code == ErrorCode.invalid_timestamp
    assert list_offset(connection, topic, -1)[0] == 0


def test_log_append_time_keeps_the_producers_time(connection: Connection) -> None:
    topic = create_topic(connection, "append-time", configs={"message.timestamp.type": "LogAppendTime"})
    answer = produce(connection, topic, encode_batch([b"x", b"y"], timestamps_ms=[1_000, 2_000]))
    assert answer.error_code == 0
    assert answer.log_append_time > 1_600_000_000_000
    assert list_offset(connection, topic, 5_000) == (0, answer.log_append_time)
    assert fetch_values(connection, topic) == [(0, b"x"), (1, b"y")]


def test_a_topics_own_codec_is_left_undone(connection: Connection) -> None:
    topic = create_topic(connection, "own-codec", configs={"compression.type": "zstd"})
    assert produce(connection, topic, encode_batch([b"x" * 1000] * 20)).error_code == 0
    stored = batches.split_batches(fetch(connection, topic, 0).records)
    assert [batches.codec_number_of(batch) for batch in stored] == [4]
    assert all(batches.crc_is_right(batch) for batch in stored)
    assert sum(len(batch) for batch in stored) < 1000


def test_a_keyless_record_is_taken_by_a_compacted_topic(connection: Connection) -> None:
    topic = create_topic(connection, "compacted", configs={"cleanup.policy": "compact"})
    assert produce(connection, topic, encode_batch([b"x"])).error_code == ErrorCode.invalid_record
    assert produce(connection, topic, encode_batch([b"x"], key=b"k")).error_code == 0
