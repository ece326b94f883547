"""The broker configs of replication, under Kafka's names.

Owns: their rows in the one table of broker configs (`BrokerConfig` has these fields, too). Source: Kafka's `ReplicationConfigs`.
"""

from dataclasses import dataclass

from penstock.broker.config_table import ConfigType, fixed_option
from penstock.broker.group_config import GroupConfig

_MIB = 1024 * 1024
RACK_AWARE_SELECTOR = "org.apache.kafka.common.replica.RackAwareReplicaSelector"


def _check_selector(name: str) -> str | None:
    return None if name in ("", RACK_AWARE_SELECTOR) else f"is neither empty nor {RACK_AWARE_SELECTOR}"


@dataclass(frozen=True, slots=True)
class ReplicationConfig(GroupConfig):
    """What leaders and followers go by."""

    replica_fetch_max_bytes: int = fixed_option(
        "replica.fetch.max.bytes",
        _MIB,
        "The most bytes that a follower asks for of one partition at once; a larger batch comes whole all the same.",
        type=ConfigType.INT,
        low=0,
    )
    replica_fetch_response_max_bytes: int = fixed_option(
        "replica.fetch.response.max.bytes",
        10 * _MIB,
        "The most bytes that a follower asks one leader for at once.",
        type=ConfigType.INT,
        low=0,
    )
    replica_fetch_min_bytes: int = fixed_option(
        "replica.fetch.min.bytes",
        1,
        "How many bytes a leader waits for before it answers a follower.",
        type=ConfigType.INT,
        low=0,
    )
    replica_fetch_wait_max_ms: int = fixed_option(
        "replica.fetch.wait.max.ms",
        500,
        "How long a leader that has no new records keeps a follower waiting, and so how late a follower may learn that the last ones are "
        "committed, in milliseconds.",
        type=ConfigType.INT,
        low=1,
    )
    replica_socket_timeout_ms: int = fixed_option(
        "replica.socket.timeout.ms",
        30_000,
        "A leader that owes a follower an answer for longer than this counts as lost, in milliseconds; replica.fetch.wait.max.ms comes on top.",
        type=ConfigType.INT,
        low=1,
    )
    replica_fetch_backoff_ms: int = fixed_option(
        "replica.fetch.backoff.ms",
        1_000,
        "How long a follower waits after an error before it asks for the partition again, in milliseconds.",
        type=ConfigType.INT,
        low=0,
    )
    replica_lag_time_max_ms: int = fixed_option(
        "replica.lag.time.max.ms",
        30_000,
        "A follower that has not had all of its leader's log for this long leaves the ISR, in milliseconds.",
        low=1,
    )
    replica_selector_class: str = fixed_option(
        "replica.selector.class",
        "",
        "Who tells consumers which replica to read: empty for the leader, or "
        "org.apache.kafka.common.replica.RackAwareReplicaSelector for one in the consumer's rack.",
        check=_check_selector,
    )
