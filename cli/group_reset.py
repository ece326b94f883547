"""What `penstock group reset` would commit: the plan, before anything is done.

Owns how a target (earliest, latest, a time, an offset, a shift) becomes an offset of each partition. Every offset is taken into the range that
the log has, as Kafka's own tool does. Commits nothing.
"""

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from penstock.cli.failure import CalledWrongly, CommandFailed
from penstock.client.admin import Admin
from penstock.client.admin_values import EARLIEST, LATEST, FoundOffset
from penstock.client.errors import BrokerError
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicMetadata, TopicPartition


class Kind(enum.Enum):
    """Where to."""

    EARLIEST = enum.auto()
    LATEST = enum.auto()
    TIME = enum.auto()
    OFFSET = enum.auto()
    SHIFT = enum.auto()


@dataclass(frozen=True, slots=True)
class Target:
    """Where to; `value` is a timestamp in ms, an offset or a distance."""

    kind: Kind
    value: int = 0


@dataclass(frozen=True, slots=True)
class PlannedReset:
    """One partition's committed offset (None: none so far), and the one to come."""

    partition: TopicPartition
    committed: int | None
    new: int

    @property
    def change(self) -> int | None:
        """Records that are skipped, or (negative) consumed again."""
        return None if self.committed is None else self.new - self.committed


@dataclass(frozen=True, slots=True)
class TopicChoice:
    """A topic, and which of its partitions; None: all."""

    topic: str
    partitions: Sequence[int] | None


def parse_topic(text: str) -> TopicChoice:
    """`orders`, `orders:0`, `orders:0,2,5-7`."""
    topic, separator, chosen = text.partition(":")
    if not topic:
        raise CalledWrongly(f"--topic: {text!r} names no topic")
    return TopicChoice(topic, parse_partitions(chosen, f"--topic: {text!r}") if separator else None)


def parse_partitions(text: str, where: str) -> Sequence[int]:
    """`0,2,5-7`. `where` begins the complaint where it is no such list."""
    found: set[int] = set()
    for part in text.split(","):
        bounds = re.fullmatch(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", part)
        if bounds is None:
            raise CalledWrongly(f"{where}: {part!r} is no partition; write them as 0,2,5-7")
        first = int(bounds[1])
        last = int(bounds[2] or first)
        if last < first or last - first > 100_000:
            raise CalledWrongly(f"{where}: {part!r} is no range of partitions")
        found.update(range(first, last + 1))
    return sorted(found)


async def plan(
    admin: Admin, group_id: str, choices: Sequence[TopicChoice], target: Target
) -> list[PlannedReset]:
    """The reset of each chosen partition; without choices of all that the group has committed offsets for.

    Raises CommandFailed where there is nothing to reset, or a partition can't be: then none is.
    """
    outcomes = await admin.list_group_offsets(group_id)
    _raise_first(outcomes.values())
    committed = {key: each.offset for key, each in outcomes.items() if isinstance(each, OffsetAndMetadata)}
    partitions = await _chosen(admin, choices) if choices else sorted(committed)
    if not partitions:
        raise CommandFailed(f"group {group_id} has no committed offsets; name topics with --topic")
    if target.kind is Kind.SHIFT:
        missing = [str(key) for key in partitions if key not in committed]
        if missing:
            raise CommandFailed(f"nothing to shift: no offset is committed for {', '.join(missing)}")
    starts = await _offsets(admin, partitions, EARLIEST)
    ends = await _offsets(admin, partitions, LATEST)
    found: Mapping[TopicPartition, int] = {}
    if target.kind is Kind.TIME:
        found = await _offsets(admin, partitions, target.value)
    return [
        PlannedReset(
            key,
            committed.get(key),
            _new_offset(target, committed.get(key, 0), starts[key], ends[key], found.get(key, -1)),
        )
        for key in partitions
    ]


def _new_offset(target: Target, committed: int, start: int, end: int, found: int) -> int:
    match target.kind:
        case Kind.EARLIEST:
            wanted = start
        case Kind.LATEST:
            wanted = end
        case Kind.TIME:
            wanted = end if found < 0 else found  # no record is that late
        case Kind.OFFSET:
            wanted = target.value
        case Kind.SHIFT:
            wanted = committed + target.value
    return min(max(wanted, start), end)


async def _chosen(admin: Admin, choices: Sequence[TopicChoice]) -> list[TopicPartition]:
    described = await admin.describe_topics({choice.topic for choice in choices})
    _raise_first(described.values())
    partitions: set[TopicPartition] = set()
    for choice in choices:
        topic = described[choice.topic]
        assert isinstance(topic, TopicMetadata)
        wanted = topic.partitions if choice.partitions is None else choice.partitions
        unknown = [index for index in wanted if index not in topic.partitions]
        if unknown:
            raise CommandFailed(f"topic {choice.topic} has no partition {', '.join(map(str, unknown))}")
        partitions.update(TopicPartition(choice.topic, index) for index in wanted)
    return sorted(partitions)


async def _offsets(
    admin: Admin, partitions: Iterable[TopicPartition], timestamp_ms: int
) -> Mapping[TopicPartition, int]:
    outcomes = await admin.list_offsets(dict.fromkeys(partitions, timestamp_ms))
    _raise_first(outcomes.values())
    return {key: each.offset for key, each in outcomes.items() if isinstance(each, FoundOffset)}


def _raise_first(outcomes: Iterable[object]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, BrokerError):
            raise outcome


__all__ = ["Kind", "PlannedReset", "Target", "TopicChoice", "parse_partitions", "parse_topic", "plan"]
