"""Parquet and Arrow files come back as the records that they were, in row groups of a bounded size, in the folders of their time."""

from zoneinfo import ZoneInfo

import pytest
from tests.support.exports import DAY_MS, batches_of, export_once, time_of, value_of
from tests.support.memory_files import MemoryFiles

from penstock.offline.arrow_files import ArrowEncoder
from penstock.offline.arrow_tables import load
from penstock.offline.folder import AtomicFile
from penstock.offline.folding import QUARTER_MS, Folding
from penstock.offline.importing import StoredRecord, find_files, read_records
from penstock.runtime.files import DiskFull

ENDS = {0: 20, 1: 9}


def no_lines(line: bytes) -> StoredRecord:
    raise AssertionError("there are no lines in these")


@pytest.mark.parametrize(
    ("extension", "compression"),
    [("parquet", "zstd"), ("parquet", "none"), ("arrow", "lz4"), ("arrow", "zstd"), ("arrow", "none")],
)
@pytest.mark.parametrize("by", [None, "hour"])
async def test_files_come_back(extension: str, compression: str, by: None) -> None:
    files = MemoryFiles()
    encoder = ArrowEncoder(extension, compression, Folding(by))
    manifest = await export_once(files, encoder, ENDS, None, format_name=extension)
    found: list[StoredRecord] = []
    done: list[int] = []
    sources = find_files(files, "/out")
    for source in sources:
        for chunk in read_records(files, source, no_lines, done.append):
            found += chunk
    assert sum(done) == sum(source.size_bytes for source in sources) == manifest.size_bytes
    expected = [
        StoredRecord(value_of(index, offset), None, index, time_of(index, offset))
        for index, end in ENDS.items()
        for offset in range(end)
    ]
    assert sorted(found, key=lambda record: (record.partition, record.value)) == sorted(
        expected, key=lambda record: (record.partition, record.value)
    )


def test_what_waits_is_written_as_row_groups() -> None:
    files = MemoryFiles()
    file = AtomicFile(files, "/a.parquet")
    encoder = ArrowEncoder("parquet", "none", Folding(None))
    sink = encoder.open(file)
    for batch in batches_of(0, 0, 9):
        for piece in encoder.pieces(batch):
            sink.write(piece)
            assert sink.pending_bytes > 0
        if batch.next_offset == 6:
            sink.flush()
            assert sink.pending_bytes == 0
    sink.close()
    file.finish()
    reader = load("pyarrow.parquet").ParquetFile(load().BufferReader(files.content("/a.parquet")))
    metadata = reader.metadata
    assert [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)] == [6, 3]
    assert reader.read().column("offset").to_pylist() == list(range(9))


def test_a_file_that_is_given_up_leaves_nothing_and_complains_about_nothing() -> None:
    files = MemoryFiles()
    file = AtomicFile(files, "/a.parquet")
    encoder = ArrowEncoder("parquet", "none", Folding(None))
    sink = encoder.open(file)
    (batch,) = batches_of(0, 0, 3)
    for piece in encoder.pieces(batch):
        sink.write(piece)
    sink.flush()
    file.discard()
    del sink  # pyarrow ends its file when it goes
    assert list(files.image()) == ["/"]


def test_folders_are_those_of_the_zone() -> None:
    moment = 16_645 * DAY_MS + 4 * 3_600_000  # 2015-07-29T04:00Z
    assert Folding("day").folder(moment // QUARTER_MS) == "day=2015-07-29/"
    assert Folding("hour").folder(moment // QUARTER_MS) == "day=2015-07-29/hour=04/"
    new_york = ZoneInfo("America/New_York")
    assert Folding("hour", new_york).folder(moment // QUARTER_MS) == "day=2015-07-29/hour=00/"
    assert Folding("day", new_york).folder(moment // QUARTER_MS - 1) == "day=2015-07-28/"
    assert Folding("day").folder((1 << 62) // QUARTER_MS) == "day=__HIVE_DEFAULT_PARTITION__/"
    assert Folding(None).folder(0) == ""


@pytest.mark.parametrize("extension", ["parquet", "arrow"])
async def test_a_full_disk_is_told_as_such_and_the_next_run_goes_on(extension: str) -> None:
    encoder = ArrowEncoder(extension, "none", Folding("day"))
    failed = 0
    for call in range(6, 60, 5):
        files = MemoryFiles()
        files.fail("any", DiskFull, call=call)
        try:
            await export_once(files, encoder, ENDS, None, format_name=extension)
        except DiskFull:
            failed += 1
            files.kill()
            again = await export_once(files, encoder, ENDS, None, format_name=extension)
            assert again.record_count == sum(ENDS.values())
    assert failed > 5
