"""The chaos: a topic that is written to, and members that come, go, die and freeze while it is read.

Owns the processes and the schedule, which follows from a seed. At the end all that is frozen is thawed, a few members stay, and the group
must come to rest: everything assigned, everything read, nothing lagging.
"""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupState, Producer
from tests.support.clients import librdkafka
from tests.support.deadline import DeadlineExceeded, until

STEP_S = (0.05, 0.6)
RECORDS_A_STEP = 1000
HEAL_LIMIT_S = 90.0
REST_STATES = {ConsumerGroupState.STABLE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What happens to a group."""

    group: str
    topic: str
    clients: Sequence[str]
    protocol: str = "classic"
    assignor: str = "range"
    partition_count: int = 24
    members_max: int = 12
    seconds: float
    session_timeout_ms: int = 1500
    static_share: float = 0.0
    """The share of members that have a group.instance.id, which a successor may take over."""
    seed: int


@dataclass(slots=True)
class Member:
    """One process."""

    client: str
    process: "subprocess.Popen[bytes]"
    instance: str | None
    thaw_at: float | None = None


@dataclass(slots=True)
class Counts:
    """What was done, so that a quiet run is not taken for a hard one."""

    started: int = 0
    left: int = 0
    killed: int = 0
    frozen: int = 0
    produced: list[int] = field(default_factory=list[int])


class Churn:
    """One run. `run` returns when the group has come to rest."""

    def __init__(self, bootstrap: str, plan: Plan, directory: Path) -> None:
        self._bootstrap = bootstrap
        self._plan = plan
        self._random = random.Random(plan.seed)
        self._members: list[Member] = []
        self._directory = directory
        self._producer: Producer = librdkafka.make_producer(
            bootstrap, linger_ms=1, enable_idempotence=True, log_level=0
        )
        self.counts = Counts(produced=[0] * plan.partition_count)
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def notes(self) -> list[Path]:
        """The files of all members that ever were."""
        return sorted(self._directory.glob("*.notes"))

    def run(self) -> None:
        """Chaos for the planned time, then rest."""
        if "librdkafka" in self._plan.clients:
            librdkafka.commit_beginnings(self._bootstrap, self._plan.group, self._plan.topic)
        try:
            self._start_member()
            end = time.monotonic() + self._plan.seconds
            while time.monotonic() < end:
                self._step()
                self._produce()
                self._pace()
            self._heal()
            self._await_rest()
        finally:
            self.kill_all()

    def kill_all(self) -> None:
        """No process outlives the run."""
        for member in self._members:
            member.process.kill()
            member.process.wait()
        self._members.clear()

    def _step(self) -> None:
        self._reap()
        self._thaw(time.monotonic())
        running = [member for member in self._members if member.thaw_at is None]
        choice = self._random.random()
        if len(self._members) < 3 or (choice < 0.40 and len(self._members) < self._plan.members_max):
            self._start_member()
        elif choice < 0.55 and running:
            self._leave(self._random.choice(running))
        elif choice < 0.75 and running:
            self._kill(self._random.choice(running))
        elif running:
            self._freeze(self._random.choice(running))

    def _start_member(self) -> None:
        plan = self._plan
        client = plan.clients[self.counts.started % len(plan.clients)]
        instance = None
        if self._random.random() < plan.static_share:
            taken = {member.instance for member in self._members}
            free = [f"static-{index}" for index in range(4) if f"static-{index}" not in taken]
            instance = self._random.choice(free) if free else None
        number = self.counts.started
        self.counts.started += 1
        stem = self._directory / f"{number:03}-{client}"
        with stem.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-W", "ignore", "-m", "tests.support.churn.member", client),
                    *("--bootstrap", self._bootstrap, "--group", plan.group, "--topic", plan.topic),
                    *("--protocol", plan.protocol, "--assignor", plan.assignor),
                    *("--session-timeout-ms", str(plan.session_timeout_ms)),
                    *("--notes", str(stem.with_suffix(".notes"))),
                    *(("--instance", instance) if instance else ()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                cwd=Path(__file__).parents[3],
            )
        self._members.append(Member(client, process, instance))

    def _leave(self, member: Member) -> None:
        self.counts.left += 1
        member.process.send_signal(signal.SIGTERM)
        member.thaw_at = float("inf")  # on its way out: not to be hurt, nor counted as running

    def _kill(self, member: Member) -> None:
        self.counts.killed += 1
        member.process.kill()
        member.process.wait()
        self._members.remove(member)

    def _freeze(self, member: Member) -> None:
        """For less or for more than its session lasts."""
        self.counts.frozen += 1
        member.process.send_signal(signal.SIGSTOP)
        member.thaw_at = time.monotonic() + self._plan.session_timeout_ms / 1000 * self._random.uniform(
            0.2, 2
        )

    def _thaw(self, now: float) -> None:
        for member in self._members:
            if member.thaw_at is not None and member.thaw_at <= now:
                member.process.send_signal(signal.SIGCONT)
                member.thaw_at = None

    def _reap(self) -> None:
        """Forget who has left; who ended though nobody asked is a failure."""
        for member in list(self._members):
            code = member.process.poll()
            if code is None:
                continue
            assert member.thaw_at == float("inf"), (
                f"a {member.client} member ended by itself: {self._errors()}"
            )
            self._members.remove(member)

    def _errors(self) -> str:
        return "\n".join(
            f"{path.name}: {path.read_text(errors='replace')[-1500:]}"
            for path in sorted(self._directory.glob("*.err"))
            if path.stat().st_size
        )

    def _produce(self) -> None:
        for _ in range(RECORDS_A_STEP):
            partition = self._random.randrange(self._plan.partition_count)
            self._producer.produce(
                self._plan.topic, b"%d" % self.counts.produced[partition], partition=partition
            )
            self.counts.produced[partition] += 1
        self._producer.poll(0)

    def _pace(self) -> None:
        """Chaos has a rhythm: it is what the test is about, and nothing is expected of it."""
        time.sleep(self._random.uniform(*STEP_S))

    def _heal(self) -> None:
        assert self._producer.flush(30) == 0
        self._thaw(float("1e300"))
        leaving = [member for member in self._members if member.thaw_at is not None]
        for member in leaving:
            until(
                lambda process=member.process: process.poll() is not None,  # type: ignore[misc]
                f"the end of a {member.client} member that was asked to leave: {self._errors()}",
                limit_s=HEAL_LIMIT_S,
            )
        self._reap()
        while len(self._members) < 3:
            self._start_member()

    def _await_rest(self) -> None:
        admin = librdkafka.admin.AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 0})
        topic, count = self._plan.topic, self._plan.partition_count

        owners: dict[int, str] = {}
        described: Any = None

        def at_rest() -> bool:
            nonlocal described
            self._reap()
            described = admin.describe_consumer_groups([self._plan.group])[self._plan.group].result(30)
            owned = [
                (place.partition, f"{member.client_id} {member.member_id}")
                for member in described.members
                if member.assignment is not None
                for place in member.assignment.topic_partitions
                if place.topic == topic
            ]
            owners.clear()
            owners.update(owned)
            return described.state in REST_STATES and sorted(index for index, _ in owned) == list(
                range(count)
            )

        try:
            until(at_rest, "a stable group that owns every partition once", limit_s=HEAL_LIMIT_S)
        except DeadlineExceeded as exceeded:
            raise AssertionError(f"{exceeded}; it is {_told(described)}\n{self._errors()}") from exceeded

        def caught_up() -> bool:
            self._reap()
            return self._committed(admin) == self.counts.produced

        try:
            until(caught_up, "commits at the end of every partition", limit_s=HEAL_LIMIT_S)
        except DeadlineExceeded as exceeded:
            at_rest()
            behind = [
                f"partition {index} of {owners.get(index)}: {done} of {wanted}"
                for index, (done, wanted) in enumerate(
                    zip(self._committed(admin), self.counts.produced, strict=True)
                )
                if done != wanted
            ]
            raise AssertionError("\n".join([str(exceeded), *behind, self._errors()])) from exceeded

    def _committed(self, admin: Any) -> list[int]:
        from confluent_kafka import ConsumerGroupTopicPartitions

        request = [ConsumerGroupTopicPartitions(self._plan.group)]
        found = admin.list_consumer_group_offsets(request)[self._plan.group].result(30)
        offsets = {place.partition: place.offset for place in found.topic_partitions}
        return [max(offsets.get(index, 0), 0) for index in range(self._plan.partition_count)]


def _told(described: Any) -> str:
    """The state of a group, with what each member has and (KIP-848) is to have."""
    members = [
        f"{member.client_id} {member.member_id}: {_indexes(member.assignment)} of {_indexes(member.target_assignment)}"
        for member in described.members
    ]
    return "\n".join([str(described.state), *members])


def _indexes(assignment: Any) -> list[int] | None:
    return None if assignment is None else sorted(place.partition for place in assignment.topic_partitions)
