"""DescribeCluster and InitProducerId."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.support.memory_metadata import Fault, MemoryMetadata
from tests.support.metadata_plane import NODE_ID, Plane, metadata_plane, register_broker

from penstock.broker.api import describe_cluster, init_producer_id
from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message


@pytest.fixture
def store() -> MemoryMetadata:
    return MemoryMetadata()


@pytest.fixture
async def plane(store: MemoryMetadata) -> AsyncGenerator[Plane, None]:
    async with metadata_plane(store=store) as made:
        yield made


async def describe(plane: Plane, version: int, **fields: Any) -> Message:
    return await plane.call(describe_cluster.handle, ApiKey.DESCRIBE_CLUSTER, version, **fields)


async def init(plane: Plane, version: int, **fields: Any) -> Message:
    fields = {"transactional_id": None, "transaction_timeout_ms": 1000} | fields
    return await plane.call(init_producer_id.handle, ApiKey.INIT_PRODUCER_ID, version, **fields)


@pytest.mark.parametrize("version", SERVED[ApiKey.DESCRIBE_CLUSTER].versions)
async def test_the_cluster_through_the_listener_that_was_asked(
    plane: Plane, store: MemoryMetadata, version: int
) -> None:
    await register_broker(store, 4, rack="r")
    await plane.watch.wait_for(store.revision)
    response = await describe(plane, version)
    assert (response.error_code, response.error_message) == (ErrorCode.NONE, None)
    assert (response.cluster_id, response.controller_id) == (plane.cluster_id, NODE_ID)
    assert [(b.broker_id, b.host, b.port, b.rack) for b in response.brokers] == [
        (NODE_ID, "broker.example", 9092, None),
        (4, "broker4.example", 9092, "r"),
    ]
    assert response.cluster_authorized_operations == -(2**31)
    asked = await describe(plane, version, include_cluster_authorized_operations=True)
    assert asked.cluster_authorized_operations > 0


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("endpoint_type", "code"),
    [(2, ErrorCode.MISMATCHED_ENDPOINT_TYPE), (3, ErrorCode.UNSUPPORTED_ENDPOINT_TYPE)],
)
async def test_there_are_no_controller_endpoints(
    plane: Plane, version: int, endpoint_type: int, code: ErrorCode
) -> None:
    response = await describe(plane, version, endpoint_type=endpoint_type)
    assert response.error_code == code
    assert response.error_message
    assert list(response.brokers) == []


@pytest.mark.parametrize("version", SERVED[ApiKey.INIT_PRODUCER_ID].versions)
async def test_every_request_gets_an_id_of_its_own(plane: Plane, version: int) -> None:
    first, second = await init(plane, version), await init(plane, version)
    assert first.error_code == second.error_code == ErrorCode.NONE
    assert second.producer_id == first.producer_id + 1
    assert first.producer_epoch == second.producer_epoch == 0


@pytest.mark.parametrize("version", [3, 4, 5])
async def test_bringing_the_old_id_gets_a_new_one_as_in_kafka(plane: Plane, version: int) -> None:
    first = await init(plane, version)
    again = await init(plane, version, producer_id=first.producer_id, producer_epoch=0)
    assert again.error_code == ErrorCode.NONE
    assert again.producer_id != first.producer_id
    assert again.producer_epoch == 0


@pytest.mark.parametrize("fields", [{"producer_id": 5}, {"producer_epoch": 5}])
async def test_half_an_identity_is_refused(plane: Plane, fields: dict[str, int]) -> None:
    refused = await init(plane, 3, **fields)
    assert (refused.error_code, refused.producer_id) == (ErrorCode.INVALID_REQUEST, -1)


@pytest.mark.parametrize("version", SERVED[ApiKey.INIT_PRODUCER_ID].versions)
async def test_transactional_producers_are_refused_for_good(plane: Plane, version: int) -> None:
    refused = await init(plane, version, transactional_id="tx")
    code = ErrorCode(refused.error_code)
    assert code == ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    assert not code.is_retriable
    assert (refused.producer_id, refused.producer_epoch) == (-1, -1)
    empty = await init(plane, version, transactional_id="")
    assert empty.error_code == ErrorCode.INVALID_REQUEST


async def test_a_store_that_is_gone_makes_the_client_try_again(plane: Plane, store: MemoryMetadata) -> None:
    store.fail_next(Fault.UNAVAILABLE)
    refused = await init(plane, 4)
    assert ErrorCode(refused.error_code).is_retriable
    assert refused.producer_id == -1
    assert (await init(plane, 4)).error_code == ErrorCode.NONE
