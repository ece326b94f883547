"""Which logs are open: starts after every kind of stop, topics that come and go, and damage that must stay with one partition."""

from typing import Any

import pytest
import trio
import trio.testing
from tests.support.logs import batch
from tests.support.memory_broker import DATA, MemoryBroker, memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata

from penstock.broker import keys
from penstock.broker.api import delete_records, metadata
from penstock.broker.checkpointed_partitions import SAVE_AFTER_BYTES
from penstock.broker.config_admin import ConfigAdmin
from penstock.broker.keys import PartitionState
from penstock.broker.partitions import OPEN_AGAIN_S, PRODUCER_CHECK_S
from penstock.broker.topic_admin import NewTopic
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.files import DiskError, DiskFull, StorageError, TooManyOpenFiles
from penstock.runtime.metadata import Put
from penstock.storage.checkpoint import read_offset_checkpoint
from penstock.storage.layout import (
    CLEAN_SHUTDOWN,
    HIGH_WATERMARK_CHECKPOINT,
    LOG_START_CHECKPOINT,
    PARTITION_METADATA,
    RECOVERY_POINT_CHECKPOINT,
)

NONE = ErrorCode.NONE


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


async def fill(broker: MemoryBroker, topic: str, count: int = 1) -> None:
    for _ in range(count):
        (part,) = await broker.produced(topic, bytes(batch()))
        assert part.error_code == NONE


async def end_of(broker: MemoryBroker, topic: str) -> tuple[int, int]:
    """Error code and high watermark that a fetch from 0 tells."""
    (part,) = await broker.fetched((topic, 0, 0))
    return part.error_code, part.high_watermark


def log_file(topic: str) -> str:
    return f"{DATA}/{topic}-0/{0:020}.log"


def checkpoint(files: MemoryFiles, name: str) -> dict[tuple[str, int], int]:
    return read_offset_checkpoint(files, f"{DATA}/{name}")


# Starts


async def test_clean_stop_keeps_everything_and_the_next_start_verifies_nothing() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
        await fill(broker, "orders", 3)
    assert files.exists(f"{DATA}/{CLEAN_SHUTDOWN}")
    assert checkpoint(files, RECOVERY_POINT_CHECKPOINT) == {("orders", 0): 3}
    async with memory_broker(files=files, store=store) as broker:
        assert not broker.partition().log.report
        assert await end_of(broker, "orders") == (NONE, 3)
        assert broker.partition().leader_epoch == 1, "each start is a new epoch"
        await fill(broker, "orders")
        assert await end_of(broker, "orders") == (NONE, 4)


async def test_killed_broker_recovers_what_was_acked() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
        await fill(broker, "orders", 3)
        crashed = files.copy()
    async with memory_broker(files=crashed, store=store) as broker:
        assert await end_of(broker, "orders") == (NONE, 3)


async def test_damaged_log_stays_offline_while_others_are_served(caplog: pytest.LogCaptureFixture) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        for topic in ("damaged", "orders"):
            await broker.create(topic)
            await fill(broker, topic, 3)
        crashed = files.copy()
    crashed.change(log_file("damaged"), 65, b"???")
    async with memory_broker(files=crashed, store=store) as broker:
        (line,) = [record.getMessage() for record in caplog.records if "is offline" in record.getMessage()]
        assert line.startswith(
            f"damaged-0 is offline: {log_file('damaged')}: corrupt record batch at position 0: "
        )
        assert line.endswith(f"; stop the broker and run: penstock log repair {DATA}/damaged-0")
        assert (await end_of(broker, "damaged"))[0] == ErrorCode.KAFKA_STORAGE_ERROR
        (part,) = await broker.produced("damaged", bytes(batch()))
        assert part.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        assert await end_of(broker, "orders") == (NONE, 3)
        answer = await broker.call(metadata.handle, ApiKey.METADATA, 9, topics=None)
        told = {topic.name: topic.partitions[0] for topic in answer.topics}
        assert [
            (told[name].error_code, told[name].leader_id, told[name].offline_replicas)
            for name in ("orders", "damaged")
        ] == [(NONE, 1, []), (ErrorCode.LEADER_NOT_AVAILABLE, -1, [1])]
    assert not crashed.exists(f"{DATA}/{CLEAN_SHUTDOWN}"), "the next start must verify it again"
    assert crashed.content(log_file("damaged"))[65:68] == b"???"


@pytest.mark.parametrize("error", [DiskFull, TooManyOpenFiles])
async def test_topic_made_on_a_full_disk_stays_offline_when_there_is_room_again(
    error: type[StorageError], caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_broker() as broker:
        partitions = broker.broker.partitions
        broker.files.fail("make_directories", error, forever=True)
        await broker.create("orders")
        for now in (0.0, OPEN_AGAIN_S):
            partitions.open_again(now)
            await settle()
            assert (await end_of(broker, "orders"))[0] == ErrorCode.KAFKA_STORAGE_ERROR
        broker.files.heal()
        partitions.open_again(2 * OPEN_AGAIN_S - 0.1)
        await settle()
        assert (await end_of(broker, "orders"))[0] == ErrorCode.KAFKA_STORAGE_ERROR, "it is tried too often"
        partitions.open_again(2 * OPEN_AGAIN_S)
        await settle()
        await fill(broker, "orders")
        assert await end_of(broker, "orders") == (NONE, 1)
    lines = [record.getMessage() for record in caplog.records if "offline" in record.getMessage()]
    assert len([line for line in lines if "is offline" in line]) == 1, "one line, however often it is tried"


async def test_damaged_log_is_opened_again_and_again() -> None:
    """Only a person can do something about it."""
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
        await fill(broker, "orders", 3)
        crashed = files.copy()
    crashed.change(log_file("orders"), 65, b"???")
    async with memory_broker(files=crashed, store=store) as broker:
        broker.broker.partitions.open_again(100.0)
        await settle()
        assert (await end_of(broker, "orders"))[0] == ErrorCode.KAFKA_STORAGE_ERROR


class OddError(Exception):
    """What nobody thought of."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(f"{path}: {message}")


async def test_bug_in_opening_a_log_takes_that_partition_offline_and_no_other() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        broker.files.fail("make_directories", OddError)  # type: ignore[arg-type]  # no StorageError, and that is the point
        await broker.create("odd")
        assert (await end_of(broker, "odd"))[0] == ErrorCode.KAFKA_STORAGE_ERROR
        await fill(broker, "orders")


async def test_directory_without_a_topic_is_kept_as_a_stray(caplog: pytest.LogCaptureFixture) -> None:
    files = MemoryFiles()
    async with memory_broker(files=files) as broker:
        await broker.create("orders")
        await fill(broker, "orders")
        cluster = broker.broker.cluster_id
    async with memory_broker(files=files, store=MemoryMetadata(), cluster_id=cluster) as broker:
        names = files.list_directory(DATA)
        assert next(name for name in names if name.startswith("orders")).endswith("-stray")
        assert "kept under this name" in caplog.text
        await broker.create("orders")
        assert await end_of(broker, "orders") == (NONE, 0)


async def test_stray_that_can_not_be_put_aside_does_not_stop_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
    files.make_directories(f"{DATA}/lost-0")
    files.replace(f"{DATA}/lost-0/{PARTITION_METADATA}", b"nonsense")
    async with memory_broker(files=files, store=store) as broker:
        await fill(broker, "orders")
        assert "can't be put aside" in caplog.text


# Leadership


async def test_who_leads_is_learned_at_once_though_other_logs_are_being_opened() -> None:
    store = MemoryMetadata()
    async with memory_broker(store=store) as broker:
        topic_id = await broker.create("orders")
        broker.threads.hold("open_each")
        await broker.broker.topics.create(NewTopic("many", 10))
        await settle()
        state = keys.encode_partition(PartitionState((1,), (1,), 1, 7))
        await store.transact([], [Put(keys.partition_key(topic_id, 0), state)])
        await settle()
        assert broker.broker.partitions.by_name("many", 0) is None
        assert broker.partition().leader_epoch == 7
        broker.threads.release("open_each")


async def test_a_leader_that_is_moved_away_takes_nothing_more_though_other_logs_are_being_opened() -> None:
    store = MemoryMetadata()
    async with memory_broker(store=store) as broker:
        topic_id = await broker.create("orders")
        partition = broker.partition()
        broker.threads.hold("open_each")
        await broker.broker.topics.create(NewTopic("many", 10))
        await settle()
        state = keys.encode_partition(PartitionState((2,), (2,), 2, 7))
        await store.transact([], [Put(keys.partition_key(topic_id, 0), state)])
        await settle()
        assert broker.partition() is partition, "it is not removed yet"
        (part,) = await broker.produced("orders", bytes(batch()), acks=1)
        assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        broker.threads.release("open_each")
        await settle()
        assert broker.broker.partitions.by_name("orders", 0) is None


async def test_a_log_that_is_opened_late_leads_in_no_epoch_that_is_over_though_others_are_being_opened() -> (
    None
):
    store = MemoryMetadata()
    async with memory_broker(store=store) as broker:
        broker.threads.hold("open_each")
        made = await broker.broker.topics.create(NewTopic("orders", 1))
        await settle()
        await broker.broker.topics.create(NewTopic("more", 1))
        state = keys.encode_partition(PartitionState((1, 2), (1, 2), 2, 7))
        await store.transact([], [Put(keys.partition_key(made.topic_id, 0), state)])
        await settle()
        broker.threads.release_one("open_each")
        await settle()
        assert broker.broker.partitions.by_name("more", 0) is None
        (part,) = await broker.produced("orders", bytes(batch()), acks=1)
        assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        broker.threads.release_all()
        await settle()


async def test_a_replica_that_was_moved_away_and_back_while_other_logs_are_being_opened_keeps_its_log() -> (
    None
):
    store = MemoryMetadata()
    async with memory_broker(store=store) as broker:
        topic_id = await broker.create("orders")
        await fill(broker, "orders", 3)
        partition = broker.partition()
        broker.threads.hold("open_each")
        await broker.broker.topics.create(NewTopic("many", 10))
        await settle()
        for epoch, node_id in ((7, 2), (8, 1)):
            state = keys.encode_partition(PartitionState((node_id,), (node_id,), node_id, epoch))
            await store.transact([], [Put(keys.partition_key(topic_id, 0), state)])
            await settle()
        broker.threads.release("open_each")
        await settle()
        assert broker.partition() is partition
        await fill(broker, "orders")
        assert await end_of(broker, "orders") == (NONE, 4)


# Topics that go


async def test_topic_made_anew_under_its_name_starts_empty() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store, log_segment_delete_delay_ms="0") as broker:
        old = await broker.create("orders")
        await fill(broker, "orders", 5)
        await broker.delete("orders")
        new = await broker.create("orders")
        assert old != new
        assert await end_of(broker, "orders") == (NONE, 0)
        await fill(broker, "orders", 2)
        await settle()
        assert [name for name in files.list_directory(DATA) if "-delete" in name] == []
    async with memory_broker(files=files, store=store) as broker:
        assert await end_of(broker, "orders") == (NONE, 2)


async def test_stop_right_after_a_deletion_leaves_no_strays() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders", 20)
        await broker.create("kept")
        broker.threads.hold("_put_aside")
        await broker.delete("orders")
    async with memory_broker(files=files, store=store):
        await settle()
        found = [name for name in files.list_directory(DATA) if name.startswith(("orders", "kept"))]
        assert found == ["kept-0"]


async def test_deletion_under_produces_and_fetches_answers_them_all() -> None:
    async with memory_broker() as broker:
        topic_id = await broker.create("orders")
        await fill(broker, "orders")
        poll = broker.fetch(("orders", 0, 1), max_wait_ms=10_000)
        broker.threads.hold("sync", after=True)
        waiting = broker.produce("orders", bytes(batch()))
        await settle()
        await broker.delete("orders")
        await settle()
        for outcome in (waiting, poll):
            (topic,) = (await broker.answer(outcome)).responses
            (part,) = topic.partition_responses if outcome is waiting else topic.partitions
            assert part.error_code == ErrorCode.NOT_LEADER_OR_FOLLOWER
        broker.threads.release("sync")
        await settle()
        (part,) = await broker.produced("orders", bytes(batch()))
        assert part.error_code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        (part,) = await broker.fetched((topic_id, 0, 0), version=13)
        assert part.error_code == ErrorCode.UNKNOWN_TOPIC_ID


@pytest.mark.parametrize("operation", ["remove_tree", "rename"])
async def test_files_of_a_deleted_topic_that_can_not_be_removed_do_not_stop_the_broker(
    operation: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with memory_broker(log_segment_delete_delay_ms="0") as broker:
        await broker.create("orders", 3)
        await broker.create("other")
        broker.files.fail(operation, DiskError)
        await broker.delete("orders")
        await settle()
        await fill(broker, "other")
        left = [name for name in broker.files.list_directory(DATA) if name.startswith("orders")]
        assert len(left) == 1, "the others are gone"
        assert "topic orders" in caplog.text


async def test_directory_taken_away_behind_the_brokers_back_stops_only_its_partition() -> None:
    files = MemoryFiles()
    async with memory_broker(files=files) as broker:
        await broker.create("orders")
        await broker.create("gone")
        files.remove_tree(f"{DATA}/gone-0")
        (part,) = await broker.produced("gone", bytes(batch()))
        assert part.error_code == ErrorCode.KAFKA_STORAGE_ERROR
        await broker.delete("gone")
        await settle()
        await fill(broker, "orders")
        await broker.create("gone")
        await fill(broker, "gone")
        files.remove_tree(f"{DATA}/gone-0")
    assert not files.exists(f"{DATA}/{CLEAN_SHUTDOWN}")


# Checkpoints


async def delete_records_before(broker: MemoryBroker, topic: str, offset: int) -> Any:
    answer = await broker.call(
        delete_records.handle,
        ApiKey.DELETE_RECORDS,
        2,
        topics=[Message(name=topic, partitions=[Message(partition_index=0, offset=offset)])],
        timeout_ms=1000,
    )
    return answer.topics[0].partitions[0]


async def test_deleted_records_stay_deleted_after_a_crash() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
        await fill(broker, "orders", 5)
        part = await delete_records_before(broker, "orders", 3)
        assert (part.error_code, part.low_watermark) == (NONE, 3)
        crashed = files.copy()
    async with memory_broker(files=crashed, store=store) as broker:
        assert broker.partition().log.log_start_offset == 3
        assert (await end_of(broker, "orders"))[0] == ErrorCode.OFFSET_OUT_OF_RANGE


async def test_log_start_of_a_deleted_topic_is_never_found_by_a_new_one_of_its_name() -> None:
    """A log start above the log's end empties the log at the next start."""
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
        await fill(broker, "orders", 5)
        broker.threads.hold("write_log_starts")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete_records_before, broker, "orders", 4)
            await settle()
            await broker.delete("orders")
            nursery.start_soon(broker.create, "orders")
            await settle()
            broker.threads.release("write_log_starts")
        await fill(broker, "orders", 2)
        assert checkpoint(files, LOG_START_CHECKPOINT).get(("orders", 0), 0) == 0
        crashed = files.copy()
    async with memory_broker(files=crashed, store=store) as broker:
        assert await end_of(broker, "orders") == (NONE, 2)


async def test_checkpoint_that_can_not_be_written_is_named_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker, "orders")
        broker.files.fail("rename", DiskError)
        await broker.broker.partitions.write_checkpoints()
        assert "checkpoints can't be written" in caplog.text
        await broker.broker.partitions.write_checkpoints()
        assert checkpoint(broker.files, RECOVERY_POINT_CHECKPOINT) == {("orders", 0): 1}


async def test_what_was_lowered_for_a_cut_that_was_not_made_is_written_again() -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker, "orders")
        partitions = broker.broker.partitions
        await partitions.write_checkpoints()
        names = (RECOVERY_POINT_CHECKPOINT, HIGH_WATERMARK_CHECKPOINT)
        async with partitions.cutting(broker.partition("orders"), 0):
            assert [checkpoint(broker.files, name)["orders", 0] for name in names] == [0, 0]
        await partitions.write_checkpoints()
        assert [checkpoint(broker.files, name)["orders", 0] for name in names] == [1, 1]


async def test_indexes_of_a_segment_that_has_grown_are_saved_while_it_is_active() -> None:
    async with memory_broker() as broker:
        for topic in ("grown", "small"):
            await broker.create(topic, 1, write_caching="true")
        raw = bytes(batch([b"v" * 1_000_000]))
        await broker.produced("small", raw)
        while broker.partition("grown").log.unsaved_bytes < SAVE_AFTER_BYTES:
            await broker.produced("grown", raw)
        await broker.broker.partitions.save_indexes()
        assert broker.partition("grown").log.unsaved_bytes == 0
        assert broker.files.exists(f"{DATA}/grown-0/{0:020}.index")
        assert not broker.files.exists(f"{DATA}/small-0/{0:020}.index")
        broker.files.fail("rename", DiskError)
        await broker.broker.partitions.save_indexes()
        await fill(broker, "grown")


async def test_bug_in_one_partitions_saving_of_indexes_does_not_stop_the_checkpoints_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with memory_broker() as broker:
        await broker.create("orders", write_caching="true")
        log, raw = broker.partition().log, bytes(batch([b"v" * 1_000_000]))
        while log.unsaved_bytes < SAVE_AFTER_BYTES:
            await broker.produced("orders", raw)
        for step in ("encode", "save_indexes"):
            broker.threads.fail_once(step, RuntimeError(f"a bug of {step}"))
            await broker.broker.partitions.save_indexes()
            assert f"a bug of {step}" in caplog.text
            assert log.unsaved_bytes >= SAVE_AFTER_BYTES
        await broker.broker.partitions.save_indexes()
        assert log.unsaved_bytes == 0, "it is tried again"


async def test_folder_taken_away_does_not_stop_the_checkpoints_task(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_broker() as broker:
        await broker.create("orders")
        await fill(broker, "orders")
        broker.files.remove_tree(DATA)
        await broker.broker.partitions.write_checkpoints()
        assert "checkpoints can't be written" in caplog.text


async def test_full_disk_at_the_stop_ends_without_an_error() -> None:
    files = MemoryFiles()
    async with memory_broker(files=files) as broker:
        await broker.create("orders")
        await fill(broker, "orders")
        files.capacity_bytes = files.used_bytes()
    assert not files.exists(f"{DATA}/{CLEAN_SHUTDOWN}")


async def test_marker_that_can_not_be_written_ends_without_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async with memory_broker() as broker:
        broker.threads.fail_once("mark_clean", DiskError("injected"))
    assert "the next start will verify all logs" in caplog.text


async def test_stop_waits_for_what_is_under_way_and_closes_every_log() -> None:
    files, store = MemoryFiles(), MemoryMetadata()
    async with memory_broker(files=files, store=store) as broker:
        await broker.create("orders")
        broker.threads.hold("prepare_append")
        broker.produce("orders", bytes(batch()))
        await settle()
    assert files.exists(f"{DATA}/{CLEAN_SHUTDOWN}")
    assert files.open_count == 0


async def test_logs_are_closed_cleanly_also_when_the_background_has_failed() -> None:
    files = MemoryFiles()

    async def run() -> None:
        async with memory_broker(files=files) as broker:
            await broker.create("orders")
            await fill(broker, "orders")
            broker.broker.partitions.note("no delta")  # type: ignore[arg-type]  # a bug in the background
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup):
        await run()
    assert files.exists(f"{DATA}/{CLEAN_SHUTDOWN}")


# Configs at run time


async def test_changed_topic_config_holds_for_its_partitions_and_no_others() -> None:
    async with memory_broker() as broker:
        await broker.create("orders", 2)
        await broker.create("other")
        admin = ConfigAdmin(broker.broker.store, broker.broker.image, broker.broker.config)
        revision = await admin.replace_topic_configs("orders", {"write.caching": "true", "retention.ms": "5"})
        await broker.broker.watch.wait_for(revision)
        await settle()
        caching = [partition.machine.write_caching for partition in broker.broker.partitions]
        assert sorted(caching) == [False, True, True]
        assert broker.partition().log.config.retention_ms == 5
        revision = await admin.replace_broker_configs(None, {"message.max.bytes": "100"})
        await broker.broker.watch.wait_for(revision)
        await settle()
        assert [p.settings.max_message_bytes for p in broker.broker.partitions] == [100] * 3


# What the sweep does


async def test_idle_producers_are_forgotten_and_busy_ones_are_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with memory_broker(producer_id_expiration_ms="60000") as broker:
        await broker.create("orders")
        (partition,) = broker.broker.partitions
        await broker.produced("orders", bytes(batch(producer_id=7)))
        await trio.sleep(61)
        await broker.produced("orders", bytes(batch(producer_id=8)))
        broker.broker.partitions.forget_idle_producers(trio.current_time())
        assert partition.log.producer_count == 2, "the first look is at the clock only"
        await trio.sleep(PRODUCER_CHECK_S - 59)
        await broker.produced("orders", bytes(batch(producer_id=8, sequence=1)))
        await trio.sleep(59)
        broker.broker.partitions.forget_idle_producers(trio.current_time())
        assert partition.log.producer_count == 1


async def test_producers_are_forgotten_while_a_worker_appends_or_writes_them_down(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Nothing guards them: the sweep, a roll or an append would end by a bug, or one that has just written be forgotten."""
    async with memory_broker(producer_id_expiration_ms="60000") as broker:
        await broker.create("orders")
        await broker.create("idle")
        log, idle = broker.partition().log, broker.partition("idle").log
        for number in range(2):
            await broker.produced("orders", bytes(batch(producer_id=7 + number)))
        await broker.produced("idle", bytes(batch(producer_id=7)))
        broker.broker.partitions.forget_idle_producers(trio.current_time())
        await trio.sleep(PRODUCER_CHECK_S)
        broker.threads.hold("roll")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(broker.partition().run_in_lane, log.roll)
            await settle()
            broker.produce("orders", bytes(batch(producer_id=8, sequence=1)))
            broker.broker.partitions.forget_idle_producers(trio.current_time())
            assert (log.producer_count, idle.producer_count) == (2, 0)
            broker.threads.release("roll")
        await settle()
        assert log.producer_count == 1, "the one whose batch came before is known still"
        (again,) = await broker.produced("orders", bytes(batch(producer_id=8)))
        assert (again.error_code, again.base_offset) == (NONE, 1), "and so are its batches"
