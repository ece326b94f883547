"""SIGKILL of the broker: what was acked is there, once, whole, in order; what was known is known again."""

from pathlib import Path

import pytest
from confluent_kafka import Producer, TopicPartition
from tests.faults.conftest import StartServer
from tests.support import batches, loghub
from tests.support.batches import encode_batch
from tests.support.clients import CODECS, aiokafka_client, kcat, librdkafka
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA, RunningServer
from tests.support.topics import (
    await_partitions,
    create_topic,
    fetch,
    fetch_request,
    fetch_values,
    init_producer_id,
    list_offset,
    produce,
    produce_values,
    topic_id,
)
from tests.support.wire import connect

WRITE_CACHING = ["true", "false"]
KILL_AT = (0.5,) if IS_KAFKA else (0.15, 0.4, 0.7)
"""The shares of acked lines at which the broker is killed; Apache Kafka takes half a minute to come back."""
LIMIT_S = 90.0


class IdempotentStream:
    """Lines on their way into one topic by one idempotent producer, which sends again until all are acked."""

    def __init__(self, bootstrap: str, topic: str, codec: str, lines: tuple[bytes, ...]) -> None:
        self.topic = topic
        self.lines = lines
        self.acks = librdkafka.Acks()
        self.producer: Producer = librdkafka.make_producer(
            bootstrap,
            enable_idempotence=True,
            compression_type=codec,
            batch_num_messages=50,
            linger_ms=1,
            message_timeout_ms=int(LIMIT_S * 1000),
            retry_backoff_ms=20,
            reconnect_backoff_ms=20,
            reconnect_backoff_max_ms=100,
            log_level=0,
        )
        self._fed_count = 0

    def feed(self, share: float) -> None:
        """Hand over more lines, until this share of all is on its way."""
        end = int(share * len(self.lines))
        for line in self.lines[self._fed_count : end]:
            self.producer.produce(self.topic, line, partition=0, on_delivery=self.acks)
        self._fed_count = end

    def acked_count(self) -> int:
        self.producer.poll(0)
        assert not self.acks.errors, self.acks.errors[0]
        return len(self.acks.offsets)


@pytest.mark.parametrize("write_caching", WRITE_CACHING)
def test_a_kill_mid_stream_loses_tears_or_repeats_an_acked_line(
    write_caching: str, start_server: StartServer
) -> None:
    server = start_server(write_caching=write_caching)
    lines = loghub.lines("OpenSSH")
    with connect(server.bootstrap) as connection:
        topics = {codec: create_topic(connection, f"kill-{codec}") for codec in CODECS}
    streams = [IdempotentStream(server.bootstrap, topic, codec, lines) for codec, topic in topics.items()]
    unacked_counts: list[int] = []
    for share, next_share in zip((0.0, *KILL_AT), (*KILL_AT, 1.0), strict=True):
        wanted = int(share * len(lines)) * len(streams)
        until(lambda: acked(streams) >= wanted, f"{wanted} acks", limit_s=LIMIT_S)  # noqa: B023
        for stream in streams:  # so much is on its way when the broker dies, however slow the machine is
            stream.feed(next_share)
        if share:
            server.kill()
            unacked_counts.append(int(next_share * len(lines)) * len(streams) - acked(streams))
            server.start()
    assert any(unacked_counts), "nothing was on its way at any of the kills"
    until(lambda: acked(streams) == len(lines) * len(streams), "all acks", limit_s=LIMIT_S)
    for stream in streams:
        assert stream.acks.offsets == list(range(len(lines)))
        assert librdkafka.consume(server.bootstrap, stream.topic, len(lines)) == list(lines)
        assert kcat.consume(server.bootstrap, stream.topic, len(lines)) == list(lines)
        with connect(server.bootstrap) as connection:
            assert list_offset(connection, stream.topic, -1)[0] == len(lines)


def acked(streams: list[IdempotentStream]) -> int:
    return sum(stream.acked_count() for stream in streams)


@pytest.mark.parametrize("write_caching", WRITE_CACHING)
def test_a_kill_loses_what_a_plain_producer_was_acked(write_caching: str, start_server: StartServer) -> None:
    """Without idempotence what was not acked may be there or not; what was acked is, at the offset that was told."""
    server = start_server(write_caching=write_caching)
    told: dict[int, bytes] = {}
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "plain")
    for start in range(1 if IS_KAFKA else 4):
        with connect(server.bootstrap) as connection:
            if IS_KAFKA:
                await_partitions(connection, topic, 1)
            for number in range(20):
                value = b"%d/%d" % (start, number) * 50
                told[produce_values(connection, topic, value)] = value
            for number in range(10):  # on its way when the broker dies
                records = encode_batch([b"unacked %d" % number] * 20)
                data = [{"name": topic, "partition_data": [{"index": 0, "records": records}]}]
                connection.send("produce", 9, {"acks": -1, "timeout": 5000, "topic_data": data})
            server.kill()
        server.start()
    with connect(server.bootstrap) as connection:
        if IS_KAFKA:
            await_partitions(connection, topic, 1)
        found = dict(fetch_values(connection, topic))
    assert sorted(found) == list(range(len(found)))
    assert {offset: found.get(offset) for offset in told} == told


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_restart_forgets_idempotent_producers(end: str, start_server: StartServer) -> None:
    server = start_server()
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "producers")
        producer_id, epoch = init_producer_id(connection)
        sent = [
            encode_batch(
                [b"%d" % number], producer_id=producer_id, producer_epoch=epoch, base_sequence=number
            )
            for number in range(8)
        ]
        for number, records in enumerate(sent[:5]):
            assert outcome(server, topic, records) == (ErrorCode.none, number)
    restart(server, end, topic)
    assert outcome(server, topic, sent[4]) == (ErrorCode.none, 4)
    # of older batches a snapshot in Kafka's format knows no offsets: an error will do, a second copy will not
    assert outcome(server, topic, sent[2]) in {
        (ErrorCode.none, 2),
        (ErrorCode.out_of_order_sequence_number, -1),
    }
    assert outcome(server, topic, sent[6]) == (ErrorCode.out_of_order_sequence_number, -1)
    assert outcome(server, topic, sent[5]) == (ErrorCode.none, 5)
    with connect(server.bootstrap) as connection:
        assert [value for _, value in fetch_values(connection, topic)] == [
            b"%d" % number for number in range(6)
        ]
        assert init_producer_id(connection)[0] > producer_id


def outcome(server: RunningServer, topic: str, records: bytes) -> tuple[ErrorCode, int]:
    with connect(server.bootstrap) as connection:
        answer = produce(connection, topic, records)
    return ErrorCode(answer.error_code), answer.base_offset


def restart(server: RunningServer, end: str, topic: str) -> None:
    if end == "kill":
        server.kill()
    else:
        assert server.stop() in (0, 143)
    server.start()
    if IS_KAFKA:
        with connect(server.bootstrap) as connection:
            await_partitions(connection, topic, 1)


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_restart_forgets_topics_configs_or_deleted_records(end: str, start_server: StartServer) -> None:
    server = start_server()
    with connect(server.bootstrap) as connection:
        gone = create_topic(connection, "gone")
        topic = create_topic(connection, "kept", partitions=3, configs={"retention.ms": "777777777"})
        identity = topic_id(connection, topic)
        for value in (b"0", b"1", b"2", b"3"):
            produce_values(connection, topic, value, partition=2)
        cut = [{"name": topic, "partitions": [{"partition_index": 2, "offset": 3}]}]
        assert (
            connection.request("delete_records", 2, topics=cut, timeout=5000)
            .topics[0]
            .partitions[0]
            .error_code
            == 0
        )
        wanted = [{"name": gone, "topic_id": None}]
        assert (
            connection.request("delete_topics", 6, topics=wanted, timeout=5000).responses[0].error_code == 0
        )
    restart(server, end, topic)
    with connect(server.bootstrap) as connection:
        told = {each.name: each for each in connection.request("metadata", 12, topics=None).topics}
        assert gone not in told
        assert (told[topic].topic_id, len(told[topic].partitions)) == (identity, 3)
        asked = [{"resource_type": 2, "resource_name": topic, "configuration_keys": ["retention.ms"]}]
        configs = connection.request("describe_configs", 4, resources=asked).results[0].configs
        assert [each.value for each in configs] == ["777777777"]
        assert list_offset(connection, topic, -1, partition=2)[0] == 4
        assert batches.values_of(fetch(connection, topic, 3, partition=2).records) == [(3, b"3")]
        if not IS_KAFKA or end == "stop":  # Apache Kafka writes its log start offsets down once a minute
            assert list_offset(connection, topic, -2, partition=2)[0] == 3


@pytest.mark.skipif(IS_KAFKA, reason="Apache Kafka's epoch stays when it is the only replica")
def test_a_restart_keeps_the_leader_epoch(start_server: StartServer) -> None:
    """No (offset, epoch) may ever name two different bytes (DESIGN section 7)."""
    server = start_server()
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "epochs")
    epochs: list[int] = []
    for _ in range(3):
        with connect(server.bootstrap) as connection:
            produce_values(connection, topic, b"x")
            reply = connection.request("metadata", 12, topics=[{"name": topic, "topic_id": None}])
            epochs.append(reply.topics[0].partitions[0].leader_epoch)
        server.kill()
        server.start()
    assert epochs == sorted(set(epochs))
    with connect(server.bootstrap) as connection:
        stored = [
            batches.leader_epoch_of(each)
            for each in batches.split_batches(fetch(connection, topic, 0).records)
        ]
        assert stored == epochs
        now = connection.request("metadata", 12, topics=[{"name": topic, "topic_id": None}])
        current = now.topics[0].partitions[0].leader_epoch
        asked = [
            {"partition": 0, "current_leader_epoch": current, "leader_epoch": epoch} for epoch in epochs[:1]
        ]
        found = connection.request(
            "offset_for_leader_epoch", 4, replica_id=-1, topics=[{"topic": topic, "partitions": asked}]
        )
        answer = found.topics[0].partitions[0]
        assert (answer.error_code, answer.leader_epoch, answer.end_offset) == (0, epochs[0], 1)
        values = fetch_request({(topic, 0): 0})
        values["topics"][0]["partitions"][0]["current_leader_epoch"] = epochs[0]
        refused = connection.request("fetch", 12, **values).responses[0].partitions[0]
        assert refused.error_code == ErrorCode.fenced_leader_epoch


def test_a_consumer_does_not_get_over_a_kill(start_server: StartServer) -> None:
    """A reader in a fetch session goes on by itself, without a gap and without repeats."""
    server = start_server()
    lines = loghub.lines("Zookeeper")[:600]
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "reader")
    half = len(lines) // 2
    kcat.produce(server.bootstrap, topic, lines[:half], "gzip")
    consumer = librdkafka.make_consumer(
        server.bootstrap, reconnect_backoff_ms=20, reconnect_backoff_max_ms=100, log_level=0
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found = [librdkafka.value_of(message) for message in librdkafka.read(consumer, half)]
        restart(server, "kill", topic)
        aiokafka_client.produce(server.bootstrap, topic, lines[half:], "zstd")
        found += [librdkafka.value_of(message) for message in librdkafka.read(consumer, len(lines) - half)]
    finally:
        consumer.close()
    assert found == list(lines)


@pytest.mark.skipif(IS_KAFKA, reason="its files are its own business")
def test_a_torn_tail_is_served(start_server: StartServer) -> None:
    """Bytes behind the last whole batch, as a power cut leaves them, are cut off; what is before them stays."""
    server = start_server()
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "torn")
        for value in (b"0", b"1", b"2"):
            produce_values(connection, topic, value)
    server.kill()
    (log,) = sorted((server.data_directory / f"{topic}-0").glob("*.log"))
    whole = log.read_bytes()
    log.write_bytes(whole + encode_batch([b"torn" * 100], base_offset=3)[:-7])
    server.start()
    with connect(server.bootstrap) as connection:
        assert fetch_values(connection, topic) == [(0, b"0"), (1, b"1"), (2, b"2")]
        assert produce_values(connection, topic, b"3") == 3
        assert fetch_values(connection, topic)[3:] == [(3, b"3")]
    assert log.read_bytes().startswith(whole)


@pytest.mark.skipif(IS_KAFKA, reason="its files are its own business")
def test_a_changed_byte_before_the_tail_is_cut_off_or_served(start_server: StartServer) -> None:
    """The partition is offline with a clear reason; others are served (DESIGN section 5)."""
    server = start_server()
    with connect(server.bootstrap) as connection:
        hurt = create_topic(connection, "hurt")
        whole = create_topic(connection, "whole")
        for topic in (hurt, whole):
            for number in range(10):
                produce_values(connection, topic, b"%d" % number * 100)
    server.kill()
    (log,) = sorted((server.data_directory / f"{hurt}-0").glob("*.log"))
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 0x10
    log.write_bytes(content)
    server.start()
    with connect(server.bootstrap) as connection:
        assert len(fetch_values(connection, whole)) == 10
        assert fetch(connection, hurt, 0).error_code == ErrorCode.kafka_storage_error
        assert produce(connection, hurt, encode_batch([b"x"])).error_code == ErrorCode.kafka_storage_error
    assert log.read_bytes() == content
    assert log.name in server.log_text()


@pytest.mark.skipif(IS_KAFKA, reason="the folder has another lock there")
def test_two_brokers_share_a_folder(start_server: StartServer, tmp_path: Path) -> None:
    start_server(tmp_path)
    with pytest.raises(AssertionError, match="ended with"):
        start_server(tmp_path)
