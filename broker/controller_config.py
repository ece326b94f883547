"""The broker configs of leadership and of a controlled stop, under Kafka's names.

Owns their rows in the one table of broker configs (`BrokerConfig` has these fields, too). Source: Kafka's `ReplicationConfigs`, `ServerConfigs`.
"""

from dataclasses import dataclass

from penstock.broker.config_table import ConfigType, fixed_option
from penstock.broker.replication_config import ReplicationConfig


@dataclass(frozen=True, slots=True)
class ControllerConfig(ReplicationConfig):
    """What the controller goes by, and a broker of a cluster that stops."""

    controlled_shutdown_enable: bool = fixed_option(
        "controlled.shutdown.enable",
        True,
        "Whether a broker of a cluster gives its leadership away before it stops.",
    )
    auto_leader_rebalance_enable: bool = fixed_option(
        "auto.leader.rebalance.enable",
        True,
        "Whether the controller gives leadership back to the first replica of each partition every now and then.",
    )
    leader_imbalance_check_interval_seconds: int = fixed_option(
        "leader.imbalance.check.interval.seconds",
        300,
        "How often leadership is given back to the first replicas, in seconds.",
        type=ConfigType.LONG,
        low=1,
    )
