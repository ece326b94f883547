"""Topics are made whole or not at all, also when a crash or a lost reply comes in between."""

from collections.abc import AsyncGenerator

import pytest
import trio
from tests.support.memory_metadata import Fault, MemoryMetadata
from tests.support.metadata_plane import NODE_ID, Plane, metadata_plane, register_broker
from trio.testing import MockClock

from penstock.broker import keys
from penstock.broker.errors import ApiError
from penstock.broker.keys import ControllerClaim
from penstock.broker.topic_admin import NEW_PARTITION_COUNT_MAX, NewTopic
from penstock.broker.transactions import ATTEMPT_COUNT_MAX, BATCH_SIZE
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import Delete, Put


@pytest.fixture
def store() -> MemoryMetadata:
    return MemoryMetadata()


@pytest.fixture
async def plane(store: MemoryMetadata) -> AsyncGenerator[Plane, None]:
    async with metadata_plane(store=store) as made:
        yield made


async def refusal(plane: Plane, new: NewTopic) -> ErrorCode:
    with pytest.raises(ApiError) as caught:
        await plane.topics.create(new)
    assert caught.value.message
    return caught.value.code


async def see(plane: Plane, revision: int) -> None:
    await plane.watch.wait_for(revision)


async def test_a_topic_has_its_partitions_led_by_this_broker(plane: Plane) -> None:
    created = await plane.topics.create(NewTopic("t", 3, 1, configs={"retention.ms": "5"}))
    await see(plane, created.revision)
    topic = plane.image.topic("t")
    assert topic is not None
    assert (topic.topic_id, topic.partition_count) == (created.topic_id, 3)
    assert created.topic_id != bytes(16)
    states = plane.image.partitions(topic.topic_id)
    assert [(p.replicas, p.isr, p.leader, p.leader_epoch) for p in states] == [
        ((NODE_ID,), (NODE_ID,), NODE_ID, 0)
    ] * 3
    assert plane.image.topic_configs("t") == {"retention.ms": "5"}
    assert {c.definition.name: c.text for c in created.configs}["retention.ms"] == "5"


async def test_a_small_topic_is_one_transaction(plane: Plane, store: MemoryMetadata) -> None:
    before = store.transaction_count
    await plane.create("t", 100, retention_ms="5")
    assert store.transaction_count == before + 1


async def test_defaults_come_from_the_brokers_config() -> None:
    async with metadata_plane({"num.partitions": "4"}) as plane:
        created = await plane.topics.create(NewTopic("t"))
        assert (created.partition_count, created.replication_factor) == (4, 1)


async def test_ids_differ(plane: Plane) -> None:
    assert await plane.create("a") != await plane.create("b")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "x" * 250, "ü"])
async def test_bad_names_are_refused_and_nothing_is_written(
    plane: Plane, store: MemoryMetadata, name: str
) -> None:
    revision = store.revision
    assert await refusal(plane, NewTopic(name)) == ErrorCode.INVALID_TOPIC_EXCEPTION
    assert store.revision == revision


async def test_a_second_topic_of_the_name_is_refused(plane: Plane) -> None:
    await plane.create("t")
    assert await refusal(plane, NewTopic("t")) == ErrorCode.TOPIC_ALREADY_EXISTS


async def test_names_that_differ_in_dot_and_underscore_only_are_refused(plane: Plane) -> None:
    await plane.create("a.b_c")
    assert await refusal(plane, NewTopic("a_b.c")) == ErrorCode.INVALID_TOPIC_EXCEPTION
    await plane.create("a-b-c")
    await plane.create("abc")


async def test_a_stale_image_does_not_let_a_name_be_made_twice(plane: Plane, store: MemoryMetadata) -> None:
    await plane.create("t")
    before = store.entries[keys.topic_key("t")]
    stale = plane.image._topics.pop("t")  # pyright: ignore[reportPrivateUsage]
    assert await refusal(plane, NewTopic("t")) == ErrorCode.TOPIC_ALREADY_EXISTS
    assert store.entries[keys.topic_key("t")] == before
    plane.image._topics["t"] = stale  # pyright: ignore[reportPrivateUsage]


async def test_two_requests_at_once_make_one_topic(plane: Plane) -> None:
    codes: list[ErrorCode] = []

    async def create(name: str) -> None:
        try:
            await plane.topics.create(NewTopic(name))
            codes.append(ErrorCode.NONE)
        except ApiError as error:
            codes.append(error.code)

    async with trio.open_nursery() as nursery:
        for name in ("a.b", "a.b", "a_b"):
            nursery.start_soon(create, name)
    # trio runs them in any order: the second a.b is told of its twin, or both of an a_b that came first
    refusals = sorted(codes)[1:]
    assert min(codes) == ErrorCode.NONE
    assert refusals in (
        [ErrorCode.INVALID_TOPIC_EXCEPTION, ErrorCode.TOPIC_ALREADY_EXISTS],
        [ErrorCode.INVALID_TOPIC_EXCEPTION, ErrorCode.INVALID_TOPIC_EXCEPTION],
    )


@pytest.mark.parametrize(
    ("new", "code"),
    [
        (NewTopic("t", 0), ErrorCode.INVALID_PARTITIONS),
        (NewTopic("t", -2), ErrorCode.INVALID_PARTITIONS),
        (NewTopic("t", NEW_PARTITION_COUNT_MAX + 1), ErrorCode.POLICY_VIOLATION),
        (NewTopic("t", 1, 0), ErrorCode.INVALID_REPLICATION_FACTOR),
        (NewTopic("t", 1, 2), ErrorCode.INVALID_REPLICATION_FACTOR),
        (NewTopic("t", 1, 1, configs={"x": "1"}), ErrorCode.INVALID_CONFIG),
        (NewTopic("t", 1, 1, configs={"segment.bytes": "0"}), ErrorCode.INVALID_CONFIG),
        (NewTopic("t", 1, -1, [(0, [1])]), ErrorCode.INVALID_REQUEST),
        (NewTopic("t", -1, 1, [(0, [1])]), ErrorCode.INVALID_REQUEST),
        (NewTopic("t", -1, -1, [(1, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewTopic("t", -1, -1, [(0, [1]), (0, [1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewTopic("t", -1, -1, [(0, [])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewTopic("t", -1, -1, [(0, [1, 1])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
        (NewTopic("t", -1, -1, [(0, [9])]), ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ],
)
async def test_requests_that_can_not_be_met_are_refused(
    plane: Plane, store: MemoryMetadata, new: NewTopic, code: ErrorCode
) -> None:
    revision = store.revision
    assert await refusal(plane, new) == code
    with pytest.raises(ApiError):
        await plane.topics.create(new, validate_only=True)
    assert store.revision == revision


async def test_assigned_replicas_are_taken_as_given_and_must_be_alike_in_number(
    plane: Plane, store: MemoryMetadata
) -> None:
    await register_broker(store, 2)
    await see(plane, store.revision)
    uneven = NewTopic("u", assignments=[(0, [1, 2]), (1, [1])])
    assert await refusal(plane, uneven) == ErrorCode.INVALID_REPLICA_ASSIGNMENT
    created = await plane.topics.create(NewTopic("t", assignments=[(1, [2, 1]), (0, [1, 2])]))
    await see(plane, created.revision)
    states = plane.image.partitions(created.topic_id)
    assert [(p.leader, p.replicas) for p in states] == [(1, (1, 2)), (2, (2, 1))]
    assert (created.partition_count, created.replication_factor) == (2, 2)


async def test_validate_only_writes_nothing(plane: Plane, store: MemoryMetadata) -> None:
    revision = store.revision
    created = await plane.topics.create(NewTopic("t", 3), validate_only=True)
    assert (created.topic_id, created.partition_count, created.revision) == (bytes(16), 3, 0)
    assert store.revision == revision


async def test_a_crash_between_the_transactions_of_a_big_topic_leaves_nothing_to_see(
    plane: Plane, store: MemoryMetadata
) -> None:
    count = BATCH_SIZE * 2 + 5
    store.fail_next(None, None, Fault.UNAVAILABLE)
    assert await refusal(plane, NewTopic("big", count)) == ErrorCode.REQUEST_TIMED_OUT
    assert keys.topic_key("big") not in store.entries
    await see(plane, store.revision)
    assert plane.image.topic("big") is None
    assert len(plane.image.unseen_partitions()) == BATCH_SIZE * 2
    # The name is free, and the garbage is not in the way.
    topic_id = await plane.create("big", count)
    assert len(plane.image.partitions(topic_id)) == count
    await plane.registration.stop()
    async with metadata_plane(store=store) as again:
        assert again.image.unseen_partitions() == []
        assert len(again.image.partitions(topic_id)) == count


async def test_the_topic_key_is_put_last_and_deleted_first(plane: Plane, store: MemoryMetadata) -> None:
    count = BATCH_SIZE * 2 + 5
    topic_id = await plane.create("big", count)
    topic = plane.image.topic("big")
    assert topic is not None
    assert topic.create_revision == max(p.partition_epoch for p in plane.image.partitions(topic_id))
    store.fail_next(None, Fault.UNAVAILABLE)
    revision = await plane.topics.delete(topic)
    await see(plane, revision)
    assert plane.image.topic("big") is None
    await see(plane, store.revision)
    assert len(plane.image.unseen_partitions()) == count - BATCH_SIZE


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.LOST_REQUEST])
async def test_a_lost_reply_ends_in_one_topic(
    store: MemoryMetadata, fault: Fault, autojump_clock: MockClock
) -> None:
    async with metadata_plane(store=store) as plane:
        store.fail_next(fault)
        created = await plane.topics.create(NewTopic("t", 2))
        await see(plane, created.revision)
        assert len(plane.image.partitions(created.topic_id)) == 2
        assert plane.image.unseen_partitions() == []


async def test_an_unknown_outcome_is_told_as_such(store: MemoryMetadata, autojump_clock: MockClock) -> None:
    async with metadata_plane(store=store) as plane:
        store.fail_next(*[Fault.LOST_REQUEST] * ATTEMPT_COUNT_MAX)
        with pytest.raises(ApiError, match="may or may not") as caught:
            await plane.topics.create(NewTopic("t"))
        assert caught.value.code == ErrorCode.REQUEST_TIMED_OUT


# Who may.


async def test_only_the_controller_changes_topics(plane: Plane, store: MemoryMetadata) -> None:
    await plane.create("t")
    topic = plane.image.topic("t")
    assert topic is not None
    claim = keys.encode_controller(ControllerClaim(2, "other"))
    await store.transact([], [Delete(keys.CONTROLLER_KEY)])
    await store.transact([], [Put(keys.CONTROLLER_KEY, claim)])
    controller = plane.image.controller
    await see(plane, store.revision)
    for known in (controller, plane.image.controller):
        # Whether this broker knows of its successor or not, the store refuses.
        plane.image.controller = known
        assert await refusal(plane, NewTopic("u")) == ErrorCode.NOT_CONTROLLER
        with pytest.raises(ApiError) as caught:
            await plane.topics.delete(topic)
        assert caught.value.code == ErrorCode.NOT_CONTROLLER
        with pytest.raises(ApiError) as caught:
            await plane.topics.create_partitions("t", 2, None)
        assert caught.value.code == ErrorCode.NOT_CONTROLLER
    assert keys.topic_key("t") in store.entries


# Deleting.


async def test_deleting_takes_configs_and_states_along(plane: Plane, store: MemoryMetadata) -> None:
    before = set(store.entries)
    await plane.create("t", 5, retention_ms="1")
    topic = plane.image.topic("t")
    assert topic is not None
    await plane.topics.delete(topic)
    assert set(store.entries) == before


async def test_a_topic_made_anew_is_not_deleted_by_its_predecessors_request(
    plane: Plane, store: MemoryMetadata
) -> None:
    await plane.create("t")
    old = plane.image.topic("t")
    assert old is not None
    await see(plane, await plane.topics.delete(old))
    await plane.create("t")
    with pytest.raises(ApiError) as caught:
        await plane.topics.delete(old)
    assert caught.value.code == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    assert keys.topic_key("t") in store.entries


async def test_deletion_can_be_switched_off() -> None:
    async with metadata_plane({"delete.topic.enable": "false"}) as plane:
        await plane.create("t")
        topic = plane.image.topic("t")
        assert topic is not None
        with pytest.raises(ApiError) as caught:
            await plane.topics.delete(topic)
        assert caught.value.code == ErrorCode.TOPIC_DELETION_DISABLED


# Enlarging.


async def test_new_partitions_come_into_sight_together(plane: Plane, store: MemoryMetadata) -> None:
    topic_id = await plane.create("t", 2)
    epochs = [p.partition_epoch for p in plane.image.partitions(topic_id)]
    count = 2 + BATCH_SIZE + 3
    store.fail_next(None, Fault.UNAVAILABLE)
    with pytest.raises(ApiError):
        await plane.topics.create_partitions("t", count, None)
    await see(plane, store.revision)
    assert len(plane.image.partitions(topic_id)) == 2
    assert len(plane.image.unseen_partitions()) == BATCH_SIZE
    await see(plane, await plane.topics.create_partitions("t", count, None))
    assert len(plane.image.partitions(topic_id)) == count
    assert [p.partition_epoch for p in plane.image.partitions(topic_id)[:2]] == epochs
    assert plane.image.unseen_partitions() == []


async def test_enlargements_at_once_come_one_after_the_other(plane: Plane, store: MemoryMetadata) -> None:
    topic_id = await plane.create("t", 1)
    outcomes: dict[int, ErrorCode] = {}

    async def enlarge(count: int) -> None:
        try:
            await plane.topics.create_partitions("t", count, None)
            outcomes[count] = ErrorCode.NONE
        except ApiError as error:
            outcomes[count] = error.code

    async with trio.open_nursery() as nursery:
        for count in (3, 5, 4):
            nursery.start_soon(enlarge, count)
    await see(plane, store.revision)
    assert outcomes[5] == ErrorCode.NONE
    assert set(outcomes.values()) <= {ErrorCode.NONE, ErrorCode.INVALID_PARTITIONS}
    assert [p.index for p in plane.image.partitions(topic_id)] == list(range(5))


BAD_ENLARGEMENTS: list[tuple[str, int, list[list[int]] | None, ErrorCode]] = [
    ("nope", 3, None, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
    ("t", 2, None, ErrorCode.INVALID_PARTITIONS),
    ("t", 1, None, ErrorCode.INVALID_PARTITIONS),
    ("t", -1, None, ErrorCode.INVALID_PARTITIONS),
    ("t", NEW_PARTITION_COUNT_MAX + 3, None, ErrorCode.POLICY_VIOLATION),
    ("t", 4, [[1]], ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ("t", 3, [[7]], ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ("t", 3, [[]], ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ("t", 3, [], ErrorCode.INVALID_REPLICA_ASSIGNMENT),
    ("../x", 3, None, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
]


@pytest.mark.parametrize(("name", "count", "assignments", "code"), BAD_ENLARGEMENTS)
async def test_enlargements_that_can_not_be_made_are_refused(
    plane: Plane,
    store: MemoryMetadata,
    name: str,
    count: int,
    assignments: list[list[int]] | None,
    code: ErrorCode,
) -> None:
    await plane.create("t", 2)
    revision = store.revision
    for validate_only in (True, False):
        with pytest.raises(ApiError) as caught:
            await plane.topics.create_partitions(name, count, assignments, validate_only=validate_only)
        assert caught.value.code == code
    assert store.revision == revision


async def test_an_enlargement_can_be_checked_only(plane: Plane, store: MemoryMetadata) -> None:
    await plane.create("t", 2)
    revision = store.revision
    assert await plane.topics.create_partitions("t", 3, [[1]], validate_only=True) == 0
    assert store.revision == revision
