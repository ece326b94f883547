"""What `replication.py` and `failover.py` measure: three brokers of one kind on this machine, seen as a `Subject` whose topics are led by the first.

Owns how a cluster is started: Penstock with its etcd, Apache Kafka with its own quorum. Knows nothing of what is measured.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which
from typing import Any

from bench.driver import Limits, produce, wait_for_topic
from bench.frames import make_batch
from bench.peers import PeerFailed, PeerMissing
from bench.peers.kafka import kafka_cluster, kafka_version
from bench.ports import free_ports
from bench.processes import answers_api_versions, cpu_seconds, on_cores, tail
from bench.subjects import CACHING, DURABLE, TOPIC_TIMEOUT_S, Subject

COUNT = 3
LEADER = 1
LIMIT_S = 60.0
POLL_S = 0.005
EMPTY: Mapping[str, str] = {}
HEAP = "512M"
"""Of each of Kafka's three JVMs: together what its start script gives to one and a half."""


@dataclass(slots=True)
class Node:
    """One broker. `command` starts it anew where it may be killed."""

    node_id: int
    port: int
    data_directory: Path
    log_path: Path
    command: Sequence[str]
    cores: Sequence[int]
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def bootstrap(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it, without waiting."""
        with self.log_path.open("ab") as log, on_cores(self.cores):
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.log_path.parent
            )

    def await_ready(self) -> None:
        """Wait until it answers. Raises PeerFailed."""
        deadline = time.monotonic() + LIMIT_S
        while not answers_api_versions("127.0.0.1", self.port):
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                raise PeerFailed(f"broker {self.node_id} did not start:\n{tail(self.log_path)}")
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Safe to call twice."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(LIMIT_S)


@dataclass(frozen=True, slots=True)
class ClusterSubject(Subject):
    """A cluster, reached by the leader of all topics that `create_topic` makes: node 1, with `replication` replicas."""

    nodes: Sequence[Node] = field(default=())
    replication: int = COUNT

    def create_topic(self, topic: str) -> None:
        """A new topic of one partition, whose replicas are the first nodes, all in sync."""
        create_topic(self, topic, [list(range(LEADER, LEADER + self.replication))])
        wait_for_topic(self.address, topic, TOPIC_TIMEOUT_S)
        # Followers may take a second to begin with a new topic, which is no part of what a write costs.
        bounds = Limits(seconds=TOPIC_TIMEOUT_S, bytes_max=1 << 30, requests_max=1)
        produce(self.address, topic, make_batch(1, 1), window=1, limits=bounds)

    def delete_topic(self, topic: str) -> None:
        """Remove the topic and wait until its files are gone everywhere."""
        admin = self._admin()
        admin.delete_topics([topic])[topic].result(TOPIC_TIMEOUT_S)
        deadline = time.monotonic() + TOPIC_TIMEOUT_S
        while time.monotonic() < deadline and any(
            any(node.data_directory.glob(f"{topic}-*")) for node in self.nodes
        ):
            time.sleep(0.02)

    def check_alive(self) -> None:
        """Raise PeerFailed with the end of its log when a process is gone."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is not None:
                raise PeerFailed(f"{self.name} {node.node_id} ended:\n{tail(node.log_path)}")

    @property
    def bootstrap(self) -> str:
        """All brokers."""
        return ",".join(node.bootstrap for node in self.nodes)

    @property
    def cpu_seconds(self) -> float:
        """Of all brokers so far."""
        return sum(cpu_seconds(node.pid) for node in self.nodes)

    def with_replication(self, name: str, replication: int) -> "ClusterSubject":
        """The same brokers, with topics of so many replicas, under another name."""
        return ClusterSubject(
            name,
            self.durability,
            f"{self.settings.partition(', ')[0]}, {replication} replica{'s' if replication > 1 else ''}",
            self.version,
            self.address,
            self.pid,
            self.data_directory,
            has_topics=True,
            nodes=self.nodes,
            replication=replication,
        )


def create_topic(
    subject: Subject,
    topic: str,
    assignment: Sequence[Sequence[int]],
    configs: Mapping[str, str] = EMPTY,
) -> None:
    """A new topic, its partitions on the nodes that are named for each, the first of them leading; returns when all replicas are in sync.

    Raises PeerFailed when that takes too long.
    """
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin: Any = AdminClient({"bootstrap.servers": subject.bootstrap, "log_level": 0})
    created = admin.create_topics(
        [
            NewTopic(
                topic,
                num_partitions=len(assignment),
                replica_assignment=[list(nodes) for nodes in assignment],
                config=dict(configs),
            )
        ]
    )
    created[topic].result(TOPIC_TIMEOUT_S)
    deadline = time.monotonic() + TOPIC_TIMEOUT_S
    while time.monotonic() < deadline:
        partitions = admin.list_topics(topic, timeout=TOPIC_TIMEOUT_S).topics[topic].partitions
        found = {index: (told.leader, sorted(told.isrs)) for index, told in partitions.items()}
        if found == {index: (nodes[0], sorted(nodes)) for index, nodes in enumerate(assignment)}:
            return
        time.sleep(0.05)
    raise PeerFailed(f"{subject.name}: the replicas of {topic} are not all in sync")


@contextmanager
def etcd(directory: Path, cores: Sequence[int]) -> Generator[str]:
    """One etcd with its data below `directory`; the location for `penstock serve --cluster`. Raises PeerMissing, PeerFailed."""
    program = which("etcd")
    if program is None:
        raise PeerMissing("a cluster of Penstock needs etcd (Debian: etcd-server)")
    client_port, peer_port = free_ports(2)
    client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
    log_path = directory / "etcd.log"
    command = [program, "--name", "one", "--data-dir", str(directory / "etcd"), "--log-level", "warn"]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client, "--logger", "zap"]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"one={peer}"]
    with log_path.open("ab") as log, on_cores(cores):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        _await_etcd(process, client, log_path)
        yield f"etcd://127.0.0.1:{client_port}"
    finally:
        process.kill()
        process.wait()


def _await_etcd(process: "subprocess.Popen[bytes]", url: str, log_path: Path) -> None:
    from urllib.error import URLError
    from urllib.request import urlopen

    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{url}/health", timeout=2) as reply:
                if b"true" in reply.read():
                    return
        except (URLError, OSError):
            time.sleep(0.02)
    raise PeerFailed(f"etcd did not start:\n{tail(log_path)}")


@contextmanager
def penstock_cluster(
    durability: str,
    directory: Path,
    cores: Sequence[Sequence[int]],
    settings: Mapping[str, str] = EMPTY,
    count: int = COUNT,
) -> Generator[ClusterSubject]:
    """Etcd and `count` brokers, on `cores` (the last entry is that of all further ones). Raises PeerMissing, PeerFailed."""
    program = str(Path(sys.executable).with_name("penstock"))
    told = f"write.caching={'true' if durability == CACHING else 'false'}"
    fixed = [told, "log.segment.delete.delay.ms=0", "auto.create.topics.enable=false"]
    fixed += [f"{name}={value}" for name, value in settings.items()]
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        location = stack.enter_context(etcd(directory, cores[-1]))
        nodes: list[Node] = []
        for index, port in enumerate(free_ports(count)):
            node_id, data = LEADER + index, directory / f"penstock-{LEADER + index}"
            command = [program, "serve", "--node-id", str(node_id), "--data-dir", str(data)]
            command += ["--listen", f"127.0.0.1:{port}", "--cluster", location]
            command += [part for setting in fixed for part in ("--set", setting)]
            log_path = directory / f"penstock-{node_id}.log"
            node = Node(node_id, port, data, log_path, command, cores[min(index, len(cores) - 1)])
            stack.callback(node.kill)
            node.start()
            nodes.append(node)
        for node in nodes:
            node.await_ready()
        import penstock as package

        yield _subject("penstock", durability, told, str(package.__version__), nodes)


@contextmanager
def kafka_nodes(
    durability: str,
    directory: Path,
    cores: Sequence[Sequence[int]],
    settings: Mapping[str, str] = EMPTY,
    count: int = COUNT,
) -> Generator[ClusterSubject]:
    """Apache Kafka with `count` brokers and its own defaults but for the sync. Raises PeerMissing, PeerFailed."""
    properties = {"log.segment.delete.delay.ms": "0", "auto.create.topics.enable": "false", **settings}
    told = "flush.messages unset"
    if durability == DURABLE:
        properties["log.flush.interval.messages"] = "1"
        told = "flush.messages=1"
    union = sorted({core for each in cores for core in each})
    with kafka_cluster(count, directory, properties, cores=union, heap=HEAP) as brokers:
        nodes = [
            Node(
                LEADER + index, broker.port, broker.data_directory, broker.log_path, (), union, broker.process
            )
            for index, broker in enumerate(brokers)
        ]
        for node, broker in zip(nodes, brokers, strict=True):
            node.command = broker.command
        try:
            yield _subject("kafka", durability, told, kafka_version(), nodes)
        finally:
            for node in nodes:
                node.kill()


def _subject(
    name: str, durability: str, settings: str, version: str, nodes: Sequence[Node]
) -> ClusterSubject:
    first = nodes[0]
    return ClusterSubject(
        name,
        durability,
        f"{settings}, {len(nodes)} replicas",
        version,
        ("127.0.0.1", first.port),
        first.pid,
        first.data_directory,
        has_topics=True,
        log_path=first.log_path,
        nodes=nodes,
        replication=len(nodes),
    )
