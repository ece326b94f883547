"""`penstock serve`: a broker in the foreground.

Owns the flags, the start line, the log's format and what signals do. What a broker is, `penstock.broker.server` knows.

SIGTERM and SIGINT stop the broker cleanly (requests in flight are answered, logs synced and closed); a second one ends the process at
once, which loses nothing that was acked either, but the next start has to recover.
"""

import gc
import importlib
import logging
import os
import re
import signal
import sys
from collections.abc import AsyncIterator

import click
import trio

from penstock import __version__
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.server import RunningBroker, serve
from penstock.broker.topic_config import TopicConfig
from penstock.cli import settings
from penstock.cli.failure import CalledWrongly, CommandFailed, leaves_of
from penstock.runtime.environment import Environment
from penstock.runtime.process_limits import raise_open_files_limit
from penstock.runtime.production import production_environment

log = logging.getLogger(__name__)

_LOG_LEVELS = ("debug", "info", "warning", "error")
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DEFAULT_LISTENER = "PLAINTEXT"
_LOADED_AFTER_START = (
    "broker.cold_reads",
    "protocol.throttle",
    "broker.backlog.partition_gate",
    "broker.backlog.look",
    "broker.backlog.kept",
    "broker.groups.serving",
)
"""What requests to any broker may come to need."""


@click.command("serve", short_help="Run a broker.")
@click.option("--data-dir", metavar="PATH", help="Folder for logs and metadata.  [default: ./penstock-data]")
@click.option(
    "--listen",
    metavar="[NAME://]HOST:PORT",
    multiple=True,
    help="Address to listen on; may be repeated, then each has a name.  [default: localhost:9092]",
)
@click.option(
    "--advertise",
    metavar="[NAME://]HOST[:PORT]",
    multiple=True,
    help="Address that clients are told to connect to.  [default: the one listened on]",
)
@click.option(
    "--node-id", metavar="N", help="This broker's id, another for each broker of a cluster.  [default: 1]"
)
@click.option(
    "--cluster",
    metavar="etcd://HOST:PORT,…",
    help="Join the cluster whose metadata is in this etcd.  [default: a broker alone]",
)
@click.option("--rack", metavar="NAME", help="Where this broker stands; replicas are spread over racks.")
@click.option(
    "--no-auto-create", is_flag=True, help="Don't make a topic when a client asks for an unknown one."
)
@click.option(
    "--set",
    "assignments",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set any config by Kafka's name for it, e.g. --set log.retention.hours=24.",
)
@click.option(
    "--config",
    "config_path",
    metavar="FILE.toml",
    envvar="PENSTOCK_CONFIG",
    help="Read configs from a TOML file.",
)
@click.option(
    "--log-level",
    type=click.Choice(_LOG_LEVELS),
    default="info",
    envvar="PENSTOCK_LOG_LEVEL",
    show_default=True,
    help="What goes to stderr.",
)
def command(
    data_dir: str | None,
    listen: tuple[str, ...],
    advertise: tuple[str, ...],
    node_id: str | None,
    cluster: str | None,
    rack: str | None,
    no_auto_create: bool,
    assignments: tuple[str, ...],
    config_path: str | None,
    log_level: str,
) -> None:
    """Run a broker until it is told to stop (SIGTERM or Ctrl-C).

    A config is set by a flag, or else by an environment variable (PENSTOCK_LOG_RETENTION_HOURS for log.retention.hours),
    or else in the file, or else it has its default.
    """
    if cluster is not None and not cluster.startswith(("etcd://", "etcds://")):
        raise CalledWrongly("--cluster: name an etcd, as etcd://host:2379 (or etcds://… with TLS)")
    raise_open_files_limit()
    environment = production_environment()
    begin_ms = environment.clock.wall_ms()
    given = [
        *_address_settings(listen, advertise),
        *(
            (flag, name, value)
            for flag, name, value in (
                ("--data-dir", "log.dirs", data_dir),
                ("--node-id", "node.id", node_id),
                ("--cluster", "metadata.store", cluster),
                ("--rack", "broker.rack", rack),
                ("--no-auto-create", "auto.create.topics.enable", "false" if no_auto_create else None),
            )
            if value is not None
        ),
    ]
    given += [("--set", *_assignment(text)) for text in assignments]
    config = _load_config(environment, given, config_path)
    _start_logging(log_level)
    process = _Process(environment, config, begin_ms)
    try:
        trio.run(process.run)
    except BaseExceptionGroup as group:
        for error in leaves_of(group):
            # Before the start line this is about the data folder, a person's fault; after it, a bug of ours.
            if isinstance(error, FileNotFoundError | FileExistsError) and not process.has_started:
                raise CommandFailed(f"{error.filename}: {error.strerror}") from group
        raise


def _address_settings(listen: tuple[str, ...], advertise: tuple[str, ...]) -> list[tuple[str, str, str]]:
    given: list[tuple[str, str, str]] = []
    if listen:
        given.append(("--listen", "listeners", ",".join(_with_name(text) for text in listen)))
    if advertise:
        texts = ",".join(_with_port(_with_name(text)) for text in advertise)
        given.append(("--advertise", "advertised.listeners", texts))
    return given


def _with_name(text: str) -> str:
    return text if "://" in text else f"{_DEFAULT_LISTENER}://{text}"


def _with_port(text: str) -> str:
    """Port 0 of an advertised address stands for the port that is listened on."""
    return text if re.search(r":\d+$", text) else f"{text}:0"


def _assignment(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise CalledWrongly(f"--set: {text!r} is not of the form KEY=VALUE")
    return name.strip(), value


def _load_config(
    environment: Environment, given: list[tuple[str, str, str]], config_path: str | None
) -> BrokerConfig:
    try:
        layers = [settings.from_flags(given), settings.from_environment(os.environ)]
        if config_path is not None:
            layers.append(settings.from_file(environment.files, config_path))
        return settings.load_config(layers)
    except settings.SettingsError as error:
        raise CalledWrongly(str(error)) from error


class _Process:
    """One run of a broker, from the first signal handler to the last log line."""

    def __init__(self, environment: Environment, config: BrokerConfig, begin_ms: int) -> None:
        self.has_started = False
        self._environment = environment
        self._config = config
        self._begin_ms = begin_ms
        self._is_up = trio.Event()

    async def run(self) -> None:
        """Serve until a signal says stop."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as watching:
                with trio.CancelScope() as serving:
                    watching.start_soon(_stop_on_signal, signals, serving)
                    watching.start_soon(self._load_the_rest)
                    await serve(self._environment, self._config, started=self._started)
                watching.cancel_scope.cancel()
        log.info("stopped")

    def _started(self, running: RunningBroker) -> None:
        self.has_started = True
        took_ms = self._environment.clock.wall_ms() - self._begin_ms
        # As of the metadata store too: the default for all topics may have been altered since the first start.
        defaults = TopicConfig.of(running.broker.topics.configs.broker_layers())
        click.echo(start_line(self._config, running.addresses, defaults, took_ms, running.metrics_address))
        sys.stdout.flush()
        # What is there now stays: looking through it for garbage again and again would only cost.
        gc.freeze()
        self._is_up.set()

    async def _load_the_rest(self) -> None:
        """A worker loads beside the first requests what the start did without, so that no request waits for it, or comes when descriptors are short."""
        await self._is_up.wait()
        for name in _LOADED_AFTER_START:
            await self._environment.threads.run(importlib.import_module, f"penstock.{name}")


async def _stop_on_signal(signals: AsyncIterator[int], serving: trio.CancelScope) -> None:
    async for number in signals:
        if serving.cancel_called:
            os._exit(128 + number)
        log.info("%s: stopping", signal.Signals(number).name)
        serving.cancel()


def start_line(
    config: BrokerConfig,
    addresses: dict[str, tuple[str, int]],
    defaults: TopicConfig,
    took_ms: int,
    metrics: tuple[str, int] | None = None,
) -> str:
    """The one line that says that the broker answers."""
    listeners = ", ".join(
        f"{name}://{host}:{port}" if len(addresses) > 1 else f"{host}:{port}"
        for name, (host, port) in addresses.items()
    )
    if defaults.write_caching:
        durability = "write.caching=true (acked is in the page cache)"
    else:
        durability = "write.caching=false (acked is on disk)"
    metadata = ""
    if config.is_clustered:
        metadata = f"node {config.node_id}, metadata in {config.metadata_store.partition('?')[0]}, "
    if metrics is not None:
        metadata += f"metrics at http://{metrics[0]}:{metrics[1]}/metrics, "
    return (
        f"penstock {__version__} listens on {listeners}, {metadata}data in {config.data_directory}, {durability}, "
        f"started in {took_ms / 1000:.2f} s"
    )


class OneLineFormatter(logging.Formatter):
    """A record is one line: what peers send (names, ids) can't fake another."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without a traceback."""
        return _CONTROL_CHARACTERS.sub("?", super().formatMessage(record))


def _start_logging(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
