"""A broker with very many partitions, taken through its life: what each step takes in seconds, memory and descriptors."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.batches import encode_batch, values_of
from tests.support.processes import RunningServer
from tests.support.topics import TIMEOUT_MS, create_topic, fetch_request
from tests.support.wire import Connection, connect

PARTITIONS_PER_TOPIC = 250
VALUE_SIZE_BYTES = 100


@dataclass
class Life:
    """The broker, its topics, and the figures so far: one line for each step."""

    server: RunningServer
    count: int
    topics: list[str] = field(default_factory=list[str])
    lines: list[str] = field(default_factory=list[str])
    rounds: int = 0

    def step(self, name: str, action: Callable[[], object], *, measure: bool = True) -> None:
        """Do something and write down what it took."""
        began = time.perf_counter()
        action()
        took_s = time.perf_counter() - began
        state = (
            f", {resident_mib(self.server.pid)} MiB, {open_files(self.server.pid)} descriptors"
            if measure
            else ""
        )
        self.lines.append(f"{name}: {took_s:.2f} s{state}")

    def create(self) -> None:
        """Make topics of up to 250 partitions, one request each."""
        with connect(self.server.bootstrap) as connection:
            for start in range(0, self.count, PARTITIONS_PER_TOPIC):
                size = min(PARTITIONS_PER_TOPIC, self.count - start)
                self.topics.append(create_topic(connection, "many", partitions=size))

    def places(self) -> Iterator[tuple[str, range]]:
        """Topics and their partitions."""
        for number, topic in enumerate(self.topics):
            yield topic, range(min(PARTITIONS_PER_TOPIC, self.count - number * PARTITIONS_PER_TOPIC))

    def produce_to_all(self) -> None:
        """One record to each partition, one request for each topic; all must be acked."""
        with connect(self.server.bootstrap) as connection:
            for topic, indexes in self.places():
                data = [
                    {"index": index, "records": self._record(topic, index, self.rounds)} for index in indexes
                ]
                request = {
                    "transactional_id": None,
                    "acks": -1,
                    "timeout": TIMEOUT_MS,
                    "topic_data": [{"name": topic, "partition_data": data}],
                }
                reply = connection.request("produce", 9, **request)
                for part in reply.responses[0].partition_responses:
                    assert (part.error_code, part.base_offset) == (0, self.rounds), part
        self.rounds += 1

    def _record(self, topic: str, index: int, number: int) -> bytes:
        return encode_batch([f"{topic}-{index}-{number}".encode().ljust(VALUE_SIZE_BYTES)])

    def check_all(self) -> None:
        """Every partition has a leader and holds every record."""
        with connect(self.server.bootstrap) as connection:
            told = connection.request("metadata", 12, topics=None)
            led = {
                t.name: sum(p.error_code == 0 and p.leader_id == 1 for p in t.partitions) for t in told.topics
            }
            for topic, indexes in self.places():
                assert led[topic] == len(indexes)
                self._check_topic(connection, topic, indexes)

    def _check_topic(self, connection: Connection, topic: str, indexes: range) -> None:
        missing = set(indexes)
        while missing:  # with few descriptors a broker answers for some of them at a time
            wanted = fetch_request({(topic, index): 0 for index in missing})
            reply = connection.request("fetch", 12, **wanted)
            told = {part.partition_index: part for each in reply.responses for part in each.partitions}
            served = {index for index, part in told.items() if part.records}
            assert set(told) == missing
            assert served
            assert not any(part.error_code for part in told.values())
            for index in served:
                found = [raw.decode().strip() for _, raw in values_of(told[index].records)]
                assert found == [f"{topic}-{index}-{number}" for number in range(self.rounds)]
            missing -= served


def resident_mib(pid: int) -> int:
    """What the process has in memory."""
    text = Path(f"/proc/{pid}/statm").read_text()
    return int(text.split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


def open_files(pid: int) -> int:
    """Descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_percent(pid: int, for_s: float) -> float:
    """The part of one core that the process takes while nobody asks anything of it."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    time.sleep(for_s)
    return 100 * (ticks() - before) / os.sysconf("SC_CLK_TCK") / for_s
