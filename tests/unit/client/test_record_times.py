from collections.abc import Mapping

import pytest
from tests.support.batches import encode_batch
from tests.support.scripted_broker import (
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)

from penstock.client.admin import Admin
from penstock.client.errors import OffsetOutOfRange
from penstock.client.metadata import TopicPartition
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

CONTROL = 0x20
LOG_APPEND_TIME = 0x08
ONE, TWO, THREE = (TopicPartition("t", index) for index in range(3))


class Log:
    """A broker with one topic, whose partitions are lists of batches; at most one batch of one partition in an answer if asked to."""

    def __init__(self, batches: Mapping[int, list[bytes]], *, one_at_a_time: bool = False) -> None:
        self.batches = batches
        self.one_at_a_time = one_at_a_time
        self.broker = ScriptedBroker(
            {
                ApiKey.METADATA: lambda version, request: metadata_answer({1: ("one", 9092)}, {"t": [1] * 3}),
                ApiKey.FETCH: self.fetch,
            }
        )

    def admin(self) -> Admin:
        return Admin("one:9092", scripted_environment(ScriptedNetwork({("one", 9092): self.broker})))

    def fetch(self, version: int, request: Message) -> Message:
        assert version <= 12
        room = not self.one_at_a_time
        answers: list[Message] = []
        for entry in request.topics[0].partitions:
            batches = self.batches.get(entry.partition, [])
            ends = [self.end(batch) for batch in batches]
            high_watermark = ends[-1] if ends else 0
            answer = Message(
                partition_index=entry.partition,
                high_watermark=high_watermark,
                last_stable_offset=0,
                records=b"",
            )
            if entry.fetch_offset > high_watermark:
                answer.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
            found = [batch for batch, end in zip(batches, ends, strict=True) if end > entry.fetch_offset]
            if found and (room or not any(each.records for each in answers)):
                answer.records = found[0] if self.one_at_a_time else b"".join(found)
            answers.append(answer)
        return Message(responses=[Message(topic="t", partitions=answers)])

    @staticmethod
    def end(batch: bytes) -> int:
        return int.from_bytes(batch[:8], "big") + int.from_bytes(batch[23:27], "big") + 1


def batch(base_offset: int, *times_ms: int, attributes: int = 0) -> bytes:
    return encode_batch(
        [b"v"] * len(times_ms), timestamps_ms=times_ms, base_offset=base_offset, attributes=attributes
    )


@pytest.mark.parametrize(
    ("offset", "time_ms"), [(0, 10), (1, 11), (2, 12), (3, 20), (4, 5), (5, 77), (6, 77), (7, None)]
)
async def test_the_time_of_the_record_at_an_offset_is_found_inside_its_batch(
    offset: int, time_ms: int | None
) -> None:
    batches = [batch(0, 10, 11, 12), batch(3, 20, 5), batch(5, 1, 77, attributes=LOG_APPEND_TIME)]
    async with Log({0: batches}).admin() as admin:
        assert await admin.first_timestamps({ONE: offset}) == {ONE: time_ms}


async def test_what_has_no_record_for_people_is_passed_over() -> None:
    log = Log({0: [batch(0, 10, attributes=CONTROL), batch(5, 50)]}, one_at_a_time=True)
    async with log.admin() as admin:
        assert await admin.first_timestamps({ONE: 0}) == {ONE: 50}
    assert len(log.broker.bodies(ApiKey.FETCH)) == 2


async def test_a_broker_that_answers_with_one_batch_at_a_time_is_asked_until_all_is_known() -> None:
    log = Log({0: [batch(0, 10)], 1: [batch(0, 20)], 2: []}, one_at_a_time=True)
    async with log.admin() as admin:
        found = await admin.first_timestamps({THREE: 0, ONE: 0, TWO: 0})
    assert found == {ONE: 10, TWO: 20, THREE: None}


async def test_an_offset_that_is_not_in_the_log_is_an_outcome() -> None:
    async with Log({0: [batch(0, 10)]}).admin() as admin:
        found = await admin.first_timestamps({ONE: 5, TWO: 0})
    assert isinstance(found[ONE], OffsetOutOfRange)
    assert found[TWO] is None


async def test_records_of_a_format_older_than_batches_have_no_time_here() -> None:
    old = bytearray(batch(0, 10))
    old[16] = 1
    async with Log({0: [bytes(old)]}).admin() as admin:
        assert await admin.first_timestamps({ONE: 0}) == {ONE: None}
