"""A client's way to a broker that may die at any moment: what is answered after that is not heard.

Whoever waits for an answer of a dead process waits for ever; the end of the process's life cancels it.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, cast

import trio
from tests.support.batches import split_batches, values_of
from tests.support.crashes.ledger import Batch
from tests.support.crashes.process import Process
from tests.support.memory_broker import MemoryBroker, decode_parts, parts_of

from penstock.broker.api.produce import produce
from penstock.broker.connection import Outcome
from penstock.broker.partition import Partition
from penstock.broker.replies import Parts
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.codec import encode_request
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode, ProtocolError
from penstock.protocol.framing import RequestHeader
from penstock.protocol.message import Message
from penstock.protocol.record_batch import read_batch_header
from penstock.protocol.records import Record, encode_batch
from penstock.storage.log_slice import LogSlice

PRODUCE_VERSION = 9
TIMEOUT_MS = 1_000
VERSIONS = {
    ApiKey.CREATE_TOPICS: 7,
    ApiKey.DELETE_TOPICS: 6,
    ApiKey.DELETE_RECORDS: 2,
    ApiKey.INCREMENTAL_ALTER_CONFIGS: 1,
    ApiKey.INIT_PRODUCER_ID: 4,
    ApiKey.FIND_COORDINATOR: 4,
    ApiKey.OFFSET_COMMIT: 9,
    ApiKey.OFFSET_FETCH: 9,
}


def encoded(
    batch: Batch, *, producer_id: int = -1, sequence: int = 0, time_ms: int = 1_700_000_000_000
) -> bytes:
    """The batch as it is sent."""
    pairs = zip(batch.keys, batch.values, strict=True)
    records = [Record(index, time_ms, key, value) for index, (key, value) in enumerate(pairs)]
    if producer_id < 0:
        return encode_batch(records, codec=Codec.NONE)
    return encode_batch(
        records, codec=Codec.NONE, producer_id=producer_id, producer_epoch=0, base_sequence=sequence
    )


class Connection:
    """See the module."""

    def __init__(self, process: Process, memory: MemoryBroker) -> None:
        self.process = process
        self.memory = memory
        self.random = process.random

    async def think(self, *choices_s: float) -> None:
        """Do nothing for one of these times."""
        await trio.sleep(self.random.choice(choices_s))

    def send(self, topic: str, index: int, raw: bytes, acks: int) -> Outcome:
        """Produce; what `hear` is for. With acks=0 there is nothing to hear, not even of a refusal."""
        data = [Message(index=index, records=raw)]
        request = Message(
            transactional_id=None,
            acks=acks,
            timeout_ms=TIMEOUT_MS,
            topic_data=[Message(name=topic, partition_data=data)],
        )
        frame = bytearray(encode_request(ApiKey.PRODUCE, PRODUCE_VERSION, request))
        number = PRODUCE_VERSION * 1000 + ApiKey.PRODUCE
        header = RequestHeader(int(ApiKey.PRODUCE), PRODUCE_VERSION, number, "test", 0)
        try:
            return produce(self.memory.broker, header, memoryview(frame))
        except ProtocolError:
            return None
        finally:
            frame[:] = bytes(len(frame))

    async def hear(self, outcome: Outcome) -> Message:
        """The answer to a `send` for one partition."""
        answer = await self.memory.answer(outcome)
        await self._live_on()
        part: Message = answer.responses[0].partition_responses[0]
        return part

    async def fetch(self, topic: str, index: int, offset: int, *, max_wait_ms: int = 0) -> Message:
        """One partition's part of a fetch."""
        parts = await parts_of(self.memory.fetch((topic, index, offset), max_wait_ms=max_wait_ms))
        await self._live_on()
        data = self._sent(parts)
        _release(parts)
        fetched: Message = decode_parts([data]).responses[0].partitions[0]
        return fetched

    def _sent(self, parts: Parts) -> bytes:
        with self.process.on_worker(True):  # what is sent was found resident, or was just read
            return b"".join(
                part if isinstance(part, bytes) else cast(LogSlice, part).read() for part in parts
            )

    async def read_slowly(self, topic: str, index: int, offset: int) -> None:
        """Be a slow reader, whose slices are whole whatever becomes of their segments meanwhile."""
        parts = await parts_of(self.memory.fetch((topic, index, offset)))
        await self._live_on()
        data = self._sent(parts)
        await self.think(0.02, 0.1)
        await self._live_on()
        assert self._sent(parts) == data, f"{topic}-{index}: a slice has changed while it was sent"
        _release(parts)

    async def call(self, api_key: ApiKey, **fields: Any) -> Message:
        """Any other request."""
        handler = import_module(f"penstock.broker.api.{api_key.name.lower()}").handle
        answer = await self.memory.call(handler, api_key, VERSIONS[api_key], **fields)
        await self._live_on()
        return answer

    async def _live_on(self) -> None:
        if self.process.is_dead:
            await trio.sleep_forever()

    def why_unusable(self, topic: str, index: int) -> Exception | None:
        """Why a partition can't be read."""
        partitions = self.memory.broker.partitions
        partition = partitions.by_name(topic, index)
        if partition is not None:
            try:
                with self.process.on_worker(True):
                    _read_through(partition)
            except PenstockError as error:
                return error
        known = self.memory.broker.image.topic(topic)
        assert known is not None
        reasons: dict[tuple[bytes, int], Exception] = vars(partitions)["_unusable"]
        return reasons.get((known.topic_id, index))

    async def read_all(
        self, topic: str, index: int
    ) -> "tuple[list[tuple[int, bytes]], int, int] | ErrorCode":
        """(records, log start, end) of a partition, or why not."""
        records: list[tuple[int, bytes]] = []
        first = await self.fetch(topic, index, 0)
        offset = start = first.log_start_offset
        if first.error_code not in (ErrorCode.NONE, ErrorCode.OFFSET_OUT_OF_RANGE):
            return ErrorCode(first.error_code)
        while True:
            part = await self.fetch(topic, index, offset)
            if part.error_code == ErrorCode.OFFSET_OUT_OF_RANGE and part.log_start_offset > start:
                return await self.read_all(topic, index)  # retention was faster
            if part.error_code:
                return ErrorCode(part.error_code)
            records += seen_in(part, offset)
            before, offset = offset, next_offset(part, offset)
            if offset == before:
                return records, start, part.high_watermark


def _read_through(partition: Partition) -> None:
    for segment in partition.log.segments:
        offset = max(segment.base_offset, partition.log.log_start_offset)
        partition.log.read(offset, 1 << 30, partition.high_watermark, resident_only=False).release()


def _release(parts: Parts) -> None:
    for part in parts:
        if not isinstance(part, bytes):
            cast(LogSlice, part).release()


def next_offset(part: Message, offset: int) -> int:
    """Where to read on: behind the last whole batch, which compaction may have left without records."""
    batches = split_batches(bytes(part.records or b""))
    return read_batch_header(batches[-1]).next_offset if batches else offset


def seen_in(part: Message, offset: int) -> list[tuple[int, bytes]]:
    """(offset, value) of the records from an offset on, without those above the high watermark, of which there must be none."""
    return [found for found in values_of(bytes(part.records or b"")) if found[0] >= offset]


def topics_of(name: str, **partition: Any) -> Sequence[Message]:
    """A request's list of one topic with one partition."""
    return [Message(name=name, partitions=[Message(**partition)])]


__all__ = ["Connection", "encoded", "next_offset", "seen_in", "topics_of"]
