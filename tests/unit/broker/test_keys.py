"""What comes back from the metadata store is checked like what comes from the network."""

import json

import pytest

from penstock.broker import keys
from penstock.broker.errors import CorruptMetadata
from penstock.broker.keys import BrokerRegistration, ControllerClaim, Endpoint, PartitionState, TopicRecord
from penstock.broker.quotas.entity import DEFAULT, QuotaEntity

TOPIC_ID = bytes(range(16))
PARTITION = keys.partition_key(TOPIC_ID, 3)


def test_every_value_reads_back_as_it_was_written() -> None:
    registration = BrokerRegistration("ab", {"PLAINTEXT": Endpoint("h", 9092)}, "rack-1", "dir")
    assert keys.decode_broker("/penstock/brokers/1", keys.encode_broker(registration)) == registration
    claim = ControllerClaim(3, "cd")
    assert keys.decode_controller(keys.encode_controller(claim)) == claim
    topic = TopicRecord(TOPIC_ID, 12)
    assert keys.decode_topic("/penstock/topics/t", keys.encode_topic(topic)) == topic
    state = PartitionState((1, 2, 3), (2, 1), 2, 17)
    assert keys.decode_partition(PARTITION, keys.encode_partition(state)) == state
    moving = PartitionState((4, 2, 1), (2,), 2, 17, (4,), (1,), (1,))
    assert keys.decode_partition(PARTITION, keys.encode_partition(moving)) == moving
    fenced = BrokerRegistration("ab", {}, None, "dir", is_fenced=True, is_starting=True)
    assert keys.decode_broker("/penstock/brokers/1", keys.encode_broker(fenced)) == fenced
    assert keys.decode_configs("/penstock/configs/topics/t", keys.encode_configs({"b": "1", "a": ""})) == {
        "a": "",
        "b": "1",
    }
    assert keys.decode_cluster(keys.encode_cluster("abc")) == "abc"
    assert keys.decode_format(keys.encode_format()) == keys.FORMAT_VERSION
    assert keys.decode_next_producer_id(keys.encode_next_producer_id(2**40)) == 2**40


def test_what_says_nothing_is_not_written_so_that_older_builds_read_on() -> None:
    state = json.loads(keys.encode_partition(PartitionState((1,), (1,), 1, 0)))
    assert state.keys() == {"replicas", "isr", "leader", "epoch"}
    registration = json.loads(keys.encode_broker(BrokerRegistration("ab", {}, None, "dir")))
    assert registration.keys() == {"incarnation", "endpoints", "rack", "directory"}


def test_every_key_is_parsed_back() -> None:
    assert keys.parse_partition_key(PARTITION) == (TOPIC_ID, 3)
    assert keys.parse_topic_key(keys.topic_key("a.b")) == "a.b"
    assert keys.parse_broker_key(keys.broker_key(7)) == 7
    assert keys.parse_broker_configs_key(keys.broker_configs_key(7)) == 7
    assert keys.parse_broker_configs_key(keys.broker_configs_key(None)) is None
    assert keys.parse_topic_configs_key(keys.topic_configs_key("t")) == "t"


@pytest.mark.parametrize(
    ("entity", "key"),
    [
        (QuotaEntity("alice"), "users/alice"),
        (QuotaEntity(DEFAULT), "users/<default>"),
        (QuotaEntity("alice", DEFAULT), "users/alice/clients/<default>"),
        (QuotaEntity("CN=a, O=b", "x/y%z"), "users/CN%3Da%2C%20O%3Db/clients/x%2Fy%25z"),
        (QuotaEntity(None, "<default>"), "clients/%3Cdefault%3E"),
        (QuotaEntity(None, "ü"), "clients/%C3%BC"),
    ],
)
def test_an_entity_is_taken_for_another(entity: QuotaEntity, key: str) -> None:
    assert keys.quota_key(entity) == keys.QUOTAS_PREFIX + key
    assert keys.parse_quota_key(keys.QUOTAS_PREFIX + key) == entity


@pytest.mark.parametrize(
    "key",
    [
        "users",
        "users/",
        "users/a/b",
        "clients/a/users/b",
        "ips/a",
        "users/%",
        "users/%zz",
        "users/%FF",
        "users/%61",
        "users/a b",
    ],
)
def test_quota_key_that_nobody_writes_is_corrupt(key: str) -> None:
    with pytest.raises(CorruptMetadata):
        keys.parse_quota_key(keys.QUOTAS_PREFIX + key)


@pytest.mark.parametrize("value", [0, -1, True, "1", None, float("inf"), float("nan")])
def test_quota_that_cannot_be_a_rate_is_corrupt(value: object) -> None:
    assert keys.decode_quotas("k", keys.encode_quotas({"consumer_byte_rate": 2.5})) == {
        "consumer_byte_rate": 2.5
    }
    for stored in ({"producer_byte_rate": value}, {"quota_of_a_later_version": 1}):
        with pytest.raises(CorruptMetadata):
            keys.decode_quotas("k", json.dumps(stored).encode())


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "x" * 250, "ü", "a b", "a\n"])
def test_a_name_in_the_store_that_would_be_a_path_is_corrupt(name: str) -> None:
    with pytest.raises(CorruptMetadata):
        keys.parse_topic_key(keys.TOPICS_PREFIX + name)
    with pytest.raises(CorruptMetadata):
        keys.parse_topic_configs_key(keys.TOPIC_CONFIGS_PREFIX + name)


@pytest.mark.parametrize("index", ["", "01", "-1", "+1", "1x", "٣", "99999999999", "4294967296", "1/2"])
def test_a_number_in_a_key_has_one_form(index: str) -> None:
    with pytest.raises(CorruptMetadata):
        keys.parse_partition_key(f"{keys.partitions_prefix(TOPIC_ID)}{index}")
    with pytest.raises(CorruptMetadata):
        keys.parse_broker_key(keys.BROKERS_PREFIX + index)


@pytest.mark.parametrize(
    "text", ["", "AAECAwQFBgcICQoLDA0OD", "AAECAwQFBgcICQoLDA0ODx", "A" * 21 + "!", "A" * 21 + "B"]
)
def test_a_topic_id_in_a_key_has_one_form(text: str) -> None:
    with pytest.raises(CorruptMetadata):
        keys.parse_partition_key(f"{keys.PARTITIONS_PREFIX}{text}/0")


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": []},
        {"replicas": [1, 1]},
        {"replicas": [1, -2]},
        {"replicas": [1, True]},
        {"replicas": "1"},
        {"isr": [9]},
        {"leader": 3},
        {"leader": -2},
        {"leader": 1.0},
        {"epoch": -1},
        {"epoch": 2**31},
        {"epoch": None},
        {"elr": [1]},
        {"elr": [9]},
        {"elr": None},
        {"adding": [9]},
        {"removing": [9]},
        {"removing": [1, 2, 3]},
        {"adding": [1], "removing": [1]},
        {"adding": 1},
        {"more": 1},
    ],
)
def test_a_partition_state_that_contradicts_itself_is_corrupt(change: dict[str, object]) -> None:
    good = {"replicas": [1, 2, 3], "isr": [1, 2], "leader": 1, "epoch": 0}
    keys.decode_partition(PARTITION, json.dumps(good).encode())
    with pytest.raises(CorruptMetadata, match="metadata store: /penstock/partitions/"):
        keys.decode_partition(PARTITION, json.dumps(good | change).encode())


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"null", b"\xff", b'{"id":1}', b"[" * 200_000, b"{}"])
def test_bytes_that_are_no_value_are_corrupt(value: bytes) -> None:
    with pytest.raises(CorruptMetadata):
        keys.decode_cluster(value)
    with pytest.raises(CorruptMetadata):
        keys.decode_topic("/penstock/topics/t", value)
    with pytest.raises(CorruptMetadata):
        keys.decode_broker("/penstock/brokers/1", value)


def test_config_values_are_text() -> None:
    with pytest.raises(CorruptMetadata):
        keys.decode_configs("/penstock/configs/topics/t", b'{"retention.ms":1}')


def test_a_topic_has_an_id_and_partitions() -> None:
    for topic in (TopicRecord(bytes(16), 1), TopicRecord(TOPIC_ID, 0)):
        with pytest.raises(CorruptMetadata):
            keys.decode_topic("/penstock/topics/t", keys.encode_topic(topic))
