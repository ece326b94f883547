"""Bytes from hell to a live process: a clear error or a closed connection, memory bounded, others unharmed, nothing written."""

import resource
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.faults.conftest import StartServer
from tests.support import schema_codec
from tests.support.batches import encode_batch
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import (
    IS_KAFKA,
    RunningServer,
    answers,
    resident_bytes,
    resident_bytes_max,
    running_server,
)
from tests.support.schema_codec import API_KEYS
from tests.support.topics import create_topic, fetch_request, fetch_values, produce, produce_values
from tests.support.wire import Connection, ConnectionEnded, address_of, connect, frame, request_header

pytestmark = pytest.mark.skipif(IS_KAFKA, reason="Apache Kafka dies of the floods")

MIB = 1 << 20
GROWTH_BYTES_MAX = 32 * MIB
"""How much a broker may grow by a flood that asks for gigabytes."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One broker for all: it must survive each test, and all of them together."""
    with running_server(tmp_path_factory.mktemp("bad-input")) as running:
        with connect(running.bootstrap) as connection:
            create_topic(connection, "known")
        yield running
        print(running.log_text()[-4000:])


@pytest.fixture(autouse=True)
def survives(server: RunningServer) -> Iterator[None]:
    """After each test the same process answers."""
    pid = server.pid
    yield
    assert answers(server.bootstrap)
    assert server.pid == pid


def log_lines(server: RunningServer) -> int:
    return server.log_text().count("\n")


BAD_FRAMES = {
    "length of 2 GB": struct.pack(">i", 2**31 - 1) + b"x" * 100,
    "length over socket.request.max.bytes": struct.pack(">i", 100 * MIB + 1) + b"x" * 100,
    "negative length": struct.pack(">i", -1),
    "length of -2^31": struct.pack(">i", -(2**31)),
    "no header": struct.pack(">i", 0),
    "half a header": frame(b"\0\x03\0"),
    "unknown API": frame(request_header(9999, 0, 1, is_flexible=False)),
    "negative API": frame(request_header(-1, 0, 1, is_flexible=False)),
    "an API of the controller": frame(request_header(52, 0, 1, is_flexible=True) + bytes(64)),
    "unknown version": frame(request_header(3, 99, 1, is_flexible=True) + bytes(8)),
    "negative version": frame(request_header(3, -1, 1, is_flexible=False) + bytes(8)),
    "client id longer than the frame": frame(struct.pack(">hhih", 3, 1, 1, 30_000) + b"x"),
    "client id of negative length": frame(struct.pack(">hhih", 3, 1, 1, -2) + bytes(8)),
    "endless tagged fields in the header": frame(
        struct.pack(">hhih", 3, 12, 1, 0) + b"\xff\xff\xff\xff\x0f" + bytes(20)
    ),
    "another protocol": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a TLS client": bytes.fromhex("160301020001"),
    "large frame for a small request": struct.pack(">i", 50 * MIB)
    + request_header(3, 1, 1, is_flexible=False)
    + bytes(2 * MIB),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
def test_a_bad_frame_is_waited_for_or_allocated(name: str, server: RunningServer) -> None:
    before, lines = resident_bytes(server.pid), log_lines(server)
    with connect(server.bootstrap) as other, connect(server.bootstrap) as bad:
        assert other.request("api_versions", 0).error_code == 0
        with suppress(BrokenPipeError, ConnectionResetError):  # it need not wait for the end
            bad.send_bytes(BAD_FRAMES[name])
        assert bad.is_closed_by_peer()
        assert other.request("api_versions", 0).error_code == 0
    assert resident_bytes(server.pid) - before < GROWTH_BYTES_MAX
    assert log_lines(server) - lines == 1


def lies() -> Iterator[tuple[str, int, str, bytes]]:
    """Every array of every version of every request that is served, claiming up to 2^32 - 2 elements."""
    for api in API_KEYS:
        if api not in SERVED:
            continue
        for version in schema_codec.versions(api):
            for name, body in schema_codec.with_counts_of_four_billion(api, version):
                yield api, version, name, body


SERVED = (
    "produce",
    "fetch",
    "list_offsets",
    "metadata",
    "api_versions",
    "create_topics",
    "delete_topics",
    "delete_records",
    "init_producer_id",
    "offset_for_leader_epoch",
    "describe_configs",
    "alter_configs",
    "describe_log_dirs",
    "create_partitions",
    "elect_leaders",
    "alter_partition_reassignments",
    "list_partition_reassignments",
    "incremental_alter_configs",
    "describe_cluster",
    "describe_topic_partitions",
    "find_coordinator",
    "offset_commit",
    "offset_fetch",
    "offset_delete",
    "join_group",
    "sync_group",
    "heartbeat",
    "leave_group",
    "describe_groups",
    "list_groups",
    "delete_groups",
)


def test_an_array_of_four_billion_kills_the_process(server: RunningServer) -> None:
    before, lines, count = resident_bytes_max(server.pid), log_lines(server), 0
    for api, version, name, body in lies():
        count += 1
        with connect(server.bootstrap) as connection:
            connection.send_body(api, version, body)
            connection.socket.shutdown(socket.SHUT_WR)  # a fetch need not wait
            try:
                connection.receive_frame()
            except TimeoutError:
                pytest.fail(f"neither an answer nor an end: {api} v{version} {name}")
    assert count > 400
    assert resident_bytes_max(server.pid) - before < GROWTH_BYTES_MAX
    assert log_lines(server) - lines <= count


def test_an_array_of_four_billion_is_answered(server: RunningServer) -> None:
    """What can't be read is not acted on, either."""
    with connect(server.bootstrap) as connection:
        body = b"\xff\xff\xff\xff\x0f"  # Metadata v9: topics
        connection.send_body("metadata", 9, body)
        assert connection.is_closed_by_peer()


def files_below(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize("name", ["../x", "/tmp/penstock-x", "..", "a/../../x", "%2e%2e%2fx", "x\0y", "x\ny"])
def test_a_topic_name_that_is_a_path_is_written(name: str, tmp_path: Path, start_server: StartServer) -> None:
    running = start_server(auto_create_topics_enable="true")
    before = {path for path in files_below(tmp_path) if path.parent != running.data_directory}
    with connect(running.bootstrap) as connection:
        made = [{"name": name, "num_partitions": 1, "replication_factor": 1}]
        created = connection.request("create_topics", 7, topics=made, timeout=5000)
        assert created.topics[0].error_code == ErrorCode.invalid_topic_exception
        told = connection.request(
            "metadata", 12, topics=[{"name": name, "topic_id": None}], allow_auto_topic_creation=True
        )
        assert told.topics[0].error_code in (
            ErrorCode.invalid_topic_exception,
            ErrorCode.unknown_topic_or_partition,
        )
        assert produce(connection, name, encode_batch([b"x"])).error_code != 0
        assert connection.request("metadata", 12, topics=None).topics == []
    assert {path for path in files_below(tmp_path) if path.parent != running.data_directory} == before
    assert not Path("/tmp/penstock-x-0").exists()
    assert not [
        path for path in running.data_directory.iterdir() if path.is_dir() and path.name.endswith("-0")
    ]


def test_half_a_request_and_silence_holds_up_others(server: RunningServer) -> None:
    with ExitStack() as stack:
        whole = frame(request_header(3, 1, 1, is_flexible=False) + struct.pack(">i", -1))
        for cut in range(1, len(whole)):
            stack.enter_context(connect(server.bootstrap)).send_bytes(whole[:cut])
        with connect(server.bootstrap) as other:
            topic = create_topic(other, "unharmed")
            assert produce_values(other, topic, b"x") == 0


def test_half_a_request_and_silence_lives_for_ever(start_server: StartServer) -> None:
    running = start_server(connection_frame_timeout_ms="300", connections_max_idle_ms="60000")
    with connect(running.bootstrap) as half, connect(running.bootstrap) as idle:
        half.send_bytes(struct.pack(">i", 100) + b"x" * 50)
        assert half.is_closed_by_peer()
        assert idle.request("api_versions", 0).error_code == 0


def test_an_idle_connection_lives_for_ever(start_server: StartServer) -> None:
    running = start_server(connections_max_idle_ms="500")
    with connect(running.bootstrap) as idle:
        assert idle.request("api_versions", 0).error_code == 0
        assert idle.is_closed_by_peer()


def test_large_claims_with_little_behind_them_fill_the_memory(server: RunningServer) -> None:
    """Three hundred produces of 90 MB each, of which 10 KB come: what is promised is neither allocated nor held against others."""
    before = resident_bytes_max(server.pid)
    head = struct.pack(">i", 90 * MIB) + request_header(0, 9, 1, is_flexible=True)
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connect(server.bootstrap)).send_bytes(head + bytes(10_000))
        with connect(server.bootstrap) as other:
            topic = create_topic(other, "claims")
            assert produce_values(other, topic, b"x") == 0
    assert resident_bytes_max(server.pid) - before < GROWTH_BYTES_MAX


IDLE_COUNT = 2000
UNHARMED_S = 5.0
"""A generous bound for the answer to another client."""


def test_two_thousand_idle_connections_harm_others(server: RunningServer) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, IDLE_COUNT + 500)), hard))
    before = resident_bytes(server.pid)
    with ExitStack() as stack:
        for _ in range(IDLE_COUNT):
            idle = stack.enter_context(socket.socket())
            idle.connect(address_of(server.bootstrap))
        with connect(server.bootstrap) as other:
            topic = create_topic(other, "crowd")
            for number in range(50):
                assert produce_values(other, topic, b"x" * 1000) == number
            assert len(fetch_values(other, topic)) == 50
        assert until(lambda: open_files(server.pid) >= IDLE_COUNT, "two thousand connections accepted")
        assert resident_bytes(server.pid) - before < 2 * GROWTH_BYTES_MAX
    until(lambda: open_files(server.pid) < IDLE_COUNT / 2, "the connections closed again")


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_more_connections_than_allowed_are_taken(start_server: StartServer) -> None:
    running = start_server(max_connections_per_ip="20")
    with ExitStack() as stack:
        kept = [stack.enter_context(admitted(running.bootstrap)) for _ in range(20)]
        with connect(running.bootstrap) as refused:
            assert refused.is_closed_by_peer()
        assert kept[19].request("api_versions", 0).error_code == 0
    until(lambda: answers(running.bootstrap), "room for a new one")


def admitted(bootstrap: str) -> Connection:
    """A connection that answers; the one that saw the start of the broker may still count for a moment."""

    def attempt() -> Connection | None:
        connection = Connection(address_of(bootstrap))
        try:
            assert connection.request("api_versions", 0).error_code == 0
        except (ConnectionEnded, OSError):
            connection.close()
            return None
        return connection

    return until(attempt, "a connection that is let in")


SLOW_COUNT = 20


def test_readers_that_never_read_fill_the_memory(server: RunningServer) -> None:
    """Each asks for 40 times 16 MB and reads none of it."""
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "slow")
        for _ in range(32):
            produce_values(connection, topic, b"x" * 500_000)
        before = resident_bytes_max(server.pid)
        with ExitStack() as stack:
            for _ in range(SLOW_COUNT):
                slow = stack.enter_context(
                    Connection(address_of(server.bootstrap), receive_buffer_bytes=4096)
                )
                slow.socket.setblocking(False)
                ask(slow, topic)
            for number in range(20):
                assert produce_values(connection, topic, b"y") == 32 + number
                assert answers(server.bootstrap)
            assert resident_bytes_max(server.pid) - before < GROWTH_BYTES_MAX


def ask(slow: Connection, topic: str) -> None:
    """Send requests until the broker stops reading them, at most 40."""
    for _ in range(40):
        try:
            slow.send("fetch", 12, fetch_request({(topic, 0): 0}))
        except BlockingIOError:
            return


def test_answers_that_nobody_reads_fill_the_memory(server: RunningServer) -> None:
    """Metadata of 1,000 partitions, asked for as fast as the socket takes it: 30 KB of answer for 30 bytes of request."""
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "wide", partitions=1000)
        before = resident_bytes_max(server.pid)
        with Connection(address_of(server.bootstrap), receive_buffer_bytes=4096) as slow:
            slow.socket.settimeout(0.5)
            wanted = {"topics": [{"name": topic, "topic_id": None}]}
            body = schema_codec.encode_request("metadata", 12, wanted)
            flood = frame(request_header(3, 12, 1, is_flexible=True) + body) * 200_000
            with pytest.raises(TimeoutError):  # the broker stops reading when its answers are not read
                slow.send_bytes(flood)
            start = time.monotonic()
            assert connection.request("api_versions", 0).error_code == 0
            assert time.monotonic() - start < UNHARMED_S
            assert resident_bytes_max(server.pid) - before < GROWTH_BYTES_MAX
