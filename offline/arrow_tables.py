"""Columns of records as Arrow tables, and back.

Owns the schema. pyarrow is imported here and in `arrow_files` only, and only when a table is made: it is an extra. It has no types of its own.

Keys and values are gathered by Arrow itself from the bytes of the batches: no Python object is made for a record, but for one with headers.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.consumer.decoding import read_headers
from penstock.errors import PenstockError
from penstock.offline.columns import Columns, Field
from penstock.protocol.errors import DecodeError

FIELD_NAMES = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")


class CannotWrite(PenstockError):
    """A record that this format has no place for."""


def load(name: str = "pyarrow") -> Any:
    """pyarrow, or a module of it."""
    return importlib.import_module(name)


def record_schema() -> Any:
    """The fields of every table; JSON columns come behind them."""
    arrow = load()
    header = arrow.struct([("name", arrow.string()), ("value", arrow.binary())])
    return arrow.schema(
        [
            arrow.field("topic", arrow.string(), nullable=False),
            arrow.field("partition", arrow.int32(), nullable=False),
            arrow.field("offset", arrow.int64(), nullable=False),
            arrow.field("timestamp", arrow.timestamp("ms", tz="UTC"), nullable=False),
            arrow.field("key", arrow.binary()),
            arrow.field("value", arrow.binary()),
            arrow.field("headers", arrow.list_(header), nullable=False),
        ]
    )


def record_table(columns: Columns) -> Any:
    """A table of these records. Raises DecodeError for headers that are none, CannotWrite for a header name that is no UTF-8."""
    arrow = load()
    count = len(columns)
    data = arrow.py_buffer(columns.data)
    arrays = [
        _repeated(arrow, columns.partition.topic.encode(), count),
        _array(arrow, arrow.int32(), np.full(count, columns.partition.partition, np.int32)),
        _array(arrow, arrow.int64(), columns.offsets),
        _array(arrow, arrow.timestamp("ms", tz="UTC"), columns.timestamps_ms),
        _gathered(arrow, data, columns.keys),
        _gathered(arrow, data, columns.values),
        _headers(arrow, columns),
    ]
    return arrow.Table.from_arrays(arrays, schema=record_schema())


def _array(arrow: Any, kind: Any, numbers: NDArray[Any], nulls: NDArray[np.bool_] | None = None) -> Any:
    """An array over the memory of these numbers. `arrow.array` and `arrow.scalar` would import pandas to see whether they are its own."""
    there = None
    if nulls is not None and bool(nulls.any()):
        there = arrow.py_buffer(np.packbits(~nulls, bitorder="little"))
    return arrow.Array.from_buffers(
        kind, len(numbers), [there, arrow.py_buffer(np.ascontiguousarray(numbers))]
    )


def _repeated(arrow: Any, text: bytes, count: int) -> Any:
    edges = np.arange(0, (count + 1) * len(text), len(text), dtype=np.int32)
    return arrow.Array.from_buffers(
        arrow.string(), count, [None, arrow.py_buffer(edges), arrow.py_buffer(text * count)]
    )


def _gathered(arrow: Any, data: Any, field: Field) -> Any:
    """The bytes of a field, taken together. Fields and what lies between them are one array of neighbours; Arrow takes every other one."""
    count = len(field.starts)
    if bool(field.nulls.all()):
        return arrow.nulls(count, arrow.binary())
    edges = np.empty(2 * count, np.int32)
    edges[0::2] = field.starts
    edges[1::2] = field.ends
    neighbours = arrow.Array.from_buffers(arrow.binary(), 2 * count - 1, [None, arrow.py_buffer(edges), data])
    places = np.arange(0, 2 * count, 2, dtype=np.int32)
    return neighbours.take(_array(arrow, arrow.int32(), places, field.nulls))


def _headers(arrow: Any, columns: Columns) -> Any:
    kind = record_schema().field("headers").type
    count = len(columns)
    if not columns.has_headers:
        edges = arrow.py_buffer(np.zeros(count + 1, np.int32))
        return arrow.Array.from_buffers(
            kind, count, [None, edges], children=[arrow.nulls(0, kind.value_type)]
        )
    found: list[list[dict[str, object]]] = []
    places = zip(columns.headers_at.tolist(), columns.record_ends.tolist(), strict=True)
    for number, (position, end) in enumerate(places):
        try:
            headers, behind = read_headers(columns.data, position)
        except IndexError:
            behind, headers = -1, ()
        if behind != end:
            raise DecodeError("the headers of a record do not end with it")
        for name, _ in headers:
            if not name.isprintable() and _is_no_text(name):
                raise CannotWrite(
                    f"the record at {columns.partition}, offset {int(columns.offsets[number])} has a header whose name is no"
                    " UTF-8; only jsonl and csv have a place for it"
                )
        found.append([{"name": name, "value": value} for name, value in headers])
    return arrow.array(found, kind)


def _is_no_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return True
    return False


def rows_of(table: Any) -> Sequence[dict[str, Any]]:
    """The rows of a table that `record_table` (or somebody else, with at least a value) has made; the timestamp in ms."""
    arrow = load()
    names = [name for name in FIELD_NAMES if name in table.column_names]
    chosen = table.select(names)
    if "timestamp" in names:
        at = names.index("timestamp")
        times = chosen.column(at)
        if arrow.types.is_timestamp(times.type):
            times = times.cast(arrow.timestamp("ms", tz=times.type.tz), safe=False).cast(arrow.int64())
        chosen = chosen.set_column(at, "timestamp", times)
    rows: Sequence[dict[str, Any]] = chosen.to_pylist()
    return rows


__all__ = ["FIELD_NAMES", "CannotWrite", "load", "record_schema", "record_table", "rows_of"]
