"""The controller's shell: claims the controller key, and stores what the planner asks for.

Every broker of a cluster runs one; it acts while its broker holds the key. Owns the claim, what is to be looked at, retries and the timer of preferred
leaders. Decides nothing about partitions: `planner.py` does. Knows no request: `partition_admin.py` does.

Invariants (PROPERTIES D4, M1, M2):

- The claim is a compare-and-swap on the absent key, under the broker's own lease and registration: both go together.
- Nothing is stored after the registration's deadline, and every transaction compares the controller key's create revision, so whoever
  was deposed, paused or cut off changes nothing; and the mod revision of every partition that it changes.
- What was looked at stays to be looked at until its transaction is known to have been applied, or its partition was seen to have changed.

Source: Kafka's `ReplicationControlManager`, `BrokerHeartbeatManager`.
"""

import logging
import math
from collections.abc import Iterable, Sequence

import trio

from penstock.broker import keys
from penstock.broker.broker_config import BrokerConfig
from penstock.broker.controller.elections import Members
from penstock.broker.controller.planner import Change, plan, plan_preferred
from penstock.broker.controller.rules import TopicRules
from penstock.broker.image import ClusterImage, ImageDelta, PartitionImage
from penstock.broker.keys import ControllerClaim
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.registration import Registration
from penstock.broker.transactions import BATCH_SIZE, Transaction, delete_unchanged, transact
from penstock.runtime.clock import Clock
from penstock.runtime.metadata import Compare, MetadataError, MetadataStore, Put, TransactionResult

log = logging.getLogger(__name__)

RETRY_DELAY_MIN_S = 0.1
RETRY_DELAY_MAX_S = 2.0
SEEN_PATIENCE_S = 2.0
"""How long the watch may take to show what was stored, before it is planned anew all the same."""
PREFERRED_COUNT_MAX = 1_000
"""Leaders given back in one go, as in Kafka; the rest follows in the next."""
PREFERRED_PAUSE_S = 1.0

_Key = tuple[bytes, int]


class Controller:
    """One broker's part in being the controller. Use: `watch.listen(controller.note)`, then `run` in a nursery."""

    def __init__(
        self,
        store: MetadataStore,
        config: BrokerConfig,
        watch: MetadataWatch,
        registration: Registration,
        clock: Clock,
    ) -> None:
        self._store = store
        self._config = config
        self._watch = watch
        self._image: ClusterImage = watch.image
        self._registration = registration
        self._clock = clock
        self._rules = TopicRules(config, watch.image)
        self._claim = ControllerClaim(registration.node_id, registration.incarnation)
        self._to_look_at: dict[_Key, None] = {}  # a set with an order, so that equal runs do equal things
        self._looks_at_all = False
        self._garbage: list[PartitionImage] = []
        self._batch_size = BATCH_SIZE
        self._noted = trio.Event()
        self._next_balance_s = 0.0

    @property
    def is_active(self) -> bool:
        """Whether the image shows this start of this broker as the controller, and its lease holds for certain."""
        controller = self._image.controller
        return (
            controller is not None
            and controller.incarnation == self._claim.incarnation
            and self._clock.monotonic() < self._registration.deadline
        )

    def note(self, delta: ImageDelta) -> None:
        """Take a change of the image."""
        for name in sorted(delta.topic_configs_changed):
            self._rules.forget(name)
            topic = self._image.topic(name)
            if topic is not None:
                self._to_look_at.update(
                    dict.fromkeys((topic.topic_id, i) for i in range(topic.partition_count))
                )
        if delta.broker_configs_changed:
            self._rules.forget_all()
            self._looks_at_all = True
        if delta.brokers_changed:
            self._looks_at_all = True
        if delta.controller_changed:
            self._looks_at_all = True
            # Now and not later: what is unseen after this moment may be a creation of our own.
            self._garbage = self._image.unseen_partitions()
            self._next_balance_s = self._clock.monotonic() + self._balance_interval_s()
        self._to_look_at.update(dict.fromkeys((p.topic_id, p.index) for p in delta.partitions_changed))
        self._noted.set()

    async def run(self) -> None:
        """Be the controller whenever it falls to this broker, for ever."""
        delay_s = RETRY_DELAY_MIN_S
        while True:
            self._noted = trio.Event()
            try:
                await self._act()
                delay_s = RETRY_DELAY_MIN_S
            except MetadataError as error:
                log.warning("controller: trying again in %.1f s: %s", delay_s, error)
                await trio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_DELAY_MAX_S)
                self._looks_at_all = True
                continue
            with trio.move_on_after(self._patience_s()):
                await self._noted.wait()

    async def _act(self) -> None:
        if self._image.controller is None:
            await self._claim_key()
        if not self.is_active:
            return
        await self._collect_garbage()
        await self._store_changes(self._plan())
        await self._balance()

    def _patience_s(self) -> float:
        """How long nothing needs to be done if nothing happens."""
        if not self.is_active:
            # A claim that was held back, or a deadline that passed: looked at again now and then.
            return RETRY_DELAY_MAX_S
        if self._to_look_at or self._looks_at_all:
            return 0
        return max(0.0, self._next_balance_s - self._clock.monotonic())

    # The key.

    async def _claim_key(self) -> None:
        registration = self._registration
        if registration.is_leaving or not registration.create_revision:
            return
        free = Compare(keys.CONTROLLER_KEY, mod_revision=0)
        own = Compare(keys.broker_key(self._claim.node_id), create_revision=registration.create_revision)
        put = Put(keys.CONTROLLER_KEY, keys.encode_controller(self._claim), registration.lease_id)
        result = await transact(self._store, Transaction([free, own], [put]))
        if result.succeeded:
            log.info("broker %d is the controller now", self._claim.node_id)
            await self._see(result.revision)

    def _guard(self) -> Compare:
        controller = self._image.controller
        assert controller is not None
        return Compare(keys.CONTROLLER_KEY, create_revision=controller.create_revision)

    async def _see(self, revision: int) -> None:
        with trio.move_on_after(SEEN_PATIENCE_S):
            await self._watch.wait_for(revision)

    # What a new controller finds.

    async def _collect_garbage(self) -> None:
        """Delete partition states that no topic counts: what its predecessors did not make or delete to the end.

        One that was written over meanwhile, by an enlargement that is tried again, stays; what shares its batch is left to the next controller.
        """
        garbage = {
            keys.partition_key(state.topic_id, state.index): state.partition_epoch
            for state in self._garbage
            if self._image.partition(state.topic_id, state.index) is None
        }
        self._garbage = []
        count = await delete_unchanged(self._store, self._guard(), garbage)
        if count:
            log.info(
                "removed the state of %d partitions of topics that were not made or deleted to the end", count
            )

    # Partitions.

    def _plan(self) -> list[Change]:
        partitions = self._all_partitions() if self._looks_at_all else self._noted_partitions()
        members = Members.of(self._image.brokers.values())
        changes = plan(self._image, partitions, members, self._rules.of)
        self._looks_at_all = False
        self._to_look_at = {(c.partition.topic_id, c.partition.index): None for c in changes}
        return changes

    def _all_partitions(self) -> Iterable[PartitionImage]:
        for topic in self._image.topics.values():
            yield from self._image.partitions(topic.topic_id)

    def _noted_partitions(self) -> Iterable[PartitionImage]:
        for key in self._to_look_at:
            partition = self._image.partition(*key)
            if partition is not None:
                yield partition

    async def _store_changes(self, changes: Sequence[Change]) -> None:
        """Store what was planned; what fails for a partition that has changed meanwhile is planned anew, in smaller batches."""
        if not changes:
            return
        revision, start = 0, 0
        stored: list[Change] = []
        while start < len(changes) and self.is_active:
            batch = changes[start : start + self._batch_size]
            result = await self._store_batch(batch)
            revision = max(revision, result.revision)
            stored += batch if result.succeeded else ()
            start += len(batch)
            self._batch_size = BATCH_SIZE if result.succeeded else max(1, len(batch) // 2)
        self._tell(stored, len(changes) - len(stored))
        await self._see(revision)

    def _tell(self, stored: Sequence[Change], failed_count: int) -> None:
        """Log what somebody may look for later: leaders that moved, partitions without one, records that may be lost."""
        moved = [change for change in stored if change.moves_leadership]
        for change in moved:
            if change.is_unclean:
                partition = change.partition
                topic = self._image.topic_by_id(partition.topic_id)
                log.warning(
                    "controller: %s-%d: unclean election of broker %d: records that only %s had may be lost",
                    topic.name if topic else keys.topic_id_text(partition.topic_id),
                    partition.index,
                    change.state.leader,
                    partition.isr,
                )
        if moved or failed_count:
            log.info(
                "controller: %d partitions changed: %d have another leader, %d have none; %d to be looked at again",
                len(stored),
                sum(change.state.leader != keys.NO_LEADER for change in moved),
                sum(change.state.leader == keys.NO_LEADER for change in moved),
                failed_count,
            )

    async def _store_batch(self, batch: Sequence[Change]) -> TransactionResult:
        return await transact(self._store, change_transaction(self._guard(), batch))

    async def _balance(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_balance_s:
            return
        members = Members.of(self._image.brokers.values())
        changes = plan_preferred(self._image, members, self._rules.of, count_max=PREFERRED_COUNT_MAX)
        is_cut = len(changes) == PREFERRED_COUNT_MAX
        self._next_balance_s = now + (PREFERRED_PAUSE_S if is_cut else self._balance_interval_s())
        await self._store_changes(changes)

    def _balance_interval_s(self) -> float:
        config = self._config
        return (
            config.leader_imbalance_check_interval_seconds
            if config.auto_leader_rebalance_enable
            else math.inf
        )


def change_transaction(guard: Compare, changes: Sequence[Change]) -> Transaction:
    """Store at most BATCH_SIZE changes, all or none: if `guard` holds and every partition still is as it was."""
    compares = [guard]
    puts: list[Put] = []
    for change in changes:
        key = keys.partition_key(change.partition.topic_id, change.partition.index)
        compares.append(Compare(key, mod_revision=change.partition.partition_epoch))
        puts.append(Put(key, keys.encode_partition(change.state)))
    return Transaction(compares, puts)
