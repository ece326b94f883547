"""`penstock consume`: records of topics on standard output.

Owns the flags, and how a run ends. The reading is `penstock.cli.consume_work`'s, the look of a record `penstock.cli.record_format`'s.

Ctrl-C, a closed pipe (`| head`) and a reached count end it; in a group what was written by then is committed.
"""

import sys
from typing import Literal

import click

from penstock.cli.asking import CLIENT_ID, bootstrap_option, real_ports, run_asking
from penstock.cli.bounds import BOUND_HELP, Bound, Kind, parse_bound
from penstock.cli.consume_work import Enough, GroupWork, Plan, Writer, follow, read_bounded
from penstock.cli.failure import CalledWrongly
from penstock.cli.group_reset import parse_partitions
from penstock.cli.interruption import Interruption, interruptible
from penstock.cli.moments import parse_day, parse_zone
from penstock.cli.record_format import FIELDS_HELP, Format, format_named
from penstock.client.admin import Admin
from penstock.consumer.consumer import Consumer
from penstock.runtime.environment import Environment
from penstock.runtime.standard_streams import ReaderGone, StandardOutput

Isolation = Literal["read_uncommitted", "read_committed"]


@click.command("consume", short_help="Print records.")
@click.argument("topics", metavar="TOPIC...", nargs=-1, required=True)
@click.option("--group", metavar="GROUP", help="Read as a member of this group, and commit what was printed.")
@click.option(
    "--group-protocol", type=click.Choice(["classic", "consumer"]), default="classic", show_default=True
)
@click.option(
    "--from",
    "start",
    metavar="WHERE",
    help=f"Begin at: {BOUND_HELP}. In a group: stored, or beginning or end for what it has not stored.  "
    "[default: beginning; in a group stored]",
)
@click.option("--to", "end", metavar="WHERE", help="End before this, or at what is the end now.")
@click.option("--day", metavar="DATE", help="Only this day, e.g. 2015-07-29; from its midnight to the next.")
@click.option(
    "--timezone",
    "--tz",
    "zone",
    metavar="ZONE",
    default="UTC",
    show_default=True,
    help="Time zone of days, and of times that name none.",
)
@click.option("--exit", "exits", is_flag=True, help="End at what is the end now, instead of following.")
@click.option(
    "--by-time",
    is_flag=True,
    help="All partitions in one order, that of the timestamps. Needs an end, no group.",
)
@click.option(
    "--max-rate",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Print at most N records a second, over all partitions.",
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N records.")
@click.option(
    "--partition", "partitions", metavar="N,…", multiple=True, help="Only these partitions: 0,2,5-7."
)
@click.option(
    "--isolation",
    type=click.Choice(["read_uncommitted", "read_committed"]),
    default="read_uncommitted",
    show_default=True,
    help="Whether records of open and aborted transactions are shown.",
)
@click.option(
    "--format",
    "format_name",
    metavar="text|json|FORMAT",
    default="text",
    show_default=True,
    help=r"A format of your own is written for each record, e.g. '%t %p %o %k %s\n'.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json: one object a line.")
@bootstrap_option
@click.pass_obj
def command(
    environment: Environment | None,
    topics: tuple[str, ...],
    group: str | None,
    group_protocol: Literal["classic", "consumer"],
    start: str | None,
    end: str | None,
    day: str | None,
    zone: str,
    exits: bool,
    by_time: bool,
    max_rate: float | None,
    count: int | None,
    partitions: tuple[str, ...],
    isolation: Isolation,
    format_name: str,
    as_json: bool,
    bootstrap: str,
) -> int:
    """Print the records of topics, and follow what comes.

    With --to, --day or --exit it ends by itself. In a group it commits what was printed, and nothing else.

    With --to, --day or --exit, times choose records by their timestamps, whatever order they are in: exactly those from --from on and
    before --to, of all that is there at the start. When following, and in a group, a time stands for the first record in each
    partition that is not older.
    """
    ports = real_ports(environment)
    now_ms = ports.clock.wall_ms()
    if group == "":
        raise CalledWrongly("--group is empty")
    begin, stop = bounds_of(start, end, day, zone, exits=exits, in_group=group is not None, now_ms=now_ms)
    chosen = [index for text in partitions for index in parse_partitions(text, "--partition")]
    plan = Plan(
        tuple(dict.fromkeys(topics)),
        sorted(set(chosen)) if partitions else None,
        begin,
        stop,
        isolation == "read_committed",
        by_time,
    )
    if by_time and (stop is None or group is not None):
        raise CalledWrongly("--by-time needs an end (--exit, --to or --day), and does not go with --group")
    writer = Writer(StandardOutput(sys.stdout.fileno(), ports.threads), _format(format_name, as_json), count)

    async def consuming() -> int:
        async with interruptible() as interruption, Admin(bootstrap, ports, client_id=CLIENT_ID) as admin:
            work = GroupWork(admin, plan, writer)
            consumer = Consumer(
                bootstrap,
                environment=ports,
                group=group,
                group_protocol=group_protocol,
                auto_offset_reset="latest" if begin.kind is Kind.END else "earliest",
                isolation_level=isolation,
                auto_commit=False,
                max_records_per_second=max_rate,
                on_assigned=work.assigned,
                on_revoked=work.revoked,
                on_lost=work.lost,
                client_id=CLIENT_ID,
            )
            try:
                async with consumer:
                    await _run(admin, consumer, plan, writer, interruption, work if group else None)
            except (Enough, ReaderGone):
                pass
        return interruption.exit_code or 0

    return run_asking(consuming)


async def _run(
    admin: Admin,
    consumer: Consumer,
    plan: Plan,
    writer: Writer,
    interruption: Interruption,
    group: GroupWork | None,
) -> None:
    if group is not None:
        await group.run(consumer, interruption)
        return
    with interruption.work():
        if plan.end is None:
            await follow(admin, consumer, plan, writer)
        else:
            await read_bounded(admin, consumer, plan, writer)


def _format(name: str, as_json: bool) -> Format:
    if as_json and name not in ("text", "json"):
        raise CalledWrongly("--json and --format don't go together")
    return format_named("json" if as_json else name)


def bounds_of(
    start: str | None,
    end: str | None,
    day: str | None,
    zone: str,
    *,
    exits: bool,
    in_group: bool,
    now_ms: int,
) -> tuple[Bound, Bound | None]:
    """Where to begin, and where to end (None: nowhere). Raises CalledWrongly for what does not go together."""
    time_zone = parse_zone(zone)
    if day is not None:
        if start is not None or end is not None or in_group:
            raise CalledWrongly("--day goes with neither --from nor --to nor --group")
        first_ms, next_ms = parse_day(day, time_zone)
        return Bound(Kind.TIME, first_ms), Bound(Kind.TIME, next_ms)
    begin = Bound(Kind.STORED if in_group else Kind.BEGINNING)
    if start is not None:
        begin = parse_bound(start, now_ms=now_ms, zone=time_zone, option="--from")
    if in_group and begin.kind not in (Kind.STORED, Kind.BEGINNING, Kind.END):
        raise CalledWrongly(
            "--from: in a group it is stored, beginning or end; penstock group reset goes elsewhere"
        )
    if not in_group and begin.kind is Kind.STORED:
        raise CalledWrongly("--from stored needs --group")
    stop = None if end is None else parse_bound(end, now_ms=now_ms, zone=time_zone, option="--to")
    if stop is not None and stop.kind in (Kind.STORED, Kind.LAST, Kind.BEGINNING):
        raise CalledWrongly("--to is an offset, a time, or end")
    return begin, stop or (Bound(Kind.END) if exits else None)


command.epilog = f"Fields of a format: {FIELDS_HELP}."
