"""Parquet and Arrow IPC files, through pyarrow.

Owns how records become row groups: they wait as Arrow columns until there are enough of them. See `arrow_tables` for the schema.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from penstock.consumer.batch import ConsumerBatch
from penstock.consumer.errors import CorruptRecords
from penstock.offline.arrow_tables import load, record_table
from penstock.offline.columns import Columns, decode_columns
from penstock.offline.folder import AtomicFile
from penstock.offline.folding import QUARTER_MS, Folding
from penstock.offline.json_columns import JsonColumns
from penstock.offline.pieces import Piece
from penstock.protocol.errors import DecodeError

ROW_GROUP_MAX_BYTES = 32 * 1024 * 1024
ROW_GROUP_MAX_RECORDS = 1024 * 1024


class ArrowEncoder:
    """`extension` is `parquet` or `arrow`; `compression` one that the format knows, or `none`."""

    def __init__(
        self, extension: str, compression: str, folding: Folding, json_columns: JsonColumns | None = None
    ) -> None:
        self.extension = extension
        self._compression = compression
        self._folding = folding
        self._json_columns = json_columns

    def pieces(self, batch: ConsumerBatch) -> Iterator[Piece]:
        """The records as tables."""
        for columns in decode_columns(batch):
            for folder, part in self._by_folder(columns):
                try:
                    table = record_table(part)
                except DecodeError as error:
                    first = int(part.offsets[0])
                    raise CorruptRecords(part.partition, first, str(error), batch.next_offset) from error
                if self._json_columns is not None:
                    table = self._json_columns.spread(table)
                yield _piece(folder, part, table)

    def open(self, file: AtomicFile) -> "ArrowSink":
        """Begin a file."""
        return ArrowSink(file, self.extension, self._compression)

    def _by_folder(self, columns: Columns) -> Iterator[tuple[str, Columns]]:
        if self._folding.by is None:
            yield "", columns
            return
        quarters, places = np.unique(columns.timestamps_ms // QUARTER_MS, return_inverse=True)
        folders = [self._folding.folder(quarter) for quarter in quarters.tolist()]
        names = list(dict.fromkeys(folders))
        if len(names) == 1:
            yield names[0], columns
            return
        numbers = np.array([names.index(folder) for folder in folders])[places]
        for number, name in enumerate(names):
            yield name, columns.select(numbers == number)


def _piece(folder: str, columns: Columns, table: Any) -> Piece:
    return Piece(
        folder,
        columns.partition.partition,
        len(columns),
        int(columns.offsets[0]),
        int(columns.offsets[-1]),
        int(columns.timestamps_ms.min()),
        int(columns.timestamps_ms.max()),
        table.nbytes,
        table,
    )


class ArrowSink:
    """One file."""

    def __init__(self, file: AtomicFile, extension: str, compression: str) -> None:
        self._stream = load().PythonFile(file, mode="w")
        self._extension = extension
        self._compression = compression
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._waiting_records = 0
        self.pending_bytes = 0

    def write(self, piece: Piece) -> None:
        """Take a table."""
        self._waiting.append(piece.payload)
        self.pending_bytes += piece.size_bytes
        self._waiting_records += piece.records
        if self.pending_bytes >= ROW_GROUP_MAX_BYTES or self._waiting_records >= ROW_GROUP_MAX_RECORDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits as a row group (Parquet), or a record batch (Arrow)."""
        if not self._waiting:
            return
        table = load().concat_tables(self._waiting)
        if self._writer is None:
            self._writer = self._open(table.schema)
        if self._extension == "parquet":
            self._writer.write_table(table, row_group_size=max(1, len(table)))
        else:
            self._writer.write_table(table.combine_chunks())
        self._waiting.clear()
        self._waiting_records = self.pending_bytes = 0

    def close(self) -> None:
        """The last row group, and the footer."""
        self.flush()
        self._writer.close()

    def _open(self, schema: Any) -> Any:
        compression = None if self._compression == "none" else self._compression
        if self._extension == "parquet":
            # Values hardly ever repeat: a dictionary of them would be made and thrown away. Nobody asks for their minimum.
            return load("pyarrow.parquet").ParquetWriter(
                self._stream,
                schema,
                compression=compression or "none",
                use_dictionary=["topic", "partition", "key"],
                write_statistics=[name for name in schema.names if name not in ("value", "headers")],
                column_encoding={"offset": "DELTA_BINARY_PACKED", "timestamp": "DELTA_BINARY_PACKED"},
            )
        ipc = load("pyarrow.ipc")
        return ipc.new_file(self._stream, schema, options=ipc.IpcWriteOptions(compression=compression))


__all__ = ["ROW_GROUP_MAX_BYTES", "ROW_GROUP_MAX_RECORDS", "ArrowEncoder", "ArrowSink"]
