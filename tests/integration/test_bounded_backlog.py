"""A bounded backlog under other people's producers, and under our own: a refusal is seen at once, and whoever sees it goes on, exactly once."""

import json
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from bench.peers.kafka import PeerMissing, Tool, tool_command
from confluent_kafka import KafkaError, Message, TopicPartition
from tests.support.clients import aiokafka_client, kafka_python, kcat, librdkafka
from tests.support.processes import IS_KAFKA, RunningServer
from tests.support.requirements import need, need_program
from tests.support.topics import LATEST, create_topic, fetch_values, list_offset
from tests.support.wire import Connection

from penstock.client.errors import BacklogFull
from penstock.producer.batch import Delivery
from penstock.producer.producer import Producer

LIMIT_S = 60
BOUND = 40
COUNT = 400

pytestmark = pytest.mark.skipif(IS_KAFKA, reason="Apache Kafka has no bounded backlogs")


class Bounded:
    """A topic whose group has consumed nothing yet, and the group."""

    def __init__(self, server: RunningServer, connection: Connection, policy: str, folder: Path) -> None:
        configs = {
            "backlog.max.records": str(BOUND),
            "backlog.groups": "slow",
            "backlog.policy": policy,
            "write.caching": "true",
        }
        self.folder = folder
        self.bootstrap = server.bootstrap
        self.topic = create_topic(connection, f"bounded-{policy}", configs=configs)
        self._connection = connection
        self._group = librdkafka.make_consumer(server.bootstrap, group_id="slow")
        self.commit(0)

    def commit(self, offset: int | None = None) -> None:
        """Consume everything, or up to an offset."""
        at = list_offset(self._connection, self.topic, LATEST)[0] if offset is None else offset
        self._group.commit(offsets=[TopicPartition(self.topic, 0, at)], asynchronous=False)

    def check(self, acked: list[bytes], refused_count: int, count: int) -> None:
        """All that was acked is there once, in order, and nothing else; and both things have happened."""
        self._group.close()
        end = list_offset(self._connection, self.topic, LATEST)[0]
        kept = librdkafka.consume(self.bootstrap, self.topic, end)
        assert kept == sorted(acked, key=int)
        assert len(acked) + refused_count == count
        assert len(acked) > BOUND, "it went on after a refusal"


Sender = Callable[[Bounded, str], tuple[list[bytes], int]]
"""Sends COUNT numbers in batches of a few, commits now and then; which were acked, and how many refused."""


def by_librdkafka(topic: Bounded, codec: str) -> tuple[list[bytes], int]:
    acked: list[bytes] = []
    errors: Counter[str] = Counter()

    def told(error: KafkaError | None, message: Message) -> None:
        if error is None:
            acked.append(librdkafka.value_of(message))
        else:
            errors[error.name()] += 1

    producer = librdkafka.make_producer(
        topic.bootstrap, enable_idempotence=True, batch_num_messages=7, linger_ms=1, compression_type=codec
    )
    for start in range(0, COUNT, 100):
        for number in range(start, start + 100):
            producer.produce(topic.topic, b"%d" % number, partition=0, on_delivery=told)
        while producer.flush(0.01):
            topic.commit()
        topic.commit()
    assert set(errors) <= {"POLICY_VIOLATION"}
    return acked, errors.total()


def by_aiokafka(topic: Bounded, codec: str) -> tuple[list[bytes], int]:
    acked: list[bytes] = []
    errors: Counter[str] = Counter()

    async def work() -> None:
        async with aiokafka_client.aiokafka.AIOKafkaProducer(
            bootstrap_servers=topic.bootstrap,
            compression_type=None if codec == "none" else codec,
            max_batch_size=200,
        ) as producer:
            for start in range(0, COUNT, 100):
                values = [b"%d" % number for number in range(start, start + 100)]
                sent = [(value, await producer.send(topic.topic, value, partition=0)) for value in values]
                for value, future in sent:
                    try:
                        await future
                        acked.append(value)
                    except Exception as error:  # noqa: BLE001 - the client's own classes
                        errors[type(error).__name__] += 1
                topic.commit()

    aiokafka_client.run(work)
    assert set(errors) <= {"PolicyViolationError"}
    return acked, errors.total()


def by_kafka_python(topic: Bounded, codec: str) -> tuple[list[bytes], int]:
    kafka_python.need_codec(codec)
    acked: list[bytes] = []
    errors: Counter[str] = Counter()
    producer = kafka_python.kafka.KafkaProducer(
        bootstrap_servers=topic.bootstrap,
        compression_type=None if codec == "none" else codec,
        batch_size=200,
        enable_idempotence=False,  # with it, any refusal is fatal to this client
    )
    try:
        for start in range(0, COUNT, 100):
            values = [b"%d" % number for number in range(start, start + 100)]
            for value, future in [
                (value, producer.send(topic.topic, value, partition=0)) for value in values
            ]:
                try:
                    future.get(LIMIT_S)
                    acked.append(value)
                except Exception as error:  # noqa: BLE001 - the client's own classes
                    errors[type(error).__name__] += 1
            topic.commit()
    finally:
        producer.close()
    assert set(errors) <= {"PolicyViolationError"}
    return acked, errors.total()


def by_java(topic: Bounded, codec: str) -> tuple[list[bytes], int]:
    to = ("--bootstrap-server", topic.bootstrap, "--topic", topic.topic, "--max-messages", str(COUNT))
    config = topic.folder / "producer.properties"
    config.write_text(f"compression.type={codec}\nbatch.size=150\n")
    try:
        command = tool_command(
            Tool.VERIFIABLE_PRODUCER, *to, "--command-config", str(config), "--throughput", "400"
        )
    except PeerMissing as missing:
        need(False, str(missing))
        raise
    acked: list[bytes] = []
    errors: Counter[str] = Counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            if told["name"] == "producer_send_success":
                acked.append(told["value"].encode())
            elif told["name"] == "producer_send_error":
                errors[told["exception"].rpartition(".")[2]] += 1
            if (len(acked) + errors.total()) % 25 == 24:
                topic.commit()
    assert set(errors) <= {"PolicyViolationException"}
    return acked, errors.total()


def by_penstock(topic: Bounded, codec: str) -> tuple[list[bytes], int]:
    acked: list[bytes] = []
    errors: Counter[str] = Counter()

    async def wait(value: bytes, delivery: Delivery) -> None:
        try:
            await delivery.wait()
            acked.append(value)
        except BacklogFull as error:
            errors["BacklogFull" if "backlog.max.records=40" in str(error) else str(error)] += 1

    async def work() -> None:
        with trio.fail_after(LIMIT_S):
            async with Producer(topic.bootstrap, compression=codec, batch_size_bytes=200) as producer:
                for start in range(0, COUNT, 100):
                    async with trio.open_nursery() as nursery:
                        for number in range(start, start + 100):
                            value = b"%d" % number
                            nursery.start_soon(wait, value, await producer.enqueue(topic.topic, value))
                    topic.commit()

    trio.run(work)
    assert set(errors) <= {"BacklogFull"}
    return acked, errors.total()


@pytest.mark.filterwarnings(kafka_python.WARNINGS)
@pytest.mark.parametrize(
    ("sender", "codec"),
    [
        pytest.param(by_librdkafka, "zstd", id="librdkafka"),
        pytest.param(by_aiokafka, "gzip", id="aiokafka"),
        pytest.param(by_kafka_python, "none", id="kafka-python"),
        pytest.param(by_java, "lz4", id="java"),
        pytest.param(by_penstock, "zstd", id="penstock"),
    ],
)
def test_a_refused_batch_stops_its_producer_or_costs_a_record_twice(
    sender: Sender, codec: str, server: RunningServer, connection: Connection, tmp_path: Path
) -> None:
    topic = Bounded(server, connection, "reject", tmp_path)
    acked, refused_count = sender(topic, codec)
    assert refused_count > 0
    topic.check(acked, refused_count, COUNT)


def test_kcat_waits_where_it_should_be_refused(
    server: RunningServer, connection: Connection, tmp_path: Path
) -> None:
    topic = Bounded(server, connection, "reject", tmp_path)
    values = b"\n".join(b"%d" % number for number in range(2 * BOUND))
    # With kcat's own 5 ms the first lines go alone on a busy machine, and fit.
    one_batch = ("-X", "linger.ms=1000")
    done = subprocess.run(
        [need_program("kcat"), "-P", "-b", topic.bootstrap, "-t", topic.topic, "-p", "0", *one_batch],
        input=values,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert b"Policy violation" in done.stderr
    assert done.returncode != 0
    assert fetch_values(connection, topic.topic) == []
    kcat.produce(topic.bootstrap, topic.topic, [b"fits"], "none")
    assert fetch_values(connection, topic.topic) == [(0, b"fits")]


@pytest.mark.parametrize("policy", ["hold", "throttle"])
def test_a_producer_sees_an_error_where_it_should_be_slowed_down(
    policy: str, server: RunningServer, connection: Connection, tmp_path: Path
) -> None:
    topic = Bounded(server, connection, policy, tmp_path)
    acked, refused_count = by_librdkafka(topic, "none")
    assert refused_count == 0
    topic.check(acked, refused_count, COUNT)
