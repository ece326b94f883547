"""Brokers in memory that take Produce requests as Kafka does, sequences and all, and fail as the test says.

They stand behind the network port, answer after a while of trio's time, and share one log for each partition, so that leaders can move. A request
that was on its way when its connection ended may still be carried out afterwards, as it is in life.
"""

import dataclasses
import random
from collections import deque
from collections.abc import Callable, Mapping

import trio
from tests.support.metadata_plane import TrioClock
from tests.support.scripted_broker import (
    HANG_UP,
    SILENCE,
    Instead,
    ScriptedBroker,
    ScriptedNetwork,
    ScriptedStream,
    metadata_answer,
)

from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.protocol.record_batch import MAX_SEQUENCE, BatchHeader, check_produced_batch
from penstock.protocol.records import decode_records
from penstock.runtime.environment import Environment
from penstock.runtime.production import production_environment

TOPIC = "orders"
TOPIC_ID = b"0123456789abcdef"
REMEMBERED_BATCHES = 5
Fate = tuple[bool, ErrorCode | Instead]
"""Whether the batch is appended, and what is answered."""


@dataclasses.dataclass
class ProducerState:
    """What a partition knows of one producer."""

    epoch: int
    last_sequence: int
    recent: deque[tuple[int, int, int]] = dataclasses.field(
        default_factory=lambda: deque(maxlen=REMEMBERED_BATCHES)
    )
    """(first sequence, last sequence, base offset)"""


class PartitionLog:
    """One partition: its records, and its producers."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.batch_sizes: list[int] = []
        self.producers: dict[int, ProducerState] = {}

    def append(self, records: memoryview) -> tuple[ErrorCode, int]:
        """As a leader does; the error and the base offset."""
        header = check_produced_batch(records)
        if header.has_producer_id:
            code, base_offset = self._check_sequence(header)
            if code is not ErrorCode.NONE or base_offset >= 0:
                return code, base_offset
        base_offset = len(self.values)
        if header.has_producer_id:
            state = self.producers[header.producer_id]
            state.recent.append((header.base_sequence, header.last_sequence, base_offset))
            state.last_sequence = header.last_sequence
        self.values += [record.value for record in decode_records(records, output_max_bytes=1 << 26)]
        self.batch_sizes.append(header.record_count)
        return ErrorCode.NONE, base_offset

    def _check_sequence(self, header: BatchHeader) -> tuple[ErrorCode, int]:
        state = self.producers.get(header.producer_id)
        if state is None or header.producer_epoch > state.epoch:
            if header.base_sequence != 0:
                code = ErrorCode.UNKNOWN_PRODUCER_ID if state is None else None
                return code or ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
            self.producers[header.producer_id] = ProducerState(header.producer_epoch, MAX_SEQUENCE)
            return ErrorCode.NONE, -1
        if header.producer_epoch < state.epoch:
            return ErrorCode.INVALID_PRODUCER_EPOCH, -1
        for first, last, base_offset in state.recent:
            if (first, last) == (header.base_sequence, header.last_sequence):
                return ErrorCode.NONE, base_offset
        if header.base_sequence != (state.last_sequence + 1) & MAX_SEQUENCE:
            return ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, -1
        return ErrorCode.NONE, -1


class ProducingBroker(ScriptedBroker):
    """One broker of the cluster. Requests of a connection are carried out in order, each after a while."""

    def __init__(self, cluster: "ProducingCluster", node_id: int) -> None:
        super().__init__(
            {
                ApiKey.METADATA: self._metadata,
                ApiKey.INIT_PRODUCER_ID: self._init_producer_id,
                ApiKey.PRODUCE: self._produce,
            }
        )
        self.cluster = cluster
        self.node_id = node_id
        self._thawed = trio.Event()
        self._thawed.set()
        self._frames: dict[ScriptedStream, trio.MemorySendChannel[bytes]] = {}

    @property
    def is_frozen(self) -> bool:
        """Carries out and answers nothing; what comes in waits."""
        return not self._thawed.is_set()

    def freeze(self) -> None:
        """Stand still."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        """Go on."""
        self._thawed.set()

    def _answer(self, stream: ScriptedStream, frame: memoryview) -> None:
        if stream not in self._frames:
            send, receive = trio.open_memory_channel[bytes](1000)
            self._frames[stream] = send
            self.cluster.nursery.start_soon(self._carry_out, stream, receive)
        self._frames[stream].send_nowait(bytes(frame))

    async def _carry_out(self, stream: ScriptedStream, frames: trio.MemoryReceiveChannel[bytes]) -> None:
        async for frame in frames:
            await trio.sleep(self.cluster.delay_s())
            await self._thawed.wait()
            super()._answer(stream, memoryview(frame))

    def _metadata(self, version: int, request: Message) -> Message:
        answer = metadata_answer(
            {node: (f"b{node}", 9092) for node in self.cluster.brokers}, {TOPIC: self.cluster.leaders}
        )
        answer.topics[0].topic_id = self.cluster.topic_id
        for part in answer.topics[0].partitions:
            part.leader_epoch = self.cluster.epochs.get(part.partition_index, 3)
        wanted = [topic.name for topic in request.topics]
        answer.topics = [topic for topic in answer.topics if topic.name in wanted]
        if self.cluster.is_topic_gone:
            answer.topics = []
        for name in wanted:
            if name != TOPIC or self.cluster.is_topic_gone:
                answer.topics.append(
                    Message(error_code=ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, name=name, partitions=[])
                )
        return answer

    def _init_producer_id(self, version: int, request: Message) -> Message:
        self.cluster.producer_id += 1
        return Message(error_code=0, producer_id=self.cluster.producer_id, producer_epoch=0)

    def _produce(self, version: int, request: Message) -> Message | Instead:
        parts: list[Message] = []
        instead: Instead | None = None
        for topic in request.topic_data:
            for part in topic.partition_data:
                result: tuple[ErrorCode, int] | Instead = (ErrorCode.UNKNOWN_TOPIC_ID, -1)
                if getattr(topic, "topic_id", self.cluster.topic_id) == self.cluster.topic_id:
                    result = self._append(part.index, part.records, request.acks)
                if isinstance(result, Instead):
                    instead = result
                else:
                    parts.append(Message(index=part.index, error_code=int(result[0]), base_offset=result[1]))
                    self._tell_leader(parts[-1])
        if instead is not None:
            return instead
        if request.acks == 0:
            return SILENCE
        topic = Message(name=TOPIC, topic_id=request.topic_data[0].topic_id, partition_responses=parts)
        told = {part.current_leader.leader_id for part in parts if hasattr(part, "current_leader")}
        endpoints = [Message(node_id=node, host=f"b{node}", port=9092, rack=None) for node in sorted(told)]
        return Message(responses=[topic], node_endpoints=endpoints)

    def _tell_leader(self, part: Message) -> None:
        """As KIP-951 has it, where a test has said what the epochs are."""
        index: int = part.index
        leader, epoch = self.cluster.leaders[index], self.cluster.epochs.get(index)
        if (
            part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
            and epoch is not None
            and leader != self.node_id
        ):
            part.current_leader = Message(leader_id=leader, leader_epoch=epoch)

    def _append(self, index: int, records: memoryview, acks: int) -> tuple[ErrorCode, int] | Instead:
        cluster = self.cluster
        if cluster.is_topic_gone:
            return ErrorCode.UNKNOWN_TOPIC_ID, -1
        if cluster.leaders[index] != self.node_id:
            return ErrorCode.NOT_LEADER_OR_FOLLOWER, -1
        is_appended, answer = cluster.fate(index, records)
        base_offset = -1
        if is_appended:
            code, base_offset = cluster.logs[index].append(records)
            if code is not ErrorCode.NONE:
                return code, base_offset
        if isinstance(answer, Instead):
            return answer
        return answer, base_offset if answer is ErrorCode.NONE else -1


GOOD: Fate = (True, ErrorCode.NONE)


class ProducingCluster:
    """Brokers, leaders, logs, and the fate of each batch."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        partition_count: int = 1,
        broker_count: int = 1,
        fate: Callable[[int, memoryview], Fate] | None = None,
        delay_s: Callable[[], float] = lambda: 0.001,
        seed: int = 7,
    ) -> None:
        self.nursery = nursery
        self.brokers: Mapping[int, ProducingBroker] = {
            node: ProducingBroker(self, node) for node in range(1, broker_count + 1)
        }
        self.leaders = [1 + index % broker_count for index in range(partition_count)]
        self.epochs: dict[int, int] = {}
        """Leader epochs by partition; where one is given, a broker that does not lead says who does."""
        self.logs = [PartitionLog() for _ in range(partition_count)]
        self.producer_id = 99
        self.topic_id = TOPIC_ID
        self.is_topic_gone = False
        self.fate: Callable[[int, memoryview], Fate] = fate or (lambda index, records: GOOD)
        self.delay_s = delay_s
        self.network = ScriptedNetwork({(f"b{node}", 9092): broker for node, broker in self.brokers.items()})
        self._random = random.Random(seed)

    @property
    def environment(self) -> Environment:
        """The real ports, but for the network, time and chance."""
        return dataclasses.replace(
            production_environment(), network=self.network, random=self._random, clock=TrioClock()
        )

    def forget_topic(self) -> None:
        """The topic is deleted."""
        self.is_topic_gone = True

    def make_topic_anew(self) -> None:
        """The topic is deleted, and another of its name and size is made."""
        self.topic_id = bytes(reversed(self.topic_id))
        self.logs = [PartitionLog() for _ in self.logs]

    def hang_up(self, node_id: int) -> None:
        """End all connections to a broker."""
        for stream in self.brokers[node_id].streams:
            stream.end()


__all__ = ["GOOD", "HANG_UP", "SILENCE", "TOPIC", "Fate", "PartitionLog", "ProducingCluster"]
