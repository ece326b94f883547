"""OffsetCommit and OffsetFetch against a scripted coordinator: versions, and what each error code leads to."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.scripted_broker import (
    HANG_UP,
    Instead,
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)
from trio.testing import MockClock

from penstock.client.cluster import Cluster
from penstock.client.connection import ConnectionSettings
from penstock.client.coordinator import Coordinators
from penstock.client.errors import BrokerError, CommitFailed, GroupFenced, RebalanceInProgress
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition, parse_bootstrap
from penstock.client.topic_cache import TopicCache
from penstock.consumer.group_offsets import GroupOffsets
from penstock.consumer.membership import GroupIdentity, GroupProtocol
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

TOPIC_ID = b"0123456789abcdef"  # the one of metadata_answer
T0, T1 = TopicPartition("t", 0), TopicPartition("t", 1)
MEMBER = GroupIdentity("g", "m", 3)
Codes = Callable[[int], ErrorCode]


class Coordinator:
    """Answers each commit and each fetch with the next of its codes, then with NONE."""

    def __init__(
        self, *codes: ErrorCode | Instead, versions: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        self.codes: list[ErrorCode | Instead] = list(codes)
        self.stored: dict[tuple[str, int], Message] = {}
        self.broker = ScriptedBroker(
            {
                ApiKey.METADATA: lambda _, __: metadata_answer({1: ("1", 9092)}, {"t": [1, 1]}),
                ApiKey.FIND_COORDINATOR: lambda _, __: _coordinator(),
                ApiKey.OFFSET_COMMIT: self._commit,
                ApiKey.OFFSET_FETCH: self._fetch,
            }
        )
        self.broker.versions = {
            **self.broker.versions,
            ApiKey.FIND_COORDINATOR: (0, 5),
            ApiKey.OFFSET_COMMIT: (2, 10),
            ApiKey.OFFSET_FETCH: (1, 10),
            **{ApiKey[name]: bounds for name, bounds in (versions or {}).items()},
        }

    def _next(self) -> ErrorCode | Instead:
        return self.codes.pop(0) if self.codes else ErrorCode.NONE

    def _commit(self, version: int, request: Message) -> Message | Instead:
        code = self._next()
        if isinstance(code, Instead):
            return code
        for topic in request.topics:
            name = "t" if version >= 10 and topic.topic_id == TOPIC_ID else topic.name
            if code == ErrorCode.NONE:
                self.stored |= {(name, part.partition_index): part for part in topic.partitions}
        return Message(
            topics=[
                Message(
                    name=topic.name,
                    topic_id=topic.topic_id,
                    partitions=[
                        Message(partition_index=part.partition_index, error_code=code)
                        for part in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    def _fetch(self, version: int, request: Message) -> Message | Instead:
        code = self._next()
        if isinstance(code, Instead):
            return code
        asked = request.groups[0].topics if version >= 8 else request.topics
        topics = [
            Message(
                **{"name": topic.name} if version < 10 else {"topic_id": topic.topic_id},
                partitions=[self._fetched(index, code) for index in topic.partition_indexes],
            )
            for topic in asked
        ]
        if version < 8:
            return Message(topics=topics)
        return Message(groups=[Message(group_id="g", topics=topics)])

    def _fetched(self, index: int, code: ErrorCode) -> Message:
        stored = self.stored.get(("t", index))
        return Message(
            partition_index=index,
            committed_offset=-1 if stored is None else stored.committed_offset,
            committed_leader_epoch=-1 if stored is None else stored.committed_leader_epoch,
            metadata="" if stored is None else stored.committed_metadata,
            error_code=code,
        )


def _coordinator() -> Message:
    fields = {"error_code": 0, "node_id": 1, "host": "1", "port": 9092}
    return Message(**fields, coordinators=[Message(key="g", **fields)])


@asynccontextmanager
async def offsets_on(coordinator: Coordinator) -> AsyncGenerator[tuple[GroupOffsets, TopicCache]]:
    environment = scripted_environment(ScriptedNetwork({("1", 9092): coordinator.broker}))
    async with trio.open_nursery() as nursery:
        cluster = Cluster(environment, parse_bootstrap("1:9092"), nursery, ConnectionSettings())
        topics = TopicCache(cluster, environment, creates_topics=False)
        yield GroupOffsets(Coordinators(cluster, environment), topics, environment), topics
        nursery.cancel_scope.cancel()


def member() -> GroupIdentity:
    return MEMBER


@pytest.mark.parametrize("commit_version", [2, 5, 6, 7, 9, 10])
@pytest.mark.parametrize("fetch_version", [1, 2, 5, 7, 8, 9, 10])
async def test_what_was_committed_is_fetched_in_every_version(
    commit_version: int, fetch_version: int
) -> None:
    versions = {"OFFSET_COMMIT": (2, commit_version), "OFFSET_FETCH": (1, fetch_version)}
    coordinator = Coordinator(versions=versions)
    async with offsets_on(coordinator) as (offsets, topics):
        await topics.get("t")
        await offsets.commit(member, {T0: OffsetAndMetadata(7, "note", 2)})
        found = await offsets.fetch(member, [T0, T1])
    has_epochs = commit_version >= 6 and fetch_version >= 5
    assert found == {T0: OffsetAndMetadata(7, "note", 2 if has_epochs else -1), T1: None}
    sent = coordinator.broker.bodies(ApiKey.OFFSET_COMMIT)[0]
    assert (sent.generation_id_or_member_epoch, sent.member_id) == (3, "m")


async def test_names_are_sent_while_an_id_is_not_known() -> None:
    coordinator = Coordinator()
    async with offsets_on(coordinator) as (offsets, topics):
        await offsets.commit(member, {T0: OffsetAndMetadata(1)})
        await topics.get("t")
        await offsets.commit(member, {T0: OffsetAndMetadata(2)})
    used = [
        request.version for request in coordinator.broker.requests if request.api_key == ApiKey.OFFSET_COMMIT
    ]
    assert used == [9, 10]


async def test_an_id_that_the_coordinator_does_not_know_is_forgotten(autojump_clock: MockClock) -> None:
    coordinator = Coordinator(ErrorCode.UNKNOWN_TOPIC_ID)
    async with offsets_on(coordinator) as (offsets, topics):
        await topics.get("t")
        await offsets.commit(member, {T0: OffsetAndMetadata(1)})
    used = [
        request.version for request in coordinator.broker.requests if request.api_key == ApiKey.OFFSET_COMMIT
    ]
    assert used == [10, 9]


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS,
        ErrorCode.COORDINATOR_NOT_AVAILABLE,
        ErrorCode.NOT_COORDINATOR,
        ErrorCode.UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode.REQUEST_TIMED_OUT,
        HANG_UP,
    ],
)
async def test_what_may_be_gone_next_time_is_tried_again(code: ErrorCode, autojump_clock: MockClock) -> None:
    coordinator = Coordinator(code, code)
    async with offsets_on(coordinator) as (offsets, _):
        await offsets.commit(member, {T0: OffsetAndMetadata(1)})
        assert coordinator.stored["t", 0].committed_offset == 1
        coordinator.codes = [code, code]
        assert (await offsets.fetch(member, [T0]))[T0] == OffsetAndMetadata(1)
        assert not coordinator.codes
    searches = len(coordinator.broker.bodies(ApiKey.FIND_COORDINATOR))
    is_lost = code in (HANG_UP, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR)
    assert searches == (5 if is_lost else 1)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (ErrorCode.UNKNOWN_MEMBER_ID, CommitFailed),
        (ErrorCode.ILLEGAL_GENERATION, CommitFailed),
        (ErrorCode.FENCED_MEMBER_EPOCH, CommitFailed),
        (ErrorCode.FENCED_INSTANCE_ID, GroupFenced),
        (ErrorCode.REBALANCE_IN_PROGRESS, RebalanceInProgress),
        (ErrorCode.OFFSET_METADATA_TOO_LARGE, BrokerError),
        (ErrorCode.UNKNOWN_SERVER_ERROR, BrokerError),
    ],
)
async def test_what_will_not_be_mended_is_raised_at_once(code: ErrorCode, error: type[Exception]) -> None:
    coordinator = Coordinator(code)
    async with offsets_on(coordinator) as (offsets, _):
        with pytest.raises(error):
            await offsets.commit(member, {T0: OffsetAndMetadata(1)})
    assert len(coordinator.broker.bodies(ApiKey.OFFSET_COMMIT)) == 1


@pytest.mark.parametrize(
    "now",
    [GroupIdentity("g", "m", 4), GroupIdentity("g", "m", 3, is_rebalancing=True)],
    ids=["a newer generation", "in a rebalance"],
)
async def test_a_generation_that_has_just_passed_is_a_rebalance_and_no_failure(now: GroupIdentity) -> None:
    identities = [MEMBER]  # of the attempt

    def identity() -> GroupIdentity:
        return identities.pop(0) if identities else now

    async with offsets_on(Coordinator(ErrorCode.ILLEGAL_GENERATION)) as (offsets, _):
        with pytest.raises(RebalanceInProgress):
            await offsets.commit(identity, {T0: OffsetAndMetadata(1)})


async def test_a_stale_member_epoch_is_replaced_by_the_new_one(autojump_clock: MockClock) -> None:
    epochs = iter([3, 3, 4, 4, 4, 4])
    coordinator = Coordinator(ErrorCode.STALE_MEMBER_EPOCH)

    def identity() -> GroupIdentity:
        return GroupIdentity("g", "m", next(epochs), protocol=GroupProtocol.CONSUMER)

    async with offsets_on(coordinator) as (offsets, _):
        await offsets.commit(identity, {T0: OffsetAndMetadata(1)})
    sent = [body.generation_id_or_member_epoch for body in coordinator.broker.bodies(ApiKey.OFFSET_COMMIT)]
    assert sent[0] == 3
    assert sent[-1] == 4


async def test_who_is_out_of_the_group_does_not_even_ask() -> None:
    coordinator = Coordinator()
    out = GroupIdentity("g", is_out=True)
    async with offsets_on(coordinator) as (offsets, _):
        with pytest.raises(CommitFailed):
            await offsets.commit(lambda: out, {T0: OffsetAndMetadata(1)})
    assert not coordinator.broker.bodies(ApiKey.OFFSET_COMMIT)


async def test_nothing_to_commit_is_no_request() -> None:
    coordinator = Coordinator()
    async with offsets_on(coordinator) as (offsets, _):
        await offsets.commit(member, {})
        assert await offsets.fetch(member, []) == {}
    assert not coordinator.broker.requests


async def test_open_transactions_are_waited_for(autojump_clock: MockClock) -> None:
    coordinator = Coordinator(*[ErrorCode.UNSTABLE_OFFSET_COMMIT] * 5)
    async with offsets_on(coordinator) as (offsets, _):
        assert await offsets.fetch(member, [T0]) == {T0: None}
