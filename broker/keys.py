"""The layout of the metadata store: which keys there are, and what their values hold.

Owns: key names, the JSON of each value, and the check of both when they are read back: whatever the store holds is either a
value of the types below or `CorruptMetadata`. Does not know who writes a key when; `docs/metadata-keys.md` tells that.

Invariants:

- Values are compact JSON objects with exactly the fields listed here; optional ones are written only where they say something, so
  that what does not use them reads as before. A broker that does not know a field refuses the value, so it can't lose it.
- Sections that this version does not know are left alone.
- A topic exists if and only if its topic key does. Partition keys without one are garbage of a creation or a deletion cut short.
- Topic ids stand in keys as Kafka's tools print them: 22 characters of URL-safe base64.
"""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from penstock.broker.errors import CorruptMetadata
from penstock.broker.names import topic_name_fault

if TYPE_CHECKING:
    from penstock.broker.quotas.entity import QuotaEntity

FORMAT_VERSION = 1

ROOT = "/penstock/"
FORMAT_KEY = ROOT + "format"
CLUSTER_KEY = ROOT + "cluster"
CONTROLLER_KEY = ROOT + "controller"
BROKERS_PREFIX = ROOT + "brokers/"
TOPICS_PREFIX = ROOT + "topics/"
PARTITIONS_PREFIX = ROOT + "partitions/"
TOPIC_CONFIGS_PREFIX = ROOT + "configs/topics/"
BROKER_CONFIGS_PREFIX = ROOT + "configs/brokers/"
PRODUCER_IDS_KEY = ROOT + "producer-ids/next"
QUOTAS_PREFIX = ROOT + "quotas/"

DEFAULT_BROKER = "default"
"""The name that stands for "every broker" where dynamic broker configs are kept."""
DEFAULT_ENTITY = "<default>"
"""The same for quotas; an entity's name is written with `%` and two digits for every byte but letters, digits, `.`, `_` and `-`."""

NO_LEADER = -1
TOPIC_ID_LENGTH = 22
PARTITION_COUNT_MAX = 100_000
"""For one topic; a bound that keeps numbers from the store sane, not advice."""
_PLAIN_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where clients reach a broker by one listener."""

    host: str
    port: int
    security_protocol: str = "PLAINTEXT"


@dataclass(frozen=True, slots=True)
class BrokerRegistration:
    """Value of `/penstock/brokers/<id>`, under the broker's lease.

    `incarnation` (32 hex digits) names one start of the broker; `directory_id` its data directory, so that a restart is told
    from a second broker which was given the same id by mistake. `is_fenced` says that the broker, while it starts or is
    about to stop, leads nothing and joins no ISR; `is_starting` that it does not answer clients yet.
    """

    incarnation: str
    endpoints: Mapping[str, Endpoint]
    rack: str | None = None
    directory_id: str = ""
    is_fenced: bool = False
    is_starting: bool = False


@dataclass(frozen=True, slots=True)
class ControllerClaim:
    """Value of `/penstock/controller`, under the lease of the broker that holds it."""

    node_id: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class TopicRecord:
    """Value of `/penstock/topics/<name>`. Partitions 0 to `partition_count` - 1 are visible."""

    topic_id: bytes
    partition_count: int


@dataclass(frozen=True, slots=True)
class PartitionState:
    """Value of `/penstock/partitions/<topic id>/<index>`: all that changes with leadership, in one key.

    `leader` is `NO_LEADER` or one of `isr`; `isr` is a part of `replicas`, in any order. The key's mod revision is the
    partition epoch.

    While a reassignment runs (KIP-455), `replicas` holds the target first and then the `removing_replicas`; the `adding_replicas` are
    those of the target that are new. `eligible_leader_replicas` (KIP-966) are outside the ISR and have all that is committed.
    """

    replicas: tuple[int, ...]
    isr: tuple[int, ...]
    leader: int
    leader_epoch: int
    adding_replicas: tuple[int, ...] = ()
    removing_replicas: tuple[int, ...] = ()
    eligible_leader_replicas: tuple[int, ...] = ()


def topic_id_text(topic_id: bytes) -> str:
    """The 22 characters that stand for a topic id in keys and in Kafka's tools."""
    return base64.urlsafe_b64encode(topic_id).decode().rstrip("=")


def parse_topic_id(text: str) -> bytes | None:
    """The 16 bytes behind `topic_id_text`, or None if the text is not exactly what that function writes."""
    if len(text) != TOPIC_ID_LENGTH:
        return None
    try:
        topic_id = base64.urlsafe_b64decode(text + "==")
    except (binascii.Error, ValueError):
        return None
    return topic_id if topic_id_text(topic_id) == text else None


# Keys.


def broker_key(node_id: int) -> str:
    """The registration of one broker."""
    return f"{BROKERS_PREFIX}{node_id}"


def topic_key(name: str) -> str:
    """The key that makes a topic exist. `name` must be valid."""
    return TOPICS_PREFIX + name


def partition_key(topic_id: bytes, index: int) -> str:
    """The state of one partition."""
    return f"{PARTITIONS_PREFIX}{topic_id_text(topic_id)}/{index}"


def partitions_prefix(topic_id: bytes) -> str:
    """What the state keys of all partitions of one topic start with."""
    return f"{PARTITIONS_PREFIX}{topic_id_text(topic_id)}/"


def topic_configs_key(name: str) -> str:
    """The config overrides of one topic."""
    return TOPIC_CONFIGS_PREFIX + name


def broker_configs_key(broker: int | None) -> str:
    """The dynamic configs of one broker, or of all of them (None)."""
    return f"{BROKER_CONFIGS_PREFIX}{DEFAULT_BROKER if broker is None else broker}"


def quota_key(entity: "QuotaEntity") -> str:
    """The quotas of one entity."""
    names = [
        f"{kind}/{_quoted(name)}"
        for kind, name in (("users", entity.user), ("clients", entity.client_id))
        if name is not None
    ]
    return QUOTAS_PREFIX + "/".join(names)


def parse_broker_key(key: str) -> int:
    """The node id of a registration key."""
    return _decimal(key, key[len(BROKERS_PREFIX) :])


def parse_topic_key(key: str) -> str:
    """The topic name of a topic key."""
    return _topic_name(key, key[len(TOPICS_PREFIX) :])


def parse_partition_key(key: str) -> tuple[bytes, int]:
    """Topic id and partition index of a partition key."""
    text, _, index = key[len(PARTITIONS_PREFIX) :].partition("/")
    topic_id = parse_topic_id(text)
    if topic_id is None:
        raise CorruptMetadata(key, "no topic id")
    return topic_id, _decimal(key, index)


def parse_topic_configs_key(key: str) -> str:
    """The topic name of a config key."""
    return _topic_name(key, key[len(TOPIC_CONFIGS_PREFIX) :])


def parse_broker_configs_key(key: str) -> int | None:
    """The node id of a broker config key; None for the key of all brokers."""
    text = key[len(BROKER_CONFIGS_PREFIX) :]
    return None if text == DEFAULT_BROKER else _decimal(key, text)


def parse_quota_key(key: str) -> "QuotaEntity":
    """The entity of a quota key."""
    from penstock.broker.quotas.entity import QuotaEntity  # loaded where a quota is set

    match key[len(QUOTAS_PREFIX) :].split("/"):
        case ["users", user]:
            entity = QuotaEntity(_unquoted(key, user))
        case ["clients", client_id]:
            entity = QuotaEntity(None, _unquoted(key, client_id))
        case ["users", user, "clients", client_id]:
            entity = QuotaEntity(_unquoted(key, user), _unquoted(key, client_id))
        case _:
            raise CorruptMetadata(key, "no quota entity")
    if quota_key(entity) != key:
        raise CorruptMetadata(key, "a name that is not written as it should be")
    return entity


def _quoted(name: str) -> str:
    if not name:  # `quotas.entity.DEFAULT`
        return DEFAULT_ENTITY
    return "".join(chr(byte) if byte in _PLAIN_BYTES else f"%{byte:02X}" for byte in name.encode())


def _unquoted(key: str, text: str) -> str:
    if text == DEFAULT_ENTITY:
        return ""
    first, *rest = text.split("%")
    try:
        return (
            first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)
        ).decode()
    except ValueError:
        raise CorruptMetadata(key, "a name that can't be read") from None


def _topic_name(key: str, name: str) -> str:
    fault = topic_name_fault(name)
    if fault is not None:
        raise CorruptMetadata(key, f"no topic name: {fault}")
    return name


def _decimal(key: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and str(int(text)) == text):
        raise CorruptMetadata(key, "no number at its end")
    number = int(text)
    if number > _INT32_MAX:
        raise CorruptMetadata(key, "number out of range")
    return number


# Values.


def encode_format() -> bytes:
    """Value of the format key."""
    return _encode({"version": FORMAT_VERSION})


def decode_format(value: bytes) -> int:
    """The format version that the store was made with or raised to."""
    return _Reader(FORMAT_KEY, value, {"version"}).integer("version", 1, _INT32_MAX)


def encode_cluster(cluster_id: str) -> bytes:
    """Value of the cluster key."""
    return _encode({"id": cluster_id})


def decode_cluster(value: bytes) -> str:
    """The cluster id."""
    return _Reader(CLUSTER_KEY, value, {"id"}).text("id")


def encode_broker(registration: BrokerRegistration) -> bytes:
    """Value of a registration key."""
    fields: dict[str, object] = {
        "incarnation": registration.incarnation,
        "endpoints": {
            listener: {"host": e.host, "port": e.port, "protocol": e.security_protocol}
            for listener, e in registration.endpoints.items()
        },
        "rack": registration.rack,
        "directory": registration.directory_id,
    }
    if registration.is_fenced:
        fields["fenced"] = True
    if registration.is_starting:
        fields["starting"] = True
    return _encode(fields)


def decode_broker(key: str, value: bytes) -> BrokerRegistration:
    """What a broker has registered."""
    reader = _Reader(key, value, {"incarnation", "endpoints", "rack", "directory"}, {"fenced", "starting"})
    endpoints: dict[str, Endpoint] = {}
    for listener, fields in reader.mapping("endpoints").items():
        endpoint = _Reader(key, fields, {"host", "port", "protocol"})
        endpoints[listener] = Endpoint(
            endpoint.text("host"), endpoint.integer("port", 1, 65535), endpoint.text("protocol")
        )
    return BrokerRegistration(
        reader.text("incarnation"),
        endpoints,
        reader.optional_text("rack"),
        reader.text("directory"),
        reader.flag("fenced"),
        reader.flag("starting"),
    )


def encode_controller(claim: ControllerClaim) -> bytes:
    """Value of the controller key."""
    return _encode({"node": claim.node_id, "incarnation": claim.incarnation})


def decode_controller(value: bytes) -> ControllerClaim:
    """Who holds the controller key."""
    reader = _Reader(CONTROLLER_KEY, value, {"node", "incarnation"})
    return ControllerClaim(reader.integer("node", 0, _INT32_MAX), reader.text("incarnation"))


def encode_topic(topic: TopicRecord) -> bytes:
    """Value of a topic key."""
    return _encode({"id": topic_id_text(topic.topic_id), "partitions": topic.partition_count})


def decode_topic(key: str, value: bytes) -> TopicRecord:
    """A topic's id and size."""
    reader = _Reader(key, value, {"id", "partitions"})
    topic_id = parse_topic_id(reader.text("id"))
    if topic_id is None or topic_id == bytes(16):
        raise CorruptMetadata(key, "no topic id in the value")
    return TopicRecord(topic_id, reader.integer("partitions", 1, PARTITION_COUNT_MAX))


def encode_partition(state: PartitionState) -> bytes:
    """Value of a partition key."""
    fields: dict[str, object] = {
        "replicas": state.replicas,
        "isr": state.isr,
        "leader": state.leader,
        "epoch": state.leader_epoch,
    }
    if state.adding_replicas:
        fields["adding"] = state.adding_replicas
    if state.removing_replicas:
        fields["removing"] = state.removing_replicas
    if state.eligible_leader_replicas:
        fields["elr"] = state.eligible_leader_replicas
    return _encode(fields)


def decode_partition(key: str, value: bytes) -> PartitionState:
    """A partition's state; its parts agree with one another."""
    reader = _Reader(key, value, {"replicas", "isr", "leader", "epoch"}, {"adding", "removing", "elr"})
    state = PartitionState(
        reader.node_ids("replicas"),
        reader.node_ids("isr"),
        reader.integer("leader", NO_LEADER, _INT32_MAX),
        reader.integer("epoch", 0, _INT32_MAX),
        reader.node_ids("adding"),
        reader.node_ids("removing"),
        reader.node_ids("elr"),
    )
    fault = _partition_fault(state)
    if fault:
        raise CorruptMetadata(key, fault)
    return state


def _partition_fault(state: PartitionState) -> str:
    """What is wrong between the parts of a state."""
    replicas = set(state.replicas)
    if not replicas or not replicas.issuperset(state.isr):
        return "the ISR is no part of the replicas"
    if state.leader != NO_LEADER and state.leader not in state.isr:
        return "the leader is not in the ISR"
    if state.eligible_leader_replicas and (
        not replicas.issuperset(state.eligible_leader_replicas)
        or not set(state.isr).isdisjoint(state.eligible_leader_replicas)
    ):
        return "the eligible leader replicas are no part of the replicas outside the ISR"
    if (state.adding_replicas or state.removing_replicas) and (
        not replicas.issuperset(state.adding_replicas)
        or not replicas > set(state.removing_replicas)
        or not set(state.adding_replicas).isdisjoint(state.removing_replicas)
    ):
        return "the adding and removing replicas are no disjoint parts of the replicas"
    return ""


def encode_configs(configs: Mapping[str, str]) -> bytes:
    """Value of a config key: names and values as text, sorted."""
    return _encode(dict(sorted(configs.items())))


def decode_configs(key: str, value: bytes) -> dict[str, str]:
    """Config overrides by name. Whether a name or a value means anything is not checked here."""
    reader = _Reader(key, value, None)
    return {name: reader.text(name) for name in reader.fields}


def encode_quotas(quotas: Mapping[str, float]) -> bytes:
    """Value of a quota key: values by quota name, sorted."""
    return _encode(dict(sorted(quotas.items())))


def decode_quotas(key: str, value: bytes) -> dict[str, float]:
    """The quotas of an entity by name: numbers above 0."""
    from penstock.broker.quotas.entity import QUOTA_NAMES

    reader = _Reader(key, value, set(), frozenset(QUOTA_NAMES))
    return {name: reader.positive(name) for name in reader.fields}


def encode_next_producer_id(next_id: int) -> bytes:
    """Value of the producer id key."""
    return _encode({"next": next_id})


def decode_next_producer_id(value: bytes) -> int:
    """The first producer id that no block holds yet."""
    return _Reader(PRODUCER_IDS_KEY, value, {"next"}).integer("next", 0, _INT64_MAX)


def _encode(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


class _Reader:
    """Checked access to the fields of one JSON object: exactly those in `names` (None: any), and perhaps some of `optional`."""

    def __init__(
        self, key: str, value: object, names: set[str] | None, optional: AbstractSet[str] = frozenset()
    ) -> None:
        if isinstance(value, bytes):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise CorruptMetadata(key, f"the value is not JSON: {error}") from error
            except RecursionError:
                raise CorruptMetadata(key, "the value is nested too deeply") from None
        if not isinstance(value, dict):
            raise CorruptMetadata(key, "the value is no JSON object")
        self.fields = cast(dict[str, object], value)
        self._key = key
        if names is not None and names != self.fields.keys() and names != self.fields.keys() - optional:
            raise CorruptMetadata(key, f"the value should have the fields {', '.join(sorted(names))}")

    def _fault(self, name: str, wanted: str) -> CorruptMetadata:
        return CorruptMetadata(self._key, f"{name!r} is not {wanted}")

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.fields[name]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._fault(name, f"an integer from {low} to {high}")
        return value

    def positive(self, name: str) -> float:
        value = self.fields[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self._fault(name, "a number above 0")
        return float(value)

    def text(self, name: str) -> str:
        value = self.fields[name]
        if not isinstance(value, str):
            raise self._fault(name, "a string")
        return value

    def optional_text(self, name: str) -> str | None:
        return None if self.fields[name] is None else self.text(name)

    def mapping(self, name: str) -> Mapping[str, object]:
        value = self.fields[name]
        if not isinstance(value, dict):
            raise self._fault(name, "an object")
        return cast(dict[str, object], value)

    def flag(self, name: str) -> bool:
        """An optional field that is there only where it is true."""
        if name in self.fields and self.fields[name] is not True:
            raise self._fault(name, "true")
        return name in self.fields

    def node_ids(self, name: str) -> tuple[int, ...]:
        """Different node ids; none where the field is optional and absent."""
        value = self.fields.get(name)
        if value is None and name not in self.fields:
            return ()
        if not isinstance(value, list):
            raise self._fault(name, "an array")
        items = cast(list[object], value)
        node_ids = tuple(i for i in items if isinstance(i, int) and not isinstance(i, bool))
        in_range = all(0 <= i <= _INT32_MAX for i in node_ids)
        if len(node_ids) != len(items) or not in_range or len(set(node_ids)) != len(node_ids):
            raise self._fault(name, "an array of different node ids")
        return node_ids
