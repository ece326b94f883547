"""Apache Kafka: jars by Maven, KRaft brokers on loopback, alone or several, and its command line tools.

Owns the pom beside it (`kafka/pom.xml`), the cache of jars, and the processes that it starts. Whether Kafka can be had is told by
`PeerMissing`, never by a failed import: everything is looked up when it is asked for.

The jars are kept in `$PENSTOCK_PEERS` (default: `penstock/peers` in the user's cache folder), one folder for each content of the
pom, which appears by rename: a folder that is there is complete.
"""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from bench.peers import PeerFailed, PeerMissing
from bench.peers.class_archive import reading_archive, writing_archive
from bench.ports import free_ports
from bench.processes import answers_api_versions, on_cores, tail

__all__ = [
    "KafkaBroker",
    "PeerFailed",
    "PeerMissing",
    "Tool",
    "find_java",
    "kafka_broker",
    "kafka_cluster",
    "kafka_version",
    "libraries",
    "run_tool",
    "tool_command",
]

HERE = Path(__file__).parent / "kafka"
POM = HERE / "pom.xml"
JAVA_VERSION_MIN = 17
_QUICK = ("-Xmx256M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""For processes that live for a second."""
_LOGGING = (
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
    "-Dpenstock.log.level=info",
)


class Tool(StrEnum):
    """The main classes of Kafka's command line tools, under the names of their scripts."""

    BROKER_API_VERSIONS = "org.apache.kafka.tools.BrokerApiVersionsCommand"
    CLUSTER = "org.apache.kafka.tools.ClusterTool"
    CONFIGS = "kafka.admin.ConfigCommand"
    CONSOLE_CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
    CONSOLE_PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
    CONSUMER_GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
    CONSUMER_PERF_TEST = "org.apache.kafka.tools.ConsumerPerformance"
    DELETE_RECORDS = "org.apache.kafka.tools.DeleteRecordsCommand"
    DUMP_LOG = "org.apache.kafka.tools.DumpLogSegments"
    E2E_LATENCY = "org.apache.kafka.tools.EndToEndLatency"
    FEATURES = "org.apache.kafka.tools.FeatureCommand"
    GET_OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
    LEADER_ELECTION = "org.apache.kafka.tools.LeaderElectionCommand"
    LOG_DIRS = "org.apache.kafka.tools.LogDirsCommand"
    METADATA_QUORUM = "org.apache.kafka.tools.MetadataQuorumCommand"
    PRODUCER_PERF_TEST = "org.apache.kafka.tools.ProducerPerformance"
    REASSIGN_PARTITIONS = "org.apache.kafka.tools.reassign.ReassignPartitionsCommand"
    SERVER = "kafka.Kafka"
    STORAGE = "kafka.tools.StorageTool"
    TOPICS = "org.apache.kafka.tools.TopicCommand"
    TRANSACTIONS = "org.apache.kafka.tools.TransactionsCommand"
    VERIFIABLE_CONSUMER = "org.apache.kafka.tools.VerifiableConsumer"
    VERIFIABLE_PRODUCER = "org.apache.kafka.tools.VerifiableProducer"


def kafka_version() -> str:
    """The version of Apache Kafka that the pom names."""
    found = re.search(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text())
    assert found is not None
    return found.group(1)


def find_java() -> str:
    """Path of a Java of at least `JAVA_VERSION_MIN`: `$JAVA_HOME`'s, else the one on the PATH.

    Raises:
        PeerMissing: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    path = shutil.which("java", path=f"{home}/bin" if home else None)
    if path is None:
        raise PeerMissing("Apache Kafka needs a Java runtime: no `java` on the PATH")
    if _java_version(path) < JAVA_VERSION_MIN:
        raise PeerMissing(f"Apache Kafka needs Java {JAVA_VERSION_MIN} or later: {path} is not")
    return path


@functools.cache
def _java_version(path: str) -> int:
    told = subprocess.run([path, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    return 0 if version is None else int(version.group(1))


def libraries() -> Path:
    """The folder with Kafka's jars; fetched by Maven when it is not in the cache yet (about 60 MB, once).

    Raises:
        PeerMissing: the jars are not cached, and there is no Maven or it could not fetch them.
    """
    root = os.environ.get("PENSTOCK_PEERS")
    if root is None:
        root = os.path.join(
            os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "penstock", "peers"
        )
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    folder = Path(root) / f"kafka-{kafka_version()}-{digest}"
    if not folder.is_dir():
        _fetch(folder)
    return folder


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise PeerMissing(
            f"Apache Kafka {kafka_version()} is not cached in {folder}, and there is no `mvn` to fetch it"
        )
    find_java()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        target = os.path.join(scratch, "jars")
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={target}", "-DincludeScope=runtime"]
        done = subprocess.run(
            [maven, "-q", "-B", "-f", str(POM), *goal], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            reason = next((line for line in done.stdout.splitlines() if "ERROR" in line), "no reason given")
            raise PeerMissing(f"Maven could not fetch Apache Kafka {kafka_version()}: {reason[:300]}")
        # Another process may have been first: its folder is as good as ours.
        with suppress(OSError):
            os.rename(target, folder)
    if not folder.is_dir():
        raise PeerMissing(f"could not put Apache Kafka's jars in {folder}")


def tool_command(tool: str, *arguments: str, jvm: Sequence[str] = (), log_level: str = "warn") -> list[str]:
    """The command line that runs a main class (see `Tool`) of Kafka's. Raises PeerMissing."""
    fixed = ["-Djava.awt.headless=true", f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"]
    return [
        find_java(),
        *(jvm or _QUICK),
        *fixed,
        f"-Dpenstock.log.level={log_level}",
        "-cp",
        f"{libraries()}/*",
        tool,
        *arguments,
    ]


def run_tool(
    tool: str, *arguments: str, stdin: bytes = b"", timeout_s: float = 60, check: bool = True
) -> subprocess.CompletedProcess[bytes]:
    """Run a command line tool to its end; stdout is its output, stderr its log lines.

    Raises:
        PeerMissing: no Java or no jars.
        PeerFailed: it ended with another code than 0 and `check` is set, or it took longer than `timeout_s`.
    """
    name = tool.rpartition(".")[2]
    try:
        with _archive(speaks="--bootstrap-server" in arguments) as options:
            command = tool_command(tool, *arguments, jvm=(*_QUICK, *options))
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as late:
        told = ((late.stdout or b"") + (late.stderr or b"")).decode(errors="replace")
        raise PeerFailed(f"{name} took longer than {timeout_s} s: {told[-2000:]}") from None
    if check and done.returncode != 0:
        told = (done.stdout + done.stderr).decode(errors="replace")
        raise PeerFailed(f"{name} ended with {done.returncode}: {told[-2000:]}")
    return done


def _archive(*, speaks: bool) -> AbstractContextManager[list[str]]:
    """Only a tool that speaks to a broker has loaded what all others need."""
    java, jars = find_java(), libraries()
    return writing_archive(java, jars) if speaks else nullcontext(reading_archive(java, jars))


@dataclass(frozen=True, slots=True)
class KafkaBroker:
    """A broker that answers. `directory` holds `data/` (partition folders), `server.properties` and `broker.log`."""

    host: str
    port: int
    directory: Path
    process: subprocess.Popen[bytes]
    command: Sequence[str] = ()
    """That started it, and would start it anew."""

    @property
    def bootstrap(self) -> str:
        """`host:port`, as clients want it."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        """The JVM's process id."""
        return self.process.pid

    @property
    def data_directory(self) -> Path:
        """Where the partition folders are."""
        return self.directory / "data"

    @property
    def log_path(self) -> Path:
        """What the broker logs (INFO and up)."""
        return self.directory / "broker.log"

    def kill(self) -> None:
        """SIGKILL, and wait for the end of the process. Safe to call twice."""
        self.process.kill()
        self.process.wait()

    def stop(self, timeout_s: float = 30) -> None:
        """Clean shutdown by SIGTERM (segments and indexes are flushed); killed after `timeout_s`."""
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()


@contextmanager
def kafka_broker(
    settings: Mapping[str, str] | None = None,
    *,
    directory: Path | None = None,
    cores: Iterable[int] | None = None,
    heap: str = "1G",
    timeout_s: float = 60,
    is_measured: bool = True,
) -> Generator[KafkaBroker]:
    """A fresh single-node broker on free loopback ports; ended (SIGKILL) when the block is left.

    Args:
        settings: broker properties laid over the defaults, e.g. `{"log.flush.interval.messages": "1"}` (the broker-wide name of
            the topic's `flush.messages`).
        directory: an empty or missing folder that stays afterwards; by default a temporary one that goes with the broker.
            Call `stop()` before leaving the block when its files are to be read.
        cores: CPUs that the process may use; by default all.
        heap: the JVM's heap, from the start.
        timeout_s: how long formatting and starting may take.
        is_measured: whether its speed matters. If not, it starts with half the CPU time and is slower afterwards.

    Raises:
        PeerMissing: no Java or no jars.
        PeerFailed: it did not come up in time; with the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="penstock-kafka-", ignore_cleanup_errors=True) as scratch:
        home = Path(scratch) if directory is None else directory
        node = _Node(1, home, *free_ports(2))
        jvm = _jvm_options(heap) if is_measured else _quick_options()
        with _running([node], {**_ALONE, **(settings or {})}, cores, jvm, timeout_s) as (broker,):
            yield broker


@contextmanager
def kafka_cluster(
    count: int,
    directory: Path,
    settings: Mapping[str, str] | None = None,
    *,
    cores: Iterable[int] | None = None,
    heap: str = "1G",
    timeout_s: float = 120,
) -> Generator[list[KafkaBroker]]:
    """`count` brokers with node ids from 1 on, each broker and controller (KRaft), in folders of their own below `directory`. See `kafka_broker`."""
    ports = free_ports(2 * count)
    nodes = [
        _Node(index + 1, directory / f"kafka-{index + 1}", ports[2 * index], ports[2 * index + 1])
        for index in range(count)
    ]
    all_settings = {**_SEVERAL, **(settings or {})}
    with _running(nodes, all_settings, cores, _jvm_options(heap), timeout_s) as brokers:
        yield brokers


@dataclass(frozen=True, slots=True)
class _Node:
    node_id: int
    home: Path
    port: int
    controller_port: int


@contextmanager
def _running(
    nodes: Sequence[_Node],
    settings: Mapping[str, str],
    cores: Iterable[int] | None,
    jvm: Sequence[str],
    timeout_s: float,
) -> Generator[list[KafkaBroker]]:
    java, jars, cluster_id = find_java(), libraries(), _new_cluster_id()
    voters = ",".join(f"{node.node_id}@127.0.0.1:{node.controller_port}" for node in nodes)
    pinned = None if cores is None else list(cores)
    with ExitStack() as stack:
        brokers: list[KafkaBroker] = []
        for node in nodes:
            home = node.home
            home.mkdir(parents=True, exist_ok=True)
            properties, log_path = home / "server.properties", home / "broker.log"
            _write_properties(properties, node, voters, settings)
            _format(properties, log_path, cluster_id, timeout_s)
            command = [java, *jvm, "-cp", f"{jars}/*", Tool.SERVER, str(properties)]
            with log_path.open("ab") as log, on_cores(pinned):
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home
                )
            broker = KafkaBroker("127.0.0.1", node.port, home, process, command)
            stack.callback(broker.kill)
            brokers.append(broker)
        for broker in brokers:
            _wait_until_ready(broker, timeout_s)
        yield brokers


def _jvm_options(heap: str) -> list[str]:
    """What Kafka's own start script passes, so that the peer is measured as people run it."""
    return [
        f"-Xms{heap}",
        f"-Xmx{heap}",
        "-server",
        "-XX:+UseG1GC",
        "-XX:MaxGCPauseMillis=20",
        "-XX:InitiatingHeapOccupancyPercent=35",
        "-XX:+ExplicitGCInvokesConcurrent",
        *_LOGGING,
    ]


def _quick_options() -> list[str]:
    return ["-Xmx512M", *_QUICK[1:], *reading_archive(find_java(), libraries()), *_LOGGING]


_ALONE = {
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}
_SEVERAL = {"default.replication.factor": "3", "offsets.topic.replication.factor": "3"}


def _write_properties(path: Path, node: _Node, voters: str, settings: Mapping[str, str]) -> None:
    listener, controller = f"127.0.0.1:{node.port}", f"127.0.0.1:{node.controller_port}"
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(node.node_id),
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{listener},CONTROLLER://{controller}",
        "advertised.listeners": f"PLAINTEXT://{listener}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(node.home / "data"),
        "num.partitions": "1",
        "offsets.topic.num.partitions": "1",
        "transaction.state.log.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        **settings,
    }
    path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))


def _new_cluster_id() -> str:
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    if cluster_id.startswith("-"):  # the tool would take it for an option
        cluster_id = "A" + cluster_id[1:]
    return cluster_id


def _format(properties: Path, log_path: Path, cluster_id: str, timeout_s: float) -> None:
    try:
        told = run_tool(Tool.STORAGE, "format", "-t", cluster_id, "-c", str(properties), timeout_s=timeout_s)
    except PeerFailed as failed:
        raise PeerFailed(f"Kafka could not format its folder: {failed}") from None
    log_path.write_bytes(told.stdout + told.stderr)


def _wait_until_ready(broker: KafkaBroker, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not answers_api_versions(broker.host, broker.port):
        if broker.process.poll() is not None:
            raise PeerFailed(f"Kafka ended with {broker.process.returncode}:\n{tail(broker.log_path)}")
        if time.monotonic() > deadline:
            raise PeerFailed(f"Kafka did not answer within {timeout_s} s:\n{tail(broker.log_path)}")
        time.sleep(0.05)
