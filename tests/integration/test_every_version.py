"""Each version of each API that is advertised: a plain request gets a plain answer that Apache Kafka's schema reads to its last byte."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.support import batches, schema_codec
from tests.support.batches import encode_batch
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA
from tests.support.schema_codec import API_KEYS
from tests.support.topics import (
    await_partitions,
    create_topic,
    fresh_name,
    init_producer_id,
    produce_values,
    topic_id,
)
from tests.support.wire import Connection

FIRST_BY_ID: Mapping[str, int] = {"produce": 13, "fetch": 13}
"""From these versions on topics go by id only."""
NOT_IN_KIO = {("produce", 0), ("produce", 1), ("produce", 2)}


def served() -> list[tuple[str, int]]:
    """The versions that kio has schemas of, of all APIs that Penstock serves."""
    return [
        (api, version)
        for api in ASKED
        for version in schema_codec.versions(api)
        if (api, version) not in LATER
    ]


LATER = {("init_producer_id", 6), ("list_offsets", 11), ("describe_log_dirs", 5), ("find_coordinator", 6)}
"""For transactions in two phases, tiered storage, a later Kafka, and share groups."""


GROUP_APIS = (
    "offset_commit",
    "offset_fetch",
    "offset_delete",
    "join_group",
    "sync_group",
    "heartbeat",
    "leave_group",
    "describe_groups",
    "list_groups",
    "delete_groups",
    "consumer_group_heartbeat",
    "consumer_group_describe",
)
"""Their versions are asked in `test_groups_wire.py` and `test_consumer_groups*.py`."""


@pytest.fixture
def topic(connection: Connection) -> str:
    name = create_topic(connection, "versions")
    produce_values(connection, name, b"0", b"1")
    return name


def ask(connection: Connection, api: str, version: int, **values: Any) -> Any:
    """Send what this version has fields for."""
    known = schema_codec.without_unknown(api, version, values)
    return connection.request(api, version, **known)


def by_name_or_id(
    connection: Connection, api: str, version: int, topic: str, name_field: str
) -> dict[str, Any]:
    if version >= FIRST_BY_ID[api]:
        return {"topic_id": topic_id(connection, topic)}
    return {name_field: topic}


def check_produce(connection: Connection, version: int, topic: str) -> None:
    data = by_name_or_id(connection, "produce", version, topic, "name")
    data["partition_data"] = [{"index": 0, "records": encode_batch([b"2"])}]
    reply = ask(connection, "produce", version, acks=-1, timeout=5000, topic_data=[data])
    answer = reply.responses[0].partition_responses[0]
    assert (answer.index, answer.error_code, answer.base_offset) == (0, 0, 2)


def check_fetch(connection: Connection, version: int, topic: str) -> None:
    wanted = by_name_or_id(connection, "fetch", version, topic, "topic")
    wanted["partitions"] = [{"partition": 0, "fetch_offset": 1, "partition_max_bytes": 1 << 20}]
    fixed: dict[str, Any] = {"replica_id": -1, "max_wait": 0, "min_bytes": 1, "max_bytes": 1 << 20}
    reply = ask(connection, "fetch", version, **fixed, session_id=0, session_epoch=-1, topics=[wanted])
    answer = reply.responses[0].partitions[0]
    assert (answer.partition_index, answer.error_code, answer.high_watermark) == (0, 0, 2)
    assert batches.values_of(answer.records) == [(0, b"0"), (1, b"1")]


def check_list_offsets(connection: Connection, version: int, topic: str) -> None:
    wanted = {"partition_index": 0, "timestamp": -1}
    topics = [{"name": topic, "partitions": [wanted]}]
    reply = ask(connection, "list_offsets", version, replica_id=-1, topics=topics, timeout=5000)
    answer = reply.topics[0].partitions[0]
    assert (answer.error_code, answer.offset) == (0, 2)


def check_metadata(connection: Connection, version: int, topic: str) -> None:
    reply = ask(connection, "metadata", version, topics=[{"name": topic, "topic_id": None}])
    (told,) = reply.topics
    assert (told.error_code, told.name, told.partitions[0].error_code) == (0, topic, 0)
    assert told.partitions[0].leader_id == reply.brokers[0].node_id
    everything = ask(connection, "metadata", version, topics=[] if version == 0 else None)
    assert topic in {each.name for each in everything.topics}
    if version > 0:
        assert ask(connection, "metadata", version, topics=[]).topics == []


def check_api_versions(connection: Connection, version: int, topic: str) -> None:
    software = {"client_software_name": "raw", "client_software_version": "1"}
    reply = ask(connection, "api_versions", version, **software)
    assert reply.error_code == 0
    assert topic


def check_create_topics(connection: Connection, version: int, topic: str) -> None:
    name = fresh_name(f"created-{version}")
    made = {"name": name, "num_partitions": 1, "replication_factor": 1}
    reply = ask(connection, "create_topics", version, topics=[made], timeout=5000)
    assert (reply.topics[0].name, reply.topics[0].error_code) == (name, 0)
    again = ask(connection, "create_topics", version, topics=[{**made, "name": topic}], timeout=5000)
    assert again.topics[0].error_code == ErrorCode.topic_already_exists


def check_delete_topics(connection: Connection, version: int, topic: str) -> None:
    values: dict[str, Any] = {"topic_names": [topic], "topics": [{"name": topic, "topic_id": None}]}
    reply = ask(connection, "delete_topics", version, **values, timeout=5000)
    assert (reply.responses[0].name, reply.responses[0].error_code) == (topic, 0)


def check_delete_records(connection: Connection, version: int, topic: str) -> None:
    wanted = {"name": topic, "partitions": [{"partition_index": 0, "offset": 1}]}
    reply = ask(connection, "delete_records", version, topics=[wanted], timeout=5000)
    answer = reply.topics[0].partitions[0]
    assert (answer.error_code, answer.low_watermark) == (0, 1)


def check_init_producer_id(connection: Connection, version: int, topic: str) -> None:
    init_producer_id(connection)
    fixed: dict[str, Any] = {"transactional_id": None, "producer_id": -1, "producer_epoch": -1}
    reply = ask(connection, "init_producer_id", version, **fixed, transaction_timeout=1000)
    assert (reply.error_code, reply.producer_epoch, reply.producer_id >= 0, topic != "") == (0, 0, True, True)


def check_offset_for_leader_epoch(connection: Connection, version: int, topic: str) -> None:
    partition = {"partition": 0, "current_leader_epoch": -1, "leader_epoch": 0}
    wanted = [{"topic": topic, "partitions": [partition]}]
    reply = ask(connection, "offset_for_leader_epoch", version, replica_id=-1, topics=wanted)
    answer = reply.topics[0].partitions[0]
    assert (answer.error_code, answer.end_offset) == (0, 2)


def check_describe_configs(connection: Connection, version: int, topic: str) -> None:
    wanted = [{"resource_type": 2, "resource_name": topic, "configuration_keys": None}]
    reply = ask(connection, "describe_configs", version, resources=wanted, include_synonyms=True)
    (told,) = reply.results
    assert (told.error_code, told.resource_name) == (0, topic)
    assert {each.name: each.value for each in told.configs}["cleanup.policy"] == "delete"


def check_alter_configs(connection: Connection, version: int, topic: str) -> None:
    config = {"name": "retention.ms", "value": "777"}
    wanted = [{"resource_type": 2, "resource_name": topic, "configs": [config]}]
    reply = ask(connection, "alter_configs", version, resources=wanted)
    assert (reply.responses[0].resource_name, reply.responses[0].error_code) == (topic, 0)


def check_incremental_alter_configs(connection: Connection, version: int, topic: str) -> None:
    config = {"name": "retention.ms", "config_operation": 0, "value": "777"}
    wanted = [{"resource_type": 2, "resource_name": topic, "configs": [config]}]
    reply = ask(connection, "incremental_alter_configs", version, resources=wanted)
    assert (reply.responses[0].resource_name, reply.responses[0].error_code) == (topic, 0)


def check_describe_log_dirs(connection: Connection, version: int, topic: str) -> None:
    reply = ask(connection, "describe_log_dirs", version, topics=[{"topic": topic, "partitions": [0]}])
    (told,) = reply.results
    (found,) = told.topics
    assert (told.error_code, found.name, found.partitions[0].partition_size > 0) == (0, topic, True)


def check_create_partitions(connection: Connection, version: int, topic: str) -> None:
    wanted = [{"name": topic, "count": 3, "assignments": None}]
    reply = ask(connection, "create_partitions", version, topics=wanted, timeout=5000)
    assert (reply.results[0].name, reply.results[0].error_code) == (topic, 0)
    if IS_KAFKA:
        await_partitions(connection, topic, 3)
    assert produce_values(connection, topic, b"x", partition=2) == 0


def check_describe_cluster(connection: Connection, version: int, topic: str) -> None:
    reply = ask(connection, "describe_cluster", version)
    assert (reply.error_code, len(reply.brokers), topic != "") == (0, 1, True)


def check_find_coordinator(connection: Connection, version: int, topic: str) -> None:
    """The first one makes the offsets topic, while which Kafka has clients ask again."""
    reply = ask(connection, "find_coordinator", version, key=topic, key_type=0, coordinator_keys=[topic])
    answer = reply.coordinators[0] if version >= 4 else reply
    assert answer.error_code in (ErrorCode.none, ErrorCode.coordinator_not_available)


def check_describe_topic_partitions(connection: Connection, version: int, topic: str) -> None:
    fixed: dict[str, Any] = {"response_partition_limit": 100, "cursor": None}
    reply = ask(connection, "describe_topic_partitions", version, topics=[{"name": topic}], **fixed)
    assert (reply.topics[0].name, reply.topics[0].error_code) == (topic, 0)
    assert [each.partition_index for each in reply.topics[0].partitions] == [0]


def check_elect_leaders(connection: Connection, version: int, topic: str) -> None:
    wanted = [{"topic": topic, "partitions": [0]}]
    reply = ask(connection, "elect_leaders", version, election_type=0, topic_partitions=wanted, timeout=5000)
    (told,) = reply.replica_election_results
    assert (told.topic, told.partition_result[0].error_code) == (topic, ErrorCode.election_not_needed)


def check_alter_partition_reassignments(connection: Connection, version: int, topic: str) -> None:
    wanted = [{"name": topic, "partitions": [{"partition_index": 0, "replicas": None}]}]
    reply = ask(connection, "alter_partition_reassignments", version, topics=wanted, timeout=5000)
    (told,) = reply.responses[0].partitions
    assert (reply.error_code, told.error_code) == (0, ErrorCode.no_reassignment_in_progress)


def check_list_partition_reassignments(connection: Connection, version: int, topic: str) -> None:
    wanted = [{"name": topic, "partition_indexes": [0]}]
    reply = ask(connection, "list_partition_reassignments", version, topics=wanted, timeout=5000)
    assert (reply.error_code, list(reply.topics)) == (0, [])


def check_unregister_broker(connection: Connection, version: int, topic: str) -> None:
    reply = ask(connection, "unregister_broker", version, broker_id=77)
    assert (reply.error_code, topic != "") == (ErrorCode.broker_id_not_registered, True)


def check_describe_client_quotas(connection: Connection, version: int, topic: str) -> None:
    name = fresh_name("quota")
    set_quota(connection, version, name, 1000.0)
    wanted = {"entity_type": "client-id", "match_type": 0, "match": name}
    reply = ask(connection, "describe_client_quotas", version, components=[wanted], strict=True)
    (entry,) = reply.entries
    assert [(each.key, each.value) for each in entry.values] == [("producer_byte_rate", 1000.0)]
    assert [(each.entity_type, each.entity_name) for each in entry.entity] == [("client-id", name)]
    set_quota(connection, version, name, None)


def check_alter_client_quotas(connection: Connection, version: int, topic: str) -> None:
    set_quota(connection, version, topic, -1.0, error_code=ErrorCode.invalid_request)


def set_quota(
    connection: Connection, version: int, client_id: str, value: float | None, *, error_code: int = 0
) -> None:
    entity = [{"entity_type": "client-id", "entity_name": client_id}]
    operation = {"key": "producer_byte_rate", "value": value or 0.0, "remove": value is None}
    entries = [{"entity": entity, "ops": [operation]}]
    reply = ask(connection, "alter_client_quotas", version, entries=entries, validate_only=False)
    assert [entry.error_code for entry in reply.entries] == [error_code]


def check_describe_user_scram_credentials(connection: Connection, version: int, topic: str) -> None:
    everybody = ask(connection, "describe_user_scram_credentials", version, users=None)
    assert (everybody.error_code, list(everybody.results)) == (0, [])
    users = [{"name": "alice"}]
    (told,) = ask(connection, "describe_user_scram_credentials", version, users=users).results
    assert (told.user, told.error_code) == ("alice", ErrorCode.resource_not_found)


ASKED: Mapping[str, Callable[[Connection, int, str], None]] = {
    "produce": check_produce,
    "fetch": check_fetch,
    "list_offsets": check_list_offsets,
    "metadata": check_metadata,
    "api_versions": check_api_versions,
    "create_topics": check_create_topics,
    "delete_topics": check_delete_topics,
    "delete_records": check_delete_records,
    "init_producer_id": check_init_producer_id,
    "offset_for_leader_epoch": check_offset_for_leader_epoch,
    "describe_configs": check_describe_configs,
    "alter_configs": check_alter_configs,
    "incremental_alter_configs": check_incremental_alter_configs,
    "describe_log_dirs": check_describe_log_dirs,
    "create_partitions": check_create_partitions,
    "describe_cluster": check_describe_cluster,
    "find_coordinator": check_find_coordinator,
    "describe_topic_partitions": check_describe_topic_partitions,
    "elect_leaders": check_elect_leaders,
    "alter_partition_reassignments": check_alter_partition_reassignments,
    "list_partition_reassignments": check_list_partition_reassignments,
    "unregister_broker": check_unregister_broker,
    "describe_client_quotas": check_describe_client_quotas,
    "alter_client_quotas": check_alter_client_quotas,
    "describe_user_scram_credentials": check_describe_user_scram_credentials,
}


@pytest.mark.parametrize(("api", "version"), served())
def test_a_version_is_answered_in_the_shape_of_another(
    api: str, version: int, connection: Connection, topic: str
) -> None:
    ASKED[api](connection, version, topic)


@pytest.mark.skipif(IS_KAFKA, reason="it serves more")
def test_more_is_advertised_than_is_tested(connection: Connection) -> None:
    told = connection.request("api_versions", 0).api_keys
    names = {key: name for name, key in API_KEYS.items()}
    advertised = {
        (names[each.api_key], version)
        for each in told
        for version in range(each.min_version, each.max_version + 1)
    }
    of_groups = {(api, version) for api, version in advertised if api in GROUP_APIS}
    assert advertised - set(served()) - of_groups <= NOT_IN_KIO
    assert of_groups == {(api, version) for api in GROUP_APIS for version in schema_codec.versions(api)}
    assert {api for api, _ in advertised} >= set(ASKED)
