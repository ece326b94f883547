"""`penstock cluster`: what brokers there are and what they hold; spread partitions over them, empty one, move by hand.

Owns the commands and their words. What a plan is, is in `cluster_plan`; how it is carried out, in `cluster_moves`.
"""

import sys
from collections.abc import Callable

import click

from penstock.cli.asking import bootstrap_option, counted, json_option, real_ports, with_admin
from penstock.cli.cluster_files import read_reassignments
from penstock.cli.cluster_plan import Plan, drain, rebalance
from penstock.cli.cluster_throttle import parse_rate
from penstock.cli.cluster_view import ClusterLook, look, show
from penstock.cli.failure import CalledWrongly, CommandFailed
from penstock.client.admin import Admin
from penstock.client.errors import BrokerError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.environment import Environment

yes_option = click.option("--yes", is_flag=True, help="Don't ask.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show the plan, but do nothing.")
throttle_option = click.option(
    "--throttle",
    metavar="BYTES/s",
    callback=parse_rate,
    help="The most that moves may take from and to each broker, as 50MB.",
)


@click.group("cluster")
def command() -> None:
    """Show the brokers of a cluster, and move partitions between them while they are in use."""


@command.command()
@bootstrap_option
@json_option
@click.pass_obj
def status(environment: Environment | None, bootstrap: str, as_json: bool) -> None:
    """Show brokers, what partitions lack, and what is moving how far."""
    show(with_admin(bootstrap, environment, look), as_json=as_json)


@command.command("rebalance")
@throttle_option
@dry_run_option
@yes_option
@bootstrap_option
@json_option
@click.pass_obj
def rebalance_(
    environment: Environment | None,
    throttle: int | None,
    dry_run: bool,
    yes: bool,
    bootstrap: str,
    as_json: bool,
) -> int:
    """Spread replicas and leaders over all brokers, by the fewest moves.

    Replicas of a partition stay in as many racks as there can be. The plan is shown first. Ctrl-C leaves the cluster moving what has begun; run it
    again, and it goes on.
    """

    def plan(found: ClusterLook) -> Plan:
        if found.gone:
            gone = ", ".join(map(str, found.gone))
            raise CommandFailed(
                f"replicas are on brokers that are not there: {gone}; start them, or move everything off each with "
                f"`penstock cluster drain {found.gone[0]}`"
            )
        return rebalance(found.placement())

    nothing = "replicas and leaders are spread evenly"
    return _move(environment, bootstrap, plan, nothing, throttle, dry_run=dry_run, yes=yes, as_json=as_json)


@command.command("drain")
@click.argument("node_id", metavar="NODE", type=click.IntRange(min=0))
@throttle_option
@dry_run_option
@yes_option
@bootstrap_option
@json_option
@click.pass_obj
def drain_(
    environment: Environment | None,
    node_id: int,
    throttle: int | None,
    dry_run: bool,
    yes: bool,
    bootstrap: str,
    as_json: bool,
) -> int:
    """Move everything off a broker, alive or dead, to the others; then it can be stopped for good.

    The plan is shown first. Ctrl-C leaves the cluster moving what has begun; run it again, and it goes on.
    """

    def plan(found: ClusterLook) -> Plan:
        placement = found.placement()
        is_known = node_id in found.cluster.brokers or node_id in found.gone
        if not is_known:
            raise CommandFailed(f"there is no broker {node_id}")
        return drain(placement, node_id)

    nothing = f"broker {node_id} holds nothing"
    code = _move(environment, bootstrap, plan, nothing, throttle, dry_run=dry_run, yes=yes, as_json=as_json)
    if code == 0 and not dry_run:
        _tell_drained(with_admin(bootstrap, environment, look), node_id, as_json=as_json)
    return code


def _tell_drained(found: ClusterLook, node_id: int, *, as_json: bool) -> None:
    held = [partition for partition in found.partitions if node_id in found.target(partition)]
    if held:
        count = counted(len(held), "replica")
        raise CommandFailed(
            f"broker {node_id} has been given {count} meanwhile, as of {held[0]}: run it again"
        )
    if not as_json:
        then = f"`penstock cluster unregister {node_id}`"
        is_there = node_id in found.cluster.brokers
        click.echo(f"broker {node_id} is empty: {'stop it, then ' if is_there else ''}{then}")


@command.command()
@click.option(
    "--file",
    "--reassignment-json-file",
    "path",
    metavar="FILE",
    help="Partitions and their replicas, in the format of kafka-reassign-partitions.",
)
@click.option("--topic", help="Move all partitions of a topic, or those of --partition.")
@click.option("--partition", "indexes", metavar="N", type=click.IntRange(min=0), multiple=True)
@click.option("--to", metavar="NODE,…", help="The brokers for the replicas, the preferred leader first.")
@click.option("--execute", is_flag=True, help="Begin what the file says and return; print what undoes it.")
@click.option(
    "--verify", is_flag=True, help="Tell how far the file is; take the throttle away when all is done."
)
@click.option("--cancel", is_flag=True, help="Take moves back: those of the file or topic, else all.")
@throttle_option
@dry_run_option
@yes_option
@bootstrap_option
@json_option
@click.pass_obj
def reassign(
    environment: Environment | None,
    path: str | None,
    topic: str | None,
    indexes: tuple[int, ...],
    to: str | None,
    execute: bool,
    verify: bool,
    cancel: bool,
    throttle: int | None,
    dry_run: bool,
    yes: bool,
    bootstrap: str,
    as_json: bool,
) -> int:
    """Move partitions to brokers that you name.

    With --topic and --to, the plan is shown, carried out and waited for. With --file and --execute, --verify or --cancel it does what
    kafka-reassign-partitions does.
    """
    from penstock.cli import cluster_reassign as by_hand

    by_file = read_reassignments(real_ports(environment).files, path) if path is not None else None
    if sum((execute, verify, cancel)) > 1 or ((execute or verify) and by_file is None):
        raise CalledWrongly("give --file with one of --execute, --verify and --cancel")
    if cancel:
        which = by_hand.chosen(by_file, topic, indexes)
        return with_admin(bootstrap, environment, lambda admin: by_hand.cancel(admin, which))
    if by_file is not None and execute:
        return with_admin(bootstrap, environment, lambda admin: by_hand.begin(admin, by_file, throttle))
    if by_file is not None and verify:
        return with_admin(bootstrap, environment, lambda admin: by_hand.verify(admin, by_file))
    if by_file is None and (topic is None or to is None):
        raise CalledWrongly("give --topic and --to, or --file")

    def plan(found: ClusterLook) -> Plan:
        wanted = by_file if by_file is not None else by_hand.targets(found, topic or "", indexes, to or "")
        return by_hand.checked(found, wanted)

    nothing = "all is where it is to be"
    return _move(environment, bootstrap, plan, nothing, throttle, dry_run=dry_run, yes=yes, as_json=as_json)


@command.command()
@click.argument("node_id", metavar="NODE", type=click.IntRange(min=0))
@bootstrap_option
@click.pass_obj
def unregister(environment: Environment | None, node_id: int, bootstrap: str) -> None:
    """Remove what a broker that is stopped for good has left behind."""

    async def act(admin: Admin) -> str:
        found = await look(admin)
        held = [partition for partition in found.partitions if node_id in found.target(partition)]
        if held and node_id not in found.cluster.brokers:
            raise CommandFailed(
                f"broker {node_id} is to hold {counted(len(held), 'replica')} still: `penstock cluster drain {node_id}` first"
            )
        try:
            await admin.unregister_broker(node_id)
        except BrokerError as error:
            if error.code != ErrorCode.BROKER_ID_NOT_REGISTERED:
                raise
            return f"nothing is left of broker {node_id}"
        return f"broker {node_id} is unregistered"

    click.echo(with_admin(bootstrap, environment, act))


def _move(
    environment: Environment | None,
    bootstrap: str,
    plan: Callable[[ClusterLook], Plan],
    nothing: str,
    throttle: int | None,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Make a plan, show it, ask, and carry it out. What moves already is waited for as well."""
    from penstock.cli.cluster_moves import Work, carry_out, show_plan

    found = with_admin(bootstrap, environment, look)
    work = Work(found, plan(found), throttle)
    if not work.plan and not found.moves:
        if not as_json:
            click.echo(f"{nothing}; there is nothing to move")
        return 0
    show_plan(work, as_json=as_json)
    if found.moves and not as_json:
        click.echo(f"{counted(len(found.moves), 'partition')} on the move already")
    if dry_run:
        return 0
    if work.plan and not yes:
        if not sys.stdin.isatty():
            raise CalledWrongly("moving needs --yes where there is no terminal to ask on")
        if not click.confirm("Move them?", err=True):
            raise CommandFailed("nothing was moved")
    code = with_admin(bootstrap, environment, lambda admin: carry_out(admin, work, is_quiet=as_json))
    if code == 0 and not as_json:
        click.echo("done")
    return code


__all__ = ["command"]
