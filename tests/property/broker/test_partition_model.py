"""The partition's shell and machine under any order of produces, syncs, rolls, failures, configs and leaders (PROPERTIES D1, D2, D3, D11).

What must hold, whatever comes: nothing is acked that is not durable (unless write.caching allows it) or, with acks=all, not below the
high watermark; the high watermark never falls and never passes what counts; offsets are in the order of the requests; who waits reads
as timed out; and when nothing is held back any more, everybody has been answered, exactly once.
"""

from collections.abc import Callable
from typing import NamedTuple

import hypothesis.strategies as st
import trio
from hypothesis import given, settings
from tests.support.examples import examples
from tests.support.logs import batch, read_values, reopen
from tests.support.partition_bench import ME, PartitionBench, Sent, partition_bench, settle

from penstock.broker.partition_appends import SLOW_APPEND_S
from penstock.broker.partition_machine import FollowerFetched, IsrChangeFailed
from penstock.protocol.errors import ErrorCode
from penstock.runtime.files import DiskError
from penstock.storage.log_config import LogConfig

OTHER = 2
HELD = ("sync", "roll", "prepare_append", "append")
CONFIG = LogConfig(segment_bytes=400)


class Witness(Sent):
    """A batch, and what was true at the moment of its ack."""

    def __init__(self, bench: PartitionBench, acks: int, value: bytes, is_repeated: bool) -> None:
        super().__init__(acks)
        self.bench = bench
        self.value = value
        self.is_repeated = is_repeated
        self.must_survive = False

    def done(self) -> None:
        super().done()
        assert self.done_count == 1
        self.check_ack()

    def check_ack(self) -> None:
        """An ack is being given, or a refusal."""
        assert self.code != ErrorCode.REQUEST_TIMED_OUT
        if self.code or self.acks == 0:
            return
        end = self.result.base_offset + 1
        bench = self.bench
        assert end <= bench.log.log_end_offset
        if self.acks == -1:
            assert end <= bench.partition.high_watermark
        if not bench.machine.write_caching:
            assert end <= bench.log.durable_end_offset
            self.must_survive = True


class Trial:
    """One run."""

    def __init__(self, bench: PartitionBench) -> None:
        self.bench = bench
        self.sent: list[Witness] = []
        self.epoch = 1
        self.high_watermark = 0
        self.raws: list[tuple[bytes, bytes]] = []

    def send(self, acks: int, *, again: bool = False) -> None:
        """Produce a batch of one record, or repeat the last one of an idempotent producer."""
        bench = self.bench
        if again and self.raws:
            value, raw = self.raws[-1]
        else:
            value = b"v%d" % len(self.sent)
            raw = bytes(
                batch([value], producer_id=100 + len(self.sent))
            )  # a producer each: refusals leave no gap
            self.raws.append((value, raw))
            again = False
        sent = Witness(bench, acks, value, again)
        self.sent.append(sent)
        if bench.partition.produce(memoryview(bytearray(raw)), acks, sent.result, sent.done):
            sent.is_final = True
            sent.check_ack()

    def lead(self, *, leader: int = ME, with_follower: bool = False) -> None:
        self.epoch += 1
        isr = (ME, OTHER) if with_follower else (leader,)
        self.bench.lead(self.epoch, leader=leader, isr=isr, replicas=(ME, OTHER))

    def answer_isr_change(self, is_stored: bool) -> None:
        """The store's answer to the last ISR change that was asked for, if it still matters."""
        machine = self.bench.machine
        if machine.asked is None:
            return
        if is_stored:
            self.bench.lead(self.epoch, isr=machine.asked.isr, replicas=(ME, OTHER))
        else:
            self.bench.partition.step(IsrChangeFailed(machine.asked.partition_epoch))

    def release(self, name: str) -> None:
        if self.bench.threads.waiting(name):
            self.bench.threads.release_one(name)

    def fill_disk(self, room: int) -> None:
        self.bench.files.capacity_bytes = self.bench.files.used_bytes() + room

    def check(self) -> None:
        """What holds at every moment."""
        partition = self.bench.partition
        assert partition.high_watermark >= self.high_watermark
        self.high_watermark = partition.high_watermark
        assert partition.high_watermark <= self.bench.log.log_end_offset
        for sent in self.sent:
            if not sent.is_final and sent.acks:
                assert sent.code == ErrorCode.REQUEST_TIMED_OUT

    async def finish(self) -> None:
        """Take away all that holds anybody up: then all must have been answered, in order, and the log must say the same."""
        bench = self.bench
        bench.files.capacity_bytes = 1 << 40
        bench.threads.release_all()
        bench.change(min_insync_replicas=1)
        self.lead()
        await settle()
        self.check()
        assert all(sent.is_final for sent in self.sent if sent.acks)
        assert bench.held_bytes == 0
        offsets = [s.result.base_offset for s in self.sent if s.acks and not s.code and not s.is_repeated]
        assert offsets == sorted(set(offsets))
        acked = {s.result.base_offset: s.value for s in self.sent if s.must_survive}
        bench.files.power_cut()
        kept = dict(read_values(reopen(bench.files, CONFIG)))
        assert {offset: kept.get(offset) for offset in acked} == acked
        assert len(set(kept.values())) == len(kept), "nothing is there twice"


class Step(NamedTuple):
    """One thing that happens; shown by its name when a run fails."""

    name: str
    act: Callable[[Trial], object]

    def __repr__(self) -> str:
        return self.name


def step(name: str, act: Callable[[Trial], object]) -> Step:
    """A step, with the types of its parts said."""
    return Step(name, act)


STEPS = st.one_of(
    st.sampled_from([-1, 0, 1]).map(lambda acks: step(f"send {acks}", lambda t: t.send(acks))),
    st.sampled_from([-1, 1]).map(lambda acks: step(f"again {acks}", lambda t: t.send(acks, again=True))),
    st.sampled_from(HELD).map(lambda name: step(f"release {name}", lambda t: t.release(name))),
    st.sampled_from(HELD).map(
        lambda name: step(f"hold {name}", lambda t: t.bench.threads.hold(name, after=True))
    ),
    st.sampled_from(HELD).map(lambda name: step(f"queue {name}", lambda t: t.bench.threads.hold(name))),
    st.booleans().map(lambda on: step(f"caching {on}", lambda t: t.bench.change(write_caching=on))),
    st.sampled_from([1, 2]).map(
        lambda n: step(f"min isr {n}", lambda t: t.bench.change(min_insync_replicas=n))
    ),
    st.just(step("lead", lambda t: t.lead())),
    st.just(step("lead with a follower", lambda t: t.lead(with_follower=True))),
    st.just(step("deposed", lambda t: t.lead(leader=OTHER))),
    st.just(
        step(
            "follower has all",
            lambda t: t.bench.partition.step(FollowerFetched(OTHER, 7, t.bench.log.log_end_offset, 0)),
        )
    ),
    st.booleans().map(lambda yes: step(f"ISR stored {yes}", lambda t: t.answer_isr_change(yes))),
    st.sampled_from([0.0, 2 * SLOW_APPEND_S]).map(
        lambda cost: step(f"append takes {cost}", lambda t: setattr(t.bench.clock, "append_cost_s", cost))
    ),
    st.sampled_from([0, 40, 1 << 30]).map(lambda room: step(f"room {room}", lambda t: t.fill_disk(room))),
)
RARE_STEPS = st.one_of(
    st.just(step("sync fails", lambda t: t.bench.files.fail("datasync", DiskError))),
    st.just(step("write fails", lambda t: t.bench.files.fail("pwrite", DiskError))),
)


@settings(max_examples=examples(150), deadline=None)
@given(
    st.lists(st.tuples(STEPS, st.booleans()), max_size=40),
    st.none() | st.tuples(RARE_STEPS, st.integers(0, 40)),
    st.booleans(),
)
def test_acks_are_honest_whatever_happens(
    steps: list[tuple[Step, bool]], rare: tuple[Step, int] | None, caching: bool
) -> None:
    planned = list(steps)
    if rare is not None:
        planned.insert(rare[1], (rare[0], True))

    async def run() -> None:
        async with partition_bench(write_caching=caching, log_config=CONFIG) as bench:
            trial = Trial(bench)
            for step, waits in planned:
                step.act(trial)
                trial.check()
                if waits:
                    await settle()
                    trial.check()
            await trial.finish()

    trio.run(run)
