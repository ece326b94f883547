from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from tests.support.scripted_broker import (
    HANG_UP,
    Handler,
    Instead,
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)
from trio.testing import MockClock

from penstock.client.admin import Admin
from penstock.client.backoff import RetryPolicy
from penstock.client.errors import (
    BrokerError,
    GroupNotEmpty,
    RequestOutcomeUnknown,
    UnknownGroup,
    UnsupportedByBroker,
)
from penstock.client.group_values import (
    GroupDescription,
    GroupKind,
    GroupListing,
    GroupMember,
    GroupState,
    OffsetAndMetadata,
)
from penstock.client.metadata import TopicPartition
from penstock.protocol.api import ApiKey
from penstock.protocol.consumer_protocol import ConsumerAssignment, encode_assignment
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.protocol.schema import table_versions

NODES = {1: ("one", 9092), 2: ("two", 9092)}
CALLS = (
    ApiKey.API_VERSIONS,
    ApiKey.METADATA,
    ApiKey.FIND_COORDINATOR,
    ApiKey.LIST_GROUPS,
    ApiKey.DESCRIBE_GROUPS,
    ApiKey.CONSUMER_GROUP_DESCRIBE,
    ApiKey.DELETE_GROUPS,
    ApiKey.OFFSET_FETCH,
    ApiKey.OFFSET_COMMIT,
    ApiKey.OFFSET_DELETE,
)
ORDERS = [TopicPartition("orders", index) for index in range(3)]
STABLE, EMPTY = "Stable", "Empty"


class TwoBrokers:
    """Two brokers that share the groups: those in `homes` are coordinated where it says, all others by the first."""

    def __init__(self) -> None:
        self.homes: dict[str, int] = {"b": 2}
        self.one = ScriptedBroker()
        self.two = ScriptedBroker()
        for broker in (self.one, self.two):
            broker.versions = {key: (table_versions(key)[0], table_versions(key)[-1]) for key in CALLS}
            broker.versions = {**broker.versions, ApiKey.FIND_COORDINATOR: (0, 5)}
        self.both(ApiKey.METADATA, lambda version, request: metadata_answer(NODES))
        self.both(ApiKey.FIND_COORDINATOR, self.coordinator)
        self.both(ApiKey.CONSUMER_GROUP_DESCRIBE, no_consumer_group)
        self.network = ScriptedNetwork({NODES[1]: self.one, NODES[2]: self.two})

    def coordinator(self, version: int, request: Message) -> Message:
        group_id = request.coordinator_keys[0] if version >= 4 else request.key
        node_id = self.homes.get(group_id, 1)
        host, port = NODES[node_id]
        found = Message(key=group_id, node_id=node_id, host=host, port=port)
        return Message(coordinators=[found], node_id=node_id, host=host, port=port)

    def both(self, api_key: ApiKey, handler: Handler) -> None:
        self.one.handlers[api_key] = self.two.handlers[api_key] = handler

    def serve(self, api_key: ApiKey, low: int, high: int) -> None:
        for broker in (self.one, self.two):
            broker.versions = {**broker.versions, api_key: (low, high)}

    def admin(self, **options: Any) -> Admin:
        return Admin("one:9092", scripted_environment(self.network), **options)


def no_consumer_group(version: int, request: Message) -> Message:
    return Message(
        groups=[
            Message(group_id=name, error_code=ErrorCode.GROUP_ID_NOT_FOUND, error_message="classic")
            for name in request.group_ids
        ]
    )


@pytest.fixture
def brokers() -> TwoBrokers:
    return TwoBrokers()


def listed(*groups: tuple[str, str]) -> Handler:
    return lambda version, request: Message(
        groups=[
            Message(group_id=name, protocol_type="consumer", group_state=state, group_type="classic")
            for name, state in groups
        ]
    )


async def test_groups_of_every_broker_are_listed_once(brokers: TwoBrokers) -> None:
    brokers.one.handlers[ApiKey.LIST_GROUPS] = listed(("c", STABLE), ("moved", "Dead"))
    brokers.two.handlers[ApiKey.LIST_GROUPS] = listed(("a", EMPTY), ("moved", STABLE))
    async with brokers.admin() as admin:
        groups = await admin.list_groups()
    assert groups == [
        GroupListing("a", "consumer", GroupState.EMPTY, GroupKind.CLASSIC),
        GroupListing("c", "consumer", GroupState.STABLE, GroupKind.CLASSIC),
        GroupListing("moved", "consumer", GroupState.STABLE, GroupKind.CLASSIC),
    ]


async def test_filters_go_to_the_broker_and_an_old_one_is_not_asked_what_it_would_ignore(
    brokers: TwoBrokers,
) -> None:
    brokers.both(ApiKey.LIST_GROUPS, listed())
    async with brokers.admin() as admin:
        await admin.list_groups(states=[GroupState.STABLE], kinds=[GroupKind.CONSUMER])
        (request,) = brokers.two.bodies(ApiKey.LIST_GROUPS)
        assert (request.states_filter, request.types_filter) == (["Stable"], ["consumer"])
    brokers.serve(ApiKey.LIST_GROUPS, 0, 4)
    async with brokers.admin() as admin:
        await admin.list_groups(states=[GroupState.STABLE])
        with pytest.raises(UnsupportedByBroker, match="LIST_GROUPS is needed in versions 5"):
            await admin.list_groups(kinds=[GroupKind.CONSUMER])


async def test_what_an_old_broker_does_not_tell_of_a_group_is_unknown(brokers: TwoBrokers) -> None:
    brokers.both(ApiKey.LIST_GROUPS, listed(("a", STABLE)))
    brokers.serve(ApiKey.LIST_GROUPS, 0, 2)
    async with brokers.admin() as admin:
        (group,) = await admin.list_groups()
    assert (group.state, group.kind) == (GroupState.UNKNOWN, GroupKind.UNKNOWN)


async def test_a_broker_that_loads_its_groups_is_waited_for(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    answers = [Message(groups=[]), Message(error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)]
    brokers.one.handlers[ApiKey.LIST_GROUPS] = lambda version, request: answers.pop()
    brokers.two.handlers[ApiKey.LIST_GROUPS] = listed(("a", STABLE))
    async with brokers.admin() as admin:
        assert [group.group_id for group in await admin.list_groups()] == ["a"]
        brokers.one.handlers[ApiKey.LIST_GROUPS] = lambda version, request: Message(
            error_code=ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
        )
        with pytest.raises(BrokerError, match="COORDINATOR_LOAD_IN_PROGRESS"):
            await admin.list_groups()


def classic(members: Mapping[str, bytes], *, state: str = STABLE, protocol_type: str = "consumer") -> Handler:
    return lambda version, request: Message(
        groups=[
            Message(
                group_id=name,
                group_state=state,
                protocol_type=protocol_type,
                protocol_data="range",
                members=[
                    Message(
                        member_id=member,
                        group_instance_id="static",
                        client_id="app",
                        client_host="/10.0.0.1",
                        member_assignment=assignment,
                    )
                    for member, assignment in members.items()
                ],
            )
            for name in request.groups
        ]
    )


async def test_a_classic_group_tells_who_has_which_partition(brokers: TwoBrokers) -> None:
    assignment = encode_assignment(ConsumerAssignment(tuple(ORDERS[1::-1])))
    brokers.both(ApiKey.DESCRIBE_GROUPS, classic({"m": assignment, "idle": b""}))
    async with brokers.admin() as admin:
        group = (await admin.describe_groups(["a"]))["a"]
    member = GroupMember("m", "static", "app", "10.0.0.1", ORDERS[:2])
    idle = GroupMember("idle", "static", "app", "10.0.0.1", ())
    assert group == GroupDescription(
        "a", GroupKind.CLASSIC, GroupState.STABLE, "consumer", "range", [member, idle], "one:9092"
    )
    assert isinstance(group, GroupDescription)
    assert group.owners == {ORDERS[0]: member, ORDERS[1]: member}


@pytest.mark.parametrize(
    ("assignment", "protocol_type"),
    [
        (b"\0", "consumer"),
        (b"\0\0\x7f\xff\xff\xff", "consumer"),
        (encode_assignment(ConsumerAssignment(tuple(ORDERS))), "connect"),
    ],
)
async def test_an_assignment_that_is_no_consumers_is_nothing(
    brokers: TwoBrokers, assignment: bytes, protocol_type: str
) -> None:
    brokers.both(ApiKey.DESCRIBE_GROUPS, classic({"m": assignment}, protocol_type=protocol_type))
    async with brokers.admin() as admin:
        group = (await admin.describe_groups(["a"]))["a"]
    assert isinstance(group, GroupDescription)
    assert list(group.members[0].assignment) == []


def modern(version: int, request: Message) -> Message:
    def assigned(*indexes: int) -> Message:
        topics = (
            [Message(topic_name="orders", topic_id=bytes(16), partitions=list(indexes))] if indexes else []
        )
        return Message(topic_partitions=topics)

    member = Message(
        member_id="m",
        member_epoch=6,
        client_id="app",
        client_host="/10.0.0.1",
        assignment=assigned(2, 0),
        target_assignment=assigned(0),
    )
    return Message(
        groups=[
            Message(
                group_id=name,
                group_state="Reconciling",
                group_epoch=7,
                assignor_name="uniform",
                members=[member],
            )
            for name in request.group_ids
        ]
    )


async def test_a_group_of_the_new_protocol_is_described_by_its_own_call(brokers: TwoBrokers) -> None:
    brokers.both(ApiKey.CONSUMER_GROUP_DESCRIBE, modern)
    async with brokers.admin() as admin:
        group = (await admin.describe_groups(["a"]))["a"]
    member = GroupMember("m", None, "app", "10.0.0.1", [ORDERS[0], ORDERS[2]], [ORDERS[0]], 6)
    assert group == GroupDescription(
        "a", GroupKind.CONSUMER, GroupState.RECONCILING, "consumer", "uniform", [member], "one:9092", 7
    )
    assert brokers.one.bodies(ApiKey.DESCRIBE_GROUPS) == []


async def test_a_broker_without_the_new_protocol_is_only_asked_the_old_way(brokers: TwoBrokers) -> None:
    for broker in (brokers.one, brokers.two):
        broker.versions = {
            key: bounds for key, bounds in broker.versions.items() if key != ApiKey.CONSUMER_GROUP_DESCRIBE
        }
    brokers.both(ApiKey.DESCRIBE_GROUPS, classic({}, state=EMPTY))
    async with brokers.admin() as admin:
        group = (await admin.describe_groups(["a"]))["a"]
    assert isinstance(group, GroupDescription)
    assert group.state == GroupState.EMPTY


@pytest.mark.parametrize("version", [5, 6])
async def test_a_group_that_is_not_there_is_unknown_in_every_version(
    brokers: TwoBrokers, version: int
) -> None:
    def dead(version: int, request: Message) -> Message:
        code = ErrorCode.GROUP_ID_NOT_FOUND if version == 6 else ErrorCode.NONE
        return Message(groups=[Message(group_id="a", group_state="Dead", error_code=code)])

    brokers.serve(ApiKey.DESCRIBE_GROUPS, 0, version)
    brokers.both(ApiKey.DESCRIBE_GROUPS, dead)
    async with brokers.admin() as admin:
        outcome = (await admin.describe_groups(["a"]))["a"]
    assert isinstance(outcome, UnknownGroup)
    assert str(outcome) == "group a: group id not found (GROUP_ID_NOT_FOUND)"


async def test_each_group_is_asked_of_its_own_coordinator(brokers: TwoBrokers) -> None:
    brokers.both(ApiKey.DESCRIBE_GROUPS, classic({}))
    async with brokers.admin() as admin:
        groups = await admin.describe_groups(["a", "b", "c"])
    assert [each.coordinator for each in groups.values() if isinstance(each, GroupDescription)] == [
        "one:9092",
        "two:9092",
        "one:9092",
    ]
    assert [body.groups for body in brokers.one.bodies(ApiKey.DESCRIBE_GROUPS)] == [["a", "c"]]
    assert [body.groups for body in brokers.two.bodies(ApiKey.DESCRIBE_GROUPS)] == [["b"]]


def deleted(codes: Mapping[str, ErrorCode]) -> Handler:
    return lambda version, request: Message(
        results=[Message(group_id=name, error_code=codes.get(name, 0)) for name in request.groups_names]
    )


async def test_only_the_group_whose_coordinator_moved_is_asked_for_again(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    def moved(version: int, request: Message) -> Message | Instead:
        brokers.homes["a"] = 2
        return deleted({"a": ErrorCode.NOT_COORDINATOR})(version, request)

    brokers.one.handlers[ApiKey.DELETE_GROUPS] = moved
    brokers.two.handlers[ApiKey.DELETE_GROUPS] = deleted({})
    async with brokers.admin() as admin:
        assert await admin.delete_groups(["a", "c"]) == {"a": None, "c": None}
    assert [body.groups_names for body in brokers.one.bodies(ApiKey.DELETE_GROUPS)] == [["a", "c"]]
    assert [body.groups_names for body in brokers.two.bodies(ApiKey.DELETE_GROUPS)] == [["a"]]


async def test_a_group_with_members_is_an_outcome_of_its_own(brokers: TwoBrokers) -> None:
    codes = {"a": ErrorCode.NON_EMPTY_GROUP, "c": ErrorCode.GROUP_ID_NOT_FOUND}
    brokers.both(ApiKey.DELETE_GROUPS, deleted(codes))
    async with brokers.admin() as admin:
        outcomes = await admin.delete_groups(["a", "b", "c"])
    assert isinstance(outcomes["a"], GroupNotEmpty)
    assert outcomes["b"] is None
    assert isinstance(outcomes["c"], UnknownGroup)


async def test_a_coordinator_that_never_settles_is_given_up(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    brokers.both(ApiKey.DELETE_GROUPS, deleted({"a": ErrorCode.COORDINATOR_LOAD_IN_PROGRESS}))
    async with brokers.admin(retry_policy=RetryPolicy(attempts_max=3)) as admin:
        outcome = (await admin.delete_groups(["a"]))["a"]
    assert isinstance(outcome, BrokerError)
    assert outcome.code == ErrorCode.COORDINATOR_LOAD_IN_PROGRESS
    assert len(brokers.one.bodies(ApiKey.DELETE_GROUPS)) == 3


@pytest.mark.parametrize("call", ["delete", "forget"])
async def test_a_deletion_whose_answer_was_lost_is_not_made_twice(brokers: TwoBrokers, call: str) -> None:
    keys = {"delete": ApiKey.DELETE_GROUPS, "forget": ApiKey.OFFSET_DELETE}
    brokers.both(keys[call], lambda version, request: HANG_UP)
    async with brokers.admin() as admin:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "delete": lambda: admin.delete_groups(["a"]),
            "forget": lambda: admin.delete_group_offsets("a", ORDERS),
        }
        with pytest.raises(RequestOutcomeUnknown, match=f"{keys[call].name}.*may or may not have been done"):
            await calls[call]()
    assert len(brokers.one.bodies(keys[call])) == 1


def fetched(version: int, request: Message) -> Message:
    """The group has committed 7 for orders-0, nothing for orders-1, and orders-2 can't be told."""
    group = request.groups[0] if version >= 8 else request
    asked = {"orders": [0, 1, 2]}
    if group.topics is not None:
        asked = {topic.name: topic.partition_indexes for topic in group.topics}
    entries = {
        0: Message(partition_index=0, committed_offset=7, committed_leader_epoch=3, metadata="note"),
        1: Message(partition_index=1, committed_offset=-1, metadata=""),
        2: Message(partition_index=2, committed_offset=-1, error_code=ErrorCode.TOPIC_AUTHORIZATION_FAILED),
    }
    topics = [
        Message(name=name, partitions=[entries[index] for index in indexes])
        for name, indexes in asked.items()
    ]
    return Message(groups=[Message(group_id=group.group_id, topics=topics)], topics=topics)


@pytest.mark.parametrize("version", [2, 5, 7, 8, 9, 10])
async def test_committed_offsets_are_read_in_every_version(brokers: TwoBrokers, version: int) -> None:
    brokers.serve(ApiKey.OFFSET_FETCH, 1, version)
    brokers.both(ApiKey.OFFSET_FETCH, fetched)
    async with brokers.admin() as admin:
        of_all = await admin.list_group_offsets("a")
        of_some = await admin.list_group_offsets("a", ORDERS[:2])
    assert of_all[ORDERS[0]] == OffsetAndMetadata(7, "note", 3 if version >= 5 else -1)
    assert of_all[ORDERS[1]] is None
    assert isinstance(of_all[ORDERS[2]], BrokerError)
    assert of_some == {key: of_all[key] for key in ORDERS[:2]}
    assert {
        request.version for request in brokers.one.requests if request.api_key == ApiKey.OFFSET_FETCH
    } == {min(version, 9)}


async def test_an_error_of_the_whole_group_is_raised(brokers: TwoBrokers) -> None:
    code = ErrorCode.GROUP_AUTHORIZATION_FAILED
    brokers.both(
        ApiKey.OFFSET_FETCH, lambda version, request: Message(groups=[Message(group_id="a", error_code=code)])
    )
    async with brokers.admin() as admin:
        with pytest.raises(BrokerError, match="group a: group authorization failed"):
            await admin.list_group_offsets("a")


async def test_nothing_asked_is_nothing_sent(brokers: TwoBrokers) -> None:
    async with brokers.admin() as admin:
        assert await admin.list_group_offsets("a", []) == {}
        assert await admin.alter_group_offsets("a", {}) == {}
        assert await admin.delete_group_offsets("a", []) == {}
        assert await admin.describe_groups([]) == {}
    assert brokers.one.requests == []


def committed(codes: Mapping[int, ErrorCode] | None = None) -> Handler:
    return lambda version, request: Message(
        topics=[
            Message(
                name=topic.name,
                partitions=[
                    Message(
                        partition_index=entry.partition_index,
                        error_code=(codes or {}).get(entry.partition_index, 0),
                    )
                    for entry in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


async def test_offsets_are_committed_from_outside_of_the_group(brokers: TwoBrokers) -> None:
    brokers.both(ApiKey.OFFSET_COMMIT, committed({1: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION}))
    async with brokers.admin() as admin:
        outcomes = await admin.alter_group_offsets(
            "b", {ORDERS[0]: 7, ORDERS[1]: OffsetAndMetadata(8, "note", 2)}
        )
    assert outcomes[ORDERS[0]] is None
    assert isinstance(outcomes[ORDERS[1]], BrokerError)
    (request,) = brokers.two.bodies(ApiKey.OFFSET_COMMIT)
    assert (request.generation_id_or_member_epoch, request.member_id) == (-1, "")
    assert [
        (entry.committed_offset, entry.committed_metadata, entry.committed_leader_epoch)
        for entry in request.topics[0].partitions
    ] == [(7, "", -1), (8, "note", 2)]


@pytest.mark.parametrize("loss", ["hang up", "moved"])
async def test_a_commit_is_tried_again_since_it_comes_to_the_same(
    brokers: TwoBrokers, autojump_clock: MockClock, loss: str
) -> None:
    def first(version: int, request: Message) -> Message | Instead:
        brokers.homes["a"] = 2
        if loss == "hang up":
            brokers.network.brokers.pop(NODES[1])
            return HANG_UP
        return committed(dict.fromkeys(range(3), ErrorCode.NOT_COORDINATOR))(version, request)

    brokers.one.handlers[ApiKey.OFFSET_COMMIT] = first
    brokers.two.handlers[ApiKey.OFFSET_COMMIT] = committed()
    async with brokers.admin() as admin:
        assert await admin.alter_group_offsets("a", {ORDERS[0]: 7}) == {ORDERS[0]: None}
    assert len(brokers.two.bodies(ApiKey.OFFSET_COMMIT)) == 1


async def test_forgotten_offsets_are_told_partition_by_partition(brokers: TwoBrokers) -> None:
    brokers.both(ApiKey.OFFSET_DELETE, committed({1: ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC}))
    async with brokers.admin() as admin:
        outcomes = await admin.delete_group_offsets("a", ORDERS[:2])
        assert outcomes[ORDERS[0]] is None
        assert isinstance(outcomes[ORDERS[1]], GroupNotEmpty)
        brokers.both(
            ApiKey.OFFSET_DELETE,
            lambda version, request: Message(error_code=ErrorCode.GROUP_ID_NOT_FOUND),
        )
        with pytest.raises(UnknownGroup, match="group a: group id not found"):
            await admin.delete_group_offsets("a", ORDERS[:2])


@pytest.mark.parametrize(
    ("text", "state"),
    [("stable", GroupState.STABLE), ("Empty", GroupState.EMPTY), ("Odd", GroupState.UNKNOWN)],
)
def test_a_state_that_nobody_knows_yet_is_unknown(text: str, state: GroupState) -> None:
    assert GroupState.read(text) is state
