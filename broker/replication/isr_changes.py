"""Carries out what leaders want of the metadata store: another ISR, or to be rid of a partition whose log has failed.

Owns the order and the outcome of these transactions. Decides nothing: `partition_machine` does. Invariants (PROPERTIES D8, M1, M2):

- Every transaction compares the partition key's mod revision, this broker's registration and, for who joins, that broker's registration
  (create revisions). So one that was sent by a leader which has been deposed, or replaced by its own next start, changes nothing, however
  late it arrives; and once refused it is refused for ever, as none of these revisions ever comes back.
- A change ends in one of two ways: the image shows a later state of the partition (stored, or overtaken), which the machine learns from
  the watch; or nothing was and nothing will be stored, and the machine is told `IsrChangeFailed`. After a lost reply the same transaction
  is sent again until the one or the other is certain; until then the machine counts the maximal ISR.
- Nothing new is sent past the lease's deadline.

Changes of many partitions go into one transaction, one after the other: at most one is under way. Source: KIP-497, KIP-903.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from penstock.broker import keys
from penstock.broker.image import ClusterImage, PartitionImage
from penstock.broker.isr import may_join, with_isr
from penstock.broker.keys import PartitionState
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.partition_events import ChangeIsr, IsrChangeFailed
from penstock.broker.rejoining import without
from penstock.broker.transactions import BATCH_SIZE
from penstock.runtime.clock import Clock
from penstock.runtime.metadata import (
    OPERATIONS_PER_TRANSACTION_MAX,
    Compare,
    MetadataError,
    MetadataStore,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
)

if TYPE_CHECKING:
    from penstock.broker.partition import Partition

log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.2
EXPLANATION_S = 2.0
"""How long to wait for the watch to show why a transaction was refused."""
JOINING_MAX = OPERATIONS_PER_TRANSACTION_MAX - BATCH_SIZE - 1
"""Different brokers that join in one transaction: each takes a compare, as does this broker's own registration."""


class OwnRegistration(Protocol):
    """This broker's membership (`broker.registration.Registration`)."""

    @property
    def create_revision(self) -> int:
        """Of the registration key; 0 while there is none."""
        ...

    @property
    def deadline(self) -> float:
        """Monotonic seconds after which nothing is decided."""
        ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """One partition's change on its way."""

    partition: "Partition"
    change: ChangeIsr

    def fail(self) -> None:
        self.partition.step(IsrChangeFailed(self.change.partition_epoch))


class IsrChanges:
    """All such changes of one broker; at rest it has no task."""

    def __init__(
        self,
        node_id: int,
        store: MetadataStore,
        image: ClusterImage,
        watch: MetadataWatch,
        registration: OwnRegistration,
        clock: Clock,
        spawn: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        self._node_id = node_id
        self._store = store
        self._image = image
        self._watch = watch
        self._registration = registration
        self._clock = clock
        self._spawn = spawn
        self._waiting: deque[_Asked] = deque()
        self._leaving: dict[tuple[bytes, int], None] = {}
        """A set, in the order of the failures."""
        self._is_running = False

    def ask(self, partition: "Partition", change: ChangeIsr) -> None:
        """Have an ISR stored; `IsrChangeFailed` is stepped if that is certain not to happen, never before this returns."""
        self._waiting.append(_Asked(partition, change))
        self._start()

    def leave(self, topic_id: bytes, index: int) -> None:
        """The log is lost here: be no leader, and in no ISR with others, as soon as the store can be reached."""
        self._leaving[topic_id, index] = None
        self._start()

    def _start(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run)

    async def _run(self) -> None:
        try:
            while self._waiting or self._leaving:
                if self._waiting:
                    await self._carry_out(self._next_batch())
                if self._leaving:
                    await self._leave_some()
        finally:
            self._is_running = False

    # ISR changes

    def _next_batch(self) -> list[_Asked]:
        batch: list[_Asked] = []
        joining: set[tuple[int, int]] = set()
        while self._waiting and len(batch) < BATCH_SIZE:
            if len(joining.union(self._waiting[0].change.joining)) > JOINING_MAX:
                break
            asked = self._waiting.popleft()
            joining.update(asked.change.joining)
            batch.append(asked)
        return batch

    async def _carry_out(self, batch: list[_Asked]) -> None:
        """See each change of the batch through to its end."""
        may_be_stored = False
        while True:
            undecided = [asked for asked in batch if self._stands(asked)]
            if len(undecided) < len(batch):
                may_be_stored = False  # it was stored whole, or refused for ever by the one that has moved
            if not may_be_stored:
                undecided = self._sort_out(undecided)
            batch = undecided
            if not batch:
                return
            if self._is_fenced:  # what was sent may still arrive
                await trio.sleep(RETRY_DELAY_S)
                continue
            compares, puts = self._transaction(batch)
            try:
                result = await self._store.transact(compares, puts)
            except OutcomeUnknown:
                may_be_stored = True
                await trio.sleep(RETRY_DELAY_S)
            except MetadataUnavailable as error:
                await trio.sleep(RETRY_DELAY_S)
                if not may_be_stored:
                    log.warning("the ISR of %d partitions can't be changed: %s", len(batch), error)
                    return _fail(batch)
            else:
                if result.succeeded:
                    return None  # the watch tells
                if may_be_stored:
                    may_be_stored = not await self._is_untouched(batch[0])
                    await trio.sleep(RETRY_DELAY_S)
                elif not await self._is_explained(batch):
                    return _fail(batch)

    def _stands(self, asked: _Asked) -> bool:
        """Whether the image still shows the state that the change was asked on."""
        state = self._state(asked)
        return state is not None and state.partition_epoch == asked.change.partition_epoch

    def _state(self, asked: _Asked) -> PartitionImage | None:
        return self._image.partition(asked.partition.topic_id, asked.partition.index)

    @property
    def _is_fenced(self) -> bool:
        registration = self._registration
        return not registration.create_revision or self._clock.monotonic() >= registration.deadline

    def _sort_out(self, batch: Sequence[_Asked]) -> list[_Asked]:
        """Those that may be sent; the others have failed. None of them may have been sent with an outcome that is unknown."""
        is_fenced = self._is_fenced
        kept: list[_Asked] = []
        for asked in batch:
            if is_fenced or not all(may_join(self._image, *joining) for joining in asked.change.joining):
                asked.fail()
            else:
                kept.append(asked)
        return kept

    def _transaction(self, batch: Sequence[_Asked]) -> tuple[list[Compare], list[Put]]:
        compares = [self._registered]
        puts: list[Put] = []
        joining: dict[int, int] = {}
        for asked in batch:
            change, partition = asked.change, asked.partition
            state = self._state(asked)
            assert state is not None
            key = keys.partition_key(partition.topic_id, partition.index)
            compares.append(Compare(key, mod_revision=change.partition_epoch))
            wanted = with_isr(
                state.state, change.isr, min_insync_replicas=partition.settings.min_insync_replicas
            )
            puts.append(Put(key, keys.encode_partition(wanted)))
            joining.update(change.joining)
            log.info(
                "%s-%d: ISR %s becomes %s",
                partition.topic,
                partition.index,
                list(state.isr),
                list(wanted.isr),
            )
        compares += [Compare(keys.broker_key(i), create_revision=epoch) for i, epoch in joining.items()]
        return compares, puts

    @property
    def _registered(self) -> Compare:
        return Compare(keys.broker_key(self._node_id), create_revision=self._registration.create_revision)

    async def _is_untouched(self, asked: _Asked) -> bool:
        """After a refusal: whether the refused transaction was not stored by an earlier attempt either. False if that can't be seen."""
        try:
            entry = await self._store.get(keys.partition_key(asked.partition.topic_id, asked.partition.index))
        except MetadataUnavailable:
            return False
        return entry is not None and entry.mod_revision == asked.change.partition_epoch

    async def _is_explained(self, batch: Sequence[_Asked]) -> bool:
        """Wait for the watch to show why the batch was refused; False if it does not in time, or nothing of ours can be stored."""
        with trio.move_on_after(EXPLANATION_S):
            while True:
                me = self._image.brokers.get(self._node_id)
                if me is None or me.create_revision != self._registration.create_revision:
                    return False
                joining = {joining for asked in batch for joining in asked.change.joining}
                if not all(may_join(self._image, *one) for one in joining) or not all(
                    self._stands(asked) for asked in batch
                ):
                    return True
                await self._watch.wait_for(self._image.revision + 1)
        return False

    # Giving up

    async def _leave_some(self) -> None:
        """Take this broker out of some of the partitions whose logs it has lost.

        Those that it is in no more are done with, and so are those that nobody else could take.
        """
        batch: list[tuple[PartitionImage, PartitionState]] = []
        for topic_id, index in tuple(self._leaving):
            state = self._image.partition(topic_id, index)
            left = without(state.state, self._node_id) if state is not None else None
            if state is None or left is None or left == state.state or self._node_id in left.isr:
                del self._leaving[topic_id, index]
            elif len(batch) < BATCH_SIZE:
                batch.append((state, left))
        if not batch:
            return
        entries = [(keys.partition_key(state.topic_id, state.index), state, left) for state, left in batch]
        compares = [Compare(key, mod_revision=state.partition_epoch) for key, state, _ in entries]
        puts = [Put(key, keys.encode_partition(left)) for key, _, left in entries]
        if not self._is_fenced:
            try:
                result = await self._store.transact([self._registered, *compares], puts)
                if result.succeeded:
                    return await self._watch.wait_for(result.revision)
            except MetadataError as error:
                log.warning("can't give up %d partitions, trying again: %s", len(batch), error)
        await trio.sleep(RETRY_DELAY_S)


def _fail(batch: Sequence[_Asked]) -> None:
    for asked in batch:
        asked.fail()


__all__ = ["IsrChanges", "OwnRegistration"]
