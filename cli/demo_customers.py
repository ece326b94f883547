"""The customers of a demo: they place orders at the scene's pace through Penstock's producer, and see what becomes of each.

Owns the producers and the counts of outcomes. A customer who finds no room in the producer's buffer waits at the door; whoever else wanted to order
in that time is not made up for, as in a shop: so a broker that holds producers back lowers the rate at which orders are placed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from penstock.cli.demo_scene import Phase, Scene
from penstock.client.errors import BacklogFull, BufferFull
from penstock.errors import PenstockError
from penstock.producer.batch import Delivery
from penstock.producer.producer import Producer
from penstock.runtime.environment import Environment

TICK_S = 0.01
MAKE_UP_S = 0.2
"""How much of what a busy machine made a customer miss is made up for."""
BATCH_BYTES = 16 * 1024
BUFFER_BYTES = 96 * 1024
LINGER_MS = 5.0
BODY = b'{"order": %d, "item": "socks, one pair, left and right", "price": "9.99", "currency": "EUR"}'


@dataclass(slots=True)
class Outcomes:
    """What became of the orders so far."""

    refused: int = 0
    failed: int = 0
    last_failure: str = ""
    taken: dict[int, int] = field(default_factory=dict[int, int])
    """Order number by offset, of all that were acked."""
    unseen_latencies_s: list[float] = field(default_factory=list[float])
    """Of what was acked since somebody has last taken them."""
    latencies_s: dict[Phase, list[float]] = field(
        default_factory=lambda: {phase: list[float]() for phase in Phase}
    )
    refusal_latencies_s: list[float] = field(default_factory=list[float])


@dataclass(slots=True)
class _Placed:
    """Orders that were placed at one moment."""

    at_s: float
    deliveries: list[tuple[int, Delivery]]


class Customer:
    """One producer: `share` of all that the scene wants."""

    def __init__(
        self,
        scene: Scene,
        index: int,
        count: int,
        bootstrap: str,
        topic: str,
        environment: Environment,
        outcomes: Outcomes,
        now_s: Callable[[], float],
    ) -> None:
        self._scene = scene
        self._next_number = index
        self._count = count
        self._topic = topic
        self._outcomes = outcomes
        self._now_s = now_s
        self._producer = Producer(
            bootstrap,
            environment,
            batch_size_bytes=BATCH_BYTES,
            buffer_memory_bytes=BUFFER_BYTES,
            linger_ms=LINGER_MS,
            max_in_flight=1,  # so a refusal is told by its own answer, and takes nothing behind it back
            client_id=f"customers-{index}",
        )

    async def run(self, curtain: trio.Event, task_status: trio.TaskStatus[None]) -> None:
        """Come to the door (started then), wait for the curtain, order until the sale is over, and see what becomes of all orders."""
        try:
            async with self._producer as producer:
                await producer.partition_count(self._topic)
                task_status.started()
                await curtain.wait()
                async with trio.open_nursery() as nursery:
                    send, receive = trio.open_memory_channel[_Placed](math.inf)
                    nursery.start_soon(self._see, receive)
                    async with send:
                        await self._order(producer, send)
        except* (BacklogFull, PenstockError) as failures:
            # Leaving the producer tells of refusals once more; each was counted when its order was seen.
            if not all(isinstance(failure, BacklogFull) for failure in failures.exceptions):
                self._outcomes.last_failure = str(failures.exceptions[0])

    async def _order(self, producer: Producer, send: trio.MemorySendChannel[_Placed]) -> None:
        placed = 0.0
        while self._scene.phase(now_s := self._now_s()) is not Phase.DRAIN:
            wanted = self._scene.wanted_count(now_s) / self._count
            make_up = self._scene.wanted_rate(now_s) * MAKE_UP_S / self._count
            placed = max(placed, wanted - make_up)
            due = int(wanted - placed)
            placed += due
            await self._place(producer, due, send)
            await trio.sleep(TICK_S)

    async def _place(self, producer: Producer, due: int, send: trio.MemorySendChannel[_Placed]) -> None:
        group = _Placed(self._now_s(), [])
        for _ in range(due):
            number, self._next_number = self._next_number, self._next_number + self._count
            body = BODY % number
            try:
                delivery = producer.send_nowait(self._topic, body)
            except BufferFull:
                # Those before are under way; this one waits at the door, and nobody behind it comes through when the sale is over.
                send.send_nowait(group)
                group = _Placed(self._now_s(), [])
                delivery = await producer.enqueue(self._topic, body)
                if self._scene.phase(self._now_s()) is Phase.DRAIN:
                    due = 0
            group.deliveries.append((number, delivery))
            if not due:
                break
        send.send_nowait(group)

    async def _see(self, receive: trio.MemoryReceiveChannel[_Placed]) -> None:
        outcomes = self._outcomes
        async for group in receive:
            phase = self._scene.phase(group.at_s)
            for number, delivery in group.deliveries:
                outcome = await _outcome_of(delivery)
                latency_s = self._now_s() - group.at_s
                if isinstance(outcome, int):
                    outcomes.taken[outcome] = number
                    outcomes.unseen_latencies_s.append(latency_s)
                    outcomes.latencies_s[phase].append(latency_s)
                elif isinstance(outcome, BacklogFull):
                    outcomes.refused += 1
                    outcomes.refusal_latencies_s.append(latency_s)
                else:
                    outcomes.failed += 1
                    outcomes.last_failure = str(outcome)


async def _outcome_of(delivery: Delivery) -> int | PenstockError:
    """What `delivery.wait()` returns or raises, but without a turn of the event loop and an exception for each record of a batch."""
    if not delivery.is_done:
        try:
            return (await delivery.wait()).offset
        except PenstockError as error:
            return error
    batch, index = delivery.place
    batch, index = batch.place_of(index)
    assert batch.outcome is not None
    return batch.outcome.error or batch.outcome.base_offset + index


__all__ = ["Customer", "Outcomes"]
