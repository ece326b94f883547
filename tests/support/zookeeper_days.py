"""The ZooKeeper lines of tests/data/loghub as a topic: each with its own time, which the line begins with."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache

from confluent_kafka import Producer
from tests.support.loghub import lines

_MILLISECOND = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3})")


@cache
def timed_lines() -> tuple[tuple[int, bytes], ...]:
    """Each line with its time, in ms since 1970 (taken as UTC), in the order of the file."""
    return tuple(_timed(lines("Zookeeper")))


def _timed(found: tuple[bytes, ...]) -> Iterator[tuple[int, bytes]]:
    for line in found:
        match = _MILLISECOND.match(line)
        assert match is not None, line
        moment = datetime.fromisoformat(match[1].decode()).replace(tzinfo=UTC)
        yield int(moment.timestamp()) * 1000 + int(match[2]), line


def lines_of(day: str) -> list[bytes]:
    """The lines of one day, as the file has them."""
    return [line for _, line in timed_lines() if line.startswith(day.encode())]


def produce_days(bootstrap: str, topic: str, *, partitions: int, compression: str) -> None:
    """Send all lines by librdkafka (which kcat is made of, but kcat takes no timestamps), the n-th to partition n modulo `partitions`."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": compression,
            "linger.ms": 20,
            "batch.num.messages": 150,
        }
    )
    failures: list[object] = []
    for number, (time_ms, line) in enumerate(timed_lines()):
        producer.produce(
            topic,
            line,
            key=b"k%d" % (number % 10) if number % 3 else None,
            partition=number % partitions,
            timestamp=time_ms,
            headers=[("n", b"%d" % number)] if number % 5 == 0 else None,
            on_delivery=lambda error, message: failures.append(error) if error else None,
        )
    assert producer.flush(30) == 0
    assert failures == []


__all__ = ["lines_of", "produce_days", "timed_lines"]
