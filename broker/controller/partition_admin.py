"""What clients ask of the controller about partitions: elections, reassignments, the removal of a dead broker.

Owns the checks of a request against the cluster, and the repetition when a partition changes meanwhile. What a state becomes is decided in
`elections.py` and `reassignments.py`; the running controller carries a move on. Knows no request formats.

Invariants: every transaction compares the controller key's create revision and each partition's mod revision. Each partition stands or falls by
itself. Source: Kafka's `ReplicationControlManager` (electLeaders, alterPartitionReassignments), KIP-455, KIP-460, KIP-860.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.controller.controller import change_transaction
from penstock.broker.controller.elections import Election, Members, is_preferred_possible, numbered, settled
from penstock.broker.controller.planner import Change, next_state
from penstock.broker.controller.reassignments import (
    begun,
    cancelled,
    completed,
    is_reassigning,
    target_of,
)
from penstock.broker.controller.rules import TopicRules
from penstock.broker.errors import ApiError
from penstock.broker.image import ClusterImage, PartitionImage, TopicImage
from penstock.broker.keys import NO_LEADER, PartitionState
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.rejoining import without
from penstock.broker.topic_admin import controller_guard
from penstock.broker.transactions import BATCH_SIZE, Transaction, metadata_failure, transact
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import Compare, Delete, MetadataError, MetadataStore

ROUND_COUNT_MAX = 10
SEEN_PATIENCE_S = 2.0

Place = tuple[str, int]
"""Topic and partition index, as a client names them."""
Decide = Callable[[TopicImage, PartitionImage], PartitionState]
"""What a partition is to become; raises ApiError where that can't be."""


@dataclass(slots=True)
class Outcome:
    """What became of each partition, and the revision that shows it."""

    errors: dict[Place, ApiError | None] = field(default_factory=dict[Place, "ApiError | None"])
    revision: int = 0


class PartitionAdmin:
    """The changes of partitions. All methods raise ApiError where nothing at all can be done (NOT_CONTROLLER)."""

    def __init__(self, store: MetadataStore, config: BrokerConfig, watch: MetadataWatch) -> None:
        self._store = store
        self._config = config
        self._watch = watch
        self._image: ClusterImage = watch.image
        self._rules = TopicRules(config, watch.image)

    async def elect(self, places: Sequence[Place], election: Election) -> Outcome:
        """Elect leaders: first replicas (PREFERRED), or any live one for partitions that have no leader (UNCLEAN). Durable on return.

        A partition's error is ELECTION_NOT_NEEDED where its leader is as asked for.
        """

        def decide(topic: TopicImage, partition: PartitionImage) -> PartitionState:
            members, state = self._members(), partition.state
            if election is Election.PREFERRED:
                if state.leader == state.replicas[0]:
                    raise _not_needed()
                if not is_preferred_possible(state, members):
                    raise ApiError(
                        ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE,
                        f"Broker {state.replicas[0]} can't lead: it is not alive, or not in sync.",
                    )
            elif state.leader != NO_LEADER:
                raise _not_needed()
            new = next_state(state, members, self._rules.of(topic.name), election)
            if new.leader == NO_LEADER:
                raise ApiError(ErrorCode.ELIGIBLE_LEADERS_NOT_AVAILABLE, "No replica is alive.")
            return new

        return await self._change(places, decide)

    async def reassign(
        self, targets: Mapping[Place, Sequence[int] | None], *, may_change_factor: bool = True
    ) -> Outcome:
        """Begin, change or (None) cancel moves of partitions to other replicas. What was begun goes on by itself. Durable on return."""

        def decide(topic: TopicImage, partition: PartitionImage) -> PartitionState:
            old, target = partition.state, targets[topic.name, partition.index]
            members, rules = self._members(), self._rules.of(topic.name)
            if target is None:
                new = _cancelled(old)
            else:
                self._check_target(old, target, may_change_factor=may_change_factor)
                new = begun(old, target)
            return numbered(old, settled(completed(new, members, rules), members, rules))

        return await self._change(list(targets), decide)

    async def unregister(self, node_id: int) -> int:
        """Remove what a dead broker has left: its part in ISRs and its configs. Returns the revision that shows it.

        Where it is a replica, it stays one until the partition is reassigned. Raises ApiError: the broker is alive, or nothing is known of it.
        """
        guard = controller_guard(self._image, self._config)
        if node_id in self._image.brokers:
            raise ApiError(ErrorCode.INVALID_REQUEST, f"Broker {node_id} is alive: stop it first.")
        places = [
            (topic.name, partition.index)
            for topic in self._image.topics.values()
            for partition in self._image.partitions(topic.topic_id)
            if node_id in partition.replicas
        ]
        configs = self._image.broker_configs(node_id)
        if not places and not configs:
            raise ApiError(ErrorCode.BROKER_ID_NOT_REGISTERED, f"There is no broker {node_id}.")

        def decide(_: TopicImage, partition: PartitionImage) -> PartitionState:
            return without(partition.state, node_id)

        outcome = await self._change(places, decide)
        for error in outcome.errors.values():
            if error is not None:
                raise error
        if configs:
            delete = Transaction([guard], [Delete(keys.broker_configs_key(node_id))])
            try:
                outcome.revision = (await transact(self._store, delete)).revision
            except MetadataError as error:
                raise metadata_failure(error) from error
        return outcome.revision

    # What all share.

    def _members(self) -> Members:
        return Members.of(self._image.brokers.values())

    def _check_target(self, state: PartitionState, target: Sequence[int], *, may_change_factor: bool) -> None:
        if not target or len(set(target)) < len(target) or min(target) < 0:
            raise ApiError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                "The target has no replica, or one twice, or a negative id.",
            )
        unknown = [i for i in target if i not in self._image.brokers and i not in state.replicas]
        if unknown:
            raise ApiError(
                ErrorCode.INVALID_REPLICA_ASSIGNMENT,
                f"The target names broker {unknown[0]}, which is not registered.",
            )
        factor = len(target_of(state))
        if not may_change_factor and len(target) != factor:
            raise ApiError(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                f"The target has {len(target)} replicas, the partition {factor}, and that may not change.",
            )

    async def _change(self, places: Sequence[Place], decide: Decide) -> Outcome:
        outcome = Outcome()
        pending: Sequence[Place] = places
        try:
            for _ in range(ROUND_COUNT_MAX):
                guard = controller_guard(self._image, self._config)
                changes = self._decided(pending, decide, outcome)
                if not changes:
                    return outcome
                pending = await self._store_all(guard, changes, outcome)
        except MetadataError as error:
            raise metadata_failure(error) from error
        for place in pending:
            outcome.errors[place] = ApiError(
                ErrorCode.REQUEST_TIMED_OUT, "The partition does not stop changing."
            )
        return outcome

    def _decided(
        self, places: Iterable[Place], decide: Decide, outcome: Outcome
    ) -> list[tuple[Place, Change]]:
        changes: list[tuple[Place, Change]] = []
        self._rules.forget_all()
        for place in places:
            topic = self._image.topic(place[0])
            partition = None if topic is None else self._image.partition(topic.topic_id, place[1])
            if topic is None or partition is None:
                outcome.errors[place] = ApiError(
                    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, "There is no such partition."
                )
                continue
            outcome.errors[place] = None
            try:
                state = decide(topic, partition)
            except ApiError as error:
                outcome.errors[place] = error
            else:
                if state != partition.state:
                    changes.append((place, Change(partition, state)))
        return changes

    async def _store_all(
        self, guard: Compare, changes: Sequence[tuple[Place, Change]], outcome: Outcome
    ) -> list[Place]:
        """Store in batches; returns what has to be decided anew, once the image has moved on."""
        again: list[Place] = []
        seen = 0
        for start in range(0, len(changes), BATCH_SIZE):
            batch = changes[start : start + BATCH_SIZE]
            result = await transact(self._store, change_transaction(guard, [change for _, change in batch]))
            if result.succeeded:
                outcome.revision = max(outcome.revision, result.revision)
            else:
                again += [place for place, _ in batch]
            seen = max(seen, result.revision)
        with trio.move_on_after(SEEN_PATIENCE_S if again else 0):
            await self._watch.wait_for(seen)
        return again


def _cancelled(state: PartitionState) -> PartitionState:
    if not is_reassigning(state):
        raise ApiError(
            ErrorCode.NO_REASSIGNMENT_IN_PROGRESS, "No reassignment of the partition is under way."
        )
    new = cancelled(state)
    if new is None:
        raise ApiError(
            ErrorCode.INVALID_REPLICA_ASSIGNMENT,
            "None of the old replicas is in sync: going back would lose records.",
        )
    return new


def _not_needed() -> ApiError:
    return ApiError(ErrorCode.ELECTION_NOT_NEEDED, "The partition's leader is as asked for.")
