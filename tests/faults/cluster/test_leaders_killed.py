"""Leaders are killed (SIGKILL) while clients of five kinds write and a group of four kinds reads along (PROPERTIES D1, D2, D7, T1, G2).

Two topics at once: what is acked on one is on disk, on the other in the page caches. `LEADER_KILLS=100` is the long run (`make long`).
"""

import os
import random
from pathlib import Path

from tests.faults.cluster.conftest import StartCluster
from tests.support.cluster import replica_logs
from tests.support.cluster.traffic import traffic

KILLS = int(os.environ.get("LEADER_KILLS", "10"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
PARTITIONS = 3
INTERNAL = "__consumer_offsets"


def test_what_was_acked_is_lost_doubled_or_out_of_order_after_leaders_died(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    chance = random.Random(SEED)
    cluster = start_cluster()
    synced = cluster.create_topic("synced", partitions=PARTITIONS, configs={"write.caching": "false"})
    cached = cluster.create_topic("cached", partitions=PARTITIONS, configs={"write.caching": "true"})
    few = {"writers": ("librdkafka", "penstock"), "members": ()}
    with (
        traffic(cluster.bootstrap, synced, PARTITIONS, tmp_path / "synced") as load,
        traffic(cluster.bootstrap, cached, PARTITIONS, tmp_path / "cached", **few) as beside,
    ):
        load.await_acks()
        beside.await_acks()
        for number in range(KILLS):
            topic = chance.choice([synced, cached])
            leader = cluster.brokers[cluster.leader_of(topic, chance.randrange(PARTITIONS))]
            leader.kill()
            if chance.random() < 0.5:  # else it is back before anybody has missed it
                cluster.await_no_leader_is(leader.node_id, synced, cached)
                load.await_acks(3)
                beside.await_acks(3)
            leader.start()
            cluster.await_whole(synced, cached, INTERNAL)
            load.await_acks(3)
            beside.await_acks(3)
            acked = load.acked_count + beside.acked_count
            print(f"kill {number} of seed {SEED}: broker {leader.node_id}, {acked} acked", flush=True)
        for each in (load, beside):
            each.finish()
        print(f"{KILLS} kills; synced: {load.check(cluster)}; cached: {beside.check(cluster)}")
    for broker in cluster.brokers.values():
        assert broker.stop() == 0
    replica_logs.check_folders(cluster)
