"""The clients of a broker that dies again and again: each holds on to what it was promised, and goes on in the next life.

`run(connection)` is one life, ended by cancellation. What a client does with an answer it does at once, so that a life ends between two steps.
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.crashes.connection import Connection, encoded, next_offset, seen_in, topics_of
from tests.support.crashes.ledger import Batch, KeyedBatch, Ledger

from penstock.broker.connection import Outcome
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.files import FileSystem
from penstock.storage.damage import find_unwritten_sector, is_one_bit_off
from penstock.storage.errors import CorruptBatch
from penstock.storage.layout import OFFSET_MAX

THINK_S = (0.0, 0.0, 0.001, 0.005, 0.03)
IN_FLIGHT_MAX = 3
GROUP_PLACE = ("kept", 0)


class PlainProducer:
    """Sends each batch once, and does not wonder about those that it never hears of."""

    def __init__(self, name: str, ledger: Ledger, acks: int) -> None:
        self.name = name
        self.ledger = ledger
        self.acks = acks
        self._number = 0

    def next_batch(self, count: int) -> Batch:
        """A new one, noted as sent."""
        batch = Batch(self.name, self._number, count)
        self._number += 1
        self.ledger.send(batch)
        return batch

    async def run(self, connection: Connection) -> None:
        while True:
            await connection.think(*THINK_S)
            await self.send_one(connection)

    async def send_one(self, connection: Connection) -> int:
        """Send a batch, and return the code of the answer."""
        ledger = self.ledger
        batch = self.next_batch(connection.random.randrange(1, 4))
        partition = connection.memory.broker.partitions.by_name(ledger.topic, ledger.index)
        settings = None if partition is None else partition.settings
        outcome = connection.send(ledger.topic, ledger.index, encoded(batch), self.acks)
        if outcome is None:
            return 0
        part = await connection.hear(outcome)
        if not part.error_code and self.acks:
            unchanged = partition is not None and settings is partition.settings
            is_kept = settings is not None and unchanged and not settings.write_caching
            ledger.ack(batch, part.base_offset, survives_power_cut=is_kept)
        return int(part.error_code)


class KeyedProducer(PlainProducer):
    """Sends records with keys, which a compacted topic asks for."""

    def next_batch(self, count: int) -> Batch:
        plain = super().next_batch(count)
        return KeyedBatch(plain.producer, plain.number, plain.count)


class Meanwhile(PlainProducer):
    """Sends a batch while a sync is under way, and hears of it afterwards."""

    def __init__(self, name: str, ledger: Ledger) -> None:
        super().__init__(name, ledger, 1)
        self._sent: deque[tuple[Batch, Outcome]] = deque()

    def send_now(self, connection: Connection) -> None:
        """Without waiting for anything."""
        batch = self.next_batch(1)
        outcome = connection.send(self.ledger.topic, self.ledger.index, encoded(batch), 1)
        self._sent.append((batch, outcome))

    async def run(self, connection: Connection) -> None:
        self._sent.clear()
        while True:
            await connection.think(0.001)
            while self._sent:
                batch, outcome = self._sent.popleft()
                part = await connection.hear(outcome)
                if not part.error_code:
                    self.ledger.ack(batch, part.base_offset, survives_power_cut=True)


class IdempotentProducer:
    """Keeps up to three batches in flight, and sends again until each was acked, in order.

    The first one of an id goes alone: a producer that is not known may begin anywhere, as in Kafka, and so the second would if the first is refused.
    """

    def __init__(self, name: str, ledger: Ledger) -> None:
        self.name = name
        self.ledger = ledger
        self._id = -1
        self._number = 0
        self._sequence = 0
        self._pending: deque[tuple[Batch, bytes]] = deque()
        self._is_known = False

    async def run(self, connection: Connection) -> None:
        while True:
            await connection.think(*THINK_S)
            if self._id < 0:
                answer = await connection.call(
                    ApiKey.INIT_PRODUCER_ID,
                    transactional_id=None,
                    transaction_timeout_ms=0,
                    producer_id=-1,
                    producer_epoch=-1,
                )
                if answer.error_code:
                    continue
                self._id, self._sequence = int(answer.producer_id), 0
            await self._send_pending(connection)

    async def _send_pending(self, connection: Connection) -> None:
        ledger = self.ledger
        while len(self._pending) < (IN_FLIGHT_MAX if self._is_known else 1):
            self._pending.append(self._next(connection.random.randrange(1, 4)))
        outcomes = [connection.send(ledger.topic, ledger.index, raw, -1) for _, raw in self._pending]
        is_head = True
        for outcome in outcomes:
            part = await connection.hear(outcome)
            if part.error_code:
                if is_head:
                    self._head_refused(ErrorCode(part.error_code))
                is_head = False
            elif is_head:
                self._is_known = True
                batch, _ = self._pending.popleft()
                ledger.ack(batch, part.base_offset, survives_power_cut=ledger.is_strict)

    def _next(self, count: int) -> tuple[Batch, bytes]:
        batch = Batch(self.name, self._number, count)
        self._number += 1
        self.ledger.send(batch)
        raw = encoded(batch, producer_id=self._id, sequence=self._sequence)
        self._sequence += count
        return batch, raw

    def _head_refused(self, code: ErrorCode) -> None:
        """Nothing before it is open, so its sequence must follow, unless a power cut was allowed to take what came before."""
        if code in (ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode.DUPLICATE_SEQUENCE_NUMBER):
            assert not self.ledger.is_strict, f"{self.name}: {code.name}, though all before it was acked"
            self._pending.clear()
            self._id = -1
            self._is_known = False


class Reader:
    """Reads on from where it is."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._position = 0

    async def run(self, connection: Connection) -> None:
        ledger = self.ledger
        while True:
            await connection.think(*THINK_S)
            log_start = ledger.log_start
            part = await connection.fetch(ledger.topic, ledger.index, self._position, max_wait_ms=20)
            if part.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
                self._position = max(part.log_start_offset, 0)
            elif not part.error_code:
                ledger.see(
                    seen_in(part, self._position),
                    part.log_start_offset,
                    part.high_watermark,
                    log_start_before=log_start,
                )
                self._position = next_offset(part, self._position)


class Deleter:
    """Moves the log start of a partition forward, now and then."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def run(self, connection: Connection) -> None:
        ledger = self.ledger
        while True:
            await connection.think(0.01, 0.05)
            if ledger.high_watermark <= ledger.log_start:
                continue
            offset = connection.random.randrange(ledger.log_start, ledger.high_watermark + 1)
            ledger.log_start_tried = max(ledger.log_start_tried, offset)
            topics = topics_of(ledger.topic, partition_index=ledger.index, offset=offset)
            answer = await connection.call(ApiKey.DELETE_RECORDS, topics=topics, timeout_ms=1000)
            part = answer.topics[0].partitions[0]
            if not part.error_code:
                ledger.log_start = max(ledger.log_start, part.low_watermark)


class Toggler:
    """Turns write.caching on and off."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    async def run(self, connection: Connection) -> None:
        while True:
            for value in ("true", "false"):
                await connection.think(0.02, 0.1, 0.3)
                config = Message(name="write.caching", config_operation=0, value=value)
                resource = Message(resource_type=2, resource_name=self._topic, configs=[config])
                await connection.call(
                    ApiKey.INCREMENTAL_ALTER_CONFIGS, resources=[resource], validate_only=False
                )


class Committer:
    """Commits rising offsets for a group, and looks whether they are there (PROPERTIES G2)."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._acked = -1
        self._tried = -1
        self.acked_count = 0

    async def run(self, connection: Connection) -> None:
        answer = await connection.call(ApiKey.FIND_COORDINATOR, key_type=0, coordinator_keys=[self._group])
        while answer.coordinators[0].error_code:
            await connection.think(0.05)
            answer = await connection.call(
                ApiKey.FIND_COORDINATOR, key_type=0, coordinator_keys=[self._group]
            )
        while True:
            await self.look(connection)
            for _ in range(5):
                await connection.think(*THINK_S)
                await self._commit(connection)

    async def _commit(self, connection: Connection) -> None:
        topic, index = GROUP_PLACE
        self._tried += 1
        offset = self._tried
        topics = topics_of(
            topic,
            partition_index=index,
            committed_offset=offset,
            committed_leader_epoch=-1,
            committed_metadata="",
        )
        answer = await connection.call(
            ApiKey.OFFSET_COMMIT,
            group_id=self._group,
            generation_id_or_member_epoch=-1,
            member_id="",
            group_instance_id=None,
            topics=topics,
        )
        if not answer.topics[0].partitions[0].error_code:
            self._acked = offset
            self.acked_count += 1

    async def look(self, connection: Connection) -> None:
        """What a fetch of the offset returns was acked, or tried since; and it stays."""
        topic, index = GROUP_PLACE
        topics = [Message(name=topic, partition_indexes=[index])]
        group = Message(group_id=self._group, member_id=None, member_epoch=-1, topics=topics)
        answer = (await connection.call(ApiKey.OFFSET_FETCH, groups=[group], require_stable=True)).groups[0]
        if answer.error_code:
            return
        found = answer.topics[0].partitions[0].committed_offset
        assert self._acked <= found <= self._tried, (
            f"{self._group}: {found} is committed, {self._acked} was acked, {self._tried} tried"
        )
        self._acked = found


@dataclass(slots=True)
class _Topic:
    """One topic that comes and goes. `exists` is None while the outcome of the last change is not known."""

    name: str
    topic_id: bytes = b""
    exists: bool | None = False
    ledger: Ledger | None = None
    gone_ids: set[bytes] = field(default_factory=set[bytes])


class Administrator:
    """Makes topics, writes a little to them, and deletes them, under names that come again."""

    def __init__(self, names: tuple[str, ...], new_ledger: Callable[[str], Ledger]) -> None:
        self._topics = [_Topic(name) for name in names]
        self._new_ledger = new_ledger
        self.made_count = self.deleted_count = 0

    async def run(self, connection: Connection) -> None:
        for topic in self._topics:
            self._look(connection, topic)
            if topic.exists and topic.ledger is not None:
                await check_ledger(connection, topic.ledger)
        while True:
            topic = connection.random.choice(self._topics)
            await connection.think(0.01, 0.05)
            if topic.exists is None:
                self._look(connection, topic)
            elif not topic.exists:
                await self._create(connection, topic)
            elif connection.random.random() < 0.5:
                await self._delete(connection, topic)
            else:
                await self._write(connection, topic)

    def _look(self, connection: Connection, topic: _Topic) -> None:
        """What the broker says of a topic, against what it said before."""
        found = connection.memory.broker.image.topic(topic.name)
        if found is not None:
            assert found.topic_id not in topic.gone_ids, f"{topic.name}: a deleted topic is back"
        if topic.exists is not None:
            assert (found is not None) == topic.exists, f"{topic.name}: exists: {found}, told {topic.exists}"
        if found is None:
            topic.exists, topic.ledger = False, None
        elif found.topic_id != topic.topic_id:
            assert topic.exists is None, f"{topic.name}: another topic under its name"
            topic.exists, topic.topic_id, topic.ledger = True, found.topic_id, self._new_ledger(topic.name)
        else:
            topic.exists = True

    async def _create(self, connection: Connection, topic: _Topic) -> None:
        topic.exists = None
        new = Message(name=topic.name, num_partitions=1, replication_factor=1, assignments=[], configs=[])
        answer = await connection.call(
            ApiKey.CREATE_TOPICS, topics=[new], timeout_ms=1000, validate_only=False
        )
        if not answer.topics[0].error_code:
            topic.exists, topic.topic_id = True, bytes(answer.topics[0].topic_id)
            topic.ledger = self._new_ledger(topic.name)
            self.made_count += 1

    async def _delete(self, connection: Connection, topic: _Topic) -> None:
        topic.exists = None
        wanted = [Message(name=topic.name, topic_id=bytes(16))]
        answer = await connection.call(ApiKey.DELETE_TOPICS, topics=wanted, timeout_ms=1000)
        if not answer.responses[0].error_code:
            topic.exists, topic.ledger = False, None
            topic.gone_ids.add(topic.topic_id)
            self.deleted_count += 1

    async def _write(self, connection: Connection, topic: _Topic) -> None:
        assert topic.ledger is not None
        name = f"admin.{len(topic.gone_ids)}.{len(topic.ledger.sent)}"
        await PlainProducer(name, topic.ledger, -1).send_one(connection)


async def check_ledger(connection: Connection, ledger: Ledger) -> bool:
    """Compare a ledger with the log; False if the log can't be read, which needs an error of the disk in this life, or a tear of that kind."""
    answer = await connection.read_all(ledger.topic, ledger.index)
    if isinstance(answer, ErrorCode):
        reason = connection.why_unusable(ledger.topic, ledger.index)
        is_excused = connection.process.faults_met or is_too_small_to_tell(connection.process.disk, reason)
        assert is_excused, f"{ledger.name}: {answer.name} without an error of the disk: {reason!r}"
        return False
    ledger.check_log(*answer)
    return True


def is_too_small_to_tell(files: FileSystem, reason: Exception | None) -> bool:
    """Whether a partition was refused since one flipped bit may have done as well what a power cut has: a sector is lost that held no more of a batch that was.

    Looks for zeros up to a sector's end or a whole sector of them, and for a good batch but for one bit (storage/damage.py).
    """
    if not isinstance(reason, CorruptBatch):
        return False
    told = re.search(r"; a good batch follows at (.*):(\d+)$", reason.reason)
    if told is None or told[1] != reason.path:
        return False
    return find_unwritten_sector(
        files, reason.path, reason.position, int(told[2]), OFFSET_MAX
    ) is not None and is_one_bit_off(files, reason.path, reason.position, None)


__all__ = [
    "Administrator",
    "Committer",
    "Deleter",
    "IdempotentProducer",
    "KeyedProducer",
    "Meanwhile",
    "PlainProducer",
    "Reader",
    "Toggler",
    "check_ledger",
]
