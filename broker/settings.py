"""A topic's effective config as what one partition needs of it."""

from dataclasses import replace
from typing import TYPE_CHECKING

from penstock.broker.broker_config import BrokerConfig
from penstock.broker.image import ClusterImage
from penstock.broker.names import INTERNAL_TOPICS
from penstock.broker.partition_settings import PartitionSettings
from penstock.broker.rewrite import InternalTopicGuard, Rewriter
from penstock.broker.topic_config import TopicConfig
from penstock.protocol.compression import Codec

if TYPE_CHECKING:
    from penstock.broker.backlog.bounds import BacklogBounds

PRODUCER_CODEC = "producer"
UNCOMPRESSED = "uncompressed"


def topic_config_for(config: BrokerConfig, image: ClusterImage, topic: str) -> TopicConfig:
    """What holds for a topic on this broker now."""
    return TopicConfig.of(
        config.topic_layers(
            image.topic_configs(topic), image.broker_configs(config.node_id), image.broker_configs(None)
        )
    )


def settings_for(config: BrokerConfig, image: ClusterImage, topic: str) -> PartitionSettings:
    """The settings of a topic's partitions on this broker now."""
    effective = topic_config_for(config, image, topic)
    codec = _codec(effective.compression_type)
    rewriter = None
    if topic in INTERNAL_TOPICS:
        return _settings(config, effective, InternalTopicGuard())
    compacted = "compact" in effective.cleanup_policy
    if effective.is_log_append_time or codec is not None or compacted:
        rewriter = Rewriter(
            log_append_time=effective.is_log_append_time,
            codec=codec,
            level=_level(effective, codec),
            require_keys=compacted,
        )
    return replace(_settings(config, effective, rewriter), bounds=_bounds(effective))


def _settings(
    config: BrokerConfig, effective: TopicConfig, rewriter: Rewriter | InternalTopicGuard | None
) -> PartitionSettings:
    return PartitionSettings(
        log_config=effective.log_config(producer_id_expiration_ms=config.producer_id_expiration_ms),
        write_caching=effective.write_caching,
        min_insync_replicas=effective.min_insync_replicas,
        max_message_bytes=effective.max_message_bytes,
        timestamp_before_max_ms=effective.message_timestamp_before_max_ms,
        timestamp_after_max_ms=effective.message_timestamp_after_max_ms,
        flush_messages=effective.flush_messages,
        flush_ms=effective.flush_ms,
        rewriter=rewriter,
    )


def _bounds(effective: TopicConfig) -> "BacklogBounds | None":
    if not effective.backlog_groups:
        return None
    from penstock.broker.backlog.bounds import BacklogBounds, BacklogPolicy  # loaded where there is a bound

    bounds = BacklogBounds(
        max_records=effective.backlog_max_records,
        max_bytes=effective.backlog_max_bytes,
        max_age_ms=effective.backlog_max_age_ms,
        groups=effective.backlog_groups,
        keep_unconsumed=effective.retention_keep_unconsumed,
        policy=BacklogPolicy(effective.backlog_policy),
    )
    return bounds if bounds.needs_offsets else None


def _codec(name: str) -> Codec | None:
    """The codec that batches are changed to; None keeps the producer's."""
    if name == PRODUCER_CODEC:
        return None
    return Codec.NONE if name == UNCOMPRESSED else Codec[name.upper()]


def _level(effective: TopicConfig, codec: Codec | None) -> int | None:
    """The topic's compression.<codec>.level; None for codecs without one."""
    match codec:
        case Codec.GZIP:
            return effective.compression_gzip_level
        case Codec.LZ4:
            return effective.compression_lz4_level
        case Codec.ZSTD:
            return effective.compression_zstd_level
        case _:
            return None
