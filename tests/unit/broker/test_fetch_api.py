"""The Fetch handler on encoded frames: who is woken by what, what fits, sessions, cold ranges, and that no slice stays behind."""

import sys
import tracemalloc
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from tests.support.batches import values_of
from tests.support.logs import batch
from tests.support.memory_broker import MemoryBroker, held_slices, memory_broker, parts_of
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata

from penstock.broker.api import list_offsets
from penstock.broker.replies import Reply, release
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.files import DiskError

NONE = ErrorCode.NONE


def raw(*values: bytes) -> bytes:
    return bytes(batch(values or [b"v"]))


SIZE = len(raw())


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def fill(broker: MemoryBroker, topic: str = "orders", *values: bytes) -> None:
    for value in values or (b"v",):
        (part,) = await broker.produced(topic, raw(value))
        assert part.error_code == NONE


def sizes(parts: Sequence[Message]) -> list[int]:
    return [len(part.records) for part in parts]


def is_ready(outcome: object) -> bool:
    return not isinstance(outcome, Reply) or outcome.ready


# What there is


@pytest.mark.parametrize("version", [4, 5, 7, 9, 11, 12])
async def test_every_version_gets_the_records_and_the_high_watermark(version: int) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker, "orders", b"a", b"b", b"c")
        (part,) = await broker.fetched(("orders", 0, 1), version=version)
        assert (part.error_code, part.high_watermark, part.last_stable_offset) == (NONE, 3, 3)
        assert values_of(bytes(part.records)) == [(1, b"b"), (2, b"c")]


async def test_topic_ids_name_topics_from_version_13_on() -> None:
    async with memory_broker() as broker:
        topic_id = await broker.create("orders")
        await fill(broker)
        answer = await broker.answer(broker.fetch((topic_id, 0, 0), version=16))
        assert answer.responses[0].topic_id == topic_id
        assert sizes(answer.responses[0].partitions) == [SIZE]


async def test_nothing_is_read_that_is_not_committed() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        broker.threads.hold("sync", after=True)
        broker.produce("orders", raw())
        await settle()
        (part,) = await broker.fetched(("orders", 0, 0))
        assert (part.high_watermark, sizes([part])) == (1, [SIZE])
        (part,) = await broker.fetched(("orders", 0, 1))
        assert (part.error_code, sizes([part])) == (NONE, [0])


async def test_read_committed_gets_an_empty_list_of_aborted_transactions() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        (part,) = await broker.fetched(("orders", 0, 0), isolation_level=1)
        assert part.aborted_transactions == []
        (part,) = await broker.fetched(("orders", 0, 0), isolation_level=0)
        assert part.aborted_transactions is None


# Long poll


async def test_long_poll_is_woken_by_the_commit_and_not_by_the_append() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        outcome = broker.fetch(("orders", 0, 1), max_wait_ms=10_000)
        broker.threads.hold("sync", after=True)
        broker.produce("orders", raw(b"new"))
        await settle()
        assert not is_ready(outcome)
        broker.threads.release("sync")
        await settle()
        assert is_ready(outcome)
        (topic,) = (await broker.answer(outcome)).responses
        assert values_of(bytes(topic.partitions[0].records)) == [(1, b"new")]
        assert not broker.partition().fetch_waiters


async def test_long_poll_waits_until_min_bytes_have_come_over_all_its_partitions() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 2)
        await fill(broker)
        outcome = broker.fetch(("orders", 0, 0), ("orders", 1, 0), max_wait_ms=10_000, min_bytes=3 * SIZE)
        await fill(broker)
        assert not is_ready(outcome)
        await broker.produced("orders", None, raw())
        assert is_ready(outcome)
        answer = await broker.answer(outcome)
        assert [sizes(topic.partitions) for topic in answer.responses] in (
            [[2 * SIZE, SIZE]],
            [[2 * SIZE], [SIZE]],
        )


async def test_long_poll_for_many_bytes_is_not_woken_by_commits_of_a_part() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        outcome = broker.fetch(("orders", 0, 1), max_wait_ms=10_000, min_bytes=3 * SIZE)
        broker.threads.hold("sync", after=True)
        for _ in range(3):
            broker.produce("orders", raw())
            await settle()
        for _ in range(2):
            broker.threads.release_one("sync")
            await settle()
            assert is_ready(outcome) == (broker.partition().high_watermark == 4)
        assert is_ready(outcome)


async def test_long_poll_ends_empty_at_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        started = trio.current_time()
        (part,) = await broker.fetched(("orders", 0, 1), max_wait_ms=3000)
        assert (part.error_code, sizes([part]), trio.current_time() - started) == (NONE, [0], 3)
        (part,) = await broker.fetched(("orders", 0, 0), max_wait_ms=3000, min_bytes=1000)
        assert (sizes([part]), trio.current_time() - started) == ([SIZE], 6), (
            "less than asked for is better than none"
        )
        assert not broker.partition().fetch_waiters


async def test_long_poll_that_nobody_wants_any_more_leaves_nothing_behind() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 2)
        outcomes = [broker.fetch(("orders", 0, 0), ("orders", 1, 0), max_wait_ms=10_000) for _ in range(3)]
        assert len(broker.partition().fetch_waiters) == 3
        for outcome in outcomes:
            assert isinstance(outcome, Reply)
            outcome.abandon()
            outcome.abandon()
        assert not any(partition.fetch_waiters for partition in broker.broker.partitions)


def many(count: int) -> list[tuple[str, int, int]]:
    return [("orders", 0, 1)] * count


async def test_long_polls_of_many_partitions_take_no_more_than_their_bound() -> None:
    """A frame is given back to the budget once it is read; what is kept of it is many times as large, for as long as a client likes."""
    async with memory_broker(queued_max_request_bytes="1000000") as broker:
        await broker.create("orders")
        await fill(broker)
        tracemalloc.start()
        try:
            kept = [broker.fetch(*many(100), max_wait_ms=2**31 - 1) for _ in range(60)]
            taken_bytes = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        waiting = [outcome for outcome in kept if isinstance(outcome, Reply)]
        assert 15 < len(waiting) < 60
        assert taken_bytes < broker.broker.budget.fetch_bytes <= 1_000_000
        (topic,) = (await broker.answer(kept[-1])).responses
        assert {part.error_code for part in topic.partitions} == {NONE}
        assert not is_ready(broker.fetch(*many(3), max_wait_ms=1000)), "who asks for little may wait"
        assert broker.broker.budget.held_bytes == 0, "frames do not wait for it"
        waiting[0].hurry()
        await broker.answer(waiting[0])
        assert not is_ready(broker.fetch(*many(100), max_wait_ms=1000)), "there is room again"


async def test_long_poll_gives_back_what_it_took_however_it_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        budget = broker.broker.budget
        for end in ("time", "stop", "leave", "records"):
            outcome = broker.fetch(*many(100), max_wait_ms=1000)
            assert isinstance(outcome, Reply)
            assert budget.fetch_bytes > 0
            if end == "leave":
                outcome.abandon()
                outcome.abandon()
            else:
                if end == "records":
                    await fill(broker)
                elif end == "stop":
                    outcome.hurry()
                await broker.answer(outcome)
            assert budget.fetch_bytes == 0, end


async def test_stop_answers_a_long_poll_at_once() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        outcome = broker.fetch(("orders", 0, 0), max_wait_ms=10_000)
        assert isinstance(outcome, Reply)
        outcome.hurry()
        assert outcome.ready
        (topic,) = (await broker.answer(outcome)).responses
        assert (topic.partitions[0].error_code, sizes(topic.partitions)) == (NONE, [0])


# Limits


async def test_first_batch_comes_whole_whatever_the_limits_and_further_ones_only_within_them() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 3)
        for _ in range(4):
            await broker.produced("orders", raw(), raw(), raw())
        wanted = (("orders", 0, 0), ("orders", 1, 0), ("orders", 2, 0))
        for limit in (-5, 0, 1, SIZE):
            assert sizes(await broker.fetched(*wanted, max_bytes=limit)) == [SIZE, 0, 0]
        assert sizes(await broker.fetched(*wanted, max_bytes=3 * SIZE, partition_max_bytes=2 * SIZE)) == [
            2 * SIZE,
            SIZE,
            0,
        ]
        assert sizes(await broker.fetched(*wanted, partition_max_bytes=1)) == [SIZE, 0, 0]
        assert not held_slices(list(broker.broker.partitions))


async def test_batch_that_contains_the_offset_comes_whole() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await broker.produced("orders", raw(b"a", b"b", b"c"))
        (part,) = await broker.fetched(("orders", 0, 2))
        assert values_of(bytes(part.records)) == [(0, b"a"), (1, b"b"), (2, b"c")]


# Errors


async def test_error_of_one_partition_is_told_at_once_with_the_data_of_others() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        outcome = broker.fetch(
            ("orders", 0, 0), ("orders", 7, 0), ("unknown", 0, 0), max_wait_ms=10_000, min_bytes=1000
        )
        assert is_ready(outcome)
        answer = await broker.answer(outcome)
        parts = [part for topic in answer.responses for part in topic.partitions]
        assert [part.error_code for part in parts] == [
            NONE,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
            ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ]
        assert sizes(parts) == [SIZE, 0, 0]


@pytest.mark.parametrize("offset", [-1, 2, 2**62])
async def test_offset_out_of_range_is_told_at_once(offset: int) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        (part,) = await broker.fetched(("orders", 0, offset), max_wait_ms=10_000)
        assert part.error_code == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_leader_epoch_that_the_client_knows_is_compared() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        (part,) = await broker.fetched(("orders", 0, 0), current_leader_epoch=0)
        assert part.error_code == NONE
        (part,) = await broker.fetched(("orders", 0, 0), current_leader_epoch=1)
        assert part.error_code == ErrorCode.UNKNOWN_LEADER_EPOCH


async def test_old_leader_epoch_is_fenced() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
    async with memory_broker(files=files, store=store) as broker:
        (part,) = await broker.fetched(("orders", 0, 0), current_leader_epoch=0)
        assert part.error_code == ErrorCode.FENCED_LEADER_EPOCH


async def test_epoch_that_ended_before_the_offset_is_told_as_diverging() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
        await fill(broker)
        (part,) = await broker.fetched(("orders", 0, 1), last_fetched_epoch=0)
        assert part.diverging_epoch.epoch == -1, "nothing diverges"
        (part,) = await broker.fetched(("orders", 0, 1), last_fetched_epoch=5)
        assert part.error_code == ErrorCode.OFFSET_OUT_OF_RANGE, (
            "an epoch that never was: nothing can be compared"
        )
    async with memory_broker(files=files, store=store) as broker:
        await fill(broker)
        (part,) = await broker.fetched(("orders", 0, 2), last_fetched_epoch=0)
        assert (part.diverging_epoch.epoch, part.diverging_epoch.end_offset) == (0, 1)
        assert (part.error_code, sizes([part])) == (NONE, [0])


# Cold ranges


async def cold(files: MemoryFiles, store: MemoryMetadata, *topics: str) -> None:
    """Put three batches into each topic, and stop, so that nothing is in memory any more."""
    async with memory_broker(files=files, store=store) as broker:
        for topic in topics:
            await broker.create(topic)
            await fill(broker, topic, b"a", b"b", b"c")


async def test_cold_range_is_read_on_a_worker_and_then_is_warm() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    await cold(files, store, "orders")
    async with memory_broker(files=files, store=store) as broker:
        (part,) = await broker.fetched(("orders", 0, 0))
        assert [value for _, value in values_of(bytes(part.records))] == [b"a", b"b", b"c"]
        assert broker.threads.calls["read"] == 1
        await broker.fetched(("orders", 0, 0))
        assert broker.threads.calls["read"] == 1
        files.resident = False
        await broker.fetched(("orders", 0, 0))
        assert broker.threads.calls["read"] == 2


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("limits", [{"max_bytes": 1}, {"partition_max_bytes": 1}])
async def test_work_for_each_partition_does_not_grow_with_those_before_it(
    limits: dict[str, int], resident: bool
) -> None:
    """Else one request that names many holds all others up for seconds."""
    files, store = MemoryFiles(), MemoryMetadata()
    await cold(files, store, "orders")
    async with memory_broker(files=files, store=store) as broker:
        await broker.fetched(("orders", 0, 0))
        files.resident = resident
        steps = 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        async def steps_for(count_each: int) -> int:
            before = steps
            wanted = [("orders", 7, 0)] * count_each + [("orders", 0, 0)] * count_each
            sys.setprofile(count)
            try:
                parts = await broker.fetched(*wanted, **limits)
            finally:
                sys.setprofile(None)
            assert sizes(parts) == [0] * count_each + [SIZE] + [0] * (count_each - 1)
            return steps - before

        await steps_for(1)
        assert await steps_for(400) < 2.2 * await steps_for(200)


async def test_cold_reads_of_many_partitions_count_while_they_wait_and_are_put_off_where_there_is_no_room() -> (
    None
):
    files, store = MemoryFiles(), MemoryMetadata()
    await cold(files, store, "orders")
    async with memory_broker(files=files, store=store, queued_max_request_bytes="50000") as broker:
        budget = broker.broker.budget
        waiting = broker.fetch(*many(100), version=4)
        assert isinstance(waiting, Reply)
        assert budget.fetch_bytes > 0
        (topic,) = (await broker.answer(broker.fetch(*many(100), version=4))).responses
        assert {(part.error_code, part.high_watermark, len(part.records)) for part in topic.partitions} == {
            (NONE, 3, 0)
        }
        (topic,) = (await broker.answer(waiting)).responses
        assert sum(sizes(topic.partitions)) > 0
        assert budget.fetch_bytes == 0


async def test_records_that_came_during_a_cold_read_are_below_the_high_watermark_that_is_told() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    await cold(files, store, "orders")
    async with memory_broker(files=files, store=store) as broker, trio.open_nursery() as nursery:
        broker.threads.hold("read")
        found: list[Message] = []

        async def fetch() -> None:
            found.extend(await broker.fetched(("orders", 0, 0)))

        nursery.start_soon(fetch)
        await trio.testing.wait_all_tasks_blocked()
        await fill(broker, "orders", b"d")
        broker.threads.release("read")
        while not found:
            await trio.testing.wait_all_tasks_blocked()
        (part,) = found
        offsets = [offset for offset, _ in values_of(bytes(part.records))]
        assert (offsets, part.high_watermark) == ([0, 1, 2, 3], 4)


async def test_cold_partition_does_not_keep_the_others_from_their_data() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    await cold(files, store, "orders", "other")
    async with memory_broker(files=files, store=store) as broker:
        files.fail("pread", DiskError)
        parts = await broker.fetched(("orders", 0, 0), ("other", 0, 0))
        assert sorted(part.error_code for part in parts) == [NONE, ErrorCode.KAFKA_STORAGE_ERROR]
        assert sorted(sizes(parts)) == [0, 3 * SIZE]
        assert not held_slices(list(broker.broker.partitions))


async def test_damaged_cold_range_is_never_served_and_told_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    await cold(files, store, "orders")
    files.change("/broker-data/orders-0/00000000000000000000.log", SIZE + 65, b"???")
    async with memory_broker(files=files, store=store) as broker:
        for _ in range(3):
            (part,) = await broker.fetched(("orders", 0, 0))
            assert (part.error_code, sizes([part])) == (ErrorCode.CORRUPT_MESSAGE, [0])
    lines = [record.getMessage() for record in caplog.records if "corrupt" in record.getMessage()]
    path = "/broker-data/orders-0"
    damage = f"{path}/{0:020d}.log: corrupt record batch at position {SIZE}: the CRC-32C is wrong"
    assert lines == [f"orders-0: {damage}; stop the broker and run: penstock log repair {path}"]


async def test_slices_are_held_until_sent_and_a_connection_that_ends_lets_them_go() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        parts = await parts_of(broker.fetch(("orders", 0, 0)))
        assert held_slices([broker.partition()])
        release(parts)
        assert not held_slices([broker.partition()])


async def test_long_poll_that_had_too_little_holds_no_slice() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        outcome = broker.fetch(("orders", 0, 0), max_wait_ms=10_000, min_bytes=1000)
        assert not is_ready(outcome)
        assert not held_slices([broker.partition()])


# Sessions


async def test_session_is_told_only_what_changed() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 2)
        await broker.produced("orders", raw(), raw())
        first = await broker.answer(broker.fetch(("orders", 0, 1), ("orders", 1, 1), session=(0, 0)))
        assert first.session_id > 0
        assert sum(len(topic.partitions) for topic in first.responses) == 2
        session = first.session_id
        nothing = await broker.answer(broker.fetch(session=(session, 1)))
        assert (nothing.session_id, nothing.responses) == (session, [])
        await broker.produced("orders", None, raw(b"new"))
        changed = await broker.answer(broker.fetch(session=(session, 2)))
        (part,) = [part for topic in changed.responses for part in topic.partitions]
        assert (part.partition_index, part.high_watermark, sizes([part])) == (1, 2, [len(raw(b"new"))])


async def test_session_errors_refuse_the_whole_request() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        answer = await broker.answer(broker.fetch(("orders", 0, 0), session=(4711, 3)))
        assert answer.error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND
        first = await broker.answer(broker.fetch(("orders", 0, 0), session=(0, 0)))
        answer = await broker.answer(broker.fetch(session=(first.session_id, 9)))
        assert answer.error_code == ErrorCode.INVALID_FETCH_SESSION_EPOCH


async def test_session_long_poll_is_woken_by_a_partition_not_named_again() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker)
        first = await broker.answer(broker.fetch(("orders", 0, 1), session=(0, 0)))
        outcome = broker.fetch(session=(first.session_id, 1), max_wait_ms=10_000)
        assert not is_ready(outcome)
        await fill(broker)
        assert is_ready(outcome)


# ListOffsets, which tells where to begin


async def test_offsets_by_time_are_found_and_an_error_of_the_disk_is_told() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    await cold(files, store, "orders")
    async with memory_broker(files=files, store=store) as broker:

        async def ask(timestamp: int) -> tuple[int, int]:
            partitions = [Message(partition_index=0, timestamp=timestamp)]
            answer = await broker.call(
                list_offsets.handle,
                ApiKey.LIST_OFFSETS,
                7,
                replica_id=-1,
                topics=[Message(name="orders", partitions=partitions)],
            )
            part = answer.topics[0].partitions[0]
            return part.error_code, part.offset

        assert [await ask(-1), await ask(-2), await ask(-3)] == [(NONE, 3), (NONE, 0), (NONE, 0)]
        assert [await ask(0), await ask(2**60)] == [(NONE, 0), (NONE, -1)]
        files.fail("pread", DiskError)
        files.fail("open", DiskError)
        assert (await ask(5))[0] == ErrorCode.KAFKA_STORAGE_ERROR
        assert (await ask(-99))[0] == ErrorCode.INVALID_REQUEST
