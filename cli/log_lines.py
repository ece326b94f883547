"""How `penstock log` shows batches, records, index entries and verdicts.

Owns the look only. Lines are written as they come, since a log may have millions; so columns have fixed widths, which wide
values push aside.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import click

from penstock.cli.asking import counted
from penstock.cli.moments import time_text
from penstock.cli.output import (
    Column,
    data_as_json,
    headers_as_json,
    json_text,
    print_json,
    print_table,
    topic_id_text,
)
from penstock.protocol.errors import DecodeError
from penstock.protocol.record_batch import BatchHeader, TimestampType
from penstock.protocol.records import Record
from penstock.storage.dump import DumpedBatch, Fault
from penstock.storage.producer_state import ProducerEntry
from penstock.storage.verify import PartitionVerdict
from penstock.storage.verify_folder import DataFolder

_HEADINGS = ("OFFSETS", "POSITION", "SIZE", "RECORDS", "CODEC", "EPOCH", "CRC", "LAST TIME", "")


class BatchPrinter:
    """Prints segments batch by batch, and counts what is wrong."""

    def __init__(self, *, with_records: bool, as_json: bool) -> None:
        self.fault_count = 0
        self._with_records = with_records
        self._as_json = as_json
        self._path = ""

    def print(self, segment: Iterable[DumpedBatch | Fault]) -> None:
        """Print one segment."""
        for found in segment:
            if self._as_json:
                self._print_json(found)
            else:
                self._print(found)

    def _print(self, found: DumpedBatch | Fault) -> None:
        if found.path != self._path:
            _write(f"{'' if not self._path else chr(10)}{found.path}")
            _write(_batch_line(_HEADINGS))
            self._path = found.path
        if isinstance(found, Fault):
            self._print_fault(found)
            return
        _write(_batch_line(_cells(found)))
        for fault in found.faults:
            self._print_fault(fault)
        if self._with_records:
            for record in self._records(found):
                _write(record if isinstance(record, str) else _record_line(record))

    def _print_fault(self, fault: Fault) -> None:
        self.fault_count += 1
        _write(_red(f"  at {fault.position}: {fault.reason}"))

    def _records(self, batch: DumpedBatch) -> Iterator[Record | str]:
        """The records; what can't be read of them is a fault in place of the rest."""
        try:
            yield from batch.records()
        except DecodeError as error:
            self.fault_count += 1
            yield _red(f"  at {batch.position}: the records can't be read: {error}")

    def _print_json(self, found: DumpedBatch | Fault) -> None:
        if isinstance(found, Fault):
            self.fault_count += 1
            _write(json_text({"path": found.path, "position": found.position, "faults": [found.reason]}))
            return
        line = _batch_as_json(found)
        faults = [fault.reason for fault in found.faults]
        if self._with_records:
            records: list[Mapping[str, object]] = []
            try:
                records.extend(_record_as_json(record) for record in found.records())
            except DecodeError as error:
                faults.append(f"the records can't be read: {error}")
            line["records"] = records
        self.fault_count += len(faults)
        _write(json_text({**line, "faults": faults}))


def print_index(entries: Iterable[tuple[int, int]], *, as_json: bool) -> None:
    """Print an offset index."""
    _print_pairs(("offset", "position"), entries, as_json=as_json)


def print_time_index(entries: Iterable[tuple[int, int]], *, as_json: bool) -> None:
    """Print a time index."""
    if as_json:
        _print_pairs(("timestamp", "offset"), entries, as_json=True)
        return
    print_table(
        [Column("TIMESTAMP", is_number=True), Column("TIME"), Column("OFFSET", is_number=True)],
        [(timestamp, time_text(timestamp), offset) for timestamp, offset in entries],
    )


def print_snapshot(producers: Iterable[ProducerEntry], *, as_json: bool) -> None:
    """Print what a snapshot knows of its producers."""
    rows: list[dict[str, object]] = []
    for producer in producers:
        last = producer.batches[-1] if producer.batches else None
        rows.append(
            {
                "producer_id": producer.producer_id,
                "epoch": producer.epoch,
                "last_sequence": last.last_sequence if last else None,
                "last_offset": last.last_offset if last else None,
                "last_timestamp": producer.last_timestamp_ms,
            }
        )
    if as_json:
        for row in rows:
            print_json(row)
        return
    titles = ("PRODUCER", "EPOCH", "LAST SEQUENCE", "LAST OFFSET")
    columns = [*(Column(title, is_number=True) for title in titles), Column("LAST TIME")]
    times = [time_text(producer["last_timestamp"]) for producer in rows]
    print_table(columns, [(*list(row.values())[:4], time) for row, time in zip(rows, times, strict=True)])


def _print_pairs(names: tuple[str, str], entries: Iterable[tuple[int, int]], *, as_json: bool) -> None:
    if as_json:
        for first, second in entries:
            print_json({names[0]: first, names[1]: second})
        return
    print_table([Column(name.upper(), is_number=True) for name in names], entries)


class VerdictPrinter:
    """Prints verdicts as they come, each fault on a line of its own below, and sums them up."""

    def __init__(self, names: Sequence[str], *, as_json: bool) -> None:
        """`names` of all that will come, for the width of the first column."""
        self.bad_count = 0
        self._damaged_count = 0
        self._as_json = as_json
        self._width = max(map(len, (_FOLDER, *names)))
        self._totals: Counter[str] = Counter()
        self._has_headings = False

    def print_folders(self, folders: Iterable[DataFolder], write: Callable[[str], None]) -> None:
        """What is to be said of data folders as a whole."""
        for folder in folders:
            if self._as_json:
                write(json_text(_folder_as_json(folder)))
                continue
            for note in folder.notes:
                write(f"{folder.path}: {note}")
            for fault in folder.faults:
                write(_red(f"{fault.path}: {fault.reason}"))

    def print(self, name: str, verdict: PartitionVerdict, write: Callable[[str], None]) -> None:
        """One verdict, through `write`, which takes a line."""
        self.bad_count += not verdict.is_whole
        self._damaged_count += not verdict.is_good
        self._totals += Counter(
            partitions=1,
            segments=verdict.segment_count,
            batches=verdict.batch_count,
            records=verdict.record_count,
            bytes=verdict.size_bytes,
        )
        if self._as_json:
            write(json_text(_verdict_as_json(verdict)))
            return
        if not self._has_headings:
            self._has_headings = True
            write(self._line((_FOLDER, *_VERDICT_NUMBERS, "VERDICT")))
        line = self._line(_verdict_row(name, verdict))
        write(line if verdict.is_whole else _red(line))
        for fault in (*verdict.faults, *(() if verdict.is_in_use else verdict.index_faults)):
            write(_red(f"  {fault.path} at {fault.position}: {fault.reason}"))
        if verdict.torn_tail_bytes and not verdict.is_in_use:
            write(
                _red(f"  {verdict.directory}: {verdict.torn_tail_bytes} bytes at the end are no whole batch")
            )

    def print_summary(self, took_s: float) -> None:
        """One line on all of it; with --json there is none."""
        if self._as_json:
            return
        totals = self._totals
        size_bytes = totals["bytes"]
        rate = f", {size_bytes / took_s / 1e6:.0f} MB/s" if took_s and size_bytes > _RATE_BYTES_MIN else ""
        judgement = f"{self.bad_count} not as they should be" if self.bad_count else "nothing is wrong"
        if self._damaged_count:
            judgement += f", {self._damaged_count} damaged (`penstock log repair` shows what can be done)"
        _write(
            f"{counted(totals['partitions'], 'partition')}, {counted(totals['records'], 'record')} "
            f"in {counted(totals['batches'], 'batch', 'batches')}, {size_text(size_bytes)} in {took_s:.2f} s{rate}: {judgement}"
        )

    def _line(self, cells: Sequence[object]) -> str:
        folder, *numbers, verdict = cells
        middle = " ".join(f"{number:>{width}}" for number, width in zip(numbers, _WIDTHS, strict=True))
        return f"{folder:<{self._width}} {middle}  {verdict}"


_FOLDER = "FOLDER"
_VERDICT_NUMBERS = ("SEGMENTS", "BATCHES", "RECORDS", "START", "END", "BYTES")
_WIDTHS = (8, 8, 9, 9, 9, 11)
_RATE_BYTES_MIN = 1 << 24
"""Below that a rate tells more of the start of a process than of disks."""


def size_text(size_bytes: int) -> str:
    """`219 B`, `1.5 GB`: powers of ten, as disks are sold."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def _verdict_row(name: str, verdict: PartitionVerdict) -> Sequence[object]:
    return (
        name,
        verdict.segment_count,
        verdict.batch_count,
        verdict.record_count,
        verdict.log_start_offset,
        verdict.log_end_offset,
        verdict.size_bytes,
        _verdict_word(verdict),
    )


def _verdict_word(verdict: PartitionVerdict) -> str:
    if verdict.faults:
        return "damaged"
    if verdict.is_in_use:
        return "good, in use"
    if verdict.torn_tail_bytes:
        return "torn tail"
    return "wrong index" if verdict.index_faults else "good"


def _folder_as_json(folder: DataFolder) -> dict[str, object]:
    return {
        "path": folder.path,
        "is_in_use": folder.is_in_use,
        "notes": folder.notes,
        "faults": [_fault_as_json(fault) for fault in folder.faults],
    }


def _verdict_as_json(verdict: PartitionVerdict) -> dict[str, object]:
    return {
        "path": verdict.directory,
        "verdict": _verdict_word(verdict),
        "topic_id": topic_id_text(verdict.topic_id),
        "segments": verdict.segment_count,
        "batches": verdict.batch_count,
        "records": verdict.record_count,
        "log_start_offset": verdict.log_start_offset,
        "log_end_offset": verdict.log_end_offset,
        "size_bytes": verdict.size_bytes,
        "torn_tail_bytes": verdict.torn_tail_bytes,
        "is_in_use": verdict.is_in_use,
        "faults": [_fault_as_json(fault) for fault in verdict.faults],
        "index_faults": [_fault_as_json(fault) for fault in verdict.index_faults],
    }


def _fault_as_json(fault: Fault) -> dict[str, object]:
    return {"path": fault.path, "position": fault.position, "reason": fault.reason}


def _batch_line(cells: Sequence[object]) -> str:
    offsets, position, size, count, codec, epoch, crc, time, notes = cells
    return (
        f"{offsets:>13} {position:>9} {size:>8} {count:>7} {codec:<6} {epoch:>5} {crc:<5} {time:<20} {notes}"
    ).rstrip()


def _cells(batch: DumpedBatch) -> Sequence[object]:
    header = batch.header
    return (
        f"{header.base_offset}..{header.last_offset}",
        batch.position,
        header.size_bytes,
        header.record_count,
        _codec(header),
        header.partition_leader_epoch,
        "ok" if batch.is_crc_right else "WRONG",
        time_text(header.max_timestamp, with_ms=False),
        _notes(batch),
    )


def _codec(header: BatchHeader) -> str:
    try:
        return header.codec.name.lower()
    except DecodeError:
        return "?"


def _notes(batch: DumpedBatch) -> str:
    header = batch.header
    notes: list[str] = []
    if header.has_producer_id:
        notes.append(f"producer {header.producer_id}/{header.producer_epoch} sequence {header.base_sequence}")
    if header.is_transactional:
        notes.append("transactional")
    if header.is_control:
        notes.append(f"control: {_marker(batch) or 'unknown'}")
    if header.delete_horizon_ms is not None:
        notes.append(f"delete horizon {time_text(header.delete_horizon_ms)}")
    if header.record_count == 0:
        notes.append("no records left")
    elif header.record_count != header.last_offset_delta + 1:
        notes.append("compacted")
    if header.timestamp_type is TimestampType.LOG_APPEND_TIME:
        notes.append("LogAppendTime")
    return ", ".join(notes)


_MARKERS = {0: "abort", 1: "commit", 2: "leader change", 3: "snapshot header", 4: "snapshot footer"}
_MARKER_KEY_SIZE_BYTES = 4


def _marker(batch: DumpedBatch) -> str | None:
    """What a control batch says, by the type in its record's key (version int16, type int16); None where that can't be read."""
    try:
        key = next((record.key for record in batch.records()), None)
    except DecodeError:
        return None
    if key is None or len(key) < _MARKER_KEY_SIZE_BYTES:
        return None
    return _MARKERS.get(int.from_bytes(key[2:4], signed=True))


def _record_line(record: Record) -> str:
    line = f"{record.offset:>13} {time_text(record.timestamp)} {_quoted(record.key)} {_quoted(record.value)}"
    if record.headers:
        line += " " + " ".join(
            f"{_quoted(name.encode(errors='surrogateescape'))}={_quoted(value)}"
            for name, value in record.headers
        )
    return line


def _quoted(data: bytes | None) -> str:
    """Text in quotes with its control characters escaped; hex where it is no text."""
    if data is None:
        return "null"
    try:
        return json.dumps(data.decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
    except UnicodeDecodeError:
        return "0x" + data.hex()


def _batch_as_json(batch: DumpedBatch) -> dict[str, object]:
    header = batch.header
    return {
        "path": batch.path,
        "position": batch.position,
        "size_bytes": header.size_bytes,
        "base_offset": header.base_offset,
        "last_offset": header.last_offset,
        "record_count": header.record_count,
        "leader_epoch": header.partition_leader_epoch,
        "codec": _codec(header),
        "base_timestamp": header.base_timestamp,
        "max_timestamp": header.max_timestamp,
        "timestamp_type": "LogAppendTime"
        if header.timestamp_type is TimestampType.LOG_APPEND_TIME
        else "CreateTime",
        "producer_id": header.producer_id,
        "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence,
        "is_transactional": header.is_transactional,
        "is_control": header.is_control,
        "control": _marker(batch) if header.is_control else None,
        "delete_horizon": header.delete_horizon_ms,
        "crc": f"{header.crc:08x}",
        "is_crc_right": batch.is_crc_right,
    }


def _record_as_json(record: Record) -> dict[str, object]:
    return {
        "offset": record.offset,
        "timestamp": record.timestamp,
        **data_as_json("key", record.key),
        **data_as_json("value", record.value),
        "headers": headers_as_json(record.headers),
    }


def _red(line: str) -> str:
    return click.style(line, fg="red") if sys.stdout.isatty() else line


def _write(line: str) -> None:
    # Not click.echo, which flushes after each line.
    sys.stdout.write(line + "\n")
