"""DescribeClientQuotas, AlterClientQuotas."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.support.memory_metadata import MemoryMetadata
from tests.support.metadata_plane import Plane, metadata_plane

from penstock.broker.api import alter_client_quotas, describe_client_quotas
from penstock.broker.quotas.entity import NAME_LENGTH_MAX, QuotaEntity
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.message import Message

EXACT, THE_DEFAULT, ANY = 0, 1, 2
Parts = tuple[tuple[str, str | None], ...]
ALICE: Parts = (("user", "alice"),)
X: Parts = (("client-id", "x"),)
ALICE_X: Parts = (*ALICE, *X)
ANY_USER: Parts = (("user", None),)
ALICE_ANY: Parts = (*ALICE, ("client-id", None))


@pytest.fixture
async def plane() -> AsyncGenerator[Plane, None]:
    async with metadata_plane({}, store=MemoryMetadata()) as made:
        yield made


async def alter(
    plane: Plane,
    *entries: tuple[Parts, dict[str, float | None]],
    version: int = 1,
    validate_only: bool = False,
) -> list[int]:
    response = await plane.call(
        alter_client_quotas.handle,
        ApiKey.ALTER_CLIENT_QUOTAS,
        version,
        entries=[
            Message(
                entity=[Message(entity_type=kind, entity_name=name) for kind, name in parts],
                ops=[
                    Message(key=key, value=value or 0.0, remove=value is None) for key, value in ops.items()
                ],
            )
            for parts, ops in entries
        ],
        validate_only=validate_only,
    )
    assert [
        tuple((part.entity_type, part.entity_name) for part in entry.entity) for entry in response.entries
    ] == [parts for parts, _ in entries]
    assert all((entry.error_code == 0) == (entry.error_message is None) for entry in response.entries)
    return [entry.error_code for entry in response.entries]


async def describe(
    plane: Plane, *components: tuple[str, int, str | None], strict: bool = False, version: int = 1
) -> Any:
    response = await plane.call(
        describe_client_quotas.handle,
        ApiKey.DESCRIBE_CLIENT_QUOTAS,
        version,
        components=[Message(entity_type=kind, match_type=how, match=name) for kind, how, name in components],
        strict=strict,
    )
    if response.error_code:
        assert response.error_message
        assert response.entries is None
        return response.error_code
    return {
        tuple((part.entity_type, part.entity_name) for part in entry.entity): {
            each.key: each.value for each in entry.values
        }
        for entry in response.entries
    }


@pytest.mark.parametrize("version", [0, 1])
async def test_what_is_set_is_told_otherwise(plane: Plane, version: int) -> None:
    first: dict[str, float | None] = {"producer_byte_rate": 1024.0, "request_percentage": 12.5}
    assert await alter(plane, (ALICE, first), (X, {"consumer_byte_rate": 2.0**40}), version=version) == [0, 0]
    assert await describe(plane, version=version) == {ALICE: first, X: {"consumer_byte_rate": 2.0**40}}
    assert await alter(plane, (ALICE, {"producer_byte_rate": None, "request_percentage": 99.0})) == [0]
    assert (await describe(plane))[ALICE] == {"request_percentage": 99.0}
    assert await alter(plane, (ALICE, {"request_percentage": None, "producer_byte_rate": None})) == [0]
    assert await describe(plane) == {X: {"consumer_byte_rate": 2.0**40}}
    assert plane.image.quotas == {QuotaEntity(None, "x"): {"consumer_byte_rate": 2.0**40}}


async def test_validation_stores_something(plane: Plane) -> None:
    assert await alter(plane, (ALICE, {"producer_byte_rate": 1.0}), validate_only=True) == [0]
    bad: dict[str, float | None] = {"producer_byte_rate": -1.0}
    assert await alter(plane, (ALICE, bad), validate_only=True) == [ErrorCode.INVALID_REQUEST]
    assert await describe(plane) == {}


@pytest.mark.parametrize(
    ("parts", "ops"),
    [
        ((), {"producer_byte_rate": 1.0}),
        ((("ip", "10.0.0.1"),), {"connection_creation_rate": 1.0}),
        ((("topic", "t"),), {"producer_byte_rate": 1.0}),
        ((("user", ""),), {"producer_byte_rate": 1.0}),
        ((("user", "x" * (NAME_LENGTH_MAX + 1)),), {"producer_byte_rate": 1.0}),
        ((("user", "a"), ("user", "b")), {"producer_byte_rate": 1.0}),
        (ALICE, {"controller_mutation_rate": 1.0}),
        (ALICE, {"producer_byte_rate": 0.5}),
        (ALICE, {"consumer_byte_rate": -1.0}),
        (ALICE, {"request_percentage": float("nan")}),
        (ALICE, {"request_percentage": float("inf")}),
        (ALICE, {"producer_byte_rate": 1.0, "nothing": None}),
    ],
)
async def test_nonsense_is_stored_or_stops_the_rest(
    plane: Plane, parts: Parts, ops: dict[str, float | None]
) -> None:
    codes = await alter(plane, (parts, ops), (X, {"producer_byte_rate": 5.0}))
    assert codes == [ErrorCode.INVALID_REQUEST, 0]
    assert await describe(plane) == {X: {"producer_byte_rate": 5.0}}


async def test_entity_that_is_named_twice_gets_one_of_both(plane: Plane) -> None:
    twice: Parts = (("client-id", "x"), ("user", "alice"))
    codes = await alter(plane, (ALICE_X, {"producer_byte_rate": 1.0}), (twice, {"producer_byte_rate": 2.0}))
    assert codes == [ErrorCode.INVALID_REQUEST] * 2
    assert await describe(plane) == {}


async def test_filter_finds_what_it_does_not_name(plane: Plane) -> None:
    everything = (ALICE, ALICE_X, ALICE_ANY, ANY_USER, X)
    one: dict[str, float | None] = {"producer_byte_rate": 1.0}
    assert set(await alter(plane, *((parts, one) for parts in everything))) == {0}

    async def found(*components: tuple[str, int, str | None], strict: bool = False) -> set[Parts]:
        return set(await describe(plane, *components, strict=strict))

    alice, any_user, x = ("user", EXACT, "alice"), ("user", ANY, None), ("client-id", EXACT, "x")
    assert await found() == set(everything)
    assert await found(strict=True) == set()
    assert await found(alice) == {ALICE, ALICE_X, ALICE_ANY}
    assert await found(alice, strict=True) == {ALICE}
    assert await found(any_user) == {ALICE, ALICE_X, ALICE_ANY, ANY_USER}
    assert await found(("user", THE_DEFAULT, None)) == {ANY_USER}
    assert await found(any_user, x) == {ALICE_X}
    assert await found(x, strict=True) == {X}
    assert await found(("client-id", THE_DEFAULT, None), alice, strict=True) == {ALICE_ANY}
    assert await found(("user", EXACT, "bob")) == set()
    assert await found(("ip", ANY, None)) == set()


@pytest.mark.parametrize(
    "components",
    [
        [("ip", ANY, None), ("user", ANY, None)],
        [("topic", ANY, None)],
        [("user", EXACT, None)],
        [("user", THE_DEFAULT, "alice")],
        [("user", 3, None)],
        [("user", EXACT, "")],
        [("user", ANY, None), ("user", EXACT, "alice")],
    ],
)
async def test_filter_without_a_meaning_finds_something(
    plane: Plane, components: list[tuple[str, int, str | None]]
) -> None:
    assert await describe(plane, *components) == ErrorCode.INVALID_REQUEST
