"""A broker that leads a partition no more says who does, and where, through the listener that it was asked by."""

import struct

import pytest
import trio
import trio.testing
from tests.support.leadership import OTHER, change_leader
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, memory_broker
from tests.support.streams import ScriptedStream

from penstock.broker import keys
from penstock.broker.budget import ByteBudget
from penstock.broker.connection import Connection, ConnectionLimits, ConnectionShared
from penstock.broker.dispatch import Dispatcher
from penstock.broker.keys import BrokerRegistration, Endpoint
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.metadata import Put
from penstock.runtime.system_clock import SystemClock

LIMITS = ConnectionLimits(
    frame_bytes_max=4 << 20,
    small_frame_bytes_max=1 << 20,
    idle_s=600,
    frame_deadline_s=30,
    write_deadline_s=60,
)


async def register_other(memory: MemoryBroker, listener: str = "PLAINTEXT") -> None:
    """Let another broker be there."""
    endpoint = Endpoint("10.0.0.2", 9094, "PLAINTEXT")
    value = keys.encode_broker(BrokerRegistration("0" * 32, {listener: endpoint}, "r2", "d" * 22))
    result = await memory.broker.store.transact([], [Put(keys.broker_key(OTHER), value)])
    await memory.broker.watch.wait_for(result.revision)


class Client:
    """A client on a scripted stream."""

    def __init__(self, memory: MemoryBroker) -> None:
        self.stream = ScriptedStream()
        shared = ConnectionShared(Dispatcher(memory.broker), LIMITS, ByteBudget(64 << 20), SystemClock())
        self.connection = Connection(self.stream, "PLAINTEXT", shared)

    async def ask(self, api_key: ApiKey, version: int, request: Message) -> Message:
        """One request, and its answer."""
        self.begin(api_key, version, request)
        await trio.testing.wait_all_tasks_blocked()
        return self.answer(api_key, version)

    def begin(self, api_key: ApiKey, version: int, request: Message) -> None:
        """Send it."""
        body = encode_request(api_key, version, request)
        head = struct.pack(">hhih", api_key, version, 1, -1) + b"\0"
        self.stream.feed(struct.pack(">i", len(head) + len(body)) + head + body)

    def answer(self, api_key: ApiKey, version: int) -> Message:
        """What has come."""
        answer = bytes(self.stream.sent)
        self.stream.sent.clear()
        return decode_response(api_key, version, answer[9:])


def produce_request() -> Message:
    """One batch for "orders"."""
    topic = Message(name="orders", partition_data=[Message(index=0, records=bytes(batch()))])
    return Message(acks=-1, timeout_ms=1000, topic_data=[topic])


@pytest.mark.parametrize("version", [9, 10, 12])
async def test_a_producer_is_told_who_leads_now(version: int, nursery: trio.Nursery) -> None:
    async with memory_broker() as memory:
        await memory.create("orders")
        await register_other(memory)
        await change_leader(memory, "orders", leader=OTHER)
        client = Client(memory)
        nursery.start_soon(client.connection.serve)
        for _ in range(2):  # the second one is like the one before it
            answer = await client.ask(ApiKey.PRODUCE, version, produce_request())
            part = answer.responses[0].partition_responses[0]
            assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            if version >= 10:
                assert (part.current_leader.leader_id, part.current_leader.leader_epoch) == (OTHER, 1)
                (node,) = answer.node_endpoints
                assert (node.node_id, node.host, node.port, node.rack) == (OTHER, "10.0.0.2", 9094, "r2")
        nursery.cancel_scope.cancel()


async def test_who_waits_for_an_ack_when_leadership_goes_is_told_as_well(nursery: trio.Nursery) -> None:
    async with memory_broker() as memory:
        await memory.create("orders")
        await register_other(memory)
        client = Client(memory)
        nursery.start_soon(client.connection.serve)
        memory.threads.hold("sync")
        client.begin(ApiKey.PRODUCE, 12, produce_request())
        await trio.testing.wait_all_tasks_blocked()
        assert not client.stream.sent
        await change_leader(memory, "orders", leader=OTHER)
        await trio.testing.wait_all_tasks_blocked()
        answer = client.answer(ApiKey.PRODUCE, 12)
        assert answer.responses[0].partition_responses[0].current_leader.leader_id == OTHER
        assert len(answer.node_endpoints) == 1
        memory.threads.release_all()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("listener", ["INTERNAL", None])
async def test_a_leader_that_can_not_be_reached_by_the_listener_is_not_told(
    listener: str | None, nursery: trio.Nursery
) -> None:
    async with memory_broker() as memory:
        await memory.create("orders")
        if listener is not None:
            await register_other(memory, listener)
        await change_leader(memory, "orders", leader=OTHER)
        client = Client(memory)
        nursery.start_soon(client.connection.serve)
        answer = await client.ask(ApiKey.PRODUCE, 12, produce_request())
        part = answer.responses[0].partition_responses[0]
        assert (part.error_code, part.current_leader.leader_id) == (ErrorCode.NOT_LEADER_OR_FOLLOWER, -1)
        assert not answer.node_endpoints
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("epoch", [-1, 0])
async def test_a_consumer_is_told_who_leads_now(epoch: int, nursery: trio.Nursery) -> None:
    async with memory_broker() as memory:
        topic_id = await memory.create("orders")
        await register_other(memory)
        client = Client(memory)
        nursery.start_soon(client.connection.serve)
        await change_leader(memory, "orders", leader=OTHER)
        partition = Message(
            partition=0, fetch_offset=0, current_leader_epoch=epoch, partition_max_bytes=1 << 20
        )
        topic = Message(topic_id=topic_id, partitions=[partition])
        request = Message(max_wait_ms=0, min_bytes=1, max_bytes=1 << 20, session_epoch=-1, topics=[topic])
        answer = await client.ask(ApiKey.FETCH, 16, request)
        part = answer.responses[0].partitions[0]
        if epoch < 0:  # a follower serves whoever does not say which epoch it means
            assert (part.error_code, part.current_leader.leader_id) == (ErrorCode.NONE, -1)
        else:
            assert part.error_code == ErrorCode.FENCED_LEADER_EPOCH
            assert (part.current_leader.leader_id, part.current_leader.leader_epoch) == (OTHER, 1)
            assert [(node.node_id, node.port) for node in answer.node_endpoints] == [(OTHER, 9094)]
        nursery.cancel_scope.cancel()
