"""One partition of `__consumer_offsets` that this broker leads, as groups.

Owns the groups of the partition, the requests that wait for them, and the rule that memory follows the log: a commit becomes visible when
its record is committed; a membership's machine is told when what it wanted stored is. And the rule that a group is of one kind: what is in the log of
the kind before is deleted with the first store of the next. Knows no request formats and decides nothing about members.

How to use it (all on the event loop, nothing here awaits but `write`):

    group = shard.groups.get(group_id) or shard.add(group_id)
    shard.wait(token, callback)              # the callback gets the action that answers the token, once
    shard.step(group, event)                 # steps the machine, does what it wants, and looks after its deadline
    shard.append(records, done)              # or: code = await shard.write(records)

Invariants: a shard is of one leader epoch; when leadership goes the shard is closed at once, whoever waits is answered NOT_COORDINATOR, and the
next leader's shard is a replay of the log; so is this broker's own in its next epoch. `groups` never holds a group that was deleted, even while its tombstones are under way.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from penstock.broker.errors import ApiError
from penstock.broker.groups.classic_events import GroupClosed, Token
from penstock.broker.groups.group import Group, Membership
from penstock.broker.groups.membership_driver import MembershipDriver
from penstock.broker.groups.offset_table import CommittedOffset
from penstock.broker.groups.record_writer import Done, RecordPair, RecordWriter
from penstock.broker.groups.shard_services import ShardServices
from penstock.broker.partition import GONE, Partition
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import encode_offset_key

log = logging.getLogger(__name__)

Waiter = Callable[[Any], None]


class GroupShard:
    """The groups of one partition. Made empty; `loading.load` fills it, and only then it is `is_active`."""

    def __init__(self, partition: Partition, services: ShardServices) -> None:
        self.partition = partition
        self.leader_epoch = partition.leader_epoch
        self.groups: dict[str, Group] = {}
        self.services = services
        self.is_loaded = False
        self.is_closed = False
        self.failure: str | None = None
        """Why loading ended, where the log can't be read."""
        self._deletions = 0
        self._writer = RecordWriter(partition, self.leader_epoch, services.clock)
        self._waiting: dict[Token, Waiter] = {}
        self._moved = trio.Event()
        partition.fetch_waiters.add(self._notice)

    @property
    def is_current(self) -> bool:
        """Whether this broker still leads the partition in the epoch that the shard is of."""
        return (
            not self.is_closed
            and self.partition.is_leader
            and self.partition.leader_epoch == self.leader_epoch
        )

    # Groups

    def add(self, group_id: str) -> Group:
        """A new group without members and offsets. Raises ApiError where there are as many as group.max.count."""
        assert group_id not in self.groups
        services = self.services
        if services.group_count >= services.group_max_count:
            log.warning(
                "group.max.count=%d groups are kept: %r is refused", services.group_max_count, group_id
            )
            raise ApiError(ErrorCode.GROUP_MAX_SIZE_REACHED, "The broker keeps as many groups as it may.")
        group = self.groups[group_id] = Group(group_id, self)
        services.group_count += 1
        return group

    def drop(self, group: Group) -> None:
        """Take a group out of memory; its records are not this method's business."""
        if self.groups.get(group.group_id) is group:
            del self.groups[group.group_id]
            self.services.group_count -= 1

    def delete(self, group: Group, done: Done) -> None:
        """Delete a group with all that is stored of it. It is gone at once; when its tombstones can't be written, it comes back.

        Whoever waits for it is answered. `done` is called when that is committed.
        """
        offset_keys = [encode_offset_key(group.group_id, *which) for which in group.offset_keys()]
        self._end_membership(group, ErrorCode.UNKNOWN_MEMBER_ID)
        keys = [*group.leftovers, *offset_keys]
        self.drop(group)
        if not keys:
            done(ErrorCode.NONE)
            return

        self._deletions += 1

        def finished(code: ErrorCode) -> None:
            self._deletions -= 1
            if not code:
                for topic, index, _ in group.offsets:
                    self.services.backlogs.note(group.group_id, topic, index, None)
            elif not self.is_closed:
                self._bring_back(group)
            done(code)

        self.append([(key, None) for key in keys], finished)

    def may_come_back(self, group_id: str) -> bool:
        """Whether a group that is not here may have been, and its deletion is not committed."""
        return self._deletions > 0 and group_id not in self.groups

    def _bring_back(self, group: Group) -> None:
        """Its offsets and leftovers, that is: a membership that may be deleted has no members, so nothing of it is missed."""
        now = self.groups.get(group.group_id)
        if now is None:
            self.groups[group.group_id] = group
            self.services.group_count += 1
            return
        for topic, index, committed in group.offsets:
            if not now.has_offset(topic, index):
                now.offsets.put(topic, index, committed)
        own = set(self._membership_keys(now))
        now.leftovers = (*now.leftovers, *(key for key in group.leftovers if key not in own))

    # Memberships

    def put_membership(self, group: Group, membership: Membership) -> None:
        """Give a group a membership. One that is there ends: what the log may hold of it becomes leftovers, and nothing is written.

        So a group stays in the log what it was until the first `store`. Whoever waits for the one before is told to come again.
        """
        self._end_membership(group, ErrorCode.COORDINATOR_NOT_AVAILABLE)
        group.membership = membership

    def store(self, group: Group, records: Sequence[RecordPair], done: Done) -> None:
        """Append records of the group's membership as `append` does, behind what deletes its leftovers."""
        leftovers, membership = group.leftovers, group.membership
        if not leftovers:
            self.append(records, done)
            return

        def finished(code: ErrorCode) -> None:
            if not code and group.membership is membership:
                deleted = set(leftovers)
                group.leftovers = tuple(key for key in group.leftovers if key not in deleted)
            done(code)

        self.append([*((key, None) for key in leftovers), *records], finished)

    def _end_membership(self, group: Group, code: ErrorCode) -> None:
        if group.membership is None:
            return
        group.leftovers = tuple(self._membership_keys(group))
        group.stored_kinds.difference_update(self._driver(group).kinds)
        self.step(group, GroupClosed(error_code=code))
        group.membership = None

    def _membership_keys(self, group: Group) -> Iterable[bytes]:
        """The keys of all that the log may hold of memberships, each once, those of the ones before first."""
        own = [] if group.membership is None else self._driver(group).tombstone_keys(group)
        return dict.fromkeys((*group.leftovers, *own))

    def _driver(self, group: Group) -> MembershipDriver:
        return next(driver for driver in self.services.drivers if driver.handles(group))

    # Offsets

    def put_offsets(
        self, group: Group, offsets: Iterable[tuple[str, int, CommittedOffset | None]], done: Done
    ) -> None:
        """Commit offsets (None deletes one). They are visible when `done` is called with NONE, and not at all otherwise."""
        entries = tuple(offsets)
        group_id = group.group_id
        records = [
            (encode_offset_key(group_id, topic, index), None if value is None else value.encode())
            for topic, index, value in entries
        ]
        pending, backlogs = group.pending_offsets, self.services.backlogs
        pending.update([(topic, index) for topic, index, _ in entries])

        def finished(code: ErrorCode) -> None:
            for topic, index, committed in entries:
                key = (topic, index)
                pending[key] -= 1
                if not pending[key]:
                    del pending[key]
                if not code:
                    group.offsets.put(topic, index, committed)
                    backlogs.note(group_id, topic, index, committed)
            done(code)

        self.append(records, finished)

    # Machines

    def step(self, group: Group, event: Any) -> None:
        """Step the group's membership and do what it wants. Whoever waits for a token may be answered before this returns."""
        membership = group.membership
        assert membership is not None
        actions = membership.step(event, self.services.now_ms())
        for what in getattr(membership, "news", ()):
            log.info("group %r: %s", group.group_id, what)
        if actions:
            self._driver(group).perform(group, actions)
        if not self.is_closed:
            self.services.deadlines.note(group)

    def try_step(self, group: Group, event: Any) -> None:
        """The same for what concerns all groups: a bug that one of them meets is told in the log, and no other has to do with it."""
        try:
            self.step(group, event)
        except Exception:
            log.exception("group %r: %s met a bug", group.group_id, type(event).__name__)

    def wake(self, group: Group | None = None) -> None:
        """The deadline of a group, or of any, has changed otherwise than by `step`."""
        for each in tuple(self.groups.values()) if group is None else (group,):
            self.services.deadlines.note(each)

    def wait(self, waiter: Waiter) -> Token:
        """A fresh token; `waiter` is called with the action that answers it."""
        self.services.last_token += 1
        token = self.services.last_token
        self._waiting[token] = waiter
        return token

    def resolve(self, token: Token, action: Any) -> None:
        """Answer a token. One that nobody waits for any more (its connection is gone) is fine."""
        waiter = self._waiting.pop(token, None)
        if waiter is not None:
            waiter(action)

    def abandon(self, token: Token) -> None:
        """Nobody waits for the answer any more."""
        self._waiting.pop(token, None)

    @property
    def waiting_count(self) -> int:
        """Requests that wait for an answer."""
        return len(self._waiting)

    # Records

    def append(self, records: Sequence[RecordPair], done: Done) -> None:
        """Append records; `done` is called, never before this returns, when they are committed or never will be.

        The code is one for clients of a coordinator. Order of calls = order in the log, and order of `done`.
        """
        self._writer.append(records, done)

    async def write(self, records: Sequence[RecordPair]) -> ErrorCode:
        """The same, waiting. Cancellation, or an error: the records may be in the log or not."""
        finished = trio.Event()
        outcome: list[ErrorCode] = []

        def done(code: ErrorCode) -> None:
            outcome.append(code)
            finished.set()

        self._writer.append(records, done)
        await finished.wait()
        return outcome[0]

    # Its end

    def _notice(self, visible_bytes: int) -> None:
        """The partition's high watermark has moved, or the partition is led here no more."""
        self._moved.set()
        if visible_bytes == GONE:
            self.close()

    async def wait_committed(self, end_offset: int) -> bool:
        """Return when the high watermark has reached `end_offset` (exclusive), or the shard is of a past epoch: then False.

        Cancellation: nothing changes.
        """
        while self.is_current and self.partition.high_watermark < end_offset:
            self._moved = trio.Event()
            await self._moved.wait()
        return self.is_current

    def close(self) -> None:
        """Leadership is gone, or the broker stops: whoever waits is told to look for the coordinator anew."""
        if self.is_closed:
            return
        self.is_closed = True
        self.partition.fetch_waiters.discard(self._notice)
        self._moved.set()
        for group in tuple(self.groups.values()):
            if group.membership is not None:
                self.try_step(group, GroupClosed(error_code=ErrorCode.NOT_COORDINATOR))
        self.services.group_count -= len(self.groups)
        self.groups.clear()


__all__ = ["GroupShard", "ShardServices"]
