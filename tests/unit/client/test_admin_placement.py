import pytest
from tests.support.scripted_broker import Instead
from tests.unit.client.test_admin import ORDERS, TwoBrokers
from trio.testing import MockClock

from penstock.client.errors import BrokerError, RequestOutcomeUnknown
from penstock.client.metadata import Address, Node, TopicPartition
from penstock.client.placement_values import BrokerListing, LogDirectory, Reassignment
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

HANG_UP = Instead.HANG_UP


@pytest.fixture
def brokers() -> TwoBrokers:
    return TwoBrokers()


async def test_a_broker_is_listed_without_its_rack_or_its_fence(brokers: TwoBrokers) -> None:
    def handle(version: int, request: Message) -> Message:
        assert request.include_fenced_brokers
        listed = [
            Message(broker_id=1, host="one", port=9092, rack="a", is_fenced=False),
            Message(broker_id=2, host="two", port=9092, rack=None, is_fenced=True),
        ]
        return Message(cluster_id="c", controller_id=2, brokers=listed)

    brokers.both(ApiKey.DESCRIBE_CLUSTER, handle)
    async with brokers.admin() as admin:
        found = await admin.describe_brokers()
    assert (found.cluster_id, found.controller_id) == ("c", 2)
    assert found.brokers == {
        1: BrokerListing(Node(1, Address("one", 9092), "a"), False),
        2: BrokerListing(Node(2, Address("two", 9092), None), True),
    }


async def test_each_broker_is_asked_for_its_own_folders_and_one_that_is_gone_is_told(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    def handle(size_bytes: int) -> Message:
        partition = Message(partition_index=1, partition_size=size_bytes, offset_lag=0, is_future_key=False)
        coming = Message(partition_index=2, partition_size=5, offset_lag=0, is_future_key=True)
        topic = Message(name="orders", partitions=[partition, coming])
        return Message(
            results=[
                Message(
                    error_code=0, log_dir="/d", topics=[topic], total_bytes=size_bytes * 9, usable_bytes=-1
                )
            ]
        )

    brokers.one.handlers[ApiKey.DESCRIBE_LOG_DIRS] = lambda version, request: handle(10)
    brokers.two.handlers[ApiKey.DESCRIBE_LOG_DIRS] = lambda version, request: handle(20)
    async with brokers.admin() as admin:
        found = await admin.describe_log_dirs([1, 2, 7], [ORDERS[1]])
    assert found[1] == [LogDirectory("/d", 90, None, {ORDERS[1]: 10})]
    assert found[2] == [LogDirectory("/d", 180, None, {ORDERS[1]: 20})]
    assert isinstance(found[7], BrokerError)
    assert found[7].code == ErrorCode.BROKER_NOT_AVAILABLE
    (asked,) = brokers.one.bodies(ApiKey.DESCRIBE_LOG_DIRS)
    assert asked.topics == [Message(topic="orders", partitions=[1])]


async def test_a_folder_that_is_broken_is_called_empty(brokers: TwoBrokers) -> None:
    broken = Message(error_code=ErrorCode.KAFKA_STORAGE_ERROR, log_dir="/d", topics=[])
    brokers.both(ApiKey.DESCRIBE_LOG_DIRS, lambda version, request: Message(results=[broken]))
    async with brokers.admin() as admin:
        outcome = (await admin.describe_log_dirs([1]))[1]
    assert isinstance(outcome, BrokerError)
    assert "/d" in str(outcome)


async def test_moves_go_to_the_controller_and_each_has_its_outcome(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    def moved(version: int, request: Message) -> Message:
        brokers.controller_id = 2
        return Message(responses=[], error_code=ErrorCode.NOT_CONTROLLER)

    def handle(version: int, request: Message) -> Message:
        codes = {0: ErrorCode.NONE, 1: ErrorCode.INVALID_REPLICA_ASSIGNMENT}
        (topic,) = request.topics
        answers = [
            Message(
                partition_index=p.partition_index, error_code=codes[p.partition_index], error_message="no"
            )
            for p in topic.partitions
        ]
        return Message(responses=[Message(name=topic.name, partitions=answers)])

    brokers.one.handlers[ApiKey.ALTER_PARTITION_REASSIGNMENTS] = moved
    brokers.two.handlers[ApiKey.ALTER_PARTITION_REASSIGNMENTS] = handle
    async with brokers.admin() as admin:
        found = await admin.alter_partition_reassignments({ORDERS[0]: (2, 1), ORDERS[1]: None})
    assert found[ORDERS[0]] is None
    assert isinstance(found[ORDERS[1]], BrokerError)
    (asked,) = brokers.two.bodies(ApiKey.ALTER_PARTITION_REASSIGNMENTS)
    assert [p.replicas for p in asked.topics[0].partitions] == [[2, 1], None]


async def test_a_change_of_the_replication_factor_that_is_forbidden_is_asked_of_an_old_broker(
    brokers: TwoBrokers,
) -> None:
    brokers.both(ApiKey.ALTER_PARTITION_REASSIGNMENTS, lambda version, request: Message(responses=[]))
    async with brokers.admin() as admin:
        await admin.alter_partition_reassignments({ORDERS[0]: (1,)}, may_change_factor=False)
    (asked,) = brokers.one.bodies(ApiKey.ALTER_PARTITION_REASSIGNMENTS)
    assert asked.allow_replication_factor_change is False


async def test_moves_under_way_are_told_with_both_ends(brokers: TwoBrokers) -> None:
    moving = Message(partition_index=3, replicas=[4, 1, 2], adding_replicas=[4], removing_replicas=[2])
    answer = Message(error_code=0, topics=[Message(name="orders", partitions=[moving])])
    brokers.both(ApiKey.LIST_PARTITION_REASSIGNMENTS, lambda version, request: answer)
    async with brokers.admin() as admin:
        found = await admin.list_partition_reassignments()
    assert found == {TopicPartition("orders", 3): Reassignment((4, 1, 2), (4,), (2,))}
    (move,) = found.values()
    assert (move.target, move.origin) == ((4, 1), (1, 2))


async def test_a_leader_that_needs_no_election_is_an_error(brokers: TwoBrokers) -> None:
    codes = [ErrorCode.NONE, ErrorCode.ELECTION_NOT_NEEDED, ErrorCode.PREFERRED_LEADER_NOT_AVAILABLE]
    results = [Message(partition_id=i, error_code=code, error_message="m") for i, code in enumerate(codes)]
    answer = Message(
        error_code=0, replica_election_results=[Message(topic="orders", partition_result=results)]
    )
    brokers.both(ApiKey.ELECT_LEADERS, lambda version, request: answer)
    async with brokers.admin() as admin:
        found = await admin.elect_leaders(ORDERS, is_unclean=True)
    assert [found[ORDERS[0]], found[ORDERS[1]]] == [None, None]
    assert isinstance(found[ORDERS[2]], BrokerError)
    (asked,) = brokers.one.bodies(ApiKey.ELECT_LEADERS)
    assert asked.election_type == 1


async def test_a_broker_that_may_not_go_is_told_and_a_lost_answer_is_no_success(
    brokers: TwoBrokers, autojump_clock: MockClock
) -> None:
    refusal = Message(error_code=ErrorCode.INVALID_REQUEST, error_message="Broker 7 is alive: stop it first.")
    brokers.both(ApiKey.UNREGISTER_BROKER, lambda version, request: refusal)
    async with brokers.admin() as admin:
        with pytest.raises(BrokerError, match="Broker 7 is alive"):
            await admin.unregister_broker(7)
        brokers.both(ApiKey.UNREGISTER_BROKER, lambda version, request: HANG_UP)
        with pytest.raises(RequestOutcomeUnknown):
            await admin.unregister_broker(7)
