"""Choices of what is left of unsynced changes after a power cut: by rule for few changes, by chance for many.

Owns which choices are tried. `disk_state` owns what they mean.
"""

from collections.abc import Iterator
from random import Random

from tests.support.disk_state import NOTHING, Survival, Write
from tests.support.simulated_disk import Unsynced


def everything(unsynced: Unsynced) -> Survival:
    """All of it happened."""
    return Survival(frozenset(unsynced.numbers))


def ruled(unsynced: Unsynced) -> Iterator[Survival]:
    """None, all, each one alone, all but each one, the first so many, and zeros in place of each piece of a write."""
    numbers = unsynced.numbers
    whole = frozenset(numbers)
    yield NOTHING
    if numbers:
        yield Survival(whole)
    if len(numbers) > 1:
        for count, number in enumerate(numbers):
            yield Survival(frozenset((number,)))
            yield Survival(whole - {number})
            if 1 < count < len(numbers) - 1:
                yield Survival(frozenset(numbers[:count]))
    for change in unsynced.changes:
        if isinstance(change, Write):
            yield Survival(whole - {change.number}, zeroed=frozenset((change.number,)))


def torn(unsynced: Unsynced) -> Iterator[Survival]:
    """All but the last write happened, and that up to each of its bytes."""
    writes = [change for change in unsynced.changes if isinstance(change, Write)]
    if not writes:
        return
    others = frozenset(n for n in unsynced.numbers) - {w.number for w in writes if w.call == writes[-1].call}
    done: set[int] = set()
    for write in writes:
        if write.call == writes[-1].call:
            if done:
                yield Survival(others | done)
            for count in range(1, len(write.data)):
                yield Survival(others | done, torn=(write.number, count))
            done.add(write.number)


def by_chance(unsynced: Unsynced, random: Random) -> Survival:
    """Any subset, dense or sparse; some of the lost pieces as zeros; sometimes a write torn, and no later one survives then."""
    odds = random.choice((0.1, 0.5, 0.5, 0.9))
    kept = frozenset(number for number in unsynced.numbers if random.random() < odds)
    lost = [change for change in unsynced.changes if isinstance(change, Write) and change.number not in kept]
    zeroed = frozenset(change.number for change in lost if random.random() < 0.2)
    if not lost or random.random() < 0.5:
        return Survival(kept, zeroed)
    tear = random.choice(lost)
    before = frozenset(range(tear.number))
    return Survival(kept & before, zeroed & before, (tear.number, random.randrange(len(tear.data))))
