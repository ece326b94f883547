"""The consumer against brokers that say what the test wants: sessions, leader changes, cut logs, replicas, corrupt bytes."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from tests.support.batches import TRANSACTIONAL, encode_batch, patched
from tests.support.scripted_broker import (
    SILENCE,
    Instead,
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)

from penstock.client.metadata import TopicPartition
from penstock.consumer.assignment_state import PartitionState
from penstock.consumer.consumer import Consumer
from penstock.consumer.errors import CorruptRecords, LogTruncated
from penstock.protocol.api import ApiKey
from penstock.protocol.compression import Codec
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.protocol.records import encode_batch as encode_records

TOPIC_ID = b"0123456789abcdef"
ADDRESS = ("broker", 9092)
TP = TopicPartition("t", 0)
LIMIT_S = 5


class Log:
    """One partition's batches, served like a broker's: what is at the end gets no answer until more comes."""

    def __init__(self, *batches: bytes, nodes: tuple[int, ...] = (1,)) -> None:
        self.batches = list(batches)
        self.topic_id = TOPIC_ID
        self.epoch = 3
        self.fetches: list[Message] = []
        self.errors: list[int] = []
        self.replica_errors: list[int] = []
        self.aborted: list[tuple[int, int]] | None = None
        self.preferred_read_replica = -1
        self.epoch_end: tuple[int, int] = (3, 1 << 40)
        self.session_id = 0
        self.session_errors: list[int] = []
        self.lookup_errors: list[int] = []
        self.latest = 0
        self.earliest = 0
        self.brokers = {node: ScriptedBroker(self.handlers(node)) for node in nodes}
        self.addresses = {node: (f"node{node}", 9092) for node in nodes}
        self.asked_nodes: list[int] = []
        self.at = 0
        self.at_end = trio.Event()
        """Set when somebody asks for what comes next."""
        self.leader = 1
        self.metadata_count = 0

    def handlers(self, node: int) -> dict[ApiKey, Callable[[int, Message], Message | Instead]]:
        return {
            ApiKey.METADATA: self.metadata,
            ApiKey.LIST_OFFSETS: self.list_offsets,
            ApiKey.OFFSET_FOR_LEADER_EPOCH: self.epochs,
            ApiKey.FETCH: lambda version, request: self.fetch(node, version, request),
        }

    def metadata(self, version: int, request: Message) -> Message:
        self.metadata_count += 1
        answer = metadata_answer(self.addresses, {"t": [self.leader]})
        answer.topics[0].topic_id = self.topic_id
        answer.topics[0].partitions[0].leader_epoch = self.epoch
        return answer

    def list_offsets(self, version: int, request: Message) -> Message:
        wanted = request.topics[0].partitions[0]
        offset = self.earliest if wanted.timestamp == -2 else self.latest
        code = self.lookup_errors.pop(0) if self.lookup_errors else 0
        part = Message(
            partition_index=0, error_code=code, offset=offset, timestamp=-1, leader_epoch=self.epoch
        )
        return Message(topics=[Message(name="t", partitions=[part])])

    def epochs(self, version: int, request: Message) -> Message:
        epoch, end = self.epoch_end
        part = Message(partition=0, error_code=0, leader_epoch=epoch, end_offset=end)
        return Message(topics=[Message(topic="t", partitions=[part])])

    def fetch(self, node: int, version: int, request: Message) -> Message | Instead:
        self.fetches.append(request)
        self.asked_nodes.append(node)
        if self.session_errors:
            return Message(error_code=self.session_errors.pop(0), session_id=0, responses=[])
        named = [part for topic in request.topics for part in topic.partitions]
        offset = named[0].fetch_offset if named else self.at
        self.at = offset
        if node != self.leader and node == 1:
            return self.deposed()
        part: dict[str, Any] = {
            "partition_index": 0,
            "high_watermark": 1 << 30,
            "last_stable_offset": 1 << 30,
        }
        if self.errors:
            part |= {"error_code": self.errors.pop(0), "records": b""}
        elif node == 2 and self.replica_errors:
            part |= {"error_code": self.replica_errors.pop(0), "records": b""}
        elif self.preferred_read_replica >= 0 and node == 1:
            part |= {"preferred_read_replica": self.preferred_read_replica, "records": b""}
            self.preferred_read_replica = -1
        else:
            chosen = [batch for batch in self.batches if _next_offset(batch) > offset]
            if not chosen:
                self.at_end.set()
                return SILENCE
            aborted = [Message(producer_id=pid, first_offset=first) for pid, first in self.aborted or ()]
            part |= {"records": b"".join(chosen), "aborted_transactions": aborted}
        topic = Message(topic="t", topic_id=self.topic_id, partitions=[Message(**part)])
        return Message(session_id=self.session_id, responses=[topic])

    def deposed(self) -> Message:
        """What a broker says that leads no more (KIP-951)."""
        leader = Message(leader_id=self.leader, leader_epoch=self.epoch)
        part = Message(
            partition_index=0,
            error_code=ErrorCode.NOT_LEADER_OR_FOLLOWER,
            high_watermark=-1,
            records=b"",
            current_leader=leader,
        )
        host, port = self.addresses[self.leader]
        topic = Message(topic="t", topic_id=self.topic_id, partitions=[part])
        endpoint = Message(node_id=self.leader, host=host, port=port, rack=None)
        return Message(session_id=0, responses=[topic], node_endpoints=[endpoint])

    async def replace(self, *batches: bytes, error: ErrorCode | None = None) -> None:
        """Have these instead, once the next fetch is refused with `error`. Returns when they were fetched."""
        await self.at_end.wait()
        self.at_end = trio.Event()
        self.batches = list(batches)
        self.errors = [] if error is None else [error]
        for stream in self.brokers[1].streams:
            stream.end()
        await self.at_end.wait()

    @asynccontextmanager
    async def consumer(self, **options: Any) -> AsyncGenerator[Consumer]:
        """A consumer of this log; the block has a deadline."""
        network = ScriptedNetwork({self.addresses[node]: broker for node, broker in self.brokers.items()})
        environment = scripted_environment(network)
        options.setdefault("auto_offset_reset", "earliest")
        consumer = Consumer("node1:9092", environment=environment, **options)
        with trio.fail_after(LIMIT_S):
            async with consumer:
                yield consumer


def _next_offset(batch: bytes) -> int:
    return int.from_bytes(batch[:8], "big") + int.from_bytes(batch[23:27], "big") + 1


def batch(offset: int, *values: bytes, epoch: int = 3, **more: Any) -> bytes:
    return encode_batch(values, base_offset=offset, leader_epoch=epoch, **more)


def marker(offset: int, producer_id: int, *, commit: bool) -> bytes:
    key = b"\0\0\0\1" if commit else b"\0\0\0\0"
    return batch(
        offset, b"\0" * 6, key=key, attributes=TRANSACTIONAL | 0x20, producer_id=producer_id, producer_epoch=0
    )


async def offsets(consumer: Consumer, count: int) -> list[int]:
    return [(await anext(consumer)).offset for _ in range(count)]


def state_of(consumer: Consumer) -> PartitionState:
    """Its only partition."""
    (state,) = consumer._state.partitions.values()  # pyright: ignore[reportPrivateUsage]
    return state


async def test_a_fetch_session_names_only_what_has_changed() -> None:
    log = Log(batch(0, b"a", b"b"))
    log.session_id = 77
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 2) == [0, 1]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert [(one.session_id, one.session_epoch) for one in log.fetches] == [(0, 0), (77, 1)]
        assert [part.fetch_offset for part in log.fetches[1].topics[0].partitions] == [2]


async def test_a_lost_session_is_begun_anew() -> None:
    log = Log(batch(0, b"a"))
    log.session_id = 77
    log.session_errors = [ErrorCode.FETCH_SESSION_ID_NOT_FOUND, ErrorCode.INVALID_FETCH_SESSION_EPOCH]
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 1) == [0]
        assert [one.session_epoch for one in log.fetches[:3]] == [0, 0, 0]
        assert all(one.topics for one in log.fetches[:3])


async def test_records_below_the_position_in_a_batch_are_skipped() -> None:
    log = Log(batch(0, b"a", b"b", b"c"), batch(3, b"d"))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        consumer.seek(TP, 2)
        assert await offsets(consumer, 2) == [2, 3]


async def test_aborted_and_control_records_are_left_out_and_committed_ones_are_not() -> None:
    def transactional(offset: int, producer_id: int, *values: bytes) -> bytes:
        return batch(
            offset,
            *values,
            attributes=TRANSACTIONAL,
            producer_id=producer_id,
            producer_epoch=0,
            base_sequence=0,
        )

    log = Log(
        transactional(0, 1, b"aborted"),
        transactional(1, 2, b"committed"),
        marker(2, 1, commit=False),
        transactional(3, 1, b"committed later"),
        marker(4, 2, commit=True),
        marker(5, 1, commit=True),
        batch(6, b"plain"),
        transactional(7, 2, b"aborted at the end"),
        marker(8, 2, commit=False),
    )
    log.aborted = [(2, 7), (1, 0)]
    async with log.consumer(isolation_level="read_committed") as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 3) == [1, 3, 6]
        await trio.testing.wait_all_tasks_blocked(0.01)
        with trio.move_on_after(0.05):
            await anext(consumer)
        assert await consumer.position(TP) == 9, "the position is behind what was left out"
        assert log.fetches[0].isolation_level == 1


async def test_a_marker_that_compaction_emptied_ends_nothing() -> None:
    emptied = encode_records(
        [],
        codec=Codec.NONE,
        base_offset=1,
        keep_offsets=True,
        last_offset_delta=0,
        producer_id=1,
        producer_epoch=0,
        is_transactional=True,
        is_control=True,
    )
    log = Log(batch(0, b"a"), emptied, batch(2, b"b"))
    log.aborted = []
    async with log.consumer(isolation_level="read_committed") as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 2) == [0, 2]


async def test_a_corrupt_batch_is_told_after_what_is_before_it_and_can_be_skipped() -> None:
    bad = bytearray(batch(2, b"bad", b"bad"))
    bad[-3] ^= 1
    log = Log(batch(0, b"a", b"b"), bytes(bad), batch(4, b"c"))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 2) == [0, 1]
        for _ in range(2):
            with pytest.raises(CorruptRecords) as caught:
                await anext(consumer)
            assert (caught.value.offset, caught.value.next_offset) == (2, 4)
        consumer.seek(TP, 4)
        assert await offsets(consumer, 1) == [4]


async def test_a_paused_partition_that_gives_up_its_buffer_gives_up_the_failure_behind_it() -> None:
    bad = bytearray(batch(2, b"bad"))
    bad[16] = 7  # the magic
    log = Log(batch(0, b"a", b"b"), bytes(bad))
    async with log.consumer(prefetch_max_bytes=1) as consumer:
        consumer.assign([TP])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert state_of(consumer).failure is not None
        consumer.pause(TP)
        consumer._state.room_bytes()  # pyright: ignore[reportPrivateUsage]
        consumer.resume(TP)
        assert await offsets(consumer, 2) == [0, 1]
        with pytest.raises(CorruptRecords) as caught:
            await anext(consumer)
        assert caught.value.offset == 2


async def test_a_batch_that_can_not_be_decoded_is_told_too() -> None:
    log = Log(batch(0, b"a"), patched(batch(1, b"b", b"c"), ">i", 57, 3), batch(3, b"d"))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 1) == [0]
        with pytest.raises(CorruptRecords):
            await anext(consumer)
        consumer.seek(TP, 3)
        assert await offsets(consumer, 1) == [3]


async def test_a_new_leader_whose_log_goes_on_is_followed_without_a_gap() -> None:
    log = Log(batch(0, b"a", b"b"))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 2) == [0, 1]
        await trio.testing.wait_all_tasks_blocked(0.01)
        log.epoch = 4
        log.batches.append(batch(2, b"c", epoch=4))
        log.errors = [ErrorCode.FENCED_LEADER_EPOCH]
        consumer.seek(TP, 2)
        assert await offsets(consumer, 1) == [2]
        named = [part for one in log.fetches for topic in one.topics for part in topic.partitions]
        assert named[-1].current_leader_epoch == 4


async def test_the_leader_that_a_deposed_one_names_is_gone_to_without_metadata() -> None:
    log = Log(batch(0, b"a", b"b"), nodes=(1, 2))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 2) == [0, 1]
        await trio.testing.wait_all_tasks_blocked(0.01)
        asked = log.metadata_count
        log.leader, log.epoch = 2, 4
        log.batches.append(batch(2, b"c", epoch=4))
        consumer.seek(TP, 2)
        assert await offsets(consumer, 1) == [2]
        assert log.asked_nodes[-1] == 2
        assert log.metadata_count == asked


@pytest.mark.parametrize("policy", ["earliest", "none"])
async def test_a_log_that_was_cut_below_the_position_is_noticed(policy: str) -> None:
    log = Log(batch(0, b"a", b"b"), batch(2, b"c", b"d"))
    async with log.consumer(auto_offset_reset=policy) as consumer:
        consumer.assign([TP])
        consumer.seek(TP, 0)
        assert await offsets(consumer, 4) == [0, 1, 2, 3]
        await trio.testing.wait_all_tasks_blocked(0.01)
        # The new leader has only the first batch of epoch 3, and went on from there.
        log.batches = [batch(0, b"a", b"b"), batch(2, b"x", epoch=5)]
        log.epoch, log.epoch_end = 5, (3, 2)
        for stream in log.brokers[1].streams:
            stream.end()
        if policy == "none":
            with pytest.raises(LogTruncated) as caught:
                await anext(consumer)
            assert (caught.value.offset, caught.value.diverging_offset) == (4, 2)
            consumer.seek(TP, 2)
        record = await anext(consumer)
        assert (record.offset, record.value, record.leader_epoch) == (2, b"x", 5)


@pytest.mark.parametrize("end", [1, 3])
async def test_a_log_that_is_cut_within_the_batch_of_a_loop_is_read_on_from_the_cut_or_the_loop(
    end: int,
) -> None:
    old, new = [b"a", b"b", b"c", b"d"], [b"x", b"y", b"z"]
    log = Log(batch(0, *old))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert [(await anext(consumer)).value for _ in range(2)] == old[:2]
        log.epoch, log.epoch_end = 5, (3, end)
        kept = [batch(offset, old[offset]) for offset in range(end)]
        await log.replace(*kept, batch(end, *new, epoch=5))
        consumer.pause(TP)
        consumer.resume(TP)
        following = old[2:end] + new
        assert [(await anext(consumer)).value for _ in following] == following


async def test_a_loop_that_was_broken_off_puts_nothing_back_into_a_log_that_was_reset() -> None:
    log = Log(batch(0, b"a", b"b", b"c", b"d"))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 3) == [0, 1, 2]
        log.epoch, log.epoch_end = 5, (-1, -1)
        await log.replace(batch(0, b"v", b"w", b"x", b"y", epoch=5))
        assert (await consumer.next_batch()).values() == [b"v", b"w", b"x", b"y"]


async def test_the_replica_that_the_leader_names_is_read_from() -> None:
    log = Log(batch(0, b"a"), nodes=(1, 2))
    log.preferred_read_replica = 2
    async with log.consumer(rack="r") as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 1) == [0]
        assert log.asked_nodes[:2] == [1, 2]
        assert log.fetches[0].rack_id == "r"


async def test_what_the_replica_refuses_the_leader_is_asked() -> None:
    log = Log(batch(0, b"a"), nodes=(1, 2))
    log.preferred_read_replica = 2
    log.replica_errors = [ErrorCode.OFFSET_OUT_OF_RANGE]
    async with log.consumer(rack="r") as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 1) == [0]
        assert log.asked_nodes[:3] == [1, 2, 1]


async def test_a_replica_that_is_a_moment_behind_is_asked_again_and_not_without_end() -> None:
    log = Log(batch(0, b"a"), nodes=(1, 2))
    log.preferred_read_replica = 2
    log.replica_errors = [ErrorCode.OFFSET_NOT_AVAILABLE] * 2
    async with log.consumer(rack="r") as consumer:
        consumer.assign([TP])
        began = trio.current_time()
        assert await offsets(consumer, 1) == [0]
        assert log.asked_nodes[:4] == [1, 2, 2, 2]
        assert trio.current_time() - began > 0.06


async def test_a_replica_that_the_leader_names_again_when_its_time_is_over_is_read_again() -> None:
    log = Log(batch(0, b"a"), nodes=(1, 2))
    log.preferred_read_replica = 2
    async with log.consumer(rack="r") as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 1) == [0]
        await trio.testing.wait_all_tasks_blocked(0.01)
        asked_count = len(log.asked_nodes)
        state_of(consumer).read_replica_until_s = 0.0
        log.preferred_read_replica = 2
        log.batches.append(batch(1, b"b"))
        consumer.seek(TP, 1)
        assert await offsets(consumer, 1) == [1]
        assert log.asked_nodes[asked_count : asked_count + 2] == [1, 2]


async def test_a_leader_that_came_while_a_replica_was_read_is_asked_when_the_replicas_time_is_over() -> None:
    log = Log(batch(0, b"a"), nodes=(1, 2, 3))
    log.preferred_read_replica = 2
    async with log.consumer(rack="r", partition_fetch_max_bytes=1) as consumer:
        consumer.assign([TP])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert log.asked_nodes == [1, 2], "one batch waits, and nothing is asked for beside it"
        log.leader, log.epoch = 3, 4
        consumer._positioner._topics.invalidate("t")  # pyright: ignore[reportPrivateUsage]
        consumer._positioner.wake()  # pyright: ignore[reportPrivateUsage]
        await trio.testing.wait_all_tasks_blocked(0.01)
        state_of(consumer).read_replica_until_s = 0.0
        log.batches.append(batch(1, b"b", epoch=4))
        assert await offsets(consumer, 2) == [0, 1]
        assert log.asked_nodes == [1, 2, 3]


async def test_an_offset_out_of_range_is_reset_by_policy() -> None:
    log = Log(batch(5, b"a"))
    log.earliest = 5
    log.errors = [ErrorCode.OFFSET_OUT_OF_RANGE]
    async with log.consumer() as consumer:
        consumer.assign([TP])
        consumer.seek(TP, 1)
        assert await offsets(consumer, 1) == [5]


async def test_what_waits_of_a_log_does_not_stand_before_a_shorter_one() -> None:
    log = Log(batch(0, b"a", b"b", b"c", b"d"))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert (await consumer.next_batch(max_records=2)).values() == [b"a", b"b"]
        await log.replace(batch(0, b"x", b"y"), error=ErrorCode.OFFSET_OUT_OF_RANGE)
        assert (await consumer.next_batch()).values() == [b"x", b"y"]


async def test_a_topic_made_anew_while_an_offset_is_looked_for_is_fetched_at_its_own_epoch() -> None:
    log = Log(batch(0, b"a", b"b"))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        assert await offsets(consumer, 2) == [0, 1]
        await trio.testing.wait_all_tasks_blocked(0.01)
        log.topic_id, log.epoch = b"fedcba9876543210", 0
        log.batches = [batch(0, b"x", epoch=0)]
        log.lookup_errors = [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        consumer.seek_to_beginning(TP)
        assert (await anext(consumer)).value == b"x"
        named = [part for one in log.fetches for topic in one.topics for part in topic.partitions]
        assert named[-1].current_leader_epoch == 0


async def test_an_answer_to_an_old_question_is_dropped() -> None:
    log = Log(batch(0, b"a", b"b", b"c"))
    async with log.consumer() as consumer:
        consumer.assign([TP])
        await trio.testing.wait_all_tasks_blocked(0.01)
        consumer.seek(TP, 1)
        assert await offsets(consumer, 2) == [1, 2]


async def test_a_batch_is_decompressed_off_the_loop_and_a_cancelled_wait_loses_it_not() -> None:
    from penstock.protocol.compression import Codec
    from penstock.protocol.records import Record
    from penstock.protocol.records import encode_batch as encode

    values = [bytes(str(number), "ascii") * 400 for number in range(1000)]
    records = [Record(number, 0, None, value) for number, value in enumerate(values)]
    raw = encode(records, codec=Codec.GZIP)
    noise = encode(
        [Record(0, 0, None, bytes((n * n * 7919 + n // 3) % 251 for n in range(200_000)))],
        codec=Codec.GZIP,
        base_offset=1000,
    )
    log = Log(raw, noise)
    async with log.consumer() as consumer:
        consumer.assign([TP])
        with trio.CancelScope() as scope:
            scope.cancel()
            await anext(consumer)
        found = [await anext(consumer) for _ in range(1001)]
        assert [record.value for record in found[:1000]] == values
        assert found[1000].offset == 1000
