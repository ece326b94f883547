"""How a broker joins its cluster, stays in it, and leaves.

Owns the broker's own registration: format and cluster id, the lease with the registration key under it, and what a start changes in the
states of this broker's partitions (`rejoining.py` has the rules). Does not follow the store: `metadata_watch` does. A broker that has its
store for itself takes the controller key with its registration; in a cluster, `controller/controller.py` does.
Source: DESIGN section 7; Kafka's `BrokerLifecycleManager`, KIP-631.

Invariants:

- Each start is a new incarnation, and raises the leader epoch of every partition it leads before it serves one: no pair of offset and
  epoch ever names two different batches, whatever an unclean stop has cut.
- In a cluster it is registered as fenced until it serves its logs, and again before it stops: it leads nothing and joins no ISR meanwhile.
- Every transaction after registering compares the registration key's create revision: who was replaced changes nothing.
- Only whoever holds the controller key collects garbage, under a compare on that key.
- `deadline` is counted from the *sending* of the last keep-alive that was answered (PROPERTIES M2). After a lease was lost there is
  none before the image shows the new registration, and so who leads since.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import trio

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.errors import RegistrationError
from penstock.broker.image import ClusterImage
from penstock.broker.keys import BrokerRegistration, ControllerClaim, Endpoint, PartitionState
from penstock.broker.rejoining import Remains, after_restart, rejoined
from penstock.broker.transactions import BATCH_SIZE, Transaction, delete_unchanged, transact
from penstock.runtime.clock import Clock, Random
from penstock.runtime.metadata import (
    Compare,
    Delete,
    Entry,
    LeaseNotFound,
    MetadataError,
    MetadataStore,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

CLUSTER_ID_SIZE_BYTES = 16
INCARNATION_SIZE_BYTES = 16
DEADLINE_MARGIN = 0.2
"""The part of the session timeout that a broker gives up before the store would end its lease."""
RETRY_DELAY_S = 0.2
SIGN_OFF_S = 2.0
"""How long a stop tries to end its lease; others wait for the lease's end else."""
SIGN_OFF_UNHEARD_S = 0.5
"""The same where the store was not heard for so long that what this broker led has ended, or ends as soon as the store is back."""
EPOCH_ROUND_COUNT_MAX = 100
"""How often a start tries to store what it changes; in a cluster the controller may be changing the same thousands of partitions."""


async def join_cluster(store: MetadataStore, random: Random, *, cluster_id: str = "") -> str:
    """The cluster's id: checked against `cluster_id` if that is not empty, made at the very first start.

    Raises:
        RegistrationError: the store was written by another format version, or belongs to another cluster.
        MetadataError: the store can't be used.
    """
    for _ in range(2):
        format_entry = await store.get(keys.FORMAT_KEY)
        cluster_entry = await store.get(keys.CLUSTER_KEY)
        if format_entry is not None and cluster_entry is not None:
            return _check_cluster(format_entry, cluster_entry, cluster_id)
        made = cluster_id or keys.topic_id_text(random.randbytes(CLUSTER_ID_SIZE_BYTES))
        compares = [Compare(keys.FORMAT_KEY, mod_revision=0), Compare(keys.CLUSTER_KEY, mod_revision=0)]
        puts = [Put(keys.CLUSTER_KEY, keys.encode_cluster(made)), Put(keys.FORMAT_KEY, keys.encode_format())]
        if (await transact(store, Transaction(compares, puts))).succeeded:
            return made
    raise RegistrationError("metadata store: the keys format and cluster are not both there")


def _check_cluster(format_entry: Entry, cluster_entry: Entry, wanted: str) -> str:
    version = keys.decode_format(format_entry.value)
    if version != keys.FORMAT_VERSION:
        raise RegistrationError(
            f"metadata store: format version {version}; this Penstock reads {keys.FORMAT_VERSION}"
        )
    stored = keys.decode_cluster(cluster_entry.value)
    if wanted and wanted != stored:
        raise RegistrationError(f"metadata store: it belongs to cluster {stored}, not to {wanted}")
    return stored


@dataclass(frozen=True, slots=True)
class _StateChange:
    """A partition's new state, and the mod revision of the one that it replaces."""

    key: str
    mod_revision: int
    state: PartitionState


class Registration:
    """One broker's membership. Use: `start`, then `run` in a nursery, then `stop`."""

    def __init__(
        self,
        store: MetadataStore,
        config: BrokerConfig,
        clock: Clock,
        random: Random,
        *,
        directory_id: str = "",
    ) -> None:
        self.node_id = config.node_id
        self.incarnation = random.randbytes(INCARNATION_SIZE_BYTES).hex()
        self.create_revision = 0
        """Of our registration key; 0 before `start` and while registering anew."""
        self.deadline = -math.inf
        """Monotonic time (seconds) after which this broker takes no new decision as leader or controller."""
        self.is_leaving = False
        """Whether this broker has begun to stop."""
        self.is_fenced = config.is_clustered
        """What the registration says, or is to say."""
        self._is_starting = config.is_clustered
        self._store = store
        self._config = config
        self._clock = clock
        self._directory_id = directory_id
        self._session_s = config.broker_session_timeout_ms / 1000
        self._interval_s = config.broker_heartbeat_interval_ms / 1000
        self._key = keys.broker_key(config.node_id)
        self._endpoints: Mapping[str, Endpoint] = {}
        self.lease_id = 0
        self._told_missed = 0
        self.catch_up: Callable[[int], Awaitable[None]] = _seen_at_once
        """Waits until this broker's image shows a revision; to be set once there is an image."""
        self._is_behind = False
        """Whether others may lead since, which the image does not show yet: no deadline until it does."""
        self._has_ended = False

    async def start(self, endpoints: Mapping[str, Endpoint], remains: Remains | None = None) -> None:
        """Register under a new lease, and raise the epochs of what this broker leads.

        Alone with its store, it takes the controller key, too. In a cluster it is fenced until `ready`, leads nothing, and is out of the
        ISR of what it may have lost by its `remains` (None: nothing). All of it is stored on return.

        Raises:
            RegistrationError: another live broker has this node id.
            MetadataError: the store can't be used.
        """
        self._endpoints = endpoints
        await self._evict_predecessor()
        await self._register()
        await self._raise_leader_epochs(remains)

    async def ready(self) -> None:
        """Be unfenced, now that this broker serves its logs; waits for a store that can't be reached."""
        self._is_starting = False
        if not self.is_leaving:
            await self._set_unfenced()

    async def leave(self) -> bool:
        """Be fenced, so that the controller gives this broker's leaderships away before it stops.

        Returns whether the store says so now. False without waiting where it does not answer, or has not for so long that `deadline` is
        past: those leaderships end with the lease, whether this broker stops sooner or later.
        """
        self.is_leaving = True
        if self.is_fenced:
            return True
        self.is_fenced = True
        while self._clock.monotonic() < self.deadline:
            try:
                if await self._store_fence():
                    return True
            except MetadataError as error:
                log.warning("broker %d: can't be fenced before it stops: %s", self.node_id, error)
                return False
            await trio.sleep(RETRY_DELAY_S)
        return False

    async def _set_unfenced(self) -> None:
        if not self.is_fenced:
            return
        self.is_fenced = False
        while not self.is_fenced:
            try:
                if await self._store_fence():
                    return
            except MetadataError as error:
                log.warning("broker %d: can't change its registration, trying again: %s", self.node_id, error)
            await trio.sleep(RETRY_DELAY_S)

    async def _store_fence(self) -> bool:
        """Store `is_fenced`. False while it is being registered anew, which stores it, too. Raises MetadataError."""
        if not self.create_revision:
            return False
        own = Compare(self._key, create_revision=self.create_revision)
        with suppress(LeaseNotFound):  # then it is about to be registered anew
            await transact(self._store, Transaction([own], [self._registration()]))
        return True

    def _registration(self) -> Put:
        value = BrokerRegistration(
            self.incarnation,
            self._endpoints,
            self._config.rack,
            self._directory_id,
            self.is_fenced,
            self._is_starting,
        )
        return Put(self._key, keys.encode_broker(value), self.lease_id)

    async def run(self) -> None:
        """Keep the lease alive for ever; if it ended (a long pause), register anew.

        Raises:
            RegistrationError: another broker has registered under this node id.
        """
        while not self._has_ended:
            await self._pause()
            try:
                await self._beat()
            except LeaseNotFound:
                if self._has_ended:
                    return
                log.warning(
                    "broker %d: its lease has ended (was the process paused?): registering anew", self.node_id
                )
                self.create_revision = 0
                self._is_behind = True
                await self._register_patiently()
            except MetadataUnavailable as error:
                self._tell_of_missed_beat(error)

    async def _pause(self) -> None:
        """Until the next heartbeat; no longer than until the image shows who leads since a lease was lost."""
        with trio.move_on_after(self._interval_s):
            if not self._is_behind:
                await trio.sleep_forever()
            await self.catch_up(self.create_revision)
            self._is_behind = False

    async def stop(self) -> None:
        """Leave: end the lease, so that the cluster knows at once. An error of the store is logged only.

        Takes at most SIGN_OFF_S, and SIGN_OFF_UNHEARD_S if the store has not answered for so long that `deadline` is past.
        """
        self.is_leaving = self._has_ended = True
        is_heard = self._clock.monotonic() < self.deadline
        self.deadline = -math.inf
        if not self.lease_id:
            return
        with trio.move_on_after(SIGN_OFF_S if is_heard else SIGN_OFF_UNHEARD_S):
            try:
                await self._store.revoke_lease(self.lease_id)
            except MetadataError as error:
                log.warning("broker %d: could not sign off: %s", self.node_id, error)
            return
        log.warning("broker %d: could not sign off: the metadata store does not answer", self.node_id)

    # The lease.

    async def _beat(self) -> None:
        sent = self._clock.monotonic()
        await self._store.keep_alive(self.lease_id)
        self._extend(sent)
        if self._told_missed:
            log.info("broker %d: heartbeats are answered again", self.node_id)
            self._told_missed = 0

    def _tell_of_missed_beat(self, error: MetadataUnavailable) -> None:
        """A line when beats begin to go unanswered, one when the session may have ended; not one for each beat."""
        if not self._told_missed:
            log.warning("broker %d: no heartbeat: %s", self.node_id, error)
        elif self._told_missed == 1 and self._clock.monotonic() > self.deadline:
            log.warning(
                "broker %d: no heartbeat for %.1f s: it decides nothing until the metadata store answers",
                self.node_id,
                self._session_s * (1 - DEADLINE_MARGIN),
            )
        else:
            return
        self._told_missed += 1

    def _extend(self, sent: float) -> None:
        if not (self._is_behind or self._has_ended):
            self.deadline = sent + self._session_s * (1 - DEADLINE_MARGIN)

    async def _evict_predecessor(self) -> None:
        """Make way for a registration: end what our directory's last incarnation left; wait for the end of any other."""
        waiting_ends = self._clock.monotonic() + self._session_s + self._interval_s
        while (entry := await self._store.get(self._key)) is not None:
            if keys.decode_broker(self._key, entry.value).directory_id == self._directory_id:
                await self._remove(entry)
            elif self._clock.monotonic() > waiting_ends:
                raise RegistrationError(
                    f"node id {self.node_id} is in use by another broker that is alive; each needs one of its own (--node-id)"
                )
            else:
                await trio.sleep(RETRY_DELAY_S)

    async def _check_not_replaced(self) -> None:
        """Before registering anew: remove our own stale registration, and give way to a later start of this broker."""
        entry = await self._store.get(self._key)
        if entry is None:
            return
        if keys.decode_broker(self._key, entry.value).incarnation != self.incarnation:
            raise RegistrationError(f"node id {self.node_id} was taken over by another start of this broker")
        await self._remove(entry)

    async def _remove(self, entry: Entry) -> None:
        if entry.lease_id:
            await self._store.revoke_lease(entry.lease_id)
        else:
            await self._store.transact(
                [Compare(entry.key, mod_revision=entry.mod_revision)], [Delete(entry.key)]
            )

    async def _register(self) -> None:
        """Register under a new lease. Alone with the store: take the controller key with it, and clear away what its last holder left."""
        sent = self._clock.monotonic()
        lease_id = self.lease_id = await self._store.grant_lease(max(2, math.ceil(self._session_s)))
        register = self._registration()
        id_is_free = Compare(self._key, mod_revision=0)
        rules = not self._config.is_clustered and await self._register_as_controller(id_is_free, register)
        if not rules:
            await transact(self._store, Transaction([id_is_free], [register]))
        entry = await self._store.get(self._key)
        if entry is None or entry.lease_id != lease_id:
            raise RegistrationError(f"node id {self.node_id} was taken by another broker at this moment")
        self.create_revision = entry.create_revision
        self._extend(sent)
        if rules:
            await self._collect_garbage()

    async def _register_as_controller(self, id_is_free: Compare, register: Put) -> bool:
        claim = keys.encode_controller(ControllerClaim(self.node_id, self.incarnation))
        rule = Put(keys.CONTROLLER_KEY, claim, self.lease_id)
        rule_is_free = Compare(rule.key, mod_revision=0)
        result = await transact(self._store, Transaction([id_is_free, rule_is_free], [register, rule]))
        return result.succeeded

    async def _register_patiently(self) -> None:
        while True:
            try:
                await self._check_not_replaced()
                await self._register()
                return
            except (MetadataUnavailable, OutcomeUnknown, LeaseNotFound) as error:
                log.warning("broker %d: can't register, trying again: %s", self.node_id, error)
                await trio.sleep(RETRY_DELAY_S)

    # What follows from being registered.

    async def _collect_garbage(self) -> None:
        """Delete partition states that no topic counts."""
        image = ClusterImage.from_snapshot(await self._store.range(keys.ROOT))
        controller = image.controller
        if controller is None or controller.incarnation != self.incarnation:
            return
        guard = Compare(keys.CONTROLLER_KEY, create_revision=controller.create_revision)
        garbage = {
            keys.partition_key(state.topic_id, state.index): state.partition_epoch
            for state in image.unseen_partitions()
        }
        count = await delete_unchanged(self._store, guard, garbage)
        if count:
            log.info(
                "removed the state of %d partitions of topics that were not made or deleted to the end", count
            )

    async def _raise_leader_epochs(self, remains: Remains | None) -> None:
        """Store what this start changes, in batches; where a state changes meanwhile, all is read again."""
        done: set[str] = set()
        for _ in range(EPOCH_ROUND_COUNT_MAX):
            if self._config.is_clustered:
                changes = await self._changes_of_rejoining(remains)
            else:
                changes = [change for change in await self._changes_of_restart() if change.key not in done]
            failed = False
            for batch in _batches(changes):
                if await self._store_states(batch):
                    done.update(change.key for change in batch)
                else:
                    failed = True
            if not failed:
                return
            await trio.sleep(RETRY_DELAY_S if self._config.is_clustered else 0)
        raise RegistrationError("the states of this broker's partitions do not stop changing")

    async def _changes_of_restart(self) -> list[_StateChange]:
        snapshot = await self._store.range(keys.PARTITIONS_PREFIX)
        return [
            _StateChange(entry.key, entry.mod_revision, state)
            for entry in snapshot.entries
            if (state := after_restart(keys.decode_partition(entry.key, entry.value), self.node_id))
        ]

    async def _changes_of_rejoining(self, remains: Remains | None) -> list[_StateChange]:
        image = ClusterImage.from_snapshot(await self._store.range(keys.ROOT))
        changes: list[_StateChange] = []
        for topic in image.topics.values():
            for partition in image.partitions(topic.topic_id):
                if self.node_id not in partition.replicas:
                    continue
                has_lost = remains is not None and remains.may_have_lost(
                    self._config, image, topic.name, partition.index
                )
                state = rejoined(partition.state, self.node_id, has_lost=has_lost)
                if state is not None:
                    key = keys.partition_key(topic.topic_id, partition.index)
                    changes.append(_StateChange(key, partition.partition_epoch, state))
        return changes

    async def _store_states(self, changes: Sequence[_StateChange]) -> bool:
        unchanged = [Compare(change.key, mod_revision=change.mod_revision) for change in changes]
        puts = [Put(change.key, keys.encode_partition(change.state)) for change in changes]
        registered = Compare(self._key, create_revision=self.create_revision)
        result = await transact(self._store, Transaction([registered, *unchanged], puts))
        return result.succeeded


async def _seen_at_once(_: int) -> None:
    """Before there is an image, nobody acts on one."""


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH_SIZE):
        yield items[start : start + BATCH_SIZE]
