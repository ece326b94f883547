"""A compacted topic on a real broker: librdkafka reads the latest value of each key, and kafka-dump-log finds nothing wrong with what is left."""

import re
from pathlib import Path

from bench.peers.kafka import Tool
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition
from tests.support.clients import CODECS, LIMIT_S, java, librdkafka
from tests.support.commands import Commands
from tests.support.deadline import until
from tests.support.processes import RunningServer, running_server
from tests.support.topics import create_topic
from tests.support.wire import connect

COMPLAINTS = re.compile(
    r"mismatch|corrupt|invalid|isvalid: false|not found|Found timestamp|sanity|Exception|ERROR|unmatched",
    re.IGNORECASE,
)
"""Of kafka-dump-log. That offsets are not consecutive is what compaction is for."""
KEY_COUNT = 300
ROUNDS = 15
SETTINGS = {"log.cleaner.backoff.ms": "50"}
CONFIGS = {
    "cleanup.policy": "compact",
    "segment.bytes": "40000",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "0",
}


def write(server: RunningServer, topic: str) -> dict[bytes, bytes]:
    """In every codec, write each of some keys many times, and delete a few; returns what is valid at the end."""
    latest: dict[bytes, bytes] = {}
    for number, codec in enumerate(CODECS):
        producer = librdkafka.make_producer(
            server.bootstrap, enable_idempotence=True, linger_ms=2, compression_type=codec, batch_size=4000
        )
        acks = librdkafka.Acks()
        for turn in range(ROUNDS):
            for key in (b"%d-%d" % (number, index) for index in range(KEY_COUNT)):
                value = latest[key] = b"%s %d %d " % (key, number, turn) + b"x" * 40
                producer.produce(topic, value, key, partition=0, on_delivery=acks)
                producer.poll(0)
        for index in range(0, KEY_COUNT, 10):
            key = b"%d-%d" % (number, index)
            latest.pop(key, None)
            producer.produce(topic, None, key, partition=0, on_delivery=acks)
        assert producer.flush(LIMIT_S) == 0
        assert not acks.errors
    return latest


def read_to_the_end(consumer: Consumer, topic: str) -> list[Message]:
    partition = TopicPartition(topic, 0, OFFSET_BEGINNING)
    _, end = consumer.get_watermark_offsets(partition, timeout=LIMIT_S)
    consumer.assign([partition])
    found: list[Message] = []

    def is_over() -> bool:
        for message in consumer.consume(10_000, 0.2):
            error = message.error()
            assert error is None, str(error)
            found.append(message)
        (at,) = consumer.position([TopicPartition(topic, 0)])
        return at.offset >= end

    until(is_over, "the end of the topic", limit_s=LIMIT_S)
    return found


def latest_of(messages: list[Message]) -> dict[bytes, bytes]:
    latest: dict[bytes, bytes] = {}
    for message in messages:
        key, value = message.key(), message.value()
        assert isinstance(key, bytes)
        if value is None:
            latest.pop(key, None)
        else:
            assert isinstance(value, bytes)
            latest[key] = value
    return latest


def active_base(folder: Path) -> int:
    return max(int(path.stem) for path in folder.glob("*.log"))


def is_clean(server: RunningServer, folder: Path) -> bool:
    """Whether the checkpoint says that all but the active segment has been compacted."""
    path = server.data_directory / "cleaner-offset-checkpoint"
    topic = folder.name.removesuffix("-0")
    found = re.search(rf"^{topic} 0 (\d+)$", path.read_text() if path.exists() else "", re.MULTILINE)
    return found is not None and int(found[1]) == active_base(folder)


def test_a_compacted_topic_is_not_what_librdkafka_and_kafka_dump_log_expect(tmp_path: Path) -> None:
    with running_server(tmp_path, SETTINGS) as server:
        with connect(server.bootstrap) as connection:
            topic = create_topic(connection, "compacted", configs=CONFIGS)
        folder = server.data_directory / f"{topic}-0"
        latest = write(server, topic)
        written = len(CODECS) * (ROUNDS * KEY_COUNT + KEY_COUNT // 10)
        until(lambda: is_clean(server, folder), "a compaction of all but the active segment", limit_s=60)
        for restart in ("none", "kill"):
            if restart == "kill":
                server.kill()
                server.start()
            consumer = librdkafka.make_consumer(server.bootstrap)
            messages = read_to_the_end(consumer, topic)
            consumer.close()
            offsets = [message.offset() for message in messages]
            assert offsets == sorted(set(offsets), key=lambda offset: offset or 0)
            assert latest_of(messages) == latest
            assert len(messages) < written / 3, "most were superseded"
        lines = Commands(server.bootstrap).good("consume", topic, "--exit", "--format", "%o\\n").lines
        assert [int(line) for line in lines] == offsets, "Penstock's own consumer reads the same"
        assert server.stop() in (0, 143)
    files = sorted(p for p in folder.iterdir() if p.suffix in {".log", ".index", ".timeindex", ".snapshot"})
    assert not [p for p in folder.iterdir() if p.suffix in {".cleaned", ".swap", ".deleted"}]
    out = java.run(Tool.DUMP_LOG, "--deep-iteration", "--files", ",".join(map(str, files))).decode()
    assert not COMPLAINTS.search(out), [line for line in out.splitlines() if COMPLAINTS.search(line)][:5]
    assert out.count("Dumping ") == len(files)
    told = [int(found) for found in re.findall(r"^\| offset: (\d+) ", out, re.MULTILINE)]
    assert told == offsets
    assert set(re.findall(r"compresscodec: (\w+)", out)) == set(CODECS)
    Commands("").good("log", "verify", str(server.data_directory))
