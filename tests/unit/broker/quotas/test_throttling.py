"""Clients held to their quotas: a whole server in virtual time."""

import gc
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio
from tests.support.batches import encode_batch
from tests.support.followed_broker import TOPIC_ID, VERSION, followed_broker
from tests.support.logs import batch
from tests.support.memory_broker import decode_parts, memory_broker, parts_of
from tests.support.memory_server import HOST, PORT, MemoryServer, memory_server
from tests.support.metadata_plane import TrioClock
from tests.support.streams import ScriptedStream
from tests.unit.broker.test_connection import LIMITS
from trio.testing import MockClock

from penstock.broker.api.fetch import fetch
from penstock.broker.connection import Connection as BrokerConnection
from penstock.broker.connection import ConnectionShared
from penstock.broker.quotas.entity import CONSUMER_BYTE_RATE, DEFAULT, QuotaEntity
from penstock.broker.quotas.meters import Meter, Meters
from penstock.broker.quotas.throttling import FetchToll, ThrottlingDispatcher
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.connection import Connection, ConnectionSettings, open_connection
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.framing import RequestHeader
from penstock.protocol.message import Message

VALUE = bytes(1000)
RATE = 10_000
EACH_CLIENT = [Message(entity_type="client-id", entity_name=None)]


class Client:
    """A client of that id, with a connection of its own."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def ask(self, api_key: ApiKey, **fields: Any) -> Message:
        return await self.connection.request(api_key, Message(**fields), at_most=12)

    async def set_quota(self, name: str, value: float, entity: list[Message] = EACH_CLIENT) -> None:
        operation = Message(key=name, value=value, remove=value == 0)
        answer = await self.ask(ApiKey.ALTER_CLIENT_QUOTAS, entries=[Message(entity=entity, ops=[operation])])
        assert [entry.error_code for entry in answer.entries] == [0], answer

    async def produce(self, acks: int = -1, values: int = 1) -> Message:
        return await self.ask(ApiKey.PRODUCE, **_produced(acks, values))

    async def fetch(self, offset: int = 0, **fields: Any) -> tuple[int, int]:
        """The throttle time that was told, and how many bytes of records came."""
        wanted = Message(partition=0, fetch_offset=offset, partition_max_bytes=1 << 30)
        answer = await self.ask(
            ApiKey.FETCH,
            **{"max_wait_ms": 500, "min_bytes": 1, "max_bytes": 1 << 30, "session_epoch": -1, **fields},
            topics=[Message(topic="t", partitions=[wanted])],
        )
        (part,) = answer.responses[0].partitions
        assert (part.error_code, part.high_watermark > 0) == (0, True)
        return answer.throttle_time_ms, len(part.records or b"")


def _produced(acks: int, values: int) -> dict[str, Any]:
    batch = encode_batch([VALUE] * values, timestamps_ms=[0] * values)
    data = [Message(name="t", partition_data=[Message(index=0, records=batch)])]
    return {"acks": acks, "timeout_ms": 5000, "topic_data": data}


class Scene:
    """A server with a topic `t`, and those who connect to it."""

    def __init__(self, server: MemoryServer, nursery: trio.Nursery) -> None:
        self.server = server
        self._nursery = nursery

    async def client(self, client_id: str) -> Client:
        network = self.server.client(f"{client_id}-{len(self.server.hosts)}").network
        settings = ConnectionSettings(client_id=client_id)
        return Client(await open_connection(self._nursery, network, HOST, PORT, settings))


@asynccontextmanager
async def scene(write_caching: str = "true", clock: TrioClock | None = None) -> AsyncGenerator[Scene]:
    async with (
        memory_server(write_caching=write_caching, clock=clock) as server,
        trio.open_nursery() as nursery,
    ):
        async with Admin(server.bootstrap, server.client("admin")) as admin:
            await admin.create_topics([NewTopic(name="t", partition_count=1)])
        yield Scene(server, nursery)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("caching", ["true", "false"])
async def test_producer_is_faster_than_its_quota(autojump_clock: MockClock, caching: str) -> None:
    async with scene(caching) as made:
        offender, other = await made.client("offender"), await made.client("other")
        await other.set_quota("producer_byte_rate", RATE)
        started = trio.current_time()
        told: list[int] = []
        for _ in range(60):
            asked = trio.current_time()
            told.append((await offender.produce()).throttle_time_ms)
            waited_ms = (trio.current_time() - asked) * 1000
            assert waited_ms <= ([0, *told])[-2] + 10, "answered at once when its turn came"
        size_bytes = 60 * (1000 + 150)
        expected_s = size_bytes / RATE - 1
        assert trio.current_time() - started + told[-1] / 1000 == pytest.approx(expected_s, rel=0.05)
        assert told[:6] == [0] * 6, "a second's worth is there at once"
        assert max(told) <= 1000 * 1200 / RATE, "smooth: nobody waits for more than the request is worth"
        asked = trio.current_time()
        assert (await other.produce()).throttle_time_ms == 0
        assert trio.current_time() - asked < 0.01


async def test_connections_of_one_client_have_a_quota_each(autojump_clock: MockClock) -> None:
    async with scene() as made:
        first, second = await made.client("same"), await made.client("same")
        await first.set_quota("producer_byte_rate", RATE)
        assert (await first.produce(values=20)).throttle_time_ms > 1000
        assert (await second.produce()).throttle_time_ms > 1000


async def test_pipelined_requests_are_all_handled_at_once(autojump_clock: MockClock) -> None:
    async with scene() as made:
        client = await made.client("c")
        await client.set_quota("producer_byte_rate", RATE)
        body = [encode_request(ApiKey.PRODUCE, 9, Message(**_produced(-1, 10)))]
        started = trio.current_time()
        pending = [client.connection.begin(ApiKey.PRODUCE, 9, body) for _ in range(4)]
        answered: list[float] = []
        for each in pending:
            answer = await client.connection.finish(each, ApiKey.PRODUCE, 9)
            assert decode_response(ApiKey.PRODUCE, 9, answer).throttle_time_ms > 0
            answered.append(trio.current_time() - started)
        assert answered == pytest.approx([0, 0, 1.05, 2.1], abs=0.1)


async def test_producer_without_acks_is_not_held(autojump_clock: MockClock) -> None:
    async with scene() as made:
        client, other = await made.client("c"), await made.client("other")
        await other.set_quota("producer_byte_rate", RATE)
        body = [encode_request(ApiKey.PRODUCE, 9, Message(**_produced(0, 10)))]
        for _ in range(10):
            await client.connection.send_unanswered(ApiKey.PRODUCE, 9, body)
        await trio.sleep(4.5)
        (partition,) = (
            (await other.ask(ApiKey.LIST_OFFSETS, replica_id=-1, topics=_LATEST)).topics[0].partitions
        )
        assert 40 <= partition.offset <= 60


_LATEST = [Message(name="t", partitions=[Message(partition_index=0, timestamp=-1)])]


async def test_quota_that_was_removed_still_holds(autojump_clock: MockClock) -> None:
    async with scene() as made:
        client = await made.client("c")
        await client.set_quota("producer_byte_rate", RATE)
        assert (await client.produce(values=100)).throttle_time_ms > 0
        await client.set_quota("producer_byte_rate", 0)
        assert (await client.produce(values=100)).throttle_time_ms == 0


async def test_nobody_waits_longer_than_the_bound(autojump_clock: MockClock) -> None:
    async with scene() as made:
        client = await made.client("c")
        await client.set_quota("producer_byte_rate", 1)
        started = trio.current_time()
        told = [(await client.produce()).throttle_time_ms for _ in range(3)]
        assert told == [10_000] * 3
        assert trio.current_time() - started == pytest.approx(20, abs=0.1)


async def test_consumer_is_faster_than_its_quota(autojump_clock: MockClock) -> None:
    async with scene() as made:
        offender, other = await made.client("offender"), await made.client("other")
        for _ in range(100):
            await offender.produce(values=2)
        await other.set_quota("consumer_byte_rate", RATE)
        batch_bytes = len(encode_batch([VALUE] * 2))
        started, offset, size_bytes, told_ms = trio.current_time(), 0, 0, 0
        while offset < 200:
            throttle_time_ms, count = await offender.fetch(offset)
            assert count <= RATE, "no more than a second's worth at once"
            assert count % batch_bytes == 0, "no bytes are paid for twice"
            assert throttle_time_ms <= 1000
            offset += 2 * count // batch_bytes
            size_bytes += count
            told_ms = throttle_time_ms
        elapsed_s = trio.current_time() - started + told_ms / 1000
        assert elapsed_s == pytest.approx(size_bytes / RATE - 1, rel=0.02)
        asked = trio.current_time()
        assert await other.fetch(max_bytes=RATE // 2) > (0, 2000)
        assert trio.current_time() - asked < 0.01


async def test_batch_over_the_rate_is_never_read(autojump_clock: MockClock) -> None:
    async with scene() as made:
        client = await made.client("c")
        await client.produce(values=30)
        await client.set_quota("consumer_byte_rate", RATE)
        throttle_time_ms, count = await client.fetch()
        assert count > 30_000
        assert throttle_time_ms == pytest.approx(1000 * (count / RATE - 1), abs=2)


async def test_second_connection_of_a_consumer_in_debt_gets_records(autojump_clock: MockClock) -> None:
    async with scene() as made:
        first, second = await made.client("same"), await made.client("same")
        await first.produce(values=30)
        await first.set_quota("consumer_byte_rate", RATE)
        assert await first.fetch() > (2000, 30_000)
        asked = trio.current_time()
        throttle_time_ms, count = await second.fetch(min_bytes=1 << 20, max_wait_ms=5000)
        assert (throttle_time_ms > 2000, count) == (True, 0)
        assert trio.current_time() - asked < 0.01, "told at once, by a throttle time"
        asked = trio.current_time()
        assert (await second.fetch())[1] > 30_000
        assert trio.current_time() - asked == pytest.approx(throttle_time_ms / 1000, abs=0.05)


async def test_consumer_waits_for_more_bytes_than_its_quota_lets_it_have(autojump_clock: MockClock) -> None:
    async with scene() as made:
        client = await made.client("c")
        for _ in range(30):
            await client.produce()
        await client.set_quota("consumer_byte_rate", RATE)
        asked = trio.current_time()
        assert await client.fetch(min_bytes=3 * RATE, max_wait_ms=5000) > (0, RATE // 2)
        assert trio.current_time() - asked < 0.01


async def test_request_behind_a_fetch_over_quota_is_handled_at_once(autojump_clock: MockClock) -> None:
    async with memory_broker() as memory, trio.open_nursery() as nursery:
        await memory.create("t")
        (result,) = await memory.produced("t", encode_batch([VALUE] * 30, timestamps_ms=[0] * 30))
        assert result.error_code == 0
        meters = Meters({QuotaEntity(None, DEFAULT): {CONSUMER_BYTE_RATE: float(RATE)}})
        shared = ConnectionShared(
            ThrottlingDispatcher(memory.broker, meters), LIMITS, memory.broker.budget, memory.broker.clock
        )
        stream = ScriptedStream()
        nursery.start_soon(BrokerConnection(stream, "PLAINTEXT", shared).serve)
        wanted = Message(partition=0, fetch_offset=0, partition_max_bytes=1 << 30)
        request = Message(
            max_bytes=1 << 30, topics=[Message(topic="t", partitions=[wanted])], session_epoch=-1
        )
        stream.feed(_frame(ApiKey.FETCH, request) + _frame(ApiKey.METADATA, Message(topics=[])))
        await trio.sleep(0.1)
        fetched = int.from_bytes(stream.sent[:4], "big") + 4
        assert len(stream.sent) == fetched > 30_000
        await trio.sleep(1.9)
        assert len(stream.sent) == fetched
        await trio.sleep(0.5)
        assert len(stream.sent) > fetched
        nursery.cancel_scope.cancel()


def _frame(api_key: ApiKey, request: Message) -> bytes:
    head = struct.pack(">hhih", api_key, 12, 1, -1) + b"\0"
    body = head + encode_request(api_key, 12, request)
    return struct.pack(">i", len(body)) + body


async def test_broker_remembers_every_client_that_it_ever_saw(autojump_clock: MockClock) -> None:
    async with scene() as made:
        clients = [await made.client(f"c{n}") for n in range(20)]
        await clients[0].set_quota("producer_byte_rate", RATE)
        for client in clients:
            await client.produce()
        assert _meter_count() == 20
        await trio.sleep(5)
        assert _meter_count() == 0


def _meter_count() -> int:
    gc.collect()
    return sum(isinstance(each, Meter) for each in gc.get_objects())


async def test_records_that_are_waited_for_are_not_counted(autojump_clock: MockClock) -> None:
    async with scene() as made:
        client, producer = await made.client("c"), await made.client("p")
        await producer.produce()
        await producer.set_quota("consumer_byte_rate", RATE)
        got: list[tuple[int, int]] = []

        async def fetch() -> None:
            got.append(await client.fetch(offset=1, max_wait_ms=5000))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch)
            await trio.sleep(1)
            await producer.produce(values=30)
        assert got > [(2000, 30_000)]
        asked = trio.current_time()
        await client.ask(ApiKey.METADATA, topics=[])
        assert trio.current_time() - asked == pytest.approx(got[0][0] / 1000, abs=0.05)


async def test_session_loses_what_it_was_not_told_while_over_quota(autojump_clock: MockClock) -> None:
    async with scene() as made:
        client = await made.client("c")
        await client.produce(values=30)
        await client.set_quota("consumer_byte_rate", RATE)
        wanted = Message(partition=0, fetch_offset=0, partition_max_bytes=1 << 30)
        topics = [Message(topic="t", partitions=[wanted])]
        fields: dict[str, Any] = {"max_wait_ms": 0, "min_bytes": 1, "max_bytes": 1 << 30}
        await client.fetch()
        other = await made.client("c")
        full = await other.ask(ApiKey.FETCH, **fields, session_epoch=0, topics=topics)
        assert full.throttle_time_ms > 0
        (part,) = full.responses[0].partitions
        assert (part.high_watermark, part.records) == (30, b"")
        more = await other.ask(ApiKey.FETCH, **fields, session_id=full.session_id, session_epoch=1, topics=[])
        assert len(more.responses[0].partitions[0].records) > 30_000


class BusyClock(TrioClock):
    """Every look at the thread's time finds that a millisecond was worked."""

    def __init__(self) -> None:
        self.worked_s = 0.0

    def thread_time(self) -> float:
        self.worked_s += 0.001
        return self.worked_s


async def test_request_time_of_an_api_is_not_counted(autojump_clock: MockClock) -> None:
    async with scene(clock=BusyClock()) as made:
        offender, other = await made.client("offender"), await made.client("other")
        await offender.produce()
        await other.set_quota("request_percentage", 1)

        async def metadata() -> Message:
            return await offender.ask(ApiKey.METADATA, topics=[])

        async def produce() -> Message:
            return await offender.produce()

        async def fetch() -> int:
            return (await offender.fetch())[0]

        for call, counted_ms in ((metadata, 3), (produce, 1), (fetch, 1)):
            await trio.sleep(10)  # ten milliseconds are there
            started = trio.current_time()
            for _ in range(110):
                await call()
            expected_s = 11 * counted_ms - 1
            assert trio.current_time() - started == pytest.approx(expected_s, rel=0.05), call.__name__
        assert (await metadata()).throttle_time_ms > 0
        await trio.sleep(10)
        started = trio.current_time()
        for _ in range(60):  # each is looked at twice: when it comes, and when its time is over
            await offender.fetch(offset=111, max_wait_ms=1)
        assert trio.current_time() - started == pytest.approx(11, rel=0.05)
        asked = trio.current_time()
        await other.ask(ApiKey.METADATA, topics=[])
        assert trio.current_time() - asked < 0.01


class Unmuted:
    """A connection that nobody mutes."""

    def mute_until(self, until: float) -> None:
        raise AssertionError("muted")


async def test_follower_is_held_to_the_quota_of_clients() -> None:
    async with followed_broker() as bench:
        await bench.broker.produced("orders", bytes(batch()), acks=1)
        meters = Meters({QuotaEntity(None, DEFAULT): {CONSUMER_BYTE_RATE: 1.0}})
        client = meters.client("ANONYMOUS", b"", 0.0)
        assert client.consume is not None
        meters.charge(client.consume, 1000, trio.current_time())
        toll = FetchToll(meters, client, cast(BrokerConnection, Unmuted()), trio.current_time)
        wanted = Message(
            partition=0, fetch_offset=0, partition_max_bytes=1 << 20, current_leader_epoch=bench.leader_epoch
        )
        request = Message(
            max_bytes=1 << 20,
            topics=[Message(topic_id=TOPIC_ID, partitions=[wanted])],
            replica_state=Message(replica_id=2, replica_epoch=bench.epochs[2]),
            session_epoch=-1,
        )
        header = RequestHeader(int(ApiKey.FETCH), VERSION, VERSION * 1000 + int(ApiKey.FETCH), None, 0)
        frame = memoryview(bytearray(encode_request(ApiKey.FETCH, VERSION, request)))
        answer = decode_parts(await parts_of(fetch(bench.broker.broker, header, frame, toll=toll)))
        assert toll.is_exempt
        assert answer.throttle_time_ms == 0
        assert len(answer.responses[0].partitions[0].records) > 0
