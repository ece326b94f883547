"""JSON values as columns: what has no place in one is null there, counted, and never lost."""

from typing import Any

import pytest

from penstock.offline.arrow_tables import load
from penstock.offline.json_columns import BadColumns, JsonColumns, infer_columns, parse_columns

pyarrow = load()
VALUES = [
    b'{"id": 1, "user": {"name": "Ada"}, "paid": true, "at": "2015-07-29T12:00:00Z", "amount": 1.5}',
    b'{"id": "two", "user": {"name": null}, "amount": 2, "value": [1], "paid": 1, "at": "yesterday"}',
    b'{"id": 9223372036854775808, "user": 5, "user.name": "flat", "at": 1438171200000, "amount": true}',
    b"no JSON",
    b"[1]",
    None,
]


def spread(columns: JsonColumns, values: list[bytes | None]) -> Any:
    return columns.spread(pyarrow.table({"value": pyarrow.array(values, pyarrow.binary())}))


def test_what_does_not_fit_is_null_and_counted() -> None:
    misfits: dict[str, int] = {}
    asked = parse_columns("id:int64, user.name,paid:bool,at:timestamp,amount:double,value")
    table = spread(JsonColumns(asked, misfits), VALUES)
    assert table.column("id").to_pylist() == [1, None, None, None, None, None]
    assert table.column("user.name").to_pylist() == ["Ada", None, "flat", None, None, None]
    assert table.column("paid").to_pylist() == [True, None, None, None, None, None]
    at = table.column("at").cast(pyarrow.int64()).to_pylist()
    assert at == [1438171200000, None, 1438171200000, None, None, None]
    assert table.column("amount").to_pylist() == [1.5, 2.0, None, None, None, None]
    assert table.column("json_value").to_pylist() == [None, "[1]", None, None, None, None]
    assert table.column("value").to_pylist() == VALUES
    assert misfits == {"id": 2, "paid": 1, "at": 1, "amount": 1}


def test_types_are_inferred_once_and_stay() -> None:
    columns = JsonColumns(None, {})
    spread(
        columns,
        [b'{"a": 1, "b": 1, "c": "x", "d": {}, "e": null, "f": false, "g": 1}', b'{"b": 1.5, "f": 1}'],
    )
    assert columns.columns == [
        ("a", "int64"),
        ("b", "double"),
        ("c", "string"),
        ("d", "string"),
        ("e", "string"),
        ("f", "string"),
        ("g", "int64"),
    ]
    later = spread(columns, [b'{"a": "text", "new": 1}'])
    assert later.column_names == ["value", "a", "b", "c", "d", "e", "f", "g"]
    assert columns.misfits == {"a": 1}


def test_values_that_are_none_infer_nothing() -> None:
    assert infer_columns([None, b"x", b"1", b'{"": 1}', b'{"big": 99999999999999999999}']) == [
        ("big", "double")
    ]


@pytest.mark.parametrize("text", ["", "a:", ":int64", "a:long", "a,,b", "a,a:bool"])
def test_what_is_no_list_of_columns_is_told(text: str) -> None:
    with pytest.raises(BadColumns):
        parse_columns(text)


def test_text_that_utf8_has_not_and_numbers_that_overflow_are_misfits() -> None:
    misfits: dict[str, int] = {}
    table = spread(
        JsonColumns([("t", "string"), ("d", "double")], misfits),
        [b'{"t": "\\ud800", "d": 1' + b"0" * 400 + b"}"],
    )
    assert table.select(["t", "d"]).to_pylist() == [{"t": None, "d": None}]
    assert misfits == {"t": 1, "d": 1}
