"""What one broker knows of the cluster: the metadata store's content at one revision, ready to be asked.

Owns: the in-memory form of everything under `/penstock/` that brokers share, and the answer to "what did this change mean?".
Does no I/O and knows no clock: `broker/metadata_watch.py` feeds it. Source: Kafka's `MetadataImage` and `MetadataDelta`.

Invariants:

- After `apply` of every batch up to revision r the image equals one made from a snapshot at r (a property test holds that).
- Changes are made between two awaits, so whoever reads without awaiting sees one revision.
- A partition is visible only through a topic key that counts it; states of others are kept, unseen, until a topic key comes.
- What can't be read raises `CorruptMetadata`, and the image must not be used any more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from penstock.broker import keys
from penstock.broker.errors import CorruptMetadata
from penstock.broker.keys import ControllerClaim, Endpoint, PartitionState
from penstock.runtime.metadata import Entry, Snapshot, WatchBatch, WatchEvent

if TYPE_CHECKING:
    from penstock.broker.quotas.entity import QuotaEntity, Quotas

K = TypeVar("K")
V = TypeVar("V")

_NO_CONFIGS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class TopicImage:
    """A topic. The revisions are those of its topic key, for compare-and-swap."""

    name: str
    topic_id: bytes
    partition_count: int
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class PartitionImage:
    """A partition's state. `partition_epoch` is the mod revision of its key."""

    topic_id: bytes
    index: int
    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int
    leader_epoch: int
    partition_epoch: int
    adding_replicas: tuple[int, ...] = ()
    removing_replicas: tuple[int, ...] = ()
    eligible_leader_replicas: tuple[int, ...] = ()

    @property
    def state(self) -> PartitionState:
        """The value of its key, to make a changed one of."""
        return PartitionState(
            self.replicas,
            self.isr,
            self.leader,
            self.leader_epoch,
            self.adding_replicas,
            self.removing_replicas,
            self.eligible_leader_replicas,
        )


@dataclass(frozen=True, slots=True)
class BrokerImage:
    """A live broker. `create_revision` is that of its registration key, and is the *broker epoch*: another one is another registration.

    `is_fenced`: it is starting or about to stop, and is to get no leadership and to join no ISR. `is_starting`: it does not answer
    clients yet.
    """

    node_id: int
    incarnation: str
    endpoints: Mapping[str, Endpoint]
    rack: str | None
    directory_id: str
    create_revision: int
    is_fenced: bool = False
    is_starting: bool = False


@dataclass(frozen=True, slots=True)
class ControllerImage:
    """Who holds the controller key. Its transactions compare `create_revision`."""

    node_id: int
    incarnation: str
    create_revision: int


@dataclass(frozen=True, slots=True)
class ImageDelta:
    """What one change of the image meant; visible things only.

    A topic made anew under its old name is in `topics_removed` (old id) and in `topics_added` (new id). The partitions of an
    added topic, and those that a raised count made visible, are in `partitions_changed`; those of a removed topic are in no
    other field.
    """

    revision: int
    topics_added: tuple[TopicImage, ...] = ()
    topics_removed: tuple[TopicImage, ...] = ()
    topics_changed: tuple[TopicImage, ...] = ()
    partitions_changed: tuple[PartitionImage, ...] = ()
    topic_configs_changed: frozenset[str] = frozenset()
    """Names of topics, among them some that may not exist."""
    broker_configs_changed: frozenset[int | None] = frozenset()
    """Node ids; None stands for the configs of all brokers."""
    brokers_changed: frozenset[int] = frozenset()
    """Node ids of brokers that came, went, registered anew, or were fenced or are no more."""
    controller_changed: bool = False
    quotas_changed: bool = False


@dataclass(slots=True)
class _Touched:
    """What a run of events wrote to, before its meaning is worked out."""

    topics: dict[str, TopicImage | None] = field(default_factory=dict[str, TopicImage | None])
    """Name to the image before the first change."""
    partitions: dict[tuple[bytes, int], PartitionImage | None] = field(
        default_factory=dict[tuple[bytes, int], PartitionImage | None]
    )
    topic_configs: set[str] = field(default_factory=set[str])
    broker_configs: set[int | None] = field(default_factory=set[int | None])
    brokers: set[int] = field(default_factory=set[int])
    controller: bool = False
    quotas: bool = False


class ClusterImage:
    """The cluster at `revision`. Made empty; `reset` loads a snapshot, `apply` takes what the watch brings."""

    def __init__(self) -> None:
        self.revision = 0
        self.cluster_id: str | None = None
        self.controller: ControllerImage | None = None
        self._topics: dict[str, TopicImage] = {}
        self._topics_by_id: dict[bytes, TopicImage] = {}
        self._partitions: dict[bytes, dict[int, PartitionImage]] = {}
        self._brokers: dict[int, BrokerImage] = {}
        self._topic_configs: dict[str, Mapping[str, str]] = {}
        self._broker_configs: dict[int | None, Mapping[str, str]] = {}
        self._quotas: dict[QuotaEntity, Mapping[str, float]] = {}
        self._mod_revisions: dict[str, int] = {}

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot) -> "ClusterImage":
        """An image of one snapshot of everything under `keys.ROOT`."""
        image = cls()
        image.reset(snapshot)
        return image

    # Questions.

    @property
    def topics(self) -> Mapping[str, TopicImage]:
        """The topics by name; do not keep it over an await."""
        return self._topics

    @property
    def brokers(self) -> Mapping[int, BrokerImage]:
        """The live brokers by node id; do not keep it over an await."""
        return self._brokers

    def topic(self, name: str) -> TopicImage | None:
        """The topic of that name."""
        return self._topics.get(name)

    def topic_by_id(self, topic_id: bytes) -> TopicImage | None:
        """The topic of that id."""
        return self._topics_by_id.get(topic_id)

    def partition(self, topic_id: bytes, index: int) -> PartitionImage | None:
        """A visible partition's state."""
        topic = self._topics_by_id.get(topic_id)
        if topic is None or not 0 <= index < topic.partition_count:
            return None
        return self._partitions.get(topic_id, {}).get(index)

    def partitions(self, topic_id: bytes) -> list[PartitionImage]:
        """The visible partitions of a topic, by index; empty for an unknown topic."""
        topic = self._topics_by_id.get(topic_id)
        if topic is None:
            return []
        states = self._partitions.get(topic_id, {})
        return [states[index] for index in range(topic.partition_count) if index in states]

    def topic_configs(self, name: str) -> Mapping[str, str]:
        """The overrides of one topic."""
        return self._topic_configs.get(name, _NO_CONFIGS)

    def broker_configs(self, node_id: int | None) -> Mapping[str, str]:
        """The dynamic configs of one broker, or those of all brokers (None)."""
        return self._broker_configs.get(node_id, _NO_CONFIGS)

    @property
    def quotas(self) -> "Quotas":
        """What is set for whom; do not keep it over an await."""
        return self._quotas

    def unseen_partitions(self) -> list[PartitionImage]:
        """Partitions whose state is stored while no topic key counts them: garbage, or a creation under way."""
        return [
            state
            for topic_id, states in self._partitions.items()
            for index, state in states.items()
            if self.partition(topic_id, index) is None
        ]

    # Changes.

    def apply(self, batch: WatchBatch) -> ImageDelta:
        """Take the changes of one revision, which must be above the image's own."""
        return self._apply(batch.revision, batch.events)

    def reset(self, snapshot: Snapshot) -> ImageDelta:
        """Become the snapshot; the delta tells what is different from before."""
        entries = {entry.key: entry for entry in snapshot.entries}
        gone = [WatchEvent(key, None) for key in self._mod_revisions if key not in entries]
        changed = [
            WatchEvent(key, entry)
            for key, entry in entries.items()
            if self._mod_revisions.get(key) != entry.mod_revision
        ]
        return self._apply(snapshot.revision, [*gone, *changed])

    def _apply(self, revision: int, events: Iterable[WatchEvent]) -> ImageDelta:
        touched = _Touched()
        for event in events:
            if event.entry is None:
                self._mod_revisions.pop(event.key, None)
            else:
                self._mod_revisions[event.key] = event.entry.mod_revision
            self._take(event.key, event.entry, touched)
        self._index_topics(touched)
        self.revision = revision
        return self._delta(touched)

    def _take(self, key: str, entry: Entry | None, touched: _Touched) -> None:
        if key.startswith(keys.PARTITIONS_PREFIX):
            self._take_partition(key, entry, touched)
        elif key.startswith(keys.TOPICS_PREFIX):
            self._take_topic(key, entry, touched)
        elif key.startswith(keys.TOPIC_CONFIGS_PREFIX):
            name = keys.parse_topic_configs_key(key)
            touched.topic_configs.add(name)
            _put(self._topic_configs, name, keys.decode_configs(key, entry.value) if entry else None)
        elif key.startswith(keys.BROKER_CONFIGS_PREFIX):
            broker = keys.parse_broker_configs_key(key)
            touched.broker_configs.add(broker)
            _put(self._broker_configs, broker, keys.decode_configs(key, entry.value) if entry else None)
        elif key.startswith(keys.BROKERS_PREFIX):
            self._take_broker(key, entry, touched)
        elif key.startswith(keys.QUOTAS_PREFIX):
            touched.quotas = True
            entity = keys.parse_quota_key(key)
            _put(self._quotas, entity, keys.decode_quotas(key, entry.value) if entry else None)
        elif key == keys.CONTROLLER_KEY:
            touched.controller = True
            self.controller = _controller(entry) if entry else None
        elif key == keys.CLUSTER_KEY:
            self.cluster_id = keys.decode_cluster(entry.value) if entry else None

    def _take_topic(self, key: str, entry: Entry | None, touched: _Touched) -> None:
        name = keys.parse_topic_key(key)
        touched.topics.setdefault(name, self._topics.get(name))
        if entry is None:
            self._topics.pop(name, None)
            return
        topic = keys.decode_topic(key, entry.value)
        self._topics[name] = TopicImage(
            name, topic.topic_id, topic.partition_count, entry.create_revision, entry.mod_revision
        )

    def _take_partition(self, key: str, entry: Entry | None, touched: _Touched) -> None:
        topic_id, index = keys.parse_partition_key(key)
        states = self._partitions.setdefault(topic_id, {})
        touched.partitions.setdefault((topic_id, index), states.get(index))
        if entry is not None:
            state = keys.decode_partition(key, entry.value)
            states[index] = PartitionImage(
                topic_id,
                index,
                state.replicas,
                state.isr,
                state.leader,
                state.leader_epoch,
                entry.mod_revision,
                state.adding_replicas,
                state.removing_replicas,
                state.eligible_leader_replicas,
            )
            return
        states.pop(index, None)
        if not states:
            del self._partitions[topic_id]

    def _take_broker(self, key: str, entry: Entry | None, touched: _Touched) -> None:
        node_id = keys.parse_broker_key(key)
        touched.brokers.add(node_id)
        if entry is None:
            self._brokers.pop(node_id, None)
            return
        value = keys.decode_broker(key, entry.value)
        self._brokers[node_id] = BrokerImage(
            node_id,
            value.incarnation,
            value.endpoints,
            value.rack,
            value.directory_id,
            entry.create_revision,
            value.is_fenced,
            value.is_starting,
        )

    def _index_topics(self, touched: _Touched) -> None:
        for old in touched.topics.values():
            if old is not None:
                del self._topics_by_id[old.topic_id]
        for name in touched.topics:
            topic = self._topics.get(name)
            if topic is None:
                continue
            other = self._topics_by_id.setdefault(topic.topic_id, topic)
            if other.name != name:
                raise CorruptMetadata(keys.topic_key(name), f"topic {other.name!r} has the same id")

    def _delta(self, touched: _Touched) -> ImageDelta:
        added: list[TopicImage] = []
        removed: list[TopicImage] = []
        changed: list[TopicImage] = []
        seen: dict[tuple[bytes, int], PartitionImage | None] = {}
        for name, old in touched.topics.items():
            new = self._topics.get(name)
            if old is not None and new is not None and old.topic_id == new.topic_id:
                first = old.partition_count
                changed.append(new)
            else:
                first = 0
                added += [new] if new is not None else []
                removed += [old] if old is not None else []
            for index in range(first, new.partition_count if new is not None else 0):
                assert new is not None
                seen[new.topic_id, index] = self.partition(new.topic_id, index)
        for topic_id, index in touched.partitions:
            seen.setdefault((topic_id, index), self.partition(topic_id, index))
        return ImageDelta(
            self.revision,
            tuple(added),
            tuple(removed),
            tuple(changed),
            tuple(partition for partition in seen.values() if partition is not None),
            frozenset(touched.topic_configs),
            frozenset(touched.broker_configs),
            frozenset(touched.brokers),
            touched.controller,
            touched.quotas,
        )


def _controller(entry: Entry) -> ControllerImage:
    claim: ControllerClaim = keys.decode_controller(entry.value)
    return ControllerImage(claim.node_id, claim.incarnation, entry.create_revision)


def _put(table: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
