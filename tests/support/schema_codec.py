"""Bytes of Kafka messages, from the classes that kio generates out of Apache Kafka's own schemas.

An oracle: it shares no line with `penstock.protocol`, and it can be told to lie (see `count_marks`). Slow, and meant to be.

Values are plain: numbers, times in milliseconds, strings, bytes (ids are 16 of them), lists, and mappings for structs. Field names
are kio's, which are Kafka's in snake case without the `_ms` (`timeout`, `throttle_time`).
"""

import dataclasses
import importlib
import struct
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType, SimpleNamespace, UnionType
from typing import Any

from kio.schema.index import api_key_map, schema_name_map
from kio.static.constants import EntityType

API_KEYS: Mapping[str, int] = {name: key for key, name in api_key_map.items()}

FIXED_FORMATS = {
    "int8": ">b",
    "int16": ">h",
    "int32": ">i",
    "int64": ">q",
    "uint16": ">H",
    "float64": ">d",
    "bool": ">?",
    "error_code": ">h",
    "timedelta_i32": ">i",
    "timedelta_i64": ">q",
    "datetime_i64": ">q",
    "uuid": "16s",
}
ZERO_UUID = bytes(16)


@dataclass(frozen=True, slots=True)
class FieldShape:
    """What the wire needs to know of one field: kio's annotation, read once."""

    name: str
    kafka_type: str
    """A name in FIXED_FORMATS, `string`, `bytes`, `records`, or empty for a struct."""
    struct: Any
    is_array: bool
    is_nullable: bool
    """For an array: the array itself may be null."""
    tag: int | None
    default: Any


@dataclass(frozen=True, slots=True)
class CountMark:
    """Where the count of one array stands in an encoded message."""

    path: str
    position: int
    size_bytes: int


def _unwrap(annotation: Any) -> tuple[Any, bool]:
    """The type without `| None`, and whether there was one."""
    if typing.get_origin(annotation) is not UnionType:
        return annotation, False
    inner = [part for part in typing.get_args(annotation) if part is not NoneType]
    assert len(inner) == 1
    return inner[0], True


def _plain_default(raw: Any) -> Any:
    """Kio's default as a plain value; only those that differ from zero matter."""
    if raw is None or isinstance(raw, (bool, str, bytes, float)):
        return raw
    if hasattr(raw, "total_seconds"):
        return round(raw.total_seconds() * 1000)
    if isinstance(raw, int):
        return int(raw)
    return dataclasses.MISSING


def shapes(entity: Any) -> list[FieldShape]:
    """The fields of a kio class in wire order, tagged ones included."""
    return [_shape(each) for each in dataclasses.fields(entity)]


def _shape(each: Any) -> FieldShape:
    annotation, is_nullable = _unwrap(each.type)
    is_array = typing.get_origin(annotation) is tuple
    if is_array:
        annotation, _ = _unwrap(typing.get_args(annotation)[0])
    kafka_type: str = each.metadata.get("kafka_type", "")
    is_struct = dataclasses.is_dataclass(annotation) and not kafka_type
    is_absent_nullable_id = kafka_type in ("uuid", "datetime_i64")  # null is written as zeros, or as -1
    return FieldShape(
        name=each.name,
        kafka_type=kafka_type,
        struct=annotation if is_struct else None,
        is_array=is_array,
        is_nullable=is_nullable and not is_absent_nullable_id,
        tag=each.metadata.get("tag"),
        default=_plain_default(each.default),
    )


def load(api: str, version: int, kind: EntityType) -> Any:
    """Kio's class of a request or response. KeyError for a version that kio has no schema of."""
    module, _, name = schema_name_map[api][version][typing.cast(Any, kind)].partition(":")
    return getattr(importlib.import_module(module), name)


def versions(api: str) -> Sequence[int]:
    """The versions that kio has schemas of, rising."""
    return sorted(schema_name_map[api])


def uvarint(value: int) -> bytes:
    """An unsigned varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@dataclass(slots=True)
class Encoder:
    """Writes one message; `marks` tells where the array counts stand."""

    out: bytearray = field(default_factory=bytearray)
    marks: list[CountMark] = field(default_factory=list[CountMark])
    fill_arrays: bool = False
    """Give every array that no value was handed for one element of defaults."""

    def entity(self, entity: Any, values: Mapping[str, Any], path: str = "") -> None:
        """Write a struct. TypeError names a value that the version has no field for."""
        fields = shapes(entity)
        unknown = set(values) - {each.name for each in fields}
        if unknown:
            raise TypeError(f"{entity.__name__} v{entity.__version__} has no {sorted(unknown)}")
        for each in fields:
            if each.tag is None:
                self._field(each, self._value(each, values), entity.__flexible__, path)
        if entity.__flexible__:
            self._tagged([each for each in fields if each.tag is not None], values, path)

    def _value(self, shape: FieldShape, values: Mapping[str, Any]) -> Any:
        if shape.name in values:
            return values[shape.name]
        if shape.is_array:
            return [None] if self.fill_arrays else []
        if shape.default is not dataclasses.MISSING:
            return shape.default
        return _zero(shape)

    def _tagged(self, fields: Sequence[FieldShape], values: Mapping[str, Any], path: str) -> None:
        present = [each for each in fields if each.name in values or (self.fill_arrays and each.is_array)]
        self.out += uvarint(len(present))
        for each in sorted(present, key=lambda shape: shape.tag or 0):
            inner = Encoder(fill_arrays=self.fill_arrays)
            inner._field(each, self._value(each, values), True, path)
            self.out += uvarint(each.tag or 0) + uvarint(len(inner.out))
            self.marks += [
                CountMark(mark.path, mark.position + len(self.out), mark.size_bytes) for mark in inner.marks
            ]
            self.out += inner.out

    def _field(self, shape: FieldShape, value: Any, is_flexible: bool, path: str) -> None:
        path = f"{path}.{shape.name}" if path else shape.name
        if not shape.is_array:
            self._one(shape, value, is_flexible, path)
            return
        count = b"" if value is None else _count(len(value), is_flexible)
        if value is None:
            count = b"\0" if is_flexible else b"\xff\xff\xff\xff"
        self.marks.append(CountMark(path, len(self.out), len(count)))
        self.out += count
        element = dataclasses.replace(shape, is_array=False, is_nullable=False, default=dataclasses.MISSING)
        for each in value or ():
            self._one(element, _zero(element) if each is None else each, is_flexible, path)

    def _one(self, shape: FieldShape, value: Any, is_flexible: bool, path: str) -> None:
        if shape.struct is not None:
            if shape.is_nullable:
                self.out += b"\xff" if value is None else b"\x01"
            if value is not None:
                self.entity(shape.struct, value, path)
        elif shape.kafka_type in FIXED_FORMATS:
            self.out += _fixed(shape, value)
        else:
            self._sized(shape, value, is_flexible)

    def _sized(self, shape: FieldShape, value: Any, is_flexible: bool) -> None:
        data: bytes | None = value.encode() if isinstance(value, str) else value
        if is_flexible:
            self.out += b"\0" if data is None else uvarint(len(data) + 1)
        else:
            length = -1 if data is None else len(data)
            self.out += struct.pack(">h" if shape.kafka_type == "string" else ">i", length)
        self.out += data or b""


def _count(count: int, is_flexible: bool) -> bytes:
    return uvarint(count + 1) if is_flexible else struct.pack(">i", count)


def _fixed(shape: FieldShape, value: Any) -> bytes:
    if value is None:
        value = ZERO_UUID if shape.kafka_type == "uuid" else -1
    return struct.pack(FIXED_FORMATS[shape.kafka_type], value)


def _zero(shape: FieldShape) -> Any:
    if shape.is_nullable:
        return None
    if shape.struct is not None:
        return {}
    if shape.kafka_type == "string":
        return ""
    return ZERO_UUID if shape.kafka_type == "uuid" else b"" if shape.kafka_type in ("bytes", "records") else 0


@dataclass(slots=True)
class Decoder:
    """Reads one message, strictly: what is left over is an error."""

    data: bytes
    position: int = 0

    def entity(self, entity: Any) -> Any:
        """Read a struct as a namespace with an attribute for each field."""
        fields = shapes(entity)
        read = {each.name: self._field(each, entity.__flexible__) for each in fields if each.tag is None}
        tagged = {each.tag: each for each in fields if each.tag is not None}
        read |= {each.name: [] if each.is_array else _default_of(each) for each in tagged.values()}
        if entity.__flexible__:
            for _ in range(self.uvarint()):
                self._tag(tagged, read)
        return SimpleNamespace(**read)

    def _tag(self, tagged: Mapping[int, FieldShape], read: dict[str, Any]) -> None:
        tag, size = self.uvarint(), self.uvarint()
        end = self.position + size
        shape = tagged[tag]
        read[shape.name] = self._field(shape, True)
        assert self.position == end, f"tagged field {shape.name} has another size than it says"

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        assert 0 <= count <= len(self.data) - self.position, "a length runs past the end of the message"
        self.position += count
        return self.data[self.position - count : self.position]

    def uvarint(self) -> int:
        """The next unsigned varint."""
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def _length(self, shape: FieldShape, is_flexible: bool) -> int:
        if is_flexible:
            return self.uvarint() - 1
        form = ">h" if shape.kafka_type == "string" and not shape.is_array else ">i"
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def _field(self, shape: FieldShape, is_flexible: bool) -> Any:
        if not shape.is_array:
            return self._one(shape, is_flexible)
        count = self._length(shape, is_flexible)
        if count < 0:
            assert shape.is_nullable, f"null in {shape.name}, which may not be null"
            return None
        element = dataclasses.replace(shape, is_array=False, is_nullable=False)
        return [self._one(element, is_flexible) for _ in range(count)]

    def _one(self, shape: FieldShape, is_flexible: bool) -> Any:
        if shape.struct is not None:
            if shape.is_nullable and self.take(1) == b"\xff":
                return None
            return self.entity(shape.struct)
        form = FIXED_FORMATS.get(shape.kafka_type)
        if form is not None:
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        length = self._length(shape, is_flexible)
        if length < 0:
            assert shape.is_nullable, f"null in {shape.name}, which may not be null"
            return None
        data = self.take(length)
        return data.decode() if shape.kafka_type == "string" else data


def _default_of(shape: FieldShape) -> Any:
    if shape.struct is not None:
        return None
    return _zero(shape) if shape.default is dataclasses.MISSING else shape.default


def encode_request(api: str, version: int, values: Mapping[str, Any]) -> bytes:
    """The body of a request."""
    encoder = Encoder()
    encoder.entity(load(api, version, EntityType.request), values)
    return bytes(encoder.out)


def without_unknown(api: str, version: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, at every depth, that this version of a request has fields for."""
    return _known(load(api, version, EntityType.request), values)


def _known(entity: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for shape in shapes(entity):
        if shape.name not in values:
            continue
        value = values[shape.name]
        if shape.struct is not None and isinstance(value, Mapping):
            value = _known(shape.struct, typing.cast("Mapping[str, Any]", value))
        elif shape.struct is not None and shape.is_array and value is not None:
            value = [_known(shape.struct, each) for each in value]
        found[shape.name] = value
    return found


def decode_response(api: str, version: int, body: bytes) -> Any:
    """The body of a response; an AssertionError when bytes are left over or a field is not what it may be."""
    decoder = Decoder(body)
    response = decoder.entity(load(api, version, EntityType.response))
    assert decoder.position == len(body), (
        f"{len(body) - decoder.position} bytes left over in {api} v{version}"
    )
    return response


def is_flexible(api: str, version: int) -> bool:
    """Whether the version has compact lengths and tagged fields."""
    return bool(load(api, version, EntityType.request).__flexible__)


def with_counts_of_four_billion(api: str, version: int) -> Iterator[tuple[str, bytes]]:
    """For each array of a request, a body that claims 2^32 - 2 elements there; also a negative and the largest int32 count.

    Gives the path of the array with the kind of lie, and the body, which ends a few bytes after the count.
    """
    encoder = Encoder(fill_arrays=True)
    entity = load(api, version, EntityType.request)
    encoder.entity(entity, {})
    if entity.__flexible__:
        lies = {"2^32-2": uvarint(2**32 - 1), "2^31": uvarint(2**31), "endless varint": b"\xff" * 12}
    else:
        lies = {"2^32-2": b"\xff\xff\xff\xfe", "2^31-1": b"\x7f\xff\xff\xff"}
    for mark in encoder.marks:
        for name, lie in lies.items():
            tail = encoder.out[mark.position + mark.size_bytes :] + bytes(8)
            yield f"{mark.path} {name}", bytes(encoder.out[: mark.position] + lie + tail)
