"""JSON values spread into columns of their own.

Owns the types and what becomes of values that do not fit: null in the column, counted, and as they are in `value`. A column that is asked for is
there in every file; which ones there are never changes within an export.

Types: `string` (texts as they are, everything else as JSON), `int64`, `double` (whole numbers as well), `bool`, `timestamp` (ISO 8601 with a
zone or in UTC, or ms since 1970). A name is a path: `user.name` is the field `name` of the object in `user`, unless there is a field `user.name`.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from penstock.errors import PenstockError
from penstock.offline.arrow_tables import FIELD_NAMES, load

TYPES = ("string", "int64", "double", "bool", "timestamp")
FLATTENED = "*"
"""What stands for all fields of the first records."""
_INFERRED_FROM_MAX = 10_000
_INT64_MAX = 2**63 - 1
_MISSING = object()
_MISFIT = object()


class BadColumns(PenstockError):
    """What was asked for is no list of columns."""


def parse_columns(text: str) -> list[tuple[str, str]]:
    """`id:int64,user.name,amount:double`; without a type it is `string`. Raises BadColumns."""
    found: dict[str, str] = {}
    for part in text.split(","):
        name, _, kind = part.strip().rpartition(":") if ":" in part else (part.strip(), "", "string")
        if not name or kind not in TYPES:
            raise BadColumns(
                f"{part.strip()!r} is no column; write name or name:type with a type of {', '.join(TYPES)}"
            )
        if name in found:
            raise BadColumns(f"{name!r} is there twice")
        found[name] = kind
    return list(found.items())


def infer_columns(values: Sequence[bytes | None]) -> list[tuple[str, str]]:
    """A column for each field of the objects among these values, in order of appearance, with the narrowest type that takes all of them."""
    kinds: dict[str, set[str]] = {}
    for value in values[:_INFERRED_FROM_MAX]:
        for name, each in (_object(value) or {}).items():
            if name:
                seen = kinds.setdefault(name, set())
                if each is not None:
                    seen.add(_kind_of(each))
    return [(name, _common_kind(seen)) for name, seen in kinds.items()]


def _kind_of(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int64" if -_INT64_MAX - 1 <= value <= _INT64_MAX else "double"
    return "double" if isinstance(value, float) else "string"


def _common_kind(kinds: set[str]) -> str:
    if kinds == {"int64", "double"}:
        return "double"
    return kinds.pop() if len(kinds) == 1 else "string"


class JsonColumns:
    """Spreads values. `columns` None: they are inferred from the first table, and stand in `columns` afterwards."""

    def __init__(self, columns: Sequence[tuple[str, str]] | None, misfits: dict[str, int]) -> None:
        self.columns = None if columns is None else list(columns)
        self.misfits = misfits
        """By name; counted up."""

    def spread(self, table: Any) -> Any:
        """The table with the columns behind its own."""
        values = cast(Sequence[bytes | None], table.column("value").to_pylist())
        if self.columns is None:
            self.columns = infer_columns(values)
        rows = [_object(value) for value in values]
        for name, kind in self.columns:
            cells = [_cell(row, name, kind) for row in rows]
            misfit_count = sum(1 for cell in cells if cell is _MISFIT)
            if misfit_count:
                self.misfits[name] = self.misfits.get(name, 0) + misfit_count
            shown = [None if cell is _MISFIT or cell is _MISSING else cell for cell in cells]
            table = table.append_column(column_title(name), load().array(shown, _arrow_type(kind)))
        return table


def column_title(name: str) -> str:
    """A column's name in the file: its own, but for those that every record has."""
    return f"json_{name}" if name in FIELD_NAMES else name


def _object(value: bytes | None) -> Mapping[str, object] | None:
    if value is None:
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return cast(Mapping[str, object], found) if isinstance(found, dict) else None


def _cell(row: Mapping[str, object] | None, name: str, kind: str) -> object:
    value = _MISSING if row is None else _at(row, name)
    if value is _MISSING or value is None:
        return _MISSING
    return _fitted(value, kind)


def _at(row: Mapping[str, object], name: str) -> object:
    if name in row:
        return row[name]
    first, dot, rest = name.partition(".")
    inner = row.get(first) if dot else None
    return _at(cast(Mapping[str, object], inner), rest) if isinstance(inner, dict) else _MISSING


def _fitted(value: object, kind: str) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "string":
        return _text(value)
    if kind == "bool":
        return value if isinstance(value, bool) else _MISFIT
    if kind == "double":
        return _double(value) if is_number else _MISFIT
    if kind == "int64":
        fits = isinstance(value, int) and is_number and -_INT64_MAX - 1 <= value <= _INT64_MAX
        return value if fits else _MISFIT
    return _moment(value)


def _text(value: object) -> object:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return _MISFIT
    return text


def _double(value: object) -> object:
    try:
        return float(cast(float, value))
    except OverflowError:
        return _MISFIT


def _moment(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return value if -_INT64_MAX - 1 <= value <= _INT64_MAX else _MISFIT
    if not isinstance(value, str):
        return _MISFIT
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
        return round(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return _MISFIT


def _arrow_type(kind: str) -> Any:
    arrow = load()
    if kind == "timestamp":
        return arrow.timestamp("ms", tz="UTC")
    return {"string": arrow.string, "int64": arrow.int64, "double": arrow.float64, "bool": arrow.bool_}[
        kind
    ]()


__all__ = [
    "FLATTENED",
    "TYPES",
    "BadColumns",
    "JsonColumns",
    "column_title",
    "infer_columns",
    "parse_columns",
]
