"""The broker configs of group coordination and of `__consumer_offsets`, under Kafka's names.

Owns: their rows in the one table of broker configs (`BrokerConfig` has these fields, too), and the checks across several of them.
Where a default is not Kafka's, the text of the row says so. Source: Kafka's `GroupCoordinatorConfig`.
"""

from dataclasses import dataclass

from penstock.broker.config_table import ConfigType, fixed_option
from penstock.broker.errors import ConfigError

_INT32_MAX = 2**31 - 1
_MIB = 1024 * 1024


def _protocols_fault(protocols: tuple[str, ...]) -> str | None:
    unknown = set(protocols) - {"classic", "consumer"}
    if unknown or "classic" not in protocols:
        return "must name classic, and may name consumer besides"
    return None


def _assignors_fault(assignors: tuple[str, ...]) -> str | None:
    if not assignors or set(assignors) - {"uniform", "range"}:
        return "must name uniform or range, or both; the first is the default of a group"
    return None


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """What the group coordinator goes by."""

    group_min_session_timeout_ms: int = fixed_option(
        "group.min.session.timeout.ms",
        6_000,
        "The shortest session timeout that a member of a classic group may ask for, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    group_max_session_timeout_ms: int = fixed_option(
        "group.max.session.timeout.ms",
        1_800_000,
        "The longest session timeout that a member of a classic group may ask for, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    group_initial_rebalance_delay_ms: int = fixed_option(
        "group.initial.rebalance.delay.ms",
        100,
        "How long an empty classic group waits for more members after the first, in milliseconds. Kafka waits 3000.",
        type=ConfigType.INT,
        low=0,
    )
    group_max_size: int = fixed_option(
        "group.max.size",
        _INT32_MAX,
        "The most members of one classic group.",
        type=ConfigType.INT,
        low=1,
    )
    group_max_count: int = fixed_option(
        "group.max.count",
        100_000,
        "The most groups that are kept; a group past it is refused until others have expired or are deleted.",
        type=ConfigType.INT,
        low=1,
        own=True,
    )
    group_memory_max_bytes: int = fixed_option(
        "group.memory.max.bytes",
        512 * _MIB,
        "The memory that groups, members and committed offsets may take, in bytes, about; what is new is refused past it.",
        low=_MIB,
        own=True,
    )
    group_protocols: tuple[str, ...] = fixed_option(
        "group.coordinator.rebalance.protocols",
        ("classic", "consumer"),
        "The group protocols that are served; without consumer, members of KIP-848 groups are refused with UNSUPPORTED_VERSION.",
        check=_protocols_fault,
    )
    group_consumer_session_timeout_ms: int = fixed_option(
        "group.consumer.session.timeout.ms",
        45_000,
        "After this long without a heartbeat a member of a consumer group is fenced, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    group_consumer_min_session_timeout_ms: int = fixed_option(
        "group.consumer.min.session.timeout.ms",
        45_000,
        "The least that the session timeout of a consumer group may be, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    group_consumer_max_session_timeout_ms: int = fixed_option(
        "group.consumer.max.session.timeout.ms",
        60_000,
        "The most that the session timeout of a consumer group may be, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    group_consumer_heartbeat_interval_ms: int = fixed_option(
        "group.consumer.heartbeat.interval.ms",
        5_000,
        "How often the members of a consumer group are to send heartbeats, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    group_consumer_min_heartbeat_interval_ms: int = fixed_option(
        "group.consumer.min.heartbeat.interval.ms",
        5_000,
        "The least that the heartbeat interval of a consumer group may be, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    group_consumer_max_heartbeat_interval_ms: int = fixed_option(
        "group.consumer.max.heartbeat.interval.ms",
        15_000,
        "The most that the heartbeat interval of a consumer group may be, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    group_consumer_max_size: int = fixed_option(
        "group.consumer.max.size",
        _INT32_MAX,
        "The most members of one consumer group.",
        type=ConfigType.INT,
        low=1,
    )
    group_consumer_assignors: tuple[str, ...] = fixed_option(
        "group.consumer.assignors",
        ("uniform", "range"),
        "The server-side assignors, the default first.",
        check=_assignors_fault,
    )
    group_consumer_migration_policy: str = fixed_option(
        "group.consumer.migration.policy",
        "disabled",
        "Whether a group with members may change its protocol: it may not. Kafka's default is bidirectional.",
        check=lambda policy: None if policy == "disabled" else "must be disabled",
    )
    offset_metadata_max_bytes: int = fixed_option(
        "offset.metadata.max.bytes",
        4_096,
        "The longest metadata text of a committed offset, in characters.",
        type=ConfigType.INT,
        low=0,
    )
    offsets_commit_timeout_ms: int = fixed_option(
        "offsets.commit.timeout.ms",
        5_000,
        "How long a commit waits until it is kept, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    offsets_load_buffer_size: int = fixed_option(
        "offsets.load.buffer.size",
        5 * _MIB,
        "Bytes of __consumer_offsets that are read at once when a coordinator loads its groups.",
        type=ConfigType.INT,
        low=1,
    )
    offsets_retention_minutes: int = fixed_option(
        "offsets.retention.minutes",
        10_080,
        "How long committed offsets are kept after their group has become empty (without members: after the commit), in minutes.",
        type=ConfigType.INT,
        low=1,
    )
    offsets_retention_check_interval_ms: int = fixed_option(
        "offsets.retention.check.interval.ms",
        600_000,
        "How often offsets are looked through for expired ones, in milliseconds.",
        low=1,
    )
    offsets_topic_num_partitions: int = fixed_option(
        "offsets.topic.num.partitions",
        16,
        "Partitions of __consumer_offsets; must not change once it is made. Kafka has 50.",
        type=ConfigType.INT,
        low=1,
    )
    offsets_topic_replication_factor: int = fixed_option(
        "offsets.topic.replication.factor",
        3,
        "Replicas of __consumer_offsets. A cluster makes the topic when it has as many brokers; a lone broker makes it with one.",
        type=ConfigType.SHORT,
        low=1,
    )
    offsets_topic_segment_bytes: int = fixed_option(
        "offsets.topic.segment.bytes",
        100 * _MIB,
        "The segment size of __consumer_offsets, in bytes; it is set on the topic when it is made.",
        type=ConfigType.INT,
        low=14,
    )

    @property
    def serves_consumer_protocol(self) -> bool:
        """Whether groups of KIP-848 may be."""
        return "consumer" in self.group_protocols

    def check_groups(self) -> None:
        """Check what one config alone can't tell. Raises ConfigError."""
        for name, low, value, high in (
            (
                "group.consumer.session.timeout.ms",
                self.group_consumer_min_session_timeout_ms,
                self.group_consumer_session_timeout_ms,
                self.group_consumer_max_session_timeout_ms,
            ),
            (
                "group.consumer.heartbeat.interval.ms",
                self.group_consumer_min_heartbeat_interval_ms,
                self.group_consumer_heartbeat_interval_ms,
                self.group_consumer_max_heartbeat_interval_ms,
            ),
        ):
            if not low <= value <= high:
                raise ConfigError(f"{name}={value} is not between its minimum {low} and its maximum {high}")
        if self.group_min_session_timeout_ms > self.group_max_session_timeout_ms:
            raise ConfigError("group.min.session.timeout.ms is above group.max.session.timeout.ms")
        if self.group_consumer_heartbeat_interval_ms >= self.group_consumer_session_timeout_ms:
            raise ConfigError(
                "group.consumer.heartbeat.interval.ms must be below group.consumer.session.timeout.ms"
            )


__all__ = ["GroupConfig"]
