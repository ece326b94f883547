"""`penstock group`: list, describe, delete and reset consumer groups of any Kafka-speaking cluster.

Owns what is asked and shown. Where a call goes and how it is retried is `penstock.client.admin_groups`'.

A reset is never done while the group has members: they would commit over it. The broker refuses it, too, so a member that joins between the look and
the commit is no danger.
"""

import sys
from collections.abc import Iterable, Sequence

import click

from penstock.cli.asking import bootstrap_option, counted, end, json_option, real_ports, with_admin
from penstock.cli.deletion import ask_before_deletion, tell_of_deletion
from penstock.cli.failure import CalledWrongly, CommandFailed, complain
from penstock.cli.group_reset import Kind, PlannedReset, Target, parse_topic, plan
from penstock.cli.moments import TIME_HELP, parse_time, parse_zone
from penstock.cli.output import Column, print_json, print_table
from penstock.client.admin import Admin
from penstock.client.errors import BrokerError, UnknownGroup
from penstock.client.group_values import GroupDescription, GroupKind, GroupListing, GroupState
from penstock.runtime.environment import Environment

_STATES = [str(state) for state in GroupState if state != GroupState.UNKNOWN]
_KINDS = [str(kind) for kind in GroupKind if kind != GroupKind.UNKNOWN]


@click.group("group")
def command() -> None:
    """List, describe, delete and reset consumer groups."""


@command.command("list")
@click.option(
    "--state",
    "states",
    type=click.Choice(_STATES, case_sensitive=False),
    multiple=True,
    metavar="STATE",
    help="Only groups in this state (Stable, Empty, …); may be repeated.",
)
@click.option(
    "--type",
    "kinds",
    type=click.Choice(_KINDS, case_sensitive=False),
    multiple=True,
    metavar="TYPE",
    help="Only groups of this protocol (classic, consumer, …); may be repeated.",
)
@bootstrap_option
@json_option
@click.pass_obj
def list_(
    environment: Environment | None,
    states: tuple[str, ...],
    kinds: tuple[str, ...],
    bootstrap: str,
    as_json: bool,
) -> None:
    """List the groups."""
    groups = with_admin(
        bootstrap,
        environment,
        lambda admin: admin.list_groups(states=map(GroupState, states), kinds=map(GroupKind, kinds)),
    )
    if as_json:
        for group in groups:
            print_json(_listing_as_json(group))
        return
    if not groups:
        click.echo("no groups", err=True)
        return
    print_table(
        [Column("GROUP"), Column("STATE"), Column("TYPE"), Column("PROTOCOL")],
        [(group.group_id, _known(group.state), _known(group.kind), group.protocol_type) for group in groups],
    )


def _known(name: GroupState | GroupKind) -> str | None:
    return None if name in (GroupState.UNKNOWN, GroupKind.UNKNOWN) else str(name)


def _listing_as_json(group: GroupListing) -> dict[str, object]:
    return {
        "group": group.group_id,
        "state": _known(group.state),
        "type": _known(group.kind),
        "protocol_type": group.protocol_type,
    }


@command.command()
@click.argument("group_ids", metavar="GROUP...", nargs=-1, required=True)
@bootstrap_option
@json_option
@click.pass_obj
def describe(
    environment: Environment | None, group_ids: tuple[str, ...], bootstrap: str, as_json: bool
) -> None:
    """Show members, what they have, and how far the group is behind."""
    from penstock.cli import group_description

    ports = real_ports(environment)
    found = with_admin(bootstrap, ports, lambda admin: group_description.ask(admin, group_ids, ports.clock))
    group_description.show(found.groups, as_json=as_json)
    sys.stdout.flush()
    end(found.errors)


@command.command()
@click.argument("group_ids", metavar="GROUP...", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.option("--if-exists", is_flag=True, help="Not an error where the group is not there.")
@bootstrap_option
@json_option
@click.pass_obj
def delete(
    environment: Environment | None,
    group_ids: tuple[str, ...],
    yes: bool,
    if_exists: bool,
    bootstrap: str,
    as_json: bool,
) -> None:
    """Delete groups with their committed offsets. A group that has members is refused."""
    ask_before_deletion("group", group_ids, "all committed offsets", yes=yes)
    outcomes = with_admin(bootstrap, environment, lambda admin: admin.delete_groups(group_ids))
    tell_of_deletion("group", outcomes, as_json=as_json, forgiven=UnknownGroup if if_exists else None)


@command.command()
@click.argument("group_id", metavar="GROUP")
@click.option("--to-earliest", is_flag=True, help="To the first record that is still there.")
@click.option("--to-latest", is_flag=True, help="To the end: only what comes from now on.")
@click.option("--to-time", metavar="TIME", help=f"To the first record not older than this: {TIME_HELP}.")
@click.option(
    "--to-offset", metavar="N", type=click.IntRange(min=0), help="To this offset in every partition."
)
@click.option("--shift", metavar="N", type=int, help="By N records: forward, or back where negative.")
@click.option(
    "--topic",
    "topics",
    metavar="TOPIC[:PARTITIONS]",
    multiple=True,
    help="Only this topic, or partitions of it (orders:0,2,5-7); may be repeated.  [default: all of the group]",
)
@click.option("--tz", "zone", default="UTC", show_default=True, help="Time zone of a time that names none.")
@click.option("--yes", is_flag=True, help="Do it; without this the plan is shown and nothing is done.")
@bootstrap_option
@json_option
@click.pass_obj
def reset(
    environment: Environment | None,
    group_id: str,
    to_earliest: bool,
    to_latest: bool,
    to_time: str | None,
    to_offset: int | None,
    shift: int | None,
    topics: tuple[str, ...],
    zone: str,
    yes: bool,
    bootstrap: str,
    as_json: bool,
) -> None:
    """Change what a group has committed, while it has no members.

    Shows the plan first; does it only with --yes. Offsets are taken into the range that the log has.
    """
    targets = [Target(Kind.EARLIEST)] * to_earliest + [Target(Kind.LATEST)] * to_latest
    if to_time is not None:
        now_ms = real_ports(environment).clock.wall_ms()
        targets.append(Target(Kind.TIME, parse_time(to_time, now_ms=now_ms, zone=parse_zone(zone))))
    if to_offset is not None:
        targets.append(Target(Kind.OFFSET, to_offset))
    if shift is not None:
        targets.append(Target(Kind.SHIFT, shift))
    if len(targets) != 1:
        raise CalledWrongly(
            "say where to, once: --to-earliest, --to-latest, --to-time, --to-offset or --shift"
        )
    choices = [parse_topic(text) for text in topics]

    async def act(admin: Admin) -> None:
        await _refuse_members(admin, group_id)
        planned = await plan(admin, group_id, choices, targets[0])
        if not as_json:
            _show_plan(planned)
        outcomes: dict[PlannedReset, BrokerError | None] = {}
        if yes:
            sys.stdout.flush()
            answers = await admin.alter_group_offsets(
                group_id, {each.partition: each.new for each in planned}
            )
            outcomes = {each: answers.get(each.partition) for each in planned}
        if as_json:
            for each in planned:
                print_json(_planned_as_json(group_id, each, done=yes and outcomes[each] is None))
        _end_reset(group_id, yes, as_json, planned, [each for each in outcomes.values() if each is not None])

    with_admin(bootstrap, environment, act)


async def _refuse_members(admin: Admin, group_id: str) -> None:
    described = (await admin.describe_groups([group_id]))[group_id]
    if isinstance(described, GroupDescription) and described.members:
        members = counted(len(described.members), "member")
        raise CommandFailed(
            f"group {group_id} has {members} ({described.state}): stop them before its offsets are reset"
        )
    if isinstance(described, BrokerError) and not isinstance(described, UnknownGroup):
        raise described


def _show_plan(planned: Iterable[PlannedReset]) -> None:
    columns = [Column("TOPIC"), *(Column(title, is_number=True) for title in _PLAN_NUMBERS)]
    print_table(
        columns,
        [
            (*each.partition, each.committed, each.new, None if each.change is None else f"{each.change:+d}")
            for each in planned
        ],
    )


_PLAN_NUMBERS = ("PARTITION", "COMMITTED", "NEW", "CHANGE")


def _planned_as_json(group_id: str, each: PlannedReset, *, done: bool) -> dict[str, object]:
    return {
        "group": group_id,
        "topic": each.partition.topic,
        "partition": each.partition.partition,
        "committed": each.committed,
        "new": each.new,
        "done": done,
    }


def _end_reset(
    group_id: str, yes: bool, as_json: bool, planned: Sequence[PlannedReset], errors: Sequence[BrokerError]
) -> None:
    sys.stdout.flush()
    if not yes:
        complain("this is the plan; nothing was done: add --yes to do it")
    elif not errors and not as_json:
        click.echo(f"reset {counted(len(planned), 'partition')} of group {group_id}", err=True)
    end(errors)
