"""The metadata plane on the real embedded store, across restarts."""

from pathlib import Path

from tests.support.metadata_plane import Plane, metadata_plane

from penstock.broker.keys import NO_LEADER
from penstock.runtime.production import production_environment

PARTITION_COUNT = 300


async def test_everything_is_there_after_a_restart_with_higher_epochs(tmp_path: Path) -> None:
    path = str(tmp_path / "metadata.db")
    environment = production_environment()

    def visible(plane: Plane) -> dict[str, tuple[bytes, int, set[int]]]:
        return {
            topic.name: (
                topic.topic_id,
                topic.partition_count,
                {p.leader_epoch for p in plane.image.partitions(topic.topic_id) if p.leader != NO_LEADER},
            )
            for topic in plane.image.topics.values()
        }

    async with environment.open_metadata(path) as store, metadata_plane(store=store) as plane:
        big = await plane.create("big", PARTITION_COUNT, retention_ms="5")
        small = await plane.create("small")
        await plane.create("gone", 3)
        gone = plane.image.topic("gone")
        assert gone is not None
        await plane.watch.wait_for(await plane.topics.delete(gone))
        revision = await plane.topics.create_partitions("small", 2, None)
        await plane.watch.wait_for(revision)
        first_id, cluster_id = await plane.producer_ids.allocate(), plane.cluster_id
        assert visible(plane) == {"big": (big, PARTITION_COUNT, {0}), "small": (small, 2, {0})}
    async with environment.open_metadata(path) as store, metadata_plane(store=store) as plane:
        assert visible(plane) == {"big": (big, PARTITION_COUNT, {1}), "small": (small, 2, {1})}
        assert len(plane.image.partitions(big)) == PARTITION_COUNT
        assert plane.image.topic_configs("big") == {"retention.ms": "5"}
        assert plane.image.unseen_partitions() == []
        assert plane.cluster_id == cluster_id
        assert await plane.producer_ids.allocate() > first_id
