"""Applying every batch and reading a snapshot come to the same image, whatever happened in between."""

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from penstock.broker import keys
from penstock.broker.image import ClusterImage, ImageDelta, PartitionImage
from penstock.broker.keys import BrokerRegistration, ControllerClaim, Endpoint, PartitionState, TopicRecord
from penstock.broker.quotas.entity import DEFAULT, QuotaEntity
from penstock.runtime.metadata import Entry, Snapshot, WatchBatch, WatchEvent

QUOTA_ENTITIES = (QuotaEntity("alice"), QuotaEntity(None, DEFAULT))
TOPIC_COUNT = 3
PARTITION_COUNT_MAX = 3


def topic_id(name_index: int, generation: int) -> bytes:
    """Ids are never used for two names."""
    return bytes([name_index + 1, generation] + [0] * 14)


def topic_change(name: int, generation: int, count: int) -> tuple[str, bytes]:
    return keys.topic_key(f"t{name}"), keys.encode_topic(TopicRecord(topic_id(name, generation), count))


def partition_change(
    name: int, generation: int, index: int, epoch: int, leads: bool, moves: bool
) -> tuple[str, bytes]:
    state = PartitionState((1, 2), (1,), 1 if leads else keys.NO_LEADER, epoch)
    if moves:
        state = replace(state, adding_replicas=(1,), removing_replicas=(2,), eligible_leader_replicas=(2,))
    return keys.partition_key(topic_id(name, generation), index), keys.encode_partition(state)


names = st.integers(0, TOPIC_COUNT - 1)
generations = st.integers(0, 1)
topic_changes = st.builds(topic_change, names, generations, st.integers(1, PARTITION_COUNT_MAX))
partition_changes = st.builds(
    partition_change,
    names,
    generations,
    st.integers(0, PARTITION_COUNT_MAX - 1),
    st.integers(0, 5),
    st.booleans(),
    st.booleans(),
)
other_changes = st.sampled_from(
    [
        (keys.topic_configs_key("t0"), b'{"a":"1"}'),
        (keys.topic_configs_key("t1"), b"{}"),
        (keys.broker_configs_key(None), b'{"a":"1"}'),
        (keys.broker_configs_key(1), b'{"a":"2"}'),
        (keys.quota_key(QUOTA_ENTITIES[0]), b'{"producer_byte_rate":1}'),
        (keys.quota_key(QUOTA_ENTITIES[0]), b'{"request_percentage":2.5}'),
        (keys.quota_key(QUOTA_ENTITIES[1]), b'{"producer_byte_rate":2}'),
        (keys.CLUSTER_KEY, keys.encode_cluster("c")),
        (keys.CONTROLLER_KEY, keys.encode_controller(ControllerClaim(1, "x"))),
        (keys.broker_key(1), keys.encode_broker(BrokerRegistration("x", {"L": Endpoint("h", 1)}))),
        ("/penstock/of/a/later/version", b""),
    ]
)


def put_or_delete(change: tuple[str, bytes], puts: bool) -> tuple[str, bytes | None]:
    return change if puts else (change[0], None)


def key_of(change: tuple[str, bytes | None]) -> str:
    return change[0]


changes = st.builds(put_or_delete, st.one_of(topic_changes, partition_changes, other_changes), st.booleans())
histories = st.lists(st.lists(changes, min_size=1, max_size=6, unique_by=key_of), max_size=12)


class Store:
    """The keys, and the batch that each transaction is."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0

    def transact(self, operations: Sequence[tuple[str, bytes | None]]) -> WatchBatch | None:
        events: list[WatchEvent] = []
        for key, value in operations:
            old = self.entries.get(key)
            if value is not None:
                created = old.create_revision if old else self.revision + 1
                self.entries[key] = Entry(key, value, created, self.revision + 1)
                events.append(WatchEvent(key, self.entries[key]))
            elif old is not None:
                del self.entries[key]
                events.append(WatchEvent(key, None))
        self.revision += bool(events)
        return WatchBatch(self.revision, events) if events else None

    def snapshot(self) -> Snapshot:
        return Snapshot([entry for _, entry in sorted(self.entries.items())], self.revision)


def content(image: ClusterImage) -> tuple[object, ...]:
    """All that can be asked."""
    names = [f"t{i}" for i in range(TOPIC_COUNT)]
    ids = [topic_id(i, generation) for i in range(TOPIC_COUNT) for generation in range(2)]
    return (
        image.revision,
        image.cluster_id,
        image.controller,
        dict(image.topics),
        dict(image.brokers),
        [image.topic_by_id(i) for i in ids],
        [image.partitions(i) for i in ids],
        [image.partition(i, index) for i in ids for index in range(PARTITION_COUNT_MAX)],
        [image.topic_configs(name) for name in names],
        [image.broker_configs(broker) for broker in (None, 1)],
        sorted(image.unseen_partitions(), key=lambda state: (state.topic_id, state.index)),
        dict(image.quotas),
    )


class Listener:
    """Knows only what the deltas tell."""

    def __init__(self) -> None:
        self.topics: dict[bytes, str] = {}
        self.partitions: dict[tuple[bytes, int], PartitionImage] = {}

    def hear(self, delta: ImageDelta) -> None:
        for topic in delta.topics_removed:
            del self.topics[topic.topic_id]
            self.partitions = {k: v for k, v in self.partitions.items() if k[0] != topic.topic_id}
        for topic in delta.topics_added:
            assert topic.topic_id not in self.topics
            self.topics[topic.topic_id] = topic.name
        for partition in delta.partitions_changed:
            assert partition.topic_id in self.topics
            self.partitions[partition.topic_id, partition.index] = partition


@given(histories, st.sets(st.integers(0, 12)))
def test_batches_and_snapshots_come_to_the_same_image(
    history: list[list[tuple[str, bytes | None]]], resets: set[int]
) -> None:
    store = Store()
    followed, resynced = ClusterImage(), ClusterImage()
    for number, operations in enumerate(history):
        batch = store.transact(operations)
        if batch is not None:
            followed.apply(batch)
        if number in resets:
            resynced.reset(store.snapshot())
    fresh = ClusterImage.from_snapshot(store.snapshot())
    resynced.reset(store.snapshot())
    assert content(followed) == content(fresh)
    assert content(resynced) == content(fresh)


@given(histories)
def test_who_hears_every_delta_knows_every_topic(history: list[list[tuple[str, bytes | None]]]) -> None:
    store = Store()
    image, listener = ClusterImage(), Listener()
    for operations in history:
        batch = store.transact(operations)
        if batch is not None:
            listener.hear(image.apply(batch))
    assert listener.topics == {topic.topic_id: topic.name for topic in image.topics.values()}
    visible = {(p.topic_id, p.index): p for t in image.topics.values() for p in image.partitions(t.topic_id)}
    assert visible.items() <= listener.partitions.items()
