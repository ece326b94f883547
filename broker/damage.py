"""What the broker's log says of a disk that fails and of damage: what to run, and each thing not too often.

Owns the words, so that opening and reading say the same. A consumer that can't go on asks again and again; that is one line, not one for each
time.
"""

import logging

from penstock.runtime.files import StorageError
from penstock.storage.errors import CorruptBatch, CorruptFile

log = logging.getLogger(__name__)

PLACES_MAX = 100
"""So many damaged places of one log are told; whoever has more knows enough."""
SAME_LINE_S = 10.0


def repair_advice(error: BaseException, directory: str) -> str:
    """What to add to a line about `error` in the log of `directory`; empty where a repair is no answer to it."""
    if not isinstance(error, CorruptBatch | CorruptFile):
        return ""
    return f"; stop the broker and run: penstock log repair {directory}"


class ErrorLines:
    """What was told of one partition. An error of the disk that comes again and again is one line every ten seconds, damage one for each place."""

    __slots__ = ("_next_line", "_places", "_text")

    def __init__(self) -> None:
        self._places: frozenset[tuple[str, int]] = frozenset()
        self._text = ""
        self._next_line = 0.0

    def tell(self, name: str, directory: str, error: StorageError, now: float) -> None:
        """Log an error of the partition `name`, unless it was told. `now` is monotonic."""
        text = str(error)
        if isinstance(error, CorruptBatch):
            place = frozenset({(error.path, error.position)})
            if place <= self._places or len(self._places) >= PLACES_MAX:
                return
            self._places |= place
        elif text == self._text and now < self._next_line:
            return
        self._text, self._next_line = text, now + SAME_LINE_S
        log.error("%s: %s%s", name, text, repair_advice(error, directory))


__all__ = ["ErrorLines", "repair_advice"]
