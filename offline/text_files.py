"""Formats of one line for each record: JSON lines and CSV.

Owns CSV's columns. How a record looks as JSON is handed in. Needs nothing but Python.

CSV (RFC 4180, with a line of names): what is no UTF-8 stands in base64; the columns `key_encoding` and `value_encoding` say `utf-8`, `base64`, or
nothing for null, so that null, the empty text and bytes are told apart by every reader. Headers are one JSON list.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from penstock.consumer.batch import ConsumerBatch
from penstock.consumer.record import ConsumerRecord, Headers
from penstock.offline.folder import AtomicFile
from penstock.offline.folding import QUARTER_MS, Folding
from penstock.offline.pieces import Piece

CSV_NAMES = (
    "topic",
    "partition",
    "offset",
    "timestamp",
    "key",
    "key_encoding",
    "value",
    "value_encoding",
    "headers",
)
RecordLine = Callable[[ConsumerRecord], bytes]
_PIECE_OVERHEAD_BYTES = 64
_WAITING_MAX_BYTES = 1024 * 1024


class LineEncoder:
    """Lines, behind a first one that names the columns (CSV)."""

    def __init__(self, extension: str, line: RecordLine, folding: Folding, first_line: bytes = b"") -> None:
        self.extension = extension
        self._line = line
        self._folding = folding
        self._first_line = first_line

    def pieces(self, batch: ConsumerBatch) -> Iterator[Piece]:
        """The records as lines."""
        by_folder: dict[str, list[ConsumerRecord]] = {}
        for record in batch:
            folder = self._folding.folder(record.timestamp_ms // QUARTER_MS)
            by_folder.setdefault(folder, []).append(record)
        for folder, records in by_folder.items():
            payload = b"".join(map(self._line, records))
            times = [record.timestamp_ms for record in records]
            yield Piece(
                folder,
                batch.partition,
                len(records),
                records[0].offset,
                records[-1].offset,
                min(times),
                max(times),
                len(payload) + _PIECE_OVERHEAD_BYTES,
                payload,
            )

    def open(self, file: AtomicFile) -> "LineSink":
        """Begin a file."""
        return LineSink(file, self._first_line)


class LineSink:
    """A file of lines."""

    def __init__(self, file: AtomicFile, first_line: bytes) -> None:
        self._file = file
        self._waiting = [first_line]
        self.pending_bytes = len(first_line)

    def write(self, piece: Piece) -> None:
        """Take lines."""
        self._waiting.append(piece.payload)
        self.pending_bytes += len(piece.payload)
        if self.pending_bytes > _WAITING_MAX_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        self._file.write(b"".join(self._waiting))
        self._waiting.clear()
        self.pending_bytes = 0

    def close(self) -> None:
        """The last lines."""
        self.flush()


def csv_first_line() -> bytes:
    """The names."""
    return ",".join(CSV_NAMES).encode() + b"\r\n"


def csv_line(record: ConsumerRecord) -> bytes:
    """One record."""
    key, key_encoding = _text(record.key)
    value, value_encoding = _text(record.value)
    cells = (
        record.topic,
        str(record.partition),
        str(record.offset),
        str(record.timestamp_ms),
        _quoted(key) if key_encoding else "",
        key_encoding,
        _quoted(value) if value_encoding else "",
        value_encoding,
        _quoted(headers_text(record.headers)) if record.headers else "",
    )
    return ",".join(cells).encode() + b"\r\n"


def headers_text(headers: Headers) -> str:
    """A JSON list of [name, value, encoding]; a name that is no UTF-8 as `{"base64": …}`."""
    entries: list[Sequence[object]] = []
    for name, value in headers:
        text, encoding = _text(value)
        entries.append([_name(name), text, encoding])
    return json.dumps(entries, ensure_ascii=False, separators=(",", ":"))


def headers_of(text: str) -> Headers:
    """The way back. Raises ValueError."""
    if not text:
        return ()
    headers: list[tuple[str, bytes | None]] = []
    entries: list[tuple[Any, str, str]] = json.loads(text)
    for name, value, encoding in entries:
        if isinstance(name, str):
            headers.append((name, data_of(value, encoding)))
        else:
            data = b64decode(name["base64"], validate=True)
            headers.append((data.decode("utf-8", "surrogateescape"), data_of(value, encoding)))
    return tuple(headers)


def data_of(text: str, encoding: str) -> bytes | None:
    """The bytes of a cell. Raises ValueError."""
    if encoding == "":
        return None
    if encoding == "base64":
        return b64decode(text, validate=True)
    if encoding != "utf-8":
        raise ValueError(f"unknown encoding {encoding!r}")
    return text.encode()


def _name(name: str) -> object:
    data = name.encode("utf-8", "surrogateescape")
    text, encoding = _text(data)
    return text if encoding == "utf-8" else {"base64": text}


def _text(data: bytes | None) -> tuple[str, str]:
    if data is None:
        return "", ""
    try:
        return data.decode(), "utf-8"
    except UnicodeDecodeError:
        return b64encode(data).decode(), "base64"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


__all__ = [
    "CSV_NAMES",
    "LineEncoder",
    "LineSink",
    "RecordLine",
    "csv_first_line",
    "csv_line",
    "data_of",
    "headers_of",
    "headers_text",
]
