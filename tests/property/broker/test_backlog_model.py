"""One broker with a bounded backlog under any order of appends, commits, deletions, restarts and configs, against the rule in plain Python.

What must hold after every step: an append is admitted exactly where the rule admits it (never past the bound, never refused below it), what is
held goes out in its order as room comes, what was refused or has waited in vain is in no log, and a batch that is sent again is known.
"""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import hypothesis.strategies as st
import trio
import trio.testing
from hypothesis import given, settings
from tests.support.examples import examples
from tests.support.group_calls import GroupCalls
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, decode_parts, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata
from tests.support.partition_bench import settle

from penstock.broker.replies import Reply
from penstock.protocol.api import ApiKey
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

NONE, FULL, TIMED_OUT = ErrorCode.NONE, ErrorCode.POLICY_VIOLATION, ErrorCode.REQUEST_TIMED_OUT
OUT_OF_ORDER = ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
PATIENCE_S = 10.0
EXPIRY_S = 600.0
GROUPS = ("a", "b", "c")
BROKER: dict[str, Any] = {
    "offsets_topic_num_partitions": "1",
    "offsets_retention_minutes": "10",
    "offsets_retention_check_interval_ms": "60000",
}
TOPIC = {"write.caching": "true", "segment.bytes": "700"}


class Config(NamedTuple):
    """The topic's bounds; -1 for none."""

    max_records: int = -1
    max_bytes: int = -1
    max_age_s: int = -1
    groups: tuple[str, ...] = ()
    policy: str = "reject"

    def overrides(self) -> dict[str, str]:
        """As configs."""
        return {
            **TOPIC,
            "backlog.max.records": str(self.max_records),
            "backlog.max.bytes": str(self.max_bytes),
            "backlog.max.age.ms": str(self.max_age_s * 1000 if self.max_age_s >= 0 else -1),
            "backlog.groups": ",".join(self.groups),
            "backlog.policy": self.policy,
        }


class Kept(NamedTuple):
    """A batch as it lies in the log."""

    base: int
    sizes: int
    times_ms: tuple[int, ...]

    @property
    def end(self) -> int:
        """Exclusive."""
        return self.base + len(self.times_ms)


@dataclass
class Sent:
    """A produced batch: what the model expects of it, and what came."""

    raw: bytes
    times_ms: tuple[int, ...]
    until: float
    again: "Sent | None" = None
    """The batch that it repeats."""
    expected: tuple[int, int] | None = None
    """Code and base offset; None while it is held."""
    found: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """Records."""
        return len(self.times_ms)


@dataclass
class Model:
    """The rule, in plain Python."""

    config: Config
    log: list[Kept] = field(default_factory=list[Kept])
    start: int = 0
    end: int = 0
    committed: dict[str, tuple[int, float]] = field(default_factory=dict[str, tuple[int, float]])
    held: list[Sent] = field(default_factory=list[Sent])

    def admits(self, sent: Sent, now_ms: int) -> bool:
        """Whether the batch fits now."""
        config = self.config
        everybody = "*" in config.groups
        counted = [
            offset for group, (offset, _) in self.committed.items() if everybody or group in config.groups
        ]
        if not counted:
            return True
        first = max(min(counted), self.start)
        unconsumed = [kept for kept in self.log if kept.end > first]
        if config.max_records >= 0 and self.end + sent.count - first > config.max_records:
            return False
        if (
            config.max_bytes >= 0
            and sum(kept.sizes for kept in unconsumed) + len(sent.raw) > config.max_bytes
        ):
            return False
        if config.max_age_s >= 0 and unconsumed:
            oldest_ms = unconsumed[0].times_ms[max(first - unconsumed[0].base, 0)]
            return now_ms - oldest_ms <= config.max_age_s * 1000
        return True

    def waits(self, sent: Sent) -> bool:
        """Whether a batch that does not fit is held."""
        config = self.config
        fits_alone = (config.max_records < 0 or sent.count <= config.max_records) and (
            config.max_bytes < 0 or len(sent.raw) <= config.max_bytes
        )
        return config.policy == "hold" and fits_alone

    def send(self, sent: Sent, now_ms: int) -> None:
        """A batch comes."""
        if sent.again is not None:
            sent.expected = sent.again.expected
        else:
            self.held.append(sent)
            if len(self.held) == 1:
                self.move_on(now_ms)

    def move_on(self, now_ms: int) -> None:
        """Whoever is held may be admitted now."""
        while self.held:
            first = self.held[0]
            if self.admits(first, now_ms):
                first.expected = (NONE, self.end)
                self.log.append(Kept(self.end, len(first.raw), first.times_ms))
                self.end += first.count
            elif self.waits(first):
                return
            else:
                first.expected = (FULL, -1)
            del self.held[0]

    def give_up(self, now: float, now_ms: int) -> None:
        """Time has passed."""
        for sent in [sent for sent in self.held if sent.until <= now]:
            sent.expected = (TIMED_OUT, -1)
            self.held.remove(sent)
        self.committed = {group: one for group, one in self.committed.items() if now - one[1] < EXPIRY_S}
        self.move_on(now_ms)


class Trial:
    """One run: the model, and the broker of its present life."""

    def __init__(self, config: Config, clock: trio.testing.MockClock) -> None:
        self.model = Model(config)
        self.clock = clock
        self.sent: list[Sent] = []
        self.last_by_producer: dict[int, tuple[int, Sent]] = {}
        self.memory: MemoryBroker | None = None

    @property
    def broker(self) -> MemoryBroker:
        """The one that runs."""
        assert self.memory is not None
        return self.memory

    @property
    def now_ms(self) -> int:
        """Of the wall."""
        return self.broker.broker.clock.wall_ms()

    def send(self, count: int, size: int, age_s: int, step_ms: int, codec: Codec, producer: int) -> None:
        """Produce a batch with the right sequence; its first record is so old, and each next one so much younger."""
        times_ms = tuple(self.now_ms - 1000 * age_s + step_ms * n for n in range(count))
        sequence = 0
        if producer in self.last_by_producer:
            sequence = self.last_by_producer[producer][0]
            before = self.last_by_producer[producer][1]
            if before.expected is None:
                return  # its answer is not known yet, and so the next sequence
            if before.expected[0] == NONE:
                sequence += before.count
        raw = bytes(
            batch(
                [b"v" * size] * count,
                timestamps_ms=times_ms,
                codec=codec,
                producer_id=producer,
                sequence=sequence,
            )
        )
        sent = Sent(raw, times_ms, trio.current_time() + PATIENCE_S)
        if producer >= 0:
            self.last_by_producer[producer] = (sequence, sent)
        self._send(sent)

    def send_again(self, producer: int) -> None:
        """Repeat the last batch of a producer, if that is in the log."""
        if producer in self.last_by_producer:
            last = self.last_by_producer[producer][1]
            if last.expected is not None and last.expected[0] == NONE:
                self._send(Sent(last.raw, last.times_ms, trio.current_time() + PATIENCE_S, again=last))

    def _send(self, sent: Sent) -> None:
        self.model.send(sent, self.now_ms)
        self.sent.append(sent)
        outcome = self.broker.produce("orders", sent.raw, timeout_ms=int(2000 * PATIENCE_S))
        if isinstance(outcome, Reply):
            outcome.on_ready(lambda: self._answered(sent, outcome))
            if outcome.ready:
                self._answered(sent, outcome)
        else:
            assert outcome is not None
            sent.found = _result(decode_parts(outcome))

    def _answered(self, sent: Sent, reply: Reply) -> None:
        parts = reply.try_finish()
        assert parts is not None
        sent.found = _result(decode_parts(parts))

    async def commit(self, group: str, behind: int) -> None:
        """Commit some offset of the log, also a lower one than before."""
        await settle()
        offset = max(self.model.end - behind, 0)
        assert await GroupCalls(self.broker).commit(group, {0: offset}) == [0]
        self.model.committed[group] = (offset, trio.current_time())

    async def go_back(self, group: str, behind: int) -> None:
        """Commit the end, and then an earlier offset: all in between is unconsumed again."""
        await self.commit(group, 0)
        await self.check()
        await self.commit(group, behind)

    async def forget(self, group: str, whole: bool) -> None:
        """Delete an offset, or the whole group."""
        await settle()
        calls = GroupCalls(self.broker)
        if whole:
            await calls.call(ApiKey.DELETE_GROUPS, groups_names=[group])
        elif group in self.model.committed:
            topics = [Message(name="orders", partitions=[Message(partition_index=0)])]
            await calls.call(ApiKey.OFFSET_DELETE, group_id=group, topics=topics)
        self.model.committed.pop(group, None)

    async def cut(self, behind: int) -> None:
        """Delete records."""
        await settle()
        offset = max(self.model.end - behind, 0)
        await self.broker.broker.retention.cut({self.broker.partition(): offset}, "asked for")
        self.model.start = max(self.model.start, offset)

    async def configure(self, config: Config) -> None:
        """Set other bounds."""
        await settle()
        overrides = {name.replace(".", "_"): value for name, value in config.overrides().items()}
        await self.broker.configure("orders", **overrides)
        self.model.config = config

    async def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        await settle()
        self.clock.jump(seconds)
        await settle()
        self.model.give_up(trio.current_time(), self.now_ms)

    async def check(self) -> None:
        """Model and broker agree."""
        await settle()
        self.model.move_on(self.now_ms)
        assert self.broker.partition().log.log_end_offset == self.model.end
        assert [sent.found for sent in self.sent] == [sent.expected for sent in self.sent]
        self.sent = [sent for sent in self.sent if sent.expected is None]


def _result(answer: Message) -> tuple[int, int]:
    part = answer.responses[0].partition_responses[0]
    return part.error_code, part.base_offset


class Step(NamedTuple):
    """One thing that happens: a method of `Trial`, and its arguments."""

    method: str
    arguments: tuple[Any, ...] = ()


def steps_of(method: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    """Calls of a method."""
    return st.tuples(*arguments).map(lambda given: Step(method, given))


RESTART = Step("restart")
BEHIND = st.integers(0, 14)
SENDS = steps_of(
    "send",
    st.integers(1, 7),
    st.sampled_from([1, 30, 30, 200]),
    st.sampled_from([0, 1, 20, 60]),
    st.sampled_from([0, 700, 9000, -9000]),
    st.sampled_from([Codec.NONE, Codec.GZIP]),
    st.sampled_from([-1, -1, 5, 6]),
)
CONFIGS = st.builds(
    Config,
    st.sampled_from([6, 12, 12, -1, -1]),
    st.sampled_from([-1, -1, 300, 500, 1500]),
    st.sampled_from([-1, -1, 15, 45]),
    st.sampled_from([("a",), ("a", "b"), ("*",)]),
    st.sampled_from(["reject", "hold"]),
)
COMMITS = steps_of("commit", st.sampled_from(GROUPS), BEHIND)
STEPS = st.sampled_from([0] * 9 + [1] * 5 + [2, 3, 4, 4, 4, 5, 6, 7, 8, 8]).flatmap(
    lambda kind: (
        SENDS,
        COMMITS,
        steps_of("send_again", st.sampled_from([5, 6])),
        steps_of("forget", st.sampled_from(GROUPS), st.booleans()),
        steps_of("cut", BEHIND),
        steps_of("configure", CONFIGS | st.just(Config())),
        steps_of("pass_time", st.sampled_from([1.0, 11.0, 11.0, 30.0, 700.0])),
        st.just(RESTART),
        steps_of("go_back", st.sampled_from(["a", "a", "b"]), st.integers(6, 14)),
    )[kind]
)


@settings(max_examples=examples(110), deadline=None)
@given(CONFIGS, st.lists(st.tuples(STEPS, st.booleans()), min_size=30, max_size=60))
def test_an_append_is_admitted_exactly_where_the_rule_admits_it(
    config: Config, steps: Sequence[tuple[Step, bool]]
) -> None:
    clock = trio.testing.MockClock()
    lives: list[list[tuple[Step, bool]]] = [[]]
    for step, waits in steps:
        if step == RESTART:
            lives.append([])
        else:
            lives[-1].append((step, waits))

    async def run() -> None:
        trial, files, store = Trial(config, clock), MemoryFiles(), MemoryMetadata()
        for number, life in enumerate(lives):
            async with memory_broker(files=files, store=store, **BROKER) as memory:
                trial.memory = memory
                if number == 0:
                    await memory.create("orders", 1, **config.overrides())
                    await GroupCalls(memory).find()
                    await trial.commit("a", 0)
                for step, waits in life:
                    outcome: Awaitable[None] | None = getattr(trial, step.method)(*step.arguments)
                    if outcome is not None:
                        await outcome
                        await trial.check()
                    elif waits:
                        await trial.check()
                await trial.check()
            trial.model.held.clear()
            trial.sent.clear()

    trio.run(run, clock=clock)
