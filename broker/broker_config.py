"""The configs of a broker: one table, under Kafka's names.

Owns: every broker config as a field of `BrokerConfig`, the broker-level defaults of topic configs (their table is
`broker/topic_config.py`), the refusal of unknown names, and the checks across several configs. Does not know where the texts come
from: `penstock serve` merges flags, file and environment into one mapping. Source: Kafka's `KafkaConfig`.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from penstock.broker.config_table import (
    INT64_MAX,
    ConfigDefinition,
    ConfigLayers,
    ConfigType,
    EffectiveConfig,
    Synonym,
    convert,
    definitions_by_field,
    fixed_option,
    option,
    parse,
    resolve,
    shown,
    values_of,
)
from penstock.broker.errors import ConfigError
from penstock.broker.keys import Endpoint
from penstock.broker.listeners import (
    ListenerAddress,
    advertised_endpoints,
    check_advertised,
    parse_address,
    parse_listeners,
    parse_protocol_map,
    security_protocol,
)
from penstock.broker.metadata_config import MetadataConfig, with_password_apart
from penstock.broker.topic_config import TopicConfig, topic_config_definitions

_MIB = 1024 * 1024
_EMPTY: Mapping[str, str] = MappingProxyType({})


def _no_properties() -> Mapping[str, str]:
    return _EMPTY


def _cluster_id_fault(cluster_id: str) -> str | None:
    if len(cluster_id) <= 64 and cluster_id.replace("-", "").replace("_", "").isalnum():
        return None
    return None if not cluster_id else "is no cluster id: up to 64 letters, digits, '-' and '_'"


def _one_directory_fault(directories: tuple[str, ...]) -> str | None:
    return None if len(directories) == 1 else "is not one directory; several are not supported"


@dataclass(frozen=True, slots=True)
class BrokerConfig(MetadataConfig):
    """A broker's start-up configs, parsed. Made by `from_properties`; the constructor checks nothing."""

    node_id: int = fixed_option(
        "node.id",
        1,
        "This broker's id, unique in the cluster; fixed once the data directory was made.",
        type=ConfigType.INT,
        low=0,
        aliases=("broker.id",),
    )
    cluster_id: str = fixed_option(
        "cluster.id",
        "",
        "The cluster this broker must belong to; empty takes the stored id, or makes one at the first start.",
        check=_cluster_id_fault,
        own=True,
    )
    rack: str | None = fixed_option(
        "broker.rack",
        None,
        "Where this broker stands, for the spreading of replicas.",
    )
    listener_texts: tuple[str, ...] = fixed_option(
        "listeners",
        ("PLAINTEXT://localhost:9092",),
        "What to listen on, as NAME://host:port; an empty host means all addresses.",
    )
    advertised_listener_texts: tuple[str, ...] = fixed_option(
        "advertised.listeners",
        (),
        "What clients are told to connect to, as NAME://host:port; a listener that is left out is told as it stands.",
    )
    protocol_map_texts: tuple[str, ...] = fixed_option(
        "listener.security.protocol.map",
        (),
        "Security protocols by listener, as NAME:PROTOCOL; a listener that is left out is named after its protocol.",
    )
    inter_broker_listener: str = fixed_option(
        "inter.broker.listener.name",
        "",
        "The listener by which other brokers reach this one; empty takes the first.",
    )
    metrics_listener_text: str = fixed_option(
        "metrics.listener",
        "",
        "Where metrics are served over HTTP in Prometheus' text format, as host:port, under /metrics; empty: nowhere. Without authentication.",
        own=True,
    )
    data_directories: tuple[str, ...] = fixed_option(
        "log.dirs",
        ("./penstock-data",),
        "The data directory: one.",
        check=_one_directory_fault,
        aliases=("log.dir",),
    )
    auto_create_topics_enable: bool = fixed_option(
        "auto.create.topics.enable",
        True,
        "Whether asking for the metadata of an unknown topic makes it.",
    )
    delete_topic_enable: bool = fixed_option(
        "delete.topic.enable",
        True,
        "Whether topics may be deleted.",
    )
    num_partitions: int = fixed_option(
        "num.partitions",
        1,
        "Partitions of a topic that is made without saying how many.",
        type=ConfigType.INT,
        low=1,
    )
    default_replication_factor: int = fixed_option(
        "default.replication.factor",
        1,
        "Replicas of a topic that is made without saying how many.",
        type=ConfigType.INT,
        low=1,
        high=32767,
    )
    socket_request_max_bytes: int = fixed_option(
        "socket.request.max.bytes",
        100 * _MIB,
        "The largest request; a longer frame closes the connection before any of it is read.",
        type=ConfigType.INT,
        low=1024,
    )
    control_request_max_bytes: int = fixed_option(
        "control.request.max.bytes",
        _MIB,
        "The largest request other than Produce.",
        type=ConfigType.INT,
        low=1024,
        own=True,
    )
    backlog_held_max_bytes: int = fixed_option(
        "backlog.held.max.bytes",
        64 * _MIB,
        "Bytes of batches that wait for room in full backlogs; past it, connections whose batches wait are not read until there is room.",
        low=1024,
        own=True,
    )
    queued_max_request_bytes: int = fixed_option(
        "queued.max.request.bytes",
        64 * _MIB,
        "Bytes of requests under way on all connections; past it, connections are not read until there is room.",
        low=1024,
    )
    max_connections: int = fixed_option(
        "max.connections",
        10_000,
        "Connections at once; one more is closed at once.",
        type=ConfigType.INT,
        low=1,
    )
    max_connections_per_ip: int = fixed_option(
        "max.connections.per.ip",
        4_000,
        "Connections at once from one address; one more is closed at once.",
        type=ConfigType.INT,
        low=1,
    )
    connections_max_idle_ms: int = fixed_option(
        "connections.max.idle.ms",
        600_000,
        "A connection without a request for this many milliseconds is closed.",
        low=1,
    )
    connection_frame_timeout_ms: int = fixed_option(
        "connection.frame.timeout.ms",
        30_000,
        "A request whose first byte has come must be whole within this many milliseconds, or the connection is closed.",
        low=1,
        own=True,
    )
    connection_write_timeout_ms: int = fixed_option(
        "connection.write.timeout.ms",
        60_000,
        "A client that takes no byte of a response for this many milliseconds is disconnected.",
        low=1,
        own=True,
    )
    fetch_max_bytes: int = fixed_option(
        "fetch.max.bytes",
        55 * _MIB,
        "The most bytes of records in one fetch response, whatever the client asks for.",
        type=ConfigType.INT,
        low=1024,
    )
    fetch_session_slots: int = fixed_option(
        "max.incremental.fetch.session.cache.slots",
        1_000,
        "Incremental fetch sessions that are kept.",
        type=ConfigType.INT,
        low=0,
    )
    max_request_partitions: int = fixed_option(
        "max.request.partition.size.limit",
        2_000,
        "The most partitions in one answer to DescribeTopicPartitions.",
        type=ConfigType.INT,
        low=1,
    )
    producer_id_expiration_ms: int = fixed_option(
        "producer.id.expiration.ms",
        86_400_000,
        "A partition forgets an idempotent producer that has not written for this many milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    log_retention_check_interval_ms: int = fixed_option(
        "log.retention.check.interval.ms",
        300_000,
        "How often logs are looked through for segments to delete, in milliseconds.",
        low=1,
    )
    log_initial_task_delay_ms: int = fixed_option(
        "log.initial.task.delay.ms",
        30_000,
        "How long after the start logs are looked through for segments to delete for the first time, in milliseconds; no longer than log.retention.check.interval.ms.",
        low=0,
    )
    log_cleaner_enable: bool = fixed_option(
        "log.cleaner.enable",
        True,
        "Whether logs with cleanup.policy=compact are compacted.",
    )
    log_cleaner_threads: int = fixed_option(
        "log.cleaner.threads",
        1,
        "How many logs are compacted at once; each takes a quarter of a core at the most.",
        type=ConfigType.INT,
        low=0,
    )
    log_cleaner_dedupe_buffer_size: int = fixed_option(
        "log.cleaner.dedupe.buffer.size",
        128 * _MIB,
        "The most memory for the keys of the logs that are compacted at once, in bytes: 24 for a key, and some room.",
        low=1024,
    )
    log_cleaner_io_buffer_load_factor: float = fixed_option(
        "log.cleaner.io.buffer.load.factor",
        0.9,
        "How full the memory for keys may get, 0 to 1: fuller is slower. Past it a compaction ends, and the next goes on there.",
        low=0.01,
        high=1,
    )
    log_cleaner_io_max_bytes_per_second: float = fixed_option(
        "log.cleaner.io.max.bytes.per.second",
        1.7976931348623157e308,
        "The most bytes that compaction reads and writes in a second.",
        low=1,
    )
    log_cleaner_backoff_ms: int = fixed_option(
        "log.cleaner.backoff.ms",
        15_000,
        "How long the cleaner waits where no log is due, in milliseconds.",
        low=0,
    )
    high_watermark_checkpoint_interval_ms: int = fixed_option(
        "replica.high.watermark.checkpoint.interval.ms",
        5_000,
        "How often the high watermarks are written, in milliseconds.",
        low=1,
    )
    leader_replication_throttled_rate: int = option(
        "leader.replication.throttled.rate",
        INT64_MAX,
        "The most bytes in a second that this broker sends to followers of leader.replication.throttled.replicas that are not in sync.",
        low=0,
        synonyms=("leader.replication.throttled.rate",),
    )
    follower_replication_throttled_rate: int = option(
        "follower.replication.throttled.rate",
        INT64_MAX,
        "The most bytes in a second that this broker fetches for follower.replication.throttled.replicas that are not in sync.",
        low=0,
        synonyms=("follower.replication.throttled.rate",),
    )
    replica_alter_log_dirs_rate: float = option(
        "replica.alter.log.dirs.io.max.bytes.per.second",
        1.7976931348623157e308,
        "The most bytes in a second when a replica moves from one directory to another: there is one. Kafka's tools set and clear it.",
        low=1,
        synonyms=("replica.alter.log.dirs.io.max.bytes.per.second",),
        acted_on=False,
    )
    broker_session_timeout_ms: int = fixed_option(
        "broker.session.timeout.ms",
        9_000,
        "A broker that was not heard of for this long is dead for the cluster, in milliseconds.",
        type=ConfigType.INT,
        low=2_000,
    )
    broker_heartbeat_interval_ms: int = fixed_option(
        "broker.heartbeat.interval.ms",
        2_000,
        "How often a broker says that it lives, in milliseconds.",
        type=ConfigType.INT,
        low=100,
    )
    shutdown_timeout_ms: int = fixed_option(
        "shutdown.timeout.ms",
        5_000,
        "How long a stopping broker waits for requests under way, in milliseconds; in a cluster also, before that, for its leaderships to move.",
        low=0,
        own=True,
    )
    static: Mapping[str, str] = field(default_factory=_no_properties)
    """Everything that was set at start, by name: the STATIC_BROKER layer of topic and broker configs."""

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> "BrokerConfig":
        """Check every name and value, and what they mean together.

        Raises:
            ConfigError: one line that names the config: unknown, malformed, out of bounds, or in conflict with another.
        """
        properties = with_password_apart(properties)
        for name, text in properties.items():
            _check_property(name, text)
        static = MappingProxyType(dict(properties))
        config = cls(**values_of(cls, ConfigLayers(static=static)), static=static)
        config.check()
        return config

    def check(self) -> None:
        """Check what one config alone can't tell. Raises ConfigError."""
        check_advertised(self.listeners, self.advertised_listeners, self.inter_broker_listener_name)
        if self.metrics_listener_text:
            parse_address("metrics.listener", self.metrics_listener_text)
        protocols = parse_protocol_map(self.protocol_map_texts)
        for listener in self.listeners:
            security_protocol(listener.name, protocols)
        if self.broker_heartbeat_interval_ms * 2 > self.broker_session_timeout_ms:
            raise ConfigError(
                "broker.heartbeat.interval.ms must be at most half of broker.session.timeout.ms, or a lost beat ends the session"
            )
        self.check_groups()
        self.check_metadata()
        if self.control_request_max_bytes > self.socket_request_max_bytes:
            raise ConfigError("control.request.max.bytes is above socket.request.max.bytes")

    @property
    def listeners(self) -> tuple[ListenerAddress, ...]:
        """What to listen on."""
        return parse_listeners("listeners", self.listener_texts)

    @property
    def advertised_listeners(self) -> tuple[ListenerAddress, ...]:
        """What was set to be told to clients; listeners may be missing here."""
        return parse_listeners("advertised.listeners", self.advertised_listener_texts)

    @property
    def inter_broker_listener_name(self) -> str:
        """The listener for other brokers."""
        return self.inter_broker_listener.upper() or next((x.name for x in self.listeners), "")

    @property
    def metrics_listener(self) -> ListenerAddress | None:
        """Where to listen for questions about metrics."""
        text = self.metrics_listener_text
        return parse_address("metrics.listener", text) if text else None

    @property
    def data_directory(self) -> str:
        """Where logs and checkpoints are kept."""
        return self.data_directories[0]

    @property
    def metadata_location(self) -> str:
        """What to hand to `Environment.open_metadata`. May have a password in it: for no log line."""
        if self.is_clustered:
            return self.etcd_location()
        return self.metadata_store or f"{self.data_directory}/metadata.db"

    def endpoints(self, bound_ports: Mapping[str, int]) -> dict[str, Endpoint]:
        """What to register, by listener name; `bound_ports` are the ports really bound."""
        protocols = parse_protocol_map(self.protocol_map_texts)
        return advertised_endpoints(self.listeners, self.advertised_listeners, protocols, bound_ports)

    def topic_layers(
        self,
        topic: Mapping[str, str] = _EMPTY,
        broker: Mapping[str, str] = _EMPTY,
        all_brokers: Mapping[str, str] = _EMPTY,
    ) -> ConfigLayers:
        """The layers of a topic's configs on this broker, for `TopicConfig.of`."""
        return ConfigLayers(topic, broker, all_brokers, self.static)


def _check_property(name: str, text: str) -> None:
    definition = broker_config_definitions().get(name) or _ALIASES.get(name)
    if definition is None:
        raise ConfigError(f"unknown config {shown(name)}{_hint(name)}")
    parse(definition, text)
    for topic_definition, synonym in _topic_synonyms().get(name, ()):
        parse(topic_definition, convert(name, text, synonym.factor))


def _hint(name: str) -> str:
    from difflib import get_close_matches  # only for a message that ends the start

    close = get_close_matches(name, [*broker_config_definitions(), *_ALIASES], n=1, cutoff=0.75)
    return f"; did you mean {close[0]}?" if close else ""


def _topic_synonyms() -> dict[str, list[tuple[ConfigDefinition, Synonym]]]:
    synonyms: dict[str, list[tuple[ConfigDefinition, Synonym]]] = {}
    for definition in topic_config_definitions().values():
        for synonym in definition.synonyms:
            synonyms.setdefault(synonym.name, []).append((definition, synonym))
    return synonyms


def _topic_default(definition: ConfigDefinition, synonym: Synonym) -> ConfigDefinition:
    """The broker config that a topic config's synonym is."""
    is_primary = synonym == definition.synonyms[0]
    has_own_unit = synonym.factor != 1
    return ConfigDefinition(
        name=synonym.name,
        type=definition.type,
        default=definition.default if is_primary else None,
        doc=f"Default of the topic config {definition.name}"
        + (" in another unit; the finer one wins." if has_own_unit else f". {definition.doc}"),
        low=None if has_own_unit else definition.low,
        high=None if has_own_unit else definition.high,
        choices=definition.choices,
        synonyms=definition.synonyms if is_primary else (Synonym(synonym.name),),
        check=definition.check,
        dynamic=is_primary,
        acted_on=definition.acted_on,
        own=definition.own,
    )


@functools.cache
def broker_config_definitions() -> Mapping[str, ConfigDefinition]:
    """The table, by config name: the broker's own configs and the broker-level defaults of topic configs."""
    table = {d.name: d for d in definitions_by_field(BrokerConfig).values()}
    for pairs in _topic_synonyms().values():
        for definition, synonym in pairs:
            table[synonym.name] = _topic_default(definition, synonym)
    return MappingProxyType(table)


_ALIASES: Mapping[str, ConfigDefinition] = {
    synonym.name: definition
    for definition in definitions_by_field(BrokerConfig).values()
    for synonym in definition.synonyms
    if synonym.name != definition.name
}
"""Second names of a broker config (`broker.id`, `log.dir`); never shown as rows of their own."""


def check_broker_configs(overrides: Mapping[str, str]) -> None:
    """Check dynamic broker configs as they would be stored.

    Raises:
        ConfigError: a name is unknown or may not change while the broker runs, or a value is malformed.
    """
    definitions = broker_config_definitions()
    for name, text in overrides.items():
        definition = definitions.get(name)
        if definition is None:
            raise ConfigError(f"unknown broker config {shown(name)}")
        if not definition.dynamic:
            raise ConfigError(f"{name} can't be changed while the broker runs")
        parse(definition, text)


def effective_broker_configs(layers: ConfigLayers) -> list[EffectiveConfig]:
    """Every broker config with its value and where it comes from, by name; `layers.topic` must be empty."""
    return [resolve(definition, layers) for _, definition in sorted(broker_config_definitions().items())]


__all__ = [
    "BrokerConfig",
    "TopicConfig",
    "broker_config_definitions",
    "check_broker_configs",
    "effective_broker_configs",
]
