"""Members of both protocols against a broker: who owns what, and when it changes hands."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.group_members import TestMember, all_partitions, members
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fresh_name
from tests.support.wire import Connection

from penstock.client.admin import Admin
from penstock.client.admin_values import NewTopic
from penstock.client.errors import CommitFailed, GroupFenced, RebalanceInProgress
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.consumer.membership import GroupIdentity
from penstock.consumer.subscription import Subscription

PAUSE_S = 0.01
EVERY_WAY = [
    {"assignors": ("range",)},
    {"assignors": ("roundrobin",)},
    {"assignors": ("sticky",)},
    {"assignors": ("cooperative-sticky",)},
    {"assignors": ("range", "cooperative-sticky")},
    {"protocol": "consumer"},
]
BOTH = [{"assignors": ("cooperative-sticky",)}, {"protocol": "consumer"}]
every_way = pytest.mark.parametrize("way", EVERY_WAY, ids=lambda way: "-".join(map(str, way.values())))
both = pytest.mark.parametrize("way", BOTH, ids=["classic", "consumer"])


@pytest.fixture(scope="module")
def server(group_server: RunningServer) -> RunningServer:
    """The broker on which members of groups write often and expire soon."""
    return group_server


@every_way
async def test_members_that_come_and_go_share_all_partitions(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    topic, group_id = create_topic(connection, "shared", partitions=6), fresh_name("group")
    everything = all_partitions(topic, 6)
    async with members(server.bootstrap) as group:
        first = group.start(group=group_id, topics=(topic,), **way)
        await group.ledger.until(lambda: first.owned == everything)
        second = group.start(group=group_id, topics=(topic,), **way)
        third = group.start(group=group_id, topics=(topic,), **way)
        await group.ledger.until(lambda: [len(member.owned) for member in group.all] == [2, 2, 2])
        await second.membership.leave()
        assert not second.owned
        await group.ledger.until(lambda: first.owned | third.owned == everything)
        await first.membership.leave()
        await group.ledger.until(lambda: third.owned == everything)
        await third.membership.leave()
        assert not group.ledger.owners


@every_way
async def test_what_a_crashed_member_had_goes_to_the_others(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    topic, group_id = create_topic(connection, "crash", partitions=4), fresh_name("group")
    async with members(server.bootstrap) as group:
        first = group.start(group=group_id, topics=(topic,), **way)
        second = group.start(group=group_id, topics=(topic,), **way)
        await group.ledger.until(lambda: len(first.owned) == len(second.owned) == 2)
        first.crash()
        await group.ledger.until(lambda: second.owned == all_partitions(topic, 4))


async def test_cooperative_members_keep_what_they_keep_without_a_call(
    server: RunningServer, connection: Connection
) -> None:
    topic, group_id = create_topic(connection, "keep", partitions=6), fresh_name("group")
    async with members(server.bootstrap) as group:
        first = group.start(group=group_id, topics=(topic,), assignors=("cooperative-sticky",))
        await group.ledger.until(lambda: len(first.owned) == 6)
        second = group.start(group=group_id, topics=(topic,), assignors=("cooperative-sticky",))
        await group.ledger.until(lambda: len(second.owned) == 3)
        revoked = [partitions for call, partitions in first.listener.calls if call == "revoke"]
        assert [len(partitions) for partitions in revoked] == [3]
        assert [call for call, _ in first.listener.calls].count("assign") == 1


@both
async def test_a_pattern_takes_in_topics_that_come_later(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    stem, group_id = fresh_name("pattern"), fresh_name("group")
    old = create_topic(connection, f"{stem}-old", partitions=2)
    async with members(server.bootstrap) as group:
        member = group.start(group=group_id, pattern=f"{stem}-.*", **way)
        await group.ledger.until(lambda: member.owned == all_partitions(old, 2))
        new = create_topic(connection, f"{stem}-new", partitions=2)
        await group.ledger.until(
            lambda: member.owned == all_partitions(old, 2) | all_partitions(new, 2), limit_s=60
        )
        await member.membership.leave()


@every_way
async def test_partitions_that_are_added_are_assigned(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    topic, group_id = create_topic(connection, "grow", partitions=2), fresh_name("group")
    async with members(server.bootstrap) as group:
        first = group.start(group=group_id, topics=(topic,), **way)
        second = group.start(group=group_id, topics=(topic,), **way)
        await group.ledger.until(lambda: len(first.owned) == len(second.owned) == 1)
        async with Admin(server.bootstrap) as admin:
            await admin.create_partitions({topic: 4})
        await group.ledger.until(lambda: first.owned | second.owned == all_partitions(topic, 4))


@every_way
async def test_a_topic_that_comes_to_be_later_is_assigned(
    server: RunningServer, way: dict[str, object]
) -> None:
    topic, group_id = fresh_name("later"), fresh_name("group")
    async with members(server.bootstrap) as group:
        member = group.start(group=group_id, topics=(topic,), **way)
        with trio.fail_after(10):
            while not member.membership.is_settled:  # noqa: ASYNC110 - there is no event for it
                await trio.sleep(PAUSE_S)
        async with Admin(server.bootstrap) as admin:
            await admin.create_topics([NewTopic(name=topic, partition_count=2)])
        await group.ledger.until(lambda: member.owned == all_partitions(topic, 2))


@every_way
async def test_a_changed_subscription_changes_what_is_owned(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    one = create_topic(connection, "one", partitions=2)
    other = create_topic(connection, "other", partitions=2)
    group_id = fresh_name("group")
    async with members(server.bootstrap) as group:
        member = group.start(group=group_id, topics=(one,), **way)
        await group.ledger.until(lambda: member.owned == all_partitions(one, 2))
        member.membership.change_subscription(Subscription(frozenset({other})))
        await group.ledger.until(lambda: member.owned == all_partitions(other, 2))
        member.membership.change_subscription(Subscription())
        await group.ledger.until(lambda: not member.owned)
        member.membership.change_subscription(Subscription(frozenset({one})))
        await group.ledger.until(lambda: member.owned == all_partitions(one, 2))
        await member.membership.leave()


@both
async def test_a_revoke_that_waits_for_the_user_holds_the_partition_back(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    topic, group_id = create_topic(connection, "hold", partitions=2), fresh_name("group")
    async with members(server.bootstrap) as group:
        first = group.start(group=group_id, topics=(topic,), **way)
        await group.ledger.until(lambda: len(first.owned) == 2)
        first.listener.revoke_gate = trio.Event()
        second = group.start(group=group_id, topics=(topic,), **way)
        with trio.move_on_after(3):  # the time in which nothing may happen
            await group.ledger.until(lambda: bool(second.owned))
        assert len(first.owned) == 2
        first.listener.revoke_gate.set()
        await group.ledger.until(lambda: len(second.owned) == len(first.owned) == 1)


@both
async def test_a_user_who_is_away_too_long_loses_everything_and_gets_it_back(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    topic, group_id = create_topic(connection, "away", partitions=2), fresh_name("group")
    async with members(server.bootstrap) as group:
        first = group.start(group=group_id, topics=(topic,), max_poll_interval_ms=2_000, **way)
        await group.ledger.until(lambda: len(first.owned) == 2)
        identity = first.membership.identity
        first.listener.ms_since_poll = 2_500
        await group.ledger.until(lambda: not first.owned)
        assert first.listener.calls[-1][0] == "lose"
        second = group.start(group=group_id, topics=(topic,), **way)
        await group.ledger.until(lambda: len(second.owned) == 2)
        for who in (identity, first.membership.identity):
            with pytest.raises(CommitFailed):
                await first.offsets.commit(lambda: who, {TopicPartition(topic, 0): OffsetAndMetadata(1)})  # noqa: B023
        first.listener.ms_since_poll = None
        first.listener.polled.set()
        await group.ledger.until(lambda: len(second.owned) == len(first.owned) == 1)


@both
async def test_a_static_member_keeps_its_partitions_over_a_restart(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    topic, group_id = create_topic(connection, "static", partitions=4), fresh_name("group")
    async with members(server.bootstrap) as group:
        first = group.start(group=group_id, topics=(topic,), group_instance_id="a", **way)
        second = group.start(group=group_id, topics=(topic,), group_instance_id="b", **way)
        await group.ledger.until(lambda: len(first.owned) == len(second.owned) == 2)
        had, calls_before = first.owned, len(second.listener.calls)
        await first.membership.leave()
        again = group.start(group=group_id, topics=(topic,), group_instance_id="a", **way)
        await group.ledger.until(lambda: again.owned == had)
        assert len(second.listener.calls) == calls_before


async def test_of_two_static_members_of_one_name_the_older_is_fenced(
    server: RunningServer, connection: Connection
) -> None:
    topic, group_id = create_topic(connection, "fence", partitions=2), fresh_name("group")
    async with members(server.bootstrap) as group:
        first = group.start(group=group_id, topics=(topic,), group_instance_id="a")
        await group.ledger.until(lambda: len(first.owned) == 2)
        async with other_ledger(server) as others:
            second = others(group=group_id, topics=(topic,), group_instance_id="a")
            await group.ledger.until(lambda: not first.owned)
            await second.listener.ledger.until(lambda: len(second.owned) == 2)
        await group.ledger.until(lambda: first.listener.failure is not None)
        assert isinstance(first.listener.failure, GroupFenced)
        first.listener.failure = None


@asynccontextmanager
async def other_ledger(server: RunningServer) -> AsyncGenerator[Callable[..., TestMember]]:
    """For members that take over what another one does not know yet that it has lost."""
    async with members(server.bootstrap) as group:
        yield group.start


@both
async def test_commits_are_refused_once_they_come_too_late(
    server: RunningServer, connection: Connection, way: dict[str, object]
) -> None:
    topic, group_id = create_topic(connection, "commit", partitions=2), fresh_name("group")
    partition = TopicPartition(topic, 0)
    async with members(server.bootstrap) as group:
        member = group.start(group=group_id, topics=(topic,), **way)
        await group.ledger.until(lambda: len(member.owned) == 2)

        def identity() -> GroupIdentity:
            return member.membership.identity

        await member.topics.get(topic)  # so that its id is known: version 10
        await member.offsets.commit(identity, {partition: OffsetAndMetadata(7, "note", 0)})
        found = await member.offsets.fetch(identity, [partition, TopicPartition(topic, 1)])
        assert found == {partition: OffsetAndMetadata(7, "note", 0), TopicPartition(topic, 1): None}
        member.topics.invalidate(topic)  # by name: an older version
        assert (await member.offsets.fetch(identity, [partition]))[partition] == OffsetAndMetadata(
            7, "note", 0
        )
        before = identity()
        await member.membership.leave()
        with pytest.raises((CommitFailed, RebalanceInProgress)):
            await member.offsets.commit(lambda: before, {partition: OffsetAndMetadata(9)})
        outsider = GroupIdentity(group_id)
        assert (await member.offsets.fetch(lambda: outsider, [partition]))[partition] == OffsetAndMetadata(
            7, "note", 0
        )
        await member.offsets.commit(lambda: outsider, {partition: OffsetAndMetadata(3)})
        assert (await member.offsets.fetch(lambda: outsider, [partition]))[partition] == OffsetAndMetadata(3)
