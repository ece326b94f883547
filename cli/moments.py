"""Points and lengths of time as people write them, and as they read them.

Pure: what is now, and the time zone of a time that names none, are handed in. All points are ms since 1970-01-01 UTC.
"""

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from penstock.cli.failure import CalledWrongly

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS_MS = {
    "ms": 1,
    "s": 1_000,
    "sec": 1_000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": 86_400_000,
    "w": 604_800_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_SPAN = re.compile(rf"(?:{_PART.pattern})+")
TIME_HELP = "ISO 8601 (2015-07-29T12:00), ms since 1970, or relative (-1h, '30m ago')"


class NoTime(CalledWrongly):
    """A text that is no time, no length of time, no day or no time zone."""


def parse_time(text: str, *, now_ms: int, zone: tzinfo | None = UTC) -> int:
    """A point in time: ISO 8601, ms since 1970 (with or without `@` before it), `now`, `-1h30m`, `30m ago`.

    `zone` is that of an ISO time which names none; None: the machine's own. Raises NoTime.
    """
    stripped = text.strip()
    if re.fullmatch(r"@?[0-9]+", stripped):
        return int(stripped.lstrip("@"))
    if stripped.lower() == "now":
        return now_ms
    ago = _ago_ms(stripped.lower())
    if ago is not None:
        return max(now_ms - ago, 0)
    try:
        moment = datetime.fromisoformat(stripped)
    except ValueError:
        raise NoTime(f"{text!r} is no time; write {TIME_HELP}") from None
    return _in_ms(moment, zone)


def _ago_ms(text: str) -> int | None:
    if text.startswith("-"):
        return _span_ms(text[1:].removesuffix("ago").strip())
    if text.endswith("ago"):
        return _span_ms(text.removesuffix("ago").strip())
    return None


def parse_day(text: str, zone: tzinfo | None = UTC) -> tuple[int, int]:
    """The first ms of a day, and the first of the next one; in zones with summer time they are not always 24 hours apart. Raises NoTime."""
    try:
        day = date.fromisoformat(text.strip())
        next_day = day + timedelta(days=1)
    except (ValueError, OverflowError):
        raise NoTime(f"{text!r} is no day; write it as 2015-07-29") from None
    return _in_ms(datetime(day.year, day.month, day.day), zone), _in_ms(
        datetime(next_day.year, next_day.month, next_day.day), zone
    )


def parse_zone(name: str) -> tzinfo | None:
    """A time zone by its IANA name; None for `local`. Raises NoTime."""
    if name.lower() == "local":
        return None
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # no such file, a folder, a name that leaves the folder
        raise NoTime(f"{name!r} is no time zone; write a name like Europe/Berlin, UTC or local") from None


def parse_span_ms(text: str) -> int:
    """A length of time: `5m`, `1h30m`, `90s`, `250ms`. Raises NoTime."""
    span = _span_ms(text.strip().lower())
    if span is None:
        raise NoTime(f"{text!r} is no length of time; write 90s, 5m, 1h30m or 2d")
    return span


def _span_ms(text: str) -> int | None:
    if not _SPAN.fullmatch(text):
        return None
    total = 0.0
    for amount, unit in _PART.findall(text):
        if unit not in _UNITS_MS:
            return None
        total += float(amount) * _UNITS_MS[unit]
    return round(total)


def _in_ms(moment: datetime, zone: tzinfo | None) -> int:
    try:
        if moment.tzinfo is None:
            moment = moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
        return (moment - _EPOCH) // timedelta(milliseconds=1)
    except (OverflowError, ValueError):
        raise NoTime(f"{moment.isoformat()} is out of range") from None


def span_text(span_ms: float | None) -> str | None:
    """A length of time in its two largest units: `850 ms`, `12.3 s`, `4m 05s`, `3h 07m`, `2d 04h`. None stays None."""
    if span_ms is None:
        return None
    if span_ms < 1_000:
        return f"{round(span_ms)} ms" if span_ms else "0"
    if span_ms < 59_950:
        return f"{span_ms / 1000:.1f} s"
    seconds = round(span_ms / 1000)
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m {seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    return f"{hours // 24}d {hours % 24:02d}h"


def time_text(timestamp_ms: object, *, with_ms: bool = True) -> str:
    """A timestamp as UTC in ISO form; the bare number where it is none that a calendar has, `-` for -1."""
    if timestamp_ms == -1 or not isinstance(timestamp_ms, int):
        return "-"
    try:
        moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return str(timestamp_ms)
    return moment.isoformat(timespec="milliseconds" if with_ms else "seconds").replace("+00:00", "Z")


__all__ = [
    "TIME_HELP",
    "NoTime",
    "parse_day",
    "parse_span_ms",
    "parse_time",
    "parse_zone",
    "span_text",
    "time_text",
]
