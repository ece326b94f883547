"""Paused, cut off and lonely brokers, and etcd lost: each fault in turn under load, in network namespaces (PROPERTIES D1, D2, D4, D7, D8, M2).

Without CLUSTER_FAULTS each fault comes once, but for kills, which have a test of their own; `CLUSTER_FAULTS=100` picks so many at random (`make long`).
"""

import os
import random
from pathlib import Path

from tests.faults.cluster.conftest import StartCluster
from tests.support.cluster.hosts import namespaces
from tests.support.cluster.nemesis import FAULTS, Fault, Place
from tests.support.cluster.traffic import traffic

COUNT = int(os.environ.get("CLUSTER_FAULTS", "0"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
PARTITIONS = 3


def schedule(chance: random.Random) -> list[Fault]:
    if COUNT:
        return [chance.choice(list(FAULTS.values())) for _ in range(COUNT)]
    return [fault for name, fault in FAULTS.items() if name != "leader killed"]


def test_what_was_acked_is_lost_after_pauses_cuts_and_loss_of_etcd(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    with namespaces() as network:
        cluster = start_cluster(network=network)
        topic = cluster.create_topic("hurt", partitions=PARTITIONS)
        with traffic(
            cluster.bootstrap,
            topic,
            PARTITIONS,
            tmp_path / "clients",
            writers=("librdkafka", "aiokafka", "penstock"),
            members=("librdkafka", "penstock"),
        ) as load:
            load.await_acks()
            for number, fault in enumerate(schedule(chance)):
                place = Place(cluster, network, topic, chance.randrange(PARTITIONS))
                with fault.block(place):
                    if fault.serves_meanwhile:
                        load.await_acks(3)
                cluster.await_whole(topic)
                load.await_acks()
                print(f"{number} of seed {SEED}: {fault.name}, {load.acked_count} acked", flush=True)
            load.finish()
            print(load.check(cluster))
