"""Members of a consumer-protocol group as its clients are, against one `ConsumerGroup`, its log and its topics.

Owns the client's half of KIP-848: one heartbeat at a time; first give up what was taken away, then take on what was given; what is told
once is told again only when it changed or an answer was missed. What they may not do besides: take partitions on while a heartbeat
that says what they own is under way.
"""

from collections.abc import Iterable

from penstock.broker.groups.classic_events import StoreFinished, TimePassed
from penstock.broker.groups.consumer_group import ConsumerGroup
from penstock.broker.groups.consumer_group_events import (
    Action,
    Assignment,
    ConsumerGroupLimits,
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
    DescribeReply,
    Event,
    Record,
    StoreRecords,
    SubscribedTopic,
    TopicsChanged,
)
from penstock.broker.groups.topic_patterns import matching
from penstock.protocol.errors import ErrorCode

Partition = tuple[bytes, int]
REJOIN = {ErrorCode.FENCED_MEMBER_EPOCH, ErrorCode.UNKNOWN_MEMBER_ID}


class FakeTopics:
    """Topics that a test makes."""

    def __init__(self, **partition_counts: int) -> None:
        self.revision = 0
        self._topics: dict[str, SubscribedTopic] = {}
        for name, count in partition_counts.items():
            self.put(name, count)

    def put(self, name: str, partition_count: int) -> bytes:
        """Make a topic, or let it grow; returns its id."""
        self.revision += 1
        known = self._topics.get(name)
        topic_id = known.topic_id if known else self.revision.to_bytes(16)
        self._topics[name] = SubscribedTopic(name, topic_id, partition_count)
        return topic_id

    def delete(self, name: str) -> None:
        """Delete a topic, if it is there."""
        self.revision += 1
        self._topics.pop(name, None)

    def topic(self, name: str) -> SubscribedTopic | None:
        return self._topics.get(name)

    def names(self) -> Iterable[str]:
        return self._topics

    def match(self, regex: str) -> frozenset[str]:
        return matching(regex, self._topics)


def flat(assignment: Assignment | None) -> set[Partition]:
    """The partitions of an assignment."""
    return {(topic_id, index) for topic_id, indexes in (assignment or {}).items() for index in indexes}


def by_topic(partitions: Iterable[Partition]) -> Assignment:
    """The assignment of some partitions."""
    shares: dict[bytes, set[int]] = {}
    for topic_id, index in partitions:
        shares.setdefault(topic_id, set()).add(index)
    return {topic_id: frozenset(indexes) for topic_id, indexes in shares.items()}


class Client:
    """One client."""

    def __init__(self, member_id: str, *, names: tuple[str, ...] = (), regex: str = "") -> None:
        self.member_id = member_id
        self.names = names
        self.regex = regex
        self.instance_id: str | None = None
        self.assignor: str | None = None
        self.is_slow = False
        """Whether it needs a nudge to reconcile."""
        self.epoch = 0
        self.owned: set[Partition] = set()
        self.given: set[Partition] = set()
        self.waits_for: int | None = None
        self.tells_owned = False
        self.must_tell_all = True
        self.told_owned: set[Partition] | None = None
        self.told_subscription: tuple[tuple[str, ...], str] | None = None
        self.last_error = ErrorCode.NONE

    def heartbeat(self, token: int) -> ConsumerHeartbeat:
        """The next request."""
        full = self.must_tell_all or self.epoch == 0
        if self.epoch == 0:
            self.abandon()
        tells_owned = full or self.owned != self.told_owned
        tells_subscription = full or self.told_subscription != (self.names, self.regex)
        self.waits_for, self.tells_owned, self.must_tell_all = token, tells_owned, False
        if tells_owned:
            self.told_owned = set(self.owned)
        self.told_subscription = (self.names, self.regex)
        return ConsumerHeartbeat(
            token=token,
            member_id=self.member_id,
            member_epoch=self.epoch,
            instance_id=self.instance_id,
            rebalance_timeout_ms=60_000 if full else -1,
            topic_names=self.names if tells_subscription else None,
            topic_regex=self.regex if tells_subscription else None,
            server_assignor=self.assignor,
            owned=by_topic(self.owned) if tells_owned else None,
        )

    def abandon(self) -> None:
        """Give everything up at once."""
        self.owned, self.given, self.told_owned = set(), set(), None

    def take(self, reply: ConsumerHeartbeatReply) -> None:
        """The answer came."""
        self.waits_for, self.tells_owned, self.last_error = None, False, reply.error_code
        if reply.error_code in REJOIN:
            self.epoch = 0
            self.abandon()
        elif reply.error_code is not ErrorCode.NONE:
            self.must_tell_all = True
        else:
            self.epoch = reply.member_epoch
            if reply.assignment is not None:
                self.given = flat(reply.assignment)

    def miss(self) -> None:
        """No answer came: next time all is told. What was told may be known or not, so nothing is taken on until an answer comes."""
        self.waits_for, self.must_tell_all = None, True

    def reconcile(self) -> None:
        """Give up what is not ours any more; then, if nobody is being told what we own, take on the rest."""
        if self.owned - self.given:
            self.owned &= self.given
        elif not self.tells_owned:
            self.owned |= self.given


class GroupBench:
    """A group with its log; stores land when the test says so, or at once."""

    def __init__(self, topics: FakeTopics, limits: ConsumerGroupLimits | None = None) -> None:
        self.topics = topics
        self.limits = limits or ConsumerGroupLimits()
        self.now_ms = 1_000
        self.log: list[Record] = []
        self.group = ConsumerGroup("g", self.limits, topics)
        self.replies: dict[int, ConsumerHeartbeatReply | DescribeReply] = {}
        self.store: StoreRecords | None = None
        self.lands_at_once = True
        self._tokens = 0

    def token(self) -> int:
        """A fresh one."""
        self._tokens += 1
        return self._tokens

    def step(self, event: Event) -> None:
        """Step the group and do what it says."""
        self._perform(self.group.step(event, self.now_ms))

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, StoreRecords):
                assert self.store is None, "two stores at once"
                assert action.records
                self.store = action
            else:
                assert action.token not in self.replies, "answered twice"
                self.replies[action.token] = action
        if self.lands_at_once and self.store is not None:
            self.land()

    def land(self, code: ErrorCode = ErrorCode.NONE, *, landed_count: int = 0) -> None:
        """The store that is under way lands; or it fails, with some of its records in the log all the same."""
        store, self.store = self.store, None
        assert store is not None
        self.log += store.records if code is ErrorCode.NONE else store.records[:landed_count]
        self.step(StoreFinished(store_token=store.store_token, error_code=code))

    def restart(self, landed_count: int = 0) -> None:
        """Only the log is left, with as many records of the store under way as have landed."""
        if self.store is not None:
            self.log += self.store.records[:landed_count]
        self.store = None
        self.group = restored(self.log, self.topics, self.limits, self.now_ms)

    def pass_time(self, duration_ms: int) -> None:
        """Let time pass, and wake the group as the shell does."""
        self.now_ms += duration_ms
        deadline_ms = self.group.deadline_ms
        if deadline_ms is not None and deadline_ms <= self.now_ms:
            self.step(TimePassed())

    def change_topics(self) -> None:
        """Tell the group that topics changed."""
        self.step(TopicsChanged())

    def beat(self, client: Client) -> ConsumerHeartbeatReply:
        """A heartbeat and its answer, which must come at once; the client takes it."""
        token = self.token()
        self.step(client.heartbeat(token))
        reply = self.replies.pop(token)
        assert isinstance(reply, ConsumerHeartbeatReply)
        client.take(reply)
        return reply

    def settle(self, *clients: Client, rounds: int = 12) -> None:
        """Everybody does all that there is to do."""
        for _ in range(rounds):
            for client in clients:
                self.beat(client)
                client.reconcile()
                client.reconcile()


def restored(
    log: Iterable[Record], topics: FakeTopics, limits: ConsumerGroupLimits, now_ms: int
) -> ConsumerGroup:
    """The group that the records make."""
    group = ConsumerGroup("g", limits, topics)
    for record in log:
        group.replay(record)
    group.resume(now_ms)
    return group
