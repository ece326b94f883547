"""The API table: what is served, and which headers go with it."""

import pytest
from kio.schema.errors import ErrorCode as KioErrorCode
from kio.schema.index import api_key_map, schema_name_map
from kio.static.constants import EntityType

from penstock.protocol.api import SERVED, ApiKey, is_flexible, response_header_version
from penstock.protocol.errors import ErrorCode

CEILINGS_IN_THE_FIELD = {
    ApiKey.PRODUCE: 7,
    ApiKey.FETCH: 11,
    ApiKey.LIST_OFFSETS: 3,
    ApiKey.METADATA: 5,
    ApiKey.INIT_PRODUCER_ID: 0,
    ApiKey.OFFSET_FOR_LEADER_EPOCH: 2,
    ApiKey.API_VERSIONS: 0,
    ApiKey.CREATE_TOPICS: 2,
    ApiKey.DELETE_TOPICS: 1,
}


def test_api_versions_answer_always_has_header_0() -> None:
    assert [response_header_version(ApiKey.API_VERSIONS, version) for version in range(5)] == [0] * 5


def test_header_of_others_follows_the_first_flexible_version() -> None:
    assert response_header_version(ApiKey.METADATA, 8) == 0
    assert response_header_version(ApiKey.METADATA, 9) == 1
    assert is_flexible(ApiKey.API_VERSIONS, 3)
    assert not is_flexible(ApiKey.SASL_HANDSHAKE, 1)


@pytest.mark.parametrize(("key", "version"), CEILINGS_IN_THE_FIELD.items())
def test_oldest_clients_in_the_field_find_their_version(key: ApiKey, version: int) -> None:
    assert version in SERVED[key].versions


def test_produce_0_is_advertised_or_librdkafka_stops_compressing() -> None:
    assert 0 in SERVED[ApiKey.PRODUCE].versions


def test_two_phase_commit_is_not_promised() -> None:
    assert 6 not in SERVED[ApiKey.INIT_PRODUCER_ID].versions


def test_topic_ids_are_served_by_all_or_none_of_the_apis_that_carry_them() -> None:
    assert 13 in SERVED[ApiKey.FETCH].versions
    assert 13 in SERVED[ApiKey.PRODUCE].versions
    assert 10 in SERVED[ApiKey.METADATA].versions


def test_served_apis_are_in_the_order_of_their_keys() -> None:
    assert list(SERVED) == sorted(SERVED)


@pytest.mark.parametrize("key", ApiKey, ids=lambda key: key.name.lower())
def test_header_version_is_what_kio_says(key: ApiKey) -> None:
    versions = schema_name_map[api_key_map[key]]
    for version in versions:
        module, _, name = versions[version][EntityType.response].partition(":")
        entity = getattr(__import__(module, fromlist=[name]), name)
        expected = entity.__header_schema__.__version__
        assert response_header_version(key, version) == expected
        assert is_flexible(key, version) == entity.__flexible__


def test_error_codes_are_those_of_kio() -> None:
    theirs = {code.name.upper(): (code.value, code.retriable) for code in KioErrorCode}
    assert {code.name: (code.value, code.is_retriable) for code in ErrorCode} == theirs
