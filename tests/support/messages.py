"""Messages for tests of `penstock.protocol`: arbitrary ones for any table, a slow encoder to compare with, and kio's view.

The encoder here walks the table field by field and shares nothing with the compiled writers but the table; it also tells
where the array counts stand. kio shares not even the table.
"""

import dataclasses
import datetime
import importlib
import io
import struct
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from kio.schema.index import api_key_map, schema_name_map
from kio.serial import entity_reader, entity_writer
from kio.static.constants import EntityType
from tests.generate_schemas import OWN_TAG_MIN, field_name

from penstock.protocol.api import SERVED, ApiKey
from penstock.protocol.message import Message
from penstock.protocol.schema import Field, Schema, load_schema, table_versions

INTEGERS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
LAYOUTS = {
    "bool": ">?",
    "int8": ">b",
    "int16": ">h",
    "uint16": ">H",
    "int32": ">i",
    "uint32": ">I",
    "int64": ">q",
    "float64": ">d",
}
DAY_LIMIT_MS = 1 << 45  # within what datetime can say


def served_versions() -> list[tuple[int, int]]:
    """(API key, version) of all that is served and has a table (Produce 0 to 2 has none)."""
    return [
        (key, version)
        for key, api in SERVED.items()
        for version in api.versions
        if version in table_versions(key)
    ]


def all_versions() -> list[tuple[int, int]]:
    """(API key, version) of every table."""
    return [(int(key), version) for key in ApiKey for version in table_versions(key)]


def each(versions: list[tuple[int, int]]) -> pytest.MarkDecorator:
    """Run a test once for each (api_key, version)."""
    cases = [pytest.param(key, v, id=f"{ApiKey(key).name.lower()}-{v}") for key, v in versions]
    return pytest.mark.parametrize(("api_key", "version"), cases)


@st.composite
def messages(draw: st.DrawFn, schema: Schema, element_count_max: int = 3) -> Message:
    """Any message of the schema, with every field that any version knows, the absent ones at their defaults."""
    return _draw_struct(draw, schema, schema.root, element_count_max)


def _draw_struct(draw: st.DrawFn, schema: Schema, name: str, count_max: int) -> Message:
    values = {
        field.name: default_value(schema, field)
        if is_own(field)
        else _draw_field(draw, schema, field, count_max)
        for field in schema.fields[name]
    }
    return Message(**values, **{field.name: default_value(schema, field) for field in schema.absent[name]})


def is_own(field: Field) -> bool:
    """Whether the field is Penstock's, of which kio knows nothing."""
    return field.tag is not None and field.tag >= OWN_TAG_MIN


def _draw_field(draw: st.DrawFn, schema: Schema, field: Field, count_max: int) -> object:
    if field.is_nullable and draw(st.integers(0, 4)) == 0:
        return None
    if field.is_array:
        count = draw(st.integers(0, count_max))
        return [_draw_element(draw, schema, field, max(count_max - 1, 1)) for _ in range(count)]
    return _draw_element(draw, schema, field, count_max)


def _draw_element(draw: st.DrawFn, schema: Schema, field: Field, count_max: int) -> object:
    if field.is_struct:
        return _draw_struct(draw, schema, field.type, count_max)
    return draw(_primitive(field))


def _primitive(field: Field) -> st.SearchStrategy[object]:
    if field.name.endswith("error_code"):
        return st.integers(-1, 133)
    if field.type == "int64" and field.name.endswith("_ms"):  # kio takes a few of these for times since 1970
        return st.integers(-1 if field.name == "log_append_time_ms" else 0, DAY_LIMIT_MS)
    if field.type in INTEGERS:
        bits = INTEGERS[field.type]
        return st.integers(-(1 << bits - 1), (1 << bits - 1) - 1)
    strategies: dict[str, st.SearchStrategy[object]] = {
        "bool": st.booleans(),
        "uint16": st.integers(0, 65_535),
        "float64": st.floats(allow_nan=False),
        "uuid": st.binary(min_size=16, max_size=16),
        "string": st.text(max_size=200),
        "bytes": st.binary(max_size=200),
        "records": st.binary(max_size=200),
    }
    return strategies[field.type]


def default_value(schema: Schema, field: Field) -> object:
    """What a decoded message holds for a field that its version lacks."""
    if field.default != ():
        return field.default
    if field.is_array:
        return []
    fields = schema.fields[field.type] + schema.absent[field.type]
    return Message(**{each.name: default_value(schema, each) for each in fields})


def sample(schema: Schema, name: str | None = None) -> Message:
    """A message with one element in every array, nothing null, and every tagged field sent."""
    values: dict[str, object] = {}
    for field in schema.fields[name or schema.root]:
        element: object = sample(schema, field.type) if field.is_struct else _SAMPLES[field.type]
        values[field.name] = [element] if field.is_array else element
    return Message(**values)


_SAMPLES: dict[str, object] = {
    **dict.fromkeys(LAYOUTS, 1),
    "float64": 1.5,
    "bool": True,
    "uuid": bytes(range(16)),
    "string": "name",
    "bytes": b"octets",
    "records": b"records",
}


@dataclasses.dataclass
class Reference:
    """Bytes of a message, encoded the slow way; `counts` are (field, start, end) of the counts of its arrays."""

    schema: Schema
    data: bytearray = dataclasses.field(default_factory=bytearray)
    counts: list[tuple[str, int, int]] = dataclasses.field(default_factory=list[tuple[str, int, int]])

    def struct(self, name: str, message: Message) -> None:
        """Append a structure."""
        for field in self.schema.plain(name):
            self.field(field, getattr(message, field.name))
        if not self.schema.flexible:
            return
        sent = [
            f for f in self.schema.tagged(name) if getattr(message, f.name) != default_value(self.schema, f)
        ]
        self.data += varint(len(sent))
        for field in sent:
            inner = Reference(self.schema)
            inner.field(field, getattr(message, field.name))
            self.data += varint(field.tag or 0) + varint(len(inner.data))
            offset = len(self.data)
            self.counts += [(path, start + offset, end + offset) for path, start, end in inner.counts]
            self.data += inner.data

    def field(self, field: Field, value: Any) -> None:
        """Append a field."""
        if field.is_array:
            start = len(self.data)
            self.length(-1 if value is None else len(value), ">i")
            self.counts.append((field.name, start, len(self.data)))
            for element in value or ():
                self.element(field, element)
        elif field.is_struct and field.is_nullable:
            self.data += b"\xff" if value is None else b"\x01"
            if value is not None:
                self.struct(field.type, value)
        else:
            self.element(field, value)

    def element(self, field: Field, value: Any) -> None:
        """Append a value that is no array."""
        if field.is_struct:
            self.struct(field.type, value)
        elif field.type == "uuid":
            self.data += value
        elif field.type in LAYOUTS:
            self.data += struct.pack(LAYOUTS[field.type], value)
        else:
            octets = value.encode() if isinstance(value, str) else value
            self.length(-1 if octets is None else len(octets), ">h" if field.type == "string" else ">i")
            self.data += octets or b""

    def length(self, length: int, layout: str) -> None:
        """Append a length or count."""
        self.data += varint(length + 1) if self.schema.flexible else struct.pack(layout, length)


def reference(schema: Schema, message: Message) -> Reference:
    """The message, encoded without the codec."""
    encoded = Reference(schema)
    encoded.struct(schema.root, message)
    return encoded


def varint(value: int) -> bytes:
    """An unsigned varint of any size."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))


class Kio:
    """One message as kio sees it."""

    def __init__(self, api_key: int, version: int, *, request: bool) -> None:
        paths = schema_name_map[api_key_map[api_key]][version]
        path = paths[EntityType.request] if request else paths[EntityType.response]
        module, _, name = path.partition(":")
        entity: Any = getattr(importlib.import_module(module), name)
        self.schema = load_schema(api_key, version, request=request)
        self._read: Callable[[bytes, int], tuple[Any, int]] = entity_reader(entity)
        self._write: Callable[[Any, Any], None] = entity_writer(entity)

    def read(self, data: bytes) -> Any:
        """The kio dataclass in `data`, all of which it must take."""
        entity, size_bytes = self._read(data, 0)
        assert size_bytes == len(data)
        return entity

    def write(self, entity: Any) -> bytes:
        """The bytes of a kio dataclass."""
        buffer = io.BytesIO()
        self._write(buffer, entity)
        return buffer.getvalue()

    def message(self, entity: Any, name: str | None = None) -> Message:
        """A kio dataclass as our decoder would return it."""
        struct_name = name or self.schema.root
        known = {field.name: field for field in self.schema.fields[struct_name]}
        values: dict[str, object] = {}
        for theirs in dataclasses.fields(entity):
            ours = field_name(theirs)
            values[ours] = self._field(getattr(entity, theirs.name), known[ours])
        for field in [*self.schema.absent[struct_name], *filter(is_own, known.values())]:
            values[field.name] = default_value(self.schema, field)
        return Message(**values)

    def _field(self, value: Any, field: Field) -> object:
        if field.is_array and value is not None:
            return [self._value(element, field.type) for element in value]
        return self._value(value, field.type)

    def _value(self, value: Any, kind: str) -> object:
        if dataclasses.is_dataclass(value):
            return self.message(value, kind)
        if isinstance(value, uuid.UUID):
            return value.bytes
        if isinstance(value, datetime.timedelta):
            return round(value.total_seconds() * 1000)
        if isinstance(value, datetime.datetime):
            return round(value.timestamp() * 1000)
        if value is None and kind in ("uuid", "int64"):
            return bytes(16) if kind == "uuid" else -1
        return int(value) if kind.startswith("int") and value is not None else value
