"""Whole groups against a whole broker, in one trio run and in virtual time: members join, leave, crash and are cut off at random.

Checked while it runs: nobody is given a partition that another member still holds, whether that one can be reached or not (who hears nothing
for its session timeout must have given up by itself). Checked at the end: every record was processed, commits never went back, and after
healing every partition has one owner and no lag. `CHURN_EXAMPLES` says how many schedules are tried (`make long` tries many).
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import hypothesis.strategies as st
import trio
from hypothesis import HealthCheck, given, settings
from tests.support.memory_network import Host
from tests.support.memory_server import MemoryServer, memory_server
from trio.testing import MockClock

from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer import Consumer
from penstock.errors import PenstockError
from penstock.producer.producer import Producer
from penstock.protocol.group_records import RecordKind, decode_offset_key, decode_offset_value

EXAMPLES = int(os.environ.get("CHURN_EXAMPLES", "9"))
TOPIC, GROUP = "churned", "churning"
PARTITION_COUNT = 24
MEMBERS_MAX = 12
SESSION_TIMEOUT_MS = 6_000
HEAL_LIMIT_S = 120.0
RECORDS_A_STEP = 100

Protocol = Literal["classic", "consumer"]
Callback = Callable[[frozenset[TopicPartition]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Step:
    """What happens next, and how long after the step before. `who` picks a member, modulo how many there are."""

    gap_s: float
    what: Literal["join", "leave", "crash", "cut"]
    who: int
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Style:
    """How all members of a run behave."""

    protocol: Protocol
    assignor: str
    work_s: float
    is_static: bool


@dataclass(slots=True)
class History:
    """What the members saw, checked as it comes."""

    holder: dict[int, str] = field(default_factory=dict[int, str])
    crashed: set[str] = field(default_factory=set[str])
    processed: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    produced: list[int] = field(default_factory=lambda: [0] * PARTITION_COUNT)
    rebalance_count: int = 0

    def assign(self, name: str, partitions: frozenset[TopicPartition]) -> None:
        """`name` holds these from now on."""
        self.rebalance_count += 1
        for place in partitions:
            before = self.holder.get(place.partition)
            assert before is None or before in self.crashed, (
                f"{place} was given to {name}, but {before} holds it"
            )
            self.holder[place.partition] = name

    def give_up(self, name: str, partitions: frozenset[TopicPartition]) -> None:
        """`name` holds them no more."""
        for place in partitions:
            assert self.holder.get(place.partition) == name, (
                f"{name} gives up {place}, which it does not hold"
            )
            del self.holder[place.partition]

    def process(self, name: str, partition: int, offsets: list[int]) -> None:
        """Records were handed to `name`, which has dealt with them."""
        self.processed.update((partition, offset) for offset in offsets)


class Member:
    """One consumer in its loop."""

    def __init__(
        self, name: str, instance: str | None, server: MemoryServer, style: Style, history: History
    ) -> None:
        self.name = name
        self.instance = instance
        self.environment = server.client(name)
        self.host: Host = server.hosts[name]
        self.thaw_at: float | None = None
        self._leaving = trio.Event()
        self._scope = trio.CancelScope()
        self._style = style
        self._history = history
        self._bootstrap = server.bootstrap

    async def run(self) -> None:
        """Until told to leave, or crashed."""
        with self._scope:
            async with self._consumer() as consumer, trio.open_nursery() as nursery:
                nursery.start_soon(self._work, consumer)
                await self._leaving.wait()
                nursery.cancel_scope.cancel()

    def leave(self) -> None:
        """End in order."""
        self._leaving.set()

    def crash(self) -> None:
        """End without a word."""
        self._history.crashed.add(self.name)
        self.host.crash()
        self._scope.cancel()

    def _consumer(self) -> Consumer:
        history, name = self._history, self.name

        def noting(note: Callable[[str, frozenset[TopicPartition]], None]) -> Callback:
            async def callback(partitions: frozenset[TopicPartition]) -> None:
                if name not in history.crashed:
                    note(name, partitions)

            return callback

        more: dict[str, Any] = (
            {"assignors": (self._style.assignor,)} if self._style.protocol == "classic" else {}
        )
        return Consumer(
            self._bootstrap,
            TOPIC,
            environment=self.environment,
            group=GROUP,
            group_protocol=self._style.protocol,
            group_instance_id=self.instance,
            auto_offset_reset="earliest",
            auto_commit=False,
            session_timeout_ms=SESSION_TIMEOUT_MS,
            heartbeat_interval_ms=1_000,
            max_poll_interval_ms=20_000,
            on_assigned=noting(history.assign),
            on_revoked=noting(history.give_up),
            on_lost=noting(history.give_up),
            **more,
        )

    async def _work(self, consumer: Consumer) -> None:
        async for batch in consumer.batches(max_records=20):
            await trio.sleep(self._style.work_s)
            offsets = [record.offset for record in batch]
            self._history.process(self.name, batch.partition, offsets)
            try:
                await consumer.commit()
            except PenstockError:
                continue  # fenced or cut off: whoever has the partition next reads it again


class Churn:
    """One run of a schedule."""

    def __init__(self, server: MemoryServer, style: Style, nursery: trio.Nursery) -> None:
        self.history = History()
        self.members: list[Member] = []
        self._server = server
        self._style = style
        self._nursery = nursery
        self._count = 0
        self._instances: set[str] = set()

    def join(self) -> None:
        """One more."""
        if len(self.members) == MEMBERS_MAX:
            return
        instance = next((name for name in ("one", "two", "three") if name not in self._instances), None)
        self._count += 1
        name = f"member-{self._count}"
        member = Member(
            name, instance if self._style.is_static else None, self._server, self._style, self.history
        )
        self.members.append(member)
        if member.instance is not None:
            self._instances.add(member.instance)
        self._nursery.start_soon(self._run, member)

    async def _run(self, member: Member) -> None:
        """A static member's name is free again when it has gone; after a crash only where a successor may take it (not with KIP-848)."""
        await member.run()
        if member.instance is not None and (
            member.name not in self.history.crashed or self._style.protocol == "classic"
        ):
            self._instances.discard(member.instance)

    def do(self, step: Step) -> None:
        """One step of the schedule."""
        if step.what == "join" or not self.members:
            self.join()
            return
        member = self.members[step.who % len(self.members)]
        if step.what == "cut":
            member.host.freeze()
            member.thaw_at = trio.current_time() + step.lasts_s
            return
        if member.host.is_frozen:
            return
        self.members.remove(member)
        if step.what == "leave":
            member.leave()
        else:
            member.crash()

    def thaw(self, now: float) -> None:
        """Those whose time has come."""
        for member in self.members:
            if member.thaw_at is not None and member.thaw_at <= now:
                member.thaw_at = None
                member.host.thaw()

    async def produce(self, producer: Producer) -> None:
        """Records to every partition."""
        for index in range(PARTITION_COUNT):
            count = 1 + (self.history.produced[index] + index) % (2 * RECORDS_A_STEP // PARTITION_COUNT)
            await producer.send_many(TOPIC, [b"v"] * count, partition=index)
            self.history.produced[index] += count

    def is_at_rest(self) -> bool:
        """Everything has an owner and was processed."""
        return sorted(self.history.holder) == list(range(PARTITION_COUNT)) and len(
            self.history.processed
        ) == sum(self.history.produced)


async def run_schedule(steps: list[Step], style: Style, seed: int) -> None:
    properties: dict[str, Any] = {
        "group_consumer_session_timeout_ms": str(SESSION_TIMEOUT_MS),
        "group_consumer_min_session_timeout_ms": str(SESSION_TIMEOUT_MS),
        "group_consumer_heartbeat_interval_ms": "1000",
        "group_consumer_min_heartbeat_interval_ms": "1000",
        "offsets_topic_num_partitions": "2",
    }
    async with (
        memory_server(seed=seed, **properties) as server,
        Admin(server.bootstrap, server.client("admin")) as admin,
    ):
        made = await admin.create_topics([NewTopic(name=TOPIC, partition_count=PARTITION_COUNT)])
        assert not isinstance(made[TOPIC], Exception)
        async with (
            Producer(server.bootstrap, server.client("producer")) as producer,
            trio.open_nursery() as nursery,
        ):
            churn = Churn(server, style, nursery)
            churn.join()
            for step in steps:
                await trio.sleep(step.gap_s)
                churn.thaw(trio.current_time())
                churn.do(step)
                await churn.produce(producer)
            await heal(churn)
            await check_committed(admin, churn.history)
            nursery.cancel_scope.cancel()
        await check_commits_in_log(server)


async def heal(churn: Churn) -> None:
    """Everybody can be reached again; then the group must come to rest."""
    churn.thaw(float("inf"))
    churn.join()
    with trio.move_on_after(HEAL_LIMIT_S) as scope:
        while not churn.is_at_rest():  # noqa: ASYNC110 (virtual time: a look costs nothing)
            await trio.sleep(0.5)
    holders = {index: churn.history.holder.get(index) for index in range(PARTITION_COUNT)}
    missing = sum(churn.history.produced) - len(churn.history.processed)
    assert not scope.cancelled_caught, f"not at rest: {missing} records not processed, holders {holders}"
    assert set(holders.values()) <= {member.name for member in churn.members}
    assert churn.history.rebalance_count > 0


async def check_committed(admin: Admin, history: History) -> None:
    """The group's offsets come to stand at the end of every partition."""
    with trio.fail_after(HEAL_LIMIT_S):
        while True:
            found = await admin.list_group_offsets(GROUP)
            offsets = {
                place.partition: value.offset
                for place, value in found.items()
                if isinstance(value, OffsetAndMetadata)
            }
            if [offsets.get(index, 0) for index in range(PARTITION_COUNT)] == history.produced:
                return
            await trio.sleep(0.5)


async def check_commits_in_log(server: MemoryServer) -> None:
    """In the order of the log no offset ever goes back."""
    last: dict[tuple[str, int], int] = {}
    async with Consumer(server.bootstrap, environment=server.client("reader")) as reader:
        async for record in reader.read("__consumer_offsets"):
            assert record.key is not None
            kind = int.from_bytes(record.key[:2], "big")
            if kind != RecordKind.OFFSET_COMMIT or record.value is None:
                continue
            key = decode_offset_key(record.key)
            offset = decode_offset_value(record.value).offset
            place = (key.topic, key.partition)
            assert offset >= last.get(place, 0), f"{place} went from {last[place]} back to {offset}"
            last[place] = offset
    assert last


steps = st.builds(
    Step,
    gap_s=st.sampled_from([0.0, 0.05, 0.5, 2.0, 5.0]),
    what=st.sampled_from(["join", "join", "join", "leave", "crash", "cut"]),
    who=st.integers(0, MEMBERS_MAX - 1),
    lasts_s=st.sampled_from([0.5, 3.0, 7.0, 15.0]),
)
styles = st.builds(
    Style,
    protocol=st.sampled_from(["classic", "consumer"]),
    assignor=st.sampled_from(["range", "roundrobin", "sticky", "cooperative-sticky"]),
    work_s=st.sampled_from([0.0, 0.01, 0.5]),
    is_static=st.booleans(),
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(steps=st.lists(steps, min_size=5, max_size=30), style=styles, seed=st.integers(0, 2**16))
def test_a_group_keeps_its_promises_whatever_its_members_do(
    steps: list[Step], style: Style, seed: int
) -> None:
    trio.run(run_schedule, steps, style, seed, clock=MockClock(autojump_threshold=0))
