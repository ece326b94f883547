"""What goes into the admin calls and comes out of them.

Owns the values and Kafka's numbers for kinds, sources and operations. Knows neither messages nor connections.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

EARLIEST = -2
"""In place of a timestamp: the log start offset."""
LATEST = -1
"""In place of a timestamp: the end, where the next record will be (the last stable offset with `read_committed`)."""
MAX_TIMESTAMP = -3
"""In place of a timestamp: the record with the largest timestamp."""
HIGH_WATERMARK = -1
"""In place of an offset to delete up to: everything that is there now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTopic:
    """A topic to be made. None for a number: the broker's default.

    `assignments` places the replicas by hand (partition index to broker ids); then both numbers must be None.
    """

    name: str
    partition_count: int | None = None
    replication_factor: int | None = None
    configs: Mapping[str, str] = field(default_factory=dict[str, str])
    assignments: Mapping[int, Sequence[int]] = field(default_factory=dict[int, Sequence[int]])

    @property
    def takes_defaults(self) -> bool:
        """Whether the broker has to choose a number."""
        return not self.assignments and None in (self.partition_count, self.replication_factor)


@dataclass(frozen=True, slots=True)
class CreatedTopic:
    """A topic that was made (or would have been). What an older broker does not tell is None."""

    name: str
    topic_id: bytes | None
    partition_count: int | None
    replication_factor: int | None


class ResourceKind(enum.IntEnum):
    """What has configs."""

    TOPIC = 2
    BROKER = 4


class ConfigResource(NamedTuple):
    """A topic by its name, or a broker by its node id in digits (the empty name: the default of all brokers)."""

    kind: ResourceKind
    name: str

    @classmethod
    def topic(cls, name: str) -> "ConfigResource":
        """The configs of a topic."""
        return cls(ResourceKind.TOPIC, name)

    @classmethod
    def broker(cls, node_id: int | None = None) -> "ConfigResource":
        """The configs of a broker; of all of them where None."""
        return cls(ResourceKind.BROKER, "" if node_id is None else str(node_id))

    def __str__(self) -> str:
        return f"{self.kind.name.lower()} {self.name}".rstrip()


class ConfigSource(enum.IntEnum):
    """Where a config's value comes from."""

    UNKNOWN = 0
    DYNAMIC_TOPIC_CONFIG = 1
    DYNAMIC_BROKER_CONFIG = 2
    DYNAMIC_DEFAULT_BROKER_CONFIG = 3
    STATIC_BROKER_CONFIG = 4
    DEFAULT_CONFIG = 5
    DYNAMIC_BROKER_LOGGER_CONFIG = 6
    DYNAMIC_CLIENT_METRICS_CONFIG = 7
    DYNAMIC_GROUP_CONFIG = 8


@dataclass(frozen=True, slots=True)
class ConfigEntry:
    """One config as the broker tells it. `value` is None where there is none or it is a secret."""

    name: str
    value: str | None
    source: ConfigSource
    is_read_only: bool
    is_sensitive: bool
    documentation: str | None = None

    @property
    def is_default(self) -> bool:
        """Whether nobody has set it."""
        return self.source == ConfigSource.DEFAULT_CONFIG


class ConfigOperation(enum.IntEnum):
    """What an incremental change does. APPEND and SUBTRACT are for lists."""

    SET = 0
    DELETE = 1
    APPEND = 2
    SUBTRACT = 3


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A change of one config; DELETE takes it back to its default and has no value."""

    name: str
    value: str | None
    operation: ConfigOperation = ConfigOperation.SET


@dataclass(frozen=True, slots=True)
class FoundOffset:
    """An answer of ListOffsets. `offset` is -1 where no record is that late; `timestamp_ms` -1 for EARLIEST and LATEST."""

    offset: int
    timestamp_ms: int
    leader_epoch: int


__all__ = [
    "EARLIEST",
    "HIGH_WATERMARK",
    "LATEST",
    "MAX_TIMESTAMP",
    "ConfigChange",
    "ConfigEntry",
    "ConfigOperation",
    "ConfigResource",
    "ConfigSource",
    "CreatedTopic",
    "FoundOffset",
    "NewTopic",
    "ResourceKind",
]
