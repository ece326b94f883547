"""The buffer by tables: what may be sent when, what memory it holds, and what a partition's sequences become."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from penstock.client.errors import BrokerError, DeliveryTimedOut
from penstock.producer.accumulator import NEVER, Accumulator, Limits, record_bound_bytes
from penstock.producer.batch import Batch, Outcome, ProducerIdentity
from penstock.producer.partition_queue import EPOCH_MAX, PartitionQueue
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode
from penstock.protocol.record_writer import KEYLESS

NODE = 1
IDENTITY = ProducerIdentity(70, 0)
REFUSAL = BrokerError(ErrorCode.INVALID_RECORD, "refused")
LIMITS = Limits(
    batch_size_bytes=500,
    linger_ms=0,
    buffer_memory_bytes=20_000,
    request_max_bytes=2_000,
    delivery_timeout_ms=1000,
    max_in_flight=5,
    is_idempotent=True,
    keeps_order=True,
)


class Buffer:
    """An accumulator whose partitions live at one node."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.accumulator = Accumulator(limits)
        self.accumulator.identity = IDENTITY

    def queue(self, index: int = 0) -> PartitionQueue:
        queue = self.accumulator.queue("t", index)
        self.accumulator.move(queue, NODE)
        return queue

    def add(self, size_bytes: int = 10, index: int = 0, now_ms: float = 0) -> Batch:
        value = bytes(size_bytes)
        bound_bytes = record_bound_bytes(None, value, ())
        return self.accumulator.append(self.queue(index), now_ms, 5, None, value, (), bound_bytes)

    def batches(self, count: int) -> list[Batch]:
        """Batches of one record, all waiting."""
        return [self.add(480) for _ in range(count)]

    def take(self, now_ms: float = 0) -> list[Batch]:
        return self.accumulator.collect(NODE, now_ms)

    def take_all(self, count: int) -> list[Batch]:
        taken = [batch for _ in range(count) for batch in self.take()]
        assert len(taken) == count
        return taken

    def sequences(self) -> list[tuple[int, int]]:
        """(epoch, sequence) of what waits."""
        return [
            (-1 if one.identity is None else one.identity.epoch, one.base_sequence)
            for one in self.queue().waiting
        ]


def named(batch: Batch) -> tuple[int, int]:
    assert batch.identity is not None
    return batch.identity.epoch, batch.base_sequence


def nothing(buffer: Buffer) -> None:
    pass


def flush(buffer: Buffer) -> None:
    buffer.accumulator.flush_count = 1


def starve(buffer: Buffer) -> None:
    buffer.accumulator.starved_count = 1


def fill(buffer: Buffer) -> None:
    buffer.add(480)


@pytest.mark.parametrize(
    ("hurry", "ready_at_ms"), [(nothing, 30.0), (flush, 0.0), (starve, 0.0), (fill, 0.0)]
)
def test_linger_holds_what_must_go_or_lets_go_what_may_wait(
    hurry: Callable[[Buffer], None], ready_at_ms: float
) -> None:
    buffer = Buffer(replace(LIMITS, linger_ms=30))
    buffer.add()
    hurry(buffer)
    assert buffer.accumulator.ready_at_ms(NODE, 1) == ready_at_ms
    assert len(buffer.take(29)) == (ready_at_ms == 0)
    assert len(buffer.take(30)) == 1 or not buffer.queue().waiting


def test_a_record_joins_a_batch_that_was_taken() -> None:
    buffer = Buffer()
    first = buffer.add()
    assert buffer.add() is first
    assert buffer.take() == [first]
    assert buffer.add() is not first
    assert first.record_count == 2


def test_a_request_takes_two_batches_of_a_partition_or_too_many_bytes() -> None:
    buffer = Buffer(replace(LIMITS, request_max_bytes=1200))
    for index in range(3):
        buffer.add(400, index)
        buffer.add(400, index)
    first, second = buffer.take(), buffer.take()
    assert [batch.partition for batch in first] == [0, 1]
    assert [batch.partition for batch in second] == [2, 0], "a partition starves behind the others"


def test_memory_is_charged_but_not_given_back() -> None:
    buffer = Buffer()
    accumulator = buffer.accumulator
    assert accumulator.room_bytes == 20_000
    batches = [*buffer.batches(3), buffer.add(10, 1), buffer.add(10, 2)]
    assert accumulator.buffered_bytes == sum(batch.charged_bytes for batch in batches) > 1500
    taken = [*buffer.take(), *buffer.take()]
    assert taken[0].partition == taken[-1].partition == 0
    accumulator.acked(taken[0], Outcome(0))
    accumulator.refused(taken[1], REFUSAL)
    accumulator.put_back(taken[2], error=REFUSAL, retry_at_ms=0)
    accumulator.split(taken[3], Codec.NONE, None) if taken[3].record_count > 1 else None
    accumulator.fail_waiting(buffer.queue(2), lambda batch: REFUSAL)
    accumulator.fail_all(lambda batch: REFUSAL)
    assert accumulator.buffered_bytes == 0
    assert all(batch.outcome is not None for batch in batches)


def test_a_run_is_cut_where_the_batch_or_the_memory_ends() -> None:
    buffer = Buffer(replace(LIMITS, buffer_memory_bytes=4_000))
    values = [bytes(100)] * 30
    sizes: list[int] = []
    while taken := buffer.accumulator.append_run(buffer.queue(), 0, 5, KEYLESS, values, [100] * len(values)):
        batch, count = taken
        assert len(batch.writer.data) <= LIMITS.batch_size_bytes
        sizes.append(count)
        values = values[count:]
    assert sizes == [3, 3, 2]
    assert buffer.accumulator.buffered_bytes <= 4_000


def test_a_value_larger_than_a_batch_finds_no_batch() -> None:
    buffer = Buffer()
    taken = buffer.accumulator.append_run(buffer.queue(), 0, 5, KEYLESS, [bytes(900), b"x"], [900, 1])
    assert taken is not None
    assert taken[1] == 1
    again = buffer.accumulator.append_run(buffer.queue(), 0, 5, KEYLESS, [b"x"], [1])
    assert again is not None
    assert again[0] is not taken[0]


def test_an_expired_batch_is_kept_or_a_young_one_given_up() -> None:
    buffer = Buffer()
    on_wire = buffer.add(480, now_ms=0)
    assert buffer.take(0) == [on_wire]
    old, young = buffer.add(480, now_ms=10), buffer.add(480, now_ms=500)
    assert buffer.accumulator.expire(999) == 1000
    assert buffer.accumulator.expire(1010) == 1500
    for batch in (on_wire, old):
        assert batch.outcome is not None
        assert isinstance(batch.outcome.error, DeliveryTimedOut)
        assert batch.outcome.error.may_be_delivered == (batch is on_wire)
    assert young.outcome is None
    held = on_wire.charged_bytes
    assert held > 0, "what is on the wire is still in memory"
    before = buffer.accumulator.buffered_bytes
    buffer.accumulator.acked(on_wire, Outcome(4))
    assert buffer.accumulator.buffered_bytes == before - held


def test_without_idempotence_two_batches_of_a_partition_are_on_the_wire() -> None:
    buffer = Buffer(replace(LIMITS, is_idempotent=False))
    first, second = buffer.batches(2)
    assert buffer.take() == [first]
    assert buffer.take() == []
    assert buffer.accumulator.ready_at_ms(NODE, 0) == NEVER
    buffer.accumulator.put_back(first, error=None, retry_at_ms=7)
    assert buffer.take(6) == []
    assert buffer.take(7) == [first], "the second overtook the first"
    buffer.accumulator.acked(first, Outcome(0))
    assert buffer.take(7) == [second]


# Sequences


def test_nothing_is_taken_before_there_is_a_producer_id() -> None:
    buffer = Buffer()
    buffer.accumulator.identity = None
    buffer.add()
    assert buffer.accumulator.needs_identity
    assert buffer.take() == []


def test_sequences_count_records_and_five_batches_at_most_are_on_the_wire() -> None:
    buffer = Buffer()
    buffer.add()
    buffer.add()
    buffer.batches(6)
    taken = buffer.take_all(5)
    assert [named(batch) for batch in taken] == [(0, 0), (0, 2), (0, 3), (0, 4), (0, 5)]
    assert buffer.take() == []


def test_a_retry_is_overtaken_or_gets_another_sequence() -> None:
    buffer = Buffer()
    buffer.batches(4)
    first, second, third = buffer.take_all(3)
    buffer.accumulator.put_back(second, error=None, retry_at_ms=0)
    assert buffer.take() == [], "something was taken while others are on the wire"
    buffer.accumulator.acked(first, Outcome(0))
    buffer.accumulator.out_of_order(third, error=REFUSAL, retry_at_ms=0)
    assert buffer.sequences() == [(0, 1), (0, 2), (-1, -1)]
    assert buffer.take() == [second]
    assert buffer.take() == [], "two retries are on the wire at once"
    buffer.accumulator.acked(second, Outcome(1))
    assert buffer.take() == [third]
    assert named(third) == (0, 2)


def test_a_later_batch_is_the_first_that_a_new_leader_sees_of_a_producer() -> None:
    """Whoever has no state of a producer takes any sequence: the first batch, still on its way to the last leader, would come behind."""
    buffer = Buffer()
    buffer.batches(3)
    first, second = buffer.take_all(2)
    buffer.accumulator.move(buffer.queue(), NODE + 1)
    assert buffer.accumulator.collect(NODE + 1, 0) == []
    buffer.accumulator.put_back(second, error=None, retry_at_ms=0)
    assert buffer.accumulator.collect(NODE + 1, 0) == []
    buffer.accumulator.put_back(first, error=None, retry_at_ms=0)
    assert buffer.accumulator.collect(NODE + 1, 0) == [first]


def test_a_leader_that_does_not_answer_holds_up_its_successor_who_knows_the_producer() -> None:
    buffer = Buffer()
    buffer.batches(3)
    first, _ = buffer.take_all(2)
    buffer.accumulator.acked(first, Outcome(0))
    buffer.accumulator.move(buffer.queue(), NODE + 1)
    assert len(buffer.accumulator.collect(NODE + 1, 0)) == 1


@pytest.mark.parametrize("is_late", [False, True], ids=["acked before", "acked late"])
def test_a_later_batch_is_the_first_that_a_leader_of_the_topic_made_anew_sees(is_late: bool) -> None:
    """An ack of the topic that is gone says nothing of what leaders of the new one know, even where it comes after the news."""
    buffer = Buffer()
    buffer.batches(3)
    (gone,) = buffer.take()
    if not is_late:
        buffer.accumulator.acked(gone, Outcome(0))
    buffer.queue().forget_topic()
    if is_late:
        assert buffer.take() == []
        buffer.accumulator.acked(gone, Outcome(0))
    (first,) = buffer.take()
    assert named(first) == (1, 0)
    buffer.accumulator.move(buffer.queue(), NODE + 1)
    assert buffer.accumulator.collect(NODE + 1, 0) == []
    buffer.accumulator.put_back(first, error=None, retry_at_ms=0)
    assert buffer.accumulator.collect(NODE + 1, 0) == [first]


def test_a_broker_forgets_a_batch_before_its_answer_is_clear() -> None:
    """The sixth behind an unclear batch would push it out of the broker's memory, also where the ones between are acked."""
    buffer = Buffer()
    buffer.batches(8)
    _, *others = buffer.take_all(5)
    for batch in others:
        buffer.accumulator.acked(batch, Outcome(1))
    assert buffer.take() == []


def test_out_of_order_at_the_front_takes_the_next_epoch_for_all_behind() -> None:
    buffer = Buffer()
    buffer.batches(4)
    first, second, third = buffer.take_all(3)
    buffer.accumulator.acked(first, Outcome(0))
    buffer.accumulator.out_of_order(second, error=REFUSAL, retry_at_ms=0)
    buffer.accumulator.out_of_order(third, error=REFUSAL, retry_at_ms=0)
    assert [named(batch) for batch in buffer.take_all(3)] == [(1, 0), (1, 1), (1, 2)]


def test_a_refused_last_batch_leaves_a_gap() -> None:
    buffer = Buffer()
    buffer.batches(2)
    first, second = buffer.take_all(2)
    buffer.accumulator.acked(first, Outcome(0))
    buffer.accumulator.refused(second, REFUSAL)
    buffer.add()
    assert [named(batch) for batch in buffer.take()] == [(0, 1)]


def test_an_unclear_last_batch_that_is_given_up_bars_the_way() -> None:
    buffer = Buffer()
    (batch,) = buffer.batches(1)
    buffer.take()
    batch.may_be_appended = True
    buffer.accumulator.put_back(batch, error=REFUSAL, retry_at_ms=0)
    buffer.accumulator.expire(2000)
    buffer.add(now_ms=2000)
    assert [named(one) for one in buffer.take(2000)] == [(1, 0)]


def test_an_unclear_batch_behind_a_given_up_one_is_sent_under_another_sequence() -> None:
    buffer = Buffer()
    first, second = buffer.add(480, now_ms=0), buffer.add(480, now_ms=900)
    buffer.take_all(2)
    for batch in (first, second):
        batch.may_be_appended = True
        buffer.accumulator.put_back(batch, error=REFUSAL, retry_at_ms=0)
    buffer.accumulator.expire(1000)
    assert buffer.take(1000) == [second]
    assert named(second) == (0, 1), "a copy of it may be in the log under this sequence"


def test_parts_of_a_split_batch_take_other_sequences_than_its_own() -> None:
    buffer = Buffer()
    whole = buffer.add()
    for _ in range(4):
        buffer.add()
    behind = buffer.batches(1)[0]
    buffer.take_all(2)
    buffer.accumulator.split(whole, Codec.NONE, None)
    buffer.accumulator.out_of_order(behind, error=REFUSAL, retry_at_ms=0)
    assert buffer.sequences() == [(0, 0), (0, 3), (0, 5)]
    assert [part.record_count for part in whole.parts] == [3, 2]
    assert whole.place_of(4) == (whole.parts[1], 1)


@pytest.mark.parametrize("is_idempotent", [True, False])
def test_part_of_a_split_batch_that_goes_again_is_behind_the_part_after_it(is_idempotent: bool) -> None:
    buffer = Buffer(replace(LIMITS, is_idempotent=is_idempotent))
    for size_bytes in (10, 20, 30, 40):
        whole = buffer.add(size_bytes)
    last = buffer.add(480)
    assert buffer.take() == [whole]
    buffer.accumulator.split(whole, Codec.NONE, None)
    (half,) = buffer.take()
    buffer.accumulator.put_back(half, error=None, retry_at_ms=0)
    (again,) = buffer.take()
    assert again is half
    buffer.accumulator.split(half, Codec.NONE, None)
    sent: list[Batch] = []
    for _ in range(4):
        sent += buffer.take()
        buffer.accumulator.acked(sent[-1], Outcome())
    assert sent == [*half.parts, whole.parts[1], last]


def test_the_last_epoch_is_followed_by_another_producer_id() -> None:
    buffer = Buffer()
    buffer.accumulator.identity = ProducerIdentity(70, EPOCH_MAX)
    (batch,) = buffer.batches(1)
    buffer.take()
    buffer.accumulator.out_of_order(batch, error=REFUSAL, retry_at_ms=0)
    assert buffer.take() == []
    assert buffer.accumulator.needs_identity
    buffer.accumulator.identity = ProducerIdentity(71, 0)
    assert buffer.take() == [batch]
    assert batch.identity == ProducerIdentity(71, 0)


def test_sequences_wrap_to_another_number_than_zero() -> None:
    buffer = Buffer()
    buffer.queue().identity, buffer.queue().next_sequence = IDENTITY, 2**31 - 2
    buffer.add()
    buffer.add()
    buffer.add()
    buffer.batches(1)
    taken = buffer.take_all(2)
    assert [batch.base_sequence for batch in taken] == [2**31 - 2, 1]
    buffer.accumulator.put_back(taken[1], error=None, retry_at_ms=0)
    buffer.accumulator.out_of_order(taken[0], error=REFUSAL, retry_at_ms=0)
    assert buffer.queue().must_restart
