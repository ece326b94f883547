"""`penstock log verify` and `repair` on a data folder: what is told, what is done, and that nothing is done unasked."""

import json
from pathlib import Path

import pytest
from crc32c import crc32c
from tests.support.logs import NOW_MS, TOPIC_ID, append, batch, fill

from penstock.cli.main import run
from penstock.protocol.compression import Codec
from penstock.protocol.records import Record, encode_batch
from penstock.runtime.posix_files import PosixFileSystem
from penstock.storage.data_directory import DataDirectory
from penstock.storage.log_config import LogConfig

Capture = pytest.CaptureFixture[str]
SMALL = LogConfig(segment_bytes=300, index_interval_bytes=100)
SEGMENT = "00000000000000000004.log"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with two partitions of twelve records, cleanly closed."""
    path = tmp_path / "data"
    directory = DataDirectory.open(PosixFileSystem(), str(path), 1)
    for partition in range(2):
        log = directory.open_log("orders", partition, TOPIC_ID, SMALL, NOW_MS)
        fill(log, 12)
        log.close()
    directory.write_recovery_points({("orders", 0): 12, ("orders", 1): 12})
    directory.mark_clean()
    directory.close()
    return path


def damage(data: Path, partition: int = 0) -> Path:
    """Flip a bit in the second batch of the second segment."""
    path = data / f"orders-{partition}" / SEGMENT
    content = bytearray(path.read_bytes())
    content[70 + 65] ^= 1
    path.write_bytes(content)
    return path


def tree(data: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


def test_the_plan_is_shown_for_each_damaged_partition_and_nothing_is_done(
    data: Path, capsys: Capture
) -> None:
    path = damage(data)
    before = tree(data)
    for target in (data, data / "orders-0"):
        assert run(["log", "repair", str(target)]) == 0
        out = capsys.readouterr().out
        assert f"{path} at 70, 70 bytes: the CRC-32C is wrong; offset 5 is lost" in out
        rows = [line.split() for line in out.splitlines() if line.startswith("--")][:3]
        assert rows == [
            ["--cut", "7", "6", "6", "492", "B", "0", "to", "4"],
            ["--skip", "1", "0", "0", "70", "B", "0", "to", "11"],
            ["--quarantine", "12", "11", "11", "842", "B", "empty", "at", "12"],
        ]
        assert "nothing was done; to do it, name a way: penstock log repair " in out
        assert "orders-1" not in out
    assert tree(data) == before


def test_what_is_done_is_told_in_a_line_and_the_folder_is_good_then(data: Path, capsys: Capture) -> None:
    damage(data)
    assert run(["log", "verify", str(data)]) == 1
    out, err = capsys.readouterr()
    assert "1 damaged (`penstock log repair` shows what can be done)" in out.splitlines()[-1]
    assert err == "penstock: 1 of 2 not as they should be\n"
    assert run(["log", "repair", str(data / "orders-0"), "--skip", "--yes"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("orders-0: repaired by skip: 1 offset lost, the log is [0, 12) now; ")
    kept = Path(out.split(" is in ")[1].strip())
    assert kept.parent == data / "repaired"
    assert json.loads((kept / "report.json").read_text())["state"] == "done"
    assert run(["log", "verify", str(data)]) == 0
    assert "repaired/ keeps what 1 repair took out" in capsys.readouterr().out
    assert run(["log", "repair", str(data / "orders-0"), "--skip", "--yes"]) == 1
    assert capsys.readouterr().err == "penstock: nothing is damaged, so nothing was done\n"


def test_json_is_for_programs(data: Path, capsys: Capture) -> None:
    damage(data)
    assert run(["log", "repair", "--json", str(data)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["topic"], told["partition"], told["damages"][0]["offset"]) == ("orders", 0, 5)
    assert told["ways"]["cut"]["good_records_lost"] == 6
    assert run(["log", "repair", "--json", "--cut", "--yes", str(data / "orders-0")]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == "cut"
    assert run(["log", "verify", "--json", str(data)]) == 0
    folder, *partitions = map(json.loads, capsys.readouterr().out.splitlines())
    assert folder["faults"] == []
    assert [each["log_end_offset"] for each in partitions] == [5, 12]


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["{data}", "--yes"], 2, "--yes needs one of"),
        (["{data}", "--yes", "--cut"], 2, "one partition's folder at a time"),
        (["{data}/orders-0/" + SEGMENT], 1, "repair takes a partition's folder"),
        (["{data}/orders-0/nothing"], 1, "no such file"),
        (["{data}/.."], 1, "neither a partition's folder nor one that has any"),
    ],
)
def test_a_call_that_makes_no_sense_is_one_line(
    data: Path, capsys: Capture, arguments: list[str], code: int, complaint: str
) -> None:
    damage(data)
    before = tree(data)
    assert run(["log", "repair", *(text.format(data=data) for text in arguments)]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert complaint in err
    assert tree(data) == before


def test_a_folder_outside_of_a_data_folder_is_refused(data: Path, capsys: Capture, tmp_path: Path) -> None:
    (data / "orders-0").rename(tmp_path / "orders-0")
    assert run(["log", "repair", str(tmp_path / "orders-0"), "--cut", "--yes"]) == 1
    assert "no data folder" in capsys.readouterr().err


def test_a_folder_whose_log_starts_are_unknown_is_left_alone(data: Path, capsys: Capture) -> None:
    damage(data)
    (data / "log-start-offset-checkpoint").write_text("rubbish")
    before = tree(data)
    assert run(["log", "repair", str(data / "orders-0"), "--quarantine", "--yes"]) == 1
    assert "log-start-offset-checkpoint: version or count of entries is wrong" in capsys.readouterr().err
    assert tree(data) == before


def test_beside_a_broker_nothing_is_repaired_and_verify_says_that_it_runs(
    data: Path, capsys: Capture
) -> None:
    damage(data)
    directory = DataDirectory.open(PosixFileSystem(), str(data), 1)
    assert run(["log", "repair", str(data / "orders-0"), "--cut", "--yes"]) == 1
    assert capsys.readouterr().err == f"penstock: {data}: another process works in this data directory\n"
    assert run(["log", "verify", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "a broker works in this folder" in lines[0]
    assert [line.split()[-1] for line in lines if line.startswith("orders-")] == ["damaged", "use"]
    directory.close()


def test_a_folder_knows_which_logs_were_compacted(data: Path, capsys: Capture) -> None:
    (data / "orders-0" / SEGMENT).unlink()
    assert run(["log", "verify", str(data)]) == 1
    (data / "orders-0" / "compaction-checkpoint").write_text("0\n1\n12\n")
    capsys.readouterr()
    assert run(["log", "verify", str(data)]) == 0
    assert run(["log", "verify", str(data / "orders-0")]) == 0


def test_a_dump_names_what_compaction_and_transactions_leave(data: Path, capsys: Capture) -> None:
    directory = DataDirectory.open(PosixFileSystem(), str(data), 1)
    log = directory.open_log("orders", 0, TOPIC_ID, SMALL, NOW_MS)
    append(log, batch([b"tail"]))
    log.close()
    directory.close()
    path = data / "orders-0" / f"{12:020d}.log"
    content = bytearray(path.read_bytes())
    content[21:23] = (0x60).to_bytes(2)
    content[27:35] = NOW_MS.to_bytes(8)
    content[57:61] = (0).to_bytes(4)
    path.write_bytes(content)
    run(["log", "dump", str(path)])
    assert (
        "control: unknown, delete horizon 2023-11-14T22:13:20.000Z, no records left"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(("kind", "word"), [(0, "abort"), (1, "commit"), (9, "unknown")])
def test_a_dump_names_the_marker_in_a_control_batch(
    tmp_path: Path, capsys: Capture, kind: int, word: str
) -> None:
    key = b"\0\0" + kind.to_bytes(2)
    raw = bytearray(encode_batch([Record(0, NOW_MS, key, b"\0\0\0\0\0\0")], codec=Codec.NONE))
    raw[21:23] = (0x30).to_bytes(2)
    raw[17:21] = crc32c(raw[21:]).to_bytes(4)
    path = tmp_path / f"{0:020d}.log"
    path.write_bytes(raw)
    assert run(["log", "dump", str(path)]) == 0
    assert f"transactional, control: {word}" in capsys.readouterr().out
    assert run(["log", "dump", "--json", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["control"] == (None if word == "unknown" else word)
