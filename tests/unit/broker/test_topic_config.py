"""The table of topic configs, against Kafka's documented names and defaults."""

import pytest

from penstock.broker.config_table import ConfigLayers, ConfigSource, parse
from penstock.broker.errors import ConfigError
from penstock.broker.topic_config import (
    TopicConfig,
    check_topic_configs,
    effective_topic_configs,
    topic_config_definitions,
)
from penstock.storage.log_config import LogConfig

KAFKA_DEFAULTS = {
    "cleanup.policy": "delete",
    "compression.gzip.level": "-1",
    "compression.lz4.level": "9",
    "compression.type": "producer",
    "compression.zstd.level": "3",
    "delete.retention.ms": "86400000",
    "file.delete.delay.ms": "60000",
    "flush.messages": "9223372036854775807",
    "flush.ms": "9223372036854775807",
    "follower.replication.throttled.replicas": "",
    "index.interval.bytes": "4096",
    "leader.replication.throttled.replicas": "",
    "max.compaction.lag.ms": "9223372036854775807",
    "max.message.bytes": "1048588",
    "message.timestamp.after.max.ms": "3600000",
    "message.timestamp.before.max.ms": "9223372036854775807",
    "message.timestamp.type": "CreateTime",
    "min.cleanable.dirty.ratio": "0.5",
    "min.compaction.lag.ms": "0",
    "min.insync.replicas": "1",
    "preallocate": "false",
    "retention.bytes": "-1",
    "retention.ms": "604800000",
    "segment.bytes": "1073741824",
    "segment.index.bytes": "10485760",
    "segment.jitter.ms": "0",
    "segment.ms": "604800000",
    "unclean.leader.election.enable": "false",
}


def test_names_and_defaults_are_kafkas_but_for_our_own() -> None:
    table = topic_config_definitions()
    assert {d.name: d.default for d in table.values() if not d.own} == KAFKA_DEFAULTS
    assert {d.name: d.default for d in table.values() if d.own} == {
        "backlog.groups": "",
        "backlog.max.age.ms": "-1",
        "backlog.max.bytes": "-1",
        "backlog.max.records": "-1",
        "backlog.policy": "reject",
        "retention.keep.unconsumed": "false",
        "write.caching": "false",
    }


def test_every_row_is_explained_and_its_default_parses() -> None:
    for definition in topic_config_definitions().values():
        assert definition.doc.endswith(".")
        assert definition.default is not None
        parse(definition, definition.default)


def test_the_defaults_are_those_of_the_log() -> None:
    assert TopicConfig.of(ConfigLayers()).log_config() == LogConfig()


def test_what_the_log_needs_comes_from_the_effective_values() -> None:
    layers = ConfigLayers(
        topic={
            "cleanup.policy": "compact",
            "segment.bytes": "1000",
            "segment.jitter.ms": "5",
            "message.timestamp.type": "LogAppendTime",
        },
        static={"log.roll.hours": "1"},
    )
    log_config = TopicConfig.of(layers).log_config()
    assert (log_config.delete, log_config.compact) == (False, True)
    assert (log_config.segment_bytes, log_config.segment_ms) == (1000, 3_600_000)
    assert (log_config.segment_jitter_ms, log_config.log_append_time) == (5, True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"retention": "1"}, "unknown topic config 'retention'"),
        ({"log.retention.ms": "1"}, "unknown topic config"),
        ({"retention.ms": "-2"}, "retention.ms: '-2' is not between"),
        ({"cleanup.policy": ""}, "cleanup.policy"),
        ({"min.insync.replicas": "0"}, "min.insync.replicas"),
        ({"compression.type": "none"}, "compression.type"),
        ({"write.caching": "maybe"}, "write.caching"),
        ({"leader.replication.throttled.replicas": "0:1,x"}, "partition:broker"),
        ({"min.compaction.lag.ms": "5", "max.compaction.lag.ms": "4"}, "above max.compaction.lag.ms"),
    ],
)
def test_overrides_that_mean_nothing_are_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_topic_configs(overrides, ConfigLayers())


def test_throttled_replicas_are_pairs_or_a_star() -> None:
    for text in ("0:1,1:2", "*", ""):
        check_topic_configs({"leader.replication.throttled.replicas": text}, ConfigLayers())


def test_configs_are_checked_together_with_the_brokers_defaults() -> None:
    static = ConfigLayers(static={"log.cleaner.min.compaction.lag.ms": "9"})
    with pytest.raises(ConfigError):
        check_topic_configs({"max.compaction.lag.ms": "4"}, static)


def test_effective_configs_list_everything_with_its_source() -> None:
    listed = effective_topic_configs(
        ConfigLayers(topic={"retention.ms": "5"}, static={"write.caching": "true"})
    )
    assert [config.definition.name for config in listed] == sorted(topic_config_definitions())
    sources = {config.definition.name: (config.text, config.source) for config in listed}
    assert sources["retention.ms"] == ("5", ConfigSource.DYNAMIC_TOPIC)
    assert sources["write.caching"] == ("true", ConfigSource.STATIC_BROKER)
    assert sources["segment.ms"] == ("604800000", ConfigSource.DEFAULT)
