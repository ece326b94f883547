"""PROPERTIES C1: whatever the order of fetch answers, seeks, pauses and revocations, every record is handed out once and in order."""

from dataclasses import dataclass
from operator import length_hint

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.examples import examples

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignment_state import AssignmentState, PartitionState
from penstock.consumer.handout import Handout
from penstock.consumer.options import FetchOptions
from penstock.consumer.record import ConsumerRecord
from penstock.protocol.compression import Codec
from penstock.protocol.records import Record, encode_batch
from penstock.runtime.environment import Environment
from penstock.runtime.production import production_environment

PARTITION_COUNT = 3
TPS = [TopicPartition("t", index) for index in range(PARTITION_COUNT)]
LOG_END = 120


@dataclass
class Stored:
    """One batch of the log."""

    base_offset: int
    next_offset: int
    data: bytes
    visible: list[int]


def value_of(index: int, offset: int) -> bytes:
    return b"%d-%d" % (index, offset)


def make_log(index: int) -> list[Stored]:
    """Batches of every kind: dense, with gaps, of aborted transactions, control batches, compressed."""
    stored: list[Stored] = []
    offset = number = 0
    while offset < LOG_END:
        number += 1
        kind = (number + index) % 5
        size = 1 + (number * 7 + index) % 9
        offsets = list(range(offset, offset + size))
        if kind == 1:
            offsets = [one for one in offsets if one % 3 == 0]
        producer_id = 7 if kind in (2, 3) else -1
        if kind == 3:  # the abort marker
            offsets, size = [offset], 1
            records = [Record(offset, 5, b"\0\0\0\0", b"\0\0\0\0\0\0")]
        else:
            records = [Record(one, 1000 + one, None, value_of(index, one)) for one in offsets]
        data = encode_batch(
            records,
            codec=Codec.ZSTD if kind == 4 else Codec.NONE,
            base_offset=offset,
            keep_offsets=True,
            last_offset_delta=size - 1,
            producer_id=producer_id,
            producer_epoch=0 if producer_id >= 0 else -1,
            base_sequence=0 if producer_id >= 0 else -1,
            is_transactional=producer_id >= 0,
            is_control=kind == 3,
        )
        visible = [] if kind in (2, 3) else offsets
        stored.append(Stored(offset, offset + size, data, visible))
        offset += size
    return stored


LOGS = [make_log(index) for index in range(PARTITION_COUNT)]
VISIBLE = [[offset for stored in log for offset in stored.visible] for log in LOGS]
ENDS = [log[-1].next_offset for log in LOGS]
ENVIRONMENT: Environment = production_environment()
partitions = st.integers(0, PARTITION_COUNT - 1)


class HandingOut(RuleBasedStateMachine):
    """One consumer; `expected` is the lowest offset of each partition that may come next."""

    def __init__(self) -> None:
        super().__init__()
        self.state = AssignmentState(FetchOptions(partition_fetch_max_bytes=400, prefetch_max_bytes=2000))
        self.handout = Handout(self.state, ENVIRONMENT)
        self.expected = [0] * PARTITION_COUNT
        self.asked: list[tuple[int, PartitionState, int, int]] = []
        self.resume_at: dict[int, int] = dict.fromkeys(range(PARTITION_COUNT), 0)
        for index in range(PARTITION_COUNT):
            self.assign(index)

    def owned(self, index: int) -> PartitionState | None:
        return self.state.partitions.get(TPS[index])

    @rule(index=partitions)
    def assign(self, index: int) -> None:
        if self.owned(index) is None:
            self.handout.add([TPS[index]])
            self.handout.seek(TPS[index], self.resume_at[index])

    @rule(index=partitions)
    def revoke(self, index: int) -> None:
        state = self.owned(index)
        if state is not None:
            self.handout.stop([TPS[index]])
            self.resume_at[index] = self.handout.handed_out(state).offset
            self.handout.remove([TPS[index]])

    @rule(index=partitions)
    def ask(self, index: int) -> None:
        state = self.owned(index)
        if state is not None and state.wants_fetch(self.state.buffered_max_bytes):
            state.asked_generation = state.generation
            self.asked.append((index, state, state.generation, state.fetch_offset))

    def fetch_all(self) -> None:
        """Every partition that may be fetched is, so that most steps have records to work on."""
        for index in range(PARTITION_COUNT):
            count = len(self.asked)
            self.ask(index)
            if len(self.asked) > count:
                self.answer(count, 4)

    @precondition(lambda self: bool(self.asked))
    @rule(which=st.integers(0, 10), batch_count=st.integers(0, 4))
    def answer(self, which: int, batch_count: int) -> None:
        index, state, generation, offset = self.asked.pop(which % len(self.asked))
        if state.asked_generation == generation:
            state.asked_generation = -1
        chosen = [one for one in LOGS[index] if one.next_offset > offset][:batch_count]
        # every other batch of producer 7 is ended by an abort marker
        aborted = [(7, one.base_offset) for one in chosen if one.visible == []]
        state.deliver(generation, offset, memoryview(b"".join(one.data for one in chosen)), aborted)

    def has_visible_records(self) -> bool:
        """Whether a call would find something; some batches in a buffer hold nothing above the position."""
        for state in self.state.partitions.values():
            if state.is_ready:
                index = state.tp.partition
                end = state.buffer[-1].next_offset
                if any(state.position <= offset < end for offset in VISIBLE[index]):
                    return True
        return False

    @rule(max_records=st.one_of(st.none(), st.integers(1, 5)))
    def take_batch(self, max_records: int | None) -> None:
        self.fetch_all()
        if self.has_visible_records():
            trio.run(self.next_batch, max_records)

    async def next_batch(self, max_records: int | None) -> None:
        with trio.fail_after(2):
            batch = await self.handout.next_batch(max_records)
        found = list(batch)
        assert len(found) == len(batch) > 0
        assert max_records is None or len(found) <= max_records
        assert batch.values() == [record.value for record in found]
        for record in found:
            self.came(record.partition, record.offset, record.value)

    async def next_record(self) -> ConsumerRecord:
        with trio.fail_after(2):
            return await self.handout.next_record()

    @rule(count=st.integers(1, 6))
    def take_records(self, count: int) -> None:
        self.fetch_all()
        for _ in range(count):
            record = next(self.handout.records, None)
            if record is None:
                if not self.has_visible_records():
                    return
                record = trio.run(self.next_record)
            self.came(record.partition, record.offset, record.value)

    @precondition(lambda self: not length_hint(self.handout.records))
    @rule()
    def be_cancelled(self) -> None:
        """A call that is cancelled takes nothing; it says that what was in hand is done."""

        async def cancelled() -> None:
            with trio.CancelScope() as scope:
                scope.cancel()
                await self.handout.next_batch(None)

        before = {tp: self.handout.handed_out(state).offset for tp, state in self.state.partitions.items()}
        trio.run(cancelled)
        after = {tp: self.handout.handed_out(state).offset for tp, state in self.state.partitions.items()}
        assert after == before

    @rule(index=partitions, offset=st.integers(0, LOG_END - 1))
    def seek(self, index: int, offset: int) -> None:
        if self.owned(index) is not None:
            self.handout.seek(TPS[index], offset)
            self.expected[index] = offset

    @rule(index=partitions)
    def pause(self, index: int) -> None:
        if self.owned(index) is not None:
            self.handout.pause([TPS[index]])

    @rule(index=partitions)
    def resume(self, index: int) -> None:
        if self.owned(index) is not None:
            self.handout.resume([TPS[index]])

    @rule()
    def starve(self) -> None:
        """Others need the room of what is paused."""
        self.state.reserved_bytes = 10_000
        self.state.room_bytes()
        self.state.reserved_bytes = 0

    @invariant()
    def positions_agree(self) -> None:
        for tp, state in self.state.partitions.items():
            index = tp.partition
            handed_out = self.handout.handed_out(state).offset
            come_back = self.handout.come_back_from(state).offset
            passed = [one for one in VISIBLE[index] if self.expected[index] <= one < handed_out]
            assert not passed, "the position is past records that were not handed out"
            assert come_back <= max(handed_out, self.expected[index])
            assert state.buffered_bytes == sum(raw.size_bytes for raw in state.buffer)
            if not state.buffer:
                assert state.position == state.fetch_offset

    def came(self, index: int, offset: int, value: bytes | None) -> None:
        """A record was handed out: it must be the next one of its partition."""
        state = self.owned(index)
        assert state is not None
        assert not state.is_paused
        following = next(one for one in VISIBLE[index] if one >= self.expected[index])
        assert offset == following, "skipped or repeated"
        assert value == value_of(index, offset)
        self.expected[index] = offset + 1


HandingOut.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=40, deadline=None)
TestHandingOut = HandingOut.TestCase
