"""aiokafka: pure Python on asyncio (its codecs are cramjam's)."""

import asyncio
import importlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tests.support.clients import LIMIT_S
from tests.support.deadline import PAUSE_S

aiokafka: Any = importlib.import_module("aiokafka")  # untyped


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine in a loop of its own, with a limit."""

    async def limited() -> Any:
        async with asyncio.timeout(LIMIT_S):
            return await work()

    return asyncio.run(limited())


async def eventually(event: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    """Look at `event` until it is true; the limit is that of `run`."""
    while not await event():  # noqa: ASYNC110 (what changes is in another process)
        await asyncio.sleep(PAUSE_S)


def produce(bootstrap: str, topic: str, values: Sequence[bytes], codec: str) -> None:
    """Produce to partition 0, and wait for all acks."""

    async def work() -> None:
        kind = None if codec == "none" else codec
        async with aiokafka.AIOKafkaProducer(
            bootstrap_servers=bootstrap, compression_type=kind, linger_ms=5
        ) as producer:
            sent = [await producer.send(topic, value, partition=0) for value in values]
            offsets = [(await each).offset for each in sent]
        assert offsets == sorted(offsets)

    run(work)


def consume(bootstrap: str, topic: str, count: int, partition: int = 0) -> list[bytes]:
    """The first `count` values of a partition."""
    found: list[bytes] = []

    async def work() -> None:
        consumer = aiokafka.AIOKafkaConsumer(
            bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False, auto_offset_reset="none"
        )
        async with consumer:
            place = aiokafka.TopicPartition(topic, partition)
            consumer.assign([place])
            consumer.seek(place, 0)
            while len(found) < count:
                for records in (await consumer.getmany(timeout_ms=1000)).values():
                    found.extend(record.value for record in records)

    run(work)
    return found[:count]
