from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.scripted_broker import (
    SILENCE,
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from penstock.client.cluster import Cluster, ConnectionLane
from penstock.client.connection import ConnectionSettings
from penstock.client.errors import BootstrapFailed, BrokerError, UnsupportedByBroker
from penstock.client.metadata import Address, Node, parse_bootstrap
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message
from penstock.runtime.network import AddressError, ConnectionLost


def broker_that_names(*nodes: int, controller_id: int = 1) -> ScriptedBroker:
    """A broker whose Metadata has node n at `n:9092`."""
    answer = metadata_answer({node: (str(node), 9092) for node in nodes}, controller_id=controller_id)
    return ScriptedBroker({ApiKey.METADATA: lambda version, request: answer})


@asynccontextmanager
async def cluster_of(network: ScriptedNetwork, bootstrap: str = "1:9092") -> AsyncGenerator[Cluster, None]:
    async with trio.open_nursery() as nursery:
        yield Cluster(
            scripted_environment(network), parse_bootstrap(bootstrap), nursery, ConnectionSettings()
        )
        nursery.cancel_scope.cancel()


async def test_bootstrap_goes_on_to_the_next_address() -> None:
    network = ScriptedNetwork({("alive", 9092): broker_that_names(1)})
    async with cluster_of(network, "dead1,dead2,alive,dead3") as cluster:
        assert (await cluster.refresh([])).cluster_id == "scripted"


async def test_an_address_that_never_answers_is_passed_over_and_closed(autojump_clock: MockClock) -> None:
    silent = ScriptedBroker({ApiKey.API_VERSIONS: lambda version, request: SILENCE})
    network = ScriptedNetwork({("silent", 9092): silent, ("1", 9092): broker_that_names(1)})
    async with cluster_of(network, "silent,1") as cluster:
        await cluster.refresh([])
        assert silent.streams[0].is_closed


async def test_when_nobody_can_be_reached_each_address_and_reason_is_told() -> None:
    async with cluster_of(ScriptedNetwork({}), "dead1:1,dead2:2") as cluster:
        with pytest.raises(BootstrapFailed) as caught:
            await cluster.refresh([])
    assert "can't connect to dead1:1: Connection refused" in str(caught.value)
    assert "can't connect to dead2:2: Connection refused" in str(caught.value)


async def test_one_connection_for_each_node_even_when_many_ask_at_once() -> None:
    broker = broker_that_names(1)
    async with cluster_of(ScriptedNetwork({("1", 9092): broker})) as cluster:
        await cluster.refresh([])
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(cluster.connection, 1)
    assert len(broker.streams) == 2  # the bootstrap's and the node's


async def test_a_lost_connection_is_replaced_on_the_next_use() -> None:
    broker = broker_that_names(1)
    async with cluster_of(ScriptedNetwork({("1", 9092): broker})) as cluster:
        await cluster.refresh([])
        first = await cluster.connection(1)
        broker.streams[-1].end()
        await wait_all_tasks_blocked()
        second = await cluster.connection(1)
        assert second is not first
        assert second.is_open


async def test_a_node_that_moved_is_not_asked_at_its_old_address() -> None:
    old, new = broker_that_names(1), broker_that_names(1)
    network = ScriptedNetwork({("1", 9092): old, ("moved", 9092): new})
    async with cluster_of(network) as cluster:
        await cluster.refresh([])
        first = await cluster.connection(1)
        moved = metadata_answer({1: ("moved", 9092)})
        old.handlers[ApiKey.METADATA] = lambda version, request: moved
        await cluster.refresh([])
        assert not first.is_open
        await cluster.connection(1)
        assert len(new.streams) == 1
        assert cluster.nodes[0].address == Address("moved", 9092)


async def test_a_known_node_is_asked_when_the_bootstrap_addresses_are_gone() -> None:
    names_both = broker_that_names(1, 2)
    network = ScriptedNetwork({("1", 9092): names_both, ("2", 9092): broker_that_names(1, 2)})
    async with cluster_of(network) as cluster:
        await cluster.refresh([])
        del network.brokers["1", 9092]
        names_both.streams[0].end()
        await wait_all_tasks_blocked()
        assert (await cluster.any_connection()).peer == "2:9092"


async def test_an_address_that_can_not_be_reached_is_told_as_what_the_broker_advertises() -> None:
    network = ScriptedNetwork({("1", 9092): broker_that_names(1, 7)})
    async with cluster_of(network) as cluster:
        await cluster.refresh([])
        with pytest.raises(AddressError, match="broker 7, as it is advertised: can't connect to 7:9092"):
            await cluster.connection(7)


async def test_an_unknown_node_is_an_error_and_no_key_error() -> None:
    async with cluster_of(ScriptedNetwork({("1", 9092): broker_that_names(1)})) as cluster:
        with pytest.raises(BrokerError, match="broker 9 is not known"):
            await cluster.connection(9)


async def test_a_cluster_without_a_controller_says_so() -> None:
    network = ScriptedNetwork({("1", 9092): broker_that_names(1, controller_id=-1)})
    async with cluster_of(network) as cluster:
        with pytest.raises(BrokerError, match="no controller") as caught:
            await cluster.controller()
        assert caught.value.code == ErrorCode.NOT_CONTROLLER


async def test_an_answer_without_brokers_does_not_make_us_forget_them() -> None:
    broker = broker_that_names(1)
    async with cluster_of(ScriptedNetwork({("1", 9092): broker})) as cluster:
        await cluster.refresh([])
        nothing = metadata_answer({}, controller_id=-1)
        broker.handlers[ApiKey.METADATA] = lambda version, request: nothing
        await cluster.refresh([])
        assert [node.node_id for node in cluster.nodes] == [1]


async def test_metadata_never_asks_for_topics_to_be_made() -> None:
    broker = broker_that_names(1)
    async with cluster_of(ScriptedNetwork({("1", 9092): broker})) as cluster:
        await cluster.refresh(["a"])
        await cluster.refresh(None)
    first, second = broker.bodies(ApiKey.METADATA)
    assert not first.allow_auto_topic_creation
    assert [topic.name for topic in first.topics] == ["a"]
    assert second.topics is None


async def test_a_broker_too_old_to_ask_without_making_topics_is_not_asked() -> None:
    broker = ScriptedBroker(versions={ApiKey.API_VERSIONS: (0, 4), ApiKey.METADATA: (0, 3)})
    async with cluster_of(ScriptedNetwork({("1", 9092): broker})) as cluster:
        with pytest.raises(UnsupportedByBroker, match="METADATA is needed in versions 4 to 13"):
            await cluster.refresh(["a"])
    assert broker.bodies(ApiKey.METADATA) == []


async def test_an_error_of_the_whole_metadata_answer_is_raised() -> None:
    def refuse(version: int, request: Message) -> Message:
        answer = metadata_answer({1: ("1", 9092)})
        answer.error_code = ErrorCode.REBOOTSTRAP_REQUIRED
        return answer

    broker = ScriptedBroker({ApiKey.METADATA: refuse})
    async with cluster_of(ScriptedNetwork({("1", 9092): broker})) as cluster:
        with pytest.raises(BrokerError, match="REBOOTSTRAP_REQUIRED"):
            await cluster.refresh([])


async def test_addresses_that_never_answer_cost_a_second_each_and_not_ten(autojump_clock: MockClock) -> None:
    silent = ScriptedBroker({ApiKey.API_VERSIONS: lambda version, request: SILENCE})
    hosts = ["silent1", "silent2", "silent3"]
    network = ScriptedNetwork({(host, 9092): silent for host in hosts} | {("1", 9092): broker_that_names(1)})
    began = trio.current_time()
    async with cluster_of(network, ",".join([*hosts, "1"])) as cluster:
        await cluster.refresh([])
        assert trio.current_time() - began < 4
        await wait_all_tasks_blocked()
        assert all(stream.is_closed for stream in silent.streams)


async def test_a_broker_that_is_silent_keeps_nobody_from_the_others(autojump_clock: MockClock) -> None:
    first, second = broker_that_names(1, 2), broker_that_names(1, 2)
    network = ScriptedNetwork({("1", 9092): first, ("2", 9092): second})
    async with cluster_of(network) as cluster:
        await cluster.refresh([])
        await cluster.connection(1)
        first.handlers[ApiKey.METADATA] = lambda version, request: SILENCE
        began = trio.current_time()
        await cluster.refresh([])
        assert trio.current_time() - began < 8
        for _ in range(3):
            await cluster.refresh([])
        assert trio.current_time() - began < 8, "the silent one owes an answer: it is not asked again"


async def test_the_only_broker_gets_all_the_time_that_a_request_has(autojump_clock: MockClock) -> None:
    broker = broker_that_names(1)
    async with cluster_of(ScriptedNetwork({("1", 9092): broker})) as cluster:
        await cluster.refresh([])
        broker.handlers[ApiKey.METADATA] = lambda version, request: SILENCE
        began = trio.current_time()
        with pytest.raises(ConnectionLost):
            await cluster.refresh([])
        assert trio.current_time() - began == 30


async def test_a_silent_broker_that_the_others_name_no_more_is_given_up_before_its_time(
    autojump_clock: MockClock,
) -> None:
    frozen, other = broker_that_names(1, 2), broker_that_names(1, 2)
    network = ScriptedNetwork({("1", 9092): frozen, ("2", 9092): other})
    async with cluster_of(network, "1:9092") as cluster:
        await cluster.refresh([])
        connection = await cluster.connection(1, ConnectionLane.PRODUCE)
        for broker in (frozen, other):
            broker.handlers[ApiKey.LIST_GROUPS] = lambda version, request: SILENCE

        async def end_its_session() -> None:
            await trio.sleep(9)
            answer = metadata_answer({2: ("2", 9092)})
            other.handlers[ApiKey.METADATA] = lambda version, request: answer

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_its_session)
            with pytest.raises(ConnectionLost):
                await connection.request(ApiKey.LIST_GROUPS, Message())
        assert 9 < trio.current_time() - began < 13
        frozen.handlers[ApiKey.METADATA] = lambda version, request: SILENCE
        began = trio.current_time()
        await cluster.refresh([])
        assert trio.current_time() == began, "nor is it asked by the connection that all began with"
        assert len(frozen.bodies(ApiKey.METADATA)) == 1


@pytest.mark.parametrize("is_told", ["Metadata", "FindCoordinator"])
async def test_a_silent_broker_that_the_others_name_no_more_is_asked_again_by_callers_who_give_up_early(
    is_told: str, autojump_clock: MockClock
) -> None:
    """However the client came to know it: the answer to FindCoordinator names no other broker."""
    frozen, other = broker_that_names(2), broker_that_names(1, 2)
    network = ScriptedNetwork({("2", 9092): frozen, ("1", 9092): other})
    async with cluster_of(network, "1:9092") as cluster:
        if is_told == "Metadata":
            await cluster.refresh([])
        else:
            await cluster.any_connection()
            cluster.learn_node(Node(2, Address("2", 9092)))
        frozen.handlers[ApiKey.LIST_GROUPS] = lambda version, request: SILENCE
        connection = await cluster.connection(2)
        answer = metadata_answer({1: ("1", 9092)})
        other.handlers[ApiKey.METADATA] = lambda version, request: answer
        for _ in range(2):
            with trio.move_on_after(1.5):
                await connection.request(ApiKey.LIST_GROUPS, Message())
        with pytest.raises(ConnectionLost), trio.fail_after(1.5):
            await connection.request(ApiKey.LIST_GROUPS, Message())
        with pytest.raises(BrokerError, match="broker 2 is not known"):
            await cluster.connection(2)


async def test_a_broker_that_only_takes_its_time_keeps_its_connection(autojump_clock: MockClock) -> None:
    slow, other = broker_that_names(1, 2), broker_that_names(1, 2)
    network = ScriptedNetwork({("1", 9092): slow, ("2", 9092): other})
    async with cluster_of(network, "2:9092") as cluster:
        await cluster.refresh([])
        connection = await cluster.connection(1, ConnectionLane.COORDINATOR)
        slow.handlers[ApiKey.LIST_GROUPS] = lambda version, request: SILENCE
        with trio.move_on_after(25):
            await connection.request(ApiKey.LIST_GROUPS, Message())
        assert connection.is_open
        assert len(other.bodies(ApiKey.METADATA)) < 15


async def test_who_told_what_proved_wrong_is_not_asked_again_next() -> None:
    stale, other = broker_that_names(1, 2), broker_that_names(1, 2)
    network = ScriptedNetwork({("1", 9092): stale, ("2", 9092): other})
    async with cluster_of(network, "1:9092") as cluster:
        await cluster.refresh([])
        for _ in range(4):
            cluster.doubt()
            await cluster.refresh([])
        assert len(stale.bodies(ApiKey.METADATA)) == 3, "each other time"
        assert len(other.bodies(ApiKey.METADATA)) == 2
        await cluster.refresh([])
        assert len(other.streams) == 1
