"""A simulated cluster: hosts with real brokers, a metadata store that they share, and a machine for each client.

Owns who runs where. Brokers are `penstock.broker.server.serve`, as in production; only the environment is simulated.
"""

from collections.abc import Iterator

import trio
from tests.simulation.host import Host, Program
from tests.simulation.kernel import Kernel
from tests.simulation.network import SimulatedNetwork
from tests.simulation.store import CentralStore

from penstock.broker.broker import Broker
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.partition import Partition
from penstock.broker.server import RunningBroker, serve
from penstock.runtime.environment import Environment

PORT = 9092
PROPERTIES = {
    "log.dirs": "/data",
    "metadata.store": "etcd://simulated",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "700",
    "replica.high.watermark.checkpoint.interval.ms": "1500",
    "offsets.topic.num.partitions": "2",
    "offsets.topic.segment.bytes": "20000",
    "log.segment.bytes": "20000",
    "log.index.interval.bytes": "1000",
    "log.retention.check.interval.ms": "2000",
    "log.initial.task.delay.ms": "1000",
    "log.cleaner.backoff.ms": "2500",
    "shutdown.timeout.ms": "1000",
    "group.initial.rebalance.delay.ms": "300",
    "group.consumer.session.timeout.ms": "6000",
    "group.consumer.min.session.timeout.ms": "3000",
    "group.consumer.heartbeat.interval.ms": "1000",
    "group.consumer.min.heartbeat.interval.ms": "1000",
}


class BrokerHost(Host):
    """A machine for a broker. `broker` is the running one, None while there is none that answers."""

    def __init__(self, cluster: "Cluster", node_id: int) -> None:
        super().__init__(cluster.kernel, cluster.network, cluster.store, f"b{node_id}", f"10.0.0.{node_id}")
        self.node_id = node_id
        self.broker: Broker | None = None
        self.started = trio.Event()
        properties = PROPERTIES | cluster.properties
        properties["node.id"] = str(node_id)
        properties["broker.rack"] = f"rack-{node_id % 3}"
        properties["listeners"] = f"PLAINTEXT://{self.address}:{PORT}"
        self.config = BrokerConfig.from_properties(properties)
        self.before_death.append(self._forget)

    async def run_broker(self, environment: Environment) -> None:
        """The program of this host."""

        process = self.process

        def note(running: RunningBroker) -> None:
            if process is None or process.is_dead:
                return  # killed while it came up: what is left of it unwinds beside its successor
            self.broker = running.broker
            self.started.set()

        await serve(environment, self.config, started=note)

    def _forget(self, _: bool) -> None:
        self.broker = None

    @property
    def partitions(self) -> Iterator[Partition]:
        """Those that the running broker has."""
        return iter(self.broker.partitions) if self.broker is not None else iter(())


class Cluster:
    """See the module."""

    def __init__(self, kernel: Kernel, broker_count: int, **properties: str) -> None:
        self.kernel = kernel
        self.network = SimulatedNetwork(kernel)
        self.store = CentralStore(kernel)
        self.properties = {name.replace("_", "."): value for name, value in properties.items()}
        self.brokers = [BrokerHost(self, number) for number in range(1, broker_count + 1)]
        self.clients: list[Host] = []

    @property
    def bootstrap(self) -> str:
        """Where clients begin."""
        return ",".join(f"{host.address}:{PORT}" for host in self.brokers)

    def by_node(self, node_id: int) -> BrokerHost:
        return self.brokers[node_id - 1]

    def start_client(self, nursery: trio.Nursery, name: str, program: Program) -> Host:
        """A client on a machine of its own."""
        address = f"10.0.1.{len(self.clients) + 1}"
        host = Host(self.kernel, self.network, self.store, name, address)
        self.clients.append(host)
        host.boot(nursery, program)
        return host

    def boot(self, nursery: trio.Nursery, host: BrokerHost) -> None:
        """Start that host's broker."""
        host.started = trio.Event()
        host.boot(nursery, host.run_broker)


__all__ = ["PORT", "BrokerHost", "Cluster"]
