"""A whole broker without sockets: its logs on a disk in memory, its metadata in a store in memory, its workers in the test's hand.

async with memory_broker() as broker:
    await broker.create("orders")
    outcome = broker.produce("orders", batch())     # what the connection gets: parts, a reply to wait for, or None
    answer = await broker.answer(outcome)           # what a client would read
"""

from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import trio
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.memory_network import MemoryNetwork
from tests.support.metadata_plane import TrioClock, new_random
from tests.support.partition_bench import settle
from tests.support.scripted_threads import ScriptedThreads

from penstock.broker.api.fetch import fetch
from penstock.broker.api.produce import produce
from penstock.broker.broker import Broker, open_broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.config_admin import ConfigAdmin
from penstock.broker.connection import Outcome
from penstock.broker.context import ANONYMOUS, RequestContext
from penstock.broker.dispatch import Handler
from penstock.broker.partition import Partition
from penstock.broker.pending_response import PendingResponse
from penstock.broker.replies import Parts, Reply
from penstock.broker.topic_admin import NewTopic
from penstock.protocol.api import ApiKey, response_header_version
from penstock.protocol.codec import decode_request, decode_response, encode_request, encode_response
from penstock.protocol.framing import RequestHeader
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.metadata import MetadataStore
from penstock.runtime.network import Network
from penstock.storage.log import LogSlice

DATA = "/broker-data"
LISTENER = "PLAINTEXT"
PRODUCE_VERSION = 9
FETCH_VERSION = 12
SMALL_FRAME = 1 << 20


class MemoryBroker:
    """The broker and what it stands on."""

    def __init__(self, broker: Broker, files: MemoryFiles, threads: ScriptedThreads) -> None:
        self.broker = broker
        self.files = files
        self.threads = threads

    # Topics

    async def create(self, name: str, partition_count: int = 1, **configs: str) -> bytes:
        """Make a topic (underscores in config names stand for dots), and wait until its logs are open; returns its id."""
        overrides = {key.replace("_", "."): value for key, value in configs.items()}
        created = await self.broker.topics.create(NewTopic(name, partition_count, configs=overrides))
        await self.broker.watch.wait_for(created.revision)
        await self.broker.partitions.wait_ready(created.topic_id)
        return created.topic_id

    async def configure(self, name: str, **configs: str) -> None:
        """Make these the topic's only configs, and wait until its partitions act on them."""
        overrides = {key.replace("_", "."): value for key, value in configs.items()}
        admin = ConfigAdmin(self.broker.store, self.broker.image, self.broker.config)
        await self.broker.watch.wait_for(await admin.replace_topic_configs(name, overrides))
        await settle()

    async def delete(self, name: str) -> None:
        """Delete a topic, and wait until the broker has seen it."""
        topic = self.broker.image.topic(name)
        assert topic is not None
        await self.broker.watch.wait_for(await self.broker.topics.delete(topic))

    def partition(self, topic: str = "orders", index: int = 0) -> Partition:
        """One that is open."""
        found = self.broker.partitions.by_name(topic, index)
        assert found is not None, f"{topic}-{index} is not open"
        return found

    # Requests

    def produce(
        self,
        topic: str | bytes,
        *raw: bytes | None,
        acks: int = -1,
        version: int = PRODUCE_VERSION,
        timeout_ms: int = 1000,
        transactional_id: str | None = None,
    ) -> Outcome:
        """Produce one batch to each partition from 0 on; a topic id instead of a name from version 13 on."""
        data = [Message(index=index, records=records) for index, records in enumerate(raw)]
        name = {"topic_id": topic} if isinstance(topic, bytes) else {"name": topic}
        request = Message(
            transactional_id=transactional_id,
            acks=acks,
            timeout_ms=timeout_ms,
            topic_data=[Message(**name, partition_data=data)],
        )
        frame = bytearray(encode_request(ApiKey.PRODUCE, version, request))
        outcome = produce(self.broker, _header(ApiKey.PRODUCE, version), memoryview(frame))
        frame[:] = bytes(len(frame))  # the connection's buffer is used again at once
        return outcome

    def fetch(
        self,
        *wanted: tuple[str | bytes, int, int],
        max_wait_ms: int = 0,
        min_bytes: int = 1,
        max_bytes: int = 1 << 30,
        partition_max_bytes: int = 1 << 30,
        session: tuple[int, int] = (0, -1),
        version: int = FETCH_VERSION,
        reader: Hashable = None,
        **more: Any,
    ) -> Parts | Reply:
        """Fetch (topic or topic id, partition index, offset) each; `reader` stands for the connection."""
        topics = [
            Message(
                **({"topic_id": topic} if isinstance(topic, bytes) else {"topic": topic}),
                partitions=[
                    Message(
                        partition=index,
                        fetch_offset=offset,
                        partition_max_bytes=partition_max_bytes,
                        **{key: more[key] for key in more if key in _PARTITION_FIELDS},
                    )
                ],
            )
            for topic, index, offset in wanted
        ]
        request = Message(
            max_wait_ms=max_wait_ms,
            min_bytes=min_bytes,
            max_bytes=max_bytes,
            session_id=session[0],
            session_epoch=session[1],
            topics=topics,
            **{key: more[key] for key in more if key not in _PARTITION_FIELDS},
        )
        frame = bytearray(encode_request(ApiKey.FETCH, version, request))
        outcome = fetch(self.broker, _header(ApiKey.FETCH, version), memoryview(frame), reader=reader)
        frame[:] = bytes(len(frame))
        return outcome

    async def call(self, handler: Handler, api_key: ApiKey, version: int, **fields: Any) -> Message:
        """Send any other request through both codecs, and return what a client of that version would read."""
        request = decode_request(
            api_key, version, memoryview(encode_request(api_key, version, Message(**fields)))
        )
        context = RequestContext(int(api_key), version, 1, "test", ANONYMOUS, "127.0.0.1:5", LISTENER)
        answer = await handler(self.broker, context, request)
        if isinstance(answer, PendingResponse):
            await parts_of(answer)
        response = answer.message if isinstance(answer, PendingResponse) else answer
        assert response is not None
        return decode_response(api_key, version, encode_response(api_key, version, response))

    async def answer(self, outcome: Outcome) -> Message:
        """Wait for a reply as the connection does, and decode it; the slices in it are released."""
        assert outcome is not None, "there is no answer to come"
        return decode_parts(await parts_of(outcome))

    async def produced(self, topic: str, *raw: bytes | None, **more: Any) -> list[Message]:
        """Produce and wait; the partitions' parts of the answer."""
        answer = await self.answer(self.produce(topic, *raw, **more))
        return list(answer.responses[0].partition_responses)

    async def fetched(self, *wanted: tuple[str | bytes, int, int], **more: Any) -> list[Message]:
        """Fetch and wait; the partitions' parts of the answer."""
        answer = await self.answer(self.fetch(*wanted, **more))
        return [part for topic in answer.responses for part in topic.partitions]


_PARTITION_FIELDS = {"current_leader_epoch", "last_fetched_epoch"}


def _header(api_key: int, version: int) -> RequestHeader:
    return RequestHeader(int(api_key), version, version * 1000 + int(api_key), "test", 0)


async def parts_of(outcome: Parts | Reply) -> Parts:
    """What the connection would send."""
    if not isinstance(outcome, Reply):
        return outcome
    woken = trio.Event()
    outcome.on_ready(woken.set)
    if not outcome.ready:
        with trio.move_on_at(outcome.deadline):
            await woken.wait()
    parts = outcome.try_finish()
    return parts if parts is not None else await outcome.finish()


def decode_parts(parts: Parts) -> Message:
    """The response in the parts, whose length prefix must be right."""
    data = b""
    for part in parts:
        if isinstance(part, bytes):
            data += part
        else:
            assert isinstance(part, LogSlice)
            data += part.read()
            part.release()
    assert int.from_bytes(data[:4], "big") == len(data) - 4, "the length prefix is right"
    correlation_id = int.from_bytes(data[4:8], "big")
    version, api_key = divmod(correlation_id, 1000)
    start = 8 + response_header_version(api_key, version)
    return decode_response(api_key, version, memoryview(data)[start:])


@asynccontextmanager
async def memory_broker(
    *,
    files: MemoryFiles | None = None,
    store: MetadataStore | None = None,
    open_files_max: int = 20_000,
    threads: ScriptedThreads | None = None,
    network: Network | None = None,
    **properties: str,
) -> AsyncGenerator[MemoryBroker]:
    """A broker that leads what is in `store`; closed cleanly at the end. Underscores in property names stand for dots."""
    files = files or MemoryFiles()
    threads = threads or ScriptedThreads()
    opened = store or MemoryMetadata()

    def open_metadata(location: str) -> AbstractAsyncContextManager[MetadataStore]:
        return nullcontext(opened)

    environment = Environment(
        TrioClock(),
        new_random(),
        network or MemoryNetwork(),
        files,
        threads,
        open_metadata,
        open_files_max,
    )
    given = {key.replace("_", "."): value for key, value in properties.items()}
    config = BrokerConfig.from_properties({"log.dirs": DATA, **given})
    async with open_broker(environment, config, {LISTENER: ("127.0.0.1", 9092)}) as broker:
        try:
            yield MemoryBroker(broker, files, threads)
        finally:
            threads.release_all()


def held_slices(partitions: Sequence[Partition]) -> bool:
    """Whether a slice of any of the partitions' segments is still held."""
    return any(
        segment.shared is not None and segment.shared.users > 0
        for partition in partitions
        for segment in partition.log.segments
    )
