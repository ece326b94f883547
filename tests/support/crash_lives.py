"""Lives of a log by chance: which operations come one after the other, and under which settings."""

from random import Random

from penstock.storage.log_config import LogConfig

WEIGHTS = {
    "append": 6,
    "append three": 3,
    "append idempotently": 6,
    "append again": 1,
    "sync": 4,
    "begin epoch": 1,
    "roll": 2,
    "write snapshot": 1,
    "save indexes": 1,
    "release file": 1,
    "write checkpoints": 2,
    "delete records": 1,
    "retain": 1,
    "compact": 2,
    "truncate": 1,
    "start over": 0.3,
    "read": 0.5,
    "restart": 0.7,
}
"""How often each operation comes. Further ones of `crash_broker.OPERATIONS` are added here."""
VALUE_SIZES = ((5, 20), (5, 30, 300), (30, 700, 1500), (2000, 20, 500))
SEGMENT_BYTES = (250, 1000, 2500, 10_000)
COMPACTED_PART = 0.3
INDEX_INTERVALS_BYTES = (0, 60, 400, 4096)


def operations(random: Random, count: int) -> list[str]:
    """That many operations."""
    return random.choices(list(WEIGHTS), list(WEIGHTS.values()), k=count)


def settings(random: Random) -> tuple[LogConfig, tuple[int, ...]]:
    """A log's settings, and the sizes of values in it."""
    config = LogConfig(
        segment_bytes=random.choice(SEGMENT_BYTES),
        index_interval_bytes=random.choice(INDEX_INTERVALS_BYTES),
        compact=random.random() < COMPACTED_PART,
    )
    return config, random.choice(VALUE_SIZES)
