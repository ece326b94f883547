"""What the broker's log says of damage: what to run, once for each place.

Owns the words, so that opening and reading say the same. A consumer that can't go on asks again and again; that is one line, not one for each
time.
"""

import logging

from penstock.runtime.files import StorageError
from penstock.storage.errors import CorruptBatch, CorruptFile

log = logging.getLogger(__name__)

Told = frozenset[tuple[str, int]]
"""Places of one log: paths and positions."""
NOTHING_TOLD: Told = frozenset()
PLACES_MAX = 100
"""So many places of one log are told; whoever has more knows enough."""


def repair_advice(error: BaseException, directory: str) -> str:
    """What to add to a line about `error` in the log of `directory`; empty where a repair is no answer to it."""
    if not isinstance(error, CorruptBatch | CorruptFile):
        return ""
    return f"; stop the broker and run: penstock log repair {directory}"


def tell(name: str, directory: str, error: StorageError, told: Told) -> Told:
    """Log an error of the partition `name`, unless it is damage at a place that was told; returns the places that are told now."""
    place: Told = frozenset()
    if isinstance(error, CorruptBatch):
        place = frozenset({(error.path, error.position)})
        if place <= told or len(told) >= PLACES_MAX:
            return told
    log.error("%s: %s%s", name, error, repair_advice(error, directory))
    return told | place


__all__ = ["NOTHING_TOLD", "Told", "repair_advice", "tell"]
