"""Merging by time: nothing out of its turn, nothing lost, whatever the pieces that records come in."""

from collections.abc import Sequence
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from penstock.consumer.merging import TimeMerge
from penstock.consumer.record import ConsumerRecord
from penstock.protocol.record_batch import TimestampType

Place = tuple[int, int, int]


def record(partition: int, offset: int, timestamp_ms: int) -> ConsumerRecord:
    return ConsumerRecord("t", partition, offset, timestamp_ms, TimestampType.CREATE_TIME, None, None, (), 0)


def merged(lanes: Sequence[Sequence[int]], piece: int) -> list[Place]:
    """What comes out of partitions with these timestamps, that are handed in piece by piece when they are asked for."""
    merge = TimeMerge(range(len(lanes)))
    given = [0] * len(lanes)
    out: list[Place] = []
    while not merge.is_finished:
        for index in merge.lacking:
            times = lanes[index][given[index] : given[index] + piece]
            if times:
                merge.add(index, [record(index, given[index] + n, t) for n, t in enumerate(times)])
                given[index] += len(times)
            else:
                merge.finish(index)
        taken = merge.take()
        assert taken or merge.is_finished
        out += [(each.timestamp_ms, each.partition, each.offset) for each in taken]
    return out


def expected(lanes: Sequence[Sequence[int]]) -> list[Place]:
    """The rule, in words of its own: by the latest timestamp so far in the partition, then partition, then offset."""
    keyed = [
        (latest, index, offset, time)
        for index, times in enumerate(lanes)
        for offset, (latest, time) in enumerate(zip(accumulate(times, max), times, strict=True))
    ]
    return [(time, index, offset) for _, index, offset, time in sorted(keyed)]


@given(st.lists(st.lists(st.integers(-3, 6), max_size=12), max_size=4), st.integers(1, 5))
def test_the_order_is_that_of_time_then_partition_then_offset(lanes: list[list[int]], piece: int) -> None:
    assert merged(lanes, piece) == expected(lanes)


def test_sorted_partitions_come_out_sorted() -> None:
    assert merged([[1, 3, 3], [2, 3, 9], []], 2) == [
        (1, 0, 0),
        (2, 1, 0),
        (3, 0, 1),
        (3, 0, 2),
        (3, 1, 1),
        (9, 1, 2),
    ]


def test_a_record_older_than_one_before_it_keeps_its_place_in_its_partition() -> None:
    assert merged([[5, 1, 6], [2, 4, 7]], 1) == [
        (2, 1, 0),
        (4, 1, 1),
        (5, 0, 0),
        (1, 0, 1),
        (6, 0, 2),
        (7, 1, 2),
    ]


def test_nothing_is_given_while_a_partition_may_still_bring_something_older() -> None:
    merge = TimeMerge([0, 1])
    merge.add(0, [record(0, 0, 1)])
    assert merge.take() == []
    assert merge.lacking == {1}
