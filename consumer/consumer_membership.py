"""A member of a KIP-848 group: the requests of `consumer_machine`.

Owns the member id (made here, once), the messages, and the names of topic ids. When something is sent is the machine's decision.
"""

from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence

import trio

from penstock.client.cluster import Cluster
from penstock.client.coordinator import Coordinators
from penstock.consumer.consumer_events import (
    FetchTopicNames,
    HeartbeatAnswered,
    SendHeartbeat,
    SubscriptionChanged,
    TopicNamesFetched,
)
from penstock.consumer.consumer_machine import ConsumerMachine
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
from penstock.protocol.api import ApiKey
from penstock.protocol.message import Message
from penstock.runtime.clock import Random
from penstock.runtime.environment import Environment

_VERSION_WITH_PATTERNS = 1


class ConsumerMembership(MembershipShell):
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
        self._machine = ConsumerMachine(options, environment.random.random)
        super().__init__(self._machine, listener, environment.clock)
        self._group_id = group_id
        self._subscription = subscription
        self._cluster = cluster
        self._coordinators = coordinators
        self._options = options
        self._member_id = _new_member_id(environment.random)

    @property
    def identity(self) -> GroupIdentity:
        """See Membership."""
        return GroupIdentity(
            self._group_id,
            self._member_id,
            self._machine.epoch,
            self._options.group_instance_id,
            GroupProtocol.CONSUMER,
            is_out=self._machine.epoch == NO_GENERATION,
        )

    def change_subscription(self, subscription: Subscription) -> None:
        """See Membership."""
        self._subscription = subscription
        if self._nursery is not None:
            self._tell_subscription()

    def _start(self, nursery: trio.Nursery) -> None:
        self._tell_subscription()

    def _tell_subscription(self) -> None:
        self._step(SubscriptionChanged(None if self._subscription.is_empty else self._subscription))

    def _do(self, action: object) -> None:
        match action:
            case SendHeartbeat():
                self._send(action.request, lambda: self._heartbeat(action))
            case FetchTopicNames():
                self._send(action.request, lambda: self._fetch_names(action))
            case ForgetCoordinator():
                self._coordinators.forget(self._group_id)
            case _:
                raise AssertionError(action)

    async def _heartbeat(self, action: SendHeartbeat) -> HeartbeatAnswered:
        options = self._options
        request = Message(
            group_id=self._group_id,
            member_id=self._member_id,
            member_epoch=action.member_epoch,
            instance_id=options.group_instance_id,
            rack_id=options.rack if action.is_full else None,
            rebalance_timeout_ms=action.rebalance_timeout_ms,
            subscribed_topic_names=None if action.topics is None else list(action.topics),
            subscribed_topic_regex=action.pattern,
            server_assignor=options.server_assignor if action.is_full else None,
            topic_partitions=_topic_partitions(action.owned),
        )
        connection = await self._coordinators.connection_once(self._group_id)
        answer = await connection.request(
            ApiKey.CONSUMER_GROUP_HEARTBEAT,
            request,
            at_least=_VERSION_WITH_PATTERNS if action.pattern else 0,
        )
        return HeartbeatAnswered(
            request=action.request,
            error_code=answer.error_code,
            error_message=answer.error_message,
            member_epoch=answer.member_epoch,
            heartbeat_interval_ms=answer.heartbeat_interval_ms,
            assignment=_read_assignment(answer.assignment),
        )

    async def _fetch_names(self, action: FetchTopicNames) -> TopicNamesFetched:
        # With a pattern only the broker knows which topics match.
        subscription = action.subscription
        metadata = await self._cluster.refresh(None if subscription.pattern else subscription.topics)
        names = {
            topic.topic_id: name for name, topic in metadata.topics.items() if topic.topic_id is not None
        }
        return TopicNamesFetched(action.request, names)


def _topic_partitions(owned: Mapping[bytes, Sequence[int]] | None) -> list[Message] | None:
    if owned is None:
        return None
    return [Message(topic_id=topic_id, partitions=list(indexes)) for topic_id, indexes in owned.items()]


def _read_assignment(assignment: Message | None) -> Mapping[bytes, tuple[int, ...]] | None:
    if assignment is None:
        return None
    return {topic.topic_id: tuple(topic.partitions) for topic in assignment.topic_partitions}


def _new_member_id(random: Random) -> str:
    """A random UUID (version 4) as Kafka writes them."""
    raw = bytearray(random.randbytes(16))
    raw[6] = raw[6] & 0x0F | 0x40
    raw[8] = raw[8] & 0x3F | 0x80
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


__all__ = ["ConsumerMembership"]
