from datetime import UTC, datetime, timedelta, timezone

import pytest

from penstock.cli.moments import NoTime, parse_day, parse_span_ms, parse_time, parse_zone, span_text

NOW_MS = 1_438_171_200_000  # 2015-07-29T12:00Z
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1438171200000", NOW_MS),
        ("@1438171200000", NOW_MS),
        ("@0", 0),
        ("now", NOW_MS),
        ("-1h", NOW_MS - HOUR_MS),
        ("-1h30m", NOW_MS - 90 * 60_000),
        ("-250ms", NOW_MS - 250),
        ("30m ago", NOW_MS - 30 * 60_000),
        ("1.5 h ago", NOW_MS - 90 * 60_000),
        ("2d ago", NOW_MS - 48 * HOUR_MS),
        (" 1w ago ", NOW_MS - 7 * 24 * HOUR_MS),
        ("-999999w", 0),
        ("2015-07-29T12:00Z", NOW_MS),
        ("2015-07-29T12:00", NOW_MS),
        ("2015-07-29 12:00:00.250", NOW_MS + 250),
        ("2015-07-29T14:00+02:00", NOW_MS),
        ("2015-07-29", NOW_MS - 12 * HOUR_MS),
    ],
)
def test_a_time_is_what_it_says(text: str, expected: int) -> None:
    assert parse_time(text, now_ms=NOW_MS) == expected


def test_a_time_that_names_no_zone_is_in_the_zone_that_was_asked_for() -> None:
    berlin = parse_zone("Europe/Berlin")
    assert parse_time("2015-07-29T14:00", now_ms=0, zone=berlin) == NOW_MS
    assert parse_time("2015-07-29T12:00Z", now_ms=0, zone=berlin) == NOW_MS
    assert parse_time("2015-07-29T13:00", now_ms=0, zone=timezone(timedelta(hours=1))) == NOW_MS


@pytest.mark.parametrize(
    "text", ["", "soon", "1h", "h", "-", "-1", "-1y", "ago", "-h", "2015-13-01", "1,5h ago", "12:00"]
)
def test_what_is_no_time_is_a_wrong_call(text: str) -> None:
    with pytest.raises(NoTime, match="is no time") as raised:
        parse_time(text, now_ms=NOW_MS)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("day", "zone", "begin", "hours"),
    [
        ("2015-07-29", "UTC", datetime(2015, 7, 29, tzinfo=UTC), 24),
        ("2015-07-29", "Europe/Berlin", datetime(2015, 7, 28, 22, tzinfo=UTC), 24),
        ("2015-03-29", "Europe/Berlin", datetime(2015, 3, 28, 23, tzinfo=UTC), 23),
        ("2015-10-25", "Europe/Berlin", datetime(2015, 10, 24, 22, tzinfo=UTC), 25),
        ("2016-02-29", "UTC", datetime(2016, 2, 29, tzinfo=UTC), 24),
    ],
)
def test_a_day_goes_from_midnight_to_midnight_however_long_it_is(
    day: str, zone: str, begin: datetime, hours: int
) -> None:
    first_ms, next_ms = parse_day(day, parse_zone(zone))
    assert first_ms == begin.timestamp() * 1000
    assert next_ms - first_ms == hours * HOUR_MS


@pytest.mark.parametrize("day", ["2015-02-29", "yesterday", "", "9999-12-31", "1438171200000"])
def test_what_is_no_day_is_a_wrong_call(day: str) -> None:
    with pytest.raises(NoTime, match="is no day"):
        parse_day(day)


@pytest.mark.parametrize("name", ["Mars/Olympus", "", "../etc/passwd", "/etc/passwd", "Europe"])
def test_what_is_no_time_zone_is_a_wrong_call(name: str) -> None:
    with pytest.raises(NoTime, match="is no time zone"):
        parse_zone(name)


def test_the_machines_own_zone_is_local() -> None:
    assert parse_zone("local") is None
    parse_time("2015-07-29T12:00", now_ms=0, zone=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5m", 300_000), ("1h30m", 5_400_000), ("90s", 90_000), ("0.5s", 500), ("2d", 172_800_000)],
)
def test_a_length_of_time_is_what_it_says(text: str, expected: int) -> None:
    assert parse_span_ms(text) == expected


@pytest.mark.parametrize("text", ["5", "m", "-5m", "5x", "5m ago", ""])
def test_what_is_no_length_of_time_is_a_wrong_call(text: str) -> None:
    with pytest.raises(NoTime, match="is no length of time"):
        parse_span_ms(text)


@pytest.mark.parametrize(
    ("span_ms", "text"),
    [
        (None, None),
        (0, "0"),
        (850, "850 ms"),
        (12_345, "12.3 s"),
        (59_949, "59.9 s"),
        (59_950, "1m 00s"),
        (245_000, "4m 05s"),
        (11_220_000, "3h 07m"),
        (187_200_000, "2d 04h"),
    ],
)
def test_a_length_of_time_is_read_at_a_glance(span_ms: float | None, text: str | None) -> None:
    assert span_text(span_ms) == text
