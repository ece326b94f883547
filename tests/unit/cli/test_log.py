import json
import struct
from pathlib import Path

import pytest

from penstock.cli.main import run
from penstock.cli.moments import time_text
from penstock.protocol.compression import Codec
from penstock.protocol.records import Record, encode_batch

Capture = pytest.CaptureFixture[str]
NOON_MS = 1_795_435_200_123  # 2026-11-23T12:00:00.123Z
LOG = "00000000000000000000.log"
INDEX = "00000000000000000000.index"
TIME_INDEX = "00000000000000000000.timeindex"


def record(offset: int, value: bytes | None = b"value", key: bytes | None = None) -> Record:
    return Record(offset, NOON_MS, key, value, ())


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    """`orders-0` with two batches: offsets 0 and 1 as they are, offset 2 in gzip by an idempotent producer."""
    first = encode_batch([record(0), record(1, b"\xff\x00", b"k\ny")], codec=Codec.NONE)
    second = encode_batch(
        [Record(2, NOON_MS, None, None, (("h", b"v"), ("n", None)))],
        codec=Codec.GZIP,
        base_offset=2,
        producer_id=7,
        producer_epoch=1,
        base_sequence=5,
    )
    folder = tmp_path / "data" / "orders-0"
    folder.mkdir(parents=True)
    (folder / LOG).write_bytes(bytes(first) + bytes(second))
    (folder / INDEX).write_bytes(struct.pack(">ii", 2, len(first)))
    (folder / TIME_INDEX).write_bytes(struct.pack(">qi", NOON_MS, 2))
    return folder


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def second_position(partition: Path) -> int:
    return int(struct.unpack(">ii", (partition / INDEX).read_bytes())[1])


def test_a_dump_shows_each_batch_of_a_folder_and_of_a_file_alike(partition: Path, capsys: Capture) -> None:
    assert run(["log", "dump", str(partition)]) == 0
    of_folder = capsys.readouterr()
    assert run(["log", "dump", str(partition / LOG)]) == 0
    assert capsys.readouterr() == of_folder
    path, headings, first, second = of_folder.out.splitlines()
    size, rest = second_position(partition), (partition / LOG).stat().st_size
    assert path == str(partition / LOG)
    assert headings.split()[:4] == ["OFFSETS", "POSITION", "SIZE", "RECORDS"]
    assert first.split() == ["0..1", "0", str(size), "2", "none", "-1", "ok", "2026-11-23T12:00:00Z"]
    assert second.split(maxsplit=8) == [
        *["2..2", str(size), str(rest - size), "1", "gzip", "-1", "ok", "2026-11-23T12:00:00Z"],
        "producer 7/1 sequence 5",
    ]


def test_records_are_shown_so_that_no_byte_of_them_reaches_the_terminal(
    partition: Path, capsys: Capture
) -> None:
    assert run(["log", "dump", "--records", str(partition)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if "12:00:00.123Z" in line]
    assert lines == [
        '0 2026-11-23T12:00:00.123Z null "value"',
        '1 2026-11-23T12:00:00.123Z "k\\ny" 0xff00',
        '2 2026-11-23T12:00:00.123Z null null "h"="v" "n"=null',
    ]


def test_json_tells_text_from_bytes_that_are_none(partition: Path, capsys: Capture) -> None:
    assert run(["log", "dump", "--json", "--records", str(partition)]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["base_offset"], first["last_offset"], first["is_crc_right"], first["faults"]) == (
        0,
        1,
        True,
        [],
    )
    assert first["records"][1] == {
        "offset": 1,
        "timestamp": NOON_MS,
        "key": "k\ny",
        "value_base64": "/wA=",
        "headers": [],
    }
    assert second["producer_id"] == 7
    assert second["records"][0]["headers"] == [{"name": "h", "value": "v"}, {"name": "n", "value": None}]


def test_a_wrong_checksum_is_told_where_it_is_and_the_rest_is_shown(partition: Path, capsys: Capture) -> None:
    flip(partition / LOG, 70)
    assert run(["log", "dump", str(partition)]) == 1
    out, err = capsys.readouterr()
    assert "WRONG" in out
    assert "  at 0: the CRC-32C is wrong" in out
    assert "2..2" in out
    assert err == "penstock: 1 fault found\n"
    assert run(["log", "dump", "--json", str(partition)]) == 1
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (first["is_crc_right"], first["faults"]) == (False, ["the CRC-32C is wrong"])


def test_records_that_do_not_decode_are_a_fault_of_their_batch(partition: Path, capsys: Capture) -> None:
    flip(partition / LOG, 61)
    assert run(["log", "dump", "--records", str(partition)]) == 1
    assert "at 0: the records can't be read" in capsys.readouterr().out


def test_a_good_partition_is_verified_in_one_line(partition: Path, capsys: Capture) -> None:
    (partition.parent / "meta.properties").write_text("version=1\nnode.id=1\npenstock.format=1\n")
    (partition.parent / ".kafka_cleanshutdown").touch()
    for path, name in ((partition, str(partition)), (partition.parent, "orders-0")):
        assert run(["log", "verify", str(path)]) == 0
        headings, line, summary = capsys.readouterr().out.splitlines()
        assert summary.startswith("1 partition, 3 records in 2 batches, ")
        assert summary.endswith(" s: nothing is wrong")
        assert headings.split() == [
            "FOLDER",
            "SEGMENTS",
            "BATCHES",
            "RECORDS",
            "START",
            "END",
            "BYTES",
            "VERDICT",
        ]
        size = (partition / LOG).stat().st_size
        assert line.split() == [name, "1", "2", "3", "0", "3", str(size), "good"]


@pytest.mark.parametrize(
    ("name", "position", "word", "complaint"),
    [
        (LOG, 70, "damaged", "at 0: the CRC-32C is wrong"),
        (LOG, 3, "damaged", "at 0: "),
        (LOG, -1, "torn tail", "bytes at the end are no whole batch"),
        (INDEX, 7, "wrong index", "at 0: no batch that ends with 2"),
        (TIME_INDEX, 7, "wrong index", "has the largest timestamp"),
    ],
)
def test_one_flipped_bit_is_found_wherever_it_is(
    partition: Path, capsys: Capture, name: str, position: int, word: str, complaint: str
) -> None:
    flip(partition / name, position)
    assert run(["log", "verify", str(partition)]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1].endswith(word)
    assert complaint in out
    assert err == "penstock: 1 of 1 not as they should be\n"
    assert run(["log", "verify", "--json", str(partition)]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == word


def test_a_segment_file_is_verified_by_itself(partition: Path, capsys: Capture) -> None:
    assert run(["log", "verify", str(partition / LOG)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[0] == str(partition / LOG)
    with (partition / LOG).open("ab") as log:
        log.write(b"torn")
    assert run(["log", "verify", str(partition / LOG)]) == 1


def test_a_gap_between_batches_is_a_fault_unless_the_log_is_compacted(
    partition: Path, capsys: Capture
) -> None:
    later = encode_batch([record(9)], codec=Codec.NONE, base_offset=9)
    with (partition / LOG).open("ab") as log:
        log.write(later)
    assert run(["log", "verify", str(partition)]) == 1
    assert run(["log", "verify", "--compacted", str(partition)]) == 0
    assert run(["log", "dump", str(partition)]) == 1
    assert run(["log", "dump", "--compacted", str(partition)]) == 0
    assert "9..9" in capsys.readouterr().out


def test_index_files_are_shown_entry_by_entry(partition: Path, capsys: Capture) -> None:
    position = second_position(partition)
    assert run(["log", "dump", str(partition / INDEX), str(partition / TIME_INDEX)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["OFFSET", "POSITION"],
        ["2", str(position)],
        ["TIMESTAMP", "TIME", "OFFSET"],
        [str(NOON_MS), "2026-11-23T12:00:00.123Z", "2"],
    ]
    assert run(["log", "dump", "--json", str(partition / INDEX)]) == 0
    assert json.loads(capsys.readouterr().out) == {"offset": 2, "position": position}


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("nowhere", "no such file or folder"),
        (f"orders-0/{LOG[:-5]}9.log", "no such file"),
        ("empty", "neither a partition's folder nor one that has any"),
        ("orders-0/partition.metadata", "Not a directory"),
        (f"orders-0/{LOG[:-4]}.txnindex", "nothing to show of a .txnindex file"),
        ("orders-0/00000000000000000003.snapshot", "snapshot"),
    ],
)
def test_a_path_that_makes_no_sense_is_one_line(
    partition: Path, capsys: Capture, name: str, complaint: str
) -> None:
    (partition.parent / "empty").mkdir()
    (partition / "partition.metadata").touch()
    (partition / f"{LOG[:-4]}.txnindex").touch()
    (partition / "00000000000000000003.snapshot").write_bytes(b"\0\1garbage")
    assert run(["log", "dump", str(partition.parent / name)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("timestamp_ms", "text"),
    [
        (NOON_MS, "2026-11-23T12:00:00.123Z"),
        (-1, "-"),
        (-2, "1969-12-31T23:59:59.998Z"),
        (2**63 - 1, str(2**63 - 1)),
        (-(2**63), str(-(2**63))),
    ],
)
def test_every_timestamp_of_64_bits_can_be_shown(timestamp_ms: int, text: str) -> None:
    assert time_text(timestamp_ms) == text
