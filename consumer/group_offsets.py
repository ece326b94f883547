"""Committed offsets of a group, on its coordinator.

Owns OffsetCommit and OffsetFetch in all versions, and which of their errors are tried again. Does not know which offsets are worth
committing, nor who owns a partition now.

Invariants: topics go by their ids (version 10) only when the ids of all of them are known, else by name; an id that the coordinator does not
know is forgotten, and names are sent. Both calls can be repeated with the same result, so a lost connection is tried again.
Source: KIP-320 (leader epochs), 447 (stable offsets), 709 (several groups), 848 (member epochs), 516 (topic ids).
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import trio

from penstock.client.backoff import RetryPolicy
from penstock.client.coordinator import COORDINATOR_LOST, Coordinators, is_worth_looking_again
from penstock.client.errors import CommitFailed, RebalanceInProgress, broker_error
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.client.topic_cache import TopicCache
from penstock.consumer.membership import GroupIdentity, GroupProtocol
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.consumer_protocol import by_topic
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment

IdentitySource = Callable[[], GroupIdentity]

_VERSION_WITH_TOPIC_IDS = 10  # of both APIs
_COMMIT_VERSION_WITH_MEMBER_EPOCH = 9
_NO_OFFSET = -1
_ATTEMPTS_MAX = 30
_OUT = frozenset({ErrorCode.UNKNOWN_MEMBER_ID, ErrorCode.FENCED_MEMBER_EPOCH})
_AGAIN = frozenset(
    {
        *COORDINATOR_LOST,
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.REQUEST_TIMED_OUT,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.UNSTABLE_OFFSET_COMMIT,
        ErrorCode.STALE_MEMBER_EPOCH,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.NOT_ENOUGH_REPLICAS,
        ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    }
)


class GroupOffsets:
    """The offsets of any groups, for one client."""

    def __init__(
        self,
        coordinators: Coordinators,
        topics: TopicCache,
        environment: Environment,
        *,
        require_stable: bool = False,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """`require_stable`: wait for offsets of open transactions (for read_committed; KIP-447)."""
        self._coordinators = coordinators
        self._topics = topics
        self._environment = environment
        self._require_stable = require_stable
        self._policy = retry_policy or RetryPolicy(attempts_max=_ATTEMPTS_MAX)

    async def commit(
        self, identity: IdentitySource, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        """Commit all of these offsets. On return they are in the group's log on the coordinator and its in-sync replicas.

        `identity` (usually `lambda: membership.identity`) is asked anew at each attempt; what it raises goes through (CommitFailed, when it sees
        that a partition is owned no more).

        Raises:
            RebalanceInProgress: the group is rebalancing, or did while this was under way: wait until the membership is settled, and commit what
                is still owned.
            CommitFailed: for good: the partitions are no longer this member's to commit.
            GroupFenced: another member has the same group_instance_id.
            BrokerError: another code (OFFSET_METADATA_TOO_LARGE, AuthorizationFailed, UnknownTopic after several attempts).
            ConnectionLost, BootstrapFailed, AddressError: no coordinator in many attempts (half a minute).

        Some of the offsets may be committed although others raise. Cancellation: committed or not.
        """
        left = dict(offsets)

        async def attempt() -> ErrorCode:
            who = identity()
            if who.is_out:
                raise CommitFailed(f"no member of group {who.group_id} now: what it owned went to others")
            codes = await self._commit_once(who, left)
            for partition in [partition for partition in left if codes.get(partition) == ErrorCode.NONE]:
                del left[partition]
            again = ErrorCode.NONE
            for partition in left:
                code = codes.get(partition, ErrorCode.UNKNOWN_SERVER_ERROR)
                again = _worth_another_commit(code, str(partition), who, identity)
            return again

        if left:
            await self._persist(lambda: identity().group_id, attempt)

    async def fetch(
        self, identity: IdentitySource, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed; None where it has not.

        Raises:
            BrokerError: a code that is not worth another try, or after many of them (UNSTABLE_OFFSET_COMMIT: a transaction is open).
            ConnectionLost, BootstrapFailed, AddressError: no coordinator in many attempts (half a minute).

        Cancellation: nothing is changed.
        """
        wanted = list(dict.fromkeys(partitions))
        found: dict[TopicPartition, OffsetAndMetadata | None] = dict.fromkeys(wanted)
        group_id = identity().group_id

        async def attempt() -> ErrorCode:
            for partition, (code, offset) in (await self._fetch_once(group_id, wanted)).items():
                if code in _AGAIN:
                    return ErrorCode(code)
                if code:
                    raise broker_error(code, subject=f"group {group_id}: {partition}")
                found[partition] = offset
            return ErrorCode.NONE

        if wanted:
            await self._persist(lambda: group_id, attempt)
        return found

    async def _persist(
        self, group_id: Callable[[], str], attempt: Callable[[], Awaitable[ErrorCode]]
    ) -> None:
        """Attempt until there is no code that is worth another try."""
        for failure_count in range(1, self._policy.attempts_max + 1):
            is_last = failure_count == self._policy.attempts_max
            try:
                code = await attempt()
            except PenstockError as error:
                if is_last or isinstance(error, RebalanceInProgress) or not is_worth_looking_again(error):
                    raise
                self._coordinators.forget(group_id())
            else:
                if code == ErrorCode.NONE:
                    return
                if is_last:
                    raise broker_error(code, subject=f"group {group_id()}")
                if code in COORDINATOR_LOST:
                    self._coordinators.forget(group_id())
            await trio.sleep(self._policy.wait_ms(failure_count, self._environment.random) / 1000)

    async def _commit_once(
        self, who: GroupIdentity, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> dict[TopicPartition, int]:
        ids = self._topic_ids(offsets)
        topics = [
            Message(
                **topic,
                partitions=[_committed(index, offsets[TopicPartition(name, index)]) for index in indexes],
            )
            for name, indexes, topic in _topics(offsets, ids)
        ]
        request = Message(
            group_id=who.group_id,
            generation_id_or_member_epoch=who.epoch,
            member_id=who.member_id,
            group_instance_id=who.group_instance_id,
            topics=topics,
        )
        has_member_epoch = who.protocol is GroupProtocol.CONSUMER and who.is_member
        connection = await self._coordinators.connection_once(who.group_id)
        answer = await connection.request(
            ApiKey.OFFSET_COMMIT,
            request,
            at_least=_COMMIT_VERSION_WITH_MEMBER_EPOCH if has_member_epoch else 2,
            at_most=_at_most(ids),
        )
        codes: dict[TopicPartition, int] = {}
        for name, partition in self._partitions(answer.topics, ids):
            codes[TopicPartition(name, partition.partition_index)] = partition.error_code
        self._forget_unknown_ids(codes)
        return codes

    async def _fetch_once(
        self, group_id: str, partitions: Sequence[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, OffsetAndMetadata | None]]:
        ids = self._topic_ids(partitions)
        named = _topics(partitions, ids)
        topics = [Message(**topic, partition_indexes=indexes) for _, indexes, topic in named]
        by_name = [Message(name=name, partition_indexes=indexes) for name, indexes, _ in named]
        request = Message(
            group_id=group_id,
            topics=by_name,  # before version 8
            groups=[Message(group_id=group_id, topics=topics)],
            require_stable=self._require_stable,
        )
        connection = await self._coordinators.connection_once(group_id)
        answer = await connection.request(ApiKey.OFFSET_FETCH, request, at_least=1, at_most=_at_most(ids))
        part = answer.groups[0] if answer.groups else answer
        if part.error_code:
            return dict.fromkeys(partitions, (part.error_code, None))
        offsets: dict[TopicPartition, tuple[int, OffsetAndMetadata | None]] = {}
        for name, partition in self._partitions(part.topics, ids):
            outcome = (partition.error_code, _read_offset(partition))
            offsets[TopicPartition(name, partition.partition_index)] = outcome
        self._forget_unknown_ids({partition: code for partition, (code, _) in offsets.items()})
        return offsets

    def _topic_ids(self, partitions: Iterable[TopicPartition]) -> Mapping[str, bytes] | None:
        """The ids of all the topics; None where one is not known."""
        ids: dict[str, bytes] = {}
        for topic in {partition.topic for partition in partitions}:
            known = self._topics.peek(topic)
            if known is None or known.topic_id is None:
                return None
            ids[topic] = known.topic_id
        return ids

    def _partitions(
        self, topics: Iterable[Message], ids: Mapping[str, bytes] | None
    ) -> Iterable[tuple[str, Message]]:
        names = {topic_id: name for name, topic_id in (ids or {}).items()}
        for topic in topics:
            name = topic.name or names.get(topic.topic_id)
            if name is not None:
                for partition in topic.partitions:
                    yield name, partition

    def _forget_unknown_ids(self, codes: Mapping[TopicPartition, int]) -> None:
        for partition, code in codes.items():
            if code == ErrorCode.UNKNOWN_TOPIC_ID:
                self._topics.invalidate(partition.topic)


def _worth_another_commit(code: int, subject: str, who: GroupIdentity, identity: IdentitySource) -> ErrorCode:
    """The code, when another attempt may succeed; raises otherwise."""
    now = identity()
    if code == ErrorCode.ILLEGAL_GENERATION:
        if now.is_member and (now != who or now.is_rebalancing):
            raise RebalanceInProgress(ErrorCode.REBALANCE_IN_PROGRESS, subject)
        raise CommitFailed(f"{subject}: generation {who.epoch} of group {who.group_id} is over")
    if code in _OUT or (code == ErrorCode.STALE_MEMBER_EPOCH and not now.is_member):
        raise CommitFailed(f"{subject}: no longer a member of group {who.group_id}, or not with this epoch")
    if code in _AGAIN:
        return ErrorCode(code)
    raise broker_error(code, subject=subject)


def _topics(
    partitions: Iterable[TopicPartition], ids: Mapping[str, bytes] | None
) -> list[tuple[str, list[int], dict[str, Any]]]:
    """Each topic's name, its partition indexes, and what names it in a request."""
    return [
        (name, indexes, {"name": name} if ids is None else {"name": name, "topic_id": ids[name]})
        for name, indexes in by_topic(partitions).items()
    ]


def _at_most(ids: Mapping[str, bytes] | None) -> int | None:
    return _VERSION_WITH_TOPIC_IDS - 1 if ids is None else None


def _committed(index: int, offset: OffsetAndMetadata) -> Message:
    return Message(
        partition_index=index,
        committed_offset=offset.offset,
        committed_leader_epoch=offset.leader_epoch,
        committed_metadata=offset.metadata,
    )


def _read_offset(partition: Message) -> OffsetAndMetadata | None:
    if partition.committed_offset == _NO_OFFSET:
        return None
    return OffsetAndMetadata(
        partition.committed_offset, partition.metadata or "", partition.committed_leader_epoch
    )


__all__ = ["GroupOffsets", "IdentitySource"]
