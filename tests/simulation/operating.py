"""What a person does about brokers that say that a log of theirs is offline: start them anew, and mend what they can't mend by themselves.

Owns one decision: a log is repaired only where a broker refuses it since nobody could tell what a power cut has taken from a flipped bit
(`storage/damage.py`), and only of a topic whose records a power cut may take. Any other damage is a finding: the run does not come to rest.
"""

from typing import cast

from tests.simulation.cluster import BrokerHost, Cluster
from tests.simulation.observer import Observer
from tests.support.crashes.clients import is_too_small_to_tell

from penstock.runtime.files import FileSystem
from penstock.storage.checkpoint import TopicPartition
from penstock.storage.repair import Repair
from penstock.storage.repair_plan import Way, plan_repair
from penstock.storage.verify_folder import look_into


class Operator:
    """See the module."""

    def __init__(self, cluster: Cluster, observer: Observer) -> None:
        self._cluster = cluster
        self._observer = observer

    def look(self) -> None:
        """Kill the brokers with a log that is offline, and repair what may be; somebody else starts them again."""
        for host in self._cluster.brokers:
            broker = host.broker
            if broker is None or not any(broker.partitions.is_offline(*key) for key in self._observer.states):
                continue
            unusable = cast(dict[tuple[bytes, int], Exception], vars(broker.partitions)["_unusable"])
            host.kill()
            for (topic_id, index), reason in unusable.items():
                if is_too_small_to_tell(host.disk, reason) and not self._observer.is_kept(topic_id):
                    self._repair(host, (self._observer.names[topic_id], index))

    def _repair(self, host: BrokerHost, key: TopicPartition) -> None:
        self._cluster.kernel.note(f"repair {host.name} {key[0]}-{key[1]}")
        repair(host.disk, host.config.data_directories[0], key, host.clock.wall_ms())


def repair(files: FileSystem, data_folder: str, key: TopicPartition, now_ms: int) -> None:
    """As `penstock log repair` does it: skip what is damaged if that loses nothing, or else cut the log there."""
    plan = plan_repair(files, look_into(files, data_folder), key)
    way = Way.SKIP if plan.damages == plan.restored else Way.CUT
    Repair(files, plan, way, now_ms=now_ms, time_name=f"{now_ms}Z").carry_out(version="simulated")


__all__ = ["Operator", "repair"]
