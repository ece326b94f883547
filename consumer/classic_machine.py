"""A member of a classic group, as a pure state machine: `step(event, now_ms) -> actions`.

Owns every decision: when to join, what to say, what to give up and when, when it is out. Knows no connections, tasks or clocks:
`classic_membership` is the shell. Source: KIP-62, 134, 345 (static members), 394 (member id required), 429 (incremental cooperative), 792, 814.

Invariants:
- Eager: nothing is owned when JoinGroup is sent. Cooperative: what the assignment takes away is revoked (or lost) before the next JoinGroup.
- Whatever is owned was given in `assigned_generation`, and since then the coordinator has confirmed the member at least every session
  timeout, counted from when the confirmed request was *sent*; else it is lost.
- While JoinGroup waits for others and something is owned (cooperative), heartbeats of the old generation go on beside it: their answers are the
  proof that the member still counts.
- A revoke lasts no longer than the rebalance timeout after the last heartbeat that told of no rebalance: the coordinator's own clock for
  it can't have begun earlier.
"""

import enum
from collections.abc import Callable, Mapping, Sequence

from penstock.client.errors import BootstrapFailed, BrokerError, broker_error
from penstock.client.metadata import TopicPartition
from penstock.consumer.assignors.assignor import Assignor, GroupSubscription
from penstock.consumer.classic_events import (
    Action,
    Event,
    FetchTopics,
    HeartbeatAnswered,
    JoinAnswered,
    JoinedMember,
    LeaveAnswered,
    SendHeartbeat,
    SendJoin,
    SendLeave,
    SendSync,
    SubscriptionChanged,
    SubscriptionRefused,
    SyncAnswered,
    TopicsFetched,
    TopicsSeen,
)
from penstock.consumer.membership import NO_GENERATION, MembershipOptions
from penstock.consumer.membership_events import (
    COORDINATOR_MOVED,
    NOTHING,
    AbandonRequest,
    AwaitPolled,
    CallbackFinished,
    CallbackKind,
    CallListener,
    End,
    ForgetCoordinator,
    LeaveWanted,
    Polled,
    RequestFailed,
    TimePassed,
)
from penstock.consumer.ownership import Ownership
from penstock.errors import PenstockError
from penstock.protocol.consumer_protocol import (
    ConsumerAssignment,
    ConsumerSubscription,
    decode_assignment,
    decode_subscription,
    encode_assignment,
    encode_subscription,
)
from penstock.protocol.errors import DecodeError, ErrorCode

LEAVE_TIMEOUT_MS = 5_000
_LEAVE_ATTEMPTS_MAX = 2
_UNREACHED_FAILURES_MAX = 10
_AGAIN = frozenset(
    {*COORDINATOR_MOVED, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, ErrorCode.REBALANCE_IN_PROGRESS}
)


class Phase(enum.Enum):
    """Where it is between two assignments."""

    OUT = enum.auto()
    """To join as soon as nothing stands in the way (a backoff, a callback). May still be a member of the generation before."""
    JOINING = enum.auto()
    LEADING = enum.auto()
    """The leader waits for metadata to make the assignment from."""
    SYNCING = enum.auto()
    STABLE = enum.auto()
    LATE = enum.auto()
    """The user was away for longer than max_poll_interval: out until they are back."""
    ENDED = enum.auto()


_BETWEEN = frozenset({Phase.JOINING, Phase.LEADING, Phase.SYNCING})


class ClassicMachine:
    """One member. Begins when it is told of a subscription."""

    def __init__(
        self,
        options: MembershipOptions,
        assignors: Sequence[Assignor],
        jitter: Callable[[], float] = lambda: 0.5,
    ) -> None:
        """`jitter` gives numbers in [0, 1)."""
        self._options = options
        self._assignors = {assignor.name: assignor for assignor in assignors}
        self._is_cooperative = all(assignor.is_cooperative for assignor in assignors)
        self._jitter = jitter
        self.phase = Phase.OUT
        self.member_id = ""
        self.generation = NO_GENERATION
        self.assigned_generation = NO_GENERATION
        self.ownership = Ownership()
        self._last_assignment = NOTHING
        self._topics: frozenset[str] | None = None
        self._joined_topics: frozenset[str] = frozenset()
        self._protocol_name = ""
        self._group: GroupSubscription | None = None  # of the leader
        self._snapshot: Mapping[str, int] | None = (
            None  # the partition counts that the leader's assignment is made from
        )
        self._needs_rejoin = False
        self._reason = ""
        self._is_leaving = False
        self._leave_until_ms: float | None = None
        self._leave_attempts = 0
        self._was_reached = False
        self._failures = 0
        self._not_before_ms = 0.0
        self._last_request = 0
        self._awaited: int | None = None  # the request of join, metadata, sync or leave
        self._heartbeat: tuple[int, int, float] | None = None  # request, generation, sent
        self._heartbeat_due_ms = 0.0
        self._sync_sent_ms = 0.0
        self._contact_ms = 0.0  # the sending of the last request that proved the membership
        self._quiet_ms = 0.0  # the sending of the last one that told of no rebalance
        self._poll_check_ms = float("inf")
        self._now_ms = 0.0
        self._actions: list[Action] = []

    # What the shell looks at

    @property
    def is_settled(self) -> bool:
        """Has its assignment, and knows of no rebalance."""
        return self.phase is Phase.STABLE and self.ownership.is_calm and not self._needs_rejoin

    @property
    def is_between_generations(self) -> bool:
        """In a rebalance, with something to keep: commits have to wait."""
        return self.phase in _BETWEEN and self.generation != NO_GENERATION

    @property
    def watched_topics(self) -> frozenset[str]:
        """The topics whose partition counts matter: the leader's are all of the group's, nobody else has any."""
        return frozenset(self._group.topics) if self._group is not None else frozenset()

    @property
    def misses_topics(self) -> bool:
        """Whether it leads, and some of the group's topics did not exist when it last looked."""
        return self._snapshot is not None and not all(self._snapshot.values())

    @property
    def deadline_ms(self) -> float | None:
        """When to step with TimePassed, at the latest; may be in the past."""
        if self.phase is Phase.ENDED:
            return None
        due = [self._poll_check_ms]
        if self._leave_until_ms is not None:
            due.append(self._leave_until_ms)
        if self._waits_for_backoff:
            due.append(self._not_before_ms)
        if self._beats and self._heartbeat is None:
            due.append(self._heartbeat_due_ms)
        if self._can_expire:
            due.append(self._contact_ms + self._options.session_timeout_ms)
        if self.ownership.is_revoking:
            due.append(self._revoke_until_ms)
        earliest = min(due)
        return None if earliest == float("inf") else earliest

    @property
    def _waits_for_backoff(self) -> bool:
        if self._awaited is not None or not self.ownership.is_calm or self._is_leaving:
            return False
        return self.phase is Phase.LEADING or (self.phase is Phase.OUT and self._topics is not None)

    @property
    def _beats(self) -> bool:
        if self.generation == NO_GENERATION or self._leave_until_ms is not None:
            return False
        return self.phase is not Phase.JOINING or bool(self.ownership.owned)

    @property
    def _can_expire(self) -> bool:
        return self._beats

    @property
    def _revoke_until_ms(self) -> float:
        return self._quiet_ms + self._options.max_poll_interval_ms

    # Events

    def step(self, event: Event, now_ms: float) -> list[Action]:
        """Take in an event; returns what to do, in this order. Stale answers do nothing."""
        self._now_ms = now_ms
        self._actions = []
        if self.phase is not Phase.ENDED:
            self._take(event)
            self._pass_time()
            self._advance()
        return self._actions

    def _take(self, event: Event) -> None:
        match event:
            case JoinAnswered() if self._is_awaited(event.request):
                self._take_join(event)
            case TopicsFetched() if self._is_awaited(event.request):
                self._lead(event.partition_counts)
            case SyncAnswered() if self._is_awaited(event.request):
                self._take_sync(event)
            case LeaveAnswered() if self._is_awaited(event.request):
                self._end()
            case HeartbeatAnswered() | RequestFailed() if (
                self._heartbeat and self._heartbeat[0] == event.request
            ):
                self._take_heartbeat(event)
            case RequestFailed() if self._is_awaited(event.request):
                self._take_failure(event)
            case CallbackFinished():
                self.ownership.finished(event.callback)
            case TopicsSeen():
                self._compare_topics(event.partition_counts)
            case SubscriptionChanged():
                self._change_topics(event.topics)
            case SubscriptionRefused():
                self._lose()
                self._end(event.error)
            case Polled() if self.phase is Phase.LATE:
                self._poll_check_ms = self._now_ms + self._options.max_poll_interval_ms
                self._rejoin("the user is back")
            case LeaveWanted():
                self._want_to_leave()
            case TimePassed():
                self._check_poll(event.ms_since_poll)
            case _:
                pass

    def _is_awaited(self, request: int) -> bool:
        return self._awaited == request

    def _take_join(self, answer: JoinAnswered) -> None:
        self._awaited = None
        code = answer.error_code
        if code == ErrorCode.MEMBER_ID_REQUIRED:
            self.member_id = answer.member_id
            self._rejoin(self._reason)
        elif code:
            self._take_refusal(code, "JoinGroup")
        else:
            self._take_place(answer)

    def _take_place(self, answer: JoinAnswered) -> None:
        if answer.protocol_name not in self._assignors:
            text = f"the group chose the assignor {answer.protocol_name!r}"
            self._end(BrokerError(ErrorCode.INCONSISTENT_GROUP_PROTOCOL, text))
            return
        self._was_reached, self._failures = True, 0
        self.member_id, self.generation = answer.member_id, answer.generation
        self._protocol_name = answer.protocol_name
        self._heartbeat = None
        self._heartbeat_due_ms = self._now_ms + self._options.heartbeat_interval_ms
        if not self.ownership.owned:
            self._contact_ms = self._now_ms
        self._group = None
        self._snapshot = None
        if answer.leader == answer.member_id:
            self._group = _read_members(answer.members)
            if not answer.skip_assignment:
                self.phase = Phase.LEADING
                return
        self._sync({})

    def _lead(self, partition_counts: Mapping[str, int]) -> None:
        assert self._group is not None
        self._awaited = None
        self._snapshot = {topic: partition_counts.get(topic, 0) for topic in self._group.topics}
        assigned = self._assignors[self._protocol_name].assign(self._group, partition_counts)
        self._sync(
            {
                member_id: encode_assignment(ConsumerAssignment(tuple(partitions)))
                for member_id, partitions in assigned.items()
            }
        )

    def _take_sync(self, answer: SyncAnswered) -> None:
        self._awaited = None
        if answer.error_code == ErrorCode.REBALANCE_IN_PROGRESS:
            self._rejoin("a rebalance began before the assignment came")
            return
        if answer.error_code:
            self._take_refusal(answer.error_code, "SyncGroup")
            return
        try:
            told = decode_assignment(answer.assignment)
        except DecodeError as error:
            self._lose()
            self._end(error)
            return
        self._contact_ms = self._quiet_ms = max(self._contact_ms, self._sync_sent_ms)
        self._failures = 0
        self.phase = Phase.STABLE
        self.assigned_generation = self.generation
        partitions = frozenset(TopicPartition(*partition) for partition in told.partitions)
        self._take_assignment(frozenset(tp for tp in partitions if tp.topic in self._joined_topics))

    def _take_assignment(self, partitions: frozenset[TopicPartition]) -> None:
        self._last_assignment = partitions
        given_up = self.ownership.owned - partitions
        self._needs_rejoin = self._topics != self._joined_topics
        if given_up:
            self._needs_rejoin, self._reason = True, "partitions were given up for others"
        self.ownership.plan(CallbackKind.REVOKE, given_up)
        self.ownership.plan(CallbackKind.ASSIGN, partitions - self.ownership.owned)

    def _take_heartbeat(self, event: HeartbeatAnswered | RequestFailed) -> None:
        assert self._heartbeat is not None
        _, generation, sent_ms = self._heartbeat
        self._heartbeat = None
        if isinstance(event, RequestFailed):
            if event.is_retriable:
                self._actions.append(ForgetCoordinator())
                self._heartbeat_due_ms = self._now_ms + self._backoff_ms(1)
            else:
                self._lose()
                self._end(event.error)
            return
        self._heartbeat_due_ms = max(self._now_ms, sent_ms + self._options.heartbeat_interval_ms)
        code = event.error_code
        if code in (ErrorCode.NONE, ErrorCode.REBALANCE_IN_PROGRESS):
            self._contact_ms = max(self._contact_ms, sent_ms)
        if code == ErrorCode.NONE:
            self._quiet_ms = max(self._quiet_ms, sent_ms)
        elif code == ErrorCode.REBALANCE_IN_PROGRESS:
            if self.phase is Phase.STABLE:
                self._needs_rejoin, self._reason = True, "the group is rebalancing"
        elif code in COORDINATOR_MOVED or code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
            self._actions += [ForgetCoordinator()] if code in COORDINATOR_MOVED else []
            self._heartbeat_due_ms = self._now_ms + self._backoff_ms(1)
        elif code == ErrorCode.ILLEGAL_GENERATION and self.phase is Phase.JOINING:
            # The join is done; its answer is on its way. No proof of anything if it never comes.
            self._heartbeat_due_ms = self._now_ms + self._options.heartbeat_interval_ms
        elif generation == self.generation:
            self._take_refusal(code, "Heartbeat")

    def _take_refusal(self, code: int, subject: str) -> None:
        """What an error code of any request means for the membership."""
        if code in _AGAIN:
            self._actions += [ForgetCoordinator()] if code in COORDINATOR_MOVED else []
            self._back_off()
            self._rejoin(self._reason)
        elif code == ErrorCode.UNKNOWN_MEMBER_ID:
            self._lose()
            self.member_id = ""
            self._back_off()
            self._rejoin("the coordinator does not know the member any more")
        elif code == ErrorCode.ILLEGAL_GENERATION:
            self._lose()
            self._back_off()
            self._rejoin("the member missed a generation")
        else:
            self._lose()
            self._end(broker_error(code, subject=subject))

    def _take_failure(self, event: RequestFailed) -> None:
        self._awaited = None
        if self._is_leaving:
            if not event.is_retriable or self._leave_attempts >= _LEAVE_ATTEMPTS_MAX:
                self._end()
            self._actions.append(ForgetCoordinator())
            return
        is_hopeless = not self._was_reached and self._failures + 1 >= _UNREACHED_FAILURES_MAX
        if not event.is_retriable or (is_hopeless and isinstance(event.error, BootstrapFailed)):
            self._lose()
            self._end(event.error)
            return
        self._back_off()
        if self.phase is not Phase.LEADING:
            self._actions.append(ForgetCoordinator())
            self._rejoin(self._reason)

    def _compare_topics(self, partition_counts: Mapping[str, int]) -> None:
        if self._group is None or self.phase is not Phase.STABLE:
            return
        now = {topic: partition_counts.get(topic, 0) for topic in self._group.topics}
        if self._snapshot is None:
            self._snapshot = now
        elif now != self._snapshot:
            self._needs_rejoin, self._reason = True, "the partitions of the subscribed topics changed"

    def _change_topics(self, topics: frozenset[str] | None) -> None:
        if topics == self._topics:
            return
        was_in = self._topics is not None
        self._topics = topics
        if topics is None:
            self._drop_awaited()
            self.ownership.forget_plans()
            self._needs_rejoin = False
            if self.phase is not Phase.LATE:
                self.phase = Phase.OUT
            return
        self._poll_check_ms = min(self._poll_check_ms, self._now_ms + self._options.max_poll_interval_ms)
        if self.phase is Phase.STABLE:
            self._needs_rejoin = True
        self._reason = "the subscription changed" if was_in else ""

    def _want_to_leave(self) -> None:
        self._is_leaving = True
        self._drop_awaited()
        self.ownership.forget_plans()

    # Time

    def _pass_time(self) -> None:
        if self._can_expire and self._now_ms >= self._contact_ms + self._options.session_timeout_ms:
            self._expire("no answer for a whole session timeout")
        if self.ownership.is_revoking and self._now_ms >= self._revoke_until_ms:
            self._expire("giving partitions up took longer than the rebalance timeout")
        if self._leave_until_ms is not None and self._now_ms >= self._leave_until_ms:
            self._drop_awaited()
            self._end()
        if self._beats and self._heartbeat is None and self._now_ms >= self._heartbeat_due_ms:
            request = self._next_request()
            self._heartbeat = (request, self.generation, self._now_ms)
            self._actions.append(SendHeartbeat(request, self.generation, self.member_id))

    def _expire(self, reason: str) -> None:
        self._lose()
        if self.phase is not Phase.JOINING:
            self._rejoin(reason)

    def _check_poll(self, ms_since_poll: float | None) -> None:
        limit_ms = self._options.max_poll_interval_ms
        if self.phase is Phase.LATE or self._topics is None:
            self._poll_check_ms = float("inf")
            return
        self._poll_check_ms = self._now_ms + limit_ms - (ms_since_poll or 0)
        if ms_since_poll is None or ms_since_poll < limit_ms:
            self._poll_check_ms = max(self._poll_check_ms, self._now_ms + 1)
            return
        self._poll_check_ms = float("inf")
        if self._is_leaving:
            self._lose()
            return
        self._drop_awaited()
        member_id = self.member_id
        self._lose()
        self.member_id = ""
        self.phase = Phase.LATE
        if member_id and self._options.group_instance_id is None:
            self._actions.append(SendLeave(self._next_request(), member_id, "max.poll.interval.ms passed"))
        self._actions.append(AwaitPolled())

    # What comes next

    def _advance(self) -> None:
        if self.phase is Phase.ENDED or self._begin_call() or self.ownership.running is not None:
            return
        if self._is_leaving or self._topics is None:
            self._advance_leaving()
        elif self.phase is Phase.STABLE and self._needs_rejoin:
            self._rejoin(self._reason)
            self._begin_join()
        elif self.phase is Phase.OUT and self._now_ms >= self._not_before_ms:
            self._begin_join()
        elif self.phase is Phase.LEADING and self._awaited is None and self._now_ms >= self._not_before_ms:
            assert self._group is not None
            self._awaited = self._next_request()
            self._actions.append(FetchTopics(self._awaited, frozenset(self._group.topics)))

    def _begin_call(self) -> bool:
        call = self.ownership.next_call()
        if call is not None:
            self._actions.append(call)
        return call is not None

    def _begin_join(self) -> None:
        assert self._topics is not None
        topics = self._topics
        if self._is_cooperative:
            to_revoke = frozenset(tp for tp in self.ownership.owned if tp.topic not in topics)
        else:
            to_revoke = self.ownership.owned
        self.ownership.plan(CallbackKind.REVOKE, to_revoke)
        if self._begin_call():
            return
        self.phase = Phase.JOINING
        self._joined_topics = topics
        self._awaited = self._next_request()
        protocols = [(name, self._metadata(assignor)) for name, assignor in self._assignors.items()]
        self._actions.append(
            SendJoin(
                request=self._awaited, member_id=self.member_id, protocols=protocols, reason=self._reason
            )
        )

    def _metadata(self, assignor: Assignor) -> bytes:
        subscription = ConsumerSubscription(
            topics=tuple(self._joined_topics),
            user_data=assignor.user_data(self._last_assignment, self.assigned_generation),
            owned=tuple(self.ownership.owned),
            generation=self.assigned_generation,
            rack=self._options.rack,
        )
        return encode_subscription(subscription)

    def _sync(self, assignments: Mapping[str, bytes]) -> None:
        self.phase = Phase.SYNCING
        self._awaited = self._next_request()
        self._sync_sent_ms = self._now_ms
        self._actions.append(
            SendSync(
                request=self._awaited,
                generation=self.generation,
                member_id=self.member_id,
                protocol_name=self._protocol_name,
                assignments=assignments,
            )
        )

    def _rejoin(self, reason: str) -> None:
        self._drop_awaited()
        self.phase, self._needs_rejoin, self._reason = Phase.OUT, False, reason

    def _advance_leaving(self) -> None:
        """Revoke, tell, and then end or wait for another subscription."""
        self.ownership.plan(CallbackKind.REVOKE, self.ownership.owned)
        if self._begin_call() or self._awaited is not None:
            return
        tells = bool(self.member_id) and self._options.group_instance_id is None
        if not self._is_leaving:
            if tells:
                self._actions.append(SendLeave(self._next_request(), self.member_id, "unsubscribed"))
            self.member_id, self.generation, self._heartbeat = "", NO_GENERATION, None
        elif not tells:
            self._end()
        else:
            self._leave_attempts += 1
            self._leave_until_ms = self._leave_until_ms or self._now_ms + LEAVE_TIMEOUT_MS
            self._awaited = self._next_request()
            self._actions.append(SendLeave(self._awaited, self.member_id, "the consumer is closed"))

    # Small steps

    def _lose(self) -> None:
        self.generation = NO_GENERATION
        self._heartbeat = None
        call: CallListener | None = self.ownership.lose_all()
        if call is not None:
            self._actions.append(call)

    def _end(self, error: PenstockError | None = None) -> None:
        self._drop_awaited()
        self.phase = Phase.ENDED
        self.generation = NO_GENERATION
        self._actions.append(End(error))

    def _drop_awaited(self) -> None:
        if self._awaited is not None:
            self._actions.append(AbandonRequest(self._awaited))
            self._awaited = None

    def _back_off(self) -> None:
        self._failures += 1
        self._not_before_ms = self._now_ms + self._backoff_ms(self._failures)

    def _backoff_ms(self, failure_count: int) -> float:
        base_ms = self._options.retry_backoff_ms << min(failure_count - 1, 10)
        return min(base_ms, self._options.retry_backoff_max_ms) * (0.8 + 0.4 * self._jitter())

    def _next_request(self) -> int:
        self._last_request += 1
        return self._last_request


def _read_members(members: Sequence[JoinedMember]) -> GroupSubscription:
    """A member whose metadata can't be read is subscribed to nothing."""
    subscriptions: dict[str, ConsumerSubscription] = {}
    for member in members:
        try:
            subscriptions[member.member_id] = decode_subscription(member.metadata)
        except DecodeError:
            subscriptions[member.member_id] = ConsumerSubscription(())
    return GroupSubscription(
        subscriptions, {member.member_id: member.group_instance_id for member in members}
    )


__all__ = ["ClassicMachine", "Phase"]
