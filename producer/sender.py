"""The producer's background: finds leaders, gets the producer id, gives up what is too late, and has a `BrokerSender` for each broker.

Owns the tasks. What is sent when, and what an answer means, is decided by `accumulator`, `partition_queue` and `verdicts`; this is the
shell around them.

Invariants: a partition whose leader nobody knows is at NO_NODE, and then exactly one task looks for the leader of its topic; once the producer has
failed nothing is sent any more and everything that waits is told so.
"""

from collections.abc import Callable

import trio

from penstock.client.backoff import RetryPolicy
from penstock.client.cluster import Cluster
from penstock.client.errors import (
    BrokerError,
    DeliveryFailed,
    UnknownTopic,
    UnsupportedByBroker,
    broker_error,
)
from penstock.client.metadata import TopicMetadata
from penstock.client.topic_cache import TopicCache
from penstock.errors import PenstockError
from penstock.producer.accumulator import NEVER, Accumulator
from penstock.producer.batch import Batch, ProducerIdentity, delivery_failed
from penstock.producer.broker_sender import ROUNDING_S, BrokerSender
from penstock.producer.options import Options
from penstock.producer.partition_queue import NO_NODE, PartitionQueue
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode, ProtocolError
from penstock.protocol.message import Message
from penstock.runtime.environment import Environment

RETRY_POLICY = RetryPolicy(initial_ms=50, wait_max_ms=1_000)
LEADER_POLICY = RetryPolicy(initial_ms=50, wait_max_ms=250)
"""Of the looks for a leader while there is none: the next election is worth a small request four times a second."""
_UNKNOWN_TOPIC_PATIENCE_MS = 10_000
"""How long a topic that was there may be unknown (a broker that is just starting knows none) before its records are given up."""

_IDENTITY_FATAL = frozenset(
    {ErrorCode.CLUSTER_AUTHORIZATION_FAILED, ErrorCode.UNSUPPORTED_VERSION, ErrorCode.PRODUCER_FENCED}
)


class Sender:
    """What runs beside the user's tasks. All but `run` returns at once."""

    def __init__(
        self,
        accumulator: Accumulator,
        cluster: Cluster,
        topics: TopicCache,
        environment: Environment,
        options: Options,
        nursery: trio.Nursery,
    ) -> None:
        self.accumulator = accumulator
        self.cluster = cluster
        self.topics = topics
        self.environment = environment
        self.options = options
        self.failure: PenstockError | None = None
        """Why this producer is at its end, if it is."""
        self.room = trio.lowlevel.ParkingLot()
        """Tasks that wait for memory."""
        self.known: dict[str, TopicMetadata] = {}
        """The topics in use, as they were last seen; leaders may be out of date, partition counts hardly ever."""
        self._nursery = nursery
        self._senders: dict[int, BrokerSender] = {}
        self._looking_for: set[str] = set()
        self._identity_lock = trio.Lock()
        self._is_watching = False

    def now_ms(self) -> float:
        """Monotonic milliseconds."""
        return self.environment.clock.monotonic() * 1000

    def backoff_ms(self, failure_count: int) -> float:
        """How long to wait after so many failures in a row."""
        return RETRY_POLICY.wait_ms(failure_count, self.environment.random)

    def wake(self, queue: PartitionQueue) -> None:
        """There is something new for a partition: a first record, a full batch."""
        if not self._is_watching:
            self._is_watching = True
            self._nursery.start_soon(self._watch_deadlines)
        if queue.node_id == NO_NODE:
            self.look_for(queue.topic)
            return
        self._senders[queue.node_id].wake()
        if self.topics.peek(queue.topic) is None:  # five minutes old
            self.look_for(queue.topic)

    def wake_all(self) -> None:
        """Linger does not count any more, or something waits for room."""
        for sender in self._senders.values():
            sender.wake()

    def released(self) -> None:
        """Memory was given back: let who waits for it look again."""
        if self.room:
            self.room.unpark_all()

    def queue(self, topic: str, index: int) -> PartitionQueue:
        """The queue of a partition of a known topic; a new one is placed at its leader."""
        queue = self.accumulator.find(topic, index)
        if queue is None:
            queue = self.accumulator.queue(topic, index)
            self._place_queue(queue, self.known[topic])
        return queue

    def place(self, metadata: TopicMetadata) -> bool:
        """Take a topic's partitions to their leaders; False where one with batches has none now."""
        self.known[metadata.name] = metadata
        all_placed = True
        for queue in self.accumulator.queues():
            if queue.topic == metadata.name and not self._place_queue(queue, metadata):
                all_placed = False
        return all_placed

    def _place_queue(self, queue: PartitionQueue, metadata: TopicMetadata) -> bool:
        partition = metadata.partitions.get(queue.index)
        if partition is None:
            text = f"{queue.topic}-{queue.index} is not there any more"
            error = UnknownTopic(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, text)
            self._give_up(queue, lambda _: error)
            return True
        if metadata.topic_id != queue.topic_id:
            if queue.topic_id is not None:
                queue.forget_topic()
            queue.topic_id, queue.leader_epoch = metadata.topic_id, -1
        if partition.leader_epoch > queue.leader_epoch:  # what the last leader did is no reason to wait
            queue.leader_epoch = partition.leader_epoch
            queue.retry_at_ms, queue.failure_count = 0.0, 0
        if partition.leader < 0:
            self.accumulator.move(queue, NO_NODE)
            return not queue.waiting
        if partition.leader not in self._senders:
            sender = self._senders[partition.leader] = BrokerSender(self, partition.leader)
            self._nursery.start_soon(sender.run)
        self.accumulator.move(queue, partition.leader)
        if queue.waiting:
            self._senders[partition.leader].wake()
        return True

    def look_for(self, topic: str) -> None:
        """Find the leaders of a topic's partitions, in the background, unless that is being done."""
        if topic not in self._looking_for and self.failure is None:
            self._looking_for.add(topic)
            self._nursery.start_soon(self._look_for, topic)

    def lost_leader(self, queue: PartitionQueue) -> None:
        """What is known of a partition's leader is wrong."""
        self.topics.invalidate(queue.topic)
        self.accumulator.move(queue, NO_NODE)
        self.look_for(queue.topic)

    def learn_leader(self, queue: PartitionQueue, leader: int, leader_epoch: int) -> bool:
        """A broker that leads a partition no more has told who does; whether that was news. It is where to go then, at once."""
        metadata = self.topics.learn_leader(queue.topic, queue.index, leader, leader_epoch)
        if metadata is None:
            return False
        self.known[queue.topic] = metadata
        self._place_queue(queue, metadata)
        return True

    def fail(self, error: PenstockError) -> None:
        """This producer is at its end: everything that waits fails with `error`, and so does what comes."""
        if self.failure is None:
            self.failure = error
            self.accumulator.fail_all(lambda batch: _given_up(batch, error))
            self.released()

    async def ensure_identity(self) -> bool:
        """Get a producer id if one is needed; False where that failed and is worth another try later."""
        async with self._identity_lock:
            if not self.accumulator.needs_identity:
                return True
            try:
                self.accumulator.identity = await self._ask_for_identity()
            except BrokerError as error:
                if error.code in _IDENTITY_FATAL:
                    self.fail(error)
                return False
            except UnsupportedByBroker as error:
                self.fail(error)
                return False
            except PenstockError:
                return False
            self.wake_all()
            return True

    async def _ask_for_identity(self) -> ProducerIdentity:
        request = Message(
            transactional_id=None, transaction_timeout_ms=60_000, producer_id=-1, producer_epoch=-1
        )
        answer = await self.cluster.ask_any(ApiKey.INIT_PRODUCER_ID, request)
        if answer.error_code:
            raise broker_error(answer.error_code, subject="InitProducerId")
        return ProducerIdentity(answer.producer_id, answer.producer_epoch)

    async def _look_for(self, topic: str) -> None:
        failure_count = 0
        unknown_since_ms: float | None = None
        try:
            while self.failure is None:
                try:
                    if self.place(await self.topics.get(topic)):
                        return
                    self.topics.invalidate(topic)
                    unknown_since_ms = None
                except UnknownTopic as error:
                    unknown_since_ms = unknown_since_ms or self.now_ms()
                    if self.now_ms() - unknown_since_ms >= _UNKNOWN_TOPIC_PATIENCE_MS:
                        self._give_up_topic(topic, error)
                        return
                except (BrokerError, ProtocolError) as error:
                    if not isinstance(error, BrokerError) or not error.is_retriable:
                        self._give_up_topic(topic, error)
                        return
                except PenstockError:
                    pass  # nobody answers; the batches' deadlines end this
                if topic not in self.accumulator.homeless_topics():
                    return
                failure_count += 1
                await trio.sleep(LEADER_POLICY.wait_ms(failure_count, self.environment.random) / 1000)
        finally:
            self._looking_for.discard(topic)

    def _give_up_topic(self, topic: str, error: PenstockError) -> None:
        for queue in list(self.accumulator.queues()):
            if queue.topic == topic:
                self._give_up(queue, lambda _: error)

    def _give_up(self, queue: PartitionQueue, why: Callable[[Batch], PenstockError]) -> None:
        self.accumulator.fail_waiting(queue, lambda batch: _given_up(batch, why(batch)))
        self.released()

    async def _watch_deadlines(self) -> None:
        """Give up batches at their deadlines. Runs while there are batches, and looks no sooner than the first deadline."""
        try:
            while True:
                next_ms = self.accumulator.expire(self.now_ms())
                self.released()
                if next_ms == NEVER:
                    next_ms = self.now_ms() + self.options.delivery_timeout_ms
                await trio.sleep_until(next_ms / 1000 + ROUNDING_S)
        finally:
            self._is_watching = False


def _given_up(batch: Batch, error: PenstockError) -> PenstockError:
    """As `error`, but a refusal says that the batch is in no log: not of one that may be."""
    if isinstance(error, BrokerError | UnsupportedByBroker) and not batch.may_be_appended:
        return error
    return delivery_failed(str(error), batch, None if isinstance(error, DeliveryFailed) else error)


__all__ = ["Sender"]
