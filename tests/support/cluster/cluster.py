"""A whole cluster: etcd and its brokers, and what Metadata says of them.

    with running_cluster(tmp_path) as cluster:
        topic = cluster.create_topic("orders", partitions=3)
        cluster.brokers[cluster.leader_of(topic, 0)].kill()
        cluster.await_leader(topic, 0)

`running_cluster(tmp_path, network=network)` with `hosts.namespaces()` puts each process into a network namespace, for cuts between them. Settings are Kafka's
names; `TEST_SETTINGS` makes a broker that was not heard of for two seconds dead. Logs stay below `directory` and are printed when a test fails
(fixture `start_cluster` in `tests/faults/cluster/conftest.py`).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.cluster.brokers import BrokerNode
from tests.support.cluster.etcd import EtcdNode
from tests.support.cluster.hosts import Hosts, Loopback
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import RECORDS_OF_ANY_AGE_STAY
from tests.support.topics import CREATE_TOPICS_VERSION, TIMEOUT_MS, fresh_name
from tests.support.wire import Connection, ConnectionEnded, connect

SESSION_MS = 2_000
LIMIT_S = 120.0
METADATA_VERSION = 12
TEST_SETTINGS = {
    **RECORDS_OF_ANY_AGE_STAY,
    "broker.session.timeout.ms": str(SESSION_MS),
    "broker.heartbeat.interval.ms": "400",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "3",
    "replica.lag.time.max.ms": "4000",
    "group.initial.rebalance.delay.ms": "0",
}


@dataclass(frozen=True, slots=True)
class PartitionView:
    """What one broker's Metadata says of a partition."""

    leader: int
    leader_epoch: int
    replicas: Sequence[int]
    isr: Sequence[int]

    @property
    def is_whole(self) -> bool:
        """There is a leader, and every replica is in sync."""
        return self.leader >= 0 and set(self.isr) == set(self.replicas)


class Cluster:
    """The processes, by node id from 1 on. `hosts` is where further ones would run."""

    def __init__(
        self, directory: Path, hosts: Hosts, settings: Mapping[str, str], stack: ExitStack, count: int
    ) -> None:
        self.directory = directory
        self._hosts = hosts
        self._settings = {**TEST_SETTINGS, **settings}
        self._stack = stack
        self.etcd = EtcdNode(hosts.make("etcd"), directory)
        stack.callback(self.etcd.kill)
        self.etcd.start()
        self.brokers: dict[int, BrokerNode] = {}
        for node_id in range(1, count + 1):
            self.add_broker(node_id)

    def add_broker(self, node_id: int, settings: Mapping[str, str] | None = None) -> BrokerNode:
        """A broker that is not started yet, and ends with the cluster."""
        host = self._hosts.make(f"broker-{node_id}")
        told = {**self._settings, **(settings or {})}
        broker = BrokerNode(node_id, host, self.directory, self.etcd.url, told)
        self._stack.callback(broker.kill)
        self.brokers[node_id] = broker
        return broker

    def start_all(self) -> None:
        """Start every broker that does not run; returns when all answer, and each of them knows all others."""
        dead = [broker for broker in self.brokers.values() if not broker.is_running]
        for broker in dead:
            broker.start(wait=False)
        for broker in dead:
            broker.await_ready()
        until(self._all_know_all, "every broker knows all others", limit_s=LIMIT_S)

    def _all_know_all(self) -> bool:
        """Each learns of the others by its own watch: a topic asked for in the moment before would find too few brokers."""
        told = [self.metadata(via=broker) for broker in self.awake]
        wanted = {broker.node_id for broker in self.awake}
        return all(each is not None and {b.node_id for b in each.brokers} >= wanted for each in told)

    @property
    def bootstrap(self) -> str:
        """All brokers, for any client."""
        return ",".join(broker.bootstrap for broker in self.brokers.values())

    @property
    def awake(self) -> list[BrokerNode]:
        """Those that run and are not frozen."""
        return [broker for broker in self.brokers.values() if broker.is_running and not broker.is_frozen]

    def check_alive(self) -> None:
        """AssertionError when a process has ended that nobody killed or stopped. Call while all should run."""
        for node in (self.etcd, *self.brokers.values()):
            node.check_alive()

    # What Metadata says

    def metadata(self, *topics: str, via: BrokerNode | None = None) -> Any:
        """A Metadata response by `via`, or by the first that answers; None where nobody does."""
        wanted = [{"name": topic, "topic_id": None} for topic in topics]
        for broker in [via] if via is not None else self.awake:
            try:
                with connect(broker.bootstrap) as connection:
                    connection.socket.settimeout(5)
                    return connection.request("metadata", METADATA_VERSION, topics=wanted)
            except (OSError, ConnectionEnded):
                continue
        return None

    def partition(self, topic: str, index: int, via: BrokerNode | None = None) -> PartitionView | None:
        """One partition; None while nobody knows it."""
        return self.partitions(topic, via).get(index)

    def partitions(self, topic: str, via: BrokerNode | None = None) -> dict[int, PartitionView]:
        """All partitions of a topic; empty while nobody knows it."""
        told = self.metadata(topic, via=via)
        if told is None or told.topics[0].error_code:
            return {}
        return {each.partition_index: _view(each) for each in told.topics[0].partitions}

    def all_hold(
        self, topics: Sequence[str], holds: Callable[[PartitionView], bool], via: BrokerNode | None = None
    ) -> bool:
        """Whether all partitions of all these topics are known and as wished."""
        told = self.metadata(*topics, via=via)
        return told is not None and all(
            not topic.error_code and all(holds(_view(each)) for each in topic.partitions)
            for topic in told.topics
        )

    def leader_of(self, topic: str, index: int) -> int:
        """The node id of the leader that a running broker tells; waits until there is one."""
        return self.await_partition(topic, index, lambda view: view.leader >= 0).leader

    def await_partition(
        self, topic: str, index: int, holds: Callable[[PartitionView], bool], limit_s: float = LIMIT_S
    ) -> PartitionView:
        """Wait until what the brokers tell of a partition is as wished; returns that."""

        def look() -> PartitionView | None:
            view = self.partition(topic, index)
            return view if view is not None and holds(view) else None

        try:
            return until(look, f"the wished state of {topic}-{index}", limit_s=limit_s)
        except AssertionError as late:
            raise AssertionError(f"{late}; it is {self.partition(topic, index)}") from None

    def await_new_leader(self, topic: str, index: int, old: int, limit_s: float = LIMIT_S) -> int:
        """Wait until somebody other than `old` leads a partition; who."""
        wished = self.await_partition(topic, index, lambda view: view.leader not in (-1, old), limit_s)
        return wished.leader

    def await_no_leader_is(self, node_id: int, *topics: str, limit_s: float = LIMIT_S) -> None:
        """Wait until all partitions are led, and none by that broker."""

        def moved() -> bool:
            return self.all_hold(topics, lambda view: view.leader not in (-1, node_id))

        until(moved, f"all of {topics} led, and none by broker {node_id}", limit_s=limit_s)

    def await_whole(self, *topics: str, limit_s: float = LIMIT_S) -> None:
        """Wait until every replica of all partitions is in sync, as every running broker tells it."""

        def whole() -> bool:
            self.check_alive()
            return all(self.all_hold(topics, lambda view: view.is_whole, broker) for broker in self.awake)

        try:
            until(whole, f"all replicas of {topics} in sync", limit_s=limit_s)
        except AssertionError as late:
            told = {topic: self.partitions(topic) for topic in topics}
            raise AssertionError(f"{late}; they are {told}") from None

    # What is asked of the controller

    def controller_id(self) -> int:
        """The node id of the controller; -1 where nobody is."""
        told = self.metadata()
        return -1 if told is None else int(told.controller_id)

    @contextmanager
    def controller(self) -> Generator[Connection]:
        """A connection to the controller."""
        node = until(
            lambda: self.brokers.get(self.controller_id()), "a controller in Metadata", limit_s=LIMIT_S
        )
        with connect(node.bootstrap) as connection:
            yield connection

    def create_topic(
        self,
        stem: str,
        *,
        partitions: int = 1,
        replication_factor: int = 3,
        assignment: Sequence[Sequence[int]] = (),
        configs: Mapping[str, str] | None = None,
    ) -> str:
        """A topic with a fresh name, which is returned when all its replicas are in sync. `assignment`: node ids for each partition."""
        name = fresh_name(stem)
        manual = [
            {"partition_index": index, "broker_ids": list(nodes)} for index, nodes in enumerate(assignment)
        ]
        topic = {
            "name": name,
            "num_partitions": -1 if manual else partitions,
            "replication_factor": -1 if manual else replication_factor,
            "assignments": manual,
            "configs": [{"name": key, "value": value} for key, value in (configs or {}).items()],
        }

        def created() -> bool:
            with self.controller() as connection:
                reply = connection.request(
                    "create_topics", CREATE_TOPICS_VERSION, topics=[topic], timeout=TIMEOUT_MS
                )
            code = reply.topics[0].error_code
            if code == ErrorCode.not_controller:
                return False
            assert code == 0, reply
            return True

        until(created, f"topic {name}", limit_s=LIMIT_S)
        self.await_whole(name)
        return name

    def log_tails(self, size: int = 3000) -> str:
        """The ends of all logs, to be printed when a test fails."""
        nodes = [self.etcd, *self.brokers.values()]
        return "\n".join(f"--- {node.log_path.name}\n{node.log_text()[-size:]}" for node in nodes)


def _view(told: Any) -> PartitionView:
    return PartitionView(told.leader_id, told.leader_epoch, tuple(told.replica_nodes), tuple(told.isr_nodes))


@contextmanager
def running_cluster(
    directory: Path,
    settings: Mapping[str, str] | None = None,
    *,
    count: int = 3,
    network: Hosts | None = None,
) -> Generator[Cluster]:
    """etcd and `count` brokers that answer; all killed when the block is left. `settings` go to every broker, over `TEST_SETTINGS`.

    Skips where there is no etcd. Without `network`, all are on loopback.
    """
    with ExitStack() as stack:
        cluster = Cluster(directory, network or Loopback(), settings or {}, stack, count)
        cluster.start_all()
        yield cluster
