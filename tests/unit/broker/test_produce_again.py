"""Requests like the one before them, on a real connection and dispatcher: recognised, and treated like any other."""

import struct

import trio
import trio.testing
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.streams import ScriptedStream

from penstock.broker.budget import ByteBudget
from penstock.broker.connection import Connection, ConnectionLimits, ConnectionShared
from penstock.broker.dispatch import Dispatcher
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.system_clock import SystemClock

VERSION = 9
LIMITS = ConnectionLimits(
    frame_bytes_max=4 << 20,
    small_frame_bytes_max=1 << 20,
    idle_s=600,
    frame_deadline_s=30,
    write_deadline_s=60,
)


class Producer:
    """A client on a scripted stream."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.stream = ScriptedStream()
        shared = ConnectionShared(Dispatcher(broker.broker), LIMITS, ByteBudget(64 << 20), SystemClock())
        self.connection = Connection(self.stream, "PLAINTEXT", shared)
        self.correlation_id = 0

    async def send(self, records: bytes, *, acks: int = -1) -> Message | None:
        """One request; the part of its answer for the partition, None where there is no answer."""
        self.correlation_id += 1
        topic = Message(name="orders", partition_data=[Message(index=0, records=records)])
        body = encode_request(
            ApiKey.PRODUCE, VERSION, Message(acks=acks, timeout_ms=1000, topic_data=[topic])
        )
        head = struct.pack(">hhih", ApiKey.PRODUCE, VERSION, self.correlation_id, -1) + b"\0"
        self.stream.feed(struct.pack(">i", len(head) + len(body)) + head + body)
        await trio.testing.wait_all_tasks_blocked()
        if not self.stream.sent:
            return None
        answer = bytes(self.stream.sent)
        self.stream.sent.clear()
        assert struct.unpack_from(">ii", answer) == (len(answer) - 4, self.correlation_id)
        part: Message = (
            decode_response(ApiKey.PRODUCE, VERSION, answer[9:]).responses[0].partition_responses[0]
        )
        return part


async def test_repeated_requests_are_appended_refused_and_answered_like_any_other() -> None:
    async with memory_broker() as broker, trio.open_nursery() as nursery:
        await broker.create("orders", write_caching="true")
        producer = Producer(broker)
        nursery.start_soon(producer.connection.serve)
        for offset in range(4):
            counted = broker.broker.hot_bytes
            part = await producer.send(bytes(batch(values=[b"x" * (offset * 100)])))
            assert broker.broker.hot_bytes > counted + offset * 100, "it is hot traffic"
            assert part is not None
            assert (part.error_code, part.base_offset) == (ErrorCode.NONE, offset)
        assert producer.connection.repeated_produce is not None
        assert producer.connection.repeat_misses == 0, "those after the first were recognised"
        broken = bytearray(batch())
        broken[-1] ^= 1
        part = await producer.send(bytes(broken))
        assert part is not None
        assert (part.error_code, part.base_offset) == (ErrorCode.CORRUPT_MESSAGE, -1)
        await broker.delete("orders")
        part = await producer.send(bytes(batch()))
        assert part is not None
        assert part.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        nursery.cancel_scope.cancel()


async def test_repeated_request_waits_for_its_sync() -> None:
    async with memory_broker() as broker, trio.open_nursery() as nursery:
        await broker.create("orders")
        producer = Producer(broker)
        nursery.start_soon(producer.connection.serve)
        for offset in range(3):
            part = await producer.send(bytes(batch()))
            assert part is not None
            assert (part.error_code, part.base_offset) == (ErrorCode.NONE, offset)
            assert broker.partition().log.durable_end_offset == offset + 1
        nursery.cancel_scope.cancel()


async def test_repeated_request_without_acks_is_not_answered_and_closes_when_it_is_refused() -> None:
    async with memory_broker() as broker, trio.open_nursery() as nursery:
        await broker.create("orders", write_caching="true")
        producer = Producer(broker)
        nursery.start_soon(producer.connection.serve)
        for end_offset in range(1, 4):
            assert await producer.send(bytes(batch()), acks=0) is None
            assert broker.partition().log.log_end_offset == end_offset
        broken = bytearray(batch())
        broken[-1] ^= 1
        assert await producer.send(bytes(broken), acks=0) is None
        assert producer.stream.closed
        nursery.cancel_scope.cancel()


async def test_connection_that_alternates_is_learned_from_no_more() -> None:
    async with memory_broker() as broker, trio.open_nursery() as nursery:
        await broker.create("orders", write_caching="true")
        producer = Producer(broker)
        nursery.start_soon(producer.connection.serve)
        for number in range(100):
            part = await producer.send(bytes(batch()), acks=-1 if number % 2 else 1)
            assert part is not None
            assert part.base_offset == number
        assert producer.connection.repeat_misses >= 62
        nursery.cancel_scope.cancel()
