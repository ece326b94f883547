"""The fields of one version of one message, worked out from its table.

Owns the meaning of a table's rows (see `schemas/__init__.py`). Makes nothing of them: `reader_source` and
`writer_source` do.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from penstock.protocol.api import ApiKey
from penstock.protocol.schemas import Row, Structs

FIXED_SIZES = {
    "bool": (1, "?"),
    "int8": (1, "b"),
    "int16": (2, "h"),
    "uint16": (2, "H"),
    "int32": (4, "i"),
    "uint32": (4, "I"),
    "int64": (8, "q"),
    "float64": (8, "d"),
    "uuid": (16, "16s"),
}
"""Size in bytes and struct format of each type of fixed size."""

ZERO_UUID = bytes(16)


@dataclass(frozen=True, slots=True)
class Field:
    """One field as one version has it. `type` is the element's for an array, a structure's name begins in upper case."""

    name: str
    type: str
    is_array: bool
    is_nullable: bool
    default: object
    tag: int | None

    @property
    def is_struct(self) -> bool:
        """Whether the type, or the element's, is a structure."""
        return self.type[0].isupper()


def _contains(versions: str, version: int) -> bool:
    if not versions:
        return False
    if versions.endswith("+"):
        return version >= int(versions[:-1])
    first, _, last = versions.partition("-")
    return int(first) <= version <= int(last or first)


def _field(row: Row, version: int) -> Field:
    name, kind, _, default = row[:4]
    nullable = row[4] if len(row) > 4 else ""
    tag = row[5] if len(row) > 5 else None
    element = kind.removeprefix("[]")
    if element == "uuid" and element == kind:
        default = ZERO_UUID
    return Field(name, element, element != kind, _contains(nullable, version), default, tag)


class Schema:
    """One message in one version: the structures and their fields.

    `known` are the names that any version of a structure has, with their defaults; `least_size_bytes` is what an element
    of an array takes at the very least.
    """

    def __init__(self, structs: Structs, version: int, flexible: bool) -> None:
        self.root = next(iter(structs))
        self.version = version
        self.flexible = flexible
        self.fields: dict[str, list[Field]] = {}
        self.absent: dict[str, list[Field]] = {}
        for struct, rows in structs.items():
            here = [_field(row, version) for row in rows if _contains(row[2], version)]
            names = {field.name for field in here}
            others = [_field(row, version) for row in rows if row[0] not in names]
            self.fields[struct] = here
            self.absent[struct] = list({field.name: field for field in others}.values())

    def plain(self, struct: str) -> list[Field]:
        """The fields without a tag, in the order of the wire."""
        return [field for field in self.fields[struct] if field.tag is None]

    def tagged(self, struct: str) -> list[Field]:
        """The tagged fields, in the order of their tags."""
        found = [field for field in self.fields[struct] if field.tag is not None]
        return sorted(found, key=lambda field: -1 if field.tag is None else field.tag)

    def known(self, struct: str) -> frozenset[str]:
        """The names that any version has."""
        return frozenset(field.name for field in self.fields[struct] + self.absent[struct])

    def least_size_bytes(self, field: Field) -> int:
        """What one element of the array `field` takes at least; never 0."""
        return max(self._least(field.type, False, False), 1)

    def _least(self, kind: str, is_array: bool, is_nullable: bool) -> int:
        if is_array:
            return 1 if self.flexible else 4
        if kind in FIXED_SIZES:
            return FIXED_SIZES[kind][0]
        if kind == "string":
            return 1 if self.flexible else 2
        if kind in ("bytes", "records"):
            return 1 if self.flexible else 4
        if is_nullable:
            return 1
        plain = sum(self._least(field.type, field.is_array, field.is_nullable) for field in self.plain(kind))
        return plain + (1 if self.flexible else 0)


@cache
def _table(api_key: int) -> Any:
    return importlib.import_module(f"penstock.protocol.schemas.{ApiKey(api_key).name.lower()}")


def table_versions(api_key: int) -> range:
    """The versions that the table of an API describes, which are more than we serve; ValueError for unknown keys."""
    first, last = _table(api_key).VERSIONS
    return range(first, last + 1)


def load_schema(api_key: int, version: int, *, request: bool) -> Schema:
    """The schema of one request or response; ValueError where no table describes the API or version."""
    table = _table(api_key)
    if version not in table_versions(api_key):
        raise ValueError(f"no schema for version {version} of {ApiKey(api_key).name}")
    flexible = table.FLEXIBLE_FROM is not None and version >= table.FLEXIBLE_FROM
    return Schema(table.REQUEST if request else table.RESPONSE, version, flexible)
