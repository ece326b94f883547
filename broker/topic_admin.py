"""Makes, deletes and enlarges topics: the controller's transactions on topic and partition keys.

Owns the checks of a request against the cluster, and the order of writes that keeps a crash harmless. Knows no request formats; its caller
waits until the image shows what was stored. Configs are altered in `broker/config_admin.py`.

Invariants:

- The topic key is put by the last transaction of a creation and deleted by the first one of a deletion, so whatever a crash leaves is
  partition states that nobody sees, which the next holder of the controller key clears away.
- Every transaction compares the controller key's create revision: a deposed controller changes nothing.

Source: Kafka's `ReplicationControlManager`.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from penstock.broker import keys
from penstock.broker.assignment import assign_replicas
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.config_admin import ConfigAdmin
from penstock.broker.config_table import EffectiveConfig
from penstock.broker.errors import ApiError, ConfigError
from penstock.broker.image import ClusterImage, TopicImage
from penstock.broker.keys import PartitionState, TopicRecord
from penstock.broker.names import INTERNAL_TOPICS, collision_form, topic_name_fault
from penstock.broker.topic_config import check_topic_configs, effective_topic_configs
from penstock.broker.transactions import BATCH_SIZE, Transaction, metadata_failure, transact
from penstock.protocol.errors import ErrorCode
from penstock.runtime.clock import Random
from penstock.runtime.metadata import (
    Compare,
    Delete,
    MetadataError,
    MetadataStore,
    Put,
    TransactionResult,
)

log = logging.getLogger(__name__)

DEFAULT = -1
"""As a partition count or a replication factor: the broker's default."""
NEW_PARTITION_COUNT_MAX = 10_000
"""New partitions of one topic in one request, as in Kafka."""
FIRST_LEADER_EPOCH = 0
NO_TOPIC_ID = bytes(16)

Assignments = Sequence[tuple[int, Sequence[int]]]
"""Partition index and its replicas, the preferred leader first, as a request gives them."""


@dataclass(frozen=True, slots=True)
class NewTopic:
    """A topic to make. With `assignments`, count and factor are `DEFAULT` and follow from them."""

    name: str
    partition_count: int = DEFAULT
    replication_factor: int = DEFAULT
    assignments: Assignments = ()
    configs: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class CreatedTopic:
    """A topic as made, or as it would be: then `topic_id` is all zeros and `revision` is 0."""

    topic_id: bytes
    partition_count: int
    replication_factor: int
    configs: Sequence[EffectiveConfig]
    revision: int


class TopicAdmin:
    """The changes of topics. All methods raise ApiError and change nothing then, except where its code is REQUEST_TIMED_OUT."""

    def __init__(
        self, store: MetadataStore, image: ClusterImage, config: BrokerConfig, random: Random
    ) -> None:
        self._store = store
        self._image = image
        self._config = config
        self._random = random
        self._names_under_way: set[str] = set()
        self._enlarging = trio.Lock()
        self.configs = ConfigAdmin(store, image, config)
        """Alters the configs of topics and of brokers."""

    # Making.

    async def create(self, new: NewTopic, *, validate_only: bool = False) -> CreatedTopic:
        """Make a topic, or only check that it could be made. Durable on return; the image follows at `revision`.

        Cancellation: the topic may or may not come into being, whole.
        """
        guard = self._controller_guard()
        self._check_name(new.name)
        layers = self._config.topic_layers(new.configs, *self._broker_layers())
        try:
            check_topic_configs(new.configs, layers)
        except ConfigError as error:
            raise ApiError(ErrorCode.INVALID_CONFIG, str(error)) from error
        replicas = self._plan_assignments(new)
        topic_id, revision = NO_TOPIC_ID, 0
        if not validate_only:
            topic_id = self._random.randbytes(len(NO_TOPIC_ID))
            self._names_under_way.add(new.name)
            try:
                revision = await self._store_topic(guard, new, topic_id, replicas)
            finally:
                self._names_under_way.discard(new.name)
        return CreatedTopic(
            topic_id, len(replicas), len(replicas[0]), effective_topic_configs(layers), revision
        )

    def _check_name(self, name: str) -> None:
        fault = topic_name_fault(name)
        if fault is not None:
            raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"The topic name is not allowed: {fault}.")
        if self._image.topic(name) is not None or name in self._names_under_way:
            raise ApiError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
        form = collision_form(name)
        if form == name and "_" not in name:
            return
        for other in (*self._image.topics, *self._names_under_way):
            if collision_form(other) == form:
                raise ApiError(
                    ErrorCode.INVALID_TOPIC_EXCEPTION,
                    f"Topic '{name}' differs from '{other}' only in '.' and '_'.",
                )

    def _plan_assignments(self, new: NewTopic) -> list[tuple[int, ...]]:
        """The replicas of each partition."""
        if new.assignments:
            if new.partition_count != DEFAULT or new.replication_factor != DEFAULT:
                raise ApiError(
                    ErrorCode.INVALID_REQUEST,
                    "With an assignment of replicas, partition count and replication factor must both be -1.",
                )
            _check_new_count(len(new.assignments))
            return self._check_assignments(new.assignments, first_index=0)
        partition_count = (
            self._config.num_partitions if new.partition_count == DEFAULT else new.partition_count
        )
        if partition_count < 1:
            raise ApiError(ErrorCode.INVALID_PARTITIONS, "The number of partitions must be above 0.")
        _check_new_count(partition_count)
        factor = new.replication_factor
        return self._assign(
            partition_count, self._config.default_replication_factor if factor == DEFAULT else factor
        )

    def _assign(self, partition_count: int, factor: int, *, first_index: int = 0) -> list[tuple[int, ...]]:
        racks = {
            broker.node_id: broker.rack for broker in self._image.brokers.values() if not broker.is_fenced
        }
        if not 1 <= factor <= len(racks):
            raise ApiError(
                ErrorCode.INVALID_REPLICATION_FACTOR,
                f"A replication factor of {factor} can't be had: it must be above 0, and {len(racks)} "
                "broker(s) are registered.",
            )
        start = self._random.randrange(0, len(racks))
        return assign_replicas(partition_count, factor, racks, start=start, first_index=first_index)

    def _check_assignments(
        self, assignments: Assignments, *, first_index: int, factor: int | None = None
    ) -> list[tuple[int, ...]]:
        """The replicas by index; `factor` None takes that of the first partition given."""
        by_index = {index: tuple(replicas) for index, replicas in assignments}
        wanted = range(first_index, first_index + len(assignments))
        if sorted(by_index) != list(wanted):
            raise _bad_assignment("The partitions must be numbered one after the other, each once.")
        for index in wanted:
            replicas = by_index[index]
            factor = factor or len(replicas)
            if not replicas or len(set(replicas)) < len(replicas):
                raise _bad_assignment(f"Partition {index} has no replica, or one twice.")
            if len(replicas) != factor:
                raise _bad_assignment(f"Partition {index} has {len(replicas)} replicas, others {factor}.")
            unknown = [node_id for node_id in replicas if node_id not in self._image.brokers]
            if unknown:
                raise _bad_assignment(
                    f"Partition {index} names broker {unknown[0]}, which is not registered."
                )
            if all(self._image.brokers[node_id].is_fenced for node_id in replicas):
                raise _bad_assignment(f"All brokers of partition {index} are starting or about to stop.")
        return [by_index[index] for index in wanted]

    async def _store_topic(
        self, guard: Compare, new: NewTopic, topic_id: bytes, replicas: Sequence[tuple[int, ...]]
    ) -> int:
        name = keys.topic_key(new.name)
        compares = [guard, Compare(name, mod_revision=0)]
        puts = [
            Put(keys.partition_key(topic_id, index), self._first_state(assigned))
            for index, assigned in enumerate(replicas)
        ]
        while len(puts) > BATCH_SIZE:
            await self._commit(compares, puts[:BATCH_SIZE], new.name)
            del puts[:BATCH_SIZE]
        last = [Put(name, keys.encode_topic(TopicRecord(topic_id, len(replicas))))]
        if new.configs:
            last.append(Put(keys.topic_configs_key(new.name), keys.encode_configs(new.configs)))
        return (await self._commit(compares, [*last, *puts], new.name)).revision

    async def _commit(self, compares: Sequence[Compare], puts: Sequence[Put], name: str) -> TransactionResult:
        """One transaction of a creation."""
        try:
            result = await transact(self._store, Transaction(compares, puts))
            if not result.succeeded and await self._store.get(keys.topic_key(name)) is not None:
                raise ApiError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
        except MetadataError as error:
            raise metadata_failure(error) from error
        if not result.succeeded:
            raise _not_controller()
        return result

    # Deleting.

    async def delete(self, topic: TopicImage) -> int:
        """Delete a topic with its configs; returns the revision at which it is gone. Durable on return.

        Cancellation: the topic is either there, whole, or gone.
        """
        _check_not_internal(topic.name)
        if not self._config.delete_topic_enable:
            raise ApiError(ErrorCode.TOPIC_DELETION_DISABLED, "delete.topic.enable is false on this broker.")
        guard = self._controller_guard()
        key = keys.topic_key(topic.name)
        states = [Delete(keys.partition_key(topic.topic_id, index)) for index in range(topic.partition_count)]
        first = [Delete(key), Delete(keys.topic_configs_key(topic.name)), *states[:BATCH_SIZE]]
        compares = [guard, Compare(key, create_revision=topic.create_revision)]
        try:
            result = await transact(self._store, Transaction(compares, first))
            if not result.succeeded:
                entry = await self._store.get(key)
                if entry is None or entry.create_revision != topic.create_revision:
                    raise _unknown_topic(topic.name)
                raise _not_controller()
        except MetadataError as error:
            raise metadata_failure(error) from error
        await self._delete_rest(guard, topic.name, states[BATCH_SIZE:])
        return result.revision

    async def _delete_rest(self, guard: Compare, name: str, states: Sequence[Delete]) -> None:
        """The topic is gone already; what stays behind is cleared away by the next controller."""
        try:
            for start in range(0, len(states), BATCH_SIZE):
                await transact(self._store, Transaction([guard], states[start : start + BATCH_SIZE]))
        except MetadataError as error:
            log.warning("topic %s is deleted, but not all of its partitions' states: %s", name, error)

    # Enlarging.

    async def create_partitions(
        self,
        name: str,
        count: int,
        assignments: Sequence[Sequence[int]] | None,
        *,
        validate_only: bool = False,
    ) -> int:
        """Raise a topic's partition count to `count`; returns the revision that shows it (0 when only checked).

        `assignments` holds the replicas of the new partitions, by index; None has them assigned. Durable on return.
        Cancellation: the topic has either the old count or the new one.
        """
        _check_not_internal(name)
        guard = self._controller_guard()
        try:
            # One at a time, and from the store, since the image may not show yet what the last one did.
            async with self._enlarging:
                topic = await self._stored_topic(name)
                replicas = self._plan_new_partitions(topic, count, assignments)
                return 0 if validate_only else await self._store_new_partitions(guard, topic, replicas)
        except MetadataError as error:
            raise metadata_failure(error) from error

    async def _stored_topic(self, name: str) -> TopicImage:
        entry = None if topic_name_fault(name) else await self._store.get(keys.topic_key(name))
        if entry is None:
            raise _unknown_topic(name)
        topic = keys.decode_topic(entry.key, entry.value)
        return TopicImage(
            name, topic.topic_id, topic.partition_count, entry.create_revision, entry.mod_revision
        )

    def _plan_new_partitions(
        self, topic: TopicImage, count: int, assignments: Sequence[Sequence[int]] | None
    ) -> list[tuple[int, ...]]:
        present = topic.partition_count
        added = count - present
        if added < 1:
            fault = "has as many already" if added == 0 else "can't have fewer than now"
            raise ApiError(
                ErrorCode.INVALID_PARTITIONS,
                f"Topic '{topic.name}' has {present} partition(s); asked for {count}, it {fault}.",
            )
        _check_new_count(added)
        seen = self._image.partitions(topic.topic_id)
        factor = (
            len(seen[0].replicas) - len(seen[0].removing_replicas)
            if seen
            else self._config.default_replication_factor
        )
        if assignments is None:
            return self._assign(added, factor, first_index=present)
        if len(assignments) != added:
            raise _bad_assignment(
                f"{added} partition(s) are new, but {len(assignments)} have replicas given."
            )
        numbered = list(enumerate(assignments, start=present))
        return self._check_assignments(numbered, first_index=present, factor=factor)

    async def _store_new_partitions(
        self, guard: Compare, topic: TopicImage, replicas: Sequence[tuple[int, ...]]
    ) -> int:
        key = keys.topic_key(topic.name)
        unchanged = [guard, Compare(key, mod_revision=topic.mod_revision)]
        # An attempt cut short may have left states under these keys: nobody has seen them, so they are written over.
        stored = await self._store.range(keys.partitions_prefix(topic.topic_id))
        revisions = {entry.key: entry.mod_revision for entry in stored.entries}
        puts = [
            Put(keys.partition_key(topic.topic_id, topic.partition_count + n), self._first_state(assigned))
            for n, assigned in enumerate(replicas)
        ]
        for start in range(0, len(puts), BATCH_SIZE):
            batch = puts[start : start + BATCH_SIZE]
            unseen = [Compare(put.key, mod_revision=revisions.get(put.key, 0)) for put in batch]
            await self._enlarge(Transaction([*unchanged, *unseen], batch), topic)
        count = topic.partition_count + len(replicas)
        last = Put(key, keys.encode_topic(TopicRecord(topic.topic_id, count)))
        return await self._enlarge(Transaction(unchanged, [last]), topic)

    async def _enlarge(self, transaction: Transaction, topic: TopicImage) -> int:
        result = await transact(self._store, transaction)
        if result.succeeded:
            return result.revision
        if await self._store.get(keys.topic_key(topic.name)) is None:
            raise _unknown_topic(topic.name)
        raise _not_controller()

    # What all share.

    def _controller_guard(self) -> Compare:
        return controller_guard(self._image, self._config)

    def _first_state(self, replicas: Iterable[int]) -> bytes:
        """All replicas are in sync, but for those that are starting or about to stop; the first of them leads."""
        assigned = tuple(replicas)
        brokers = self._image.brokers
        isr = tuple(i for i in assigned if i not in brokers or not brokers[i].is_fenced) or assigned
        return keys.encode_partition(PartitionState(assigned, isr, isr[0], FIRST_LEADER_EPOCH))

    def _broker_layers(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        image = self._image
        return image.broker_configs(self._config.node_id), image.broker_configs(None)


def controller_guard(image: ClusterImage, config: BrokerConfig) -> Compare:
    """What every transaction of the controller compares. Raises ApiError where this broker is not the controller."""
    controller = image.controller
    if controller is None or controller.node_id != config.node_id:
        raise _not_controller()
    return Compare(keys.CONTROLLER_KEY, create_revision=controller.create_revision)


def _check_not_internal(name: str) -> None:
    """Groups are found by the partition count of their topic, and their offsets are in it: as it was made, it stays."""
    if name in INTERNAL_TOPICS:
        raise ApiError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic '{name}' is the broker's own.")


def _check_new_count(count: int) -> None:
    if count > NEW_PARTITION_COUNT_MAX:
        raise ApiError(
            ErrorCode.POLICY_VIOLATION, f"At most {NEW_PARTITION_COUNT_MAX} partitions are made at once."
        )


def _bad_assignment(message: str) -> ApiError:
    return ApiError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)


def _not_controller() -> ApiError:
    return ApiError(ErrorCode.NOT_CONTROLLER, "This broker is not the controller.")


def _unknown_topic(name: str) -> ApiError:
    return ApiError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"There is no topic '{name}'.")
