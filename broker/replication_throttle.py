"""The throttle of replicas that catch up: which of them, how fast, and how much a broker may still send or fetch now.

Owns the reading of the four configs and the count of bytes against a rate (pure: the time is handed in). Does not know who sends or
fetches: the leader's side asks it for each fetch of a follower, the follower's side for each fetch that it sends; both leave throttled
partitions out while `ReplicationQuota.is_spent`. Source: KIP-73, Kafka's `ReplicationQuotaManager`.

Invariants: a replica in the ISR is never throttled (its callers see to that), or a low rate would push it out. A rate holds over about a
second; one answer may exceed it by its own size, and is paid back before the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.broker.broker_config import BrokerConfig, broker_config_definitions
from penstock.broker.config_table import INT64_MAX, ConfigLayers, parse, resolve
from penstock.broker.image import ClusterImage

LEADER_RATE = "leader.replication.throttled.rate"
FOLLOWER_RATE = "follower.replication.throttled.rate"

EVERY_REPLICA = ("*",)


@dataclass(frozen=True, slots=True)
class ThrottledRates:
    """What one broker may send and fetch for throttled replicas, in bytes a second; INT64_MAX is no bound."""

    leader: int = INT64_MAX
    follower: int = INT64_MAX

    @classmethod
    def of(cls, config: BrokerConfig, image: ClusterImage) -> "ThrottledRates":
        """What holds for the broker of this config now: dynamic configs come before those of its start."""
        layers = ConfigLayers(
            broker=image.broker_configs(config.node_id),
            all_brokers=image.broker_configs(None),
            static=config.static,
        )
        return cls(_rate(LEADER_RATE, layers), _rate(FOLLOWER_RATE, layers))


def _rate(name: str, layers: ConfigLayers) -> int:
    definition = broker_config_definitions()[name]
    value = parse(definition, resolve(definition, layers).text or "")
    assert isinstance(value, int)
    return value


def is_throttled(replicas: Sequence[str], partition: int, broker_id: int) -> bool:
    """Whether a topic's `*.replication.throttled.replicas` names this replica of it."""
    return bool(replicas) and (tuple(replicas) == EVERY_REPLICA or f"{partition}:{broker_id}" in replicas)


class ReplicationQuota:
    """Bytes against a rate. Times are monotonic, in ms, and never fall."""

    __slots__ = ("_debt_bytes", "_rate", "_seen_ms")

    def __init__(self, rate: int = INT64_MAX) -> None:
        self._rate = rate
        self._debt_bytes = 0.0
        self._seen_ms = 0.0

    @property
    def is_bounded(self) -> bool:
        """Whether there is a rate at all."""
        return self._rate != INT64_MAX

    def set_rate(self, rate: int, now_ms: float) -> None:
        """Let another rate hold from now on; what was sent is paid back by the new one."""
        self._pay_back(now_ms)
        self._rate = rate

    def record(self, size_bytes: int, now_ms: float) -> None:
        """Count what was sent or fetched for throttled replicas."""
        self._pay_back(now_ms)
        self._debt_bytes += size_bytes

    def is_spent(self, now_ms: float) -> bool:
        """Whether throttled replicas have to wait."""
        if not self.is_bounded:
            return False
        self._pay_back(now_ms)
        return self._debt_bytes > 0 or self._rate == 0

    def wait_ms(self, now_ms: float) -> float:
        """How long until `is_spent` is false if nothing more is recorded; infinite for a rate of 0."""
        if not self.is_spent(now_ms):
            return 0.0
        return self._debt_bytes * 1000 / self._rate if self._rate else float("inf")

    def _pay_back(self, now_ms: float) -> None:
        paid = self._rate * (now_ms - self._seen_ms) / 1000
        self._debt_bytes = max(0.0, self._debt_bytes - paid) if self.is_bounded else 0.0
        self._seen_ms = now_ms
