"""How `penstock consume` writes a record: its value as text, a JSON line, or a format of one's own with kcat's fields.

Pure: records in, bytes out. Values and keys go out byte for byte, as they came.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from json import JSONEncoder

from penstock.cli.failure import CalledWrongly
from penstock.cli.output import data_as_json, headers_as_json
from penstock.cli.record_input import unescaped
from penstock.consumer.batch import ConsumerBatch
from penstock.consumer.record import ConsumerRecord
from penstock.protocol.record_batch import TimestampType

Format = Callable[[ConsumerBatch | Sequence[ConsumerRecord]], list[bytes]]
"""The bytes of each record."""

FIELDS_HELP = (
    "%s value, %S its length, %R its length as 4 bytes, %k key, %K its length, %t topic, %p partition, %o offset, "
    "%T timestamp in ms, %h headers, %% a percent sign"
)
_NO_DATA_LENGTH = -1
_TYPE_NAMES = {TimestampType.CREATE_TIME: "CreateTime", TimestampType.LOG_APPEND_TIME: "LogAppendTime"}
_quoted = JSONEncoder(ensure_ascii=False).encode


def format_named(name: str) -> Format:
    """`text`, `json`, or a format with % fields. Raises CalledWrongly for a field that there is not."""
    if name == "text":
        return _text
    if name == "json":
        return _json
    parts = _compiled(name)
    return lambda batch: [b"".join([part(record) for part in parts]) for record in batch]


def _text(batch: ConsumerBatch | Sequence[ConsumerRecord]) -> list[bytes]:
    values: Iterable[bytes | None]
    values = batch.values() if isinstance(batch, ConsumerBatch) else [record.value for record in batch]
    return [(value or b"") + b"\n" for value in values]


def _json(batch: ConsumerBatch | Sequence[ConsumerRecord]) -> list[bytes]:
    return list(map(json_line, batch))


def json_line(record: ConsumerRecord) -> bytes:
    """A record as one line; what `record_as_json` tells."""
    if record.headers:
        return _any_json_line(record)
    key, value = record.key, record.value
    try:  # most records are text without headers: written out by hand they take a third of the time
        key_text = "null" if key is None else _quoted(key.decode())
        value_text = "null" if value is None else _quoted(value.decode())
    except UnicodeDecodeError:
        return _any_json_line(record)
    return (
        f'{{"topic":"{record.topic}","partition":{record.partition},"offset":{record.offset},'
        f'"timestamp":{record.timestamp_ms},"timestamp_type":"{_TYPE_NAMES[record.timestamp_type]}",'
        f'"key":{key_text},"value":{value_text},"headers":[]}}\n'
    ).encode()


def _any_json_line(record: ConsumerRecord) -> bytes:
    return json.dumps(record_as_json(record), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def record_as_json(record: ConsumerRecord) -> dict[str, object]:
    """All of a record; `penstock produce --json` reads it."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "timestamp_type": _TYPE_NAMES[record.timestamp_type],
        **data_as_json("key", record.key),
        **data_as_json("value", record.value),
        "headers": headers_as_json(record.headers),
    }


_Part = Callable[[ConsumerRecord], bytes]


def _constant(data: bytes) -> _Part:
    return lambda record: data


def _length(data: bytes | None) -> int:
    return _NO_DATA_LENGTH if data is None else len(data)


def _headers(record: ConsumerRecord) -> bytes:
    return b",".join(
        name.encode(errors="surrogateescape") + b"=" + (b"NULL" if value is None else value)
        for name, value in record.headers
    )


_FIELDS: dict[str, _Part] = {
    "s": lambda record: record.value or b"",
    "S": lambda record: b"%d" % _length(record.value),
    "R": lambda record: _length(record.value).to_bytes(4, "big", signed=True),
    "k": lambda record: record.key or b"",
    "K": lambda record: b"%d" % _length(record.key),
    "t": lambda record: record.topic.encode(),
    "p": lambda record: b"%d" % record.partition,
    "o": lambda record: b"%d" % record.offset,
    "T": lambda record: b"%d" % record.timestamp_ms,
    "h": _headers,
    "%": lambda record: b"%",
}


def _compiled(text: str) -> Sequence[_Part]:
    if "%" not in text:
        raise CalledWrongly(
            f"--format: {text!r} is neither text nor json, and has no field; there are {FIELDS_HELP}"
        )
    parts: list[_Part] = []
    for position, piece in enumerate(re.split(r"%(.?)", text, flags=re.DOTALL)):
        if position % 2 == 0:  # between two fields
            parts.append(_constant(unescaped(piece).encode()))
        elif piece in _FIELDS:
            parts.append(_FIELDS[piece])
        else:
            raise CalledWrongly(f"--format: there is no field %{piece}; there are {FIELDS_HELP}")
    return parts


__all__ = ["FIELDS_HELP", "Format", "format_named", "json_line", "record_as_json"]
