"""What of an answer a read that is bounded by time takes in."""

from collections.abc import Sequence

import pytest
from tests.support.batches import encode_batch

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignment_state import PartitionState
from penstock.consumer.batch import TimeWindow

STAMPED = 0x08
END = 9


def delivered(times: Sequence[tuple[int, int]], *, has_rising_times: bool) -> PartitionState:
    """A read of [10, 20) ms up to offset 9, with one batch of three records for each (attributes, time)."""
    state = PartitionState(TopicPartition("t", 0), stop_offset=END, window=TimeWindow(10, 20))
    state.has_rising_times = has_rising_times
    state.seek(0)
    data = b"".join(
        encode_batch(
            [b"a", b"b", b"c"], base_offset=3 * number, attributes=attributes, timestamps_ms=[time_ms] * 3
        )
        for number, (attributes, time_ms) in enumerate(times)
    )
    assert state.deliver(state.generation, 0, memoryview(data), None)
    return state


@pytest.mark.parametrize(
    ("times", "has_rising_times", "stop", "batch_count"),
    [
        ([(STAMPED, 9), (STAMPED, 15), (STAMPED, 20)], True, 6, 2),
        ([(STAMPED, 9), (STAMPED, 20), (STAMPED, 15)], True, 3, 1),
        ([(STAMPED, 9), (STAMPED, 20), (STAMPED, 15)], False, END, 3),
        ([(0, 9), (0, 20), (0, 15)], True, END, 3),  # from before the topic was given LogAppendTime
        ([(STAMPED, 9), (STAMPED, 15), (STAMPED, 19)], True, END, 3),
    ],
)
def test_only_what_the_broker_has_stamped_ends_a_partition_early(
    times: list[tuple[int, int]], has_rising_times: bool, stop: int, batch_count: int
) -> None:
    state = delivered(times, has_rising_times=has_rising_times)
    assert (state.stop_offset, len(state.buffer)) == (stop, batch_count)


def test_records_out_of_the_window_are_none_of_the_batch() -> None:
    state = delivered([(0, 9), (0, 15), (0, 20)], has_rising_times=False)
    raws = state.head()
    for raw in raws:
        raw.open()
    batch = state.take(raws)
    assert [record.offset for record in batch] == [3, 4, 5]
    assert (len(batch), batch.values(), batch.next_offset) == (3, [b"a", b"b", b"c"], END)
    assert [record.offset for record in batch.below(5)] == [3, 4]
    assert state.is_done
