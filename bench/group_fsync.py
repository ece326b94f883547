"""How many fsyncs does an ack cost, and how long does a slow disk hold up the event loop? Penstock alone, `write.caching=false`, on a real disk.

    .venv/bin/python -m bench.group_fsync [--seconds 5] [--data-dir DIR]

64 producers, each with one record of 100 B in flight, on one partition and on 64; on the disk as it is and made ten times slower (see
`measured_broker.py`). Beside them topics are made and deleted, records deleted and configs changed. Shown: acks a second, fsyncs for each
ack, the most fsyncs at once, p50 and p99 of an ack, and the longest step of the event loop with the task that took it. Not part of
`make bench`, for it compares with nothing.
"""

import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import trio

from bench.frames import make_batch, produce_answer, produce_request
from bench.ports import free_ports
from bench.processes import on_cores
from penstock.client.admin import Admin
from penstock.client.admin_values import ConfigChange, ConfigResource, NewTopic
from penstock.client.metadata import TopicPartition
from penstock.runtime.production import production_environment

PRODUCER_COUNT = 64
VALUE_SIZE_BYTES = 100
LIMIT_S = 30.0
CHURN_PAUSE_S = 0.1


@dataclass(slots=True)
class Row:
    """One measurement."""

    partitions: int
    slowness: float
    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list[float])
    told: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def acks(self) -> int:
        """In all."""
        return len(self.latencies_s)

    @property
    def longest_step_ms(self) -> float:
        """Of the event loop."""
        return 1000 * float(self.told["longest_steps"][0][0])

    def line(self) -> str:
        """A line of the table."""
        cuts = statistics.quantiles(self.latencies_s, n=100)
        return (
            f"{self.partitions:>10} {self.slowness:>8g}x {self.acks / self.seconds:>9.0f} "
            f"{self.told['syncs'] / self.acks:>10.4f} {self.told['syncs_at_once_max']:>8} "
            f"{1000 * cuts[49]:>8.2f} {1000 * cuts[98]:>8.2f} {self.longest_step_ms:>10.2f}  "
            f"{self.told['longest_steps'][0][1].rpartition('.')[2]}"
        )


HEADER = "partitions      disk    acks/s  syncs/ack  at once   p50 ms   p99 ms  longest step of the loop, ms"


class MeasuredBroker:
    """`measured_broker.py` in a process."""

    def __init__(self, directory: Path, slowness: float, *, realtime: bool) -> None:
        (self.port,) = free_ports(1)
        self.bootstrap = f"127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "bench.measured_broker", "--data-dir", str(directory)]
        command += ["--port", str(self.port), "--slowness", str(slowness)]
        command += ["--realtime"] if realtime else []
        with on_cores({0}):
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "started\n":
            raise click.ClickException("the broker did not start")

    def stop(self) -> dict[str, Any]:
        """Stop it; what it tells."""
        self._process.send_signal(signal.SIGTERM)
        out, _ = self._process.communicate(timeout=LIMIT_S)
        told: dict[str, Any] = json.loads(out)
        return told


async def produce(broker: MeasuredBroker, topic: str, row: Row) -> None:
    """One record in flight, for ever."""
    frame = produce_request(topic, make_batch(1, VALUE_SIZE_BYTES).data)
    stream = await trio.open_tcp_stream("127.0.0.1", broker.port)
    async with stream:
        while True:
            begin = time.perf_counter()
            await stream.send_all(frame)
            answer = bytes(await stream.receive_some(4096))
            produce_answer(topic, len(answer)).check(answer, 0, 0)
            row.latencies_s.append(time.perf_counter() - begin)


async def churn(admin: Admin) -> None:
    """What else goes on: a topic comes, gets a config, loses its records, and goes."""
    for number in range(1 << 30):
        name = f"passing-{number}"
        await admin.create_topics([NewTopic(name=name, partition_count=3)])
        await admin.alter_configs({ConfigResource.topic(name): [ConfigChange("segment.bytes", "100000")]})
        await admin.delete_records({TopicPartition(name, 0): 0})
        await admin.delete_topics([name])
        await trio.sleep(CHURN_PAUSE_S)


async def load(broker: MeasuredBroker, row: Row, seconds: float) -> None:
    """64 producers on the row's partitions."""
    topics = [f"topic-{number}" for number in range(row.partitions)]
    async with Admin(broker.bootstrap, production_environment()) as admin:
        await admin.create_topics([NewTopic(name=name, partition_count=1) for name in topics])
        begin = time.perf_counter()
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(churn, admin)
                for number in range(PRODUCER_COUNT):
                    nursery.start_soon(produce, broker, topics[number % len(topics)], row)
        row.seconds = time.perf_counter() - begin


def measure(directory: Path, partitions: int, slowness: float, seconds: float, *, realtime: bool) -> Row:
    """One row, with a broker and a folder of its own."""
    row = Row(partitions, slowness)
    broker = MeasuredBroker(directory / f"data-{partitions}-{slowness:g}", slowness, realtime=realtime)
    try:
        with on_cores({1}):
            trio.run(load, broker, row, seconds)
    finally:
        row.told = broker.stop()
    return row


@click.command(context_settings={"show_default": True})
@click.option("--seconds", default=5.0, help="For each row.")
@click.option(
    "--slowness", "slownesses", multiple=True, default=[1.0, 10.0], help="Of the disk; may be repeated."
)
@click.option("--partitions", "partition_counts", multiple=True, default=[1, 64], help="May be repeated.")
@click.option("--data-dir", default=tempfile.gettempdir(), help="Where the broker writes: on a real disk.")
@click.option(
    "--realtime", is_flag=True, help="Run the broker before all else on its core, for a busy machine (root)."
)
def main(
    seconds: float,
    slownesses: tuple[float, ...],
    partition_counts: tuple[int, ...],
    data_dir: str,
    realtime: bool,
) -> None:
    """Count fsyncs, and watch the event loop."""
    click.echo(HEADER)
    with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch:
        for slowness in slownesses:
            for partitions in partition_counts:
                click.echo(measure(Path(scratch), partitions, slowness, seconds, realtime=realtime).line())


if __name__ == "__main__":
    main()
