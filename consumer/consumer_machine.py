"""A member of a KIP-848 group, as a pure state machine: `step(event, now_ms) -> actions`.

Owns every decision: what each heartbeat tells, how the assignment that comes back is taken in, when the member is out. Knows no connections, tasks or
clocks: `consumer_membership` is the shell. Source: KIP-848, Kafka's ConsumerMembershipManager and CurrentAssignmentBuilder.

Invariants:
- At most one heartbeat is in flight, but for the one that says good-bye. It tells what changed since the last one that was answered;
  after one without an answer everything is told.
- What the coordinator takes away is acknowledged (by an owned set without it) only after its revoke has returned, or after it was lost; then
  the coordinator may give it to another member.
- A revoke lasts no longer than the rebalance timeout, counted from the sending of the heartbeat whose answer asked for it.
- Whatever is owned was confirmed at least every session timeout, counted from the sending of the heartbeat; else it is lost.
"""

import enum
from collections.abc import Callable, Mapping

from penstock.client.errors import BootstrapFailed, broker_error
from penstock.client.metadata import TopicPartition
from penstock.consumer.consumer_events import (
    Action,
    Event,
    FetchTopicNames,
    HeartbeatAnswered,
    PartitionsById,
    SendHeartbeat,
    SubscriptionChanged,
    TopicNamesFetched,
)
from penstock.consumer.membership import NO_GENERATION, MembershipOptions
from penstock.consumer.membership_events import (
    COORDINATOR_MOVED,
    AbandonRequest,
    AwaitPolled,
    CallbackFinished,
    CallbackKind,
    End,
    ForgetCoordinator,
    LeaveWanted,
    Polled,
    RequestFailed,
    TimePassed,
)
from penstock.consumer.ownership import Ownership
from penstock.consumer.subscription import Subscription
from penstock.errors import PenstockError
from penstock.protocol.consumer_protocol import by_topic
from penstock.protocol.errors import ErrorCode

JOINING_EPOCH = 0
LEAVING_EPOCH = -1
LEAVING_STATIC_EPOCH = -2
LEAVE_TIMEOUT_MS = 5_000
_LEAVE_ATTEMPTS_MAX = 2
_UNREACHED_FAILURES_MAX = 10
_NAMES_INTERVAL_MS = 1_000
_FENCED = frozenset({ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID})
_AGAIN = frozenset({*COORDINATOR_MOVED, ErrorCode.COORDINATOR_LOAD_IN_PROGRESS})
_FOREVER = float("inf")


class Phase(enum.Enum):
    """Where it stands."""

    OUT = enum.auto()
    """No member; its next heartbeat joins, if there is a subscription."""
    IN = enum.auto()
    LATE = enum.auto()
    """The user was away for longer than max_poll_interval: out until they are back."""
    LEAVING = enum.auto()
    """Everything is given up; the good-bye is on its way."""
    ENDED = enum.auto()


class ConsumerMachine:
    """One member. Begins when it is told of a subscription."""

    def __init__(self, options: MembershipOptions, jitter: Callable[[], float] = lambda: 0.5) -> None:
        """`jitter` gives numbers in [0, 1)."""
        self._options = options
        self._jitter = jitter
        self.phase = Phase.OUT
        self.epoch = NO_GENERATION
        self.ownership = Ownership()
        self._subscription: Subscription | None = None
        self._knows_all = False  # the coordinator: nothing was sent in vain since the last full heartbeat
        self._told_subscription: Subscription | None = None
        self._in_flight: tuple[SendHeartbeat, float] | None = None  # and when it was sent
        self._is_urgent = False
        self._heartbeat_due_ms = 0.0
        self._interval_ms = options.heartbeat_interval_ms
        self._contact_ms = 0.0
        self._target: PartitionsById = {}
        self._target_since_ms = 0.0  # the sending of the heartbeat that brought it
        self._names: Mapping[bytes, str] = {}
        self._names_request: int | None = None
        self._names_due_ms = 0.0
        self._ids: dict[str, bytes] = {}  # of what is owned
        self._acked: Mapping[bytes, tuple[int, ...]] | None = None  # the owned set that the coordinator knows
        self._must_ack = False  # it has to hear of the owned set even if that did not change
        self._is_closing = False
        self._leave_until_ms = _FOREVER
        self._leave_attempts = 0
        self._was_reached = False
        self._failures = 0
        self._poll_check_ms = _FOREVER
        self._last_request = 0
        self._now_ms = 0.0
        self._actions: list[Action] = []

    # What the shell looks at

    @property
    def is_settled(self) -> bool:
        """Has all that the coordinator gives it now, and the coordinator knows."""
        is_calm = self.phase is Phase.IN and self.ownership.is_calm
        return is_calm and not self._owes_ack and not self._lacks_names

    @property
    def is_between_generations(self) -> bool:
        """Never: this protocol has no time in which commits are refused."""
        return False

    @property
    def deadline_ms(self) -> float | None:
        """When to step with TimePassed, at the latest; may be in the past."""
        if self.phase is Phase.ENDED:
            return None
        due = [self._poll_check_ms, self._leave_until_ms]
        if self._in_flight is None and self._beats:
            due.append(self._heartbeat_due_ms)
        if self.phase is Phase.IN:
            due.append(self._contact_ms + self._options.session_timeout_ms)
        if self._lacks_names and self._names_request is None:
            due.append(self._names_due_ms)
        if self.ownership.is_revoking:
            due.append(self._revoke_until_ms)
        earliest = min(due)
        return None if earliest == _FOREVER else earliest

    @property
    def _beats(self) -> bool:
        if self.phase is Phase.OUT:
            return self._subscription is not None and not self._is_closing and self.ownership.is_calm
        return self.phase is Phase.IN

    @property
    def _lacks_names(self) -> bool:
        is_wanted = self.phase is Phase.IN and self._subscription is not None and not self._is_closing
        return is_wanted and any(topic_id not in self._names for topic_id in self._target)

    @property
    def _revoke_until_ms(self) -> float:
        return self._target_since_ms + self._options.max_poll_interval_ms

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
            case HeartbeatAnswered() | RequestFailed() if self._is_in_flight(event.request):
                self._take_heartbeat(event)
            case TopicNamesFetched() if event.request == self._names_request:
                self._names_request = None
                self._names = {**self._names, **event.names}
                self._names_due_ms = self._now_ms + _NAMES_INTERVAL_MS
            case RequestFailed() if event.request == self._names_request:
                self._names_request = None
                self._names_due_ms = self._now_ms + _NAMES_INTERVAL_MS
            case CallbackFinished():
                self.ownership.finished(event.callback)
            case SubscriptionChanged():
                self._change_subscription(event.subscription)
            case Polled() if self.phase is Phase.LATE:
                self.phase = Phase.OUT
                self._heartbeat_due_ms = self._now_ms
                self._poll_check_ms = self._now_ms + self._options.max_poll_interval_ms
            case LeaveWanted():
                self._is_closing = True
                self.ownership.forget_plans()
            case TimePassed():
                self._check_poll(event.ms_since_poll)
            case _:
                pass

    def _is_in_flight(self, request: int) -> bool:
        return self._in_flight is not None and self._in_flight[0].request == request

    def _take_heartbeat(self, event: HeartbeatAnswered | RequestFailed) -> None:
        assert self._in_flight is not None
        (sent, sent_ms), self._in_flight = self._in_flight, None
        if self.phase is Phase.LEAVING:
            self._take_good_bye(event)
        elif isinstance(event, RequestFailed):
            is_hopeless = not self._was_reached and self._failures + 1 >= _UNREACHED_FAILURES_MAX
            if not event.is_retriable or (is_hopeless and isinstance(event.error, BootstrapFailed)):
                self._lose()
                self._end(event.error)
            else:
                self._actions.append(ForgetCoordinator())
                self._back_off()
        elif event.error_code:
            self._take_refusal(event)
        else:
            self._take_answer(event, sent, sent_ms)

    def _take_answer(self, answer: HeartbeatAnswered, sent: SendHeartbeat, sent_ms: float) -> None:
        self._was_reached, self._failures = True, 0
        self.phase, self.epoch = Phase.IN, answer.member_epoch
        self._contact_ms = max(self._contact_ms, sent_ms)
        self._interval_ms = answer.heartbeat_interval_ms or self._interval_ms
        self._heartbeat_due_ms = max(self._now_ms, sent_ms + self._interval_ms)
        self._knows_all = self._knows_all or sent.is_full
        if sent.owned is not None:
            self._acked = {topic_id: tuple(indexes) for topic_id, indexes in sent.owned.items()}
            self._must_ack = False
        if answer.assignment is not None:
            # Also one that is no news here: another that came between may have been lost on its way.
            is_new = answer.assignment != self._target
            self._must_ack = self._must_ack or is_new or sent.is_full
            self._target = answer.assignment
            self._target_since_ms = sent_ms if is_new else self._target_since_ms

    def _take_refusal(self, answer: HeartbeatAnswered) -> None:
        code = answer.error_code
        if code in _AGAIN:
            self._actions += [ForgetCoordinator()] if code in COORDINATOR_MOVED else []
            self._back_off()
        elif code in _FENCED:
            self._lose()
            self._back_off()
        else:
            self._lose()
            self._end(broker_error(code, answer.error_message, subject="ConsumerGroupHeartbeat"))

    def _take_good_bye(self, event: HeartbeatAnswered | RequestFailed) -> None:
        if (
            isinstance(event, RequestFailed)
            and event.is_retriable
            and self._leave_attempts < _LEAVE_ATTEMPTS_MAX
        ):
            self._actions.append(ForgetCoordinator())
            self._say_good_bye()
        else:
            self._finish_leaving()

    def _change_subscription(self, subscription: Subscription | None) -> None:
        if subscription == self._subscription:
            return
        self._subscription = subscription
        self._is_urgent = True
        if subscription is None:
            self.ownership.forget_plans()
        else:
            limit_ms = self._now_ms + self._options.max_poll_interval_ms
            self._poll_check_ms = min(self._poll_check_ms, limit_ms)

    # Time

    def _pass_time(self) -> None:
        if self.phase is Phase.IN and self._now_ms >= self._contact_ms + self._options.session_timeout_ms:
            self._lose()
            self._heartbeat_due_ms = self._now_ms
        if self.ownership.is_revoking and self._now_ms >= self._revoke_until_ms:
            self._lose()
            self._heartbeat_due_ms = self._now_ms
        if self._now_ms >= self._leave_until_ms:
            self._finish_leaving()

    def _check_poll(self, ms_since_poll: float | None) -> None:
        limit_ms = self._options.max_poll_interval_ms
        if self.phase is Phase.LATE or self._subscription is None or self._is_closing:
            self._poll_check_ms = _FOREVER
        elif ms_since_poll is None or ms_since_poll < limit_ms:
            self._poll_check_ms = max(self._now_ms + limit_ms - (ms_since_poll or 0), self._now_ms + 1)
        else:
            self._poll_check_ms = _FOREVER
            was_in = self.phase is Phase.IN or self._in_flight is not None
            self._lose()
            self.phase = Phase.LATE
            if was_in:
                self._actions.append(self._good_bye())
            self._actions.append(AwaitPolled())

    # What comes next

    def _advance(self) -> None:
        if self.phase in (Phase.ENDED, Phase.LEAVING):
            return
        if self._is_closing or self._subscription is None:
            self._advance_leaving()
            return
        if self.phase is Phase.IN:
            self._reconcile()
        if self._in_flight is None and self._beats:
            is_due = self._now_ms >= self._heartbeat_due_ms
            if is_due or (self.phase is Phase.IN and self._has_news):
                self._send_heartbeat()

    @property
    def _has_news(self) -> bool:
        if self._failures:
            return False  # it goes with the heartbeat after the backoff
        return self._is_urgent or (self.ownership.is_calm and self._owes_ack)

    @property
    def _owes_ack(self) -> bool:
        return (self._must_ack and not self._lacks_names) or self._owned_by_id() != self._acked

    def _reconcile(self) -> None:
        """Plan the way from what is owned to the target, once the calls before have returned; and look for names that are missing."""
        if self._lacks_names and self._names_request is None and self._now_ms >= self._names_due_ms:
            assert self._subscription is not None
            self._names_request = self._next_request()
            self._actions.append(FetchTopicNames(self._names_request, self._subscription))
        if self.ownership.is_calm:
            self._plan()
        # What was revoked is acknowledged before what is new is taken.
        if self._is_ack_due and self._in_flight is None and not self._failures:
            self._send_heartbeat()
        if (call := self.ownership.next_call()) is not None:
            self._actions.append(call)

    @property
    def _is_ack_due(self) -> bool:
        """Whether something was given up that the coordinator does not know of yet."""
        known = {(topic_id, index) for topic_id, indexes in (self._acked or {}).items() for index in indexes}
        owned = {(topic_id, index) for topic_id, indexes in self._owned_by_id().items() for index in indexes}
        return not known <= owned

    def _plan(self) -> None:
        owned = self.ownership.owned
        target: set[TopicPartition] = set()
        ids: dict[str, bytes] = {}
        for topic_id, indexes in self._target.items():
            if indexes and (name := self._names.get(topic_id)) is not None:
                target |= {TopicPartition(name, index) for index in indexes}
                ids[name] = topic_id
        # A topic that was deleted and made anew has the same name, and is another one.
        made_anew = {
            tp.topic for tp in owned if ids.get(tp.topic, self._ids[tp.topic]) != self._ids[tp.topic]
        }
        self.ownership.plan(
            CallbackKind.REVOKE,
            frozenset(tp for tp in owned if tp not in target or tp.topic in made_anew),
        )
        added = frozenset(tp for tp in target - owned if tp.topic not in made_anew)
        self._ids |= {tp.topic: ids[tp.topic] for tp in added}
        self.ownership.plan(CallbackKind.ASSIGN, added)

    def _send_heartbeat(self) -> None:
        assert self._subscription is not None
        is_joining = self.phase is Phase.OUT
        is_full = is_joining or not self._knows_all
        subscription, told = self._subscription, self._told_subscription
        owned = self._owned_by_id()
        tells_owned = is_full or self._is_ack_due or (self.ownership.is_calm and self._owes_ack)
        pattern = subscription.pattern
        if pattern is None and told is not None and told.pattern is not None:
            pattern = ""
        sent = SendHeartbeat(
            request=self._next_request(),
            member_epoch=JOINING_EPOCH if is_joining else self.epoch,
            rebalance_timeout_ms=self._options.max_poll_interval_ms if is_full else -1,
            topics=sorted(subscription.topics) if is_full or told != subscription else None,
            pattern=pattern if is_full or told != subscription else None,
            is_full=is_full,
            owned=owned if tells_owned else None,
        )
        self._told_subscription = subscription
        self._is_urgent = False
        self._in_flight = (sent, self._now_ms)
        self._actions.append(sent)

    def _advance_leaving(self) -> None:
        """Revoke, say good-bye, and then end or wait for another subscription."""
        if self.ownership.is_calm:
            self.ownership.plan(CallbackKind.REVOKE, self.ownership.owned)
        if (call := self.ownership.next_call()) is not None:
            self._target_since_ms = self._now_ms
            self._actions.append(call)
        if not self.ownership.is_calm:
            self._beat_while_leaving()
        elif self.phase is Phase.IN or self._in_flight is not None:
            self._leave_until_ms = self._now_ms + LEAVE_TIMEOUT_MS
            self._say_good_bye()
        elif self._is_closing:
            self._end()

    def _beat_while_leaving(self) -> None:
        is_due = self._now_ms >= self._heartbeat_due_ms
        if self.phase is Phase.IN and self._in_flight is None and is_due:
            request = self._next_request()
            sent = SendHeartbeat(request=request, member_epoch=self.epoch)
            self._in_flight = (sent, self._now_ms)
            self._actions.append(sent)

    def _say_good_bye(self) -> None:
        self._leave_attempts += 1
        self._lose()
        self.phase = Phase.LEAVING
        good_bye = self._good_bye()
        self._in_flight = (good_bye, self._now_ms)
        self._actions.append(good_bye)

    def _finish_leaving(self) -> None:
        self._leave_until_ms = _FOREVER
        self._leave_attempts = 0
        self._in_flight = None
        self.phase = Phase.OUT
        self._heartbeat_due_ms = self._now_ms
        if self._is_closing:
            self._end()

    # Small steps

    def _good_bye(self) -> SendHeartbeat:
        is_static = self._options.group_instance_id is not None
        epoch = LEAVING_STATIC_EPOCH if is_static else LEAVING_EPOCH
        return SendHeartbeat(request=self._next_request(), member_epoch=epoch)

    def _lose(self) -> None:
        """Out; the next heartbeat joins and tells everything."""
        if self._in_flight is not None:
            self._actions.append(AbandonRequest(self._in_flight[0].request))
        self.phase, self.epoch = Phase.OUT, NO_GENERATION
        self._in_flight = self._acked = self._names_request = None
        self._knows_all = self._must_ack = False
        self._target = {}
        if (call := self.ownership.lose_all()) is not None:
            self._actions.append(call)

    def _end(self, error: PenstockError | None = None) -> None:
        self.phase, self.epoch = Phase.ENDED, NO_GENERATION
        self._actions.append(End(error))

    def _owned_by_id(self) -> Mapping[bytes, tuple[int, ...]]:
        owned = by_topic(self.ownership.owned)
        return {self._ids[topic]: tuple(indexes) for topic, indexes in owned.items()}

    def _back_off(self) -> None:
        self._knows_all = False
        self._failures += 1
        base_ms = self._options.retry_backoff_ms << min(self._failures - 1, 10)
        wait_ms = min(base_ms, self._options.retry_backoff_max_ms) * (0.8 + 0.4 * self._jitter())
        self._heartbeat_due_ms = self._now_ms + wait_ms

    def _next_request(self) -> int:
        self._last_request += 1
        return self._last_request


__all__ = ["ConsumerMachine", "Phase"]
