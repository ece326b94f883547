"""The small text files, as Kafka writes and reads them."""

import pytest
from crc32c import crc32c
from tests.support.memory_files import MemoryFiles

from penstock.runtime.files import DiskError, StorageError
from penstock.storage.checkpoint import (
    read_epoch_checkpoint,
    read_offset_checkpoint,
    read_partition_metadata,
    write_epoch_checkpoint,
    write_offset_checkpoint,
    write_partition_metadata,
)
from penstock.storage.errors import CorruptFile

PATH = "/data/file"


@pytest.fixture
def files() -> MemoryFiles:
    files = MemoryFiles()
    files.make_directories("/data")
    return files


def test_offset_checkpoints_are_kafkas_text_with_a_checksum_as_last_entry(files: MemoryFiles) -> None:
    offsets = {("orders", 0): 4711, ("a.b_c-d", 12): 0, ("big", 1): 2**63 - 1}
    write_offset_checkpoint(files, PATH, offsets)
    entries = b"orders 0 4711\na.b_c-d 12 0\nbig 1 9223372036854775807"
    assert files.content(PATH) == b"0\n4\n%s\n~crc32c 0 %d\n" % (entries, crc32c(entries))
    assert read_offset_checkpoint(files, PATH) == offsets
    files.replace(PATH, b"0\n3\n%s\n" % entries)
    assert read_offset_checkpoint(files, PATH) == offsets, "Kafka's own has no checksum"


def test_no_flipped_bit_of_an_offset_checkpoint_gives_another_offset(files: MemoryFiles) -> None:
    """A log start that is too high would hide records, and one that is too low show what was deleted."""
    offsets = {("orders", 0): 47, ("orders", 1): 8}
    write_offset_checkpoint(files, PATH, offsets)
    refused = 0
    for bit in range(8 * len(files.content(PATH))):
        copy = files.copy()
        copy.flip(PATH, bit)
        try:
            found = read_offset_checkpoint(copy, PATH)
        except CorruptFile:
            refused += 1
        else:
            assert found.items() >= offsets.items(), "only the checksum's own name may be lost"
    assert refused > 200


def test_an_empty_and_a_missing_checkpoint_hold_nothing(files: MemoryFiles) -> None:
    assert read_offset_checkpoint(files, PATH) == {}
    assert read_epoch_checkpoint(files, PATH) is None
    write_offset_checkpoint(files, PATH, {})
    assert read_offset_checkpoint(files, PATH) == {}
    assert read_epoch_checkpoint(files, PATH) == []


def test_epoch_checkpoints_are_kafkas_text(files: MemoryFiles) -> None:
    write_epoch_checkpoint(files, PATH, [(0, 0), (3, 100)])
    assert files.content(PATH) == b"0\n2\n0 0\n3 100\n"
    assert read_epoch_checkpoint(files, PATH) == [(0, 0), (3, 100)]


@pytest.mark.parametrize(
    "content",
    [b"", b"0", b"1\n0\n", b"0\n1\n", b"0\n1\na 0 1\nb 0 1\n", b"0\n1\na 0\n", b"0\n1\na 0 -1\n", b"0\n1\na 0 x\n",
     b"0\n1\na 0 1 2\n", b"0\nx\n", b"\xff\n0\n", b"0\n1\na 0 " + b"9" * 30 + b"\n"],
)  # fmt: skip
def test_a_damaged_checkpoint_is_refused(files: MemoryFiles, content: bytes) -> None:
    files.replace(PATH, content)
    with pytest.raises(CorruptFile):
        read_offset_checkpoint(files, PATH)


def test_a_checkpoint_is_the_old_one_or_the_new_one_whatever_fails(files: MemoryFiles) -> None:
    write_offset_checkpoint(files, PATH, {("t", 0): 1})
    for call in range(1, 10):
        copy = files.copy()
        copy.fail("any", DiskError, call=call)
        try:
            write_offset_checkpoint(copy, PATH, {("t", 0): 2})
        except StorageError:
            copy.power_cut()
            assert read_offset_checkpoint(copy, PATH) == {("t", 0): 1}
        else:
            copy.power_cut()
            assert read_offset_checkpoint(copy, PATH) == {("t", 0): 2}
            return
    raise AssertionError("writing never came to its end")


def test_partition_metadata_is_kafkas_text(files: MemoryFiles) -> None:
    write_partition_metadata(files, PATH, bytes(range(240, 256)))
    assert files.content(PATH) == b"version: 0\ntopic_id: 8PHy8_T19vf4-fr7_P3-_w"
    assert read_partition_metadata(files, PATH) == bytes(range(240, 256))


@pytest.mark.parametrize(
    "content", [b"", b"version: 0", b"version: 1\ntopic_id: 8PHy8_T19vf4-fr7_P3-_w", b"version: 0\ntopic_id: AAAA",
                b"version: 0\ntopic_id: !!!!8_T19vf4-fr7_P3-_w", b"\xff"]
)  # fmt: skip
def test_damaged_partition_metadata_is_refused(files: MemoryFiles, content: bytes) -> None:
    files.replace(PATH, content)
    with pytest.raises(CorruptFile):
        read_partition_metadata(files, PATH)
