"""Between a consumer and its group: what is assigned and revoked, and commits.

Owns the `GroupListener` of the contract in `membership`, the user's callbacks, and auto-commit. Does not speak to the coordinator itself.

Invariants: a partition is given up only when the user has come back from what was handed out of it (but for a `lose`, and for the end of
the consumer's block, when nobody will come back); auto-commit commits only what was come back from, and only what has changed. When the block is
left, no commit takes so long that a callback is not called for what is owned.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from math import inf

import trio

from penstock.client.cluster import Cluster
from penstock.client.coordinator import Coordinators, is_worth_looking_again
from penstock.client.errors import CommitFailed, RebalanceInProgress
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.lifetime import Spawner
from penstock.client.metadata import TopicPartition
from penstock.client.topic_cache import TopicCache
from penstock.consumer.assignment_state import AssignmentState, PartitionState
from penstock.consumer.group_offsets import GroupOffsets
from penstock.consumer.handout import Handout
from penstock.consumer.membership import (
    GroupIdentity,
    GroupProtocol,
    Membership,
    MembershipOptions,
    make_membership,
)
from penstock.consumer.signal import Signal
from penstock.consumer.subscription import Subscription
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.environment import Environment

Callback = Callable[[frozenset[TopicPartition]], Awaitable[object]]
CLOSE_LIMIT_S = 10.0
"""How long leaving the block may take for the last commit, for the callbacks and for telling the group."""
CANCELLED_CLOSE_LIMIT_S = 3.0
"""The same where the block, or what is around it, was cancelled: whoever cancels waits for it."""
_ERRAND_SHARE = 0.4
"""Of the time for leaving: the most that goes to what comes before a callback (the last commit, an `on_assigned` that is under way)."""


class GroupLink:
    """The group of one consumer; with `group` None all of it does nothing."""

    def __init__(
        self,
        group: str | None,
        protocol: GroupProtocol,
        options: MembershipOptions,
        state: AssignmentState,
        handout: Handout,
        environment: Environment,
        *,
        auto_commit: bool,
        auto_commit_interval_ms: int,
        callbacks: tuple[Callback | None, Callback | None, Callback | None],
        require_stable: bool,
    ) -> None:
        if state.options.max_in_flight is not None and group is None:
            raise ValueError("max_in_flight counts until a group has a commit: without a group there is none")
        self._group = group
        self._protocol = protocol
        self._options = options
        self._state = state
        self._handout = handout
        self._environment = environment
        self._auto_commit = auto_commit and group is not None
        if auto_commit_interval_ms < 1:
            raise ValueError(f"auto_commit_interval_ms={auto_commit_interval_ms}: it is at least 1")
        self._auto_commit_interval_s = auto_commit_interval_ms / 1000
        self._on_assigned, self._on_revoked, self._on_lost = callbacks
        self._require_stable = require_stable
        self._nursery: Spawner | None = None
        self._offsets: GroupOffsets | None = None
        self._membership: Membership | None = None
        self._is_closing = False
        self._is_alone = False
        """The user's own task waits for the group to be left: nobody will come back."""
        self._patience = trio.CancelScope()
        """Around the wait of a `revoke` for the user; cancelled when nobody will come back any more."""
        self._errand_limit_s = inf
        self._errand = trio.CancelScope()
        """Around what must not keep `on_revoked` from being called when the block is left."""
        self._committed: dict[TopicPartition, int] = {}
        self._lost_uncommitted: set[TopicPartition] = set()
        self._commit_wanted = Signal()
        handout.on_commit_wanted = self._commit_wanted.set
        self._commit_lock = trio.Lock()
        self._commit_count = 0
        self._commit_numbers: dict[TopicPartition, int] = {}
        """Of the last commit of each partition that succeeded, so that none is done after one that came later."""
        self.on_assignment: Callable[[], None] = _nothing
        """Called when partitions may be fetched that could not be before."""

    @property
    def exists(self) -> bool:
        """Whether there is a group at all."""
        return self._group is not None

    @property
    def name(self) -> str | None:
        """Its id."""
        return self._group

    @property
    def commits_by_itself(self) -> bool:
        """Whether there is an automatic commit."""
        return self._auto_commit

    @property
    def is_subscribed(self) -> bool:
        """Whether the group decides what is assigned."""
        return self._membership is not None

    def open(self, nursery: Spawner, cluster: Cluster, topics: TopicCache) -> None:
        """The consumer's block is entered."""
        self._nursery = nursery
        self._cluster = cluster
        if self._group is None:
            return
        self._coordinators = Coordinators(cluster, self._environment)
        self._offsets = GroupOffsets(
            self._coordinators, topics, self._environment, require_stable=self._require_stable
        )
        if self._auto_commit:
            nursery.start_soon(self._commit_now_and_then)

    def subscribe(self, subscription: Subscription) -> None:
        """Join the group for this, or change what was joined for."""
        assert self._nursery is not None
        assert self._group is not None
        if self._membership is not None:
            self._membership.change_subscription(subscription)
            return
        self._handout.set_assignment(frozenset())
        self._membership = make_membership(
            protocol=self._protocol,
            group_id=self._group,
            subscription=subscription,
            listener=self,
            cluster=self._cluster,
            coordinators=self._coordinators,
            environment=self._environment,
            options=self._options,
        )
        self._nursery.start_soon(self._membership.run)

    async def unsubscribe(self) -> None:
        """Leave the group."""
        membership = self._membership
        if membership is not None:
            self._is_alone = self._handout.is_held_here
            if self._is_alone:
                self._patience.cancel()
            try:
                await membership.leave()
            finally:
                self._is_alone = False
            self._membership = None

    async def close(self, limit_s: float) -> None:
        """The block is left: commit what was come back from, call back for what is owned, leave. The caller cancels it after `limit_s`."""
        self._is_closing = True
        self._patience.cancel()
        self._errand_limit_s = limit_s * _ERRAND_SHARE
        self._errand.deadline = trio.current_time() + self._errand_limit_s
        try:
            if self._membership is not None:
                await self._membership.leave()
            elif self._auto_commit:
                await self._commit_what_was_come_back_from(self._state.partitions)
        except PenstockError as error:
            # Nobody is left to be told but who leaves the block; that what was done may be done again is a group's normal risk.
            self._handout.report(error)

    # Commits

    async def starting_offsets(
        self, partitions: Sequence[TopicPartition]
    ) -> Mapping[TopicPartition, OffsetAndMetadata | None]:
        """Where the group stands in these; None where it has no committed offset."""
        if self._offsets is None:
            return dict.fromkeys(partitions)
        return await self._offsets.fetch(self._identity, partitions)

    async def committed(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """See `Consumer.committed`."""
        return await self._require_offsets().fetch(self._identity, partitions)

    async def commit(self, given: Mapping[TopicPartition, int | OffsetAndMetadata] | None) -> None:
        """See `Consumer.commit`."""
        offsets = self._require_offsets()
        self._handout.raise_fatal()
        if given is None:
            self._raise_lost()
        wanted = self._handed_out() if given is None else _normal(given)
        self._commit_count += 1
        number, owned = self._commit_count, self._owned(wanted)
        while wanted:
            try:
                await self._commit_in_order(offsets, wanted, number, owned)
                break
            except RebalanceInProgress:
                membership = self._membership
                if membership is None:
                    raise
                await membership.wait_settled()
                if membership.failure is not None:
                    raise membership.failure from None
                kept = {
                    tp: offset
                    for tp, offset in wanted.items()
                    if tp in self._state.partitions and self._is_owned_still(tp, owned)
                }
                if given is not None and len(kept) < len(wanted):
                    raise CommitFailed("a partition was given to another member meanwhile") from None
                wanted = kept

    def _owned(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, PartitionState]:
        """Which of these the group has given to this member, and by which assignment."""
        if self._membership is None:
            return {}
        return {tp: state for tp in partitions if (state := self._state.partitions.get(tp)) is not None}

    def _is_owned_still(self, tp: TopicPartition, owned: Mapping[TopicPartition, PartitionState]) -> bool:
        return tp not in owned or self._state.partitions.get(tp) is owned[tp]

    async def _commit_in_order(
        self,
        offsets: GroupOffsets,
        wanted: Mapping[TopicPartition, OffsetAndMetadata],
        number: int,
        owned: Mapping[TopicPartition, PartitionState],
    ) -> None:
        """One commit at a time, its retries included, and none over a later one: what is committed would go back.

        So it would where a partition of those `owned` was lost and has come again meanwhile: another member may have gone on in it.
        """

        def identity() -> GroupIdentity:
            if not all(self._is_owned_still(tp, owned) for tp in wanted):
                raise RebalanceInProgress(
                    ErrorCode.REBALANCE_IN_PROGRESS, "a partition went to another member"
                )
            return self._identity()

        async with self._commit_lock:
            left = {tp: offset for tp, offset in wanted.items() if self._commit_numbers.get(tp, 0) < number}
            if left:
                await offsets.commit(identity, left)
            for tp, offset in left.items():
                self._commit_numbers[tp] = number
                self._committed[tp] = offset.offset
                self._handout.committed(tp, offset.offset)

    def _raise_lost(self) -> None:
        lost, self._lost_uncommitted = self._lost_uncommitted, set()
        if lost:
            names = ", ".join(map(str, sorted(lost)))
            raise CommitFailed(f"lost to the group before what was handed out of them was committed: {names}")

    def _handed_out(self) -> dict[TopicPartition, OffsetAndMetadata]:
        return {
            tp: OffsetAndMetadata(place.offset, leader_epoch=place.leader_epoch)
            for tp, state in self._state.partitions.items()
            if (place := self._handout.handed_out(state)).offset >= 0
        }

    async def _commit_what_was_come_back_from(self, partitions: Iterable[TopicPartition]) -> None:
        changed: dict[TopicPartition, OffsetAndMetadata] = {}
        for tp in partitions:
            state = self._state.partitions.get(tp)
            if state is None:
                continue
            place = self._handout.come_back_from(state)
            committed = self._committed.get(tp, -1)
            if place.offset <= committed <= self._handout.handed_out(state).offset:
                continue  # of what is in hand the user has committed some: that is not taken back
            if place.offset >= 0 and committed != place.offset:
                changed[tp] = OffsetAndMetadata(place.offset, leader_epoch=place.leader_epoch)
        if changed and self._offsets is not None:
            self._commit_count += 1
            await self._commit_in_order(self._offsets, changed, self._commit_count, self._owned(changed))

    async def _commit_now_and_then(self) -> None:
        while not self._is_closing:
            with trio.move_on_after(self._auto_commit_interval_s):
                await self._commit_wanted.wait()
            try:
                await self._commit_what_was_come_back_from(list(self._state.partitions))
            except (RebalanceInProgress, CommitFailed):
                continue  # what is still ours then is committed next time; what is not, is somebody else's
            except PenstockError as error:
                if not is_worth_looking_again(error):
                    self._handout.report(error)

    def _identity(self) -> GroupIdentity:
        if self._membership is not None:
            return self._membership.identity
        assert self._group is not None
        return GroupIdentity(self._group)

    def _require_offsets(self) -> GroupOffsets:
        if self._offsets is None:
            raise RuntimeError("there is no group to commit for, or the consumer is not open")
        return self._offsets

    # GroupListener

    async def revoke(self, partitions: frozenset[TopicPartition]) -> None:
        """See `GroupListener`."""
        self._handout.stop(partitions)
        while not self._is_closing and not self._is_alone and self._handout.held_partition in partitions:
            with trio.CancelScope() as self._patience:
                await self._handout.wait_come_back()
        if self._auto_commit:
            with self._bounded_errand():
                await self._commit_before_revoke(partitions)
        await self._call(self._on_revoked, partitions)
        self._forget(partitions)

    async def _commit_before_revoke(self, partitions: frozenset[TopicPartition]) -> None:
        try:
            await self._commit_what_was_come_back_from(partitions)
        except (RebalanceInProgress, CommitFailed):
            pass  # they were taken already: the others go on from the last commit
        except PenstockError as error:
            self._handout.report(error)

    def _bounded_errand(self) -> trio.CancelScope:
        """Ends by itself in time for the callback that is to follow, once the block is left."""
        self._errand = trio.CancelScope(deadline=trio.current_time() + self._errand_limit_s)
        return self._errand

    async def lose(self, partitions: frozenset[TopicPartition]) -> None:
        """See `GroupListener`."""
        for tp in partitions & self._handout.touched:
            if self._committed.get(tp) != self._handout.handed_out(self._state.partitions[tp]).offset:
                self._lost_uncommitted.add(tp)
        self._forget(partitions)
        await self._call(self._on_lost, partitions)

    async def assign(self, partitions: frozenset[TopicPartition]) -> None:
        """See `GroupListener`. During the callback the partitions are there, to be sought, but nothing of them is handed out."""
        self._handout.add(partitions)
        for tp in partitions:
            self._state.partitions[tp].is_revoking = True
        self.on_assignment()  # the callback may ask for positions
        with self._bounded_errand():
            await self._call(self._on_assigned, partitions)
        for tp in partitions & self._state.partitions.keys():
            self._state.partitions[tp].is_revoking = False
        self.on_assignment()

    def fail(self, error: PenstockError) -> None:
        """See `GroupListener`."""
        self._forget(frozenset(self._state.partitions))
        self._handout.report(error, is_fatal=True)

    @property
    def ms_since_poll(self) -> float | None:
        """See `GroupListener`."""
        return None if self._is_closing else self._handout.ms_since_poll

    async def wait_polled(self) -> None:
        """See `GroupListener`."""
        await self._handout.wait_come_back()

    def _forget(self, partitions: frozenset[TopicPartition]) -> None:
        self._handout.remove(partitions)
        for tp in partitions:
            self._committed.pop(tp, None)

    async def _call(self, callback: Callback | None, partitions: frozenset[TopicPartition]) -> None:
        if callback is None or not partitions:
            return
        try:
            await callback(partitions)
        except Exception as error:  # noqa: BLE001 - whatever it is, the user's own loop is to raise it
            self._handout.report(error)


def _normal(
    given: Mapping[TopicPartition, int | OffsetAndMetadata],
) -> dict[TopicPartition, OffsetAndMetadata]:
    return {
        TopicPartition(*tp): OffsetAndMetadata(offset) if isinstance(offset, int) else offset
        for tp, offset in given.items()
    }


def _nothing() -> None:
    """Nobody minds."""


__all__ = ["CANCELLED_CLOSE_LIMIT_S", "CLOSE_LIMIT_S", "Callback", "GroupLink"]
