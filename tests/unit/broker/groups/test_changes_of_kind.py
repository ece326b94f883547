"""A group changes from one protocol to the other, and is deleted, while its log can't be written for a moment.

A reload makes the group that was acknowledged last.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from tests.support.group_calls import GroupCalls
from tests.support.memory_broker import memory_broker
from tests.support.memory_files import MemoryFiles
from tests.support.memory_metadata import MemoryMetadata

from penstock.broker.groups.classic_events import GroupSnapshot, Store
from penstock.broker.groups.consumer_group import ConsumerGroup
from penstock.broker.groups.consumer_group_events import (
    ConsumerHeartbeat,
    CurrentAssignment,
    CurrentRecord,
    GroupEpochRecord,
    MemberMetadata,
    MemberRecord,
    TargetEpochRecord,
)
from penstock.broker.groups.consumer_group_store import encode_record
from penstock.broker.groups.loading import Replay
from penstock.broker.groups.record_writer import RecordPair
from penstock.broker.groups.shard import GroupShard
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.group_records import encode_group_key, encode_group_value
from penstock.protocol.message import Message
from penstock.protocol.produce import ProducePartitionResult
from penstock.protocol.records import iterate_records

REFUSED = ErrorCode.COORDINATOR_NOT_AVAILABLE
GROUP_KEY = encode_group_key("g")
EMPTY_CLASSIC = (
    GROUP_KEY,
    encode_group_value(
        Message(
            protocol_type="consumer",
            generation=5,
            protocol=None,
            leader=None,
            current_state_timestamp=0,
            members=[],
        )
    ),
)
GHOST = MemberMetadata(
    instance_id=None,
    rack_id=None,
    client_id="ghost",
    client_host="/",
    topic_names=("orders",),
    topic_regex="",
    rebalance_timeout_ms=60_000,
    server_assignor=None,
)
EMPTY_CONSUMER = [encode_record("g", record, 0) for record in (GroupEpochRecord(5), TargetEpochRecord(5))]
CONSUMER_WITH_A_MEMBER = [
    *EMPTY_CONSUMER,
    encode_record("g", MemberRecord("ghost", GHOST), 0),
    encode_record("g", CurrentRecord("ghost", CurrentAssignment(member_epoch=5)), 0),
]
"""Its last leave was refused, or came in part."""


class Machine:
    """A machine that lives through several brokers."""

    def __init__(self) -> None:
        self.files, self.store = MemoryFiles(), MemoryMetadata()

    @asynccontextmanager
    async def broker(self) -> AsyncGenerator[GroupCalls]:
        """The next broker, with its groups loaded."""
        config: dict[str, Any] = {"offsets_topic_num_partitions": "1"}
        async with memory_broker(files=self.files, store=self.store, **config) as memory:
            groups = GroupCalls(memory)
            await groups.find()
            if memory.broker.image.topic("orders") is None:
                await memory.create("orders")
            yield groups


def let_write(groups: GroupCalls, *, may: bool) -> None:
    """Whether enough replicas are in sync for the groups' log to be written."""
    groups.shard("g").partition.machine.has_enough_replicas = may


async def write(groups: GroupCalls, records: Sequence[RecordPair]) -> None:
    """Put records into the log behind the coordinator's back."""
    assert await groups.shard("g").write(records) == 0


async def beat(groups: GroupCalls, member_id: str = "m", epoch: int = 0, **more: Any) -> Message:
    """A heartbeat of the consumer protocol."""
    joins = {"rebalance_timeout_ms": 60_000, "subscribed_topic_names": ["orders"], "topic_partitions": []}
    fields = {"group_id": "g", "member_id": member_id, **(joins if not epoch else {}), **more}
    return await groups.call(ApiKey.CONSUMER_GROUP_HEARTBEAT, 1, member_epoch=epoch, **fields)


async def be_an_empty_consumer_group(groups: GroupCalls) -> None:
    """Somebody was a member by the consumer protocol, and left."""
    assert (await beat(groups)).error_code == 0
    assert (await beat(groups, epoch=-1)).error_code == 0


async def be_an_empty_classic_group(groups: GroupCalls) -> None:
    """Somebody was a member by the classic protocol, and left."""
    member_id, _ = await groups.become_member()
    await groups.leave("g", member_id)
    await trio.testing.wait_all_tasks_blocked()
    assert await groups.states() == {"g": "Empty"}


async def fail_to_take_over(groups: GroupCalls, kind: str) -> None:
    """A first member of that protocol comes at a moment at which nothing can be written."""
    let_write(groups, may=False)
    if kind == "classic":
        assert (await groups.join()).error_code == ErrorCode.MEMBER_ID_REQUIRED
    else:
        assert (await beat(groups)).error_code == REFUSED
    await trio.testing.wait_all_tasks_blocked()
    let_write(groups, may=True)


async def test_a_stable_classic_group_is_lost_to_the_empty_consumer_group_before_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await be_an_empty_consumer_group(groups)
        await fail_to_take_over(groups, "classic")
        member_id, generation = await groups.become_member()
        me: dict[str, Any] = {"member_id": member_id, "generation_id_or_member_epoch": generation}
        assert await groups.commit("g", {0: 3}, **me) == [0]
    async with machine.broker() as groups:
        assert await groups.heartbeat("g", member_id, generation) == 0
        assert await groups.commit("g", {0: 1}) == [ErrorCode.UNKNOWN_MEMBER_ID], "it has members"
        assert await groups.commit("g", {0: 4}, **me) == [0]
        assert await groups.states() == {"g": "Stable"}


async def test_a_consumer_group_is_lost_to_the_empty_classic_group_before_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await be_an_empty_classic_group(groups)
        await fail_to_take_over(groups, "consumer")
        joined = await beat(groups)
        assert joined.error_code == 0
    async with machine.broker() as groups:
        again = await beat(groups, epoch=joined.member_epoch)
        assert (again.error_code, again.member_epoch) == (0, joined.member_epoch)
        assert await groups.states(types_filter=["consumer"]) == {"g": "Stable"}
        assert (await beat(groups, epoch=-1)).error_code == 0
        assert await groups.delete("g") == [0]
    async with machine.broker() as groups:
        assert await groups.states() == {}


async def test_a_first_store_that_is_refused_leaves_the_kind_before_for_the_next_coordinator_and_not_for_good(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await be_an_empty_consumer_group(groups)
        first = await groups.join()
        joined = await groups.join(member_id=first.member_id)
        sync = {"group_id": "g", "member_id": joined.member_id, "generation_id": joined.generation_id}
        mine = [Message(member_id=joined.member_id, assignment=b"mine")]
        let_write(groups, may=False)
        assert (await groups.call(ApiKey.SYNC_GROUP, assignments=mine, **sync)).error_code == REFUSED
        let_write(groups, may=True)
        joined = await groups.join(member_id=first.member_id)
        sync["generation_id"] = joined.generation_id
        assert (await groups.call(ApiKey.SYNC_GROUP, assignments=mine, **sync)).error_code == 0
        assert not groups.shard("g").groups["g"].leftovers
    async with machine.broker() as groups:
        assert await groups.heartbeat("g", joined.member_id, joined.generation_id) == 0
        assert not groups.shard("g").groups["g"].leftovers, "the tombstones went with what was stored"


@pytest.mark.parametrize("before", [EMPTY_CONSUMER, CONSUMER_WITH_A_MEMBER])
async def test_of_two_kinds_in_a_log_the_classic_one_that_wrote_last_loses_or_leaves_the_other_behind(
    before: Sequence[RecordPair], autojump_clock: trio.testing.MockClock
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await write(groups, before)
        member_id, generation = await groups.become_member()
    async with machine.broker() as groups:
        assert await groups.heartbeat("g", member_id, generation) == 0
        await groups.leave("g", member_id)
        assert await groups.delete("g") == [0]
    async with machine.broker() as groups:
        assert await groups.states() == {}


async def test_of_two_kinds_in_a_log_the_consumer_protocols_that_wrote_last_loses_or_leaves_the_other_behind(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await write(groups, [EMPTY_CLASSIC])
        joined = await beat(groups)
    async with machine.broker() as groups:
        assert (await beat(groups, epoch=joined.member_epoch)).error_code == 0
        assert groups.shard("g").groups["g"].leftovers == (GROUP_KEY,)
        assert (await beat(groups, "other")).error_code == 0
        assert not groups.shard("g").groups["g"].leftovers, "they went with the first store"
        assert groups.shard("g").groups["g"].stored_kinds <= groups.coordinator.consumer.kinds
    async with machine.broker() as groups:
        assert await groups.states(types_filter=["consumer"]) == {"g": "Reconciling"}
        assert not groups.shard("g").groups["g"].leftovers


async def test_what_is_deleted_of_a_kind_before_takes_what_was_stored_since_under_the_same_keys(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await be_an_empty_consumer_group(groups)
        await fail_to_take_over(groups, "classic")
        joined = await beat(groups, "m", instance_id="i")
        assert joined.error_code == 0, "back to the consumer protocol, under the keys that are to be deleted"
        assert (await beat(groups, "m", epoch=-2, instance_id="i")).error_code == 0, "stores no epoch"
    async with machine.broker() as groups:
        membership = groups.shard("g").groups["g"].membership
        assert isinstance(membership, ConsumerGroup)
        assert membership.stored.epoch == membership.stored.assignment_epoch == joined.member_epoch


@pytest.mark.parametrize("kind", ["classic", "consumer"])
async def test_a_group_comes_back_that_was_deleted_after_a_failed_change_of_kind(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await (be_an_empty_consumer_group if kind == "classic" else be_an_empty_classic_group)(groups)
        await fail_to_take_over(groups, kind)
        assert await groups.delete("g") == [0]
        assert await groups.states() == {}
    async with machine.broker() as groups:
        assert await groups.states() == {}


@pytest.mark.parametrize("kind", ["classic", "consumer"])
async def test_a_group_comes_back_whose_deletion_succeeded_at_the_second_attempt(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await (be_an_empty_classic_group if kind == "classic" else be_an_empty_consumer_group)(groups)
        let_write(groups, may=False)
        assert await groups.delete("g") == [REFUSED]
        let_write(groups, may=True)
        assert await groups.delete("g") == [0]
    async with machine.broker() as groups:
        assert await groups.states() == {}


async def test_a_refused_deletion_forgets_its_records_when_the_name_is_in_use_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await be_an_empty_consumer_group(groups)
        shard = groups.shard("g")
        let_write(groups, may=False)
        codes: list[ErrorCode] = []
        shard.delete(shard.groups["g"], codes.append)
        groups.coordinator.classic.begin(shard.add("g"))
        await trio.testing.wait_all_tasks_blocked()
        let_write(groups, may=True)
        assert codes == [REFUSED]
        assert await groups.delete("g") == [0]
    async with machine.broker() as groups:
        assert await groups.states() == {}


class HeldLog:
    """A partition that takes batches, and says of each what became of it when the test wants it to."""

    topic, topic_id, index = "__consumer_offsets", b"o" * 16, 0
    leader_epoch, is_leader = 0, True

    def __init__(self) -> None:
        self.settings = Message(max_message_bytes=1 << 20)
        self.fetch_waiters: set[Any] = set()
        self.table: dict[bytes, bytes | None] = {}
        """What a replay would find."""
        self._held: list[tuple[bytes, ProducePartitionResult, Callable[[], None]]] = []

    def produce_own(
        self, batch: memoryview, result: ProducePartitionResult, done: Callable[[], None], **_: Any
    ) -> bool:
        """Take a batch."""
        self._held.append((bytes(batch), result, done))
        return False

    async def finish(self, code: ErrorCode) -> None:
        """Commit the batch that was held longest, or refuse it."""
        await trio.testing.wait_all_tasks_blocked()
        batch, result, done = self._held.pop(0)
        if not code:
            for record in iterate_records(memoryview(batch), output_max_bytes=1 << 20):
                assert record.key is not None
                self.table[record.key] = record.value
        result.error_code = code
        done()


async def test_a_refused_deletion_takes_records_of_a_new_group_of_that_name_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Machine().broker() as groups:
        consumer, services = groups.coordinator.consumer, groups.coordinator.services
        log: Any = HeldLog()
        shard = GroupShard(log, services)

        def hear(member_id: str, epoch: int = 0, **more: Any) -> None:
            group = shard.groups.get("g") or shard.add("g")
            consumer.begin(group)
            says = ConsumerHeartbeat(
                token=1,
                member_id=member_id,
                member_epoch=epoch,
                rebalance_timeout_ms=9000,
                topic_names=("orders",),
                owned={},
                **more,
            )
            shard.step(group, says)

        for epoch in (0, -1):
            hear("old", epoch)
            await log.finish(0)
        codes: list[ErrorCode] = []
        shard.delete(shard.groups["g"], codes.append)
        await trio.testing.wait_all_tasks_blocked()
        hear("new", instance_id="i")
        await log.finish(ErrorCode.NOT_ENOUGH_REPLICAS)
        assert codes == [REFUSED]
        await log.finish(0)
        hear("new", -2, instance_id="i")  # a store without epochs
        await log.finish(0)
        again = GroupShard(log, services)
        replay = Replay(again, groups.coordinator.classic, consumer)
        for offset, (key, value) in enumerate(log.table.items()):
            replay.apply(offset, key, value)
        await replay.finish()
        for each in (shard, again):
            membership = each.groups["g"].membership
            assert isinstance(membership, ConsumerGroup)
            assert set(membership.stored.members) == {"new"}
            assert (membership.stored.epoch, membership.stored.assignment_epoch) == (1, 1)
            each.close()


async def test_a_refused_deletion_forgets_what_a_store_before_it_has_made(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Machine().broker() as groups:
        classic, consumer = groups.coordinator.classic, groups.coordinator.consumer
        log: Any = HeldLog()
        shard = GroupShard(log, groups.coordinator.services)
        group = shard.add("g")
        snapshot = GroupSnapshot(protocol_type="consumer", generation=5, protocol_name=None, leader=None)
        classic.begin(group)
        classic.perform(group, [Store(store_token=1, snapshot=snapshot)])
        await log.finish(0)
        consumer.begin(group)
        classic.begin(group)
        assert group.leftovers == (GROUP_KEY,)
        classic.perform(group, [Store(store_token=1, snapshot=snapshot)])
        await trio.testing.wait_all_tasks_blocked()
        shard.delete(group, lambda code: None)
        await log.finish(0)
        assert log.table[GROUP_KEY] is not None
        await log.finish(ErrorCode.NOT_ENOUGH_REPLICAS)
        shard.delete(group, lambda code: None)
        await log.finish(0)
        assert log.table == {GROUP_KEY: None}
        shard.close()


async def test_a_join_that_is_refused_takes_the_empty_group_of_the_other_kind_out_of_reach(
    autojump_clock: trio.testing.MockClock,
) -> None:
    machine = Machine()
    async with machine.broker() as groups:
        await be_an_empty_classic_group(groups)
        refused = await beat(groups, server_assignor="none of them")
        assert refused.error_code == ErrorCode.UNSUPPORTED_ASSIGNOR
        assert await groups.states() == {"g": "Empty"}
        assert await groups.delete("g") == [0]
    async with machine.broker() as groups:
        assert await groups.states() == {}


async def test_who_is_leaving_when_the_other_protocol_takes_the_group_over_waits_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Machine().broker() as groups:
        assert (await beat(groups)).error_code == 0
        groups.memory.threads.hold("sync")
        codes: list[int] = []

        async def leave() -> None:
            codes.append((await beat(groups, epoch=-1)).error_code)

        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(leave)
                await trio.testing.wait_all_tasks_blocked()
                assert codes == []
                assert (await groups.join()).error_code == ErrorCode.MEMBER_ID_REQUIRED
        groups.memory.threads.release_all()
        assert codes == [REFUSED]
