"""Files of records, one after the other, as records: the way back from an export.

Owns which files a path means, and how each format is read in bounded memory. Does not know where records go.

A folder with a manifest means the files that it lists, in their order, each checked against its checksum before anything of it is given; a folder
without one means the files in it and below it, by name. Columns that no record has (JSON values that were spread) are left alone.
"""

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from penstock.consumer.record import Headers
from penstock.errors import PenstockError
from penstock.offline.manifest import MANIFEST_NAME, decode_manifest
from penstock.offline.text_files import data_of, headers_of
from penstock.runtime.files import File, FileSystem, read_file

FORMATS = ("parquet", "arrow", "jsonl", "csv")
CHUNK_RECORDS = 4096
_CHUNK_BYTES = 1024 * 1024
_LINE_MAX_BYTES = 64 * 1024 * 1024


class BadFile(PenstockError):
    """A file that is none of an export, or not as it was written; the message names it."""


class StoredRecord(NamedTuple):
    """A record as a file has it. What the file does not tell is None."""

    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read; `sha256` where a manifest tells it."""

    path: str
    size_bytes: int
    sha256: str | None = None

    @property
    def format(self) -> str:
        """By its name."""
        return self.path.rpartition(".")[2]


ReadLine = Callable[[bytes], StoredRecord]


def find_files(files: FileSystem, path: str) -> list[SourceFile]:
    """What a path means. Raises BadFile, BadManifest, StorageError; FileNotFoundError where there is nothing."""
    path = path.rstrip("/") or "/"
    manifest_path = f"{path}/{MANIFEST_NAME}"
    if files.exists(manifest_path):
        manifest = decode_manifest(read_file(files, manifest_path))
        return [SourceFile(f"{path}/{each.path}", each.bytes, each.sha256) for each in manifest.files]
    if path.rpartition(".")[2] in FORMATS:
        return [SourceFile(path, _size(files, path))]
    found = [SourceFile(name, _size(files, name)) for name in _below(files, path)]
    if not found:
        raise BadFile(f"{path}: no file whose name ends in .{', .'.join(FORMATS)}")
    return found


def _below(files: FileSystem, folder: str) -> Iterator[str]:
    for name in files.list_directory(folder):
        if name.rpartition(".")[2] in FORMATS:
            yield f"{folder}/{name}"
        elif "=" in name:  # a Hive folder
            yield from _below(files, f"{folder}/{name}")


def _size(files: FileSystem, path: str) -> int:
    file = files.open(path)
    try:
        return file.size()
    finally:
        file.close()


def read_records(
    files: FileSystem, source: SourceFile, read_line: ReadLine, advance: Callable[[int], None]
) -> Iterator[Sequence[StoredRecord]]:
    """The records of a file, some thousands at a time; blocks. `advance` is told of bytes that are done.

    Raises BadFile where it is not what its name or its checksum says, StorageError.
    """
    file = files.open(source.path)
    try:
        if source.sha256 is not None and _sha256(file) != source.sha256:
            raise BadFile(f"{source.path}: its checksum is not the one in the manifest")
        reader = {"csv": _read_csv, "jsonl": _read_jsonl}.get(source.format, _read_arrow)
        yield from reader(file, source, read_line, advance)
    except (ValueError, KeyError, csv.Error) as error:  # pyarrow's errors are ValueErrors, too
        raise BadFile(f"{source.path}: {error}") from error
    finally:
        file.close()


def _sha256(file: File) -> str:
    digest = hashlib.sha256()
    position = 0
    while data := file.pread(_CHUNK_BYTES, position):
        digest.update(data)
        position += len(data)
    return digest.hexdigest()


def _lines(file: File, advance: Callable[[int], None]) -> Iterator[bytes]:
    """Each with its line feed, but for a last one that has none."""
    position = 0
    rest = b""
    while data := file.pread(_CHUNK_BYTES, position):
        position += len(data)
        advance(len(data))
        lines = _cut(rest + data)
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        if len(rest) > _LINE_MAX_BYTES:
            raise ValueError(f"a line of more than {_LINE_MAX_BYTES} bytes")
        yield from lines
    if rest:
        yield rest


def _cut(data: bytes) -> list[bytes]:
    lines = [line + b"\n" for line in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def _read_jsonl(
    file: File, source: SourceFile, read_line: ReadLine, advance: Callable[[int], None]
) -> Iterator[Sequence[StoredRecord]]:
    del source
    chunk: list[StoredRecord] = []
    for line in _lines(file, advance):
        chunk.append(read_line(line.removesuffix(b"\n")))
        if len(chunk) == CHUNK_RECORDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _read_csv(
    file: File, source: SourceFile, read_line: ReadLine, advance: Callable[[int], None]
) -> Iterator[Sequence[StoredRecord]]:
    del source, read_line
    csv.field_size_limit(_LINE_MAX_BYTES)
    rows = csv.DictReader((line.decode() for line in _lines(file, advance)), strict=True)
    chunk: list[StoredRecord] = []
    for row in rows:
        chunk.append(_from_csv(row))
        if len(chunk) == CHUNK_RECORDS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _from_csv(row: dict[str, str]) -> StoredRecord:
    return StoredRecord(
        data_of(row["value"], row["value_encoding"]),
        data_of(row["key"], row["key_encoding"]),
        int(row["partition"]),
        int(row["timestamp"]),
        headers_of(row["headers"]),
    )


def _read_arrow(
    file: File, source: SourceFile, read_line: ReadLine, advance: Callable[[int], None]
) -> Iterator[Sequence[StoredRecord]]:
    from penstock.offline.arrow_tables import load, rows_of

    del read_line
    arrow = load()
    stream = arrow.PythonFile(_Seekable(file), mode="r")
    done_bytes = 0
    for table, share in _tables(arrow, stream, source):
        if "value" not in table.column_names:
            raise BadFile(f"{source.path}: no column named value")
        for start in range(0, len(table), CHUNK_RECORDS):
            yield [_from_row(row) for row in rows_of(table.slice(start, CHUNK_RECORDS))]
        advance(int(source.size_bytes * share) - done_bytes)
        done_bytes = int(source.size_bytes * share)


def _tables(arrow: Any, stream: Any, source: SourceFile) -> Iterator[tuple[Any, float]]:
    """Row groups (in slices) or record batches, each with the part of the file that is done with it."""
    from penstock.offline.arrow_tables import FIELD_NAMES, load

    if source.format == "parquet":
        file = load("pyarrow.parquet").ParquetFile(stream)
        total, done = max(1, file.metadata.num_rows), 0
        columns = [name for name in file.schema_arrow.names if name in FIELD_NAMES]
        for batch in file.iter_batches(CHUNK_RECORDS, columns=columns):
            done += len(batch)
            yield arrow.Table.from_batches([batch]), done / total
        return
    reader = load("pyarrow.ipc").open_file(stream)
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        yield arrow.Table.from_batches([batch]), (number + 1) / reader.num_record_batches


def _from_row(row: dict[str, Any]) -> StoredRecord:
    headers = tuple((str(each["name"]), each["value"]) for each in row.get("headers") or ())
    return StoredRecord(
        _bytes(row["value"]), _bytes(row.get("key")), row.get("partition"), row.get("timestamp"), headers
    )


def _bytes(value: object) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    raise ValueError(f"a key or value that is no bytes and no text, but {type(value).__name__}")


class _Seekable:
    """A file with a position, as pyarrow wants one."""

    def __init__(self, file: File) -> None:
        self._file = file
        self._position = 0
        self._size = file.size()
        self.closed = False

    def read(self, count: int = -1) -> bytes:
        count = self._size - self._position if count < 0 else count
        data = self._file.pread(count, self._position)
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


__all__ = ["CHUNK_RECORDS", "FORMATS", "BadFile", "SourceFile", "StoredRecord", "find_files", "read_records"]
