"""What the parts of the workload share: topics, sizes and times, names, and how a client goes on after an error."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import trio

from penstock.errors import PenstockError
from penstock.runtime.environment import Environment


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic of the workload, and what holds for it."""

    name: str
    partition_count: int = 1
    acks: str = "all"
    configs: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def is_compacted(self) -> bool:
        return "compact" in self.configs.get("cleanup.policy", "")

    @property
    def is_caching(self) -> bool:
        return self.configs.get("write.caching") == "true"

    @property
    def has_retention(self) -> bool:
        return "retention.bytes" in self.configs


TOPICS = (
    Topic("kept", 2),
    Topic("cached", 1, configs={"write.caching": "true"}),
    Topic("plain", 1, acks="leader"),
    Topic(
        "short",
        1,
        configs={"retention.bytes": "6000", "segment.bytes": "3000", "file.delete.delay.ms": "500"},
    ),
    Topic(
        "latest",
        1,
        configs={"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "0.1", "segment.bytes": "3000"},
    ),
)
SESSION_TIMEOUT_MS = 6_000
REQUEST_TIMEOUT_MS = 8_000
DELIVERY_TIMEOUT_MS = 25_000
IN_FLIGHT_MAX = 8
KEYS = 5
BURST_CHANCE = 0.6
"""That a producer sends on at once: what comes at once is one batch, and costs the simulation little."""
BACKOFF_S = 0.5


def place_of(topic: str, partition: int) -> str:
    """A partition's name in the histories of clients."""
    return f"{topic}-{partition}"


def lasting(
    method: Callable[..., Awaitable[None]], *args: object
) -> Callable[[Environment], Awaitable[None]]:
    """A program that begins `method` anew after an error of Penstock's, until it ends by itself."""

    async def program(environment: Environment) -> None:
        while True:
            try:
                await method(environment, *args)
                return
            except* PenstockError:
                pass
            await trio.sleep(BACKOFF_S)

    return program


__all__ = [
    "BACKOFF_S",
    "BURST_CHANCE",
    "DELIVERY_TIMEOUT_MS",
    "IN_FLIGHT_MAX",
    "KEYS",
    "REQUEST_TIMEOUT_MS",
    "SESSION_TIMEOUT_MS",
    "TOPICS",
    "Topic",
    "lasting",
    "place_of",
]
