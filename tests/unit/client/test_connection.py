from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.scripted_broker import (
    HANG_UP,
    SILENCE,
    Instead,
    ScriptedBroker,
    ScriptedNetwork,
    ScriptedStream,
    metadata_answer,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.client.connection import Connection, ConnectionSettings, PendingAnswer, open_connection
from penstock.client.errors import BrokerError, UnsupportedByBroker
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import decode_response, encode_request
from penstock.protocol.errors import ErrorCode, ProtocolError
from penstock.protocol.message import Message
from penstock.runtime.network import AddressError, ConnectionLost

NODES = {1: ("broker", 9092)}
METADATA = Message(topics=[])


def answer_metadata(version: int, request: Message) -> Message:
    return metadata_answer(NODES)


@asynccontextmanager
async def connected(
    broker: ScriptedBroker, settings: ConnectionSettings | None = None
) -> AsyncGenerator[tuple[Connection, ScriptedStream], None]:
    async with trio.open_nursery() as nursery:
        network = ScriptedNetwork({("broker", 9092): broker})
        connection = await open_connection(
            nursery, network, "broker", 9092, settings or ConnectionSettings(client_id="tests")
        )
        yield connection, broker.streams[-1]
        nursery.cancel_scope.cancel()


def deaf_broker() -> ScriptedBroker:
    return ScriptedBroker({ApiKey.METADATA: lambda version, request: SILENCE})


def metadata_frame(correlation_id: int, cluster_id: str) -> bytes:
    """A Metadata v13 answer by hand: no throttle, no brokers, a cluster id, no controller, no topics, no error."""
    text = cluster_id.encode()
    fields = [bytes(4), b"\x01", bytes([len(text) + 1]) + text, b"\xff" * 4, b"\x01", bytes(2), b"\0"]
    body = correlation_id.to_bytes(4, "big") + b"\0" + b"".join(fields)
    return len(body).to_bytes(4, "big") + body


async def test_each_request_gets_its_own_answer_when_several_are_under_way() -> None:
    async with connected(deaf_broker()) as (connection, stream):
        got: list[str] = []

        async def ask(name: str) -> None:
            answer = await connection.request(ApiKey.METADATA, METADATA)
            got.append(f"{name}:{answer.cluster_id}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "a")
            await wait_all_tasks_blocked()
            nursery.start_soon(ask, "b")
            await wait_all_tasks_blocked()
            assert connection.in_flight_count == 2
            stream.feed(metadata_frame(1, "first") + metadata_frame(2, "second"))
        assert sorted(got) == ["a:first", "b:second"]


async def test_a_cancelled_request_takes_no_answer_from_the_next() -> None:
    async with connected(deaf_broker()) as (connection, stream):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.request, ApiKey.METADATA, METADATA)
                await wait_all_tasks_blocked()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_cluster, connection, "second")
            await wait_all_tasks_blocked()
            stream.feed(metadata_frame(1, "first") + metadata_frame(2, "second"))


async def expect_cluster(connection: Connection, cluster_id: str) -> None:
    assert (await connection.request(ApiKey.METADATA, METADATA)).cluster_id == cluster_id


async def test_a_cancellation_while_the_socket_is_full_does_not_tear_the_stream() -> None:
    broker = ScriptedBroker({ApiKey.METADATA: answer_metadata})
    async with connected(broker) as (connection, stream):
        stream.send_gate = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.request, ApiKey.METADATA, METADATA)
                await wait_all_tasks_blocked()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_cluster, connection, "scripted")
            await wait_all_tasks_blocked()
            stream.send_gate.set()
        assert len(broker.bodies(ApiKey.METADATA)) == 2


async def fails_with(kind: type[Exception], call: Callable[[], Awaitable[object]], match: str = "") -> None:
    with pytest.raises(kind, match=match):
        await call()


async def test_all_who_wait_learn_that_the_connection_was_lost_each_by_an_exception_of_its_own() -> None:
    async with connected(deaf_broker()) as (connection, stream):
        caught: list[ConnectionLost] = []

        async def ask() -> None:
            try:
                await connection.request(ApiKey.METADATA, METADATA)
            except ConnectionLost as error:
                caught.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            stream.end()
        assert len(caught) == 2
        assert caught[0] is not caught[1]
        assert not connection.is_open
        await fails_with(ConnectionLost, ask_raising(connection), "the broker closed the connection")


def ask_raising(connection: Connection) -> Callable[[], Awaitable[Message]]:
    return lambda: connection.request(ApiKey.METADATA, METADATA)


async def test_a_request_after_close_fails_at_once_and_is_not_sent() -> None:
    async with connected(deaf_broker()) as (connection, stream):
        sent = bytes(stream.sent)
        connection.close()
        await fails_with(ConnectionLost, ask_raising(connection), "closed here")
        assert stream.is_closed
        assert stream.sent == sent


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (metadata_frame(7, "wrong"), "answer 7 where 1 was due"),
        ((2**31 - 1).to_bytes(4, "big"), "over the bound"),
        (b"\xff\xff\xff\xff", "an answer of -1 bytes"),
        ((6).to_bytes(4, "big") + b"\0\0\0\x01\0\0", "METADATA version 13 ends too early|claimed"),
        ((5).to_bytes(4, "big") + b"\0\0\0\x01\xff", "varint|tagged"),
    ],
    ids=["correlation id", "too large", "negative", "undecodable body", "undecodable header"],
)
async def test_an_answer_that_makes_no_sense_ends_the_connection(frame: bytes, complaint: str) -> None:
    async with connected(deaf_broker()) as (connection, stream), trio.open_nursery() as nursery:
        nursery.start_soon(fails_with, ProtocolError, ask_raising(connection), complaint)
        await wait_all_tasks_blocked()
        stream.feed(frame)
        await wait_all_tasks_blocked()
        assert not connection.is_open
        assert stream.is_closed


async def test_an_answer_that_nothing_was_asked_for_ends_the_connection() -> None:
    async with connected(deaf_broker()) as (connection, stream):
        stream.feed(metadata_frame(1, "unasked"))
        await wait_all_tasks_blocked()
        await fails_with(ProtocolError, ask_raising(connection), "nothing was asked for")


async def test_tagged_fields_in_the_answers_header_are_skipped() -> None:
    async with connected(deaf_broker()) as (connection, stream), trio.open_nursery() as nursery:
        nursery.start_soon(expect_cluster, connection, "tagged")
        await wait_all_tasks_blocked()
        plain = metadata_frame(1, "tagged")[4:]
        frame = plain[:4] + b"\x01\x09\x02hi" + plain[5:]
        stream.feed(len(frame).to_bytes(4, "big") + frame)


async def test_a_broker_that_stays_silent_counts_as_lost(autojump_clock: MockClock) -> None:
    settings = ConnectionSettings(request_timeout_ms=30_000)
    async with connected(deaf_broker(), settings) as (connection, _):
        begin = trio.current_time()
        await fails_with(ConnectionLost, ask_raising(connection), "no answer to METADATA in time")
        assert trio.current_time() - begin == pytest.approx(30)
        assert not connection.is_open


async def give_up_after(seconds: float, call: Callable[[], Awaitable[object]]) -> bool:
    """Whether the call was given up."""
    with trio.move_on_after(seconds) as scope:
        await call()
    return scope.cancelled_caught


async def test_a_silent_broker_is_never_lost_to_callers_who_give_up_early(autojump_clock: MockClock) -> None:
    async with connected(deaf_broker(), ConnectionSettings(request_timeout_ms=30_000)) as (connection, _):
        noticed: list[float] = []
        connection.on_silence = lambda: noticed.append(trio.current_time() - began)
        began = trio.current_time()
        for _ in range(20):
            assert await give_up_after(1.5, ask_raising(connection))
        assert noticed == pytest.approx([1.5 * number for number in range(2, 20)])
        await fails_with(ConnectionLost, ask_raising(connection), "no answer in time to what was asked")
        assert (connection.is_open, connection.in_flight_count) == (False, 0)


async def test_a_broker_that_answers_late_is_lost_to_callers_who_give_up_early(
    autojump_clock: MockClock,
) -> None:
    async with connected(deaf_broker(), ConnectionSettings(request_timeout_ms=30_000)) as (
        connection,
        stream,
    ):
        for seconds in (0.1, 29.95):
            assert await give_up_after(seconds, ask_raising(connection))
        stream.feed(metadata_frame(1, "late"))
        await trio.sleep(0.1)
        assert await give_up_after(1.5, ask_raising(connection)), "it has just said something"
        assert connection.is_open


async def test_what_a_broker_takes_its_time_for_on_purpose_counts_as_silence_when_it_is_given_up(
    autojump_clock: MockClock,
) -> None:
    async with connected(deaf_broker(), ConnectionSettings(request_timeout_ms=30_000)) as (connection, _):

        async def poll() -> None:
            await connection.request(ApiKey.METADATA, METADATA, broker_wait_ms=10_000)

        for _ in range(26):
            assert await give_up_after(1.5, poll)
        await trio.sleep(1)
        await fails_with(ConnectionLost, poll, "no answer in time")


async def test_a_broker_may_take_longer_where_it_waits_on_purpose(autojump_clock: MockClock) -> None:
    async with connected(deaf_broker()) as (connection, stream):

        async def late() -> None:
            await trio.sleep(35)
            stream.feed(metadata_frame(1, "late"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(late)
            answer = await connection.request(ApiKey.METADATA, METADATA, broker_wait_ms=10_000)
        assert answer.cluster_id == "late"


def begin_metadata(connection: Connection) -> PendingAnswer:
    """A request that is sent at once."""
    version = connection.version(ApiKey.METADATA)
    body = encode_request(ApiKey.METADATA, version, METADATA)
    return connection.begin(ApiKey.METADATA, version, [body], at_once=True)


async def finish_metadata(connection: Connection, answer: PendingAnswer) -> str:
    """The cluster id that is answered."""
    version = connection.version(ApiKey.METADATA)
    body = await connection.finish(answer, ApiKey.METADATA, version)
    return str(decode_response(ApiKey.METADATA, version, body).cluster_id)


async def test_what_is_to_go_at_once_is_sent_in_the_same_turn_and_behind_what_waits_in_order() -> None:
    broker = ScriptedBroker({ApiKey.METADATA: answer_metadata})
    async with connected(broker) as (connection, stream):
        first = begin_metadata(connection)
        assert len(broker.bodies(ApiKey.METADATA)) == 1
        stream.send_gate = trio.Event()
        others = [begin_metadata(connection)]
        await wait_all_tasks_blocked()
        stream.takes_now = True  # though the writer is in the middle of its bytes
        others.append(begin_metadata(connection))
        assert len(broker.bodies(ApiKey.METADATA)) == 1, "it is behind what waits"
        stream.send_gate.set()
        for answer in (first, *others):
            assert await finish_metadata(connection, answer) == "scripted"


async def test_what_can_not_go_at_once_is_an_error_there_and_leaves_nobody_waiting() -> None:
    async with connected(deaf_broker()) as (connection, stream):
        stream.send_failure = ConnectionLost("broker:9092: broken pipe")
        with pytest.raises(ConnectionLost, match="broken pipe"):
            begin_metadata(connection)
        assert (connection.is_open, connection.in_flight_count) == (False, 0)


async def test_who_waits_gets_the_answer_to_what_was_asked_again_in_its_time(
    autojump_clock: MockClock,
) -> None:
    settings = ConnectionSettings(request_timeout_ms=30_000)
    async with connected(deaf_broker(), settings) as (connection, stream):
        version = connection.version(ApiKey.METADATA)
        body = encode_request(ApiKey.METADATA, version, METADATA)
        silent_at: list[float] = []
        connection.on_silence = lambda: silent_at.append(trio.current_time() - began)
        began = trio.current_time()
        answer = begin_metadata(connection)
        rounds = iter(range(3))

        def taken_by(taken: PendingAnswer) -> bool:
            if next(rounds, None) is None:
                return False
            connection.again(taken, ApiKey.METADATA, version, [body])
            return True

        async def answer_after(*times: float) -> None:
            for number, time in enumerate(times, 1):
                await trio.sleep_until(began + time)
                stream.feed(metadata_frame(number, f"answer {number}"))

        answer.taken_by = taken_by
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_after, 29.9, 45, 70, 95)
            assert await finish_metadata(connection, answer) == "answer 4"
        assert trio.current_time() - began == pytest.approx(95)
        late = [min(each for each in silent_at if each > asked) - asked for asked in (29.9, 45, 70)]
        assert max(late) < 4.1, "each time it is noticed in 2 to 4 seconds that the broker says nothing"


async def test_who_waits_for_what_was_asked_again_waits_no_longer_than_its_timeout(
    autojump_clock: MockClock,
) -> None:
    async with connected(deaf_broker(), ConnectionSettings(request_timeout_ms=30_000)) as (
        connection,
        stream,
    ):
        version = connection.version(ApiKey.METADATA)
        body = encode_request(ApiKey.METADATA, version, METADATA)
        began = trio.current_time()
        answer = begin_metadata(connection)

        def taken_by(taken: PendingAnswer) -> bool:
            connection.again(taken, ApiKey.METADATA, version, [body])
            return True

        async def answer_one() -> None:
            await trio.sleep(25)
            stream.feed(metadata_frame(1, "first"))

        answer.taken_by = taken_by
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_one)
            with pytest.raises(ConnectionLost, match="in time"):
                await finish_metadata(connection, answer)
        assert trio.current_time() - began == pytest.approx(55)


async def test_a_failed_write_ends_the_connection() -> None:
    async with connected(deaf_broker()) as (connection, stream):
        stream.send_failure = ConnectionLost("broker:9092: broken pipe")
        await fails_with(ConnectionLost, ask_raising(connection), "broken pipe")
        assert not connection.is_open


async def test_an_unanswered_request_returns_when_sent_and_leaves_no_place_in_the_line() -> None:
    broker = ScriptedBroker(
        {ApiKey.PRODUCE: lambda version, request: SILENCE, ApiKey.METADATA: answer_metadata}
    )
    body = encode_request(ApiKey.PRODUCE, 3, Message(acks=0, timeout_ms=1, topic_data=[]))
    async with connected(broker) as (connection, _):
        await connection.send_unanswered(ApiKey.PRODUCE, 3, [body[:3], body[3:]])
        assert len(broker.bodies(ApiKey.PRODUCE)) == 1
        assert connection.in_flight_count == 0
        await expect_cluster(connection, "scripted")


async def test_an_unanswered_request_on_a_lost_connection_is_an_error() -> None:
    async with connected(deaf_broker()) as (connection, stream):
        stream.send_failure = ConnectionLost("broker:9092: broken pipe")
        await fails_with(
            ConnectionLost, lambda: connection.send_unanswered(ApiKey.PRODUCE, 3, [b""]), "broken pipe"
        )


async def test_the_broker_learns_which_software_asks() -> None:
    broker = deaf_broker()
    async with connected(broker):
        pass
    hello = broker.requests[0]
    assert (hello.version, hello.body.client_software_name) == (4, "penstock")
    assert b"tests" in broker.streams[0].sent


@pytest.mark.parametrize(("highest", "asked"), [(0, [4, 0]), (2, [4, 2]), (3, [4, 3]), (4, [4])])
async def test_an_older_broker_is_asked_again_in_the_version_that_it_has(
    highest: int, asked: list[int]
) -> None:
    broker = ScriptedBroker(versions={ApiKey.API_VERSIONS: (0, highest), ApiKey.METADATA: (0, 5)})
    async with connected(broker) as (connection, _):
        assert [request.version for request in broker.requests] == asked
        assert connection.version(ApiKey.METADATA) == 5


async def test_an_older_broker_that_does_not_tell_its_versions_is_asked_in_version_0() -> None:
    broker = ScriptedBroker()
    calls: list[int] = []

    def versions(version: int, request: Message) -> Message:
        calls.append(version)
        if version:
            return Message(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=[])
        return Message(error_code=0, api_keys=[Message(api_key=3, min_version=0, max_version=1)])

    broker.handlers[ApiKey.API_VERSIONS] = versions
    async with connected(broker) as (connection, _):
        assert calls == [4, 0]
        assert connection.version(ApiKey.METADATA) == 1


async def test_a_broker_that_refuses_a_version_that_it_claims_is_asked_in_a_lower_one() -> None:
    asked: list[int] = []

    def versions(version: int, request: Message) -> Message:
        asked.append(version)
        code = ErrorCode.UNSUPPORTED_VERSION if version == 4 else ErrorCode.NONE
        return Message(error_code=code, api_keys=[Message(api_key=18, min_version=0, max_version=4)])

    async with connected(ScriptedBroker({ApiKey.API_VERSIONS: versions})):
        assert asked == [4, 3]


async def test_a_broker_that_refuses_every_version_is_an_error_and_not_a_loop() -> None:
    def refuse(version: int, request: Message) -> Message:
        return Message(error_code=ErrorCode.UNSUPPORTED_VERSION, api_keys=[])

    with pytest.RaisesGroup(pytest.RaisesExc(BrokerError, match="ApiVersions")):
        async with connected(ScriptedBroker({ApiKey.API_VERSIONS: refuse})):
            pass


async def test_versions_are_the_highest_that_both_speak_within_the_bounds() -> None:
    versions = {ApiKey.API_VERSIONS: (0, 4), ApiKey.METADATA: (2, 9), ApiKey.FETCH: (90, 99)}
    broker = ScriptedBroker(versions=versions)
    refused = [(ApiKey.METADATA, 10, None), (ApiKey.METADATA, 0, 1), (ApiKey.FETCH, 0, None)]
    async with connected(broker) as (connection, _):
        assert connection.version(ApiKey.METADATA) == 9
        assert connection.version(ApiKey.METADATA, at_most=4) == 4
        for key, low, high in refused:
            with pytest.raises(UnsupportedByBroker, match=f"broker:9092: {key.name}"):
                connection.version(key, at_least=low, at_most=high)
        with pytest.raises(UnsupportedByBroker, match="the broker serves nothing"):
            connection.version(ApiKey.PRODUCE)
        with pytest.raises(UnsupportedByBroker):
            await connection.request(ApiKey.METADATA, METADATA, at_least=10)
    assert broker.bodies(ApiKey.METADATA) == []


async def test_connecting_to_what_never_answers_ends_by_itself(autojump_clock: MockClock) -> None:
    def silent(version: int, request: Message) -> Instead:
        return SILENCE

    broker = ScriptedBroker({ApiKey.API_VERSIONS: silent})
    with pytest.RaisesGroup(pytest.RaisesExc(AddressError, match="no answer within 10000 ms")):
        async with connected(broker):
            pass
    assert broker.streams[0].is_closed


async def test_connecting_to_what_hangs_up_is_a_lost_connection() -> None:
    broker = ScriptedBroker({ApiKey.API_VERSIONS: lambda version, request: HANG_UP})
    with pytest.RaisesGroup(ConnectionLost):
        async with connected(broker):
            pass
    assert broker.streams[0].is_closed
