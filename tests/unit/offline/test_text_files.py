"""Lines come back as the records that they were, whatever bytes are in them and wherever a read is cut."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.memory_files import MemoryFiles

from penstock.cli.output import json_text
from penstock.cli.record_format import json_line, record_as_json
from penstock.cli.record_input import read_json
from penstock.consumer.record import ConsumerRecord
from penstock.offline.importing import BadFile, SourceFile, StoredRecord, find_files, read_records
from penstock.offline.text_files import csv_first_line, csv_line
from penstock.producer.producer import OutgoingRecord
from penstock.protocol.record_batch import TimestampType

data = (
    st.none()
    | st.binary(max_size=20)
    | st.sampled_from([b"", b"\r\n", b'"', b"a,b\n", "ü\u2028\x85".encode()])
)
names = st.text(max_size=3) | st.binary(max_size=3).map(lambda name: name.decode("utf-8", "surrogateescape"))
headers = st.lists(st.tuples(names, data), max_size=2)


def record_of(
    key: bytes | None, value: bytes | None, time_ms: int, named: list[tuple[str, bytes | None]]
) -> ConsumerRecord:
    return ConsumerRecord("t", 1, 5, time_ms, TimestampType.CREATE_TIME, key, value, tuple(named), 0)


records = st.builds(record_of, data, data, st.integers(0, 1 << 50), headers)


def stored(line: bytes) -> StoredRecord:
    found = read_json(line)
    assert isinstance(found, OutgoingRecord)
    return StoredRecord(found.value, found.key, found.partition, found.timestamp_ms, tuple(found.headers))


def read_back(name: str, content: bytes) -> list[StoredRecord]:
    files = MemoryFiles()
    file = files.open(name, write=True, create=True)
    file.pwrite(content, 0)
    done: list[int] = []
    chunks: list[Sequence[StoredRecord]] = list(
        read_records(files, SourceFile(name, len(content)), stored, done.append)
    )
    assert sum(done) == len(content)
    return [record for chunk in chunks for record in chunk]


@given(st.lists(records, max_size=4))
def test_csv_and_json_lines_come_back(given_records: list[ConsumerRecord]) -> None:
    expected = [StoredRecord(r.value, r.key, 1, r.timestamp_ms, r.headers) for r in given_records]
    assert read_back("/a.csv", csv_first_line() + b"".join(map(csv_line, given_records))) == expected
    assert read_back("/a.jsonl", b"".join(map(json_line, given_records))) == expected


@given(records)
def test_a_line_of_json_is_the_same_by_the_short_way(record: ConsumerRecord) -> None:
    assert json_line(record) == json_text(record_as_json(record)).encode() + b"\n"


def test_null_and_nothing_differ_in_csv() -> None:
    null, nothing = record_of(None, None, 7, []), record_of(b"", b"", 7, [])
    assert csv_line(null) == b"t,1,5,7,,,,,\r\n"
    assert csv_line(nothing) == b't,1,5,7,"",utf-8,"",utf-8,\r\n'


def test_lines_across_reads_and_a_last_one_without_an_end() -> None:
    big = ConsumerRecord("t", 1, 5, 7, TimestampType.CREATE_TIME, None, b"x\n" * 700_000, (), 0)
    lines = csv_first_line() + csv_line(big) * 3
    assert [record.value for record in read_back("/a.csv", lines)] == [big.value] * 3
    text = json_line(big) * 2
    assert [record.value for record in read_back("/a.jsonl", text[:-1])] == [big.value] * 2


@pytest.mark.parametrize(
    "row", [b"t,1,5,7,a,rot13,b,utf-8,\r\n", b"t,x,5,7,,,,,\r\n", b'"', b"t,1,5,7,,,,,nonsense\r\n", b"t\r\n"]
)
def test_a_row_that_is_none_is_told(row: bytes) -> None:
    with pytest.raises(BadFile, match=r"/a\.csv"):
        read_back("/a.csv", csv_first_line() + row)


def test_a_folder_means_its_data_files_and_those_in_its_hive_folders() -> None:
    files = MemoryFiles()
    files.make_directories("/d/day=2015-07-29")
    files.make_directories("/d/other")
    for name in ("/d/b.csv", "/d/a.txt", "/d/day=2015-07-29/a.jsonl", "/d/other/c.csv"):
        files.open(name, write=True, create=True).pwrite(b"x", 0)
    assert [each.path for each in find_files(files, "/d/")] == ["/d/b.csv", "/d/day=2015-07-29/a.jsonl"]
    files.make_directories("/e")
    with pytest.raises(BadFile, match="no file whose name ends in"):
        find_files(files, "/e")
