"""The search for a group's coordinator, and the lanes of connections."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.scripted_broker import (
    HANG_UP,
    Handler,
    ScriptedBroker,
    ScriptedNetwork,
    metadata_answer,
    scripted_environment,
)
from trio.testing import MockClock

from penstock.client.cluster import Cluster, ConnectionLane
from penstock.client.connection import ConnectionSettings
from penstock.client.coordinator import Coordinators
from penstock.client.errors import AuthorizationFailed
from penstock.client.metadata import parse_bootstrap
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

NODES = {1: ("1", 9092), 2: ("2", 9092)}


def coordinator_answer(node_id: int, code: ErrorCode = ErrorCode.NONE, *, host: str | None = None) -> Message:
    """In the form of all versions."""
    fields = {"error_code": code, "node_id": node_id, "host": host or str(node_id), "port": 9092}
    return Message(**fields, coordinators=[Message(key="g", **fields)])


def broker(find: Handler, **versions: tuple[int, int]) -> ScriptedBroker:
    made = ScriptedBroker(
        {ApiKey.METADATA: lambda _, __: metadata_answer(NODES), ApiKey.FIND_COORDINATOR: find}
    )
    made.versions = {**made.versions, ApiKey.FIND_COORDINATOR: (0, 5)} | {
        ApiKey[name]: bounds for name, bounds in versions.items()
    }
    return made


@asynccontextmanager
async def coordinators_of(*brokers: ScriptedBroker) -> AsyncGenerator[Coordinators]:
    network = ScriptedNetwork({(str(place), 9092): made for place, made in enumerate(brokers, 1)})
    environment = scripted_environment(network)
    async with trio.open_nursery() as nursery:
        cluster = Cluster(environment, parse_bootstrap("1:9092"), nursery, ConnectionSettings())
        yield Coordinators(cluster, environment)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("version", [0, 3, 4, 5])
async def test_each_version_names_the_coordinator(version: int) -> None:
    first = broker(lambda _, __: coordinator_answer(2), FIND_COORDINATOR=(0, version))
    async with coordinators_of(first, broker(lambda _, __: HANG_UP)) as coordinators:
        assert (await coordinators.connection("g")).peer == "2:9092"


async def test_the_search_is_done_once_and_again_after_forgetting() -> None:
    first = broker(lambda _, __: coordinator_answer(1))
    async with coordinators_of(first) as coordinators, trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(coordinators.connection, "g")
    assert len(first.bodies(ApiKey.FIND_COORDINATOR)) == 1
    async with coordinators_of(first) as coordinators:
        await coordinators.connection("g")
        coordinators.forget("g")
        await coordinators.connection("g")
    assert len(first.bodies(ApiKey.FIND_COORDINATOR)) == 3


async def test_a_coordinator_that_is_not_there_yet_is_waited_for(autojump_clock: MockClock) -> None:
    codes = [ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NONE]
    first = broker(lambda _, __: coordinator_answer(1, codes.pop(0)))
    async with coordinators_of(first) as coordinators:
        assert (await coordinators.connection("g")).is_open
    assert not codes


async def test_a_refusal_is_told_at_once() -> None:
    first = broker(lambda _, __: coordinator_answer(1, ErrorCode.GROUP_AUTHORIZATION_FAILED))
    async with coordinators_of(first) as coordinators:
        with pytest.raises(AuthorizationFailed):
            await coordinators.connection("g")
    assert len(first.bodies(ApiKey.FIND_COORDINATOR)) == 1


async def test_a_coordinator_that_cannot_be_reached_is_looked_for_anew(autojump_clock: MockClock) -> None:
    answers = [coordinator_answer(7, host="nowhere"), coordinator_answer(2)]
    first = broker(lambda _, __: answers.pop(0))
    async with coordinators_of(first, broker(lambda _, __: HANG_UP)) as coordinators:
        assert (await coordinators.connection("g")).peer == "2:9092"


async def test_lanes_are_connections_of_their_own() -> None:
    first = broker(lambda _, __: coordinator_answer(1))
    async with coordinators_of(first) as coordinators:
        control = await coordinators.connection("g")
        join = await coordinators.connection("g", ConnectionLane.COORDINATOR)
        assert join is not control
        assert await coordinators.connection("g", ConnectionLane.COORDINATOR) is join
        assert await coordinators.connection("g") is control
