"""How long is a partition without service when its leader dies, or is told to stop? Three brokers on this machine: Penstock on etcd, Apache Kafka (KRaft).

    .venv/bin/python -m bench.failover [--kills 30] [--stops 30] [--partitions 6] [--session-ms 3000] [--data-dir DIR]

Each partition has three replicas and a writer of its own, with one record in flight (acks=all), that asks one broker after the other as soon as its own
refuses or is gone: so what is measured is the cluster, and no client's patience. In turn brokers are killed (SIGKILL) or stopped (SIGTERM) and
started again, and the next turn begins when all replicas are in sync. Time without service is the longest pause between two acks of a partition in
that turn. Shown for the partitions that the broker led, and for those that it only followed (where acks=all waits for the in-sync replicas to
shrink): median, p99 and longest over all turns. Promised: p99 below the session timeout + 2 s after a kill, below 200 ms after a stop.
"""

import itertools
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench.clusters import COUNT, ClusterSubject, Node, create_topic, kafka_nodes, penstock_cluster
from bench.frames import make_batch, produce_answer, produce_request
from bench.peers import PeerFailed, PeerMissing
from bench.report import file_system_of, git_state, machine, write_json
from bench.subjects import CACHING, DURABLE

LIMIT_S = 60.0
ANSWER_LIMIT_S = 30.0
PAUSE_S = 0.002
POLL_S = 0.02
MARGIN_MS = 2_000
STOP_BOUND_MS = 200
KILL, STOP = "SIGKILL", "SIGTERM"


class Writer:
    """One record in flight to a topic of one partition, for ever; every ack's time is kept."""

    def __init__(self, topic: str, ports: Sequence[int]) -> None:
        self.topic = topic
        self.acks: list[float] = []
        """Monotonic seconds."""
        self.port = ports[0]
        """Of the broker that answered last."""
        self._ports = list(ports)
        self._frame = produce_request(topic, make_batch(1, 100).data)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; returns when the thread has."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        turn = 0
        while not self._stopping.is_set():
            port = self._ports[turn % len(self._ports)]
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.settimeout(ANSWER_LIMIT_S)
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    while not self._stopping.is_set():
                        self._write(connection)
                        self.port = port
            except (OSError, ValueError):
                turn += 1
                self._stopping.wait(PAUSE_S)

    def _write(self, connection: socket.socket) -> None:
        connection.sendall(self._frame)
        answer = connection.recv(4096)
        if len(answer) < 4:
            raise OSError("closed")
        produce_answer(self.topic, len(answer)).check(answer, 0, 0)
        self.acks.append(time.monotonic())

    def longest_pause_ms(self, since: float) -> float:
        """Between two acks, of which the second came after `since`, up to now."""
        times = [*self.acks, time.monotonic()]
        return max((b - a) * 1000 for a, b in itertools.pairwise(times) if b >= since)


@dataclass(slots=True)
class Pauses:
    """One row: time without service in ms, of partitions led and of partitions followed by the broker that went."""

    how: str
    led: list[float] = field(default_factory=list[float])
    followed: list[float] = field(default_factory=list[float])

    def summary(self) -> dict[str, dict[str, float]]:
        """Median, p99 and longest of both."""
        told: dict[str, dict[str, float]] = {}
        for name, found in (("led", self.led), ("followed", self.followed)):
            if found:
                ordered = sorted(found)
                p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
                median = statistics.median(found)
                told[name] = {"count": len(found), "median_ms": median, "p99_ms": p99, "max_ms": ordered[-1]}
        return told


def await_acks(writers: Sequence[Writer], count: int) -> None:
    """Wait for so many more acks of each. Raises PeerFailed."""
    wanted = {writer.topic: len(writer.acks) + count for writer in writers}
    deadline = time.monotonic() + LIMIT_S
    while any(len(writer.acks) < wanted[writer.topic] for writer in writers):
        if time.monotonic() > deadline:
            raise PeerFailed(f"a partition has had no ack for {LIMIT_S} s")
        time.sleep(POLL_S)


def await_whole(subject: ClusterSubject, topics: Sequence[str]) -> None:
    """Wait until all replicas are in sync. Raises PeerFailed."""
    from confluent_kafka.admin import AdminClient

    admin: Any = AdminClient({"bootstrap.servers": subject.bootstrap, "log_level": 0})
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        told = admin.list_topics(timeout=LIMIT_S).topics
        if all(len(told[topic].partitions[0].isrs) == COUNT for topic in topics):
            return
        time.sleep(POLL_S)
    raise PeerFailed("not all replicas came in sync")


def take_turn(subject: ClusterSubject, node: Node, writers: Sequence[Writer], row: Pauses) -> None:
    """Kill or stop one broker, wait until every partition is served again, start it, and wait until it is whole."""
    await_acks(writers, 20)
    is_led = {writer.topic: writer.port == node.port for writer in writers}
    begin = time.monotonic()
    if row.how == KILL:
        node.kill()
    else:
        node.stop()
    await_acks(writers, 20)
    for writer in writers:
        pause_ms = writer.longest_pause_ms(begin)
        (row.led if is_led[writer.topic] else row.followed).append(pause_ms)
    node.start()
    node.await_ready()
    await_whole(subject, [writer.topic for writer in writers])


def measure(subject: ClusterSubject, partitions: int, kills: int, stops: int) -> list[Pauses]:
    """All turns of one cluster."""
    topics = [f"failing-{number}" for number in range(partitions)]
    for number, topic in enumerate(topics):
        create_topic(subject, topic, [[(number + shift) % COUNT + 1 for shift in range(COUNT)]])
    writers = [Writer(topic, [node.port for node in subject.nodes]) for topic in topics]
    rows = [Pauses(STOP), Pauses(KILL)]
    try:
        for row, count in zip(rows, (stops, kills), strict=True):
            for _ in range(count):
                await_acks(writers, 1)
                # Whoever leads most, so that each turn tells something.
                ports = [writer.port for writer in writers]
                node = max(subject.nodes, key=lambda each: ports.count(each.port))
                take_turn(subject, node, writers, row)
    finally:
        for writer in writers:
            writer.stop()
    return rows


def show(name: str, settings: str, session_ms: int, rows: Sequence[Pauses]) -> None:
    """A line for each figure."""
    for row in rows:
        bound_ms = session_ms + MARGIN_MS if row.how == KILL else STOP_BOUND_MS
        for part, told in row.summary().items():
            verdict = (
                ""
                if part == "followed"
                else f"  {'below' if told['p99_ms'] < bound_ms else 'ABOVE'} {bound_ms}"
            )
            click.echo(
                f"{name:<9} {settings:<32} {row.how} of the {'leader' if part == 'led' else 'follower'}: "
                f"median {told['median_ms']:>6.0f} ms, p99 {told['p99_ms']:>6.0f}, longest {told['max_ms']:>6.0f} "
                f"({told['count']:.0f}){verdict}"
            )


@click.command(context_settings={"show_default": True})
@click.option("--kills", default=30, help="Brokers killed.")
@click.option("--stops", default=30, help="Brokers stopped.")
@click.option("--partitions", default=6, help="Each with a writer.")
@click.option("--session-ms", default=3_000, help="broker.session.timeout.ms of both.")
@click.option("--peers", default="penstock,kafka", help="Who takes part.")
@click.option(
    "--durability",
    "durabilities",
    multiple=True,
    type=click.Choice([CACHING, DURABLE]),
    default=[CACHING, DURABLE],
)
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the brokers write.")
@click.option("--results", default="bench/results/local", help="Where the JSON goes.")
def main(
    kills: int,
    stops: int,
    partitions: int,
    session_ms: int,
    peers: str,
    durabilities: Sequence[str],
    data_dir: str,
    results: str,
) -> None:
    """Time partitions without service."""
    cores = [sorted(os.sched_getaffinity(0))]
    session = {
        "broker.session.timeout.ms": str(session_ms),
        "broker.heartbeat.interval.ms": str(session_ms // 5),
    }
    told: list[dict[str, Any]] = []
    for durability in durabilities:
        for peer in peers.split(","):
            starter = penstock_cluster if peer == "penstock" else kafka_nodes
            with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch:
                try:
                    with starter(durability, Path(scratch), cores, session) as subject:
                        rows = measure(subject, partitions, kills, stops)
                except PeerMissing as missing:
                    click.echo(f"without {peer}: {missing}")
                    continue
                except PeerFailed as failed:
                    raise click.ClickException(f"{peer}: {failed}") from None
            show(subject.name, subject.settings, session_ms, rows)
            for row in rows:
                told.append(
                    {"subject": peer, "settings": subject.settings, "how": row.how, "led": row.led}
                    | {"followed": row.followed, "summary": row.summary()}
                )
    document = {
        "bench": "failover",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "session_ms": session_ms,
        "file_system": file_system_of(Path(data_dir)),
        "machine": machine(),
        "git": git_state(),
        "rows": told,
    }
    click.echo(f"written to {os.path.relpath(write_json(document, Path(results)))}")


if __name__ == "__main__":
    main()
