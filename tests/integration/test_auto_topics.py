"""Topics that nobody created: with auto.create.topics.enable (the default) clients just begin."""

from collections.abc import Iterator

import pytest
from tests.support.clients import aiokafka_client, kafka_python, kcat, librdkafka
from tests.support.processes import RunningServer, running_server
from tests.support.topics import fetch_values, fresh_name
from tests.support.wire import connect

pytestmark = pytest.mark.filterwarnings(kafka_python.WARNINGS)
CLIENTS = {
    "kcat": kcat.produce,
    "confluent-kafka": librdkafka.produce,
    "aiokafka": aiokafka_client.produce,
    "kafka-python": kafka_python.produce,
}


@pytest.fixture(scope="module")
def willing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A broker with the defaults."""
    with running_server(tmp_path_factory.mktemp("willing")) as running:
        yield running


@pytest.mark.parametrize("client", CLIENTS)
def test_a_new_name_is_refused(client: str, willing: RunningServer) -> None:
    topic = fresh_name("auto")
    CLIENTS[client](willing.bootstrap, topic, [b"first", b"second"], "none")
    with connect(willing.bootstrap) as connection:
        assert [value for _, value in fetch_values(connection, topic)] == [b"first", b"second"]
