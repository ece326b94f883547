"""One group of the consumer protocol (KIP-848) as its coordinator sees it: a state machine without I/O, clock or chance.

Owns who is a member, the epochs, who is to get what and how far each member is on the way there. `step(event, now_ms)` takes what
happened and returns what to do. Source: KIP-848, KIP-1082, and what Apache Kafka 4 answers (`GroupMetadataManager`).

The stored tables (`StoredGroup`) are all that counts: they change by records only, and a group restored from its records goes on where
this one was, with fresh sessions. Invariants:

- At most one store is under way. What comes meanwhile queues, and is then handled at one go with one store: so a reply never shows
  what is not committed, a failed store is undone by taking its records back, and a thousand members that join cost few appends.
- A store that failed may be in the log all the same (a timeout says nothing). So the next one begins with the records that take it back.
- Each prefix of a store's records is a state to go on from: nobody gets a partition in a record before the one that frees it, and a
  group epoch comes before what is different in it.
- A member's partitions become free by three ways only: it says that it does not own them, it is removed, or its static successor takes over.
"""

from collections import Counter, deque
from collections.abc import Iterable

from penstock.broker.groups.classic_events import (
    GroupClosed,
    OffsetCommitted,
    StoreFinished,
    TimePassed,
    Token,
    TokenAbandoned,
)
from penstock.broker.groups.consumer_admission import (
    Refused,
    admit,
    admit_regex,
    introduced,
    static_owner,
    unknown_member,
)
from penstock.broker.groups.consumer_assignors import ASSIGNORS, AssignedMember
from penstock.broker.groups.consumer_group_events import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    STATIC_LEAVE_EPOCH,
    Action,
    ConsumerGroupLimits,
    ConsumerGroupState,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
    CurrentAssignment,
    CurrentRecord,
    DescribeReply,
    DescribeRequested,
    Event,
    GroupEpochRecord,
    MemberMetadata,
    MemberRecord,
    MemberState,
    Record,
    RegexRecord,
    Reply,
    StoreRecords,
    SubscribedTopic,
    TargetEpochRecord,
    TargetRecord,
    Topics,
    TopicsChanged,
    error_reply,
)
from penstock.broker.groups.consumer_group_state import StoredGroup, metadata_hash, record_key, tombstone_of
from penstock.broker.groups.consumer_memory import held_bytes
from penstock.broker.groups.consumer_reconciliation import reconcile
from penstock.broker.groups.member_timers import MemberTimers
from penstock.broker.groups.topic_patterns import InvalidRegularExpression
from penstock.protocol.errors import ErrorCode

_Request = ConsumerHeartbeat | DescribeRequested

NO_STATE = -1
"""The previous epoch of a member that has none."""


class ConsumerGroup:
    """One group. All times are monotonic ms."""

    def __init__(self, group_id: str, limits: ConsumerGroupLimits, topics: Topics) -> None:
        self.group_id = group_id
        self.limits = limits
        self.stored = StoredGroup()
        self.is_dead = False
        self.empty_since_ms: int | None = None
        """Since when the group has had no member (monotonic ms; a restart counts from then on); None while it has one, or never had any."""
        self.news: list[str] = []
        """What the last step did that an operator wants to know of, in words."""
        self._told_epoch = 0
        self._topics = topics
        self._topics_are_stale = True
        self._sessions = MemberTimers()
        self._revocations = MemberTimers()
        self._unconfirmed: set[str] = set()
        """Members that were told a change and have not said since that they own just that: the answer may have been lost."""
        self._waiting: deque[_Request] = deque()
        self._store_token: int | None = None
        self._stores_begun = 0
        self._records: list[Record] = []
        self._undo: list[Record] = []
        self._repair: list[Record] = []
        self._held: list[Reply] = []

    # What the shell asks.

    @property
    def state(self) -> ConsumerGroupState:
        """Where the group is, with what may not be committed yet."""
        if self.is_dead:
            return ConsumerGroupState.DEAD
        state = self.stored.state()
        if state is ConsumerGroupState.EMPTY and self._waiting:
            return ConsumerGroupState.ASSIGNING  # somebody is on the way in
        return state

    @property
    def exists(self) -> bool:
        """Whether anything is stored of the group."""
        return not self.stored.is_blank or bool(self._repair)

    @property
    def deadline_ms(self) -> int | None:
        """When the group wants to be stepped at the latest; None while nothing can expire, or a store is under way."""
        if self._store_token is not None or self.is_dead:
            return None
        session_ms, revocation_ms = self._sessions.earliest_ms(), self._revocations.earliest_ms()
        if session_ms is None or revocation_ms is None:
            return revocation_ms if session_ms is None else session_ms
        return min(session_ms, revocation_ms)

    @property
    def is_unused(self) -> bool:
        """Whether nothing is stored, under way or waiting."""
        return not (self.exists or self._waiting or self._store_token)

    @property
    def held_bytes(self) -> int:
        """What it takes in memory, about."""
        return held_bytes(self.stored)

    def is_subscribed_to(self, topic: str) -> bool:
        """Whether some member is subscribed to the topic, by name or by regular expression."""
        return self.stored.is_subscribed_to(topic)

    def check_commit(
        self,
        member_id: str,
        generation: int,
        group_instance_id: str | None,
        *,
        is_transactional: bool = False,
    ) -> ErrorCode:
        """Whether such a member may commit offsets now; `generation` is its member epoch."""
        nobody = not member_id and group_instance_id is None and generation < 0
        if generation < 0 and not self.stored.members:
            return ErrorCode.NONE
        if is_transactional and nobody:
            return ErrorCode.NONE
        return self._check_epoch(member_id, generation)

    def check_fetch(self, member_id: str | None, member_epoch: int) -> ErrorCode:
        """Whether such a member may read committed offsets (OffsetFetch 9 and later). Who names no member always may."""
        if member_id is None and member_epoch < 0:
            return ErrorCode.NONE
        return self._check_epoch(member_id or "", member_epoch)

    def _check_epoch(self, member_id: str, member_epoch: int) -> ErrorCode:
        if member_id not in self.stored.members:
            return ErrorCode.UNKNOWN_MEMBER_ID
        if member_epoch != self.stored.current(member_id).member_epoch:
            return ErrorCode.STALE_MEMBER_EPOCH
        return ErrorCode.NONE

    def tombstones(self) -> list[Record]:
        """What deletes all that may be stored of the group, a store that is under way or failed included."""
        gone = {record_key(record): record for record in self.stored.tombstones()}
        for record in (*self._undo, *self._repair):
            key = record_key(record)
            gone.setdefault(key, tombstone_of(record))
        return list(gone.values())

    # A restart.

    def replay(self, record: Record) -> None:
        """Take a record from the log; `resume` comes after the last one."""
        self.stored.apply(record)

    def resume(self, now_ms: int) -> None:
        """Begin anew from what was replayed: every member has a fresh session.

        What is there of somebody who is no member (the rest of a store that landed in part) is taken back, so that it holds no partition.
        """
        ghosts = (self.stored.currents.keys() | self.stored.targets.keys()) - self.stored.members.keys()
        for member_id in sorted(ghosts):
            self._repair += [CurrentRecord(member_id, None), TargetRecord(member_id, None)]
        for record in self._repair:
            self.stored.apply(record)
        self._set_missing_timers(now_ms)
        self._note_emptiness(now_ms)

    def _note_emptiness(self, now_ms: int) -> None:
        if self.stored.members or not self.exists:
            self.empty_since_ms = None
        elif self.empty_since_ms is None:
            self.empty_since_ms = now_ms

    def _set_missing_timers(self, now_ms: int) -> None:
        """Timers for the members that there are: after a restart, and when a store that removed or changed some was undone."""
        for timers in (self._sessions, self._revocations):
            for member_id in timers.names() - self.stored.members.keys():
                timers.clear(member_id)
        for member_id, metadata in self.stored.members.items():
            if member_id not in self._sessions:
                self._sessions.set(member_id, now_ms + self.limits.session_timeout_ms)
            revokes = self.stored.current(member_id).state is MemberState.UNREVOKED_PARTITIONS
            if revokes and member_id not in self._revocations:
                self._revocations.set(member_id, now_ms + metadata.rebalance_timeout_ms)
                self._unconfirmed.add(member_id)
            elif not revokes:
                self._revocations.clear(member_id)

    # Steps.

    def step(self, event: Event, now_ms: int) -> tuple[Action, ...]:
        """Take one event; returns what to do, in order."""
        self.news.clear()
        match event:
            case ConsumerHeartbeat() | DescribeRequested():
                self._waiting.append(event)
            case TopicsChanged():
                self._topics_are_stale = True
            case StoreFinished(store_token=store_token, error_code=code):
                if store_token != self._store_token:
                    return ()
                return (*self._finish_store(code, now_ms), *self._work(now_ms, repairs=False))
            case GroupClosed(error_code=code):
                return self._close(code)
            case OffsetCommitted():
                return ()  # only heartbeats keep a member alive
            case TokenAbandoned(token=token):
                self._forget_unheard(token)
                return ()  # a connection that is gone says nothing about its member
            case TimePassed():
                pass
        return self._work(now_ms)

    def _work(self, now_ms: int, *, repairs: bool = True) -> tuple[Action, ...]:
        """Handle what waits, then what has expired: who has written in time is not expired for having waited.

        Right after a failure there are no `repairs` for their own sake: a log that can't be written would be tried for ever.
        """
        if self.is_dead:
            return self._refuse_waiting(ErrorCode.NOT_COORDINATOR)
        if self._store_token is not None:
            return ()
        while self._waiting and not self._records:
            self._answer_waiting(now_ms)
        self._expire(now_ms)
        if not self._records and not (self._repair and repairs):
            replies, self._held = self._held, []
            return tuple(replies)
        self._stores_begun += 1
        self._store_token = self._stores_begun
        records, self._records = [*self._repair, *self._records], []
        return (StoreRecords(store_token=self._store_token, records=tuple(records)),)

    def _finish_store(self, code: ErrorCode, now_ms: int) -> tuple[Action, ...]:
        self._store_token = None
        undo, self._undo = self._undo, []
        replies, self._held = self._held, []
        if code is ErrorCode.NONE:
            self._repair = []
            self._note_emptiness(now_ms)
            self._tell_epoch()
            return tuple(replies)
        undo.reverse()
        for record in undo:
            self.stored.apply(record)
        self._repair = [*undo, *self._repair]
        self._topics_are_stale = True
        self._set_missing_timers(now_ms)
        return tuple(error_reply(reply.token, reply, code, None) for reply in replies)

    def _tell_epoch(self) -> None:
        """One line for each group epoch."""
        if self.stored.epoch > self._told_epoch:
            self._told_epoch = self.stored.epoch
            count = len(self.stored.members)
            members = f"{count} member{'s' if count > 1 else ''}" if count else "no members"
            self.news.append(f"epoch {self.stored.epoch}: {members}")

    def _close(self, code: ErrorCode) -> tuple[Action, ...]:
        held, self._held = self._held, []
        self.is_dead = True
        self._store_token = None
        return (
            *(error_reply(reply.token, reply, code, None) for reply in held),
            *self._refuse_waiting(code),
        )

    def _forget_unheard(self, token: Token) -> None:
        """What was not looked at yet is as good as lost on its way, or a store that hangs would gather such; but who leaves has left."""
        for request in self._waiting:
            if request.token == token:
                if isinstance(request, DescribeRequested) or request.member_epoch >= JOIN_EPOCH:
                    self._waiting.remove(request)
                return

    def _refuse_waiting(self, code: ErrorCode) -> tuple[Action, ...]:
        waiting, self._waiting = list(self._waiting), deque[_Request]()
        return tuple(error_reply(request.token, request, code, None) for request in waiting)

    def _put(self, record: Record) -> None:
        self._undo.append(self.stored.apply(record))
        self._records.append(record)

    def _answer_waiting(self, now_ms: int) -> None:
        """Take in what members say, then make one target for all, then give to each: a flood of joins costs one assignment.

        Whoever has written twice waits with the second for the next round, since the first changes what the second means.
        """
        heard: list[tuple[ConsumerHeartbeat, CurrentAssignment]] = []
        descriptions: list[Token] = []
        writers: set[str | None] = set()
        while self._waiting:
            request = self._waiting[0]
            if isinstance(request, DescribeRequested):
                descriptions.append(self._waiting.popleft().token)
                continue
            names = self._names_of(request)
            if not names.isdisjoint(writers):
                break
            writers |= names
            self._waiting.popleft()
            try:
                if request.member_epoch in (LEAVE_EPOCH, STATIC_LEAVE_EPOCH):
                    self._held.append(self._leave(request, now_ms))
                else:
                    heard.append((request, self._hear(request, now_ms)))
            except Refused as refused:
                self._held.append(error_reply(request.token, request, refused.code, refused.message))
        if heard and self._topics_are_stale:
            self._look_at_topics()
        if heard and self.stored.epoch > self.stored.assignment_epoch:
            self._assign()
        self._held += [self._give(beat, before, now_ms) for beat, before in heard]
        self._held += [self._describe(token) for token in descriptions]

    def _names_of(self, beat: ConsumerHeartbeat) -> set[str | None]:
        """Who is concerned: the member, its instance id, and who has that now."""
        if beat.instance_id is None:
            return {f"member {beat.member_id}"}
        owner = self.stored.static_member(beat.instance_id)
        return {f"member {beat.member_id}", f"member {owner}", f"instance {beat.instance_id}"}

    def _hear(self, beat: ConsumerHeartbeat, now_ms: int) -> CurrentAssignment:
        """Take in what a member says of itself; returns what it had. Raises Refused, and then nothing is changed."""
        predecessor = admit(self.stored, self.limits, beat)
        before = self.stored.current(predecessor or beat.member_id)
        metadata = introduced(self.stored, beat, predecessor)
        changed = self._subscription_changed(predecessor, metadata)
        if beat.server_assignor is not None and beat.server_assignor not in self.limits.assignors:
            raise Refused(
                ErrorCode.UNSUPPORTED_ASSIGNOR,
                f"the assignor {beat.server_assignor} is not one of {', '.join(self.limits.assignors)}",
            )
        if changed:
            self._check_regex(metadata.topic_regex)
            self._bump()
            self._topics_are_stale = True
        if predecessor is not None and predecessor != beat.member_id:
            self._replace(predecessor, beat.member_id, metadata)
        elif metadata != self.stored.members.get(beat.member_id):
            self._put(MemberRecord(beat.member_id, metadata))
        self._sessions.set(beat.member_id, now_ms + self.limits.session_timeout_ms)
        return before

    def _give(
        self, beat: ConsumerHeartbeat, before: CurrentAssignment, now_ms: int
    ) -> ConsumerHeartbeatReply:
        """Bring the member a step towards its target, and tell it what changed, until it says that it owns just that.

        Kafka tells once, and a member that missed it must tell all that it has. librdkafka (2.16) does not when an answer took longer
        than a heartbeat interval: it would hold on to what it must give up until its rebalance timeout.
        """
        after = self._reconcile(beat, now_ms)
        changed, knows = after.assigned != before.assigned, beat.owned == after.assigned
        if knows:
            self._unconfirmed.discard(beat.member_id)
        elif changed and beat.member_epoch != JOIN_EPOCH:  # who missed that joins again
            self._unconfirmed.add(beat.member_id)
        tells = beat.is_full or changed or beat.member_id in self._unconfirmed
        return ConsumerHeartbeatReply(
            token=beat.token,
            member_id=beat.member_id,
            member_epoch=after.member_epoch,
            assignment=after.assigned if tells else None,
        )

    def _subscription_changed(self, predecessor: str | None, metadata: MemberMetadata) -> bool:
        if predecessor is None:
            return True
        known = self.stored.members[predecessor]
        return (known.topic_names, known.topic_regex) != (metadata.topic_names, metadata.topic_regex)

    def _check_regex(self, regex: str) -> None:
        if not regex or regex in self.stored.regexes:
            return
        admit_regex(self.stored, regex)
        try:
            self._topics.match(regex)
        except InvalidRegularExpression as error:
            raise Refused(ErrorCode.INVALID_REGULAR_EXPRESSION, str(error)) from None

    def _replace(self, old_id: str, new_id: str, metadata: MemberMetadata) -> None:
        """A static member is back under another member id: it gets what its predecessor had, without a rebalance."""
        current, target = self.stored.current(old_id), self.stored.target(old_id)
        self._forget(old_id)
        self._put(MemberRecord(new_id, metadata))
        self._put(TargetRecord(new_id, target))
        rejoined = CurrentAssignment(
            member_epoch=JOIN_EPOCH,
            previous_member_epoch=NO_STATE,
            state=MemberState.UNRELEASED_PARTITIONS,
            assigned=current.assigned,
        )
        self._put(CurrentRecord(new_id, rejoined))

    def _reconcile(self, beat: ConsumerHeartbeat, now_ms: int) -> CurrentAssignment:
        member_id = beat.member_id
        before = self.stored.current(member_id)

        def is_free(topic_id: bytes, index: int) -> bool:
            return self.stored.holder(topic_id, index) in (None, member_id)

        after = reconcile(
            before,
            target_epoch=self.stored.assignment_epoch,
            target=self.stored.target(member_id),
            owned=beat.owned,
            is_free=is_free,
        )
        if after is not before:
            self._put(CurrentRecord(member_id, after))
            if after.state is MemberState.UNREVOKED_PARTITIONS:
                timeout_ms = self.stored.members[member_id].rebalance_timeout_ms
                self._revocations.set(member_id, now_ms + timeout_ms)
            else:
                self._revocations.clear(member_id)
        return after

    # Epochs and targets.

    def _bump(self) -> None:
        """Say that the target is out of date, unless that is said already."""
        if self.stored.epoch <= self.stored.assignment_epoch:
            self._put(GroupEpochRecord(self.stored.epoch + 1, self.stored.metadata_hash))

    def _look_at_topics(self) -> None:
        """Match regular expressions again, and bump the epoch where that or the topics' state changes anything."""
        wanted = {metadata.topic_regex for metadata in self.stored.members.values()} - {""}
        changed = False
        self._forget_regexes()
        for regex in sorted(wanted):
            known = self.stored.regexes.get(regex)
            try:
                names = self._topics.match(regex)
            except (
                InvalidRegularExpression
            ):  # it was valid when it came: RE2 is another one, or gone; what it meant stays
                continue
            if known is None or known.topic_names != names:
                changed = True
                self._put(RegexRecord(regex, names, self._topics.revision))
        topics_hash = metadata_hash(self._subscribed_topics())
        if changed or topics_hash != self.stored.metadata_hash:
            bumped = self.stored.epoch > self.stored.assignment_epoch
            self._put(GroupEpochRecord(self.stored.epoch + (not bumped), topics_hash))
        self._topics_are_stale = False

    def _forget_regexes(self) -> None:
        wanted = {metadata.topic_regex for metadata in self.stored.members.values()}
        for regex in sorted(self.stored.regexes.keys() - wanted):
            self._put(RegexRecord(regex, None))

    def _subscribed_topics(self) -> list[SubscribedTopic]:
        names = {
            name
            for subscription in self.stored.subscriptions()
            for name in self.stored.names_of(subscription)
        }
        return [topic for name in names if (topic := self._topics.topic(name)) is not None]

    @property
    def assignor(self) -> str:
        """The one that most members ask for; the first of the configured ones where nobody asks."""
        asked = Counter(
            metadata.server_assignor
            for metadata in self.stored.members.values()
            if metadata.server_assignor in self.limits.assignors
        )
        if not asked:
            return self.limits.assignors[0]
        return min(asked, key=lambda name: (-asked[name], self.limits.assignors.index(name or "")))

    def _assign(self) -> None:
        topics = {topic.name: topic for topic in self._subscribed_topics()}
        topic_ids = {
            subscription: frozenset(
                topics[name].topic_id for name in self.stored.names_of(subscription) if name in topics
            )
            for subscription in self.stored.subscriptions()
        }
        members = {
            member_id: AssignedMember(
                topic_ids=topic_ids[metadata.topic_names, metadata.topic_regex],
                instance_id=metadata.instance_id,
                target=self.stored.target(member_id),
            )
            for member_id, metadata in self.stored.members.items()
        }
        counts = {topic.topic_id: topic.partition_count for topic in topics.values()}
        targets = ASSIGNORS[self.assignor](members, counts)
        for member_id, target in targets.items():
            if target != self.stored.targets.get(member_id):
                self._put(TargetRecord(member_id, target))
        self._put(TargetEpochRecord(self.stored.epoch))

    # Leaving and expiring.

    def _leave(self, beat: ConsumerHeartbeat, now_ms: int) -> ConsumerHeartbeatReply:
        if beat.instance_id is not None:
            static_owner(self.stored, beat, beat.instance_id)
        elif beat.member_id not in self.stored.members:
            raise unknown_member(beat.member_id)
        if beat.member_epoch == STATIC_LEAVE_EPOCH and beat.instance_id is not None:
            current = self.stored.current(beat.member_id)
            left = CurrentAssignment(
                member_epoch=STATIC_LEAVE_EPOCH,
                previous_member_epoch=current.previous_member_epoch,
                state=MemberState.UNRELEASED_PARTITIONS,
                assigned=current.assigned,
            )
            self._put(CurrentRecord(beat.member_id, left))
            self._revocations.clear(beat.member_id)
            self._sessions.set(beat.member_id, now_ms + self.limits.session_timeout_ms)
        else:
            self._remove([beat.member_id])
        return ConsumerHeartbeatReply(
            token=beat.token, member_id=beat.member_id, member_epoch=beat.member_epoch
        )

    def _expire(self, now_ms: int) -> None:
        due = {
            **dict.fromkeys(self._revocations.pop_due(now_ms), "it has not given up its partitions in time"),
            **dict.fromkeys(
                self._sessions.pop_due(now_ms),
                f"nothing was heard of it for {self.limits.session_timeout_ms} ms",
            ),
        }
        gone = [member_id for member_id in due if member_id in self.stored.members]
        for member_id in gone:
            metadata = self.stored.members[member_id]
            client = f"client {metadata.client_id!r:.100}, {metadata.client_host}"
            self.news.append(f"member {member_id!r:.100} ({client}) is out: {due[member_id]}")
        self._remove(gone)

    def _remove(self, member_ids: Iterable[str]) -> None:
        member_ids = list(member_ids)
        if not member_ids:
            return
        self._bump()
        for member_id in member_ids:
            self._forget(member_id)
        self._forget_regexes()
        self._topics_are_stale = True  # fewer topics may be subscribed to now: the hash is of what is

    def _forget(self, member_id: str) -> None:
        """Records that a member is gone; what it held is free with the first of them."""
        self._put(CurrentRecord(member_id, None))
        self._put(TargetRecord(member_id, None))
        self._put(MemberRecord(member_id, None))
        self._sessions.clear(member_id)
        self._revocations.clear(member_id)
        self._unconfirmed.discard(member_id)

    # A look at it.

    def _describe(self, token: Token) -> DescribeReply:
        return DescribeReply(
            token=token,
            state=self.stored.state(),
            group_epoch=self.stored.epoch,
            target_epoch=self.stored.assignment_epoch,
            assignor=self.assignor,
            members=self.stored.described(),
        )
