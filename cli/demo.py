"""`penstock demo burst`: a flash sale, played against a broker with and without bounds, to look at.

Owns the flags, the broker of its own, the terminal and the plot's file. What is played is `demo_play`'s, what it looks like `demo_screen`'s.
"""

import os
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import click
import trio

from penstock.cli.asking import real_ports, run_asking
from penstock.cli.demo_report import plotted
from penstock.cli.demo_scene import History, Policy, Scene, summed_up
from penstock.cli.demo_screen import frame, line, summary_table
from penstock.cli.failure import CalledWrongly, CommandFailed, leaves_of
from penstock.cli.interruption import interruptible
from penstock.cli.output import Column, print_table
from penstock.errors import PenstockError
from penstock.runtime.child_process import ChildProcess, this_program
from penstock.runtime.environment import Environment
from penstock.runtime.files import replace_file
from penstock.runtime.process_memory import resident_bytes
from penstock.runtime.temporary import make_temporary_directory

BOUND_S = 4
"""How much of the database's time the backlog may be worth, if nobody says."""
FRAME_S = 0.2
START_LIMIT_S = 30.0
_START_MARK = " listens on "
_HIDE_CURSOR, _SHOW_CURSOR, _TO_LINE_END, _TO_SCREEN_END = "\x1b[?25l", "\x1b[?25h", "\x1b[K", "\x1b[J"


@click.group("demo", short_help="Play scenes that show what a broker does.")
def command() -> None:
    """Scenes to look at, on this machine."""


@command.command("burst", short_help="A flash sale, with and without bounds.")
@click.option(
    "--policy",
    "policies",
    type=click.Choice([policy.value for policy in Policy]),
    multiple=True,
    help="What bounds the backlog; may be repeated. All in turn by default.",
)
@click.option(
    "--database-rate",
    type=click.IntRange(20, 20_000),
    default=2_000,
    show_default=True,
    help="Orders a second that the shop's database takes.",
)
@click.option(
    "--times",
    type=click.IntRange(2, 100),
    default=15,
    show_default=True,
    help="How many times as many the customers want to place during the sale.",
)
@click.option(
    "--sale",
    "sale_s",
    type=click.FloatRange(0.5, 60),
    default=3.0,
    show_default=True,
    help="Its length in s.",
)
@click.option(
    "--rest",
    "rest_s",
    type=click.FloatRange(0.1, 60),
    default=2.0,
    show_default=True,
    help="How long it is an ordinary day before, in s.",
)
@click.option(
    "--bound",
    type=click.IntRange(1),
    help=f"backlog.max.records; {BOUND_S} s of the database's work by default.",
)
@click.option(
    "--bootstrap",
    "--bootstrap-server",
    "bootstrap",
    metavar="HOST:PORT,…",
    help="Play against this broker. Without it: one of its own, in a temporary folder.",
)
@click.option("--plot", "plot_path", metavar="FILE.svg", help="Write a plot of all of it.")
@click.pass_obj
def burst(
    environment: Environment | None,
    policies: tuple[str, ...],
    database_rate: int,
    times: int,
    sale_s: float,
    rest_s: float,
    bound: int | None,
    bootstrap: str | None,
    plot_path: str | None,
) -> int:
    """Play a flash sale: for some seconds customers place many times as many orders as the shop's database can take.

    Customers are Penstock's producers, the shop is a consumer group that writes to SQLite and commits behind it. Shown live are the backlog, what
    is wanted, taken, refused and stored a second, how long an ack takes, and the broker's memory; in the end what it came to, and whether all
    that was acked is in the database. Ctrl-C ends it, with the sum of what there is.
    """
    ports = real_ports(environment)
    if plot_path is not None and not ports.files.exists(os.path.dirname(plot_path) or "."):
        raise CalledWrongly(f"--plot: there is no folder {os.path.dirname(plot_path)}")
    chosen = [Policy(policy) for policy in policies] or list(Policy)
    scenes = [
        Scene(
            policy=policy,
            database_rate=database_rate,
            times=times,
            sale_s=sale_s,
            rest_s=rest_s,
            bound=bound or BOUND_S * database_rate,
        )
        for policy in chosen
    ]
    demo = BurstDemo(ports, scenes, bootstrap)
    try:
        exit_code = run_asking(demo.run)
    except BaseExceptionGroup as group:
        for error in leaves_of(group):
            if isinstance(error, CommandFailed):
                raise error from None
        raise
    histories = [history for history in demo.histories if history.samples]
    if histories:
        _print_summary(histories)
        if plot_path is not None:
            replace_file(ports.files, plot_path, plotted(histories).encode())
            click.echo(f"The plot is in {plot_path}.")
    return exit_code or (1 if any(history.lost for history in histories) else 0)


def _print_summary(histories: Sequence[History]) -> None:
    click.echo()
    titles, rows = summary_table([summed_up(history) for history in histories])
    print_table([Column(title, is_number=place > 0) for place, title in enumerate(titles)], rows)
    for history in histories:
        if history.failed:
            click.echo(f"{history.scene.policy.value}: {history.failed} orders failed otherwise")


class BurstDemo:
    """All scenes in turn."""

    def __init__(self, environment: Environment, scenes: Sequence[Scene], bootstrap: str | None) -> None:
        self.histories: list[History] = []
        self._environment = environment
        self._scenes = scenes
        self._bootstrap = bootstrap

    async def run(self) -> int:
        """Play until the end or a signal; returns the exit code."""
        environment = self._environment
        folder = await environment.threads.run(make_temporary_directory, "penstock-demo-")
        screen = Screen(environment.clock.monotonic)
        async with interruptible() as interruption:
            try:
                with interruption.work(), screen:
                    await self._play_all(folder, screen)
            finally:
                with trio.CancelScope(shield=True):
                    await environment.threads.run(environment.files.remove_tree, folder)
        return interruption.exit_code or 0

    async def _play_all(self, folder: str, screen: "Screen") -> None:
        from penstock.cli.demo_play import Play

        for number, scene in enumerate(self._scenes):
            # A broker for each scene, so that none has the memory of another.
            async with self._broker(os.path.join(folder, f"broker-{number}")) as (bootstrap, memory):
                topic = (
                    f"flash-sale-{scene.policy.value}-{self._environment.random.randrange(0, 1_000_000):06d}"
                )
                database_path = os.path.join(folder, f"orders-{number}.sqlite")
                play = Play(self._environment, scene, bootstrap, topic, database_path, memory, screen.show)
                self.histories.append(play.history)
                try:
                    await play.run()
                except BaseExceptionGroup as group:
                    failures = [leaf for leaf in leaves_of(group) if not isinstance(leaf, trio.Cancelled)]
                    if failures and all(isinstance(failure, PenstockError) for failure in failures):
                        raise CommandFailed(str(failures[0])) from group
                    raise
                screen.next_scene()

    @asynccontextmanager
    async def _broker(self, folder: str) -> AsyncGenerator[tuple[str, Callable[[], int | None]]]:
        """The address of the broker that is played against, and what tells its memory."""
        if self._bootstrap is not None:
            yield self._bootstrap, lambda: None
            return
        command = this_program(
            "serve", "--data-dir", folder, "--listen", "127.0.0.1:0", "--log-level", "info"
        )
        process = ChildProcess(command, variables=os.environ)
        try:
            async with trio.open_nursery() as nursery:
                address: str = await nursery.start(_follow, process)
                yield address, lambda: resident_bytes(process.pid)
                nursery.cancel_scope.cancel()
        finally:
            process.kill()


async def _follow(process: ChildProcess, task_status: trio.TaskStatus[str]) -> None:
    """Tell the address when the broker says it, and read on, so that its log never fills the pipe."""
    said: list[str] = []
    has_started = False
    async for text in process.lines():
        if has_started:
            continue
        said.append(text)
        if _START_MARK in text:
            has_started = True
            task_status.started(text.partition(_START_MARK)[2].split()[0].rstrip(","))
    raise CommandFailed("the broker has ended" + ("" if has_started else f": {' '.join(said)[-500:]}"))


class Screen:
    """Draws on a terminal, in place; elsewhere it writes a line each second."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._is_terminal = sys.stdout.isatty()
        self._line_count = 0
        self._next_at = 0.0
        self._history: History | None = None

    def __enter__(self) -> None:
        if self._is_terminal:
            _write(_HIDE_CURSOR)

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._draw()
            _write(_SHOW_CURSOR)

    def show(self, history: History) -> None:
        """There is something new; drawn if the last time is long enough ago."""
        self._history = history
        now = self._monotonic()
        if now < self._next_at:
            return
        self._next_at = now + (FRAME_S if self._is_terminal else 1.0)
        self._draw() if self._is_terminal else click.echo(line(history))

    def next_scene(self) -> None:
        """What stands there stays; the next scene is drawn below."""
        if self._is_terminal:
            self._draw()
            _write("\n")
        elif self._history is not None:
            click.echo(line(self._history))
        self._line_count, self._next_at, self._history = 0, 0.0, None

    def _draw(self) -> None:
        if self._history is None:
            return
        from rich.console import Console

        width, height = Console().size
        lines = frame(self._history, width - 1)[: max(1, height - 1)]
        up = f"\x1b[{self._line_count}A\r" if self._line_count else ""
        _write(up + "".join(f"{text}{_TO_LINE_END}\n" for text in lines) + _TO_SCREEN_END)
        self._line_count = len(lines)


def _write(text: str) -> None:
    click.echo(text, nl=False)
    sys.stdout.flush()


__all__ = ["BurstDemo", "Screen", "command"]
