"""A full disk: writes are refused, reads go on, what was acked stays, and when space returns writes work again (D12)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.peers.kafka import Tool
from tests.faults.conftest import StartServer
from tests.support import disks
from tests.support.batches import encode_batch, values_of
from tests.support.clients import java, librdkafka
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA, RunningServer, answers
from tests.support.topics import (
    EARLIEST,
    create_topic,
    fetch,
    fetch_values,
    init_producer_id,
    list_offset,
    produce,
)
from tests.support.wire import Connection, connect

pytestmark = pytest.mark.skipif(IS_KAFKA, reason="Apache Kafka ends when its disk is full")

MIB = 1 << 20
DISK_SIZE_BYTES = 24 * MIB
ROOM_BYTES = 3 * MIB
VALUE_SIZE_BYTES = 100_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with disks.tiny_disk(tmp_path / "disk", DISK_SIZE_BYTES) as mounted:
        yield mounted


def value(number: int) -> bytes:
    return b"%06d" % number * (VALUE_SIZE_BYTES // 6)


def produce_until_full(connection: Connection, topic: str, told: dict[int, bytes]) -> ErrorCode:
    """Produce and note what is acked; returns the first error."""
    for _ in range(DISK_SIZE_BYTES // VALUE_SIZE_BYTES):
        sent = value(len(told))
        answer = produce(connection, topic, encode_batch([sent]))
        if answer.error_code:
            return ErrorCode(answer.error_code)
        told[answer.base_offset] = sent
    pytest.fail("the disk did not fill up")


@pytest.mark.parametrize("write_caching", ["true", "false"])
def test_a_full_disk_loses_acked_records_or_ends_the_broker(
    write_caching: str, disk: Path, start_server: StartServer
) -> None:
    server = start_server(disk, write_caching=write_caching)
    told: dict[int, bytes] = {}
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "full")
        other = create_topic(connection, "other")
        assert produce(connection, other, encode_batch([b"before"])).error_code == 0
        filler = disk / "filler"
        disks.fill_up(filler, leave_bytes=ROOM_BYTES)
        assert produce_until_full(connection, topic, told) == ErrorCode.kafka_storage_error
        assert len(told) > 5
        assert_refused_and_readable(connection, topic, told)
        assert fetch_values(connection, other) == [(0, b"before")]
        filler.unlink()
        for _ in range(5):
            sent = value(len(told))
            answer = produce(connection, topic, encode_batch([sent]))
            assert (answer.error_code, answer.base_offset) == (0, len(told))
            told[answer.base_offset] = sent
        assert produce(connection, other, encode_batch([b"after"])).base_offset == 1
        assert dict(fetch_values(connection, topic)) == told
    assert_kept_over_a_kill(server, topic, told)


def assert_refused_and_readable(connection: Connection, topic: str, told: dict[int, bytes]) -> None:
    for _ in range(3):
        answer = produce(connection, topic, encode_batch([value(0)]))
        assert (ErrorCode(answer.error_code), answer.base_offset) == (ErrorCode.kafka_storage_error, -1)
        assert list_offset(connection, topic, -1)[0] == len(told)
    assert dict(fetch_values(connection, topic)) == told


def assert_kept_over_a_kill(server: RunningServer, topic: str, told: dict[int, bytes]) -> None:
    server.kill()
    server.start()
    with connect(server.bootstrap) as connection:
        assert dict(fetch_values(connection, topic)) == told
    assert server.stop() == 0
    logs = ",".join(str(path) for path in sorted((server.data_directory / f"{topic}-0").glob("*.log")))
    out = java.run(Tool.DUMP_LOG, "--deep-iteration", "--files", logs).decode()
    assert out.count("| offset: ") == len(told)
    assert "isvalid: false" not in out


def test_a_full_disk_breaks_the_sequence_of_an_idempotent_producer(
    disk: Path, start_server: StartServer
) -> None:
    """The refused batch is sent again when space is back, and is there once."""
    server = start_server(disk)
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "sequence")
        identity, epoch = init_producer_id(connection)
        filler = disk / "filler"
        disks.fill_up(filler, leave_bytes=ROOM_BYTES)

        def send(sequence: int) -> tuple[ErrorCode, int]:
            records = encode_batch(
                [value(sequence)], producer_id=identity, producer_epoch=epoch, base_sequence=sequence
            )
            answer = produce(connection, topic, records)
            return ErrorCode(answer.error_code), answer.base_offset

        sequence = 0
        while (told := send(sequence))[0] == ErrorCode.none:
            assert told[1] == sequence
            sequence += 1
        assert told == (ErrorCode.kafka_storage_error, -1)
        filler.unlink()
        assert send(sequence) == (ErrorCode.none, sequence)
        assert send(sequence) == (ErrorCode.none, sequence)
        assert send(sequence + 1) == (ErrorCode.none, sequence + 1)


def test_librdkafka_does_not_get_over_a_full_disk(disk: Path, start_server: StartServer) -> None:
    """It sends again on KAFKA_STORAGE_ERROR, so with space in time the application sees no error at all."""
    server = start_server(disk)
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "again")
    filler = disk / "filler"
    disks.fill_up(filler, leave_bytes=ROOM_BYTES)
    producer = librdkafka.make_producer(
        server.bootstrap,
        enable_idempotence=True,
        batch_num_messages=1,
        retry_backoff_ms=50,
        retry_backoff_max_ms=100,
    )
    acks = librdkafka.Acks()
    count = 2 * ROOM_BYTES // VALUE_SIZE_BYTES
    for number in range(count):
        producer.produce(topic, value(number), partition=0, on_delivery=acks)

    def is_full() -> bool:
        producer.poll(0.01)
        return disks.free_bytes(disk) < 2 * VALUE_SIZE_BYTES

    until(is_full, "the disk full")
    with connect(server.bootstrap) as connection:
        until(lambda: produce(connection, topic, encode_batch([value(0)])).error_code, "a refusal")
    assert len(acks.offsets) < count
    filler.unlink()
    assert producer.flush(30) == 0
    assert not acks.errors
    found = librdkafka.consume(server.bootstrap, topic, acks.offsets[-1] + 1)
    assert [found[offset] for offset in acks.offsets] == [value(number) for number in range(count)]


def test_retention_can_not_make_room_on_a_full_disk(disk: Path, start_server: StartServer) -> None:
    """Not a byte is left when it begins: the oldest segments go all the same, and writes work again."""
    server = start_server(disk, log_retention_check_interval_ms="1500", log_segment_bytes=str(MIB))
    told: dict[int, bytes] = {}
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "shrinks", configs={"retention.bytes": str(MIB)})
        disks.fill_up(disk / "filler", leave_bytes=ROOM_BYTES)
        assert produce_until_full(connection, topic, told) == ErrorCode.kafka_storage_error
        disks.fill_up(disk / "rest")
        until(lambda: list_offset(connection, topic, EARLIEST)[0] > 0, "segments that go")
        until(lambda: produce(connection, topic, encode_batch([value(0)])).error_code == 0, "room")
        start = list_offset(connection, topic, EARLIEST)[0]
        found: dict[int, bytes] = {}
        while records := fetch(connection, topic, max(found, default=start - 1) + 1).records:
            found.update(values_of(records))
        assert all(found[offset] == told[offset] for offset in told if offset >= start)
        assert fetch(connection, topic, start - 1).error_code == ErrorCode.offset_out_of_range
    server.kill()
    server.start()
    with connect(server.bootstrap) as connection:
        assert list_offset(connection, topic, EARLIEST)[0] >= start


def test_admin_calls_on_a_full_disk_hang_or_lie(disk: Path, start_server: StartServer) -> None:
    server = start_server(disk)
    with connect(server.bootstrap) as connection:
        kept = create_topic(connection, "kept")
        filler = disk / "filler"
        disks.fill_up(filler)
        made = [{"name": "no-room", "num_partitions": 50, "replication_factor": 1}]
        reply = connection.request("create_topics", 7, topics=made, timeout=2000)
        refused = reply.topics[0].error_code != 0
        told = {each.name for each in connection.request("metadata", 12, topics=None).topics}
        assert ("no-room" in told) == (not refused)
        filler.unlink()
        if refused:
            assert connection.request("create_topics", 7, topics=made, timeout=5000).topics[0].error_code == 0
        assert produce(connection, "no-room", encode_batch([b"x"]), partition=49).error_code == 0
        assert produce(connection, kept, encode_batch([b"x"])).error_code == 0
    assert answers(server.bootstrap)
