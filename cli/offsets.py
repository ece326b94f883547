"""`penstock offsets`: where partitions stand and how far groups are behind, once or again and again.

Owns the flags, the limits that a monitor sets, and the watching. What is asked is `penstock.cli.lag`'s, the look `penstock.cli.offsets_view`'s.

While it watches, a broker that goes away ends nothing: the last picture stays with a line under it, until there is a new one.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

import click
import trio

from penstock.cli import offsets_view
from penstock.cli.asking import CLIENT_ID, bootstrap_option, counted, end, json_option, real_ports, run_asking
from penstock.cli.failure import CalledWrongly, CommandFailed, complain
from penstock.cli.interruption import interruptible
from penstock.cli.lag import Looker, Standing
from penstock.cli.moments import parse_span_ms, span_text, time_text
from penstock.cli.output import print_json, print_table, rich_table
from penstock.cli.rates import Rates, RateWindow
from penstock.client.admin import Admin
from penstock.errors import PenstockError
from penstock.runtime.environment import Environment

_WATCH_DEFAULT_S = "2"


class _WatchCommand(click.Command):
    """Lets `--watch` stand without its number before an argument: `--watch orders`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give it the number that it stands for."""
        for position, word in enumerate(args):
            after = args[position + 1] if position + 1 < len(args) else ""
            if word == "--watch" and not re.fullmatch(r"\d+(\.\d+)?", after):
                args = [*args[:position], f"--watch={_WATCH_DEFAULT_S}", *args[position + 1 :]]
                break
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a monitor still accepts; None: anything."""

    lag: int | None
    lag_ms: int | None

    def complaint(self, standing: Standing, group_id: str) -> str | None:
        """What is over a limit, in one line."""
        lag = sum(each.lag_at_most or 0 for each in standing.partitions)
        untold = [
            str(each.partition)
            for each in standing.partitions
            if each.committed is None and each.high_watermark != each.log_start
        ]
        without = f", nothing is committed for {', '.join(untold)}" if untold else ""
        if self.lag is not None and lag > self.lag:
            return f"group {group_id}: the lag is {counted(lag, 'record')}, more than {self.lag}{without}"
        if self.lag_ms is not None and ((standing.lag_ms or 0) > self.lag_ms or untold):
            behind = span_text(standing.lag_ms) or "unknown"
            return f"group {group_id}: the time lag is {behind}, more than {span_text(self.lag_ms)}{without}"
        return None


@click.command(
    "offsets", cls=_WatchCommand, short_help="Where partitions stand, and how far groups are behind."
)
@click.argument("topics", metavar="[TOPIC]...", nargs=-1)
@click.option("--group", "group_id", metavar="GROUP", help="Show what this group has committed, and its lag.")
@click.option(
    "--watch",
    "watch_s",
    metavar="[SECONDS]",
    type=click.FloatRange(min=0.1),
    help=f"Look again and again, every {_WATCH_DEFAULT_S} seconds or as often as said, and show rates.",
)
@click.option(
    "--max-lag",
    metavar="N",
    type=click.IntRange(min=0),
    help="Exit code 1 when the group is more than N records behind in sum.",
)
@click.option("--max-lag-time", metavar="TIME", help="The same for its oldest record, e.g. 5m.")
@bootstrap_option
@json_option
@click.pass_obj
def command(
    environment: Environment | None,
    topics: tuple[str, ...],
    group_id: str | None,
    watch_s: float | None,
    max_lag: int | None,
    max_lag_time: str | None,
    bootstrap: str,
    as_json: bool,
) -> int:
    """Show where partitions stand: log start, high watermark, last stable offset.

    With --group also what the group has committed, its lag in records and in time, and which member has the partition;
    of all its topics, also the partitions that it has committed nothing for, or of the topics named. Without --group also which groups consume the topics.

    Of partitions with a bounded backlog, or that keep what is not consumed, also how much of the bound is used up, which group is
    the slowest, how many records were refused, and what retention keeps for that group. Only Penstock's brokers tell it.

    The time lag is the age of the first record that is not consumed. A partition without a committed offset counts for
    --max-lag with all that is in its log.
    """
    if group_id is None and not topics:
        raise CalledWrongly("name a topic, or a group with --group")
    if group_id is None and (max_lag is not None or max_lag_time is not None):
        raise CalledWrongly("--max-lag and --max-lag-time need --group")
    limits = Limits(max_lag, None if max_lag_time is None else parse_span_ms(max_lag_time))
    ports = real_ports(environment)
    view = _View(group_id, limits, as_json)

    async def asking() -> int:
        async with interruptible() as interruption, Admin(bootstrap, ports, client_id=CLIENT_ID) as admin:
            looker = Looker(admin, ports.clock, tuple(dict.fromkeys(topics)), group_id)
            with interruption.work():
                if watch_s is None:
                    view.show(await looker.look(), None)
                else:
                    await _watch(looker, view, watch_s)
        return interruption.exit_code or 0

    return run_asking(asking)


@dataclass(frozen=True, slots=True)
class _View:
    """One way of showing every look, with the exit code that follows from it."""

    group_id: str | None
    limits: Limits
    as_json: bool

    def show(self, standing: Standing, rates: Rates | None) -> None:
        """Print a look, then end the command with what is wrong with it."""
        self.print(standing, rates)
        self.check(standing)
        end(standing.errors)

    def check(self, standing: Standing) -> None:
        """End the command where a limit is exceeded."""
        complaint = None if self.group_id is None else self.limits.complaint(standing, self.group_id)
        if complaint is not None:
            sys.stdout.flush()
            raise CommandFailed(complaint)

    def print(self, standing: Standing, rates: Rates | None) -> None:
        """Print a look."""
        if self.as_json:
            print_json(offsets_view.as_json(standing, rates, self.group_id))
            return
        if rates is not None:
            click.echo(time_text(standing.taken_at_ms, with_ms=False))
        if standing.partitions:
            print_table(*offsets_view.partition_table(standing, rates, with_group=self.group_id is not None))
        elif self.group_id is not None:
            complain(f"group {self.group_id} has committed nothing and consumes nothing")
        if standing.groups:
            click.echo()
            print_table(*offsets_view.group_table(standing.groups))
        if standing.backlogs:
            click.echo()
            print_table(*offsets_view.backlog_table(standing))


async def _watch(looker: Looker, view: _View, every_s: float) -> None:
    window = RateWindow()
    standing = await looker.look()
    if standing.errors:  # what is wrong from the start does not get better by waiting
        view.show(standing, None)
    if sys.stdout.isatty() and not view.as_json:
        await _watch_on_terminal(looker, view, every_s, window, standing)
        return
    while True:
        view.print(standing, window.add(standing))
        view.check(standing)
        for error in standing.errors:
            complain(str(error))
        standing = await _next_look(looker, every_s, complain)
        if not view.as_json:
            click.echo()


async def _next_look(looker: Looker, every_s: float, tell: Callable[[str], None]) -> Standing:
    """The next look that works; `tell` is told when one does not, for the first time in a row."""
    is_told = False
    while True:
        await trio.sleep(every_s)
        try:
            return await looker.look()
        except PenstockError as error:
            if not is_told:
                tell(str(error))
            is_told = True


async def _watch_on_terminal(
    looker: Looker, view: _View, every_s: float, window: RateWindow, standing: Standing
) -> None:
    from rich.console import Console, Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)

    def picture(standing: Standing, rates: Rates, trouble: str = "") -> RenderableType:
        with_group = view.group_id is not None
        parts: list[RenderableType] = [
            rich_table(*offsets_view.partition_table(standing, rates, with_group=with_group), console.width)
        ]
        if standing.groups:
            parts += [Text(), rich_table(*offsets_view.group_table(standing.groups), console.width)]
        if standing.backlogs:
            parts += [Text(), rich_table(*offsets_view.backlog_table(standing), console.width)]
        state = f", {standing.group.state}" if standing.group is not None else ""
        title = f"group {view.group_id}{state}" if with_group else ""
        taken_at = time_text(standing.taken_at_ms, with_ms=False)
        parts.append(Text("  ".join(filter(None, (title, taken_at, "Ctrl-C ends"))), style="dim"))
        parts += [Text(str(error), style="red") for error in standing.errors]
        if trouble:
            parts.append(Text(trouble, style="red"))
        return Group(*parts)

    rates = window.add(standing)
    with Live(
        picture(standing, rates),
        console=Console(highlight=False),
        auto_refresh=False,
        vertical_overflow="crop",
    ) as live:
        while True:
            view.check(standing)

            def show_trouble(trouble: str, standing: Standing = standing, rates: Rates = rates) -> None:
                live.update(picture(standing, rates, trouble), refresh=True)

            standing = await _next_look(looker, every_s, show_trouble)
            rates = window.add(standing)
            live.update(picture(standing, rates), refresh=True)
