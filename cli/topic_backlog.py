"""How full the bounded backlogs of topics are, and what is kept for who is behind, as `penstock topic describe` tells.

Owns the questions to the cluster and the table. What counts is the broker's rule (`docs/peak-shaving.md`), applied to what it answers one after the other:
on a topic in use the figures are those of the moment, not exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.cli.output import Column
from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigEntry, FoundOffset
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition

_ALL_GROUPS = "*"
_NO_BOUND = -1


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the slowest counted group has left of a partition."""

    group: str
    unconsumed: int
    """Records, by offsets."""
    max_records: int | None
    kept: int | None
    """Of these, the ones that retention would be rid of by time; None where it keeps nothing for anybody."""


async def ask(
    admin: Admin,
    topic: str,
    configs: Mapping[str, ConfigEntry],
    ends: Mapping[int, tuple[int, int]],
    now_ms: int,
) -> dict[int, Backlog]:
    """The backlogs of a topic by partition; none where no group counts. `ends` are the start and end offsets of its partitions.

    Raises BrokerError.
    """
    groups = _names(configs)
    if _ALL_GROUPS in groups:
        groups = [listing.group_id for listing in await admin.list_groups()]
    partitions = [TopicPartition(topic, index) for index in ends]
    slowest: dict[int, tuple[int, str]] = {}
    for group_id in groups:
        for place, committed in (await admin.list_group_offsets(group_id, partitions)).items():
            if isinstance(committed, OffsetAndMetadata):
                found = (committed.offset, group_id)
                slowest[place.partition] = min(found, slowest.get(place.partition, found))
    expired = await _expired(admin, partitions, configs, now_ms) if slowest else None
    backlogs: dict[int, Backlog] = {}
    max_records = _number(configs, "backlog.max.records")
    for index, (offset, group_id) in slowest.items():
        start, end = ends[index]
        first = max(offset, start)
        kept = None if expired is None else max(expired.get(index, end) - first, 0)
        backlogs[index] = Backlog(group_id, max(end - first, 0), max_records, kept)
    return backlogs


async def _expired(
    admin: Admin, partitions: Sequence[TopicPartition], configs: Mapping[str, ConfigEntry], now_ms: int
) -> dict[int, int] | None:
    """By partition the first offset that retention.ms spares; missing where there is none. None where nothing is kept for anybody."""
    keeps = configs.get("retention.keep.unconsumed")
    retention_ms = _number(configs, "retention.ms")
    if keeps is None or keeps.value != "true" or retention_ms is None:
        return None
    found = await admin.list_offsets(dict.fromkeys(partitions, max(now_ms - retention_ms, 0)))
    return {
        place.partition: each.offset
        for place, each in found.items()
        if isinstance(each, FoundOffset) and each.offset >= 0
    }


def _names(configs: Mapping[str, ConfigEntry]) -> list[str]:
    entry = configs.get("backlog.groups")
    return [name.strip() for name in (entry.value or "").split(",") if name.strip()] if entry else []


def _number(configs: Mapping[str, ConfigEntry], name: str) -> int | None:
    entry = configs.get(name)
    if entry is None or entry.value is None:
        return None
    number = int(entry.value)
    return None if number == _NO_BOUND else number


def table(backlogs: Mapping[int, Backlog]) -> tuple[list[Column], list[Sequence[object]]]:
    """Columns and rows, by partition."""
    columns = [
        Column("PARTITION", is_number=True),
        Column("UNCONSUMED", is_number=True),
        Column("OF AT MOST", is_number=True),
        Column("BY GROUP"),
    ]
    rows: list[Sequence[object]] = [
        (index, each.unconsumed, each.max_records, each.group) for index, each in sorted(backlogs.items())
    ]
    if any(each.kept is not None for each in backlogs.values()):
        columns.append(Column("KEPT PAST RETENTION", is_number=True))
        rows = [(*row, each.kept) for row, (_, each) in zip(rows, sorted(backlogs.items()), strict=True)]
    return columns, rows


__all__ = ["Backlog", "ask", "table"]
