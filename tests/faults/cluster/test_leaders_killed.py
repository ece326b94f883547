"""Leaders are killed (SIGKILL) while clients of five kinds write and a group of four kinds reads along (PROPERTIES D1, D2, D7, T1, G2).

`LEADER_KILLS=100` is the long run (`make long`), shared by the two modes.
"""

import os
import random
from pathlib import Path

import pytest
from tests.faults.cluster.conftest import StartCluster
from tests.support.cluster import replica_logs
from tests.support.cluster.traffic import traffic

KILLS = int(os.environ.get("LEADER_KILLS", "10"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
PARTITIONS = 3
WRITE_CACHING = ["true", "false"]


@pytest.mark.parametrize("write_caching", WRITE_CACHING)
def test_what_was_acked_is_lost_doubled_or_out_of_order_after_leaders_died(
    write_caching: str, start_cluster: StartCluster, tmp_path: Path
) -> None:
    count = max(KILLS // len(WRITE_CACHING), 1)
    chance = random.Random(SEED)
    cluster = start_cluster(write_caching=write_caching)
    topic = cluster.create_topic("kept", partitions=PARTITIONS)
    with traffic(cluster.bootstrap, topic, PARTITIONS, tmp_path / "clients") as load:
        load.await_acks()
        for number in range(count):
            leader = cluster.brokers[cluster.leader_of(topic, chance.randrange(PARTITIONS))]
            leader.kill()
            if chance.random() < 0.5:  # else it is back before anybody has missed it
                for index in range(PARTITIONS):
                    cluster.await_new_leader(topic, index, leader.node_id)
                load.await_acks(3)
            leader.start()
            cluster.await_whole(topic)
            load.await_acks()
            print(
                f"kill {number} of seed {SEED}: broker {leader.node_id}, {load.acked_count} acked", flush=True
            )
        load.finish()
        print(f"{count} kills; {load.check(cluster)}")
    for broker in cluster.brokers.values():
        assert broker.stop() == 0
    replica_logs.check_folders(cluster)
