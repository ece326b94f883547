"""A member of a classic group: the requests of `classic_machine`, and looks at topics for it.

Owns the messages and which connection they take; when they are sent is the machine's decision. JoinGroup and SyncGroup wait for other members on a
lane of their own; heartbeats, leaving and commits go beside them.

Invariant: a JoinGroup or SyncGroup that is given up takes its connection with it, since the broker would read nothing behind it before it is
answered.
"""

import re
from collections.abc import Mapping

import trio

from penstock.client.cluster import Cluster, ConnectionLane
from penstock.client.coordinator import Coordinators
from penstock.client.errors import UnknownTopic
from penstock.client.metadata import ClusterMetadata
from penstock.consumer.assignors.registry import find_assignors
from penstock.consumer.classic_events import (
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
from penstock.consumer.classic_machine import ClassicMachine
from penstock.consumer.membership import (
    NO_GENERATION,
    GroupIdentity,
    GroupListener,
    GroupProtocol,
    MembershipOptions,
)
from penstock.consumer.membership_events import ForgetCoordinator
from penstock.consumer.membership_shell import MembershipShell
from penstock.consumer.subscription import Subscription
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.consumer_protocol import PROTOCOL_TYPE
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment

_JOIN_VERSION_MIN, _JOIN_VERSION_WITH_INSTANCE_ID = 1, 5
_MISSING_TOPICS_INTERVAL_MS = 1_000
_FAILED_LOOK_INTERVAL_MS = 1_000
_NEVER_MS = -1e18  # finite: with an infinite interval it is still in the future


class ClassicMembership(MembershipShell):
    """See Membership."""

    def __init__(
        self,
        group_id: str,
        subscription: Subscription,
        listener: GroupListener,
        cluster: Cluster,
        coordinators: Coordinators,
        environment: Environment,
        options: MembershipOptions,
    ) -> None:
        assignors = options.assignors or find_assignors()
        self._machine = ClassicMachine(options, assignors, environment.random.random)
        super().__init__(self._machine, listener, environment.clock)
        self._group_id = group_id
        self._subscription = subscription
        self._cluster = cluster
        self._coordinators = coordinators
        self._options = options
        self._looked_ms = _NEVER_MS
        self._look_again = trio.Event()
        self._watched: object = None
        _check_pattern(subscription)

    @property
    def identity(self) -> GroupIdentity:
        """See Membership."""
        return GroupIdentity(
            self._group_id,
            self._machine.member_id,
            self._machine.generation,
            self._options.group_instance_id,
            GroupProtocol.CLASSIC,
            is_out=self._machine.generation == NO_GENERATION,
            is_rebalancing=self._machine.is_between_generations,
        )

    def change_subscription(self, subscription: Subscription) -> None:
        """See Membership."""
        if subscription == self._subscription:
            return
        _check_pattern(subscription)
        self._subscription = subscription
        self._looked_ms = _NEVER_MS
        if self._nursery is not None:
            self._tell_subscription()

    def _start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self._watch_topics)
        self._tell_subscription()

    def _tell_subscription(self) -> None:
        if self._subscription.is_empty:
            self._step(SubscriptionChanged(None))
        elif self._subscription.pattern is None:
            self._step(SubscriptionChanged(self._subscription.topics))
        self._look_again.set()

    def _do(self, action: object) -> None:
        match action:
            case SendJoin():
                self._send(action.request, lambda: self._join(action))
            case FetchTopics():
                self._send(action.request, lambda: self._fetch_topics(action))
            case SendSync():
                self._send(action.request, lambda: self._sync(action))
            case SendHeartbeat():
                self._send(action.request, lambda: self._heartbeat(action))
            case SendLeave():
                self._send(action.request, lambda: self._leave(action))
            case ForgetCoordinator():
                self._coordinators.forget(self._group_id)
            case _:
                raise AssertionError(action)

    # Requests

    async def _join(self, action: SendJoin) -> JoinAnswered:
        options = self._options
        request = Message(
            group_id=self._group_id,
            session_timeout_ms=options.session_timeout_ms,
            rebalance_timeout_ms=options.max_poll_interval_ms,
            member_id=action.member_id,
            group_instance_id=options.group_instance_id,
            protocol_type=PROTOCOL_TYPE,
            protocols=[Message(name=name, metadata=metadata) for name, metadata in action.protocols],
            reason=action.reason or None,
        )
        answer = await self._wait_for_members(
            ApiKey.JOIN_GROUP,
            request,
            at_least=_JOIN_VERSION_WITH_INSTANCE_ID if options.group_instance_id else _JOIN_VERSION_MIN,
            wait_ms=options.max_poll_interval_ms,
        )
        return JoinAnswered(
            request=action.request,
            error_code=answer.error_code,
            generation=answer.generation_id,
            protocol_name=answer.protocol_name or "",
            leader=answer.leader,
            skip_assignment=answer.skip_assignment,
            member_id=answer.member_id,
            members=[
                JoinedMember(member.member_id, member.group_instance_id, member.metadata)
                for member in answer.members
            ],
        )

    async def _sync(self, action: SendSync) -> SyncAnswered:
        request = Message(
            group_id=self._group_id,
            generation_id=action.generation,
            member_id=action.member_id,
            group_instance_id=self._options.group_instance_id,
            protocol_type=PROTOCOL_TYPE,
            protocol_name=action.protocol_name,
            assignments=[
                Message(member_id=member_id, assignment=assignment)
                for member_id, assignment in action.assignments.items()
            ],
        )
        # A leader that died is noticed after its session timeout: until then, the assignment may still come.
        answer = await self._wait_for_members(
            ApiKey.SYNC_GROUP, request, at_least=0, wait_ms=self._options.session_timeout_ms
        )
        return SyncAnswered(action.request, answer.error_code, answer.assignment)

    async def _wait_for_members(
        self, api_key: ApiKey, request: Message, *, at_least: int, wait_ms: int
    ) -> Message:
        connection = await self._coordinators.connection_once(self._group_id, ConnectionLane.COORDINATOR)
        try:
            return await connection.request(api_key, request, at_least=at_least, broker_wait_ms=wait_ms)
        except trio.Cancelled:
            connection.close()
            raise

    async def _heartbeat(self, action: SendHeartbeat) -> HeartbeatAnswered:
        request = Message(
            group_id=self._group_id,
            generation_id=action.generation,
            member_id=action.member_id,
            group_instance_id=self._options.group_instance_id,
        )
        answer = await self._ask(ApiKey.HEARTBEAT, request)
        return HeartbeatAnswered(action.request, answer.error_code)

    async def _leave(self, action: SendLeave) -> LeaveAnswered:
        member = Message(member_id=action.member_id, group_instance_id=None, reason=action.reason)
        request = Message(group_id=self._group_id, member_id=action.member_id, members=[member])
        await self._ask(ApiKey.LEAVE_GROUP, request)
        return LeaveAnswered(action.request)

    async def _ask(self, api_key: ApiKey, request: Message) -> Message:
        connection = await self._coordinators.connection_once(self._group_id)
        return await connection.request(api_key, request)

    async def _fetch_topics(self, action: FetchTopics) -> TopicsFetched | SubscriptionRefused:
        metadata = await self._cluster.refresh(action.topics)
        self._looked_ms = self._now_ms()
        refusal = self._refusal(metadata)
        if refusal is not None:
            return SubscriptionRefused(refusal)
        return TopicsFetched(action.request, _partition_counts(metadata))

    # Looks at topics

    def _after_step(self) -> None:
        watched = (self._machine.watched_topics, self._machine.misses_topics)
        if watched != self._watched:
            self._watched = watched
            self._look_again.set()

    async def _watch_topics(self) -> None:
        while True:
            due_ms = self._looked_ms + self._look_interval_ms
            if due_ms > self._now_ms():
                self._look_again = trio.Event()
                with trio.move_on_at(due_ms / 1000):
                    await self._look_again.wait()
                continue
            try:
                await self._look()
                self._looked_ms = self._now_ms()
            except PenstockError:
                # Whatever it is, the requests of the group meet it as well, and tell.
                await trio.sleep(_FAILED_LOOK_INTERVAL_MS / 1000)

    @property
    def _look_interval_ms(self) -> float:
        if self._subscription.pattern is not None:
            return self._options.pattern_max_age_ms
        if self._machine.misses_topics:
            return _MISSING_TOPICS_INTERVAL_MS
        return self._options.metadata_max_age_ms if self._machine.watched_topics else float("inf")

    async def _look(self) -> None:
        subscription = self._subscription
        wanted = None if subscription.pattern is not None else self._machine.watched_topics
        if wanted is not None and not wanted:
            return
        metadata = await self._cluster.refresh(wanted)
        if subscription != self._subscription:
            return
        if subscription.pattern is not None:
            self._step(SubscriptionChanged(subscription.matching(metadata.topics.values())))
        elif (refusal := self._refusal(metadata)) is not None:
            self._step(SubscriptionRefused(refusal))
        self._step(TopicsSeen(_partition_counts(metadata)))

    def _refusal(self, metadata: ClusterMetadata) -> PenstockError | None:
        """Why a topic of one's own subscription can never be had."""
        for topic in self._subscription.topics & metadata.topic_errors.keys():
            error = metadata.topic_errors[topic]
            if not error.is_retriable and not isinstance(error, UnknownTopic):
                return error
        return None


def _check_pattern(subscription: Subscription) -> None:
    """Raises re.error here, in the user's call, rather than later in a task."""
    if subscription.pattern is not None:
        re.compile(subscription.pattern)


def _partition_counts(metadata: ClusterMetadata) -> Mapping[str, int]:
    return {name: len(topic.partitions) for name, topic in metadata.topics.items()}


__all__ = ["ClassicMembership"]
