"""The cluster image: what a change means, and what may not be seen."""

import pytest

from penstock.broker import keys
from penstock.broker.errors import CorruptMetadata
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.broker.keys import BrokerRegistration, ControllerClaim, Endpoint, PartitionState, TopicRecord
from penstock.runtime.metadata import Entry, Snapshot, WatchBatch, WatchEvent

A, B = bytes([1] * 16), bytes([2] * 16)
STATE = PartitionState((1,), (1,), 1, 0)


class Source:
    """Makes batches as a store would."""

    def __init__(self) -> None:
        self.image = ClusterImage()
        self.revision = 0
        self.entries: dict[str, Entry] = {}

    def apply(self, *changes: tuple[str, bytes | None]) -> ImageDelta:
        self.revision += 1
        events: list[WatchEvent] = []
        for key, value in changes:
            old = self.entries.pop(key, None)
            entry = None
            if value is not None:
                entry = Entry(key, value, old.create_revision if old else self.revision, self.revision)
                self.entries[key] = entry
            events.append(WatchEvent(key, entry))
        return self.image.apply(WatchBatch(self.revision, events))

    def snapshot(self) -> Snapshot:
        return Snapshot([entry for _, entry in sorted(self.entries.items())], self.revision)


def topic(name: str, topic_id: bytes, count: int = 1) -> tuple[str, bytes]:
    return keys.topic_key(name), keys.encode_topic(TopicRecord(topic_id, count))


def partition(topic_id: bytes, index: int, state: PartitionState = STATE) -> tuple[str, bytes]:
    return keys.partition_key(topic_id, index), keys.encode_partition(state)


def test_partitions_without_a_topic_key_are_not_visible() -> None:
    source = Source()
    delta = source.apply(partition(A, 0), partition(A, 1))
    assert delta == ImageDelta(1)
    assert source.image.partition(A, 0) is None
    assert source.image.partitions(A) == []
    assert [(p.topic_id, p.index) for p in source.image.unseen_partitions()] == [(A, 0), (A, 1)]


def test_the_topic_key_makes_all_of_its_partitions_visible_at_once() -> None:
    source = Source()
    source.apply(partition(A, 0), partition(A, 1))
    delta = source.apply(topic("t", A, 2))
    assert [t.name for t in delta.topics_added] == ["t"]
    assert [(p.topic_id, p.index) for p in delta.partitions_changed] == [(A, 0), (A, 1)]
    assert source.image.unseen_partitions() == []
    found = source.image.partition(A, 1)
    assert found is not None
    assert found.partition_epoch == 1, "the mod revision of the partition's own key"
    assert source.image.partition(A, 2) is None


def test_a_partition_above_the_count_waits_for_the_count() -> None:
    source = Source()
    source.apply(partition(A, 0), topic("t", A))
    assert source.apply(partition(A, 1)).partitions_changed == ()
    assert [p.index for p in source.image.partitions(A)] == [0]
    delta = source.apply(topic("t", A, 2))
    assert [t.partition_count for t in delta.topics_changed] == [2]
    assert [p.index for p in delta.partitions_changed] == [1]
    assert delta.topics_added == delta.topics_removed == ()


def test_a_changed_state_is_told_once_with_its_last_value() -> None:
    source = Source()
    source.apply(partition(A, 0), topic("t", A))
    delta = source.apply(partition(A, 0, PartitionState((1,), (1,), 1, 5)))
    assert [(p.leader_epoch, p.partition_epoch) for p in delta.partitions_changed] == [(5, 2)]
    assert delta.topics_added == delta.topics_changed == ()


def test_deleting_the_topic_key_removes_the_topic_though_states_remain() -> None:
    source = Source()
    source.apply(partition(A, 0), topic("t", A))
    delta = source.apply((keys.topic_key("t"), None))
    assert [(t.name, t.topic_id) for t in delta.topics_removed] == [("t", A)]
    assert source.image.topic("t") is None
    assert source.image.topic_by_id(A) is None
    assert source.image.partition(A, 0) is None
    assert source.apply((keys.partition_key(A, 0), None)).partitions_changed == ()
    assert source.image.unseen_partitions() == []


def test_a_snapshot_in_which_a_topic_was_made_anew_removes_the_old_and_adds_the_new() -> None:
    source = Source()
    source.apply(partition(A, 0), topic("t", A))
    other = Source()
    other.revision = 9
    other.apply(partition(B, 0), topic("t", B))
    delta = source.image.reset(other.snapshot())
    assert [t.topic_id for t in delta.topics_removed] == [A]
    assert [t.topic_id for t in delta.topics_added] == [B]
    assert [p.topic_id for p in delta.partitions_changed] == [B]
    assert source.image.topic_by_id(A) is None
    assert source.image.revision == 10


def test_a_snapshot_like_the_image_changes_nothing() -> None:
    source = Source()
    source.apply(partition(A, 0), topic("t", A), (keys.topic_configs_key("t"), b'{"a":"b"}'))
    assert source.image.reset(source.snapshot()) == ImageDelta(1)


def test_configs_brokers_and_controller_are_told() -> None:
    source = Source()
    registration = BrokerRegistration("ab", {"L": Endpoint("h", 1)}, None, "")
    delta = source.apply(
        (keys.topic_configs_key("t"), b'{"retention.ms":"1"}'),
        (keys.broker_configs_key(None), b'{"x":"1"}'),
        (keys.broker_configs_key(4), b'{"x":"2"}'),
        (keys.broker_key(4), keys.encode_broker(registration)),
        (keys.CONTROLLER_KEY, keys.encode_controller(ControllerClaim(4, "ab"))),
        (keys.CLUSTER_KEY, keys.encode_cluster("c")),
    )
    assert delta.topic_configs_changed == {"t"}
    assert delta.broker_configs_changed == {None, 4}
    assert delta.brokers_changed == {4}
    assert delta.controller_changed
    image = source.image
    assert image.topic_configs("t") == {"retention.ms": "1"}
    assert (image.broker_configs(None), image.broker_configs(4)) == ({"x": "1"}, {"x": "2"})
    assert image.brokers[4].create_revision == 1
    assert image.controller is not None
    assert (image.controller.node_id, image.controller.create_revision) == (4, 1)
    assert image.cluster_id == "c"
    delta = source.apply((keys.broker_key(4), None), (keys.CONTROLLER_KEY, None))
    assert delta.brokers_changed == {4}
    assert image.controller is None
    assert 4 not in image.brokers
    assert image.broker_configs(4) == {"x": "2"}


def test_sections_of_a_later_version_are_left_alone() -> None:
    source = Source()
    assert source.apply(("/penstock/groups/x", b"?")) == ImageDelta(1)
    assert source.apply((keys.PRODUCER_IDS_KEY, b"?")) == ImageDelta(2)


def test_two_topics_of_one_id_are_corrupt() -> None:
    source = Source()
    source.apply(topic("t", A))
    with pytest.raises(CorruptMetadata, match="same id"):
        source.apply(topic("u", A))


def test_a_key_that_is_no_topic_name_is_corrupt_and_not_skipped() -> None:
    source = Source()
    with pytest.raises(CorruptMetadata):
        source.apply((keys.TOPICS_PREFIX + "../x", topic("t", A)[1]))
