"""The throttle of moves: which rates and lists are set for them on brokers and topics, and taken away when nothing moves any more.

Owns the meaning of `--throttle` in Kafka's four configs, as `kafka-reassign-partitions` sets them: the replicas that are there are throttled as leaders,
those that come as followers. Source: KIP-73, Kafka's `ReassignPartitionsCommand`.
"""

from collections.abc import Iterable, Mapping

import click

from penstock.cli.asking import raise_error
from penstock.cli.byte_rates import byte_rate
from penstock.cli.cluster_plan import Replicas
from penstock.cli.failure import CalledWrongly
from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigChange, ConfigOperation, ConfigResource
from penstock.client.errors import BrokerError, UnknownTopic
from penstock.client.metadata import TopicPartition

RATES = ("leader.replication.throttled.rate", "follower.replication.throttled.rate")
LEADERS, FOLLOWERS = "leader.replication.throttled.replicas", "follower.replication.throttled.replicas"


def parse_rate(context: click.Context, option: click.Parameter, text: str | None) -> int | None:
    """Bytes a second: a number, or one with a unit, as 50MB, 1.5GB/s or 64MiB. For click; a wrong call where it is none."""
    if text is None:
        return None
    rate = byte_rate(text)
    if rate is None:
        raise CalledWrongly(f"--throttle: {text!r} is no rate such as 50MB (a second)")
    return rate


Coming = Mapping[TopicPartition, tuple[Replicas, Replicas]]
"""For each partition the replicas that are there, and those that come."""


async def set_throttle(admin: Admin, node_ids: Iterable[int], coming: Coming, rate: int) -> None:
    """Let the moves of these partitions take no more than `rate` bytes a second from and to each broker. Raises BrokerError."""
    there: dict[str, list[str]] = {}
    new: dict[str, list[str]] = {}
    for (topic, index), (present, added) in coming.items():
        there.setdefault(topic, []).extend(f"{index}:{node_id}" for node_id in present)
        new.setdefault(topic, []).extend(f"{index}:{node_id}" for node_id in added)
    changes = {
        ConfigResource.topic(topic): [
            ConfigChange(LEADERS, ",".join(there[topic])),
            ConfigChange(FOLLOWERS, ",".join(new[topic])),
        ]
        for topic in there
    }
    for node_id in node_ids:
        changes[ConfigResource.broker(node_id)] = [ConfigChange(name, str(rate)) for name in RATES]
    for outcome in (await admin.alter_configs(changes)).values():
        raise_error(outcome)


async def clear_throttle(admin: Admin, node_ids: Iterable[int], topics: Iterable[str]) -> None:
    """Take the rates and lists away, where there are any; a topic that is gone needs none. Raises BrokerError."""
    changes = {
        ConfigResource.broker(node_id): [ConfigChange(name, None, ConfigOperation.DELETE) for name in RATES]
        for node_id in node_ids
    }
    for topic in topics:
        changes[ConfigResource.topic(topic)] = [
            ConfigChange(name, None, ConfigOperation.DELETE) for name in (LEADERS, FOLLOWERS)
        ]
    for outcome in (await admin.alter_configs(changes)).values():
        if isinstance(outcome, BrokerError) and not isinstance(outcome, UnknownTopic):
            raise outcome


__all__ = ["Coming", "clear_throttle", "parse_rate", "set_throttle"]
