"""The configs of a topic: one table, under Kafka's names.

Owns: every topic config (name, type, default, bounds, broker-level synonyms, meaning) as a field of `TopicConfig`, the checks across
several of them, and the translation into what the log needs. Does not know where overrides are kept. A row marked
`acted_on=False` is stored and shown for the sake of clients' tools, but nothing acts on it yet.
Source: Kafka's `TopicConfig`, `LogConfig`, `ServerTopicConfigSynonyms`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from penstock.broker.config_table import (
    INT64_MAX,
    ConfigDefinition,
    ConfigLayers,
    ConfigType,
    EffectiveConfig,
    Synonym,
    definitions_by_field,
    option,
    parse,
    resolve,
    shown,
    values_of,
)
from penstock.broker.errors import ConfigError
from penstock.storage.log_config import LogConfig

_MINUTE_MS = 60_000
_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS


def _throttled_replicas_fault(replicas: tuple[str, ...]) -> str | None:
    for replica in replicas:
        partition, _, broker = replica.partition(":")
        numbers = partition.isascii() and partition.isdecimal() and broker.isascii() and broker.isdecimal()
        if replicas != ("*",) and not numbers:
            return "is neither * nor a list of partition:broker"
    return None


@dataclass(frozen=True, slots=True)
class TopicConfig:
    """The effective configs of one topic, parsed."""

    backlog_groups: tuple[str, ...] = option(
        "backlog.groups",
        (),
        "The consumer groups whose commits say what is consumed, for the bounds of the backlog; * for all. Without any there is no bound.",
        own=True,
    )
    backlog_max_age_ms: int = option(
        "backlog.max.age.ms",
        -1,
        "How old the first record of a partition may be that is unconsumed by the slowest group of backlog.groups, in milliseconds; -1 is no bound.",
        low=-1,
        own=True,
    )
    backlog_max_bytes: int = option(
        "backlog.max.bytes",
        -1,
        "How many bytes of a partition's log may be unconsumed by the slowest group of backlog.groups, by whole batches; -1 is no bound.",
        low=-1,
        own=True,
    )
    backlog_max_records: int = option(
        "backlog.max.records",
        -1,
        "How many records of a partition may be unconsumed by the slowest group of backlog.groups; -1 is no bound.",
        low=-1,
        own=True,
    )
    backlog_policy: str = option(
        "backlog.policy",
        "reject",
        "What a producer meets at the bound: reject answers POLICY_VIOLATION at once, hold waits for room up to half of the request's timeout, throttle slows producers down from half of the bound on and then holds.",
        choices=("reject", "hold", "throttle"),
        own=True,
    )
    cleanup_policy: tuple[str, ...] = option(
        "cleanup.policy",
        ("delete",),
        "What happens to old segments: delete them, compact them (keep the latest record of each key), or both.",
        choices=("delete", "compact"),
        synonyms=("log.cleanup.policy",),
    )
    compression_gzip_level: int = option(
        "compression.gzip.level",
        -1,
        "Level used when the broker compresses anew with gzip; -1 is the codec's default.",
        type=ConfigType.INT,
        low=-1,
        high=9,
        synonyms=("compression.gzip.level",),
    )
    compression_lz4_level: int = option(
        "compression.lz4.level",
        9,
        "Level used when the broker compresses anew with lz4.",
        type=ConfigType.INT,
        low=1,
        high=17,
        synonyms=("compression.lz4.level",),
    )
    compression_type: str = option(
        "compression.type",
        "producer",
        "Codec of stored batches; producer keeps what came in, anything else has the broker compress anew.",
        choices=("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"),
        synonyms=("compression.type",),
    )
    compression_zstd_level: int = option(
        "compression.zstd.level",
        3,
        "Level used when the broker compresses anew with zstd.",
        type=ConfigType.INT,
        low=-131072,
        high=22,
        synonyms=("compression.zstd.level",),
    )
    delete_retention_ms: int = option(
        "delete.retention.ms",
        _DAY_MS,
        "How long compaction keeps tombstones, in milliseconds.",
        low=0,
        synonyms=("log.cleaner.delete.retention.ms",),
    )
    file_delete_delay_ms: int = option(
        "file.delete.delay.ms",
        60_000,
        "How long the files of a deleted segment or topic stay on disk, in milliseconds.",
        low=0,
        synonyms=("log.segment.delete.delay.ms",),
    )
    flush_messages: int = option(
        "flush.messages",
        INT64_MAX,
        "With write.caching=true: sync after this many records. Without write caching every batch is synced before its ack.",
        low=1,
        synonyms=("log.flush.interval.messages",),
    )
    flush_ms: int = option(
        "flush.ms",
        INT64_MAX,
        "With write.caching=true: sync at the latest this many milliseconds after an append.",
        low=0,
        synonyms=("log.flush.interval.ms", "log.flush.scheduler.interval.ms"),
    )
    follower_replication_throttled_replicas: tuple[str, ...] = option(
        "follower.replication.throttled.replicas",
        (),
        "Replicas whose catching up is throttled on the follower's side, as partition:broker, or *.",
        check=_throttled_replicas_fault,
    )
    index_interval_bytes: int = option(
        "index.interval.bytes",
        4096,
        "Bytes of log between two entries of the offset index.",
        type=ConfigType.INT,
        low=0,
        synonyms=("log.index.interval.bytes",),
    )
    leader_replication_throttled_replicas: tuple[str, ...] = option(
        "leader.replication.throttled.replicas",
        (),
        "Replicas whose catching up is throttled on the leader's side, as partition:broker, or *.",
        check=_throttled_replicas_fault,
    )
    max_compaction_lag_ms: int = option(
        "max.compaction.lag.ms",
        INT64_MAX,
        "The longest time a record may stay uncompacted, in milliseconds.",
        low=1,
        synonyms=("log.cleaner.max.compaction.lag.ms",),
    )
    max_message_bytes: int = option(
        "max.message.bytes",
        1_048_588,
        "The largest record batch that is taken, in bytes as sent.",
        type=ConfigType.INT,
        low=0,
        synonyms=("message.max.bytes",),
    )
    message_timestamp_after_max_ms: int = option(
        "message.timestamp.after.max.ms",
        _HOUR_MS,
        "How far a record's timestamp may lie in the future, in milliseconds; with CreateTime only.",
        low=0,
        synonyms=("log.message.timestamp.after.max.ms",),
    )
    message_timestamp_before_max_ms: int = option(
        "message.timestamp.before.max.ms",
        INT64_MAX,
        "How far a record's timestamp may lie in the past, in milliseconds; with CreateTime only.",
        low=0,
        synonyms=("log.message.timestamp.before.max.ms",),
    )
    message_timestamp_type: str = option(
        "message.timestamp.type",
        "CreateTime",
        "Whose clock stamps the records: the producer's (CreateTime) or the broker's (LogAppendTime).",
        choices=("CreateTime", "LogAppendTime"),
        synonyms=("log.message.timestamp.type",),
    )
    min_cleanable_dirty_ratio: float = option(
        "min.cleanable.dirty.ratio",
        0.5,
        "The part of a log that must be uncompacted before compaction takes it up.",
        low=0,
        high=1,
        synonyms=("log.cleaner.min.cleanable.ratio",),
    )
    min_compaction_lag_ms: int = option(
        "min.compaction.lag.ms",
        0,
        "The least time a record stays uncompacted, in milliseconds.",
        low=0,
        synonyms=("log.cleaner.min.compaction.lag.ms",),
    )
    min_insync_replicas: int = option(
        "min.insync.replicas",
        1,
        "How many in-sync replicas there must be for acks=all to be taken.",
        type=ConfigType.INT,
        low=1,
        synonyms=("min.insync.replicas",),
    )
    preallocate: bool = option(
        "preallocate",
        False,
        "Whether a new segment's file gets its full size at once.",
        synonyms=("log.preallocate",),
        acted_on=False,
    )
    retention_bytes: int = option(
        "retention.bytes",
        -1,
        "The size in bytes that a partition's log is cut back to, by whole segments; -1 is no bound.",
        low=-1,
        synonyms=("log.retention.bytes",),
    )
    retention_keep_unconsumed: bool = option(
        "retention.keep.unconsumed",
        False,
        "Whether retention spares what a group of backlog.groups has not consumed. Something else must keep the disk from filling up: a bound of the backlog.",
        own=True,
    )
    retention_ms: int = option(
        "retention.ms",
        7 * _DAY_MS,
        "The age in milliseconds at which segments are deleted; -1 is no bound.",
        low=-1,
        synonyms=(
            "log.retention.ms",
            Synonym("log.retention.minutes", _MINUTE_MS),
            Synonym("log.retention.hours", _HOUR_MS),
        ),
    )
    segment_bytes: int = option(
        "segment.bytes",
        1_073_741_824,
        "The size in bytes at which a new segment begins.",
        type=ConfigType.INT,
        low=14,
        synonyms=("log.segment.bytes",),
    )
    segment_index_bytes: int = option(
        "segment.index.bytes",
        10_485_760,
        "The size in bytes at which a full index makes a new segment begin.",
        type=ConfigType.INT,
        low=4,
        synonyms=("log.index.size.max.bytes",),
    )
    segment_jitter_ms: int = option(
        "segment.jitter.ms",
        0,
        "The most that is taken off segment.ms, another amount for each partition, so that segments do not all begin at once, in milliseconds.",
        low=0,
        synonyms=("log.roll.jitter.ms", Synonym("log.roll.jitter.hours", _HOUR_MS)),
    )
    segment_ms: int = option(
        "segment.ms",
        7 * _DAY_MS,
        "The age in milliseconds at which a new segment begins, even if the last one is not full.",
        low=1,
        synonyms=("log.roll.ms", Synonym("log.roll.hours", _HOUR_MS)),
    )
    unclean_leader_election_enable: bool = option(
        "unclean.leader.election.enable",
        False,
        "Whether a replica that is not in sync may become leader, at the price of lost records.",
        synonyms=("unclean.leader.election.enable",),
    )
    write_caching: bool = option(
        "write.caching",
        False,
        "Whether appended records count before they are on disk. false: what was acked or read survives a power cut.",
        synonyms=("write.caching",),
        own=True,
    )

    @classmethod
    def of(cls, layers: ConfigLayers) -> "TopicConfig":
        """What holds for a topic under these layers."""
        return cls(**values_of(cls, layers))

    @property
    def is_log_append_time(self) -> bool:
        """Whether the broker's clock stamps the records."""
        return self.message_timestamp_type == "LogAppendTime"

    def log_config(self, *, producer_id_expiration_ms: int = _DAY_MS) -> LogConfig:
        """What a partition's log needs; the expiration is the broker's config."""
        compact = "compact" in self.cleanup_policy
        return LogConfig(
            segment_bytes=self.segment_bytes,
            segment_ms=min(self.segment_ms, self.max_compaction_lag_ms) if compact else self.segment_ms,
            segment_jitter_ms=self.segment_jitter_ms,
            segment_index_bytes=self.segment_index_bytes,
            index_interval_bytes=self.index_interval_bytes,
            retention_ms=self.retention_ms,
            retention_bytes=self.retention_bytes,
            file_delete_delay_ms=self.file_delete_delay_ms,
            log_append_time=self.is_log_append_time,
            delete="delete" in self.cleanup_policy,
            compact=compact,
            delete_retention_ms=self.delete_retention_ms,
            min_compaction_lag_ms=self.min_compaction_lag_ms,
            max_compaction_lag_ms=self.max_compaction_lag_ms,
            min_cleanable_dirty_ratio=self.min_cleanable_dirty_ratio,
            producer_id_expiration_ms=producer_id_expiration_ms,
        )


@functools.cache
def topic_config_definitions() -> Mapping[str, ConfigDefinition]:
    """The table, by config name."""
    return MappingProxyType({d.name: d for d in definitions_by_field(TopicConfig).values()})


def check_topic_configs(overrides: Mapping[str, str], layers: ConfigLayers) -> None:
    """Check a topic's whole set of overrides as it would be stored; `layers.topic` is not looked at.

    Raises:
        ConfigError: a name is unknown, a value is malformed, or values contradict each other.
    """
    definitions = topic_config_definitions()
    for name, text in overrides.items():
        definition = definitions.get(name)
        if definition is None:
            raise ConfigError(f"unknown topic config {shown(name)}")
        parse(definition, text)
    config = TopicConfig.of(ConfigLayers(overrides, layers.broker, layers.all_brokers, layers.static))
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms:
        raise ConfigError("min.compaction.lag.ms is above max.compaction.lag.ms")


def effective_topic_configs(layers: ConfigLayers) -> list[EffectiveConfig]:
    """Every topic config with its value and where it comes from, by name."""
    return [resolve(definition, layers) for _, definition in sorted(topic_config_definitions().items())]
