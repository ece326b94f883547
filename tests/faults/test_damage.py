"""One flipped byte takes one partition offline and nothing else, is told where it is, and is repaired by the command that the log names (D9, D10)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench.peers.kafka import Tool
from tests.faults.conftest import StartServer
from tests.support.batches import encode_batch, values_of
from tests.support.clients import java, kcat, librdkafka
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA, PenstockServer, RunningServer
from tests.support.topics import create_topic, fetch, fetch_values, list_offset, produce
from tests.support.wire import connect

pytestmark = pytest.mark.skipif(
    IS_KAFKA, reason="Apache Kafka serves what is damaged, and the client finds it"
)

COUNT = 100
SEGMENT_BYTES = 1 << 14
PENSTOCK = str(Path(sys.executable).with_name("penstock"))


def value(offset: int) -> bytes:
    return b"%06d" % offset * 100


def penstock(*arguments: str, code: int = 0) -> str:
    """Run the command line; what it printed on both streams."""
    done = subprocess.run(
        [PENSTOCK, *arguments], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "COLUMNS": "200"}
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def filled(server: RunningServer) -> tuple[str, str]:
    """Two topics: one of many segments, to be damaged, and one beside it."""
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "hurt", configs={"segment.bytes": str(SEGMENT_BYTES)})
        other = create_topic(connection, "well")
        for offset in range(COUNT):
            assert produce(connection, topic, encode_batch([value(offset)])).base_offset == offset
        assert produce(connection, other, encode_batch([b"well"])).error_code == 0
    return topic, other


def segments(server: RunningServer, topic: str) -> list[Path]:
    return sorted((server.data_directory / f"{topic}-0").glob("*.log"))


def flip(path: Path, position: int = 100) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0x20
    path.write_bytes(content)


def lines_about(server: RunningServer, topic: str, words: str) -> list[str]:
    return [line for line in server.log_text().splitlines() if f"{topic}-0" in line and words in line]


def assert_offline(server: RunningServer, topic: str, other: str) -> None:
    with connect(server.bootstrap) as connection:
        assert produce(connection, topic, encode_batch([b"x"])).error_code == ErrorCode.kafka_storage_error
        part = fetch(connection, topic, 0)
        assert part.error_code == ErrorCode.kafka_storage_error
        assert fetch_values(connection, other) == [(0, b"well")]
        assert produce(connection, other, encode_batch([b"more"])).error_code == 0
    described = penstock("topic", "describe", topic, "--bootstrap", server.bootstrap)
    assert re.search(r"^ *0 +offline ", described, re.MULTILINE), described
    (told,) = kcat.metadata(server.bootstrap, topic)["topics"]
    assert (told["partitions"][0]["leader"], told["partitions"][0]["error"]) == (-1, "Broker: Leader not available")  # fmt: skip


def lose_recovery_point(server: RunningServer) -> None:
    """As if the broker had never come to writing one: opening verifies all."""
    (server.data_directory / "recovery-point-offset-checkpoint").unlink(missing_ok=True)


def test_damage_in_a_closed_segment_takes_the_broker_down_or_is_served(start_server: StartServer) -> None:
    """After a kill all from the recovery point on is verified: the partition is refused, told in one line, and repaired as that line says."""
    server = start_server()
    topic, other = filled(server)
    server.kill()
    hurt = segments(server, topic)[2]
    flip(hurt)
    lose_recovery_point(server)
    server.start()
    assert_offline(server, topic, other)
    (line,) = lines_about(server, topic, "is offline")
    assert f"{hurt}: corrupt record batch at position 0: the CRC-32C is wrong" in line
    command = line.partition("run: penstock ")[2].split()
    assert command == ["log", "repair", str(hurt.parent)]
    assert "another process works in this data directory" in penstock(*command, code=1)
    assert server.stop() == 0
    penstock("log", "verify", str(server.data_directory), code=1)
    assert "1 offset" not in penstock(*command, code=0).splitlines()[-1]
    assert penstock(*command, "--skip", "--yes").startswith(f"{topic}-0: repaired by skip: 1 offset lost")
    penstock("log", "verify", str(server.data_directory))
    lost = int(hurt.stem)
    wanted = [(offset, value(offset)) for offset in range(COUNT) if offset != lost]
    server.start()
    with connect(server.bootstrap) as connection:
        assert fetch_values(connection, topic) == wanted
        assert produce(connection, topic, encode_batch([b"more"])).base_offset == COUNT
    read = [content for _, content in wanted] + [b"more"]
    assert librdkafka.consume(server.bootstrap, topic, COUNT) == read
    assert kcat.consume(server.bootstrap, topic, COUNT) == read
    assert server.stop() == 0
    assert_kafka_reads(segments(server, topic), lost)


def assert_kafka_reads(logs: list[Path], lost: int) -> None:
    """Kafka's own tool finds every record and nothing wrong, the place of the lost one included."""
    out = java.run(Tool.DUMP_LOG, "--deep-iteration", "--files", ",".join(map(str, logs))).decode()
    offsets = [int(found) for found in re.findall(r"^\| offset: (\d+) ", out, re.MULTILINE)]
    assert offsets == [offset for offset in range(COUNT + 1) if offset != lost]
    assert f"baseOffset: {lost} lastOffset: {lost} count: 0" in out
    assert "isvalid: false" not in out


def test_damage_below_the_recovery_point_is_served_or_fills_the_log(start_server: StartServer) -> None:
    """After a clean stop nothing is verified, so the first read finds it: the consumer is told, and the log in one line."""
    server = start_server()
    topic, other = filled(server)
    assert server.stop() == 0
    hurt = segments(server, topic)[2]
    flip(hurt)
    lost = int(hurt.stem)
    server.start()
    with connect(server.bootstrap) as connection:
        for _ in range(5):
            assert fetch(connection, topic, lost).error_code == ErrorCode.corrupt_message
        assert fetch(connection, topic, 0).error_code == 0
        assert produce(connection, topic, encode_batch([b"more"])).base_offset == COUNT
        assert fetch_values(connection, other) == [(0, b"well")]
    assert len(lines_about(server, topic, "corrupt record batch")) == 1
    told = penstock("consume", topic, "--from", str(lost), "--exit", "--bootstrap", server.bootstrap, code=1)
    assert "is damaged here (CORRUPT_MESSAGE)" in told
    assert server.stop() == 0
    assert penstock("log", "repair", str(hurt.parent), "--cut", "--yes").startswith(
        f"{topic}-0: repaired by cut: "
    )
    server.start()
    with connect(server.bootstrap) as connection:
        assert [offset for offset, _ in fetch_values(connection, topic)] == list(range(lost))
        assert produce(connection, topic, encode_batch([b"again"])).base_offset == lost


def test_damage_while_the_broker_runs_is_served_from_the_disk(start_server: StartServer) -> None:
    server = start_server()
    topic, _ = filled(server)
    assert server.stop() == 0
    server.start()
    hurt = segments(server, topic)[3]
    with connect(server.bootstrap) as connection:
        assert fetch(connection, topic, 0).error_code == 0
        flip(hurt)
        assert fetch(connection, topic, int(hurt.stem)).error_code == ErrorCode.corrupt_message
    assert server.stop() == 0
    penstock("log", "repair", str(hurt.parent), "--quarantine", "--yes")
    server.start()
    with connect(server.bootstrap) as connection:
        assert list_offset(connection, topic, -2)[0] == COUNT
        assert produce(connection, topic, encode_batch([b"on"])).base_offset == COUNT
        assert values_of(fetch(connection, topic, COUNT).records) == [(COUNT, b"on")]


def test_two_brokers_open_one_folder(start_server: StartServer, tmp_path: Path) -> None:
    """The second one says so in one line, whatever it calls the folder, and the first does not notice. The lock of a dead one is no lock."""
    server = start_server()
    assert isinstance(server, PenstockServer)
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "one")
        assert produce(connection, topic, encode_batch([b"well"])).error_code == 0
    (tmp_path / "link").symlink_to(server.data_directory)
    for path in (str(server.data_directory), str(tmp_path / "link"), "data", "./data/../data/"):
        second = subprocess.run(
            [PENSTOCK, "serve", "--listen", "127.0.0.1:0", "--data-dir", path],
            cwd=server.data_directory.parent,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (second.returncode, second.stdout) == (1, "")
        shown = path.rstrip("/")
        assert second.stderr == f"penstock: {shown}: another process works in this data directory\n"
    with connect(server.bootstrap) as connection:
        assert fetch_values(connection, topic) == [(0, b"well")]
    server.kill()
    assert (server.data_directory / ".lock").exists()
    server.start()
    assert server.stop() == 0
