"""Questions about offsets to partition leaders: ListOffsets, and OffsetForLeaderEpoch (KIP-320).

Owns the way to the leaders and the retries. Does not know positions or policies: what comes out is an offset or an error for each partition.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import trio

from penstock.client.admin_messages import list_offsets_request, read_offsets
from penstock.client.admin_values import EARLIEST, LATEST, FoundOffset
from penstock.client.backoff import ELECTION_ATTEMPTS_MAX, RetryPolicy
from penstock.client.cluster import Cluster
from penstock.client.connection import Connection
from penstock.client.errors import (
    BootstrapFailed,
    BrokerError,
    UnknownTopic,
    broker_error,
)
from penstock.client.metadata import PartitionMetadata, TopicPartition
from penstock.client.topic_cache import TopicCache
from penstock.consumer.options import IsolationLevel
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment
from penstock.runtime.network import AddressError, ConnectionLost

V = TypeVar("V")
R = TypeVar("R")
WRONG_LEADER = frozenset(
    {
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.LEADER_NOT_AVAILABLE,
        ErrorCode.REPLICA_NOT_AVAILABLE,
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.OFFSET_NOT_AVAILABLE,
        ErrorCode.BROKER_NOT_AVAILABLE,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.UNKNOWN_TOPIC_ID,
        ErrorCode.INCONSISTENT_TOPIC_ID,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
    }
)
"""Said by a broker that does not lead the partition, or not yet: ask for Metadata, and again."""
UNREACHABLE = (ConnectionLost, AddressError, BootstrapFailed)
_LIST_OFFSETS_VERSION_MIN = 2
_EPOCH_VERSION_MIN = 2
"""OffsetForLeaderEpoch with a current epoch; Kafka from 2.1 on. Version 3 lets consumers ask with less rights."""
_CONSUMER_REPLICA_ID = -1


class EpochEnd(NamedTuple):
    """Where a leader epoch ends in the leader's log (exclusive). Both -1: it has no such epoch."""

    leader_epoch: int
    end_offset: int


class OffsetLookup:
    """Asks leaders about offsets, for one client."""

    def __init__(
        self, cluster: Cluster, topics: TopicCache, environment: Environment, isolation: IsolationLevel
    ) -> None:
        self._cluster = cluster
        self._topics = topics
        self._environment = environment
        self._isolation = isolation
        self._policy = RetryPolicy(attempts_max=ELECTION_ATTEMPTS_MAX)

    async def offsets(self, timestamps_ms: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """The first offset whose record is not older than a timestamp, for each partition; -1 where there is none. EARLIEST and LATEST go, too.

        Raises BrokerError (UnknownTopic, …) of the first partition that fails for good, BootstrapFailed, AddressError, ConnectionLost.
        """
        found: dict[TopicPartition, int] = {}
        left = dict(timestamps_ms)
        for failure_count in range(1, self._policy.attempts_max + 1):
            failure: PenstockError | None = None
            answered = await self.find_once(left)
            for tp in list(left):
                outcome = answered.get(tp, _unanswered(tp))
                if isinstance(outcome, FoundOffset):
                    found[tp] = outcome.offset
                    del left[tp]
                elif is_worth_asking_again(outcome) and failure_count < self._policy.attempts_max:
                    failure = outcome
                    self._topics.invalidate(tp.topic)
                else:
                    raise outcome
            if failure is None:
                break
            await trio.sleep(self._policy.wait_ms(failure_count, self._environment.random) / 1000)
        return found

    async def find_once(
        self, timestamps_ms: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, FoundOffset | PenstockError]:
        """One attempt; errors take the place of results."""

        async def ask(
            connection: Connection, entries: Mapping[TopicPartition, int]
        ) -> Mapping[TopicPartition, FoundOffset | PenstockError]:
            request = list_offsets_request(entries, isolation_level=self._isolation.number)
            answer = await connection.request(
                ApiKey.LIST_OFFSETS, request, at_least=_LIST_OFFSETS_VERSION_MIN
            )
            return read_offsets(answer)

        return await self._ask_leaders(timestamps_ms, ask)

    async def epoch_ends_once(
        self, epochs: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, EpochEnd | PenstockError]:
        """Where each partition's leader epoch ends in its leader's log; one attempt."""

        async def ask(
            connection: Connection, entries: Mapping[TopicPartition, int]
        ) -> Mapping[TopicPartition, EpochEnd | PenstockError]:
            request = self._epoch_request(entries)
            answer = await connection.request(
                ApiKey.OFFSET_FOR_LEADER_EPOCH, request, at_least=_EPOCH_VERSION_MIN
            )
            return _read_epoch_ends(answer)

        return await self._ask_leaders(epochs, ask)

    def _epoch_request(self, entries: Mapping[TopicPartition, int]) -> Message:
        by_topic: dict[str, list[Message]] = {}
        for tp, epoch in entries.items():
            metadata = self._topics.peek(tp.topic)
            known = None if metadata is None else metadata.partitions.get(tp.partition)
            by_topic.setdefault(tp.topic, []).append(
                Message(
                    partition=tp.partition,
                    current_leader_epoch=-1 if known is None else known.leader_epoch,
                    leader_epoch=epoch,
                )
            )
        return Message(
            replica_id=_CONSUMER_REPLICA_ID,
            topics=[Message(topic=topic, partitions=parts) for topic, parts in by_topic.items()],
        )

    async def _ask_leaders(
        self,
        entries: Mapping[TopicPartition, V],
        ask: Callable[
            [Connection, Mapping[TopicPartition, V]], Awaitable[Mapping[TopicPartition, R | PenstockError]]
        ],
    ) -> dict[TopicPartition, R | PenstockError]:
        outcomes: dict[TopicPartition, R | PenstockError] = {}
        by_leader: dict[int, dict[TopicPartition, V]] = {}
        for tp, value in entries.items():
            partition = await self._partition(tp)
            if isinstance(partition, PenstockError):
                outcomes[tp] = partition
            elif partition.leader < 0:
                outcomes[tp] = broker_error(ErrorCode.LEADER_NOT_AVAILABLE, subject=f"partition {tp}")
            else:
                by_leader.setdefault(partition.leader, {})[tp] = value
        for node_id, group in by_leader.items():
            try:
                answers = await ask(await self._cluster.connection(node_id), group)
                outcomes.update((tp, answers[tp]) for tp in group if tp in answers)
            except PenstockError as error:
                outcomes.update(dict.fromkeys(group, error))
        return outcomes

    async def _partition(self, tp: TopicPartition) -> PartitionMetadata | PenstockError:
        try:
            topic = await self._topics.get(tp.topic)
        except PenstockError as error:
            return error
        unknown = broker_error(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, subject=f"partition {tp}")
        return topic.partitions.get(tp.partition, unknown)


def is_worth_asking_again(error: PenstockError) -> bool:
    """Whether another attempt may go better, after new Metadata."""
    if isinstance(error, BrokerError) and not isinstance(error, UnknownTopic):
        return error.code in WRONG_LEADER or error.is_retriable
    return isinstance(error, UNREACHABLE)


def _unanswered(tp: TopicPartition) -> PenstockError:
    """Of an answer that leaves out what was asked for; worth another attempt."""
    return ConnectionLost(f"partition {tp}: the broker's answer says nothing about it")


def _read_epoch_ends(answer: Message) -> dict[TopicPartition, EpochEnd | PenstockError]:
    return {
        TopicPartition(topic.topic, part.partition): broker_error(
            part.error_code, subject=f"{topic.topic}-{part.partition}"
        )
        if part.error_code
        else EpochEnd(part.leader_epoch, part.end_offset)
        for topic in answer.topics
        for part in topic.partitions
    }


def by_topic(partitions: Iterable[TopicPartition]) -> dict[str, list[TopicPartition]]:
    """Grouped by topic."""
    groups: dict[str, list[TopicPartition]] = {}
    for tp in partitions:
        groups.setdefault(tp.topic, []).append(tp)
    return groups


__all__ = [
    "EARLIEST",
    "LATEST",
    "UNREACHABLE",
    "WRONG_LEADER",
    "EpochEnd",
    "OffsetLookup",
    "by_topic",
    "is_worth_asking_again",
]
