"""Which folder a record goes to: `day=2015-07-29/`, `day=2015-07-29/hour=17/` (Hive's style), or none.

Owns the names. Pure. Time zones differ from UTC by whole quarters of an hour, so a quarter lies in one folder.
"""

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Literal

QUARTER_MS = 900_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_TIME = "__HIVE_DEFAULT_PARTITION__"
"""What Hive and all that follow it read as null: for timestamps that no calendar has."""


class Folding:
    """Folders by time. `by` None: everything in one."""

    def __init__(self, by: Literal["day", "hour"] | None, zone: tzinfo | None = UTC) -> None:
        self.by = by
        self._zone = zone
        self.folder = lru_cache(4096)(self._folder)
        """The folder of a quarter of an hour (`timestamp_ms // QUARTER_MS`), with a slash behind it; empty where there are none."""

    def _folder(self, quarter: int) -> str:
        if self.by is None:
            return ""
        try:
            moment = (_EPOCH + timedelta(milliseconds=quarter * QUARTER_MS)).astimezone(self._zone)
            day, hour = moment.strftime("%Y-%m-%d"), moment.strftime("%H")
        except (OverflowError, ValueError):
            day = hour = _NO_TIME
        return f"day={day}/" if self.by == "day" else f"day={day}/hour={hour}/"


__all__ = ["QUARTER_MS", "Folding"]
