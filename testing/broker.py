"""A whole broker inside a running trio program: `async with penstock.Broker() as broker:`.

Owns the folder, the port and the end of such a broker. It is the broker of `penstock serve`, on real sockets and real files, in the
caller's own event loop; so a test can use it as its clients will use the real one. Knows nothing of signals and of how logging
is set up: those are the program's.
"""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import trio

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.server import RunningBroker, serve
from penstock.client.admin_values import CreatedTopic
from penstock.client.lifetime import OwnedNursery, holds_cancelled
from penstock.client.metadata import Address
from penstock.runtime.environment import Environment
from penstock.runtime.production import production_environment
from penstock.runtime.temporary import make_temporary_directory
from penstock.testing.properties import FOR_TESTS, THROWN_AWAY
from penstock.testing.topics import create_topic

PropertyValue = str | int | float | bool | Sequence[str]


class Broker:
    """A broker that runs while the block does.

    Args:
        data_directory: where logs and metadata are kept; made if missing, and left as it is at the end, for the next broker. None: a
            temporary folder, removed at the end; then records are acked from the page cache (`write_caching=True`), deleted files go
            at once and retention does not run, since nothing of them is to outlive the process anyway.
        environment: the ports to clocks, files, sockets and threads; None takes this machine's.
        properties: the broker's configs, by Kafka's names with underscores for dots (`auto_create_topics_enable=False` is
            `auto.create.topics.enable=false`); all are listed in `docs/configuration.md`. If left out, `listeners` is a free port of
            127.0.0.1, and `group_initial_rebalance_delay_ms` is 0.

    Several may run in one program. Entering it raises ConfigError (no such config, a bad value), AddressError (the port is taken), and
    PenstockError where the folder can't be used. It ends cleanly, also when the block is cancelled or fails: requests in flight are answered,
    logs synced and closed, which takes as long as clients have requests waiting, at most `shutdown.timeout.ms`. An error of the
    block comes out as it is. An error of the broker cancels the block and comes out in its place; both at once come out as
    a group.
    """

    def __init__(
        self,
        *,
        data_directory: str | PathLike[str] | None = None,
        environment: Environment | None = None,
        **properties: PropertyValue,
    ) -> None:
        self._kept = None if data_directory is None else fspath(data_directory)
        self._environment = environment or production_environment()
        self._properties = {name.replace("_", "."): _text_of(value) for name, value in properties.items()}
        self._background = OwnedNursery()
        self._is_open = False
        self._directory = ""
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        """`host:port`, for clients. Not known before the block is entered."""
        return self._bootstrap

    @property
    def data_directory(self) -> Path:
        """The folder with the logs, one folder for each partition."""
        return Path(self._directory)

    async def create_topic(
        self, name: str, *, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> CreatedTopic:
        """Make a topic; `configs` by Kafka's names, dots and all. It can be used when this returns.

        Raises:
            BrokerError: TopicExists, or what else the broker has against it.
        Cancellation: the topic may or may not have been made.
        """
        return await create_topic(self._bootstrap, name, partitions, configs or {}, self._environment)

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise RuntimeError("this broker runs already; make one for each block")
        if self._kept is None:
            self._directory = await self._environment.threads.run(make_temporary_directory, "penstock-")
        else:
            self._directory = self._kept
        nursery = await self._background.open()
        self._is_open = True
        try:
            await nursery.start(self._serve, self._config())
        except BaseException as error:
            await self._end(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._end(kind, error, traceback)

    async def _end(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, and clear away. `error` is on its way out already; what is raised here takes its place."""
        failure: BaseException | None = None
        try:
            await self._background.close(kind, error, traceback)
        except BaseExceptionGroup as group:
            # The nursery's own wrapping: what went wrong is what is in it.
            failure = group.exceptions[0] if len(group.exceptions) == 1 else group
        finally:
            self._is_open = False
            await self._clear()
        if failure is None:
            return
        if error is None or holds_cancelled(error):
            raise failure
        raise BaseExceptionGroup("the broker failed, and the block did", [error, failure])

    async def _clear(self) -> None:
        if self._kept is None:
            with trio.CancelScope(shield=True):
                await self._environment.threads.run(self._environment.files.remove_tree, self._directory)

    def _config(self) -> BrokerConfig:
        defaults = FOR_TESTS | (THROWN_AWAY if self._kept is None else {})
        return BrokerConfig.from_properties({**defaults, **self._properties, "log.dirs": self._directory})

    async def _serve(self, config: BrokerConfig, task_status: trio.TaskStatus[None]) -> None:
        def started(running: RunningBroker) -> None:
            ports = {name: port for name, (_, port) in running.addresses.items()}
            endpoint = config.endpoints(ports)[config.listeners[0].name]
            self._bootstrap = str(Address(endpoint.host, endpoint.port))
            task_status.started()

        failure: BaseException | None = None
        try:
            await serve(self._environment, config, started=started)
        except BaseExceptionGroup as group:
            failure = _only_one_in(group)
        if failure is not None:
            raise failure


def _only_one_in(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What is inside groups of one."""
    inner = group.exceptions[0]
    if len(group.exceptions) > 1:
        return group
    if isinstance(inner, BaseExceptionGroup):
        return _only_one_in(cast(BaseExceptionGroup[BaseException], inner))
    return inner


def _text_of(value: PropertyValue) -> str:
    """A config's value as a properties file would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    return ",".join(value)


__all__ = ["Broker", "PropertyValue"]
