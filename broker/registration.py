"""How a broker joins its cluster, stays in it, and leaves.

Owns the broker's own registration: format and cluster id, the lease with the registration key under it, the controller key where
nobody holds it, and the fresh leader epoch of everything this broker leads. Does not follow the store: `metadata_watch` does.
Source: DESIGN section 7; Kafka's `BrokerLifecycleManager`, KIP-631.

Invariants:

- Each start is a new incarnation, and raises the leader epoch of every partition it leads before it serves one: no pair of offset and
  epoch ever names two different batches, whatever an unclean stop has cut.
- Every transaction after registering compares the registration key's create revision: who was replaced changes nothing.
- Only whoever holds the controller key collects garbage, under a compare on that key.
- `deadline` is counted from the *sending* of the last keep-alive that was answered (PROPERTIES M2).
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import trio

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.errors import RegistrationError
from penstock.broker.image import ClusterImage
from penstock.broker.keys import BrokerRegistration, ControllerClaim, Endpoint, PartitionState
from penstock.broker.transactions import BATCH_SIZE, Transaction, transact
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
EPOCH_ROUND_COUNT_MAX = 10


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


def after_restart(state: PartitionState, node_id: int) -> PartitionState | None:
    """What a partition's state becomes when broker `node_id` starts anew; None if it has no part in it.

    Alone in the ISR, it leads on; among others, leadership is theirs to take. Pure.
    """
    alone = state.isr == (node_id,)
    if state.leader != node_id and not (alone and state.leader == keys.NO_LEADER):
        return None
    return replace(state, leader=node_id if alone else keys.NO_LEADER, leader_epoch=state.leader_epoch + 1)


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
        self._store = store
        self._rack = config.rack
        self._clock = clock
        self._directory_id = directory_id
        self._session_s = config.broker_session_timeout_ms / 1000
        self._interval_s = config.broker_heartbeat_interval_ms / 1000
        self._key = keys.broker_key(config.node_id)
        self._endpoints: Mapping[str, Endpoint] = {}
        self._lease_id = 0

    async def start(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Register under a new lease, take the controller key if it is free, and raise the epochs of what this broker leads.

        All of it is stored on return.

        Raises:
            RegistrationError: another live broker has this node id.
            MetadataError: the store can't be used.
        """
        self._endpoints = endpoints
        await self._evict_predecessor()
        await self._register()
        await self._raise_leader_epochs()

    async def run(self) -> None:
        """Keep the lease alive for ever; if it ended (a long pause), register anew.

        Raises:
            RegistrationError: another broker has registered under this node id.
        """
        while True:
            await trio.sleep(self._interval_s)
            try:
                await self._beat()
            except LeaseNotFound:
                log.warning(
                    "broker %d: its lease has ended (was the process paused?): registering anew", self.node_id
                )
                self.create_revision = 0
                await self._register_patiently()
            except MetadataUnavailable as error:
                log.warning("broker %d: no heartbeat: %s", self.node_id, error)

    async def stop(self) -> None:
        """Leave: end the lease, so that the cluster knows at once. An error of the store is logged only."""
        self.deadline = -math.inf
        if self._lease_id:
            try:
                await self._store.revoke_lease(self._lease_id)
            except MetadataError as error:
                log.warning("broker %d: could not sign off: %s", self.node_id, error)

    # The lease.

    async def _beat(self) -> None:
        sent = self._clock.monotonic()
        await self._store.keep_alive(self._lease_id)
        self._extend(sent)

    def _extend(self, sent: float) -> None:
        self.deadline = sent + self._session_s * (1 - DEADLINE_MARGIN)

    async def _evict_predecessor(self) -> None:
        """Make way for a registration: end what our directory's last incarnation left; wait for the end of any other."""
        waiting_ends = self._clock.monotonic() + self._session_s + self._interval_s
        while (entry := await self._store.get(self._key)) is not None:
            if keys.decode_broker(self._key, entry.value).directory_id == self._directory_id:
                await self._remove(entry)
            elif self._clock.monotonic() > waiting_ends:
                raise RegistrationError(f"node id {self.node_id} is in use by another broker that is alive")
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
        """Register under a new lease; take the controller key with it if nobody holds that, and clear away what its last holder left."""
        sent = self._clock.monotonic()
        lease_id = self._lease_id = await self._store.grant_lease(max(2, math.ceil(self._session_s)))
        registration = BrokerRegistration(self.incarnation, self._endpoints, self._rack, self._directory_id)
        register = Put(self._key, keys.encode_broker(registration), lease_id)
        claim = ControllerClaim(self.node_id, self.incarnation)
        rule = Put(keys.CONTROLLER_KEY, keys.encode_controller(claim), lease_id)
        id_is_free, rule_is_free = (Compare(put.key, mod_revision=0) for put in (register, rule))
        rules = (
            await transact(self._store, Transaction([id_is_free, rule_is_free], [register, rule]))
        ).succeeded
        if not rules:
            await transact(self._store, Transaction([id_is_free], [register]))
        entry = await self._store.get(self._key)
        if entry is None or entry.lease_id != lease_id:
            raise RegistrationError(f"node id {self.node_id} was taken by another broker at this moment")
        self.create_revision = entry.create_revision
        self._extend(sent)
        if rules:
            await self._collect_garbage()

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
        garbage = [keys.partition_key(topic_id, index) for topic_id, index in image.unseen_partitions()]
        for batch in _batches(garbage):
            await transact(self._store, Transaction([guard], [Delete(key) for key in batch]))
        if garbage:
            log.info(
                "removed the state of %d partitions of topics that were not made or deleted to the end",
                len(garbage),
            )

    async def _raise_leader_epochs(self) -> None:
        """Do `after_restart` to every partition, in batches; one that changed meanwhile is read again."""
        done: set[str] = set()
        for _ in range(EPOCH_ROUND_COUNT_MAX):
            snapshot = await self._store.range(keys.PARTITIONS_PREFIX)
            changes = [
                (entry, state)
                for entry in snapshot.entries
                if entry.key not in done
                and (state := after_restart(keys.decode_partition(entry.key, entry.value), self.node_id))
            ]
            failed = False
            for batch in _batches(changes):
                if await self._store_states(batch):
                    done.update(entry.key for entry, _ in batch)
                else:
                    failed = True
            if not failed:
                return
        raise RegistrationError("the states of this broker's partitions do not stop changing")

    async def _store_states(self, changes: Sequence[tuple[Entry, PartitionState]]) -> bool:
        unchanged = [Compare(entry.key, mod_revision=entry.mod_revision) for entry, _ in changes]
        puts = [Put(entry.key, keys.encode_partition(state)) for entry, state in changes]
        registered = Compare(self._key, create_revision=self.create_revision)
        result = await transact(self._store, Transaction([registered, *unchanged], puts))
        return result.succeeded


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), BATCH_SIZE):
        yield items[start : start + BATCH_SIZE]
