"""How the standing of partitions and groups looks: as tables, and as JSON.

Owns the look only.
"""

import sys
from collections.abc import Sequence

from penstock.cli import topic_backlog
from penstock.cli.lag import GroupStanding, PartitionStanding, Standing
from penstock.cli.moments import span_text, time_text
from penstock.cli.output import Column
from penstock.cli.rates import Rate, Rates
from penstock.client.group_values import GroupMember

_SHORT_ID_LENGTH = 14
Table = tuple[list[Column], list[Sequence[object]]]


def partition_table(standing: Standing, rates: Rates | None, *, with_group: bool) -> Table:
    """Columns and rows, the sum last."""
    columns = [Column("TOPIC"), Column("PARTITION", is_number=True)]
    columns += [
        Column("START", is_number=True, spared=4 if with_group else 0),
        Column("HIGH WATERMARK", is_number=True, spared=1 if with_group else 0),
        Column("LAST STABLE", is_number=True, spared=5 if with_group else 0),
    ]
    if with_group:
        columns.append(Column("COMMITTED", is_number=True, spared=2))
        columns += [Column(title, is_number=True) for title in ("LAG", "TIME LAG")]
    if rates is not None:
        columns += [Column(title, is_number=True) for title in _rate_titles(with_group)]
    if with_group:
        columns += [Column("MEMBER", spared=3), Column("CLIENT", spared=7), Column("HOST", spared=6)]
    rows = [
        _row(each, None if rates is None else rates.partitions[each.partition], with_group, rates is not None)
        for each in standing.partitions
    ]
    if len(standing.partitions) > 1:
        rows.append(_sum_row(standing, rates, with_group))
    return columns, rows


def _rate_titles(with_group: bool) -> Sequence[str]:
    return ("IN/S", "OUT/S", "DRAINED IN") if with_group else ("IN/S",)


def _row(each: PartitionStanding, rate: Rate | None, with_group: bool, with_rates: bool) -> Sequence[object]:
    cells: list[object] = [*each.partition, each.log_start, each.high_watermark, each.last_stable]
    if with_group:
        cells += [each.committed, each.lag, span_text(each.lag_ms)]
    if with_rates and rate is not None:
        cells += _rate_cells(rate, with_group)
    if with_group:
        cells += _owner_cells(each.owner)
    return cells


def _rate_cells(rate: Rate, with_group: bool) -> Sequence[object]:
    cells = [_rate_text(rate.incoming_per_s)]
    if with_group:
        drained_in_s = rate.drained_in_s
        cells += [
            _rate_text(rate.consumed_per_s),
            span_text(None if drained_in_s is None else drained_in_s * 1000),
        ]
    return cells


def _rate_text(per_second: float | None) -> str | None:
    if per_second is None:
        return None
    return f"{per_second:.0f}" if per_second >= 100 or per_second == 0 else f"{per_second:.1f}"


def _owner_cells(owner: GroupMember | None) -> Sequence[object]:
    if owner is None:
        return (None, None, None)
    return (member_text(owner), owner.client_id, owner.client_host)


def member_text(member: GroupMember) -> str:
    """The static id of a member or else its member id; on a terminal cut to what tells one from another."""
    name = member.group_instance_id or member.member_id
    if len(name) <= _SHORT_ID_LENGTH or not sys.stdout.isatty():
        return name
    # A member id is the client's name and a UUID: the beginning of the UUID is what differs.
    shown = name.removeprefix(f"{member.client_id}-")
    return f"{shown[: _SHORT_ID_LENGTH - 1]}…" if len(shown) > _SHORT_ID_LENGTH else shown


def _sum_row(standing: Standing, rates: Rates | None, with_group: bool) -> Sequence[object]:
    partitions = standing.partitions
    cells: list[object] = [
        "total",
        len(partitions),
        _sum([each.log_start for each in partitions]),
        _sum([each.high_watermark for each in partitions]),
        _sum([each.last_stable for each in partitions]),
    ]
    if with_group:
        cells += [
            _sum([each.committed for each in partitions]),
            _sum([each.lag for each in partitions]),
            span_text(standing.lag_ms),
        ]
    if rates is not None:
        cells += _rate_cells(rates.total, with_group)
    if with_group:
        cells += ["", "", ""]
    return cells


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def group_table(groups: Sequence[GroupStanding]) -> Table:
    """One row for each group that consumes a topic."""
    columns = [Column("GROUP"), Column("STATE")]
    columns += [Column(title, is_number=True) for title in ("PARTITIONS", "LAG", "TIME LAG")]
    return columns, [
        (
            each.listing.group_id,
            each.listing.state,
            each.committed_count,
            each.lag,
            span_text(each.lag_ms),
        )
        for each in groups
    ]


def backlog_table(standing: Standing) -> Table:
    """One row for each partition whose backlog is bounded."""
    return topic_backlog.table(standing.backlogs, with_topic=True)


def as_json(standing: Standing, rates: Rates | None, group_id: str | None) -> dict[str, object]:
    """All of a look as one object."""
    picture: dict[str, object] = {"time": time_text(standing.taken_at_ms)}
    if group_id is not None:
        picture |= {"group": group_id, "state": None if standing.group is None else standing.group.state}
    partitions = standing.partitions
    with_group = group_id is not None
    total: dict[str, object] = {
        "log_start": _sum([each.log_start for each in partitions]),
        "high_watermark": _sum([each.high_watermark for each in partitions]),
        "last_stable": _sum([each.last_stable for each in partitions]),
    }
    if with_group:
        committed = _sum([each.committed for each in partitions])
        total |= {"committed": committed, "lag": standing.lag, "lag_ms": standing.lag_ms}
    if rates is not None:
        total |= _rate_as_json(rates.total, with_group)
    picture["partitions"] = [
        _partition_as_json(each, None if rates is None else rates.partitions[each.partition], with_group)
        | {"backlog": topic_backlog.as_json(standing.backlogs.get(each.partition))}
        for each in partitions
    ]
    picture["total"] = total
    if not with_group:
        picture["groups"] = [_group_as_json(each) for each in standing.groups]
    return picture


def _partition_as_json(each: PartitionStanding, rate: Rate | None, with_group: bool) -> dict[str, object]:
    picture: dict[str, object] = {
        "topic": each.partition.topic,
        "partition": each.partition.partition,
        "log_start": each.log_start,
        "high_watermark": each.high_watermark,
        "last_stable": each.last_stable,
    }
    if with_group:
        owner = each.owner
        picture |= {
            "committed": each.committed,
            "lag": each.lag,
            "lag_ms": each.lag_ms,
            "member_id": owner and owner.member_id,
            "group_instance_id": owner and owner.group_instance_id,
            "client_id": owner and owner.client_id,
            "client_host": owner and owner.client_host,
        }
    return picture if rate is None else picture | _rate_as_json(rate, with_group)


def _rate_as_json(rate: Rate, with_group: bool) -> dict[str, object]:
    picture: dict[str, object] = {"in_per_s": _rounded(rate.incoming_per_s)}
    if with_group:
        picture |= {
            "out_per_s": _rounded(rate.consumed_per_s),
            "drained_in_s": _rounded(rate.drained_in_s),
        }
    return picture


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _group_as_json(each: GroupStanding) -> dict[str, object]:
    return {
        "group": each.listing.group_id,
        "state": each.listing.state,
        "partitions": each.committed_count,
        "lag": each.lag,
        "lag_ms": each.lag_ms,
    }


__all__ = ["as_json", "backlog_table", "group_table", "member_text", "partition_table"]
