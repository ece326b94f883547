"""Brokers that refuse, leave out, speak nonsense or are too old: clear errors, no storm of requests, no end of the whole consumer."""

from collections.abc import Callable

import pytest
import trio
from tests.support.batches import encode_batch, patched
from tests.support.scripted_broker import (
    SILENCE,
    Instead,
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)

from penstock.client.errors import UnsupportedByBroker
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.consumer.errors import CorruptRecords
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

TOPIC_ID = b"0123456789abcdef"
TP = TopicPartition("t", 0)
REQUESTS_MAX = 25
"""In half a second: with waits of 50 ms and more there are far fewer, without any there are thousands."""
Script = Callable[[int, Message], Message | Instead]


def fetched(code: int = 0, records: bytes = b"") -> Message:
    part = Message(
        partition_index=0, error_code=code, high_watermark=100, last_stable_offset=100, records=records
    )
    return Message(responses=[Message(topic="t", topic_id=TOPIC_ID, partitions=[part])])


def found(offset: int) -> Message:
    part = Message(partition_index=0, error_code=0, offset=offset, timestamp=-1, leader_epoch=3)
    return Message(topics=[Message(name="t", partitions=[part])])


class Bad(ScriptedBroker):
    """Good in all that a test does not say."""

    def __init__(self, handlers: dict[ApiKey, Script]) -> None:
        good: dict[ApiKey, Script] = {
            ApiKey.METADATA: lambda version, request: metadata_answer({1: ("node", 9092)}, {"t": [1]}),
            ApiKey.LIST_OFFSETS: lambda version, request: found(0),
            ApiKey.FETCH: lambda version, request: SILENCE,
        }
        super().__init__(good | handlers)

    def consumer(self, *topics: str, pattern: str | None = None) -> Consumer:
        environment = scripted_environment(ScriptedNetwork({("node", 9092): self}))
        return Consumer(
            "node", *topics, environment=environment, auto_offset_reset="earliest", pattern=pattern
        )


REFUSALS: dict[str, dict[ApiKey, Script]] = {
    "not the leader": {ApiKey.FETCH: lambda version, request: fetched(ErrorCode.NOT_LEADER_OR_FOLLOWER)},
    "topic unknown": {ApiKey.FETCH: lambda version, request: fetched(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)},
    "storage error": {ApiKey.FETCH: lambda version, request: fetched(ErrorCode.KAFKA_STORAGE_ERROR)},
    "out of range": {ApiKey.FETCH: lambda version, request: fetched(ErrorCode.OFFSET_OUT_OF_RANGE)},
    "no session": {
        ApiKey.FETCH: lambda version, request: Message(
            error_code=ErrorCode.FETCH_SESSION_ID_NOT_FOUND, responses=[]
        )
    },
    "topic id unknown": {
        ApiKey.FETCH: lambda version, request: Message(error_code=ErrorCode.UNKNOWN_TOPIC_ID, responses=[])
    },
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_leader_that_always_refuses_is_asked_without_a_pause(refusal: str) -> None:
    broker = Bad(REFUSALS[refusal])
    async with broker.consumer() as consumer:
        consumer.assign([TP])
        with trio.move_on_after(0.5):
            await anext(consumer)
    assert 2 <= len(broker.bodies(ApiKey.FETCH)) <= REQUESTS_MAX
    assert len(broker.bodies(ApiKey.METADATA)) <= REQUESTS_MAX


async def test_damage_on_the_broker_is_waited_for_instead_of_told() -> None:
    broker = Bad({ApiKey.FETCH: lambda version, request: fetched(ErrorCode.CORRUPT_MESSAGE)})
    with trio.fail_after(5):
        async with broker.consumer() as consumer:
            consumer.assign([TP])
            with pytest.raises(CorruptRecords, match="the log of the broker is damaged") as caught:
                await anext(consumer)
    assert (caught.value.partition, caught.value.offset) == (TP, 0)


async def test_after_many_refusals_a_leader_that_is_well_again_is_not_heard() -> None:
    answers = [fetched(ErrorCode.NOT_LEADER_OR_FOLLOWER) for _ in range(4)]
    answers.append(fetched(records=encode_batch([b"a"], leader_epoch=3)))
    broker = Bad({ApiKey.FETCH: lambda version, request: answers.pop(0) if answers else SILENCE})
    with trio.fail_after(5):
        async with broker.consumer() as consumer:
            consumer.assign([TP])
            assert (await anext(consumer)).value == b"a"


async def test_a_broker_that_is_too_old_to_fetch_from_ends_in_an_exception_group() -> None:
    broker = Bad({})
    broker.versions = {**broker.versions, ApiKey.FETCH: (0, 3)}
    with trio.fail_after(5):
        async with broker.consumer() as consumer:
            consumer.assign([TP])
            for _ in range(2):
                with pytest.raises(UnsupportedByBroker, match="FETCH"):
                    await anext(consumer)


class Garbage(Bad):
    """Answers an API with bytes that mean nothing."""

    def __init__(self, api_key: ApiKey) -> None:
        super().__init__({})
        self.api_key = api_key

    def _answer(self, stream: object, frame: memoryview) -> None:
        from tests.support.scripted_broker import ScriptedStream

        assert isinstance(stream, ScriptedStream)
        if int.from_bytes(frame[:2], "big") == self.api_key:
            body = bytes(frame[4:8]) + b"\x00" + b"\xff" * 40
            stream.feed(len(body).to_bytes(4, "big") + body)
        else:
            super()._answer(stream, frame)


@pytest.mark.parametrize("api_key", [ApiKey.METADATA, ApiKey.LIST_OFFSETS, ApiKey.FETCH])
@pytest.mark.parametrize("how", ["assigned", "topic", "pattern"])
async def test_garbage_ends_in_an_exception_group(api_key: ApiKey, how: str) -> None:
    broker = Garbage(api_key)
    topics = ("t",) if how == "topic" else ()
    async with broker.consumer(*topics, pattern="t" if how == "pattern" else None) as consumer:
        if how == "assigned":
            consumer.assign([TP])
        for _ in range(2):
            with trio.move_on_after(0.2):
                try:
                    await anext(consumer)
                except PenstockError:
                    continue
    assert len(broker.streams) <= REQUESTS_MAX


async def test_an_answer_that_leaves_a_partition_out_is_a_key_error() -> None:
    broker = Bad({})
    answers = [Message(topics=[]), found(7)]
    broker.handlers[ApiKey.LIST_OFFSETS] = lambda version, request: answers.pop(0)
    with trio.fail_after(5):
        async with broker.consumer() as consumer:
            assert await consumer.end_offsets([TP]) == {TP: 7}


async def test_records_before_a_batch_with_gaps_that_is_broken_are_lost_to_batches() -> None:
    good = encode_batch([b"a", b"b"], leader_epoch=3)
    broken = patched(encode_batch([b"c", b"d"], base_offset=2, leader_epoch=3), ">i", 57, 3)
    answers = [fetched(records=good + broken)]
    broker = Bad({ApiKey.FETCH: lambda version, request: answers.pop() if answers else SILENCE})
    with trio.fail_after(5):
        async with broker.consumer() as consumer:
            consumer.assign([TP])
            assert (await consumer.next_batch()).values() == [b"a", b"b"]
            for _ in range(2):
                with pytest.raises(CorruptRecords) as caught:
                    await consumer.next_batch()
                assert (caught.value.offset, caught.value.next_offset) == (2, 4)
