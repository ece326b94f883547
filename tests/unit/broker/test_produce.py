"""The Produce handler on encoded frames: what each partition is told, when the answer is due, and what only closing can tell."""

import struct

import pytest
import trio
import trio.testing
from tests.support.logs import batch
from tests.support.memory_broker import memory_broker

from penstock.broker.api.produce import produce
from penstock.broker.replies import Reply
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode, ProtocolError
from penstock.protocol.framing import RequestHeader

NONE = ErrorCode.NONE


def raw(count: int = 1) -> bytes:
    return bytes(batch(count))


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def test_partitions_of_one_request_succeed_and_fail_each_by_itself() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 3)
        damaged = bytearray(raw())
        damaged[-1] ^= 1
        parts = await broker.produced("orders", raw(2), bytes(damaged), None, raw())
        assert [(part.index, part.error_code, part.base_offset) for part in parts] == [
            (0, NONE, 0),
            (1, ErrorCode.CORRUPT_MESSAGE, -1),
            (2, ErrorCode.INVALID_RECORD, -1),
            (3, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, -1),
        ]
        assert [broker.partition("orders", index).log.log_end_offset for index in range(3)] == [2, 0, 0]


@pytest.mark.parametrize("version", [3, 5, 7, 9, 12])
async def test_every_version_gets_the_offset(version: int) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await broker.produced("orders", raw(3))
        (part,) = await broker.produced("orders", raw(), version=version)
        assert (part.error_code, part.base_offset) == (NONE, 3)


async def test_topic_ids_name_topics_from_version_13_on() -> None:
    async with memory_broker() as broker:
        topic_id = await broker.create("orders")
        answer = await broker.answer(broker.produce(topic_id, raw(), version=13))
        (topic,) = answer.responses
        assert (topic.topic_id, topic.partition_responses[0].error_code) == (topic_id, NONE)
        answer = await broker.answer(broker.produce(bytes(15) + b"x", raw(), version=13))
        assert answer.responses[0].partition_responses[0].error_code == ErrorCode.UNKNOWN_TOPIC_ID


async def test_answer_waits_for_the_sync_and_comes_without_one_under_write_caching(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await broker.create("cached", write_caching="true")
        await broker.produced("orders", raw())
        await broker.produced("cached", raw())
        broker.threads.hold("sync", after=True)
        outcome = broker.produce("orders", raw())
        await settle()
        assert isinstance(outcome, Reply)
        assert not outcome.ready
        assert isinstance(broker.produce("cached", raw()), list)
        broker.threads.release("sync")
        await settle()
        assert outcome.ready
        (part,) = (await broker.answer(outcome)).responses[0].partition_responses
        assert (part.error_code, part.base_offset) == (NONE, 1)


async def test_answer_waits_for_the_slowest_of_its_partitions() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 2)
        await broker.produced("orders", raw(), raw())
        broker.threads.hold("sync", after=True)
        outcome = broker.produce("orders", raw(), raw())
        await settle()
        broker.threads.release_one("sync")
        await settle()
        assert isinstance(outcome, Reply)
        assert not outcome.ready
        broker.threads.release("sync")
        await settle()
        assert outcome.ready


async def test_patience_that_ends_tells_partition_by_partition_and_acks_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 2)
        await broker.produced("orders", raw(), raw())
        broker.threads.hold("sync", after=True)
        outcome = broker.produce("orders", raw(), raw(), timeout_ms=5000)
        await settle()
        broker.threads.release_one("sync")
        started = trio.current_time()
        answer = await broker.answer(outcome)
        assert trio.current_time() - started == 5
        codes = [part.error_code for part in answer.responses[0].partition_responses]
        assert sorted(codes) == [NONE, ErrorCode.REQUEST_TIMED_OUT]
        broker.threads.release("sync")
        await settle()


async def test_timeout_of_0_waits_for_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        started = trio.current_time()
        broker.threads.hold("prepare_append")
        (part,) = await broker.produced("orders", raw(), timeout_ms=0)
        assert (part.error_code, trio.current_time()) == (ErrorCode.REQUEST_TIMED_OUT, started)


async def test_acks_0_has_no_answer_and_is_kept() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        assert broker.produce("orders", raw(2), acks=0) is None
        await settle()
        assert broker.partition().high_watermark == 2


async def test_refused_acks_0_closes_the_connection() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        with pytest.raises(ProtocolError, match="acks=0"):
            broker.produce("unknown", raw(), acks=0)


@pytest.mark.parametrize("acks", [2, -2, 127])
async def test_unknown_acks_are_refused(acks: int) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        (part,) = await broker.produced("orders", raw(), acks=acks)
        assert part.error_code == ErrorCode.INVALID_REQUIRED_ACKS
        assert broker.partition().log.log_end_offset == 0


async def test_transactional_id_is_refused() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        (part,) = await broker.produced("orders", raw(), transactional_id="t")
        assert part.error_code == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        assert broker.partition().log.log_end_offset == 0


async def test_zstd_is_refused_where_its_readers_could_not_know_it() -> None:
    compressed = bytes(batch([b"a" * 100], codec=Codec.ZSTD))
    async with memory_broker() as broker:
        await broker.create("orders")
        (part,) = await broker.produced("orders", compressed, version=6)
        assert part.error_code == ErrorCode.UNSUPPORTED_COMPRESSION_TYPE
        (part,) = await broker.produced("orders", compressed, version=7)
        assert part.error_code == NONE


@pytest.mark.parametrize("version", [0, 1, 2])
async def test_old_message_formats_are_refused_in_their_own_shape(version: int) -> None:
    def body(acks: int) -> memoryview:
        topic = struct.pack(">ih6s", 1, 6, b"orders")
        return memoryview(struct.pack(">hi", acks, 1000) + topic + struct.pack(">iii", 1, 0, 2) + b"??")

    header = RequestHeader(0, version, 77, "old", 0)
    async with memory_broker() as broker:
        await broker.create("orders")
        parts = produce(broker.broker, header, body(acks=1))
        assert isinstance(parts, list)
        assert isinstance(parts[0], bytes)
        assert struct.unpack_from(">iiih6sii", parts[0])[1:] == (77, 1, 6, b"orders", 1, 0)
        assert struct.unpack_from(">h", parts[0], 28) == (ErrorCode.UNSUPPORTED_VERSION,)
        with pytest.raises(ProtocolError):
            produce(broker.broker, header, body(acks=0))


@pytest.mark.parametrize("records", [b"", b"\0", bytes(60), raw()[:-1], raw() + b"\0", raw() + raw()])
async def test_records_that_are_not_one_whole_batch_are_refused(records: bytes) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        (part,) = await broker.produced("orders", records)
        assert part.error_code in (ErrorCode.CORRUPT_MESSAGE, ErrorCode.INVALID_RECORD)
        assert broker.partition().log.log_end_offset == 0


async def test_two_batches_for_one_partition_in_one_request_are_both_answered() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await broker.produced("orders", raw())
        frame = raw()
        outcome_1 = broker.produce("orders", frame)
        outcome_2 = broker.produce("orders", frame)
        offsets = [
            (await broker.answer(outcome)).responses[0].partition_responses[0].base_offset
            for outcome in (outcome_1, outcome_2)
        ]
        assert offsets == [1, 2]


async def test_length_and_correlation_id_stand_in_front(autojump_clock: trio.testing.MockClock) -> None:
    # By the machine's clock the first append may have been a slow one: a worker makes the next.
    async with memory_broker() as broker:
        await broker.create("orders", write_caching="true")
        await broker.produced("orders", raw())
        parts = broker.produce("orders", raw())
        assert isinstance(parts, list)
        assert isinstance(parts[0], bytes)
        size, correlation_id = struct.unpack_from(">ii", parts[0])
        assert (size, correlation_id) == (len(parts[0]) - 4, 9000)
