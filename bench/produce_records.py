"""How many records a second does a real client get in? librdkafka, records of 100 B and 1 KB, from one producer.

Where the client is the bottleneck (`driver busy` near 1), the rates of all servers meet, and the CPU of the server is what differs.
"""

import random

from bench import librdkafka
from bench.driver import Load, LoadFailed
from bench.produce_frames import size_name
from bench.rounds import Case, Scale
from bench.subjects import CACHING, DURABLE, Subject

BENCH = "produce_records"


def _case(value_size_bytes: int, durability: str) -> Case:
    value = random.Random(1).randbytes(value_size_bytes)

    def measure(subject: Subject, topic: str, scale: Scale) -> Load:
        count = min(scale.records_max, scale.bytes_max // value_size_bytes)
        load = librdkafka.produce_records(
            subject.bootstrap,
            topic,
            value=value,
            record_count=count,
            seconds=scale.seconds,
            server_pid=subject.pid,
        )
        if subject.has_topics and librdkafka.end_offset(subject.bootstrap, topic) != load.record_count:
            raise LoadFailed("the log does not end where the producer's count does")
        return load

    subjects = ("bare", "penstock", "kafka") if durability == CACHING else ("penstock", "kafka")
    return Case(BENCH, f"{size_name(value_size_bytes)} records", durability, subjects, measure)


def cases() -> list[Case]:
    """The rows of this bench."""
    return [_case(size, durability) for durability in (CACHING, DURABLE) for size in (100, 1 << 10)]
