"""Bugs in what brokers do with the metadata store."""

from typing import Any

from tests.simulation.bugs.planting import Bug, Patch

from penstock.broker import keys, registration
from penstock.broker.controller import rules
from penstock.broker.controller.elections import Rules
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.replication.isr_changes import IsrChanges
from penstock.runtime.metadata import MetadataUnavailable, OutcomeUnknown


def _anybody_may_lead(original: Any) -> Any:
    def of(self: Any, topic: str) -> Rules:
        return Rules(original(self, topic).min_insync_replicas, True)

    return of


def _lead_on(original: Any) -> Any:
    def rejoined(state: Any, node_id: int, *, has_lost: bool) -> Any:
        return None if state.leader == node_id else original(state, node_id, has_lost=has_lost)

    return rejoined


def _deadline_from_reply(_: Any) -> Any:
    async def beat(self: Any) -> None:
        await self._store.keep_alive(self.lease_id)
        self.deadline = self._clock.monotonic() + 2 * self._session_s

    return beat


def _transact_blindly(original: Any) -> Any:
    def transaction(self: Any, batch: Any) -> Any:
        _, puts = original(self, batch)
        return [], puts

    return transaction


def _go_on_from_now(original: Any) -> Any:
    async def load(self: Any) -> None:
        if self.image.revision:
            self.image.revision = (await self._store.range(keys.ROOT)).revision
        else:
            await original(self)

    return load


class _Blunt:
    """A store that says "nothing was changed" also where it can't know."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def transact(self, *args: Any) -> Any:
        try:
            return await self._store.transact(*args)
        except OutcomeUnknown as error:
            raise MetadataUnavailable("the reply was lost") from error


def _ask_bluntly(original: Any) -> Any:
    def init(self: Any, *args: Any) -> None:
        original(self, *args)
        self._store = _Blunt(self._store)

    return init


BUGS = (
    Bug(
        "elections from anywhere",
        "whoever lives may lead, in sync or not",
        [Patch(rules.TopicRules, "of", _anybody_may_lead)],
        faults=("kill", "partition", "power cut of all"),
        seed=1,
        found_by=("D6",),
    ),
    Bug(
        "epoch not raised at start",
        "a leader that comes back quickly leads on in the epoch that it led in",
        [Patch(registration, "rejoined", _lead_on)],
        faults=("kill", "stop"),
        seed=2,
        found_by=("D4",),
    ),
    Bug(
        "deadline from the reply",
        "a broker takes itself for registered for longer than the store does",
        [Patch(registration.Registration, "_beat", _deadline_from_reply)],
        faults=("store down", "store cut off"),
        seed=1,
        found_by=("M2",),
    ),
    Bug(
        "ISR stored without compares",
        "an ISR change does not compare what it was decided on",
        [Patch(IsrChanges, "_transaction", _transact_blindly)],
        faults=("kill",),
        seed=1,
        found_by=("M1",),
    ),
    Bug(
        "lost watch",
        "a watch that finds the past compacted goes on from now, and what came between is never learned",
        [Patch(MetadataWatch, "load", _go_on_from_now)],
        faults=("store compaction", "stale watch", "store cut off", "kill"),
        seed=5,
        found_by=("M1",),
    ),
    Bug(
        "lost reply is a refusal",
        "an ISR change whose reply was lost is taken for one that was not stored, and who joined by it does not count",
        [Patch(IsrChanges, "__init__", _ask_bluntly)],
        faults=("flaky store", "stop", "stale watch"),
        seed=38,
        found_by=("D3",),
    ),
)
