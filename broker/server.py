"""The server: listeners, connections, the sweep, and the order of start and stop.

Owns who may connect and when everything ends. A stop is clean: no new connection, no new request, what is in flight is answered, the
logs are synced and closed, and the folder is marked so that the next start needs no recovery.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from penstock.broker.broker import Broker, open_broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.connection import Connection, ConnectionLimits, ConnectionShared
from penstock.broker.dispatch import Dispatcher
from penstock.broker.image import ImageDelta
from penstock.broker.patience import StartAbandoned
from penstock.runtime.environment import Environment
from penstock.runtime.files import TooManyOpenFiles
from penstock.runtime.network import ConnectionLost, Listener, Stream

if TYPE_CHECKING:
    from penstock.broker.quotas.meters import Meters

log = logging.getLogger(__name__)

SWEEP_S = 1.0
ACCEPT_BACKOFF_S = 0.1


@dataclass(frozen=True, slots=True)
class RunningBroker:
    """Handed to `started`: the broker answers requests now."""

    broker: Broker
    addresses: dict[str, tuple[str, int]]
    """Host and port of each listener, by name."""
    metrics_address: tuple[str, int] | None = None


async def serve(
    environment: Environment, config: BrokerConfig, *, started: Callable[[RunningBroker], None]
) -> None:
    """Run a broker until cancelled, then stop it cleanly.

    `started` is called once, when every listener takes connections and every partition that needs no recovery is served.

    Raises:
        AddressError: a listener's address can't be had.
        PenstockError: the data folder can't be used (locked, of another cluster, of a newer format), or the metadata store.
    Cancellation: the broker stops cleanly, which takes at most about ten seconds, in a cluster fifteen, then `trio.Cancelled` goes on.
    """
    stop = trio.Event()
    async with trio.open_nursery() as outer:

        async def shielded() -> None:
            with trio.CancelScope(shield=True):
                await _serve_until(stop, environment, config, started)
            outer.cancel_scope.cancel()

        outer.start_soon(shielded)
        try:
            await trio.sleep_forever()
        finally:
            stop.set()


async def _serve_until(
    stop: trio.Event,
    environment: Environment,
    config: BrokerConfig,
    started: Callable[[RunningBroker], None],
) -> None:
    listeners, metrics = await _listen(environment, config)
    every = [*listeners.values(), *((metrics,) if metrics is not None else ())]
    try:
        addresses = {name: listener.address for name, listener in listeners.items()}

        def open_listeners() -> None:
            for listener in every:
                listener.open()

        async with open_broker(environment, config, addresses, stop, open_listeners) as broker:
            server = Server(broker)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.sweep)
                nursery.start_soon(broker.partitions.keep_checkpoints)
                nursery.start_soon(broker.retention.run)
                nursery.start_soon(broker.cleaner.run)
                for name, listener in listeners.items():
                    nursery.start_soon(server.accept, name, listener, nursery)
                if metrics is not None:
                    from penstock.broker.metrics.endpoint import MetricsEndpoint  # where somebody asks for it

                    nursery.start_soon(MetricsEndpoint(broker).run, metrics)
                started(RunningBroker(broker, addresses, None if metrics is None else metrics.address))
                await stop.wait()
                await broker.hand_over()
                for listener in every:
                    listener.close()
                await server.drain()
                nursery.cancel_scope.cancel()
    except* StartAbandoned:
        log.info("told to stop while waiting for the metadata store")
    finally:
        for listener in every:
            listener.close()


async def _listen(
    environment: Environment, config: BrokerConfig
) -> tuple[dict[str, Listener], Listener | None]:
    """The listeners by name, and the one for metrics.

    Hold all addresses first: a broker that can't listen must not touch the data.

    They are opened when it can answer, as Kafka's are: a client whose connection is taken and not answered waits for its request timeout, and
    some do nothing else meanwhile; a client that is refused asks another broker.
    """
    listeners: dict[str, Listener] = {}
    try:
        for address in config.listeners:
            listeners[address.name] = await environment.network.listen(
                address.host, address.port, is_open=False
            )
        metrics = config.metrics_listener
        if metrics is None:
            return listeners, None
        return listeners, await environment.network.listen(metrics.host, metrics.port, is_open=False)
    except BaseException:
        for listener in listeners.values():
            listener.close()
        raise


class Server:
    """The connections of one broker."""

    def __init__(self, broker: Broker) -> None:
        config = broker.config
        self._broker = broker
        self._clock = broker.clock
        self._shared = ConnectionShared(
            Dispatcher(broker),
            ConnectionLimits(
                frame_bytes_max=config.socket_request_max_bytes,
                small_frame_bytes_max=config.control_request_max_bytes,
                idle_s=config.connections_max_idle_ms / 1000,
                frame_deadline_s=config.connection_frame_timeout_ms / 1000,
                write_deadline_s=config.connection_write_timeout_ms / 1000,
            ),
            broker.budget,
            broker.clock,
        )
        self._plain_dispatcher = self._shared.dispatch
        self._meters: Meters | None = None
        self._heed_quotas()
        broker.watch.listen(self._note)
        self._connections: set[Connection] = set()
        self._count_by_host: Counter[str] = Counter()
        self._all_gone = trio.Event()
        self._stopping = False

    def _note(self, delta: ImageDelta) -> None:
        """Quotas hold from the moment they are seen."""
        if delta.quotas_changed:
            self._heed_quotas()

    def _heed_quotas(self) -> None:
        """Measure requests while any quota is set, and only then."""
        quotas = self._broker.image.quotas
        if not quotas:
            self._meters = None
            self._shared.dispatch = self._plain_dispatcher
        elif self._meters is not None:
            self._meters.quotas_changed(quotas, self._clock.monotonic())
        else:
            from penstock.broker.quotas.meters import Meters  # most brokers have no quotas
            from penstock.broker.quotas.throttling import ThrottlingDispatcher

            self._meters = Meters(quotas)
            self._shared.dispatch = ThrottlingDispatcher(self._broker, self._meters)

    async def accept(self, name: str, listener: Listener, nursery: trio.Nursery) -> None:
        """Take connections until the listener is closed; when descriptors run out, back off and go on."""
        is_told = False
        while True:
            try:
                stream = await listener.accept()
                is_told = False
            except TooManyOpenFiles as error:
                if not is_told:  # one line for each time, not ten a second
                    log.warning("can't accept connections, trying again: %s", error)
                is_told = True
                await trio.sleep(ACCEPT_BACKOFF_S)
                continue
            except ConnectionLost:
                return
            nursery.start_soon(self._serve, stream, name)

    async def _serve(self, stream: Stream, listener: str) -> None:
        host = stream.peer.rpartition(":")[0]
        refusal = self._refusal(host)
        if refusal:
            log.warning("%s: refused: %s", stream.peer, refusal)
            stream.close()
            return
        connection = Connection(stream, listener, self._shared)
        self._connections.add(connection)
        self._count_by_host[host] += 1
        try:
            await connection.serve()
        except Exception:
            log.exception("%s: closed by a bug", stream.peer)
        finally:
            self._connections.discard(connection)
            self._broker.reader_left(connection)
            self._count_by_host[host] -= 1
            if not self._count_by_host[host]:
                del self._count_by_host[host]
            if not self._connections:
                self._all_gone.set()

    def _refusal(self, host: str) -> str:
        config = self._broker.config
        if self._stopping:
            return "the broker stops"
        if len(self._connections) >= config.max_connections:
            return f"max.connections={config.max_connections} are open"
        if len(self._connections) >= self._broker.shares.connections:
            return (
                f"{len(self._connections)} are open, which is this process's share of its limit of open files"
            )
        if self._count_by_host[host] >= config.max_connections_per_ip:
            return f"max.connections.per.ip={config.max_connections_per_ip} are open from {host}"
        return ""

    async def sweep(self) -> None:
        """One timer for all: deadlines of connections, flush.ms, idle producers. Waits for nothing but the timer."""
        while True:
            await trio.sleep(SWEEP_S)
            now = self._clock.monotonic()
            for connection in tuple(self._connections):
                connection.close_if_overdue(now)
            if self._meters is not None:
                self._meters.forget_idle(now)
            self._broker.partitions.flush_due(now)
            self._broker.partitions.close_retired()
            self._broker.partitions.forget_idle_producers(now)
            self._broker.partitions.open_again(now)
            self._broker.partitions.look_around(now)

    async def drain(self) -> None:
        """Let every connection end its requests in flight; cut off what takes longer than `shutdown.timeout.ms`."""
        self._stopping = True
        self._all_gone = trio.Event()
        for connection in tuple(self._connections):
            connection.stop()
        for partition in self._broker.partitions:
            if partition.gate is not None:
                partition.gate.give_all_up()
        if self._connections:
            with trio.move_on_after(self._broker.config.shutdown_timeout_ms / 1000):
                await self._all_gone.wait()
        if self._connections:
            log.warning("%d connections were cut off with requests in flight", len(self._connections))
        for partition in self._broker.partitions:
            if partition.gate is not None and partition.gate.refused_records:
                count = partition.gate.refused_records
                log.info(
                    "%s-%d: %d records were refused by its backlog's bound",
                    partition.topic,
                    partition.index,
                    count,
                )
