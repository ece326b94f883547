"""How many records a second does a real client get out? librdkafka, records of 100 B and 1 KB, one partition assigned by hand."""

from bench import librdkafka
from bench.driver import Limits, Load, produce
from bench.fetch_frames import PRELOAD_SECONDS_MAX
from bench.produce_frames import batch_of, size_name
from bench.rounds import Case, Scale
from bench.subjects import CACHING, Subject

BENCH = "consume_records"


def _case(value_size_bytes: int) -> Case:
    end_offsets: dict[str, int] = {}

    def preload(subject: Subject, topic: str, scale: Scale) -> None:
        batch = batch_of(1 << 20, value_size_bytes)
        limits = Limits(PRELOAD_SECONDS_MAX, scale.bytes_max, max(1, scale.records_max // batch.record_count))
        end_offsets[subject.name] = produce(
            subject.address, topic, batch, window=1, limits=limits
        ).record_count

    def measure(subject: Subject, topic: str, scale: Scale) -> Load:
        count = end_offsets[subject.name]
        return librdkafka.consume_records(
            subject.bootstrap, topic, record_count=count, seconds=10 + scale.seconds, server_pid=subject.pid
        )

    return Case(
        BENCH, f"{size_name(value_size_bytes)} records", CACHING, ("penstock", "kafka"), measure, preload
    )


def cases() -> list[Case]:
    """The rows of this bench."""
    return [_case(100), _case(1 << 10)]
