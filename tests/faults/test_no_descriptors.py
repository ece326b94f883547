"""A broker that has run out of file descriptors: it accepts later, what is connected lives on, and it recovers (PROPERTIES D12)."""

import os
import resource
import selectors
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.faults.conftest import StartServer
from tests.support.batches import encode_batch
from tests.support.deadline import until
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA, RunningServer
from tests.support.topics import create_topic, fetch_values, produce
from tests.support.wire import Connection, address_of, connect

pytestmark = [
    pytest.mark.skipif(IS_KAFKA, reason="a JVM needs descriptors for itself"),
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="prlimit is Linux's"),
]
CONNECTION_COUNT = 40
LEFT_COUNT = 8
PARTITION_COUNT = 12
QUIET_S = 0.5


def descriptor_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def allow_descriptors(pid: int, count: int) -> None:
    """Set the process's limit while it runs."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (count, hard))


def processor_s(pid: int) -> float:
    """Processor time that the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Crowd:
    """Connections that each want one answer."""

    def __init__(self, server: RunningServer, stack: ExitStack) -> None:
        self.answered: list[Connection] = []
        self.waiting: list[Connection] = []
        for _ in range(CONNECTION_COUNT):
            connection = stack.enter_context(Connection(address_of(server.bootstrap)))
            connection.send("api_versions", 0, {})
            self.waiting.append(connection)

    def collect(self) -> int:
        """Take the answers that are there; returns how many still wait."""
        with selectors.DefaultSelector() as selector:
            for connection in self.waiting:
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            ready = [key.data for key, _ in selector.select(0)]
        for connection in ready:
            assert connection.receive("api_versions", 0, connection.correlation_id).error_code == 0
            self.waiting.remove(connection)
            self.answered.append(connection)
        return len(self.waiting)


class Traffic:
    """One connection that was there before, and all that it was acked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._topic = create_topic(
            connection, "crowded", partitions=PARTITION_COUNT, configs={"segment.bytes": "4096"}
        )
        self._told: list[list[tuple[int, bytes]]] = [[] for _ in range(PARTITION_COUNT)]
        self.refused_count = 0
        self.acked_count = 0

    def write(self) -> None:
        """A record into each partition; refusals are counted."""
        for index, told in enumerate(self._told):
            value = b"%d/%d " % (index, len(told)) * 30
            answer = produce(self._connection, self._topic, encode_batch([value]), partition=index)
            if answer.error_code:
                assert ErrorCode(answer.error_code) == ErrorCode.kafka_storage_error
                self.refused_count += 1
                continue
            told.append((answer.base_offset, value))
            self.acked_count += 1

    def check(self, connection: Connection) -> None:
        """All that was acked can be read, and nothing else."""
        for index, told in enumerate(self._told):
            assert fetch_values(connection, self._topic, partition=index) == told


def test_a_broker_without_descriptors_spins_ends_or_drops_who_is_connected(start_server: StartServer) -> None:
    server = start_server()
    with ExitStack() as stack:
        traffic = Traffic(own := stack.enter_context(connect(server.bootstrap)))
        for _ in range(3):
            traffic.write()
        allow_descriptors(server.pid, descriptor_count(server.pid) + LEFT_COUNT)
        crowd = Crowd(server, stack)
        until(lambda: "can't accept" in server.log_text(), "the line that says so")
        assert crowd.collect() > 0, "there were descriptors for all"
        begin_s = processor_s(server.pid)
        threading.Event().wait(QUIET_S)  # nobody asks for anything; who waits to be accepted still waits
        assert processor_s(server.pid) - begin_s < QUIET_S / 12, "accepting is tried without a pause"
        for _ in range(40):  # rolls are due meanwhile, which need a descriptor, too
            traffic.write()
        assert traffic.acked_count > PARTITION_COUNT * 8
        assert traffic.refused_count > 0, "no roll was short of a descriptor"
        assert server.log_text().count("can't accept") == 1
        traffic.check(own)
        still_waiting = crowd.collect()
        for connection in crowd.answered:
            connection.close()
        until(lambda: crowd.collect() < still_waiting, "one of those who waited getting its turn")
        allow_descriptors(server.pid, 4096)
        until(lambda: crowd.collect() == 0, "an answer to everybody")
        refused_count = traffic.refused_count
        traffic.write()
        assert traffic.refused_count == refused_count, "writing goes on as before"
        traffic.check(own)
    assert "Traceback" not in server.log_text()
    server.kill()
    server.start()
    with connect(server.bootstrap) as connection:
        traffic.check(connection)
