"""A producer and members that commit by themselves, while the broker restarts and hosts are cut off at random: one trio run, virtual time.

Checked while it runs: no commit ever covers a record that nobody has dealt with to its end. Checked at the end: every record is in the log once, in
order, and was dealt with at least once. `PENSTOCK_CHURN_EXAMPLES` says how many schedules are tried.
"""

import os
from dataclasses import dataclass, field
from typing import Any, Literal

import hypothesis.strategies as st
import trio
from hypothesis import HealthCheck, given, settings
from tests.support.memory_network import Host
from tests.support.memory_server import MemoryServer, memory_server
from trio.testing import MockClock

from penstock.broker.groups.group import Group
from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.consumer.consumer import Consumer
from penstock.errors import PenstockError
from penstock.producer.producer import Producer

EXAMPLES = int(os.environ.get("PENSTOCK_CHURN_EXAMPLES", "9"))
TOPIC, GROUP = "delivered", "delivering"
PARTITION_COUNT = 3
HEAL_LIMIT_S = 300.0
PROPERTIES: dict[str, Any] = {
    "group_consumer_session_timeout_ms": "6000",
    "group_consumer_min_session_timeout_ms": "6000",
    "group_consumer_heartbeat_interval_ms": "1000",
    "group_consumer_min_heartbeat_interval_ms": "1000",
    "offsets_topic_num_partitions": "1",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What happens next, and for how long."""

    gap_s: float
    what: Literal["restart", "cut member", "cut producer", "cancel", "leave", "pause", "seek"]
    lasts_s: float
    who: int


@dataclass(frozen=True, slots=True)
class Style:
    """How the members behave."""

    protocol: Literal["classic", "consumer"]
    work_s: float
    takes_batches: bool


@dataclass(slots=True)
class History:
    """What was done."""

    produced: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(PARTITION_COUNT)])
    done: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])

    def finish(self, partition: int, offset: int) -> None:
        """Somebody has dealt with a record."""
        self.done.add((partition, offset))


class Member:
    """A consumer that begins again whenever its work was cut off."""

    def __init__(self, name: str, server: MemoryServer, style: Style, history: History) -> None:
        self.environment = server.client(name)
        self.host: Host = server.hosts[name]
        self.consumer: Consumer | None = None
        self._bootstrap = server.bootstrap
        self._style = style
        self._history = history
        self._work = trio.CancelScope()
        self._whole = trio.CancelScope()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._live()
            except* PenstockError:  # nobody was there when it began: documented
                await trio.sleep(1)

    async def _live(self) -> None:
        options: dict[str, Any] = {"group": GROUP, "group_protocol": self._style.protocol}
        with trio.CancelScope() as self._whole:
            async with (
                Consumer(
                    self._bootstrap,
                    TOPIC,
                    environment=self.environment,
                    auto_offset_reset="earliest",
                    session_timeout_ms=6_000,
                    heartbeat_interval_ms=1_000,
                    max_poll_interval_ms=20_000,
                    auto_commit_interval_ms=1_000,
                    **options,
                ) as self.consumer,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(self._loop, self.consumer)
                with trio.CancelScope() as self._work:
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()

    def leave(self) -> None:
        """Its task is cancelled, the block is left in order."""
        self._work.cancel()

    def cancel(self) -> None:
        """All of it is cancelled."""
        self._whole.cancel()

    def pause(self, is_paused: bool) -> None:
        """All that it has."""
        if self.consumer is not None:
            (self.consumer.pause if is_paused else self.consumer.resume)(*self.consumer.assignment)

    def seek_back(self) -> None:
        """To the beginning of the first that it has."""
        if self.consumer is not None:
            for tp in sorted(self.consumer.assignment)[:1]:
                self.consumer.seek(tp, 0)

    async def _loop(self, consumer: Consumer) -> None:
        if self._style.takes_batches:
            async for batch in consumer.batches(max_records=10):
                for record in batch:
                    await trio.sleep(self._style.work_s)
                    self._history.finish(record.partition, record.offset)
        else:
            async for record in consumer:
                await trio.sleep(self._style.work_s)
                self._history.finish(record.partition, record.offset)


class Run:
    """One run of a schedule."""

    def __init__(self, broker: "Broker", server: MemoryServer, style: Style) -> None:
        self.history = History()
        self._broker = broker
        self.members = [Member(f"member-{number}", server, style, self.history) for number in range(2)]
        self._produced = 0

    async def produce(self, producer: Producer) -> None:
        """A few records to each partition, each with a number of its own."""
        for index, values in enumerate(self.history.produced):
            more = [b"%d" % (self._produced + number) for number in range(1 + self._produced % 7)]
            self._produced += len(more)
            values += more
            await producer.send_many(TOPIC, more, partition=index)

    async def play(self, steps: list[Step], nursery: trio.Nursery, producer_host: Host) -> None:
        """The schedule."""
        for step in steps:
            await trio.sleep(step.gap_s)
            member = self.members[step.who % len(self.members)]
            if step.what == "restart":
                await self.restart(step.lasts_s)
            elif step.what in ("cut member", "cut producer"):
                nursery.start_soon(
                    cut, member.host if step.what == "cut member" else producer_host, step.lasts_s
                )
            elif step.what == "pause":
                member.pause(True)
                await trio.sleep(step.lasts_s)
                member.pause(False)
            elif step.what == "seek":
                member.seek_back()
            else:
                (member.leave if step.what == "leave" else member.cancel)()

    async def restart(self, away_s: float) -> None:
        """Stop the broker, and start it again after a while."""
        await self._broker.aclose()
        await trio.sleep(away_s)
        await self._broker.start()

    @property
    def is_at_rest(self) -> bool:
        """Everything was dealt with."""
        return len(self.history.done) == sum(map(len, self.history.produced))


class Broker:
    """The server, which can be stopped and started on the same disk."""

    def __init__(self, nursery: trio.Nursery, seed: int) -> None:
        self.server: MemoryServer | None = None
        self._nursery = nursery
        self._seed = seed
        self._stop = trio.Event()
        self._stopped = trio.Event()
        self.is_up = False

    async def start(self) -> MemoryServer:
        """Returns when it takes connections."""
        self._stop, self._stopped = trio.Event(), trio.Event()
        await self._nursery.start(self._run)
        assert self.server is not None
        return self.server

    async def _run(self, task_status: trio.TaskStatus[MemoryServer] = trio.TASK_STATUS_IGNORED) -> None:
        async with memory_server(seed=self._seed, server=self.server, **PROPERTIES) as self.server:
            task_status.started(self.server)
            self.is_up = True
            await self._stop.wait()
            self.is_up = False
        self._stopped.set()

    async def aclose(self) -> None:
        """Returns when it has stopped."""
        self._stop.set()
        await self._stopped.wait()


async def cut(host: Host, lasts_s: float) -> None:
    """Cut a host off for a while."""
    host.freeze()
    await trio.sleep(lasts_s)
    host.thaw()


async def run_schedule(steps: list[Step], style: Style, seed: int) -> None:
    async with trio.open_nursery() as nursery:
        broker = Broker(nursery, seed)
        server = await broker.start()
        async with Admin(server.bootstrap, server.client("admin")) as admin:
            made = await admin.create_topics([NewTopic(name=TOPIC, partition_count=PARTITION_COUNT)])
            assert not isinstance(made[TOPIC], Exception)
        run = Run(broker, server, style)
        nursery.start_soon(watch_commits, broker, run.history)
        async with trio.open_nursery() as members:
            for member in run.members:
                members.start_soon(member.run)
            async with (
                Producer(server.bootstrap, server.client("producer")) as producer,
                trio.open_nursery() as playing,
            ):
                await producer.partition_count(TOPIC)  # a topic that is not known yet needs a broker
                playing.start_soon(produce_for, run, producer, len(steps) + 1)
                await run.play(steps, playing, server.hosts["producer"])
            with trio.move_on_after(HEAL_LIMIT_S):
                while not run.is_at_rest:  # noqa: ASYNC110 (virtual time: a look costs nothing)
                    await trio.sleep(0.5)
            missing = sum(map(len, run.history.produced)) - len(run.history.done)
            assert not missing, f"{missing} records were not dealt with"
            members.cancel_scope.cancel()
        await check_log(server, run.history)
        nursery.cancel_scope.cancel()


async def produce_for(run: Run, producer: Producer, rounds: int) -> None:
    """Now and then."""
    for _ in range(rounds):
        await run.produce(producer)
        await trio.sleep(1)


async def check_log(server: MemoryServer, history: History) -> None:
    """Every record once and in order, and no commit past what was dealt with."""
    environment = server.client("reader")
    with trio.fail_after(HEAL_LIMIT_S):
        async with Consumer(server.bootstrap, environment=environment) as reader:
            found: list[list[bytes | None]] = [[] for _ in range(PARTITION_COUNT)]
            async for record in reader.read(TOPIC):
                found[record.partition].append(record.value)
            assert found == history.produced


async def watch_commits(broker: "Broker", history: History) -> None:
    """What is committed at any time was dealt with by then."""
    while True:
        await trio.sleep(0.05)
        server = broker.server
        if broker.is_up and server is not None and server.broker is not None:
            for shard in server.broker.groups.shards():
                if (group := shard.groups.get(GROUP)) is not None:
                    check_commits(history, group)


def check_commits(history: History, group: Group) -> None:
    """All below an offset was dealt with."""
    for index in range(PARTITION_COUNT):
        found = group.offsets.get(TOPIC, index)
        offset = 0 if found is None else found.offset
        skipped = [below for below in range(offset) if (index, below) not in history.done]
        assert not skipped, f"{index}: {offset} was committed, but nobody dealt with {skipped}"


steps = st.builds(
    Step,
    gap_s=st.sampled_from([0.0, 0.3, 1.0, 4.0]),
    what=st.sampled_from(["restart", "cut member", "cut producer", "cancel", "leave", "pause", "seek"]),
    lasts_s=st.sampled_from([0.1, 1.0, 7.0, 40.0]),
    who=st.integers(0, 1),
)
styles = st.builds(
    Style,
    protocol=st.sampled_from(["classic", "consumer"]),
    work_s=st.sampled_from([0.0, 0.03, 0.2]),
    takes_batches=st.booleans(),
)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(steps=st.lists(steps, min_size=3, max_size=10), style=styles, seed=st.integers(0, 2**16))
def test_a_record_is_lost_doubled_or_committed_before_its_time(
    steps: list[Step], style: Style, seed: int
) -> None:
    trio.run(run_schedule, steps, style, seed, clock=MockClock(autojump_threshold=0))
