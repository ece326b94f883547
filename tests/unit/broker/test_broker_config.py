"""What a broker is started with: unknown and contradictory settings are refused in one clear line."""

import pytest

from penstock.broker.broker_config import (
    BrokerConfig,
    broker_config_definitions,
    check_broker_configs,
    effective_broker_configs,
)
from penstock.broker.config_table import ConfigLayers, ConfigSource, parse
from penstock.broker.errors import ConfigError
from penstock.broker.keys import Endpoint
from penstock.broker.topic_config import TopicConfig


def test_defaults_need_nothing() -> None:
    config = BrokerConfig.from_properties({})
    assert config == BrokerConfig()
    assert config.metadata_location == "./penstock-data/metadata.db"
    assert config.endpoints({"PLAINTEXT": 9092}) == {"PLAINTEXT": Endpoint("localhost", 9092)}


def test_every_row_is_explained_and_its_default_parses() -> None:
    for definition in broker_config_definitions().values():
        assert definition.doc.endswith("."), definition.name
        if definition.default is not None:
            parse(definition, definition.default)


@pytest.mark.parametrize(
    ("properties", "message"),
    [
        ({"nope": "1"}, "unknown config 'nope'"),
        ({"num.partition": "1"}, "did you mean num.partitions?"),
        ({"num.partitions": "many"}, "num.partitions: 'many' is no integer"),
        ({"num.partitions": "0"}, "num.partitions: '0' is not between 1 and"),
        ({"retention.ms": "1"}, "unknown config 'retention.ms'; did you mean log.retention.ms?"),
        ({"log.retention.hours": "x"}, "log.retention.hours"),
        ({"log.retention.hours": "9223372036854775"}, "retention.ms"),
        ({"log.dirs": "a,b"}, "not one directory"),
        ({"cluster.id": "a/b"}, "cluster.id"),
        ({"listeners": ""}, "listeners: at least one"),
        ({"listeners": "localhost:9092"}, "not of the form"),
        ({"listeners": "PLAINTEXT://localhost"}, "not of the form"),
        ({"listeners": "PLAINTEXT://localhost:99999"}, "not of the form"),
        ({"listeners": "PLAINTEXT://a/b:1"}, "not of the form"),
        ({"listeners": "PLAINTEXT://a:1,PLAINTEXT://b:2"}, "given twice"),
        ({"listeners": "PLAINTEXT://:9092"}, "advertised.listeners must name its host"),
        ({"listeners": "PLAINTEXT://0.0.0.0:9092"}, "advertised.listeners must name its host"),
        ({"advertised.listeners": "PLAINTEXT://0.0.0.0:9092"}, "needs the host"),
        ({"advertised.listeners": "OTHER://a:1"}, "OTHER is not among the listeners"),
        ({"inter.broker.listener.name": "OTHER"}, "OTHER is not among the listeners"),
        ({"listeners": "SSL://localhost:9093"}, "speaks PLAINTEXT only"),
        ({"listener.security.protocol.map": "PLAINTEXT:SASL_SSL"}, "speaks PLAINTEXT only"),
        ({"listener.security.protocol.map": "PLAINTEXT"}, "NAME:PROTOCOL"),
        ({"broker.heartbeat.interval.ms": "9000"}, "at most half"),
        ({"control.request.max.bytes": "200000000"}, "control.request.max.bytes is above"),
    ],
)
def test_bad_settings_are_refused_in_one_line(properties: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as caught:
        BrokerConfig.from_properties(properties)
    assert "\n" not in str(caught.value)


def test_aliases_and_own_names_are_read() -> None:
    config = BrokerConfig.from_properties({"broker.id": "7", "log.dir": "/data", "broker.rack": "r"})
    assert (config.node_id, config.data_directory, config.rack) == (7, "/data", "r")
    assert BrokerConfig.from_properties({"node.id": "8", "broker.id": "7"}).node_id == 8


def test_several_listeners_each_with_what_clients_are_told() -> None:
    config = BrokerConfig.from_properties(
        {
            "listeners": "outside://:9092, inside://[::1]:0",
            "advertised.listeners": "OUTSIDE://shop.example:443",
            "listener.security.protocol.map": "outside:plaintext,inside:PLAINTEXT",
            "inter.broker.listener.name": "inside",
        }
    )
    assert [(x.name, x.host, x.port) for x in config.listeners] == [
        ("OUTSIDE", "", 9092),
        ("INSIDE", "::1", 0),
    ]
    assert config.inter_broker_listener_name == "INSIDE"
    assert config.endpoints({"OUTSIDE": 9092, "INSIDE": 4711}) == {
        "OUTSIDE": Endpoint("shop.example", 443),
        "INSIDE": Endpoint("::1", 4711),
    }


def test_an_advertised_port_of_zero_is_the_bound_one() -> None:
    config = BrokerConfig.from_properties(
        {"listeners": "PLAINTEXT://:0", "advertised.listeners": "PLAINTEXT://h:0"}
    )
    assert config.endpoints({"PLAINTEXT": 4711}) == {"PLAINTEXT": Endpoint("h", 4711)}


def test_defaults_of_topics_come_from_the_start_up_settings() -> None:
    config = BrokerConfig.from_properties({"write.caching": "true", "log.retention.minutes": "2"})
    topic = TopicConfig.of(config.topic_layers({"retention.bytes": "5"}))
    assert (topic.write_caching, topic.retention_ms, topic.retention_bytes) == (True, 120_000, 5)
    changed = TopicConfig.of(config.topic_layers({}, {"write.caching": "false"}, {"log.retention.ms": "3"}))
    assert (changed.write_caching, changed.retention_ms) == (False, 3)


def test_what_is_fixed_at_start_can_not_be_altered() -> None:
    check_broker_configs({"log.retention.ms": "5", "write.caching": "true"})
    for name, value in {"node.id": "3", "log.retention.hours": "1", "num.partitions": "2"}.items():
        with pytest.raises(ConfigError, match="can't be changed while the broker runs"):
            check_broker_configs({name: value})
    with pytest.raises(ConfigError, match="unknown broker config"):
        check_broker_configs({"retention.ms": "1"})
    with pytest.raises(ConfigError, match="not between"):
        check_broker_configs({"log.retention.ms": "-2"})


def test_effective_broker_configs_tell_where_each_value_comes_from() -> None:
    static = {"node.id": "4", "log.retention.hours": "1"}
    layers = ConfigLayers(broker={"message.max.bytes": "9"}, static=static)
    told = {c.definition.name: (c.text, c.source) for c in effective_broker_configs(layers)}
    assert told["node.id"] == ("4", ConfigSource.STATIC_BROKER)
    assert told["log.retention.ms"] == ("3600000", ConfigSource.STATIC_BROKER)
    assert told["log.retention.hours"] == ("1", ConfigSource.STATIC_BROKER)
    assert told["log.retention.minutes"] == (None, ConfigSource.DEFAULT)
    assert told["message.max.bytes"] == ("9", ConfigSource.DYNAMIC_BROKER)
    assert told["num.partitions"] == ("1", ConfigSource.DEFAULT)
