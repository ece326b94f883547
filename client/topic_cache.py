"""What is known of topics: their partitions and leaders, asked for once and kept for a while.

Owns which topics are known, how old that is, and the asking. Does not know what the metadata is used for; whoever finds it wrong (a
leader that is none) says so by `invalidate`.

Invariants: callers who miss at the same time share one Metadata request, whichever of them is cancelled; what was invalidated while a request
was under way is asked for again; a partition's leader epoch never falls while its topic is the same one: brokers see the cluster each a moment
later than it is, and what the slowest of them says must not undo what is known (KIP-320).
"""

import dataclasses
from collections.abc import Sequence

import trio

from penstock.client.backoff import RetryPolicy, retry
from penstock.client.cluster import Cluster
from penstock.client.errors import BootstrapFailed, BrokerError, UnknownTopic, broker_error
from penstock.client.metadata import TopicMetadata
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.environment import Environment
from penstock.runtime.network import AddressError, ConnectionLost

TOPIC_AGE_MAX_MS = 300_000
"""Kafka's `metadata.max.age.ms`."""

_UNKNOWN_ATTEMPTS_MAX = 6  # a topic that is being created is unknown for a moment, everywhere
_UNREACHABLE = (ConnectionLost, AddressError, BootstrapFailed)
_Outcome = TopicMetadata | PenstockError


class _Entry:
    """A known topic and since when."""

    __slots__ = ("known_since_s", "topic")

    def __init__(self, topic: TopicMetadata, known_since_s: float) -> None:
        self.topic = topic
        self.known_since_s = known_since_s


class _Miss:
    """A topic that somebody waits for; `outcome` is there when it was asked for."""

    __slots__ = ("outcome", "topic")

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.outcome: _Outcome | None = None


class TopicCache:
    """The topics that one client uses. Needs no task of its own."""

    def __init__(
        self,
        cluster: Cluster,
        environment: Environment,
        *,
        creates_topics: bool,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """`creates_topics`: a missing topic is made by the asking, where the broker has auto.create.topics.enable."""
        self._cluster = cluster
        self._environment = environment
        self._creates_topics = creates_topics
        self._policy = retry_policy or RetryPolicy()
        self._entries: dict[str, _Entry] = {}
        self._newest: dict[str, TopicMetadata] = {}
        """What was known last of each topic, invalidated or not: for the epochs."""
        self._misses: list[_Miss] = []
        self._forgotten: set[str] = set()  # since the request under way began
        self._asking = trio.Lock()

    def peek(self, topic: str) -> TopicMetadata | None:
        """What is known of a topic without asking; None where `get` would ask. Fast."""
        entry = self._entries.get(topic)
        if entry is None or self._age_ms(entry) > TOPIC_AGE_MAX_MS:
            return None
        return entry.topic

    async def get(self, topic: str) -> TopicMetadata:
        """A topic's metadata, at most five minutes old, or older where no broker can be reached now.

        Returns without a checkpoint where it is known. A partition may have no leader (`leader` is -1): invalidate and get it again, later.

        Raises:
            UnknownTopic: there is no such topic (and it is not created by asking).
            BrokerError: another code for the topic (INVALID_TOPIC_EXCEPTION, TOPIC_AUTHORIZATION_FAILED, …).
            BootstrapFailed, AddressError, ConnectionLost: nobody answered in several attempts (some seconds).

        Cancellation: nothing is changed; others who wait for the same topic go on waiting.
        """
        known = self.peek(topic)
        if known is not None:
            return known
        miss = _Miss(topic)
        self._misses.append(miss)
        async with self._asking:
            if miss.outcome is None:
                await self._ask_for_misses()
        outcome = miss.outcome
        assert outcome is not None
        if isinstance(outcome, TopicMetadata):
            return outcome
        entry = self._entries.get(topic)
        if entry is not None and isinstance(outcome, _UNREACHABLE):
            return entry.topic
        raise outcome

    def invalidate(self, topic: str) -> None:
        """Forget a topic, which was found wrong: the next `get` asks a broker, and another one than before if there are several."""
        self._cluster.doubt()
        self._entries.pop(topic, None)
        self._forgotten.add(topic)

    def learn_leader(self, topic: str, index: int, leader: int, leader_epoch: int) -> TopicMetadata | None:
        """Another answer than Metadata told who leads a partition. Returns the topic with that leader, None where that is no news.

        What is known of the other partitions gets no younger by it.
        """
        known = self._newest.get(topic)
        partition = None if known is None else known.partitions.get(index)
        if known is None or partition is None or leader_epoch <= partition.leader_epoch:
            return None
        led = dataclasses.replace(partition, leader=leader, leader_epoch=leader_epoch)
        found = dataclasses.replace(known, partitions={**known.partitions, index: led})
        self._newest[topic] = found
        entry = self._entries.get(topic)
        if entry is not None:
            self._entries[topic] = _Entry(found, entry.known_since_s)
        return found

    async def _ask_for_misses(self) -> None:
        misses, self._misses = self._misses, []
        try:
            await retry(
                lambda: self._ask(misses),
                is_worth_retrying=lambda error: isinstance(error, _UNREACHABLE),
                policy=self._policy,
                random=self._environment.random,
            )
        except PenstockError as error:
            for miss in misses:
                miss.outcome = miss.outcome or error
        finally:
            # Cancelled: whoever waits behind takes over what has no outcome yet.
            self._misses.extend(miss for miss in misses if miss.outcome is None)

    async def _ask(self, misses: Sequence[_Miss]) -> None:
        """Ask until each has an outcome; topics that may be just coming to be are asked for several times."""
        for attempt in range(1, self._policy.attempts_max + 1):
            await self._ask_once([miss for miss in misses if miss.outcome is None], attempt)
            if all(miss.outcome is not None for miss in misses):
                return
            await trio.sleep(self._policy.wait_ms(attempt, self._environment.random) / 1000)

    async def _ask_once(self, waiting: Sequence[_Miss], attempt: int) -> None:
        asked_at_s = self._environment.clock.monotonic()
        topics = {miss.topic for miss in waiting}
        self._forgotten.clear()
        metadata = await self._cluster.refresh(sorted(topics), creates_topics=self._creates_topics)
        for name in topics & metadata.topics.keys():
            self._newest[name] = found = _newest_of(metadata.topics[name], self._newest.get(name))
            if name not in self._forgotten:
                self._entries[name] = _Entry(found, asked_at_s)
        for miss in waiting:
            miss.outcome = self._newest[miss.topic] if miss.topic in metadata.topics else None
            if miss.outcome is None:
                error = metadata.topic_errors.get(miss.topic) or _unknown(miss.topic)
                if attempt >= self._attempts_max(error):
                    self._entries.pop(miss.topic, None)
                    miss.outcome = error

    def _attempts_max(self, error: BrokerError) -> int:
        if error.code == ErrorCode.LEADER_NOT_AVAILABLE:
            return self._policy.attempts_max
        if isinstance(error, UnknownTopic) and self._creates_topics:
            return min(_UNKNOWN_ATTEMPTS_MAX, self._policy.attempts_max)
        return 1

    def _age_ms(self, entry: _Entry) -> float:
        return (self._environment.clock.monotonic() - entry.known_since_s) * 1000


def _newest_of(told: TopicMetadata, known: TopicMetadata | None) -> TopicMetadata:
    """What is told now, but for partitions of which a later epoch is known already."""
    if known is None or told.topic_id is None or told.topic_id != known.topic_id:
        return told
    newer = {
        index: partition
        for index, partition in known.partitions.items()
        if index in told.partitions and partition.leader_epoch > told.partitions[index].leader_epoch
    }
    return dataclasses.replace(told, partitions={**told.partitions, **newer}) if newer else told


def _unknown(topic: str) -> BrokerError:
    return broker_error(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, subject=f"topic {topic}")


__all__ = ["TOPIC_AGE_MAX_MS", "TopicCache"]
