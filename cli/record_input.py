"""Lines in, records out: what `penstock produce` reads.

Pure. Owns how bytes are cut into lines and what a line means: a value, a key and a value, or a JSON object in the form that
`penstock consume --json` writes. Values are bytes; nothing of them is trimmed but the line feed.
"""

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from penstock.errors import PenstockError
from penstock.producer.producer import OutgoingRecord

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "0": "\0"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_FIELDS = frozenset({"key", "key_base64", "value", "value_base64", "headers", "timestamp", "partition"})
_WHERE_FROM = frozenset({"topic", "offset", "timestamp_type"})
"""What `consume --json` tells of a record and nobody can choose."""

Outgoing = bytes | OutgoingRecord
ReadLine = Callable[[bytes], Outgoing]


class BadLine(PenstockError):
    """A line is no record; the message says why."""


class LineCutter:
    """Cuts chunks of bytes into lines. A last line without a line feed counts as well."""

    def __init__(self, line_max_bytes: int) -> None:
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._line_max_bytes = line_max_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in this chunk; nothing (the end of the input): the one that had no end.

        Raises BadLine where a line would not end: what is no text must not fill the memory.
        """
        if not chunk:
            rest = b"".join(self._rest)
            self._clear()
            return [rest] if rest else []
        lines = chunk.split(b"\n")
        last = lines.pop()
        if lines and self._rest:
            lines[0] = b"".join([*self._rest, lines[0]])
            self._clear()
        self._rest.append(last)
        self._rest_bytes += len(last)
        if self._rest_bytes > self._line_max_bytes:
            raise BadLine(f"a line of more than {self._line_max_bytes} bytes")
        return lines

    def _clear(self) -> None:
        self._rest.clear()
        self._rest_bytes = 0


def unescaped(text: str) -> str:
    r"""`\n`, `\r`, `\t`, `\0`, `\\` and `\xNN` as the characters that they stand for."""
    return _ESCAPE.sub(
        lambda found: chr(int(found[1], 16)) if found[1] else _ESCAPES.get(found[2], found[0]), text
    )


def read_value(line: bytes) -> Outgoing:
    """The whole line is the value."""
    return line


def keyed_reader(separator: bytes) -> ReadLine:
    """What stands before the first separator is the key."""

    def read(line: bytes) -> Outgoing:
        key, found, value = line.partition(separator)
        if not found:
            raise BadLine(f"there is no key: {separator.decode(errors='replace')!r} is not in the line")
        return OutgoingRecord(value, key=key)

    return read


def read_json(line: bytes) -> Outgoing:
    """One JSON object: key, value, headers, timestamp, partition; key_base64 and value_base64 for what is no text."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        where = f"{error.msg} (character {error.pos + 1})" if line.strip() else "the line is empty"
        raise BadLine(f"no JSON: {where}") from None
    except (ValueError, RecursionError) as error:
        raise BadLine(f"no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise BadLine("no JSON object")
    record = cast(Mapping[str, object], fields)
    unknown = record.keys() - _FIELDS - _WHERE_FROM
    if unknown:
        raise BadLine(f"unknown field {min(unknown)!r}")
    if not record.keys() & {"value", "value_base64"}:
        raise BadLine("no value; a record that deletes has the value null")
    timestamp_ms, partition = (_whole_number(record, name) for name in ("timestamp", "partition"))
    return OutgoingRecord(
        _data(record, "value"),
        key=_data(record, "key"),
        partition=partition,
        timestamp_ms=None if timestamp_ms == -1 else timestamp_ms,
        headers=_headers(record.get("headers")),
    )


def _data(fields: Mapping[str, object], name: str) -> bytes | None:
    encoded = fields.get(f"{name}_base64")
    if encoded is not None:
        if fields.get(name) is not None:
            raise BadLine(f"both {name} and {name}_base64")
        try:
            return b64decode(encoded if isinstance(encoded, str) else "?", validate=True)
        except ValueError:
            raise BadLine(f"{name}_base64 is no base64") from None
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):  # an object as it would be written
        value = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise BadLine(f"{name} has half of a surrogate pair") from None


def _whole_number(fields: Mapping[str, object], name: str) -> int | None:
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and -1 <= value < 2**63):
        return value
    raise BadLine(f"{name} is no whole number")


def _headers(value: object) -> Sequence[tuple[str, bytes | None]]:
    """A list of {"name", "value"} (each also as name_base64, value_base64), or one object of names and values."""
    if value is None:
        return ()
    entries: list[Mapping[str, object]] = []
    if isinstance(value, dict):
        entries = [{"name": name, "value": one} for name, one in cast(Mapping[str, object], value).items()]
    elif isinstance(value, list):
        for one in cast(list[object], value):
            if not isinstance(one, dict):
                raise BadLine("a header is no object")
            entries.append(cast(Mapping[str, object], one))
    else:
        raise BadLine("headers is no list and no object")
    headers: list[tuple[str, bytes | None]] = []
    for entry in entries:
        name = _data(entry, "name")
        if name is None:
            raise BadLine("a header has no name")
        headers.append((name.decode("utf-8", "surrogateescape"), _data(entry, "value")))
    return headers


__all__ = [
    "BadLine",
    "LineCutter",
    "Outgoing",
    "ReadLine",
    "keyed_reader",
    "read_json",
    "read_value",
    "unescaped",
]
