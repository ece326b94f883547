"""Real log lines through every client: byte for byte, in order, in all five codecs."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import pytest
from tests.support import batches, loghub
from tests.support.clients import CODECS, aiokafka_client, java, kafka_python, kcat, librdkafka
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, fetch
from tests.support.wire import connect

pytestmark = pytest.mark.filterwarnings(kafka_python.WARNINGS)

Produce = Callable[[str, str, Sequence[bytes], str], None]


class Consume(Protocol):
    """How every client reads the first `count` values of partition 0."""

    def __call__(self, bootstrap: str, topic: str, count: int) -> list[bytes]: ...


PRODUCERS: Mapping[str, Produce] = {
    "kcat": kcat.produce,
    "confluent-kafka": librdkafka.produce,
    "aiokafka": aiokafka_client.produce,
    "kafka-python": kafka_python.produce,
    "java": java.produce,
}
CONSUMERS: Mapping[str, Consume] = {
    "kcat": kcat.consume,
    "confluent-kafka": librdkafka.consume,
    "aiokafka": aiokafka_client.consume,
    "kafka-python": kafka_python.consume,
    "java": java.consume,
}
CODEC_NUMBERS = dict(enumerate(CODECS))
TOPIC_LIMIT_S = 120


def lines_for(producer: str) -> list[bytes]:
    """The lines with their CR; the Java console producer takes CR for the end of a line, so it never sees one."""
    return [line.rstrip(b"\r") if producer == "java" else line for line in loghub.lines()]


def fill_topic(bootstrap: str, producer: str) -> str:
    """A topic of one partition with the lines in each codec, one after another."""
    with connect(bootstrap) as connection:
        topic = create_topic(connection, f"lines-{producer}")
    for codec in CODECS:
        PRODUCERS[producer](bootstrap, topic, lines_for(producer), codec)
    return topic


@pytest.fixture(scope="module")
def topics(server: RunningServer) -> Mapping[str, Future[str]]:
    """A topic for each producing client, being filled; the JVMs take long, so they go first."""
    with ThreadPoolExecutor(2) as pool:
        order = sorted(PRODUCERS, key=lambda name: name != "java")
        return {name: pool.submit(fill_topic, server.bootstrap, name) for name in order}


@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("producer", PRODUCERS)
def test_lines_come_out_changed_or_out_of_order(
    producer: str, consumer: str, topics: Mapping[str, Future[str]], server: RunningServer
) -> None:
    expected = lines_for(producer) * len(CODECS)
    topic = topics[producer].result(TOPIC_LIMIT_S)
    found = CONSUMERS[consumer](server.bootstrap, topic, len(expected))
    assert len(found) == len(expected)
    assert found == expected


@pytest.mark.parametrize("producer", PRODUCERS)
def test_a_client_silently_sends_another_codec_than_asked(
    producer: str, topics: Mapping[str, Future[str]], server: RunningServer
) -> None:
    """Clients turn a codec off when the table of APIs looks too old for it, and say nothing."""
    topic = topics[producer].result(TOPIC_LIMIT_S)
    with connect(server.bootstrap) as connection:
        answer = fetch(connection, topic, 0)
    codecs = [
        CODEC_NUMBERS[batches.codec_number_of(batch)] for batch in batches.split_batches(answer.records)
    ]
    assert list(dict.fromkeys(codecs)) == list(CODECS)
