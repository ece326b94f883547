"""The two ends of a burst, each in a process of its own: `python -m bench.burst_load produce|consume ...`, by confluent-kafka on any broker.

The producer is idempotent and gives each record a number; it keeps for each what became of it, when, and how long that took. The consumer is the only
member of its group, takes so many a second and no more, and commits behind each bite. Each says `ready`, begins at a line on its standard input, and
writes what it saw to a file (`Produced`, `Consumed`). Times are seconds of the monotonic clock, which all processes of a machine share.
"""

import json
import select
import sys
import time
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

QUIET_S = 60.0
TICK_S = 0.005
QUEUE_RECORDS = 100_000
BITES_PER_S = 20
NUMBER_BYTES = 8
VALUE_BYTES = 100
UNSEEN, REFUSED, FAILED = -1, -2, -3
"""In the place of an offset."""


class Stored:
    """Columns of numbers in one file, described by its first line."""

    def save(self, path: Path) -> None:
        """Write all of it."""
        columns: dict[str, Any] = {
            name: value for name, value in vars(self).items() if hasattr(value, "typecode")
        }
        plain = {name: value for name, value in vars(self).items() if name not in columns}
        shapes = {name: (column.typecode, len(column)) for name, column in columns.items()}
        with path.open("wb") as file:
            file.write(json.dumps({"plain": plain, "columns": shapes}).encode() + b"\n")
            for column in columns.values():
                file.write(column.tobytes())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote."""
        with path.open("rb") as file:
            told = json.loads(file.readline())
            found = cls(**told["plain"])
            for name, (typecode, count) in told["columns"].items():
                column = getattr(found, name)
                assert column.typecode == typecode
                column.frombytes(file.read(count * column.itemsize))
        return found


@dataclass
class Produced(Stored):
    """By number: where a record is (or UNSEEN, REFUSED, FAILED), when that was known, and how long after `produce` in seconds."""

    rest_count: int = 0
    """So many were sent at rest, before the burst."""
    rest_at_s: float = 0.0
    """When it began to send at rest."""
    burst_at_s: float = 0.0
    last_error: str = ""
    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    ended_at_s: "array[float]" = field(default_factory=lambda: array("d"))
    latencies_s: "array[float]" = field(default_factory=lambda: array("f"))

    def of(self, *, at_rest: bool) -> range:
        """The numbers of the records that were sent at rest (but the first, which waits for a producer id), or in the burst."""
        return range(1, self.rest_count) if at_rest else range(self.rest_count, len(self.offsets))


@dataclass
class Consumed(Stored):
    """What came, in order: offset and number; and each commit: when it was sent, and its offset."""

    offsets: "array[int]" = field(default_factory=lambda: array("q"))
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    committed_at_s: "array[float]" = field(default_factory=lambda: array("d"))
    committed: "array[int]" = field(default_factory=lambda: array("q"))


def _say_ready_and_wait() -> None:
    click.echo("ready")
    sys.stdout.flush()
    sys.stdin.readline()


class _Load:
    """The producer's end."""

    def __init__(
        self, bootstrap: str, topic: str, record_count: int, rest_count: int, batch_records: int
    ) -> None:
        self.produced = Produced(rest_count)
        self.produced.offsets = array("q", [UNSEEN]) * record_count
        self.produced.ended_at_s = array("d", [0.0]) * record_count
        self.produced.latencies_s = array("f", [0.0]) * record_count
        self._topic = topic
        self._sent = 0
        self._padding = bytes(VALUE_BYTES - NUMBER_BYTES)
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "batch.num.messages": batch_records,
                "queue.buffering.max.messages": QUEUE_RECORDS,
                "on_delivery": self._ended,
                "log_level": 0,
            }
        )
        self._producer.list_topics(topic, timeout=QUIET_S)

    def _ended(self, error: KafkaError | None, message: Message) -> None:
        value = message.value()
        assert isinstance(value, bytes)
        number, produced = int.from_bytes(value[:NUMBER_BYTES]), self.produced
        if error is None:
            offset = message.offset()
            assert offset is not None
            produced.offsets[number] = offset
        elif error.code() == KafkaError.POLICY_VIOLATION:
            produced.offsets[number] = REFUSED
        else:
            produced.offsets[number] = FAILED
            produced.last_error = str(error)
        produced.ended_at_s[number] = time.monotonic()
        produced.latencies_s[number] = message.latency() or 0.0

    def send(self, count: int, seconds: float) -> None:
        """So many records, evenly over so many seconds, or as soon as librdkafka's queue has room."""
        begin, first = time.monotonic(), self._sent
        while self._sent < first + count:
            due = min(count, int((time.monotonic() - begin) / seconds * count) + 1) + first
            while self._sent < due:
                self._send_one()
            self._producer.poll(0)
            time.sleep(TICK_S)

    def _send_one(self) -> None:
        value = self._sent.to_bytes(NUMBER_BYTES) + self._padding
        while True:
            try:
                self._producer.produce(self._topic, value, partition=0)
                break
            except BufferError:
                self._producer.poll(TICK_S)
        self._sent += 1

    def finish(self) -> None:
        """Until each record has its end."""
        while self._producer.flush(QUIET_S):
            pass


@click.group()
def main() -> None:
    """One end of a burst."""


@main.command()
@click.option("--bootstrap", required=True)
@click.option("--topic", required=True)
@click.option("--records", type=int, required=True)
@click.option("--seconds", type=float, required=True)
@click.option("--rest-records", type=int, required=True)
@click.option("--rest-seconds", type=float, required=True)
@click.option("--batch-records", type=int, required=True)
@click.option("--out", required=True)
def produce(
    bootstrap: str,
    topic: str,
    records: int,
    seconds: float,
    rest_records: int,
    rest_seconds: float,
    batch_records: int,
    out: str,
) -> None:
    """Send at rest, then the burst; then see to the end of each record."""
    load = _Load(bootstrap, topic, rest_records + records, rest_records, batch_records)
    load.send(1, TICK_S)
    load.finish()
    _say_ready_and_wait()
    load.produced.rest_at_s = time.monotonic()
    load.send(rest_records - 1, rest_seconds)
    load.produced.burst_at_s = time.monotonic()
    load.send(records, seconds)
    load.finish()
    load.produced.save(Path(out))


class _Reader:
    """The consumer's end."""

    def __init__(self, bootstrap: str, topic: str, group: str, pace: int) -> None:
        self.consumed = Consumed()
        self._topic = topic
        self._pace = pace
        self._end_offset = -1
        self._is_assigned = False
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        self._consumer.subscribe([topic], on_assign=self._assigned)

    def _assigned(self, *_: object) -> None:
        self._is_assigned = True

    def join(self) -> None:
        """Become the group's member and commit offset 0: from now on the group counts."""
        deadline = time.monotonic() + QUIET_S
        while not self._is_assigned:
            assert time.monotonic() < deadline, "the group gave no partition"
            self._consumer.poll(0.05)
        self._consumer.commit(offsets=[TopicPartition(self._topic, 0, 0)], asynchronous=False)

    def run(self) -> None:
        """At its pace, until the offset that a line on standard input tells."""
        bite = max(1, self._pace // BITES_PER_S)
        free_at = time.monotonic()
        position = 0
        while self._end_offset < 0 or position < self._end_offset:
            messages = self._consumer.consume(bite, timeout=0.05)
            if messages:
                position = self._take(messages)
            now = time.monotonic()
            free_at = max(free_at, now - 2 / BITES_PER_S) + len(messages) / self._pace
            self._hear(max(0.0, free_at - now))
        self._consumer.commit(offsets=[TopicPartition(self._topic, 0, position)], asynchronous=False)
        self._consumer.close()

    def _take(self, messages: list[Message]) -> int:
        consumed, position = self.consumed, 0
        for message in messages:
            error, value, offset = message.error(), message.value(), message.offset()
            assert error is None, error
            assert isinstance(value, bytes)
            assert offset is not None
            consumed.offsets.append(offset)
            consumed.numbers.append(int.from_bytes(value[:NUMBER_BYTES]))
            position = offset + 1
        consumed.committed_at_s.append(time.monotonic())
        consumed.committed.append(position)
        self._consumer.commit(offsets=[TopicPartition(self._topic, 0, position)], asynchronous=True)
        return position

    def _hear(self, seconds: float) -> None:
        """Sleep, and learn meanwhile where the end is."""
        if self._end_offset >= 0:
            time.sleep(seconds)
        elif select.select([sys.stdin], [], [], seconds)[0]:
            self._end_offset = int(sys.stdin.readline())


@main.command()
@click.option("--bootstrap", required=True)
@click.option("--topic", required=True)
@click.option("--group", required=True)
@click.option("--pace", type=int, required=True)
@click.option("--out", required=True)
def consume(bootstrap: str, topic: str, group: str, pace: int, out: str) -> None:
    """Take records at a pace, until the end that is told on standard input."""
    reader = _Reader(bootstrap, topic, group, pace)
    reader.join()
    _say_ready_and_wait()
    reader.run()
    reader.consumed.save(Path(out))


if __name__ == "__main__":
    main()
