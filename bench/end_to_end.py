"""How long from `produce` until a consumer has the record? One record of 100 B at a time, acks=all, the same librdkafka client for every broker.

The consumer's long poll waits at the broker when the record comes. Producer and consumer share a process, so one clock times both ends.
"""

import random

from bench import librdkafka
from bench.driver import Load
from bench.rounds import Case, Scale
from bench.subjects import CACHING, Subject

BENCH = "end_to_end"
VALUE = random.Random(1).randbytes(100)


def _measure(subject: Subject, topic: str, scale: Scale) -> Load:
    return librdkafka.end_to_end(
        subject.bootstrap,
        topic,
        value=VALUE,
        count=scale.lone_writes,
        seconds=5 * scale.seconds,
        server_pid=subject.pid,
    )


def cases() -> list[Case]:
    """The rows of this bench."""
    return [Case(BENCH, "1 record of 100 B", CACHING, ("penstock", "kafka"), _measure)]
