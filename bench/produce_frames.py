"""How fast are batches taken in, and at what cost? Frames made beforehand, from one connection on the other core.

The batch is the unit of all that a broker does here, so its size is the question: one record, 16 KB, 1 MB.
"""

from collections.abc import Sequence
from functools import cache

from bench.driver import Limits, Load, produce
from bench.frames import Batch, make_batch, make_batch_of_size
from bench.rounds import Case, Scale
from bench.subjects import CACHING, DURABLE, Subject

BENCH = "produce_frames"


@cache
def one_record() -> Batch:
    """One record of 100 B."""
    return make_batch(1, 100)


@cache
def batch_of(size_bytes_max: int, value_size_bytes: int) -> Batch:
    """A full batch, made once."""
    return make_batch_of_size(size_bytes_max, value_size_bytes)


def limits(scale: Scale) -> Limits:
    """The scale, in the driver's words."""
    return Limits(scale.seconds, scale.bytes_max, scale.requests_max)


def _one_record(window: int, durability: str, subjects: Sequence[str]) -> Case:
    def measure(subject: Subject, topic: str, scale: Scale) -> Load:
        return produce(
            subject.address, topic, one_record(), window=window, limits=limits(scale), server_pid=subject.pid
        )

    return Case(BENCH, f"1 record of 100 B, {window} in flight", durability, subjects, measure)


def _full_batch(
    size_bytes: int, value_size: int, window: int, durability: str, subjects: Sequence[str]
) -> Case:
    def measure(subject: Subject, topic: str, scale: Scale) -> Load:
        batch = batch_of(size_bytes, value_size)
        return produce(
            subject.address, topic, batch, window=window, limits=limits(scale), server_pid=subject.pid
        )

    name = f"{size_name(size_bytes)} of {size_name(value_size)} records, {window} in flight"
    return Case(BENCH, name, durability, subjects, measure)


def size_name(size_bytes: int) -> str:
    """16384 as `16 KB`; what is no power of 1024 stays in bytes."""
    for unit, name in ((1 << 20, "MB"), (1 << 10, "KB")):
        if size_bytes % unit == 0:
            return f"{size_bytes // unit} {name}"
    return f"{size_bytes} B"


def cases() -> list[Case]:
    """The rows of this bench."""
    everyone, brokers = ("bare", "penstock", "kafka"), ("penstock", "kafka")
    return [
        _one_record(1, CACHING, everyone),
        _one_record(16, CACHING, everyone),
        _full_batch(16 << 10, 1 << 10, 8, CACHING, everyone),
        _full_batch(1 << 20, 1 << 10, 4, CACHING, everyone),
        _full_batch(1 << 20, 100, 4, CACHING, everyone),
        _one_record(1, DURABLE, brokers),
        _one_record(16, DURABLE, brokers),
        _full_batch(16 << 10, 1 << 10, 8, DURABLE, brokers),
        _full_batch(1 << 20, 1 << 10, 4, DURABLE, brokers),
    ]
