"""What retention lets go, and all that it must not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.compaction import compact, kept_records, keyed
from tests.support.logs import DIRECTORY, append, batch, fill, new_log, reopen
from tests.support.memory_files import MemoryFiles

from penstock.runtime.files import DiskFull
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig
from penstock.storage.retention import BELIEVED_AFTER_S, CautiousClock, SegmentFacts, plan, plan_for

DAY_MS = 86_400_000
NOW_MS = 1_700_000_000_000
SEGMENT_BYTES = 100
FACTS = [SegmentFacts(number * 10, number * 10 + 10, SEGMENT_BYTES) for number in range(5)]
"""Offsets 0 to 49 in five segments, the last one active."""
FOREVER = LogConfig(retention_ms=-1)


def decide(
    *ages_days: float | None,
    config: LogConfig,
    start: int = 0,
    limit: int = 50,
    facts: list[SegmentFacts] | None = None,
) -> tuple[int, int, bool] | None:
    """Log start, count, whether to roll; ages are those of the oldest segments, None without timestamps, all others are of now."""

    def timestamp_of(number: int) -> int:
        age = ages_days[number] if number < len(ages_days) else 0
        return -1 if age is None else NOW_MS - int(age * DAY_MS)

    found = plan(
        FACTS if facts is None else facts,
        timestamp_of,
        config,
        log_start_offset=start,
        limit_offset=limit,
        now_ms=NOW_MS,
    )
    return None if found is None else (found.log_start_offset, found.segment_count, found.rolls)


@pytest.mark.parametrize(
    ("ages_days", "expected"),
    [
        ((), None),
        ((6.9,), None),
        ((7.0,), None),
        ((7.1,), (10, 1, False)),
        ((9, 8), (20, 2, False)),
        ((9, 6, 9), (10, 1, False)),
        ((None,), None),
        ((None, None, 6), None),
        ((None, 8), (20, 2, False)),
        ((9, None, None, 6), (10, 1, False)),
        ((None,) * 5, None),
        ((9, 9, 9, 9), (40, 4, False)),
        ((9, 9, 9, 9, 9), (50, 5, True)),
        ((-9,), None),
    ],
    ids=str,
)
def test_retention_by_time(
    ages_days: tuple[float | None, ...], expected: tuple[int, int, bool] | None
) -> None:
    assert decide(*ages_days, config=LogConfig()) == expected


@pytest.mark.parametrize(
    ("retention_bytes", "expected"),
    [
        (-1, None),
        (500, None),
        (401, None),
        (400, (10, 1, False)),
        (399, (10, 1, False)),
        (300, (20, 2, False)),
        (100, (40, 4, False)),
        (1, (40, 4, False)),
        (0, (50, 5, True)),
    ],
)
def test_retention_by_size(retention_bytes: int, expected: tuple[int, int, bool] | None) -> None:
    assert decide(config=LogConfig(retention_ms=-1, retention_bytes=retention_bytes)) == expected


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0, None),
        (9, None),
        (10, (10, 1, False)),
        (25, (25, 2, False)),
        (49, (49, 4, False)),
        (50, (50, 4, False)),
    ],
)
def test_segments_below_the_log_start_go_and_the_active_one_never(
    start: int, expected: tuple[int, int, bool] | None
) -> None:
    assert decide(config=FOREVER, start=start) == expected
    assert (
        decide(9, 9, config=LogConfig(delete=False, compact=True, retention_bytes=0), start=start) == expected
    )


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (9, 0), (10, 1), (19, 1), (49, 4), (50, 5)])
def test_nothing_goes_that_is_not_below_the_high_watermark_and_durable(limit: int, count: int) -> None:
    for config in (LogConfig(), LogConfig(retention_ms=-1, retention_bytes=0)):
        found = decide(9, 9, 9, 9, 9, config=config, limit=limit)
        assert (0 if found is None else found[1]) == count


def test_an_empty_active_segment_is_not_rolled() -> None:
    facts = [*FACTS[:4], SegmentFacts(40, 40, 0)]
    for config in (LogConfig(), LogConfig(retention_ms=-1, retention_bytes=0)):
        assert decide(9, 9, 9, 9, None, config=config, facts=facts, limit=40) == (40, 4, False)
        assert decide(None, config=config, facts=[SegmentFacts(0, 0, 0)], limit=0) is None


def test_compact_and_delete_together_delete_by_time() -> None:
    assert decide(9, config=LogConfig(compact=True)) == (10, 1, False)


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    ages=st.lists(st.none() | st.integers(-DAY_MS, 9 * DAY_MS), min_size=6, max_size=6),
    retention_ms=st.integers(-1, 8 * DAY_MS),
    retention_bytes=st.integers(-1, 800),
    start=st.integers(0, 60),
    limit=st.integers(0, 60),
    delete=st.booleans(),
)
def test_no_plan_deletes_what_must_stay(
    sizes: list[int],
    ages: list[int | None],
    retention_ms: int,
    retention_bytes: int,
    start: int,
    limit: int,
    delete: bool,
) -> None:
    facts = [SegmentFacts(number * 10, number * 10 + 10, size) for number, size in enumerate(sizes)]
    end = facts[-1].end_offset
    start, limit = min(start, end), min(limit, end)
    times = [-1 if age is None else NOW_MS - age for age in ages]
    config = LogConfig(
        delete=delete, compact=not delete, retention_ms=retention_ms, retention_bytes=retention_bytes
    )
    found = plan(facts, times.__getitem__, config, log_start_offset=start, limit_offset=limit, now_ms=NOW_MS)
    if found is None:
        return
    gone, left = facts[: found.segment_count], facts[found.segment_count :]
    assert gone
    assert gone[-1].end_offset <= limit
    assert found.log_start_offset == max(start, gone[-1].end_offset)
    assert found.rolls == (not left)
    if found.rolls:
        assert gone[-1].size_bytes > 0
    if gone[-1].end_offset <= start:
        return
    assert delete
    is_old = retention_ms >= 0 and NOW_MS - times[len(gone) - 1] > retention_ms
    is_much = retention_bytes >= 0 and sum(sizes[len(gone) :]) >= retention_bytes
    assert is_old or is_much


# Of real logs

SMALL = LogConfig(segment_bytes=250, retention_ms=DAY_MS)


def planned(log: Log, now_ms: int, high_watermark: int = 1 << 40) -> tuple[int, int] | None:
    found = plan_for(log, high_watermark, now_ms)
    return None if found is None else (found.log_start_offset, found.segment_count)


def test_ages_are_known_after_opening_without_loading_all_indexes() -> None:
    """fill() stamps batch n with 1000 + n."""
    files = MemoryFiles()
    log = new_log(files, SMALL)
    fill(log, 12)
    log.close()
    log = reopen(files, SMALL, clean=True)
    second, third = log.segments[1].base_offset, log.segments[2].base_offset
    assert planned(log, 1000 + second - 1 + DAY_MS) is None
    assert planned(log, 1000 + third - 1 + DAY_MS) == (second, 1)
    assert log.segments[2].indexes is None


@pytest.mark.parametrize("how", ["larger", "smaller", "missing"])
def test_a_time_index_that_lies_makes_no_segment_older(how: str) -> None:
    files = MemoryFiles()
    log = new_log(files, SMALL)
    for number in range(12):
        append(log, batch(timestamps_ms=5 * DAY_MS + number))
    log.close()
    path = f"{DIRECTORY}/{0:020}.timeindex"
    raw = files.content(path)
    if how == "missing":
        files.unlink(path)
    else:
        value = 9 * DAY_MS if how == "larger" else 1
        files.replace(path, raw[:-12] + value.to_bytes(8, "big") + raw[-4:])
    log = reopen(files, SMALL, clean=True)
    second = log.segments[1].base_offset
    assert planned(log, 6 * DAY_MS) is None
    if how != "larger":  # which only makes it stay
        assert planned(log, 6 * DAY_MS + second) == (second, 1)


def test_what_is_not_durable_stays() -> None:
    log = new_log(MemoryFiles(), LogConfig(retention_ms=1))
    fill(log, 3)
    assert planned(log, NOW_MS) is None
    log.sync()
    assert planned(log, NOW_MS, high_watermark=2) is None
    assert planned(log, NOW_MS) == (3, 1)


def test_a_deletion_cut_short_anywhere_leaves_no_hole() -> None:
    """Each call that changes something is cut off once; the start never falls below what had gone before."""
    done = 0
    while True:
        files = MemoryFiles()
        log = new_log(files, SMALL)
        fill(log, 12)
        log.sync()
        bases = [segment.base_offset for segment in log.segments]
        log.advance_log_start_offset(bases[3])
        done += 1
        before = files.calls["any"]
        files.fail("any", DiskFull, call=done)
        try:
            log.delete_old_segments()
        except DiskFull:
            files.power_cut()
        finished = files.calls["any"] - before < done
        files.heal()
        again = reopen(files, SMALL, recovery_point=12, log_start_offset=bases[3])
        left = [segment.base_offset for segment in again.segments]
        assert left == bases[-len(left) :]
        assert len(left) >= len(bases) - 3
        assert again.log_start_offset == bases[3]
        assert not [name for name in files.list_directory(DIRECTORY) if name.endswith(".deleted")]
        if finished:
            assert left == bases[3:]
            return


# The clock


def test_a_clock_that_jumps_ahead_is_believed_after_a_day() -> None:
    clock = CautiousClock()
    assert clock.now_ms(100.0, NOW_MS) == NOW_MS
    for hour in range(1, 24):
        at = 100.0 + hour * 3600
        assert clock.now_ms(at, NOW_MS + hour * 3_600_000 + DAY_MS) == NOW_MS + hour * 3_600_000
    at = 100.0 + BELIEVED_AFTER_S
    assert clock.now_ms(at, NOW_MS + 2 * DAY_MS) == NOW_MS + 2 * DAY_MS


def test_a_clock_that_jumps_back_is_believed_at_once_and_its_return_later() -> None:
    clock = CautiousClock()
    clock.now_ms(0.0, NOW_MS)
    assert clock.now_ms(10.0, NOW_MS - DAY_MS) == NOW_MS - DAY_MS
    assert clock.now_ms(20.0, NOW_MS + 20_000) == NOW_MS - DAY_MS + 10_000


def test_the_reading_before_counts_even_if_it_is_older_than_a_day() -> None:
    clock = CautiousClock()
    clock.now_ms(0.0, NOW_MS)
    week_s = 7 * 86_400.0
    assert clock.now_ms(week_s, NOW_MS + 9 * DAY_MS) == NOW_MS + 7 * DAY_MS
    assert clock.now_ms(2 * week_s, NOW_MS + 16 * DAY_MS) == NOW_MS + 16 * DAY_MS


# Together with compaction


def compacted_log(files: MemoryFiles, config: LogConfig) -> Log:
    """Twenty records of five keys in several segments, the ages of which rise, compacted once."""
    log = new_log(files, config)
    for number in range(20):
        append(log, keyed([(b"%d" % (number % 5), b"%d" % number)], timestamps_ms=1000 + number))
    log.roll()
    append(log, keyed([(b"last", b"")], timestamps_ms=NOW_MS))
    log.sync()
    compact(log)
    return log


def test_what_compaction_has_left_is_deleted_by_its_age() -> None:
    files = MemoryFiles()
    log = compacted_log(files, LogConfig(segment_bytes=400, compact=True, retention_ms=DAY_MS))
    assert [record.offset for record in kept_records(log)] == [15, 16, 17, 18, 19, 20]
    assert planned(log, 1019 + DAY_MS) is None, (
        "segments without records have no age; what lies behind them is young"
    )
    writes = files.calls["pwrite"]
    assert planned(log, 1020 + DAY_MS) == (20, len(log.segments) - 1)
    assert files.calls["pwrite"] == writes, "and are not looked through again"


def test_a_log_that_is_only_compacted_keeps_all_but_what_lies_below_its_start() -> None:
    log = compacted_log(
        MemoryFiles(), LogConfig(segment_bytes=400, compact=True, delete=False, retention_bytes=0)
    )
    assert planned(log, NOW_MS + 100 * DAY_MS) is None
    log.advance_log_start_offset(20)
    assert planned(log, NOW_MS) == (20, len(log.segments) - 1)
