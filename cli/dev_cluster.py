"""`penstock dev-cluster`: etcd and several brokers on this machine, for development and demonstrations.

Owns the command lines of the processes, their order and what is told of them. What a broker is, `penstock serve` knows; this runs it as
anybody would. Data, ports and node ids are the same at each start, so that a restart finds what was there.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
import trio

from penstock.cli.failure import CommandFailed, leaves_of
from penstock.cli.interruption import interruptible
from penstock.runtime.child_process import ChildProcess, find_program, signal_name, this_program
from penstock.runtime.environment import Environment
from penstock.runtime.network import AddressError
from penstock.runtime.production import production_environment

HOST = "localhost"
DEFAULT_PORT = 9092
DEFAULT_ETCD_PORT = 12379
BROKER_COUNT_MAX = 20
NO_ETCD = (
    "etcd is not installed, and keeps the metadata of a cluster: `apt install etcd-server` (Debian, Ubuntu), `brew install etcd` (macOS), "
    "or put the binary from https://github.com/etcd-io/etcd/releases on PATH"
)
_START_MARK = " listens on "
_LOOK_S = 0.05
_COLORS = ("cyan", "yellow", "green", "magenta", "blue", "red")


@dataclass(slots=True)
class Member:
    """One process of the cluster."""

    name: str
    command: list[str]
    color: str
    address: str = ""
    has_started: trio.Event = field(default_factory=trio.Event)
    process: ChildProcess | None = None


@click.command("dev-cluster", short_help="Run a cluster on this machine.")
@click.option(
    "-n",
    "count",
    type=click.IntRange(1, BROKER_COUNT_MAX),
    default=3,
    show_default=True,
    help="How many brokers.",
)
@click.option(
    "--data-dir",
    metavar="PATH",
    default="./penstock-cluster",
    show_default=True,
    help="Folder for everything: etcd's data, and a folder for each broker.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535 - BROKER_COUNT_MAX),
    default=DEFAULT_PORT,
    show_default=True,
    help="The first broker's port; the others have the next ones.",
)
@click.option(
    "--etcd-port",
    type=click.IntRange(1, 65534),
    default=DEFAULT_ETCD_PORT,
    show_default=True,
    help="etcd's port for clients; the next one is for itself.",
)
@click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a config of all brokers, e.g. --set broker.session.timeout.ms=3000.",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="info",
    show_default=True,
    help="What the brokers tell.",
)
def command(
    count: int, data_dir: str, port: int, etcd_port: int, assignments: tuple[str, ...], log_level: str
) -> None:
    """Run etcd and several brokers on this machine until Ctrl-C, which stops all of them in order.

    Not for production: one machine that is lost takes all replicas with it. Topics are made with three replicas (or as many as there are
    brokers), and acks=all waits for two.
    """
    etcd = find_program("etcd")
    if etcd is None:
        raise CommandFailed(NO_ETCD)
    brokers = [
        Member(
            f"broker-{node_id}",
            _broker_command(node_id, count, data_dir, port, etcd_port, assignments, log_level),
            _COLORS[(node_id - 1) % len(_COLORS)],
            f"{HOST}:{port + node_id - 1}",
        )
        for node_id in range(1, count + 1)
    ]
    store = Member("etcd", _etcd_command(etcd, data_dir, etcd_port), "white", f"{HOST}:{etcd_port}")
    cluster = DevCluster(production_environment(), store, brokers, data_dir, [etcd_port, etcd_port + 1])
    try:
        trio.run(cluster.run)
    except BaseExceptionGroup as group:
        for error in leaves_of(group):
            if isinstance(error, CommandFailed):
                raise error from None
        raise


def _etcd_command(program: str, data_dir: str, port: int) -> list[str]:
    client, peer = f"http://{HOST}:{port}", f"http://{HOST}:{port + 1}"
    return [
        program,
        *("--name", "dev"),
        *("--data-dir", os.path.join(data_dir, "etcd")),
        *("--listen-client-urls", client),
        *("--advertise-client-urls", client),
        *("--listen-peer-urls", peer),
        *("--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"dev={peer}"),
        *("--auto-compaction-retention", "1h"),
        *("--logger", "zap"),
        *("--log-level", "error"),
    ]


def _broker_command(
    node_id: int,
    count: int,
    data_dir: str,
    port: int,
    etcd_port: int,
    assignments: Sequence[str],
    log_level: str,
) -> list[str]:
    replicas = str(min(3, count))
    settings = {
        "default.replication.factor": replicas,
        "offsets.topic.replication.factor": replicas,
        "min.insync.replicas": "2" if count > 2 else "1",
    }
    given = {text.partition("=")[0] for text in assignments}
    defaults = [f"{name}={value}" for name, value in settings.items() if name not in given]
    return this_program(
        "serve",
        *("--node-id", str(node_id)),
        *("--cluster", f"etcd://{HOST}:{etcd_port}"),
        *("--data-dir", os.path.join(data_dir, f"broker-{node_id}")),
        *("--listen", f"{HOST}:{port + node_id - 1}"),
        *("--log-level", log_level),
        *(part for text in (*defaults, *assignments) for part in ("--set", text)),
    )


class DevCluster:
    """One run of the cluster, from the first process to the end of the last."""

    def __init__(
        self,
        environment: Environment,
        store: Member,
        brokers: Sequence[Member],
        data_dir: str,
        etcd_ports: Sequence[int],
    ) -> None:
        self._environment = environment
        self._store = store
        self._brokers = brokers
        self._data_dir = data_dir
        self._etcd_ports = etcd_ports
        self._is_stopping = False
        self._ended: dict[str, trio.Event] = {}

    async def run(self) -> None:
        """Start all, wait for a signal, stop all: the brokers first, etcd last. A second signal kills them."""
        await self._check_ports()
        await self._environment.threads.run(self._environment.files.make_directories, self._data_dir)
        async with interruptible() as interruption, trio.open_nursery() as watching:
            try:
                with interruption.work():
                    await self._start(watching)
                    await self._until_all_brokers_ended()
                await self._stop()
            finally:
                for member in (*self._brokers, self._store):
                    if member.process is not None:
                        member.process.kill()
                watching.cancel_scope.cancel()

    async def _check_ports(self) -> None:
        """Before anything is started: a broker that finds its port taken among lines of others is hard to see."""
        ports = [*self._etcd_ports, *(int(broker.address.rpartition(":")[2]) for broker in self._brokers)]
        for port in ports:
            try:
                (await self._environment.network.listen(HOST, port)).close()
            except AddressError as error:
                raise CommandFailed(
                    f"{error}; does another cluster run here? --port and --etcd-port take others"
                ) from error

    async def _start(self, watching: trio.Nursery) -> None:
        await self._start_member(self._store, watching)
        await self._until_etcd_answers()
        for broker in self._brokers:
            await self._start_member(broker, watching)
        for broker in self._brokers:
            await broker.has_started.wait()
        addresses = ",".join(broker.address for broker in self._brokers)
        click.echo(f"The cluster is up: {addresses}, data in {self._data_dir}. Ctrl-C stops it.")
        sys.stdout.flush()

    async def _start_member(self, member: Member, watching: trio.Nursery) -> None:
        member.process = ChildProcess(member.command, variables=os.environ)
        self._ended[member.name] = trio.Event()
        watching.start_soon(self._follow, member)

    async def _until_etcd_answers(self) -> None:
        port = self._etcd_ports[0]
        while not self._ended[self._store.name].is_set():
            try:
                (await self._environment.network.connect(HOST, port)).close()
            except AddressError:
                await trio.sleep(_LOOK_S)
            else:
                return
        raise CommandFailed("etcd did not start; what it said stands above")

    async def _until_all_brokers_ended(self) -> None:
        for broker in self._brokers:
            await self._ended[broker.name].wait()
        raise CommandFailed("no broker runs any more")

    async def _follow(self, member: Member) -> None:
        """Show what a process says, and tell when it ends by itself."""
        assert member.process is not None
        async for line in member.process.lines():
            prefix = click.style(f"{member.name:>9} |", fg=member.color)
            click.echo(f"{prefix} {line}", err=True)
            if _START_MARK in line:
                member.has_started.set()
        exit_code = await member.process.wait()
        self._ended[member.name].set()
        member.has_started.set()
        if not self._is_stopping:
            self._tell_end(member, exit_code)

    def _tell_end(self, member: Member, exit_code: int) -> None:
        line = f"{member.name} has ended ({signal_name(exit_code)}), the others go on. To start it again: "
        click.echo(click.style(line, bold=True) + shlex.join(member.command), err=True)

    async def _stop(self) -> None:
        self._is_stopping = True
        click.echo("stopping", err=True)
        for group in (self._brokers, [self._store]):
            started = [member for member in group if member.process is not None]
            for member in started:
                if member.process is not None:
                    member.process.terminate()
            for member in started:
                await self._ended[member.name].wait()
        click.echo("The cluster has stopped.")


__all__ = ["NO_ETCD", "DevCluster", "Member", "command"]
