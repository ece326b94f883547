"""How full the bounded backlogs of topics are, what their bounds have refused, and what retention keeps for who is behind.

Owns the question to the leaders, and the look, for `penstock offsets` and `penstock topic describe`. The figures are the leaders' own, those
that they admit batches by, each of one moment.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from penstock.cli.moments import span_text, time_text
from penstock.cli.output import Column, bytes_text
from penstock.client.admin import Admin
from penstock.client.errors import BrokerError, UnsupportedByBroker
from penstock.client.metadata import TopicMetadata, TopicPartition
from penstock.client.placement_values import PartitionBacklog

Backlogs = Mapping[TopicPartition, PartitionBacklog]
Cell = Callable[[PartitionBacklog], object]


async def ask(admin: Admin, topics: Iterable[TopicMetadata]) -> Backlogs:
    """What the leaders tell of the partitions with a bounded backlog. Nothing of brokers that don't tell: Apache Kafka's, or out of reach."""
    by_leader: dict[int, list[TopicPartition]] = {}
    for topic in topics:
        for partition in topic.partitions.values():
            if partition.leader >= 0:
                place = TopicPartition(topic.name, partition.index)
                by_leader.setdefault(partition.leader, []).append(place)
    found: dict[TopicPartition, PartitionBacklog] = {}
    for node_id, partitions in by_leader.items():
        try:
            folders = (await admin.describe_log_dirs([node_id], partitions))[node_id]
        except UnsupportedByBroker:
            continue
        if not isinstance(folders, BrokerError):
            for folder in folders:
                found |= folder.backlogs
    return dict(sorted(found.items()))


def table(backlogs: Backlogs, *, with_topic: bool) -> tuple[list[Column], list[Sequence[object]]]:
    """Columns and rows, by partition. A column is there where one of the partitions has something for it."""
    chosen: list[tuple[Column, Cell]] = []
    for is_wanted, column, cell in _COLUMNS:
        if any(is_wanted(each) for each in backlogs.values()):
            chosen.append((column, cell))
    columns = [Column("PARTITION", is_number=True), *(column for column, _ in chosen)]
    rows: list[Sequence[object]] = [
        (place.partition, *(cell(each) for _, cell in chosen)) for place, each in backlogs.items()
    ]
    if with_topic:
        columns = [Column("TOPIC"), *columns]
        rows = [(place.topic, *row) for place, row in zip(backlogs, rows, strict=True)]
    return columns, rows


def _always(_: PartitionBacklog) -> bool:
    return True


def _bytes(count: int | None) -> str | None:
    return None if count is None else bytes_text(count)


def _kept(each: PartitionBacklog) -> str | None:
    if each.kept_since_ms is None:
        return None
    return bytes_text(each.kept_bytes)


_COLUMNS: Sequence[tuple[Callable[[PartitionBacklog], bool], Column, Cell]] = (
    (_always, Column("UNCONSUMED", is_number=True), lambda each: each.records),
    (
        lambda each: each.max_records is not None,
        Column("OF AT MOST", is_number=True, spared=2),
        lambda each: each.max_records,
    ),
    (
        lambda each: each.max_bytes is not None,
        Column("BYTES", is_number=True),
        lambda each: _bytes(each.size_bytes),
    ),
    (
        lambda each: each.max_bytes is not None,
        Column("MAX BYTES", is_number=True, spared=5),
        lambda each: _bytes(each.max_bytes),
    ),
    (
        lambda each: each.max_age_ms is not None,
        Column("AGE", is_number=True, spared=4),
        lambda each: span_text(each.age_ms),
    ),
    (
        lambda each: each.max_age_ms is not None,
        Column("MAX AGE", is_number=True, spared=6),
        lambda each: span_text(each.max_age_ms),
    ),
    (_always, Column("BY GROUP"), lambda each: each.group),
    (
        lambda each: each.policy == "reject" or each.refused_records > 0,
        Column("REFUSED", is_number=True),
        lambda each: each.refused_records,
    ),
    (
        lambda each: each.policy != "reject" or each.held_batches > 0,
        Column("HELD", is_number=True, spared=3),
        lambda each: _bytes(each.held_bytes),
    ),
    (
        lambda each: each.timed_out_batches > 0,
        Column("TIMED OUT", is_number=True, spared=7),
        lambda each: each.timed_out_batches,
    ),
    (
        lambda each: each.throttled_ms > 0,
        Column("THROTTLED", is_number=True, spared=8),
        lambda each: span_text(each.throttled_ms),
    ),
    (lambda each: each.keeps_unconsumed, Column("KEPT FOR IT", is_number=True), _kept),
    (
        lambda each: each.kept_since_ms is not None,
        Column("KEPT SINCE", spared=9),
        lambda each: None if each.kept_since_ms is None else time_text(each.kept_since_ms, with_ms=False),
    ),
)


def as_json(backlog: PartitionBacklog | None) -> dict[str, object] | None:
    """One partition's; None where nothing bounds it."""
    if backlog is None:
        return None
    return {
        "group": backlog.group,
        "policy": backlog.policy,
        "unconsumed": backlog.records,
        "max_records": backlog.max_records,
        "bytes": backlog.size_bytes,
        "max_bytes": backlog.max_bytes,
        "age_ms": backlog.age_ms,
        "max_age_ms": backlog.max_age_ms,
        "refused_batches": backlog.refused_batches,
        "refused_records": backlog.refused_records,
        "held_batches": backlog.held_batches,
        "held_bytes": backlog.held_bytes,
        "timed_out_batches": backlog.timed_out_batches,
        "throttled_ms": backlog.throttled_ms,
        "keeps_unconsumed": backlog.keeps_unconsumed,
        "kept_segments": backlog.kept_segments,
        "kept_bytes": backlog.kept_bytes,
        "kept_since": None if backlog.kept_since_ms is None else time_text(backlog.kept_since_ms),
    }


__all__ = ["Backlogs", "as_json", "ask", "table"]
