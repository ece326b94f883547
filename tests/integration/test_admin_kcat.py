"""kcat's two admin calls: -L and -Q."""

from tests.support.batches import encode_batch
from tests.support.clients import kcat
from tests.support.processes import RunningServer
from tests.support.topics import create_topic, produce
from tests.support.wire import Connection


def test_kcat_lists_nothing(server: RunningServer, connection: Connection) -> None:
    name = create_topic(connection, "kcat-list", partitions=3)
    told = kcat.metadata(server.bootstrap)
    assert [broker["name"] for broker in told["brokers"]] == [server.bootstrap]
    (found,) = [topic for topic in told["topics"] if topic["topic"] == name]
    assert [each["partition"] for each in found["partitions"]] == [0, 1, 2]
    (alone,) = kcat.metadata(server.bootstrap, name)["topics"]
    assert alone == found


def test_kcat_finds_wrong_offsets(server: RunningServer, connection: Connection) -> None:
    name = create_topic(connection, "kcat-query")
    for times in ([1_000, 2_000], [3_000]):
        assert (
            produce(connection, name, encode_batch([b"x"] * len(times), timestamps_ms=times)).error_code == 0
        )
    asked = {1_000: 0, 1_500: 1, 2_500: 2, -1: 3, -2: 0}
    assert {time: kcat.offset_by_time(server.bootstrap, name, 0, time) for time in asked} == asked
