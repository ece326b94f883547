from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
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
from penstock.client.admin_values import (
    EARLIEST,
    HIGH_WATERMARK,
    LATEST,
    MAX_TIMESTAMP,
    ConfigChange,
    ConfigEntry,
    ConfigOperation,
    ConfigResource,
    ConfigSource,
    CreatedTopic,
    FoundOffset,
    NewTopic,
)
from penstock.client.backoff import RetryPolicy
from penstock.client.errors import (
    BootstrapFailed,
    BrokerError,
    RequestOutcomeUnknown,
    TopicExists,
    UnknownTopic,
    UnsupportedByBroker,
)
from penstock.client.metadata import TopicPartition
from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.network import ConnectionLost

NODES = {1: ("one", 9092), 2: ("two", 9092)}
Answering = Callable[[int, Message], Message]
ORDERS = [TopicPartition("orders", index) for index in range(3)]


class TwoBrokers:
    """Two brokers; `one` is the bootstrap. Partition leaders of "orders" and the controller may be changed."""

    def __init__(self) -> None:
        self.controller_id = 1
        self.leaders = [1, 2, 1]
        self.one = ScriptedBroker({ApiKey.METADATA: self.metadata})
        self.two = ScriptedBroker({ApiKey.METADATA: self.metadata})
        self.network = ScriptedNetwork({NODES[1]: self.one, NODES[2]: self.two})

    def metadata(self, version: int, request: Message) -> Message:
        topics: dict[str, Sequence[int]] = {"orders": self.leaders, "bills": [1]}
        if request.topics is not None:
            topics = {topic.name: topics.get(topic.name, []) for topic in request.topics}
        answer = metadata_answer(NODES, topics, controller_id=self.controller_id)
        for topic in answer.topics:
            if not topic.partitions:
                topic.error_code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        return answer

    def both(self, api_key: ApiKey, handler: Handler) -> None:
        self.one.handlers[api_key] = self.two.handlers[api_key] = handler

    def admin(self, **options: Any) -> Admin:
        return Admin("one:9092", scripted_environment(self.network), **options)


@pytest.fixture
def brokers() -> TwoBrokers:
    return TwoBrokers()


def creation(code: ErrorCode = ErrorCode.NONE) -> Answering:
    def handle(version: int, request: Message) -> Message:
        return Message(
            topics=[
                Message(name=topic.name, topic_id=bytes(15) + b"1", error_code=code, num_partitions=2)
                for topic in request.topics
            ]
        )

    return handle


def deletion(code: ErrorCode = ErrorCode.NONE) -> Answering:
    return lambda version, request: Message(
        responses=[Message(name=topic.name, error_code=code) for topic in request.topics]
    )


async def test_a_created_topic_tells_what_the_broker_chose(brokers: TwoBrokers) -> None:
    brokers.one.handlers[ApiKey.CREATE_TOPICS] = creation()
    async with brokers.admin() as admin:
        outcomes = await admin.create_topics([NewTopic(name="a", configs={"retention.ms": "1"})])
    assert outcomes == {"a": CreatedTopic("a", bytes(15) + b"1", 2, None)}
    (request,) = brokers.one.bodies(ApiKey.CREATE_TOPICS)
    assert request.topics[0].num_partitions == -1
    assert request.topics[0].replication_factor == -1
    assert request.topics[0].configs == [Message(name="retention.ms", value="1")]


async def test_a_topic_that_exists_is_an_outcome_of_its_own_and_the_others_are_made(
    brokers: TwoBrokers,
) -> None:
    def handle(version: int, request: Message) -> Message:
        codes = {"old": ErrorCode.TOPIC_ALREADY_EXISTS}
        return Message(
            topics=[Message(name=topic.name, error_code=codes.get(topic.name, 0)) for topic in request.topics]
        )

    brokers.one.handlers[ApiKey.CREATE_TOPICS] = handle
    async with brokers.admin() as admin:
        outcomes = await admin.create_topics([NewTopic(name="old"), NewTopic(name="new")])
    assert isinstance(outcomes["old"], TopicExists)
    assert isinstance(outcomes["new"], CreatedTopic)
    assert len(brokers.one.bodies(ApiKey.CREATE_TOPICS)) == 1


async def test_what_came_to_the_wrong_controller_is_sent_to_the_new_one(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    def moved(version: int, request: Message) -> Message:
        brokers.controller_id = 2
        return creation(ErrorCode.NOT_CONTROLLER)(version, request)

    brokers.one.handlers[ApiKey.CREATE_TOPICS] = moved
    brokers.two.handlers[ApiKey.CREATE_TOPICS] = creation()
    async with brokers.admin() as admin:
        outcomes = await admin.create_topics([NewTopic(name="a")])
    assert isinstance(outcomes["a"], CreatedTopic)


async def test_a_controller_that_never_settles_is_given_up(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    brokers.both(ApiKey.CREATE_TOPICS, creation(ErrorCode.NOT_CONTROLLER))
    async with brokers.admin(retry_policy=RetryPolicy(attempts_max=4)) as admin:
        outcomes = await admin.create_topics([NewTopic(name="a")])
    outcome = outcomes["a"]
    assert isinstance(outcome, BrokerError)
    assert outcome.code == ErrorCode.NOT_CONTROLLER
    assert len(brokers.one.bodies(ApiKey.CREATE_TOPICS)) == 4


@pytest.mark.parametrize("call", ["create", "delete", "grow", "append"])
async def test_a_change_whose_answer_was_lost_is_not_made_twice(brokers: TwoBrokers, call: str) -> None:
    keys = {
        "create": ApiKey.CREATE_TOPICS,
        "delete": ApiKey.DELETE_TOPICS,
        "grow": ApiKey.CREATE_PARTITIONS,
        "append": ApiKey.INCREMENTAL_ALTER_CONFIGS,
    }
    brokers.both(keys[call], lambda version, request: HANG_UP)
    append = ConfigChange("cleanup.policy", "compact", ConfigOperation.APPEND)
    async with brokers.admin() as admin:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "create": lambda: admin.create_topics([NewTopic(name="a")]),
            "delete": lambda: admin.delete_topics(["a"]),
            "grow": lambda: admin.create_partitions({"a": 2}),
            "append": lambda: admin.alter_configs({ConfigResource.topic("a"): [append]}),
        }
        with pytest.raises(RequestOutcomeUnknown, match=f"{keys[call].name}.*may or may not have been done"):
            await calls[call]()
    assert len(brokers.one.bodies(keys[call])) == 1


async def test_what_can_be_done_twice_is_tried_again_after_a_lost_connection(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    calls = 0

    def first_hang_up(version: int, request: Message) -> Message | Instead:
        nonlocal calls
        calls += 1
        if calls == 1:
            return HANG_UP
        return Message(responses=[Message(error_code=0, resource_type=2, resource_name="a")])

    brokers.both(ApiKey.INCREMENTAL_ALTER_CONFIGS, first_hang_up)
    resource = ConfigResource.topic("a")
    async with brokers.admin() as admin:
        outcomes = await admin.alter_configs({resource: [ConfigChange("retention.ms", "5")]})
    assert outcomes == {resource: None}
    assert calls == 2


async def test_metadata_is_asked_for_again_after_a_lost_connection(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    calls = 0

    def first_hang_up(version: int, request: Message) -> Message | Instead:
        nonlocal calls
        calls += 1
        return HANG_UP if calls == 1 else brokers.metadata(version, request)

    brokers.both(ApiKey.METADATA, first_hang_up)
    async with brokers.admin() as admin:
        assert [topic.name for topic in await admin.list_topics()] == ["bills", "orders"]


async def test_no_broker_to_be_reached_is_told_at_once(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    brokers.network.brokers.clear()
    async with brokers.admin() as admin:
        with pytest.raises(BootstrapFailed):
            await admin.delete_topics(["a"])
    assert brokers.network.attempts == [("one", 9092)]


async def test_a_throttled_change_is_tried_again(brokers: TwoBrokers, autojump_clock: MockClock) -> None:
    answers = [deletion(), deletion(ErrorCode.THROTTLING_QUOTA_EXCEEDED)]
    brokers.one.handlers[ApiKey.DELETE_TOPICS] = lambda version, request: answers.pop()(version, request)
    async with brokers.admin() as admin:
        assert await admin.delete_topics(["a"]) == {"a": None}


async def test_deleting_names_topics_in_the_form_of_each_version(brokers: TwoBrokers) -> None:
    def old_form(version: int, request: Message) -> Message:
        assert version == 5
        return Message(responses=[Message(name=name, error_code=3) for name in request.topic_names])

    served = {ApiKey(key): (api.versions[0], api.versions[-1]) for key, api in SERVED.items()}
    brokers.one.versions = {**served, ApiKey.DELETE_TOPICS: (1, 5)}
    brokers.one.handlers[ApiKey.DELETE_TOPICS] = old_form
    async with brokers.admin() as admin:
        outcomes = await admin.delete_topics(["a", "b"])
    assert isinstance(outcomes["a"], UnknownTopic)
    assert isinstance(outcomes["b"], UnknownTopic)


async def test_a_broker_that_can_not_choose_the_numbers_is_not_asked_to(brokers: TwoBrokers) -> None:
    served = {ApiKey(key): (api.versions[0], api.versions[-1]) for key, api in SERVED.items()}
    brokers.one.versions = {**served, ApiKey.CREATE_TOPICS: (0, 3)}
    brokers.one.handlers[ApiKey.CREATE_TOPICS] = creation()
    async with brokers.admin() as admin:
        for half in (
            NewTopic(name="a"),
            NewTopic(name="a", partition_count=3),
            NewTopic(name="a", replication_factor=1),
        ):
            with pytest.raises(UnsupportedByBroker, match="CREATE_TOPICS is needed in versions 4 to 7"):
                await admin.create_topics([half])
        await admin.create_topics([NewTopic(name="a", partition_count=1, replication_factor=1)])


def offsets(codes: dict[int, ErrorCode] | None = None) -> Answering:
    def handle(version: int, request: Message) -> Message:
        return Message(
            topics=[
                Message(
                    name=topic.name,
                    partitions=[
                        Message(
                            partition_index=entry.partition_index,
                            error_code=(codes or {}).get(entry.partition_index, 0),
                            offset=100 + entry.partition_index,
                            timestamp=entry.timestamp,
                            leader_epoch=3,
                        )
                        for entry in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    return handle


async def test_offsets_are_asked_of_each_partitions_leader(brokers: TwoBrokers) -> None:
    brokers.both(ApiKey.LIST_OFFSETS, offsets())
    async with brokers.admin() as admin:
        found = await admin.list_offsets({ORDERS[0]: EARLIEST, ORDERS[1]: LATEST, ORDERS[2]: 5})
    assert found == {
        ORDERS[0]: FoundOffset(100, EARLIEST, 3),
        ORDERS[1]: FoundOffset(101, LATEST, 3),
        ORDERS[2]: FoundOffset(102, 5, 3),
    }
    (of_one,) = brokers.one.bodies(ApiKey.LIST_OFFSETS)
    (of_two,) = brokers.two.bodies(ApiKey.LIST_OFFSETS)
    assert [entry.partition_index for entry in of_one.topics[0].partitions] == [0, 2]
    assert [entry.partition_index for entry in of_two.topics[0].partitions] == [1]
    assert of_one.replica_id == -1


async def test_only_what_came_to_a_former_leader_is_asked_again(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    def moved(version: int, request: Message) -> Message:
        brokers.leaders[2] = 2
        return offsets({2: ErrorCode.NOT_LEADER_OR_FOLLOWER})(version, request)

    brokers.one.handlers[ApiKey.LIST_OFFSETS] = moved
    brokers.two.handlers[ApiKey.LIST_OFFSETS] = offsets()
    async with brokers.admin() as admin:
        found = await admin.list_offsets(dict.fromkeys(ORDERS, LATEST))
    assert [found[partition] for partition in ORDERS] == [FoundOffset(100 + i, LATEST, 3) for i in range(3)]
    assert len(brokers.one.bodies(ApiKey.LIST_OFFSETS)) == 1
    assert [
        [entry.partition_index for entry in body.topics[0].partitions]
        for body in brokers.two.bodies(ApiKey.LIST_OFFSETS)
    ] == [[1], [2]]


async def test_an_unknown_topic_or_partition_is_an_outcome_and_not_tried_again(brokers: TwoBrokers) -> None:
    brokers.both(ApiKey.LIST_OFFSETS, offsets())
    missing = [TopicPartition("nowhere", 0), TopicPartition("orders", 3)]
    async with brokers.admin() as admin:
        found = await admin.list_offsets(dict.fromkeys([*missing, ORDERS[0]], LATEST))
    assert [type(found[key]) for key in missing] == [UnknownTopic, UnknownTopic]
    assert isinstance(found[ORDERS[0]], FoundOffset)
    assert len(brokers.one.bodies(ApiKey.METADATA)) == 1


async def test_a_leader_that_has_not_heard_of_its_partition_yet_is_asked_again(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    answers = [offsets(), offsets({0: ErrorCode.UNKNOWN_TOPIC_OR_PARTITION})]
    brokers.one.handlers[ApiKey.LIST_OFFSETS] = lambda version, request: answers.pop()(version, request)
    async with brokers.admin() as admin:
        found = await admin.list_offsets({ORDERS[0]: LATEST})
    assert isinstance(found[ORDERS[0]], FoundOffset)


async def test_a_partition_without_a_leader_is_waited_for(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    brokers.leaders[0] = -1
    brokers.both(ApiKey.LIST_OFFSETS, offsets())

    async def elect() -> None:
        await trio.sleep(0.2)
        brokers.leaders[0] = 2

    async with brokers.admin() as admin, trio.open_nursery() as nursery:
        nursery.start_soon(elect)
        found = await admin.list_offsets({ORDERS[0]: LATEST})
    assert isinstance(found[ORDERS[0]], FoundOffset)


async def test_the_largest_timestamp_is_not_asked_of_a_broker_that_takes_it_for_a_time(
    brokers: TwoBrokers,
) -> None:
    served = {ApiKey(key): (api.versions[0], api.versions[-1]) for key, api in SERVED.items()}
    brokers.one.versions = {**served, ApiKey.LIST_OFFSETS: (1, 6)}
    async with brokers.admin() as admin:
        with pytest.raises(UnsupportedByBroker, match="LIST_OFFSETS is needed in versions 7 to"):
            await admin.list_offsets({ORDERS[0]: MAX_TIMESTAMP})


async def test_records_are_deleted_at_each_partitions_leader(brokers: TwoBrokers) -> None:
    def handle(version: int, request: Message) -> Message:
        return Message(
            topics=[
                Message(
                    name=topic.name,
                    partitions=[
                        Message(
                            partition_index=entry.partition_index,
                            low_watermark=entry.offset,
                            error_code=1 if entry.offset > 50 else 0,
                        )
                        for entry in topic.partitions
                    ],
                )
                for topic in request.topics
            ]
        )

    brokers.both(ApiKey.DELETE_RECORDS, handle)
    async with brokers.admin() as admin:
        outcomes = await admin.delete_records({ORDERS[0]: 10, ORDERS[1]: 20, ORDERS[2]: 99})
    assert outcomes[ORDERS[0]] == 10
    assert outcomes[ORDERS[1]] == 20
    failed = outcomes[ORDERS[2]]
    assert isinstance(failed, BrokerError)
    assert "orders-2" in str(failed)


async def test_deleting_all_that_is_there_is_not_repeated(brokers: TwoBrokers) -> None:
    brokers.both(ApiKey.DELETE_RECORDS, lambda version, request: HANG_UP)
    async with brokers.admin() as admin:
        with pytest.raises(RequestOutcomeUnknown):
            await admin.delete_records({ORDERS[0]: HIGH_WATERMARK})
    assert len(brokers.one.bodies(ApiKey.DELETE_RECORDS)) == 1


async def test_configs_of_a_broker_are_asked_of_that_broker(brokers: TwoBrokers) -> None:
    def handle(version: int, request: Message) -> Message:
        return Message(
            results=[
                Message(
                    resource_type=resource.resource_type,
                    resource_name=resource.resource_name,
                    configs=[Message(name="x", value="1", config_source=99 if version else 0)],
                )
                for resource in request.resources
            ]
        )

    brokers.both(ApiKey.DESCRIBE_CONFIGS, handle)
    resources = [ConfigResource.topic("orders"), ConfigResource.broker(2), ConfigResource.broker()]
    async with brokers.admin() as admin:
        found = await admin.describe_configs(resources)
    entry = ConfigEntry("x", "1", ConfigSource.UNKNOWN, is_read_only=False, is_sensitive=False)
    assert found == {resource: {"x": entry} for resource in resources}
    asked_of_two = brokers.two.bodies(ApiKey.DESCRIBE_CONFIGS)
    assert [[each.resource_name for each in body.resources] for body in asked_of_two] == [["2"]]


async def test_nothing_asked_is_nothing_sent(brokers: TwoBrokers) -> None:
    async with brokers.admin() as admin:
        assert await admin.create_topics([]) == {}
        assert await admin.describe_topics([]) == {}
        assert await admin.list_offsets({}) == {}
        assert await admin.describe_configs([]) == {}
    assert brokers.network.attempts == []


async def test_an_error_in_the_block_comes_out_as_it_is(brokers: TwoBrokers) -> None:
    async def fail() -> None:
        async with brokers.admin() as admin:
            await admin.list_topics()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def test_a_cancelled_block_ends_and_closes_the_connections(brokers: TwoBrokers) -> None:
    with trio.CancelScope() as scope:
        async with brokers.admin() as admin:
            await admin.list_topics()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert brokers.one.streams[0].is_closed


async def test_an_admin_outside_its_block_says_so(brokers: TwoBrokers) -> None:
    admin = brokers.admin()
    with pytest.raises(RuntimeError, match="async with"):
        await admin.list_topics()
    async with admin:
        await admin.list_topics()
    with pytest.raises(RuntimeError, match="async with"):
        await admin.list_topics()


async def test_a_call_is_given_up_by_its_cancel_scope(brokers: TwoBrokers, autojump_clock: MockClock) -> None:
    brokers.both(ApiKey.LIST_OFFSETS, offsets({0: ErrorCode.NOT_LEADER_OR_FOLLOWER}))
    async with brokers.admin(retry_policy=RetryPolicy(attempts_max=10**9)) as admin:
        with trio.move_on_after(60) as scope:
            await admin.list_offsets({ORDERS[0]: LATEST})
        assert scope.cancelled_caught
        assert [topic.name for topic in await admin.list_topics()] == ["bills", "orders"]


async def test_a_broker_that_always_hangs_up_is_a_lost_connection(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    brokers.both(ApiKey.METADATA, lambda version, request: HANG_UP)
    async with brokers.admin(retry_policy=RetryPolicy(attempts_max=3)) as admin:
        with pytest.raises(ConnectionLost):
            await admin.list_topics()
    assert len(brokers.one.bodies(ApiKey.METADATA)) == 3


async def test_a_controller_that_dies_is_waited_for_until_another_has_taken_over(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    brokers.two.handlers[ApiKey.CREATE_TOPICS] = creation()
    async with brokers.admin() as admin:
        await admin.describe_cluster()
        del brokers.network.brokers[NODES[1]]  # Metadata names it until its session has ended
        for stream in brokers.one.streams:
            stream.end()

        async def take_over() -> None:
            await trio.sleep(10)
            brokers.controller_id = 2

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_over)
            outcomes = await admin.create_topics([NewTopic(name="a")])
    assert isinstance(outcomes["a"], CreatedTopic)
