"""The parts of `consume` and `offsets` that decide: bounds, what counts as written, rates, limits."""

from collections.abc import Sequence

import pytest

from penstock.cli.bounds import Bound, Kind, parse_bound
from penstock.cli.consume import bounds_of
from penstock.cli.consume_work import Enough, Writer
from penstock.cli.failure import CalledWrongly
from penstock.cli.group_description import partitions_text
from penstock.cli.group_reset import parse_partitions, parse_topic
from penstock.cli.lag import PartitionStanding, Standing
from penstock.cli.offsets import Limits
from penstock.cli.produce_work import bytes_text, send_many_counts
from penstock.cli.rates import RateWindow
from penstock.cli.record_format import format_named
from penstock.client.metadata import TopicPartition
from penstock.consumer.batch import ConsumerBatch, parse_answer
from penstock.protocol.compression import Codec
from penstock.protocol.records import Record, encode_batch
from penstock.runtime.files import Buffer
from penstock.runtime.standard_streams import ReaderGone

NOW_MS = 1_438_171_200_000
PARTITION = TopicPartition("t", 0)


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("beginning", Bound(Kind.BEGINNING)),
        ("Earliest", Bound(Kind.BEGINNING)),
        ("end", Bound(Kind.END)),
        ("stored", Bound(Kind.STORED)),
        ("0", Bound(Kind.OFFSET, 0)),
        ("1438171200000", Bound(Kind.OFFSET, NOW_MS)),
        ("@1438171200000", Bound(Kind.TIME, NOW_MS)),
        ("-5", Bound(Kind.LAST, 5)),
        ("-0", Bound(Kind.LAST, 0)),
        ("-5s", Bound(Kind.TIME, NOW_MS - 5000)),
        ("2015-07-29", Bound(Kind.TIME, NOW_MS - 12 * 3_600_000)),
    ],
)
def test_a_bare_number_is_an_offset_and_a_time_says_so(text: str, bound: Bound) -> None:
    from datetime import UTC

    assert parse_bound(text, now_ms=NOW_MS, zone=UTC, option="--from") == bound


def bounds(**given: str) -> tuple[Bound, Bound | None]:
    return bounds_of(
        given.get("start"),
        given.get("end"),
        given.get("day"),
        "UTC",
        exits="exits" in given,
        in_group="group" in given,
        now_ms=NOW_MS,
    )


def test_without_an_end_it_follows() -> None:
    assert bounds() == (Bound(Kind.BEGINNING), None)
    assert bounds(group="g") == (Bound(Kind.STORED), None)
    assert bounds(exits="yes") == (Bound(Kind.BEGINNING), Bound(Kind.END))
    assert bounds(end="5", exits="yes") == (Bound(Kind.BEGINNING), Bound(Kind.OFFSET, 5))
    assert bounds(group="g", start="end") == (Bound(Kind.END), None)


@pytest.mark.parametrize(
    "given",
    [
        {"day": "2015-07-29", "group": "g"},
        {"day": "2015-07-29", "end": "end"},
        {"group": "g", "start": "-1h"},
        {"group": "g", "start": "-5"},
        {"start": "stored"},
        {"end": "stored"},
        {"end": "-5"},
    ],
)
def test_what_does_not_go_together_is_a_wrong_call(given: dict[str, str]) -> None:
    with pytest.raises(CalledWrongly):
        bounds(**given)


class Pipe:
    """A pipe that takes so many bytes at a time, and closes after so many in all."""

    def __init__(self, step_bytes: int, closes_after_bytes: int) -> None:
        self.taken = b""
        self._step_bytes = step_bytes
        self._left_bytes = closes_after_bytes

    async def write_some(self, data: Buffer) -> int:
        if not self._left_bytes:
            raise ReaderGone("gone")
        part = bytes(data)[: min(self._step_bytes, self._left_bytes)]
        self._left_bytes -= len(part)
        self.taken += part
        return len(part)


def batch_of(offsets: Sequence[int], next_offset: int) -> ConsumerBatch:
    records = [Record(offset, 5, None, b"v%d" % offset) for offset in offsets]
    data = encode_batch(records, codec=Codec.NONE, base_offset=offsets[0], keep_offsets=True)
    raws = parse_answer(memoryview(data), offsets[0], None).batches
    for raw in raws:
        raw.open()
    return ConsumerBatch(PARTITION, raws, offsets[0], next_offset)


async def test_a_batch_that_is_written_counts_up_to_its_end_with_all_that_was_filtered_out() -> None:
    pipe = Pipe(3, 1000)
    writer = Writer(pipe, format_named("text"), None)
    await writer.write(batch_of([4, 7, 9], 15))
    assert pipe.taken == b"v4\nv7\nv9\n"
    assert writer.written == {PARTITION: 15}


@pytest.mark.parametrize(
    ("closes_after_bytes", "next_offset"), [(0, None), (2, None), (3, 5), (5, 5), (6, 8), (8, 8)]
)
async def test_of_a_batch_that_a_closed_pipe_cut_only_whole_records_count(
    closes_after_bytes: int, next_offset: int | None
) -> None:
    writer = Writer(Pipe(2, closes_after_bytes), format_named("text"), None)
    with pytest.raises(ReaderGone):
        await writer.write(batch_of([4, 7, 9], 15))
    assert writer.written.get(PARTITION) == next_offset


async def test_when_there_are_enough_records_the_rest_of_the_batch_is_neither_written_nor_counted() -> None:
    pipe = Pipe(100, 1000)
    writer = Writer(pipe, format_named("text"), 4)
    await writer.write(batch_of([0, 1], 2))
    with pytest.raises(Enough):
        await writer.write(batch_of([4, 7, 9], 15))
    assert pipe.taken == b"v0\nv1\nv4\nv7\n"
    assert writer.written == {PARTITION: 8}


def standing(
    second: float, high_watermark: int, committed: int | None, *, lag_ms: int | None = None
) -> Standing:
    partition = PartitionStanding(PARTITION, 0, high_watermark, high_watermark, committed, lag_ms)
    return Standing(NOW_MS, second, None, [partition])


def test_rates_are_over_a_window_so_that_commits_every_few_seconds_do_not_make_them_jump() -> None:
    window = RateWindow(window_s=10)
    assert window.add(standing(0, 100, 50)).total.incoming_per_s is None
    rates = window.add(standing(2, 120, 50)).total
    assert (rates.incoming_per_s, rates.consumed_per_s, rates.drained_in_s) == (10, 0, None)
    rates = window.add(standing(4, 140, 130)).total
    assert (rates.incoming_per_s, rates.consumed_per_s, rates.drained_in_s) == (10, 20, 1.0)
    for second in range(5, 30):
        rates = window.add(standing(second, 140, 140)).total
    assert (rates.incoming_per_s, rates.consumed_per_s, rates.drained_in_s) == (0, 0, None)


def test_looks_that_are_further_apart_than_the_window_still_give_a_rate() -> None:
    window = RateWindow(window_s=10)
    window.add(standing(0, 0, 0))
    window.add(standing(100, 100, 0))
    assert window.add(standing(200, 300, 0)).total.incoming_per_s == 2


def test_a_reset_is_no_speed() -> None:
    window = RateWindow()
    window.add(standing(0, 100, 100))
    assert window.add(standing(1, 100, 0)).total.consumed_per_s is None


@pytest.mark.parametrize(
    ("limits", "look", "is_exceeded"),
    [
        (Limits(50, None), standing(0, 100, 50), False),
        (Limits(49, None), standing(0, 100, 50), True),
        (Limits(99, None), standing(0, 100, None), True),
        (Limits(None, 1000), standing(0, 100, 50, lag_ms=1000), False),
        (Limits(None, 999), standing(0, 100, 50, lag_ms=1000), True),
        (Limits(None, 999), standing(0, 100, None), True),
        (Limits(0, 0), standing(0, 0, None), False),
        (Limits(0, 0), standing(0, 100, 120, lag_ms=0), False),
        (Limits(None, None), standing(0, 100, None), False),
    ],
)
def test_a_limit_is_exceeded_by_more_than_it_and_by_what_nobody_has_committed(
    limits: Limits, look: Standing, is_exceeded: bool
) -> None:
    assert (limits.complaint(look, "g") is not None) == is_exceeded


def test_partitions_are_written_as_ranges_and_read_as_such() -> None:
    partitions = [TopicPartition("a", index) for index in (5, 0, 1, 2, 9, 10)] + [TopicPartition("b", 1)]
    assert partitions_text(partitions) == "a:0-2,5,9-10 b:1"
    assert parse_partitions("0-2,5, 9-10", "x") == [0, 1, 2, 5, 9, 10]
    assert parse_topic("a:7").partitions == [7]
    assert parse_topic("a").partitions is None
    for text in ("", "a", "2-1", "1-", "-1", "0-9999999", "1,,2"):
        with pytest.raises(CalledWrongly):
            parse_partitions(text, "--partition")
    with pytest.raises(CalledWrongly, match="names no topic"):
        parse_topic(":1")


def test_the_counts_of_a_failed_send_many_are_read_from_its_note() -> None:
    from penstock.producer.many import ManyDeliveries

    error = ValueError("bad")
    assert send_many_counts(error) == (0, 0)
    error.add_note(ManyDeliveries("t").note())
    assert send_many_counts(error) == (0, 0)
    error = ValueError("bad")
    error.add_note(ManyDeliveries("t").note().replace("0", "7", 1).replace("0", "5"))
    assert send_many_counts(error) == (7, 5)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1300, "1.3 kB"), (2.5e6, "2.5 MB"), (12e9, "12.0 GB")]
)
def test_sizes_are_read_at_a_glance(count: float, text: str) -> None:
    assert bytes_text(count) == text
