"""Config values: parsing, bounds, and which of several settings wins."""

import pytest

from penstock.broker.config_table import (
    ConfigDefinition,
    ConfigLayers,
    ConfigSource,
    ConfigType,
    Setting,
    Synonym,
    parse,
    resolve,
)
from penstock.broker.errors import ConfigError

RETENTION = ConfigDefinition(
    name="retention.ms",
    type=ConfigType.LONG,
    default="7",
    doc="",
    low=-1,
    synonyms=(Synonym("log.retention.ms"), Synonym("log.retention.hours", 3_600_000)),
)
POLICY = ConfigDefinition(
    name="cleanup.policy", type=ConfigType.LIST, default="delete", doc="", choices=("delete", "compact")
)


def definition(config_type: ConfigType, **kwargs: float) -> ConfigDefinition:
    return ConfigDefinition(
        name="x", type=config_type, default=None, doc="", low=kwargs.get("low"), high=kwargs.get("high")
    )


@pytest.mark.parametrize(
    ("config_type", "text", "value"),
    [
        (ConfigType.BOOLEAN, " TRUE ", True),
        (ConfigType.BOOLEAN, "false", False),
        (ConfigType.INT, " -5 ", -5),
        (ConfigType.INT, "+5", 5),
        (ConfigType.INT, "2147483647", 2**31 - 1),
        (ConfigType.LONG, "9223372036854775807", 2**63 - 1),
        (ConfigType.DOUBLE, "0.25", 0.25),
        (ConfigType.LIST, " a, b,,c ", ("a", "b", "c")),
        (ConfigType.LIST, "", ()),
        (ConfigType.STRING, " a b ", "a b"),
    ],
)
def test_text_parses_as_kafka_parses_it(config_type: ConfigType, text: str, value: object) -> None:
    assert parse(definition(config_type), text) == value


@pytest.mark.parametrize(
    ("config_type", "text"),
    [
        (ConfigType.BOOLEAN, "yes"),
        (ConfigType.BOOLEAN, ""),
        (ConfigType.INT, ""),
        (ConfigType.INT, "1.0"),
        (ConfigType.INT, "1_000"),
        (ConfigType.INT, "٣"),
        (ConfigType.INT, "2147483648"),
        (ConfigType.INT, "9" * 5000),
        (ConfigType.SHORT, "32768"),
        (ConfigType.LONG, "9223372036854775808"),
        (ConfigType.DOUBLE, "x"),
    ],
)
def test_text_that_is_no_value_is_refused_in_one_line(config_type: ConfigType, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(definition(config_type), text)
    assert str(caught.value).startswith("x: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_not_a_number_is_within_no_bounds() -> None:
    with pytest.raises(ConfigError):
        parse(definition(ConfigType.DOUBLE, low=0, high=1), "nan")


@pytest.mark.parametrize("text", ["", "remove", "delete,remove", "delete,delete"])
def test_a_list_takes_its_choices_each_once(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(POLICY, text)
    assert parse(POLICY, "compact,delete") == ("compact", "delete")


def test_the_nearest_setting_wins_and_all_are_told_in_order() -> None:
    layers = ConfigLayers(
        topic={"retention.ms": "1"},
        broker={"log.retention.ms": "2"},
        all_brokers={"log.retention.ms": "3"},
        static={"log.retention.ms": "4", "log.retention.hours": "5"},
    )
    effective = resolve(RETENTION, layers)
    assert (effective.text, effective.source) == ("1", ConfigSource.DYNAMIC_TOPIC)
    assert effective.settings == (
        Setting("retention.ms", "1", ConfigSource.DYNAMIC_TOPIC),
        Setting("log.retention.ms", "2", ConfigSource.DYNAMIC_BROKER),
        Setting("log.retention.ms", "3", ConfigSource.DYNAMIC_DEFAULT_BROKER),
        Setting("log.retention.ms", "4", ConfigSource.STATIC_BROKER),
        Setting("log.retention.hours", "5", ConfigSource.STATIC_BROKER),
        Setting("log.retention.ms", "7", ConfigSource.DEFAULT),
    )


def test_a_synonym_in_another_unit_is_converted() -> None:
    effective = resolve(RETENTION, ConfigLayers(static={"log.retention.hours": "2"}))
    assert (effective.text, effective.source) == ("7200000", ConfigSource.STATIC_BROKER)
    assert resolve(RETENTION, ConfigLayers(static={"log.retention.hours": "-1"})).text == "-1"


def test_without_a_setting_the_default_holds() -> None:
    effective = resolve(RETENTION, ConfigLayers())
    assert (effective.text, effective.source) == ("7", ConfigSource.DEFAULT)


def test_a_stored_value_that_no_longer_parses_counts_as_not_set() -> None:
    layers = ConfigLayers(topic={"retention.ms": "-2"}, all_brokers={"log.retention.ms": "3"})
    assert (resolve(RETENTION, layers).text, len(resolve(RETENTION, layers).settings)) == ("3", 2)


def test_a_name_of_the_broker_level_means_nothing_on_a_topic() -> None:
    assert resolve(RETENTION, ConfigLayers(topic={"log.retention.ms": "1"})).text == "7"
