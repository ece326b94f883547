"""Where `penstock consume` begins and ends: from what people write to offsets.

Owns the words for a bound, and the offset that each stands for in a partition. Where following begins, and in a group, a time stands for the first
record that is not older (ListOffsets), or for the end where there is none; a bounded read chooses by the timestamps themselves.
"""

import enum
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from penstock.cli.failure import CalledWrongly, CommandFailed
from penstock.cli.moments import NoTime, parse_time
from penstock.client.admin import Admin
from penstock.client.admin_values import EARLIEST, LATEST, FoundOffset
from penstock.client.errors import BrokerError
from penstock.client.metadata import TopicMetadata, TopicPartition

_WORDS = {
    "beginning": "BEGINNING",
    "earliest": "BEGINNING",
    "end": "END",
    "latest": "END",
    "stored": "STORED",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
BOUND_HELP = "beginning, end, an offset, -N (the last N), or a time: ISO 8601, @ms since 1970, -1h, '30m ago'"


class Kind(enum.Enum):
    """What a bound is."""

    BEGINNING = enum.auto()
    END = enum.auto()
    STORED = enum.auto()
    OFFSET = enum.auto()
    LAST = enum.auto()
    TIME = enum.auto()


@dataclass(frozen=True, slots=True)
class Bound:
    """A beginning or an end; `value` is an offset, a number of records, or a timestamp in ms."""

    kind: Kind
    value: int = 0


def parse_bound(text: str, *, now_ms: int, zone: tzinfo | None, option: str) -> Bound:
    """Read `beginning`, `end`, `stored`, `1000`, `-10`, or a time. A bare number is an offset, `@` before it makes it a time.

    Raises CalledWrongly, with the name of the option.
    """
    stripped = text.strip()
    if stripped.lower() in _WORDS:
        return Bound(Kind[_WORDS[stripped.lower()]])
    if re.fullmatch(r"-?[0-9]{1,18}", stripped):
        number = int(stripped)
        return Bound(Kind.OFFSET, number) if number >= 0 and stripped[0] != "-" else Bound(Kind.LAST, -number)
    try:
        return Bound(Kind.TIME, parse_time(stripped, now_ms=now_ms, zone=zone))
    except NoTime:
        raise CalledWrongly(f"{option}: {text!r} is none of {BOUND_HELP}") from None


async def partitions_of(
    admin: Admin, topics: Iterable[str], chosen: Sequence[int] | None
) -> list[TopicPartition]:
    """All partitions of the topics, or those that are chosen.

    Raises BrokerError for a topic that is not there, CommandFailed for a partition.
    """
    found: list[TopicPartition] = []
    for name, topic in (await admin.describe_topics(topics)).items():
        if not isinstance(topic, TopicMetadata):
            raise topic
        unknown = [index for index in chosen or () if index not in topic.partitions]
        if unknown:
            raise CommandFailed(f"topic {name} has no partition {', '.join(map(str, unknown))}")
        found += [
            TopicPartition(name, index) for index in (sorted(topic.partitions) if chosen is None else chosen)
        ]
    return found


async def resolve(
    admin: Admin, partitions: Sequence[TopicPartition], bound: Bound, *, read_committed: bool
) -> dict[TopicPartition, int]:
    """The offset that a bound stands for in each partition, within what is there now. Raises BrokerError."""
    starts = await _offsets(admin, dict.fromkeys(partitions, EARLIEST), read_committed)
    ends = await _offsets(admin, dict.fromkeys(partitions, LATEST), read_committed)
    found: Mapping[TopicPartition, int] = {}
    if bound.kind is Kind.TIME:
        found = await _offsets(admin, dict.fromkeys(partitions, bound.value), read_committed)
    offsets: dict[TopicPartition, int] = {}
    for key in partitions:
        match bound.kind:
            case Kind.BEGINNING:
                offset = starts[key]
            case Kind.OFFSET:
                offset = bound.value
            case Kind.LAST:
                offset = ends[key] - bound.value
            case Kind.TIME if found[key] >= 0:
                offset = found[key]
            case _:
                offset = ends[key]
        offsets[key] = min(max(offset, starts[key]), ends[key])
    return offsets


async def reading_bound(
    admin: Admin, partitions: Sequence[TopicPartition], bound: Bound, *, read_committed: bool
) -> Callable[[str], Mapping[int, int | datetime]]:
    """What `Consumer.read` takes for a bound, by topic: times as they are (they choose records, not offsets), all else as an offset.

    Raises BrokerError; CalledWrongly for a time that no calendar has.
    """
    if bound.kind is Kind.TIME:
        try:
            moment = _EPOCH + timedelta(milliseconds=bound.value)
        except OverflowError:
            raise CalledWrongly(f"@{bound.value} is a time out of range") from None
        return lambda topic: {key.partition: moment for key in partitions if key.topic == topic}
    offsets = await resolve(admin, partitions, bound, read_committed=read_committed)
    return lambda topic: {key.partition: offsets[key] for key in partitions if key.topic == topic}


async def _offsets(
    admin: Admin, timestamps_ms: Mapping[TopicPartition, int], read_committed: bool
) -> dict[TopicPartition, int]:
    offsets: dict[TopicPartition, int] = {}
    for key, outcome in (await admin.list_offsets(timestamps_ms, read_committed=read_committed)).items():
        if isinstance(outcome, BrokerError):
            raise outcome
        assert isinstance(outcome, FoundOffset)
        offsets[key] = outcome.offset
    return offsets


__all__ = ["BOUND_HELP", "Bound", "Kind", "parse_bound", "partitions_of", "reading_bound", "resolve"]
