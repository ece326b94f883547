"""What third-party brokers got wrong (DESIGN section 4): one test for each trap that this stage can fall into, by its number.

Not here: 3 (features derived by librdkafka) is `test_real_lines`, the codecs; 10 (fetch sessions) is `test_fetch_sessions`; 9 (throttling)
comes with quotas.
"""

import struct
from typing import Any

import pytest
from tests.support import batches
from tests.support.batches import encode_batch
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA
from tests.support.schema_codec import API_KEYS
from tests.support.topics import (
    LATEST,
    await_partitions,
    create_topic,
    fetch,
    fetch_request,
    fetch_values,
    init_producer_id,
    list_offset,
    produce,
    produce_request,
    produce_values,
    topic_id,
)
from tests.support.wire import Connection, frame, request_header

API_VERSIONS = API_KEYS["api_versions"]
SOFTWARE = {"client_software_name": "raw", "client_software_version": "1"}


def ranges(connection: Connection) -> dict[int, tuple[int, int]]:
    reply = connection.request("api_versions", 3, **SOFTWARE)
    assert reply.error_code == 0
    return {each.api_key: (each.min_version, each.max_version) for each in reply.api_keys}


# 1


@pytest.mark.parametrize("version", range(5))
def test_1_api_versions_is_answered_with_a_flexible_header(version: int, connection: Connection) -> None:
    values = SOFTWARE if version >= 3 else {}
    reply = connection.request(
        "api_versions", version, **values
    )  # reads the body right behind the correlation id
    assert reply.error_code == 0
    assert API_VERSIONS in {each.api_key for each in reply.api_keys}


def test_1_an_unknown_version_of_api_versions_is_parsed_or_dropped(connection: Connection) -> None:
    """The body may be anything: it is not looked at. The answer is in version 0."""
    header = request_header(API_VERSIONS, 99, 7, is_flexible=True)
    connection.send_bytes(frame(header + b"\xff" * 9))
    content = connection.receive_frame()
    assert content is not None
    correlation_id, error, count = struct.unpack_from(">ihi", content)
    entries = [struct.unpack_from(">hhh", content, 10 + 6 * index) for index in range(count)]
    assert (correlation_id, error) == (7, ErrorCode.unsupported_version)
    assert len(content) == 10 + 6 * count
    assert entries == [(API_VERSIONS, 0, 4)]
    assert connection.request("api_versions", 0).error_code == 0


# 2


def test_2_produce_is_not_advertised_from_version_0(connection: Connection) -> None:
    """Older librdkafka stops compressing without a word."""
    first, last = ranges(connection)[API_KEYS["produce"]]
    assert first == 0
    assert last >= 7


@pytest.mark.skipif(IS_KAFKA, reason="Apache Kafka closes the connection")
@pytest.mark.parametrize("version", [0, 1, 2])
def test_2_old_produce_is_taken_or_dropped_without_a_word(version: int, connection: Connection) -> None:
    topic = create_topic(connection, "old-produce")
    name = struct.pack(">h", len(topic)) + topic.encode()
    records = encode_batch([b"x"])
    body = struct.pack(">hii", 1, 1000, 1) + name + struct.pack(">iii", 1, 0, len(records)) + records
    connection.send_bytes(frame(request_header(0, version, 5, is_flexible=False) + body))
    content = connection.receive_frame()
    assert content is not None
    expected = struct.pack(">ii", 5, 1) + name
    expected += struct.pack(">iihq", 1, 0, ErrorCode.unsupported_version, -1)
    expected += b"" if version < 2 else struct.pack(">q", -1)
    expected += b"" if version < 1 else struct.pack(">i", 0)
    assert content == expected
    assert list_offset(connection, topic, LATEST)[0] == 0


# 4


def test_4_topic_ids_are_not_those_of_metadata(connection: Connection) -> None:
    topic = create_topic(connection, "ids")
    identity = topic_id(connection, topic)
    assert identity != bytes(16)
    data = [{"topic_id": identity, "partition_data": [{"index": 0, "records": encode_batch([b"by id"])}]}]
    produced = connection.request("produce", 13, acks=-1, timeout=5000, topic_data=data)
    assert produced.responses[0].topic_id == identity
    assert produced.responses[0].partition_responses[0].error_code == 0
    fetched = connection.request("fetch", 13, **by_id(identity))
    assert fetched.responses[0].topic_id == identity
    assert batches.values_of(fetched.responses[0].partitions[0].records) == [(0, b"by id")]


def by_id(identity: bytes) -> dict[str, Any]:
    wanted = [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}]
    topics = [{"topic_id": identity, "partitions": wanted}]
    fixed = {"max_wait": 0, "min_bytes": 1, "max_bytes": 1 << 20}
    return {**fixed, "session_id": 0, "session_epoch": -1, "topics": topics}


def test_4_a_made_up_topic_id_is_served(connection: Connection) -> None:
    unknown = b"\x42" * 16
    data = [{"topic_id": unknown, "partition_data": [{"index": 0, "records": encode_batch([b"x"])}]}]
    produced = connection.request("produce", 13, acks=-1, timeout=5000, topic_data=data)
    assert produced.responses[0].partition_responses[0].error_code == ErrorCode.unknown_topic_id
    fetched = connection.request("fetch", 13, **by_id(unknown))
    assert fetched.responses[0].partitions[0].error_code == ErrorCode.unknown_topic_id
    told = connection.request("metadata", 12, topics=[{"topic_id": unknown, "name": None}])
    assert told.topics[0].error_code == ErrorCode.unknown_topic_id


def test_4_a_topic_made_again_keeps_the_id_of_the_old_one(connection: Connection) -> None:
    topic = create_topic(connection, "again")
    old = topic_id(connection, topic)
    wanted = [{"name": topic, "topic_id": None}]
    deleted = connection.request("delete_topics", 6, topics=wanted, timeout=5000)
    assert deleted.responses[0].error_code == 0
    made = [{"name": topic, "num_partitions": 1, "replication_factor": 1}]
    assert connection.request("create_topics", 7, topics=made, timeout=5000).topics[0].error_code == 0
    assert topic_id(connection, topic) not in (old, bytes(16))
    fetched = connection.request("fetch", 13, **by_id(old))
    assert fetched.responses[0].partitions[0].error_code == ErrorCode.unknown_topic_id


# 5


@pytest.mark.parametrize("version", range(4, 13))
def test_5_no_records_are_null_records(version: int, connection: Connection) -> None:
    """Java's client and others take the length for a buffer's size."""
    topic = create_topic(connection, "empty")
    values = fetch_request({(topic, 0): 0})
    if version < 7:
        for later in ("session_id", "session_epoch", "forgotten_topics_data"):
            del values[later]
    reply = connection.request("fetch", version, **values, **({"replica_id": -1} if version < 15 else {}))
    answer = reply.responses[0].partitions[0]
    assert (answer.error_code, answer.records, answer.high_watermark) == (0, b"", 0)


def test_5_a_fetch_inside_a_batch_starts_at_the_wrong_place(connection: Connection) -> None:
    topic = create_topic(connection, "inside")
    produce_values(connection, topic, b"0", b"1", b"2")
    produce_values(connection, topic, b"3", b"4", b"5")
    answer = fetch(connection, topic, 4)
    assert batches.values_of(answer.records) == [(3, b"3"), (4, b"4"), (5, b"5")]


def test_5_a_batch_over_the_limits_blocks_the_consumer(connection: Connection) -> None:
    topic = create_topic(connection, "large")
    produce_values(connection, topic, b"a" * 50_000)
    produce_values(connection, topic, b"b" * 50_000)
    answer = fetch(connection, topic, 0, max_bytes=1000, partition_max_bytes=1000)
    assert batches.values_of(answer.records) == [(0, b"a" * 50_000)]


# 6


def test_6_the_producer_chooses_offset_and_epoch(connection: Connection) -> None:
    topic = create_topic(connection, "stamped")
    produce_values(connection, topic, b"first")
    answer = produce(connection, topic, encode_batch([b"x", b"y"], leader_epoch=55))
    assert (answer.error_code, answer.base_offset) == (0, 1)
    epoch = leader_epoch(connection, topic)
    stored = batches.split_batches(fetch(connection, topic, 1).records)[0]
    assert batches.base_offset_of(stored) == 1
    assert batches.leader_epoch_of(stored) == epoch
    assert batches.crc_is_right(stored)


def test_6_a_base_offset_of_the_producers_own_is_stored(connection: Connection) -> None:
    """Apache Kafka refuses it; overwriting it would do as well."""
    topic = create_topic(connection, "own-offset")
    answer = produce(connection, topic, encode_batch([b"x"], base_offset=777))
    if answer.error_code == ErrorCode.invalid_record:
        assert list_offset(connection, topic, LATEST)[0] == 0
    else:
        assert (answer.error_code, answer.base_offset) == (0, 0)
        assert fetch_values(connection, topic) == [(0, b"x")]


def leader_epoch(connection: Connection, topic: str) -> int:
    reply = connection.request("metadata", 12, topics=[{"name": topic, "topic_id": None}])
    return int(reply.topics[0].partitions[0].leader_epoch)


def test_6_a_control_batch_is_taken_from_a_client(connection: Connection) -> None:
    topic = create_topic(connection, "control")
    answer = produce(connection, topic, encode_batch([b"x"], key=bytes(4), attributes=batches.CONTROL))
    assert answer.error_code == ErrorCode.invalid_record
    assert list_offset(connection, topic, LATEST)[0] == 0


def test_6_max_message_bytes_is_not_held(connection: Connection) -> None:
    topic = create_topic(connection, "limited", configs={"max.message.bytes": "2000"})
    assert produce(connection, topic, encode_batch([b"x" * 1000])).error_code == 0
    answer = produce(connection, topic, encode_batch([b"x" * 2000]))
    assert answer.error_code == ErrorCode.message_too_large
    assert fetch_values(connection, topic) == [(0, b"x" * 1000)]


def test_6_acks_0_is_answered(connection: Connection) -> None:
    """A response where none is due shifts every later answer by one."""
    topic = create_topic(connection, "no-acks")
    for number in range(3):
        request = produce_request(topic, encode_batch([b"%d" % number]), acks=0)
        connection.send("produce", 9, request)
    assert connection.request("api_versions", 0).error_code == 0
    # nobody waits for the sync, and without write.caching only synced records are seen
    found = until(lambda: len(found := fetch_values(connection, topic)) == 3 and found, "three records")
    assert found == [(0, b"0"), (1, b"1"), (2, b"2")]


# 7


@pytest.mark.parametrize(("isolation_level", "expected"), [(0, None), (1, [])])
def test_7_aborted_transactions_are_told_to_read_uncommitted(
    isolation_level: int, expected: list[Any] | None, connection: Connection
) -> None:
    topic = create_topic(connection, "aborted")
    produce_values(connection, topic, b"x")
    values = fetch_request({(topic, 0): 0}) | {"isolation_level": isolation_level}
    answer = connection.request("fetch", 12, **values).responses[0].partitions[0]
    assert answer.aborted_transactions == expected
    assert answer.last_stable_offset == 1


# 8


def test_8_leader_epochs_are_minus_one(connection: Connection) -> None:
    topic = create_topic(connection, "epochs")
    produce_values(connection, topic, b"x")
    epoch = leader_epoch(connection, topic)
    assert epoch >= 0
    wanted = [{"name": topic, "partitions": [{"partition_index": 0, "timestamp": -2}]}]
    listed = connection.request("list_offsets", 7, replica_id=-1, topics=wanted)
    assert listed.topics[0].partitions[0].leader_epoch == epoch
    asked = [
        {
            "topic": topic,
            "partitions": [{"partition": 0, "current_leader_epoch": epoch, "leader_epoch": epoch}],
        }
    ]
    found = connection.request("offset_for_leader_epoch", 4, replica_id=-1, topics=asked)
    answer = found.topics[0].partitions[0]
    assert (answer.error_code, answer.leader_epoch, answer.end_offset) == (0, epoch, 1)


def test_8_a_fetch_of_an_epoch_to_come_is_served(connection: Connection) -> None:
    topic = create_topic(connection, "unknown-epoch")
    values = fetch_request({(topic, 0): 0})
    values["topics"][0]["partitions"][0]["current_leader_epoch"] = leader_epoch(connection, topic) + 1
    reply = connection.request("fetch", 12, **values)
    assert reply.responses[0].partitions[0].error_code == ErrorCode.unknown_leader_epoch


# 11


def test_11_list_offsets_by_time_is_a_guess(connection: Connection) -> None:
    """Inside a batch, at its edges, and past the end."""
    topic = create_topic(connection, "times")
    for times in ([1_000, 2_000, 3_000], [4_000, 6_000, 5_000], [7_000]):
        answer = produce(connection, topic, encode_batch([b"x"] * len(times), timestamps_ms=times))
        assert answer.error_code == 0
    asked = [0, 1_000, 1_001, 3_000, 3_001, 4_500, 6_000, 6_001, 7_000, 7_001]
    expected = [
        (0, 1_000),
        (0, 1_000),
        (1, 2_000),
        (2, 3_000),
        (3, 4_000),
        (4, 6_000),
        (4, 6_000),
        (6, 7_000),
        (6, 7_000),
        (-1, -1),
    ]
    assert [list_offset(connection, topic, timestamp) for timestamp in asked] == expected
    assert list_offset(connection, topic, -3) == (6, 7_000)
    assert list_offset(connection, topic, -2)[0] == 0
    assert list_offset(connection, topic, -1)[0] == 7


def test_11_create_partitions_says_yes_and_does_nothing(connection: Connection) -> None:
    topic = create_topic(connection, "grow", partitions=2)
    produce_values(connection, topic, b"kept", partition=1)

    def grow(count: int) -> int:
        wanted = [{"name": topic, "count": count, "assignments": None}]
        reply = connection.request("create_partitions", 3, topics=wanted, timeout=5000, validate_only=False)
        assert reply.results[0].name == topic
        return int(reply.results[0].error_code)

    assert grow(5) == 0
    if IS_KAFKA:
        await_partitions(connection, topic, 5)
    told = connection.request("metadata", 12, topics=[{"name": topic, "topic_id": None}]).topics[0]
    assert sorted(each.partition_index for each in told.partitions) == [0, 1, 2, 3, 4]
    assert {each.error_code for each in told.partitions} == {0}
    assert produce_values(connection, topic, b"new", partition=4) == 0
    assert fetch_values(connection, topic, partition=1) == [(0, b"kept")]
    assert grow(5) == ErrorCode.invalid_partitions
    assert grow(3) == ErrorCode.invalid_partitions


def test_11_describe_configs_is_empty(connection: Connection) -> None:
    topic = create_topic(connection, "described", configs={"retention.ms": "12345"})
    asked = [{"resource_type": 2, "resource_name": topic, "configuration_keys": None}]
    reply = connection.request("describe_configs", 4, resources=asked, include_synonyms=True)
    told = {each.name: each for each in reply.results[0].configs}
    assert (told["retention.ms"].value, told["retention.ms"].config_source) == ("12345", 1)
    assert told["retention.ms"].synonyms[0].value == "12345"
    assert (told["cleanup.policy"].value, told["cleanup.policy"].config_source) == ("delete", 5)
    assert {"segment.bytes", "max.message.bytes", "compression.type", "message.timestamp.type"} <= set(told)


@pytest.mark.skipif(IS_KAFKA, reason="Apache Kafka has transactions")
def test_11_a_transactional_producer_gets_an_id_that_means_nothing(connection: Connection) -> None:
    reply = connection.request("init_producer_id", 4, transactional_id="t", transaction_timeout=1000)
    assert reply.error_code != 0
    assert reply.producer_id == -1
    assert init_producer_id(connection)[0] >= 0


# 12


def test_12_null_where_the_java_client_wants_an_empty_array(connection: Connection) -> None:
    made = [{"name": "traps-null-arrays", "num_partitions": 1, "replication_factor": 1}]
    created = connection.request("create_topics", 7, topics=made, timeout=5000).topics[0]
    assert created.error_code == 0
    assert isinstance(created.configs, list)
    asked = [{"name": "traps-null-arrays"}]
    fixed: dict[str, Any] = {"response_partition_limit": 100, "cursor": None}
    described = connection.request("describe_topic_partitions", 0, topics=asked, **fixed)
    partition = described.topics[0].partitions[0]
    assert (partition.error_code, partition.leader_id in partition.isr_nodes) == (0, True)
    assert isinstance(partition.eligible_leader_replicas, list)
    assert isinstance(partition.last_known_elr, list)
    assert isinstance(partition.offline_replicas, list)
