"""Writes `protocol/schemas/` from kio's dataclasses, and the table in docs/protocol.md: `python -m tests.generate_schemas`.

Owns the way from kio to our tables: Kafka's names in snake case (kio drops the unit of times), Kafka's defaults (kio keeps
only the explicit ones), one table for all versions of an API. Knows nothing of how the tables are read.
"""

import dataclasses
import datetime
import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kio.index import load_payload_module
from kio.schema.index import PayloadEntityType as Direction
from kio.schema.index import api_key_map, schema_name_map
from kio.static.constants import EntityType

from penstock.protocol.api import SERVED, ApiKey

ROOT = Path(__file__).parents[1]
SCHEMAS = ROOT / "protocol" / "schemas"
PROTOCOL_PAGE = ROOT / "docs" / "protocol.md"
TABLE_BEGIN = "<!-- table: written by `make generate` from protocol/api.py -->"
TABLE_END = "<!-- end of table -->"

WIRE_TYPES = {
    "error_code": "int16",
    "timedelta_i32": "int32",
    "timedelta_i64": "int64",
    "datetime_i64": "int64",
}
IMPLICIT_DEFAULTS = {"string": "", "bytes": b"", "records": b"", "bool": False, "float64": 0.0}

# Arrays that are null by default in Kafka, which kio forgets for arrays of structures.
NULL_BY_DEFAULT = {
    "ConsumerGroupHeartbeatRequest.topic_partitions",
    "ListPartitionReassignmentsRequest.topics",
    "StreamsGroupHeartbeatRequest.active_tasks",
    "StreamsGroupHeartbeatRequest.standby_tasks",
    "StreamsGroupHeartbeatRequest.warmup_tasks",
    "StreamsGroupHeartbeatRequest.client_tags",
    "StreamsGroupHeartbeatRequest.task_offsets",
    "StreamsGroupHeartbeatRequest.task_end_offsets",
    "StreamsGroupHeartbeatResponse.status",
    "StreamsGroupHeartbeatResponse.active_tasks",
    "StreamsGroupHeartbeatResponse.standby_tasks",
    "StreamsGroupHeartbeatResponse.warmup_tasks",
    "StreamsGroupHeartbeatResponse.partitions_by_user_endpoint",
}

# Null by default in Kafka's schema, yet empty in what its brokers send; Java's client trips over null.
EMPTY_BY_DEFAULT = {
    "PartitionData.records",
    "DescribeTopicPartitionsResponsePartition.eligible_leader_replicas",
    "DescribeTopicPartitionsResponsePartition.last_known_elr",
}

OWN_TAG_MIN = 10_000
"""Tags from here on are Penstock's own, which Kafka's clients skip as they skip all that they do not know."""

# What Penstock tells besides: rows at the end of a structure, and structures.
OWN_FIELDS = {
    "DescribeLogDirsPartition": (("backlog", "DescribeLogDirsBacklog", "2+", None, "2+", OWN_TAG_MIN),),
}
OWN_STRUCTS = {
    "DescribeLogDirsBacklog": (
        ("group", "string", "2+", None, "2+"),
        ("policy", "string", "2+", ""),
        ("max_records", "int64", "2+", -1),
        ("max_bytes", "int64", "2+", -1),
        ("max_age_ms", "int64", "2+", -1),
        ("keeps_unconsumed", "bool", "2+", False),
        ("records", "int64", "2+", -1),
        ("size_bytes", "int64", "2+", -1),
        ("age_ms", "int64", "2+", -1),
        ("refused_batches", "int64", "2+", 0),
        ("refused_records", "int64", "2+", 0),
        ("held_batches", "int64", "2+", 0),
        ("held_bytes", "int64", "2+", 0),
        ("timed_out_batches", "int64", "2+", 0),
        ("throttled_ms", "int64", "2+", 0),
        ("kept_segments", "int64", "2+", 0),
        ("kept_bytes", "int64", "2+", 0),
        ("kept_since_ms", "int64", "2+", -1),
    ),
}

KioField = dataclasses.Field[Any]
introspect: Any = importlib.import_module("kio.serial._introspect")  # private, and typed only in part


def field_name(field: KioField) -> str:
    """Kafka's name in snake case: kio says `timeout` for TimeoutMs and `id_` for Id."""
    kafka_type = field.metadata.get("kafka_type", "")
    unit = "_ms" if kafka_type.startswith(("timedelta", "datetime")) else ""
    return field.name.rstrip("_") + unit


def field_type(field: KioField) -> str:
    """The type as Kafka writes it: `int32`, `[]string`, `FetchTopic`, `[]FetchTopic`."""
    kind = introspect.classify_field(field)
    kafka_type: str | None = field.metadata.get("kafka_type")
    name = str(kind.type_.__name__)
    element = name if kafka_type is None else WIRE_TYPES.get(kafka_type, kafka_type)
    return f"[]{element}" if kind.is_array else element


def is_nullable(field: KioField) -> bool:
    """Whether null can be sent; kio's optional UUIDs and times are ordinary values on the wire."""
    return bool(introspect.is_optional(field)) and not field.metadata.get("kafka_type", "").startswith(
        ("uuid", "datetime")
    )


def default_of(owner: str, field: KioField) -> object:
    """Kafka's default as a literal: () for an empty array or a structure of its own defaults, 0 for a zero UUID.

    A string or bytes that may be null in every version and has no default of its own gets null later (`row_source`),
    which is what brokers send where they have nothing to say; Kafka's classes would begin with "".
    """
    name, kind = f"{owner}.{field_name(field)}", field_type(field)
    if name in NULL_BY_DEFAULT:
        return None
    if name in EMPTY_BY_DEFAULT:
        return () if kind[0] == "[" else b""
    value = field.default
    if value is dataclasses.MISSING:
        return () if kind[0] == "[" or kind[0].isupper() else IMPLICIT_DEFAULTS.get(kind, 0)
    if dataclasses.is_dataclass(value):
        return ()
    if isinstance(value, datetime.timedelta):
        return round(value.total_seconds() * 1000)
    if value is None:
        return {"uuid": 0, "int64": -1}.get(kind)
    if kind[:3] == "int":
        return int(value)
    return value


def structures(root: type) -> dict[str, type]:
    """The structures that a message is made of, itself first, in the order of their appearance."""
    found = {root.__name__: root}
    for field in dataclasses.fields(root):
        element: Any = introspect.classify_field(field).type_
        if isinstance(element, type) and dataclasses.is_dataclass(element):
            found |= {name: kind for name, kind in structures(element).items() if name not in found}
    return found


@dataclasses.dataclass
class Row:
    """One field of one structure over all versions."""

    name: str
    type: str
    default: object
    tag: int | None
    versions: set[int] = dataclasses.field(default_factory=set[int])
    nullable: set[int] = dataclasses.field(default_factory=set[int])

    @property
    def identity(self) -> tuple[object, ...]:
        """What must be the same for two versions to share the row."""
        return self.name, self.type, self.default, self.tag


def merge_version(rows: list[Row], struct: type, version: int) -> None:
    """Add one version of a structure to its rows, keeping the order of fields."""
    position = 0
    for field in dataclasses.fields(struct):
        tag = field.metadata.get("tag")
        new = Row(field_name(field), field_type(field), default_of(struct.__name__, field), tag)
        known = next((i for i, row in enumerate(rows) if row.identity == new.identity), None)
        if known is None:
            rows.insert(position, new)
        else:
            assert tag is not None or known >= position, f"{struct.__name__}.{new.name} moved"
            position = known
        rows[position].versions.add(version)
        if is_nullable(field):
            rows[position].nullable.add(version)
        position += 1


def version_range(versions: set[int], last: int) -> str:
    """As Kafka writes it: `4+` up to the last version, `4-14`, `3`."""
    low, high = min(versions), max(versions)
    assert versions == set(range(low, high + 1)), f"a hole in {sorted(versions)}"
    if high == last:
        return f"{low}+"
    return f"{low}-{high}" if high > low else str(low)


def row_source(owner: str, row: Row, last: int) -> str:
    """One line of a table."""
    default = row.default
    if (
        default in ("", b"")
        and row.nullable == row.versions
        and f"{owner}.{row.name}" not in EMPTY_BY_DEFAULT
    ):
        default = None
    parts: list[object] = [row.name, row.type, version_range(row.versions, last), default]
    if row.nullable or row.tag is not None:
        parts.append(version_range(row.nullable, last) if row.nullable else "")
    if row.tag is not None:
        parts.append(row.tag)
    return "        (" + ", ".join(map(literal, parts)) + "),"


def own_row_source(row: Iterable[object]) -> str:
    """One line of a table that kio does not know."""
    return "        (" + ", ".join(map(literal, row)) + "),"


def literal(value: object) -> str:
    """`repr` with double quotes."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def entity_type(api_key: int, version: int, entity: Direction) -> Any:
    """kio's dataclass of one message."""
    module = load_payload_module(api_key, version, entity)
    name = schema_name_map[api_key_map[api_key]][version][entity].split(":")[1]
    return getattr(module, name)


def direction_source(api_key: int, versions: list[int], entity: Direction) -> list[str]:
    """The lines of REQUEST or RESPONSE."""
    tables: dict[str, list[Row]] = {}
    for version in versions:
        for struct_name, struct in structures(entity_type(api_key, version, entity)).items():
            merge_version(tables.setdefault(struct_name, []), struct, version)
    lines = [f"{entity.name.upper()}: Structs = {{"]
    for struct_name, rows in tables.items():
        lines.append(f'    "{struct_name}": (')
        lines += [row_source(struct_name, row, versions[-1]) for row in rows]
        lines += [own_row_source(row) for row in OWN_FIELDS.get(struct_name, ())]
        lines.append("    ),")
    for owner in OWN_FIELDS.keys() & tables.keys():
        for _, struct_name, *_ in OWN_FIELDS[owner]:
            lines.append(f'    "{struct_name}": (')
            lines += [own_row_source(row) for row in OWN_STRUCTS[struct_name]]
            lines.append("    ),")
    return [*lines, "}"]


def schema_source(api_key: int) -> str:
    """The text of one module."""
    versions = sorted(schema_name_map[api_key_map[api_key]])
    flexible = [v for v in versions if entity_type(api_key, v, EntityType.request).__flexible__]
    title = "".join(word.capitalize() for word in api_key_map[api_key].split("_"))
    lines = [
        f'"""{title}, API key {api_key}. Written by `make generate` from kio: do not edit."""',
        "",
        "# fmt: off",
        "from penstock.protocol.schemas import Structs",
        "",
        f"VERSIONS = ({versions[0]}, {versions[-1]})",
        f"FLEXIBLE_FROM = {flexible[0] if flexible else None}",
        "",
        *direction_source(api_key, versions, EntityType.request),
        "",
        *direction_source(api_key, versions, EntityType.response),
        "",
    ]
    return "\n".join(lines)


def all_sources() -> Iterable[tuple[str, str]]:
    """(file name, text) of every table."""
    for key in ApiKey:
        assert api_key_map[key] == key.name.lower()
        yield f"{key.name.lower()}.py", schema_source(key)


def protocol_table() -> str:
    """The table of docs/protocol.md, with its markers."""
    lines = [
        TABLE_BEGIN,
        "",
        "| key | API | versions | since | what is not there |",
        "| ---: | --- | --- | --- | --- |",
    ]
    for key, api in SERVED.items():
        first, last = api.versions[0], api.versions[-1]
        span = f"{first} to {last}" if last > first else str(first)
        lines.append(f"| {key} | {api.name} | {span} | {api.since} | {api.missing} |")
    return "\n".join([*lines, "", TABLE_END])


def protocol_page(page: str) -> str:
    """The page with its table made anew."""
    before, _, rest = page.partition(TABLE_BEGIN)
    _, _, after = rest.partition(TABLE_END)
    return before + protocol_table() + after


def main() -> None:
    """Write everything that is made."""
    for name, text in all_sources():
        (SCHEMAS / name).write_text(text)
    PROTOCOL_PAGE.write_text(protocol_page(PROTOCOL_PAGE.read_text()))
    sys.stdout.write(f"{len(ApiKey)} tables in {SCHEMAS}, and {PROTOCOL_PAGE}\n")


if __name__ == "__main__":
    main()
