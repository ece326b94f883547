"""Readers of a topic that faults happen to: an observer without a group, and a group of librdkafka, aiokafka, Penstock and Java members.

The observer holds what it saw against what is there later; the group shows that commits are kept and that everything is processed. Its members are the
processes of `tests.support.churn.member`, and Java's verifiable consumer.
"""

import json
import shutil
import subprocess
import sys
import zlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.peers.kafka import PeerMissing, Tool, tool_command
from confluent_kafka import Message, TopicPartition
from tests.support.churn import history
from tests.support.clients import librdkafka
from tests.support.deadline import until
from tests.support.load.actors import Actor
from tests.support.requirements import need

ROOT = Path(__file__).parents[3]
GROUP_SESSION_MS = 6_000
LEAVE_S = 2.0
"""What is gone from its group so soon has left it: its session is not over, nor is the time in which it must join again."""


class Observer(Actor):
    """librdkafka on all partitions of a topic, from their beginning, along with the writers (PROPERTIES D2, C1)."""

    def __init__(self, bootstrap: str, topic: str, partition_count: int) -> None:
        super().__init__(bootstrap, "observer")
        self._topic, self._partition_count = topic, partition_count
        self.done_count: int = 0
        self.seen: dict[int, dict[int, int]] = {index: {} for index in range(partition_count)}
        """By partition: offset to CRC-32 of the value."""

    def run_once(self) -> None:
        consumer = librdkafka.make_consumer(
            self.bootstrap,
            reconnect_backoff_ms=20,
            reconnect_backoff_max_ms=200,
            topic_metadata_refresh_interval_ms=1_000,
            log_level=0,
        )
        try:
            starts = [len(self.seen[index]) for index in range(self._partition_count)]
            consumer.assign([TopicPartition(self._topic, index, at) for index, at in enumerate(starts)])
            while not self.stopping.is_set():
                for message in consumer.consume(500, 0.1):
                    if message.error() is None:
                        self._see(message)
        finally:
            consumer.close()

    def _see(self, message: Message) -> None:
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        seen = self.seen[partition]
        assert offset == len(seen), f"partition {partition}: {offset} comes after {len(seen) - 1}"
        seen[offset] = zlib.crc32(librdkafka.value_of(message))
        self.done_count += 1


def has_left_by_itself(notes: str, client_id: str, members: Collection[str]) -> bool:
    """Whether a member gave back its partitions when it was asked to leave, and is none of the group's members any more.

    A librdkafka member that has, and hangs, waits for no broker: it gives LeaveGroup's answer 5 s, then closes its connections and joins its
    threads (rd_kafka_destroy), which may deadlock where brokers went from the metadata and came back (librdkafka's issues 4674 and 5476).
    """
    last = [json.loads(line)["event"] for line in notes.splitlines()[-2:]]
    return last == ["leaving", "revoke"] and client_id not in members


def native_stacks(pid: int) -> str:
    """Where the threads of a process are, by gdb where there is one."""
    gdb = shutil.which("gdb")
    if gdb is None:
        return "no gdb, no stacks"
    told = subprocess.run(
        [gdb, "-p", str(pid), "-batch", "-ex", "thread apply all bt 16"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    return told.stdout.decode(errors="replace")


class Group:
    """A group that reads along. `clients`: names of `tests.support.churn.member`, or `java`. `protocol`: "classic" or "consumer" (KIP-848)."""

    def __init__(
        self, bootstrap: str, topic: str, clients: Sequence[str], folder: Path, protocol: str = "classic"
    ) -> None:
        self.group = f"{protocol}-readers-of-{topic}"
        self.bootstrap, self.topic = bootstrap, topic
        self._protocol = protocol
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._clients = clients
        if "librdkafka" in clients:
            librdkafka.commit_beginnings(bootstrap, self.group, topic)
        self._processes = [self._start(client) for client in clients]

    def _start(self, client: str) -> "subprocess.Popen[bytes]":
        stem = self._folder / client
        with stem.with_suffix(".err").open("wb") as err, stem.with_suffix(".out").open("wb") as out:
            return subprocess.Popen(
                self._java() if client == "java" else self._python(client, stem.with_suffix(".notes")),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=ROOT,
            )

    def _python(self, client: str, notes: Path) -> list[str]:
        return [
            *(sys.executable, "-W", "ignore", "-m", "tests.support.churn.member", client),
            *("--bootstrap", self.bootstrap, "--group", self.group, "--topic", self.topic),
            *("--protocol", self._protocol, "--assignor", "range", "--notes", str(notes)),
            *("--session-timeout-ms", str(GROUP_SESSION_MS)),
        ]

    def _java(self) -> list[str]:
        config = self._folder / "java.properties"
        config.write_text("retry.backoff.ms=20\nmetadata.max.age.ms=1000\nreconnect.backoff.max.ms=200\n")
        session = ("--session-timeout", str(GROUP_SESSION_MS))
        if self._protocol == "consumer":
            session = ("--group-protocol", "consumer")  # the broker says how long a session is
        try:
            return tool_command(
                Tool.VERIFIABLE_CONSUMER,
                *("--bootstrap-server", self.bootstrap, "--topic", self.topic, "--group-id", self.group),
                *session,
                *("--command-config", str(config)),
            )
        except PeerMissing as missing:
            need(False, str(missing))
            raise

    def errors(self) -> str:
        """What the members complained of."""
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self._folder.glob("*.err"))
            if path.stat().st_size
        )

    def check_alive(self) -> None:
        """AssertionError when a member ended by itself."""
        for process in self._processes:
            assert process.poll() is None, f"a member ended with {process.returncode}: {self.errors()}"

    def await_commits(self, more: int = 1, limit_s: float = 60.0) -> None:
        """Wait until the group has had `more` further commits acked."""
        before = self._commit_count()
        until(lambda: self._commit_count() >= before + more, f"commits of {self.group}", limit_s=limit_s)

    def _commit_count(self) -> int:
        self.check_alive()
        return sum(map(len, self.acked_commits().values()))

    def stop(self) -> None:
        """All leave; returns when they have ended. AssertionError with all that tells why where one does not."""
        for process in self._processes:
            process.terminate()
        for client, process in zip(self._clients, self._processes, strict=True):
            self._await_end(client, process)

    def _await_end(self, client: str, process: "subprocess.Popen[bytes]") -> None:
        has_left: bool | None = None
        try:
            if client == "librdkafka":
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LEAVE_S)
                    return
                notes = (self._folder / client).with_suffix(".notes").read_text()
                has_left = has_left_by_itself(notes, f"{client}-{process.pid}", self._client_ids())
            process.wait(30)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the {client} member of {self.group} does not end; left the group by itself: {has_left}\n"
                f"{self.errors()}\n{native_stacks(process.pid)}"
            ) from None

    def _client_ids(self) -> set[str]:
        """Those of the group's members, as its coordinator tells them."""
        admin = librdkafka.admin.AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        described = admin.describe_consumer_groups([self.group])[self.group].result(30)
        return {member.client_id for member in described.members}

    def close(self) -> None:
        """Kill what is left."""
        for process in self._processes:
            process.kill()
            process.wait()

    def processed(self) -> history.Processed:
        """What the members have processed so far."""
        processed = history.read_notes(self._folder.glob("*.notes"))
        for partition, first, last in self._java_records():
            for offset in range(first, last + 1):
                place = (partition, offset)
                processed.times_by_record[place] = processed.times_by_record.get(place, 0) + 1
        return processed

    def acked_commits(self) -> dict[int, set[int]]:
        """By partition: the offsets whose commit was acked to a member."""
        commits: dict[int, set[int]] = defaultdict(set)
        for path in self._folder.glob("*.notes"):
            for line in path.read_text().splitlines():
                event = json.loads(line)
                if event["event"] == "committed":
                    for partition, end in event["ends"]:
                        commits[partition].add(end)
        for event in self._java_events():
            if event["name"] == "offsets_committed" and event["success"]:
                for each in event["offsets"]:
                    commits[each["partition"]].add(each["offset"])
        return commits

    def _java_records(self) -> list[tuple[int, int, int]]:
        return [
            (part["partition"], part["minOffset"], part["maxOffset"])
            for event in self._java_events()
            if event["name"] == "records_consumed"
            for part in event["partitions"]
        ]

    def _java_events(self) -> list[Any]:
        path = self._folder / "java.out"
        if not path.exists():
            return []
        whole = path.read_text().rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]
