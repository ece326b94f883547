"""Bugs in what brokers do with the metadata store."""

from typing import Any

from tests.simulation.bugs.planting import Bug, Patch

from penstock.broker import registration
from penstock.broker.controller import rules
from penstock.broker.controller.elections import Rules
from penstock.broker.replication.isr_changes import IsrChanges


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
)
