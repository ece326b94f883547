"""What `penstock group describe` asks of a cluster, and how it shows it.

Owns one group's picture: its members with what they have, and where they stand.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

from penstock.cli import offsets_view
from penstock.cli.asking import counted
from penstock.cli.lag import Looker, Standing
from penstock.cli.output import CONTROL_CHARACTERS, Column, print_json, print_table
from penstock.client.admin import Admin
from penstock.client.errors import BrokerError
from penstock.client.group_values import GroupMember
from penstock.client.metadata import TopicPartition
from penstock.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, by group id, and what went wrong."""

    groups: Sequence[tuple[str, Standing]]
    errors: Sequence[BrokerError]


async def ask(admin: Admin, group_ids: Iterable[str], clock: Clock) -> Found:
    """Ask for the named groups."""
    groups: list[tuple[str, Standing]] = []
    errors: list[BrokerError] = []
    for group_id in dict.fromkeys(group_ids):
        try:
            standing = await Looker(admin, clock, (), group_id).look()
        except BrokerError as error:
            errors.append(error)
            continue
        groups.append((group_id, standing))
        errors += standing.errors
    return Found(groups, errors)


def show(groups: Sequence[tuple[str, Standing]], *, as_json: bool) -> None:
    """Print each group."""
    for position, (group_id, standing) in enumerate(groups):
        if as_json:
            print_json(_as_json(group_id, standing))
            continue
        if position:
            click.echo()
        _show(group_id, standing)


def _show(group_id: str, standing: Standing) -> None:
    click.echo(CONTROL_CHARACTERS.sub("?", _headline(group_id, standing)))
    members: Sequence[GroupMember] = () if standing.group is None else standing.group.members
    if members:
        columns = [Column("MEMBER"), Column("CLIENT"), Column("HOST"), Column("PARTITIONS")]
        print_table(columns, [_member_row(member) for member in members])
    if standing.partitions:
        if members:
            click.echo()
        print_table(*offsets_view.partition_table(standing, None, with_group=True))


def _headline(group_id: str, standing: Standing) -> str:
    group = standing.group
    if group is None:
        return f"group {group_id}: only committed offsets"
    parts = [f"group {group_id}", f"{group.state}, {counted(len(group.members), 'member')}"]
    parts.append(f"{group.kind} protocol" + (f" with {group.protocol}" if group.protocol else ""))
    if group.epoch is not None:
        parts.append(f"epoch {group.epoch}")
    return f"{parts[0]}: {', '.join(parts[1:])}, coordinator {group.coordinator}"


def _member_row(member: GroupMember) -> Sequence[object]:
    shown = partitions_text(member.assignment)
    if member.target_assignment is not None and list(member.target_assignment) != list(member.assignment):
        shown = f"{shown or 'none'}, to become {partitions_text(member.target_assignment) or 'none'}"
    return (offsets_view.member_text(member), member.client_id, member.client_host, shown)


def partitions_text(partitions: Sequence[TopicPartition]) -> str:
    """`orders:0-2,5 bills:0`."""
    topics: dict[str, list[int]] = {}
    for topic, index in sorted(partitions):
        topics.setdefault(topic, []).append(index)
    return " ".join(f"{topic}:{_ranges(indexes)}" for topic, indexes in topics.items())


def _ranges(indexes: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for index in indexes:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _as_json(group_id: str, standing: Standing) -> dict[str, object]:
    group = standing.group
    picture = offsets_view.as_json(standing, None, group_id)
    return {
        "group": group_id,
        "state": None if group is None else group.state,
        "type": None if group is None else group.kind,
        "protocol": None if group is None else group.protocol,
        "coordinator": None if group is None else group.coordinator,
        "epoch": None if group is None else group.epoch,
        "members": [] if group is None else [_member_as_json(member) for member in group.members],
        "partitions": picture["partitions"],
        "total": picture["total"],
    }


def _member_as_json(member: GroupMember) -> dict[str, object]:
    return {
        "member_id": member.member_id,
        "group_instance_id": member.group_instance_id,
        "client_id": member.client_id,
        "client_host": member.client_host,
        "epoch": member.epoch,
        "partitions": [{"topic": topic, "partition": index} for topic, index in member.assignment],
        "target_partitions": None
        if member.target_assignment is None
        else [{"topic": topic, "partition": index} for topic, index in member.target_assignment],
    }


__all__ = ["Found", "ask", "partitions_text", "show"]
