"""Apache Kafka's kafka-dump-log reads every file of a partition folder, and finds nothing wrong."""

import re
from pathlib import Path

import pytest
from bench.peers.kafka import Tool
from tests.support import loghub
from tests.support.batches import encode_batch
from tests.support.clients import CODECS, aiokafka_client, java, librdkafka
from tests.support.processes import RunningServer, running_server
from tests.support.topics import create_topic, init_producer_id, produce
from tests.support.wire import connect

COMPLAINTS = re.compile(
    r"mismatch|corrupt|invalid|isvalid: false|not found|Found timestamp|sanity|Exception|ERROR|unmatched|Non-consecutive",
    re.IGNORECASE,
)
SUFFIXES = {".log", ".index", ".timeindex", ".snapshot"}
SEGMENT_BYTES = 1 << 20


def fill(server: RunningServer) -> tuple[Path, int]:
    """Lines in every codec, then idempotent ones, over several segments; returns the folder and the record count."""
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "dump", configs={"segment.bytes": str(SEGMENT_BYTES)})
    lines = loghub.lines()
    for codec in CODECS:
        aiokafka_client.produce(server.bootstrap, topic, lines, codec)
    producer = librdkafka.make_producer(server.bootstrap, enable_idempotence=True, linger_ms=5)
    acks = librdkafka.Acks()
    for line in lines * 5:
        producer.produce(topic, line, partition=0, on_delivery=acks)
        producer.poll(0)
    assert producer.flush(30) == 0
    assert not acks.errors
    with connect(server.bootstrap) as connection:
        identity, epoch = init_producer_id(connection)
        one = encode_batch([b"last"], producer_id=identity, producer_epoch=epoch, base_sequence=0)
        assert produce(connection, topic, one).error_code == 0
    return server.data_directory / f"{topic}-0", len(lines) * 10 + 1


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_file_is_not_what_kafka_writes(end: str, tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        folder, count = fill(server)
        if end == "stop":
            assert server.stop() in (0, 143)
        else:
            server.kill()
            server.start()
            server.kill()
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    logs = [path for path in files if path.suffix == ".log"]
    assert len(logs) > 3
    assert {path.suffix for path in files} == SUFFIXES
    listed = ",".join(str(path) for path in files)
    out = java.run(Tool.DUMP_LOG, "--deep-iteration", "--files", listed).decode()
    assert not COMPLAINTS.search(out), [line for line in out.splitlines() if COMPLAINTS.search(line)][:5]
    assert [line for line in out.splitlines() if line.startswith("Dumping ")] == [
        f"Dumping {path}" for path in files
    ]
    offsets = [int(found) for found in re.findall(r"^\| offset: (\d+) ", out, re.MULTILINE)]
    assert offsets == list(range(count))
    assert set(re.findall(r"compresscodec: (\w+)", out)) == set(CODECS)
    assert re.search(r"^producerId: \d+ producerEpoch: 0 ", out, re.MULTILINE), "no producer in any snapshot"
    assert re.search(r"\.index\noffset: \d+ position: \d+", out), "no entry in any offset index"
    assert re.search(r"\.timeindex\ntimestamp: \d+ offset: \d+", out), "no entry in any time index"
    metadata = (folder / "partition.metadata").read_text()
    assert re.fullmatch(r"version: 0\ntopic_id: [\w-]{22}\n?", metadata)
