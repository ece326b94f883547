"""What does a compaction cost those who write meanwhile? Penstock alone, on a real disk.

    .venv/bin/python -m bench.beside_compaction [--rounds 5] [--records 200000] [--data-dir DIR]

One record of 100 B at a time to one topic, each waiting for its ack; and a compacted topic beside it, which is filled anew for each round. In turns
nothing is due there, and a compaction is under way from the first write to the last (its topic's `min.cleanable.dirty.ratio` says which). Shown
for each setting of `write.caching`: p50, p99 and the longest of both, the ratios of the medians over the rounds, and the records that were
compacted in a second. Not part of `make bench`, for it compares with nothing.
"""

import re
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import trio

from bench.frames import make_batch, produce_answer, produce_request
from bench.processes import on_cores
from bench.startup import Broker
from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigChange, ConfigResource, NewTopic
from penstock.producer.producer import OutgoingRecord, Producer

VALUE_SIZE_BYTES = 100
KEY_COUNT = 50_000
WARM_UP_COUNT = 200
LIMIT_S = 120.0
COMPACTED, LONELY = "compacted", "lonely"
NEVER, AT_ONCE = "1", "0"
DONE = re.compile(rf"{COMPACTED}-0: compacted up to offset (\d+) in ([0-9.]+) s")


@dataclass(slots=True)
class Rounds:
    """One row: latencies in seconds, by round, without and beside a compaction."""

    write_caching: str
    alone: list[list[float]] = field(default_factory=list[list[float]])
    beside: list[list[float]] = field(default_factory=list[list[float]])
    compacted_per_s: list[float] = field(default_factory=list[float])

    def line(self) -> str:
        """A line of the table."""
        cells = [f"{self.write_caching:>13}"]
        for percent in (50, 99, 100):
            alone, beside = (
                statistics.median(percentile(round_, percent) for round_ in rounds)
                for rounds in (self.alone, self.beside)
            )
            cells.append(f"{alone * 1e6:>7.0f} {beside * 1e6:>7.0f} {beside / alone:>5.2f}")
        return "  ".join(cells) + f"  {statistics.median(self.compacted_per_s):>9.0f}"


HEADER = "write.caching  p50 µs alone beside   p99 alone beside      max alone beside      compacted/s"


def percentile(values: list[float], percent: int) -> float:
    """By the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


class LoneWriter:
    """One record in flight."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._frame = produce_request(LONELY, make_batch(1, VALUE_SIZE_BYTES).data)

    async def write(self) -> float:
        """Seconds to the ack."""
        begin = time.perf_counter()
        await self._stream.send_all(self._frame)
        answer = bytes(await self._stream.receive_some(4096))
        produce_answer(LONELY, len(answer)).check(answer, 0, 0)
        return time.perf_counter() - begin


def compactions(broker: Broker) -> list[tuple[int, float]]:
    """(offset, seconds) of each that the broker's log tells."""
    return [(int(offset), float(s)) for offset, s in DONE.findall(broker.log_path.read_text())]


async def set_ratio(admin: Admin, ratio: str) -> None:
    """Say from which part of dirty records on the topic is due."""
    resource = ConfigResource.topic(COMPACTED)
    await admin.alter_configs({resource: [ConfigChange("min.cleanable.dirty.ratio", ratio)]})


async def fill(broker: Broker, count: int) -> None:
    """Dirty records, and a closed segment."""
    async with Producer(broker.bootstrap) as producer:
        await producer.send_many(
            COMPACTED,
            [OutgoingRecord(b"v" * VALUE_SIZE_BYTES, key=b"key-%d" % (i % KEY_COUNT)) for i in range(count)],
        )


async def measure_round(broker: Broker, admin: Admin, writer: LoneWriter, records: int, row: Rounds) -> None:
    """Alone, then beside."""
    await fill(broker, records)
    for _ in range(WARM_UP_COUNT):
        await writer.write()
    known = compactions(broker)
    alone = [await writer.write() for _ in range(5 * WARM_UP_COUNT)]
    await set_ratio(admin, AT_ONCE)
    beside: list[float] = []
    with trio.fail_after(LIMIT_S):
        while len(found := compactions(broker)) == len(known):
            beside += [await writer.write() for _ in range(20)]
    await set_ratio(admin, NEVER)
    row.alone.append(alone)
    row.beside.append(beside)
    offset, seconds = found[-1]
    row.compacted_per_s.append((offset - (known[-1][0] if known else 0)) / max(seconds, 0.1))


async def measure(broker: Broker, rounds: int, records: int, row: Rounds) -> None:
    """One row."""
    configs = {
        "cleanup.policy": "compact",
        "segment.bytes": "1000000",
        "min.cleanable.dirty.ratio": NEVER,
        "write.caching": "true",
    }
    async with Admin(broker.bootstrap) as admin:
        await admin.create_topics([NewTopic(name=COMPACTED, partition_count=1, configs=configs)])
        lonely = NewTopic(name=LONELY, partition_count=1, configs={"write.caching": row.write_caching})
        await admin.create_topics([lonely])
        async with await trio.open_tcp_stream(*broker.address) as stream:
            for _ in range(rounds):
                await measure_round(broker, admin, LoneWriter(stream), records, row)


@click.command(context_settings={"show_default": True})
@click.option("--rounds", default=5, help="Of each row.")
@click.option("--records", default=200_000, help="Dirty records for each round.")
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the broker writes: on a real disk.")
def main(rounds: int, records: int, data_dir: str) -> None:
    """Time writes beside a compaction."""
    click.echo(HEADER)
    for write_caching in ("true", "false"):
        row = Rounds(write_caching)
        with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch:
            broker = Broker(Path(scratch), ["log.cleaner.backoff.ms=10"])
            with on_cores({0}):
                broker.start(0)
            try:
                with on_cores({1}):
                    trio.run(measure, broker, rounds, records, row)
            finally:
                broker.stop()
        click.echo(row.line())


if __name__ == "__main__":
    main()
