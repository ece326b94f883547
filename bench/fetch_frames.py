"""How fast is a topic read from its start to its end, and at what cost? Fetches made beforehand, one in flight, as consumers do.

The topic was just written, so it is in the page cache: this is about the broker, not about the disk.
"""

from bench.driver import Limits, Load, fetch, produce
from bench.produce_frames import batch_of, size_name
from bench.rounds import Case, Scale
from bench.subjects import CACHING, Subject

BENCH = "fetch_frames"
PRELOAD_SECONDS_MAX = 60


def _case(batch_size_bytes: int, value_size_bytes: int) -> Case:
    end_offsets: dict[str, int] = {}

    def preload(subject: Subject, topic: str, scale: Scale) -> None:
        batch = batch_of(batch_size_bytes, value_size_bytes)
        limits = Limits(PRELOAD_SECONDS_MAX, scale.bytes_max)
        end_offsets[subject.name] = produce(
            subject.address, topic, batch, window=4, limits=limits
        ).record_count

    def measure(subject: Subject, topic: str, scale: Scale) -> Load:
        limits = Limits(scale.seconds, scale.bytes_max)
        return fetch(
            subject.address,
            topic,
            end_offset=end_offsets[subject.name],
            limits=limits,
            server_pid=subject.pid,
        )

    name = f"{size_name(batch_size_bytes)} batches of {size_name(value_size_bytes)} records"
    return Case(BENCH, name, CACHING, ("penstock", "kafka"), measure, preload)


def cases() -> list[Case]:
    """The rows of this bench."""
    return [_case(16 << 10, 1 << 10), _case(1 << 20, 1 << 10), _case(1 << 20, 100)]
