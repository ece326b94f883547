"""How long does one write take that waits for its ack? One record of 100 B at a time from librdkafka, `linger.ms=0`."""

import random

from bench import librdkafka
from bench.driver import Load
from bench.rounds import Case, Scale
from bench.subjects import CACHING, DURABLE, Subject

BENCH = "lone_write"
VALUE = random.Random(1).randbytes(100)


def _measure(subject: Subject, topic: str, scale: Scale) -> Load:
    return librdkafka.lone_writes(
        subject.bootstrap,
        topic,
        value=VALUE,
        count=scale.lone_writes,
        seconds=5 * scale.seconds,
        server_pid=subject.pid,
    )


def cases() -> list[Case]:
    """The rows of this bench."""
    return [
        Case(BENCH, "1 record of 100 B", CACHING, ("bare", "penstock", "kafka"), _measure),
        Case(BENCH, "1 record of 100 B", DURABLE, ("penstock", "kafka"), _measure),
    ]
