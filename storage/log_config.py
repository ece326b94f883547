"""The settings of one partition's log: those of a topic's configs that the storage layer acts on.

Knows neither the config names' defaults at the broker nor how they are set; the broker builds one of these from its own table.
"""

from dataclasses import dataclass

DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """Kafka's topic configs under their own names, dots as underscores. The defaults are Kafka's."""

    segment_bytes: int = 1 << 30
    segment_ms: int = 7 * DAY_MS
    segment_jitter_ms: int = 0
    """The most that a log rolls earlier than `segment_ms`; how much of it is told by the name of its directory."""
    segment_index_bytes: int = 10 << 20
    index_interval_bytes: int = 4096
    retention_ms: int = 7 * DAY_MS
    """-1: no bound."""
    retention_bytes: int = -1
    """-1: no bound."""
    file_delete_delay_ms: int = 60_000
    """How long the files of deleted segments, and of the whole log, stay."""
    log_append_time: bool = False
    """`message.timestamp.type` is LogAppendTime."""
    delete: bool = True
    """`cleanup.policy` includes delete."""
    compact: bool = False
    """`cleanup.policy` includes compact: base offsets may have gaps."""
    delete_retention_ms: int = DAY_MS
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = 2**63 - 1
    min_cleanable_dirty_ratio: float = 0.5
    producer_id_expiration_ms: int = DAY_MS
    """The broker's `producer.id.expiration.ms`."""
    producer_id_count_max: int = 100_000
    """Producers remembered for one partition; past it the one idle longest is forgotten."""
