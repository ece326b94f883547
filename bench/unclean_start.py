"""How long does a start after a kill take, and how much does it read? Penstock alone, one large partition on a real disk.

    .venv/bin/python -m bench.unclean_start [--gigabytes 5] [--batch-bytes 1000000] [--rounds 3] [--data-dir /var/tmp]

Produces one partition full (`write.caching=false`), waits until the recovery point has come to its end, adds `--above` more megabytes and
kills the broker at once, so that about as much lies above the recovery point. Then the caches are dropped (as root; else the run says that
they were warm) and a start is measured from the fork to the first answer that names a leader for the topic, with the bytes that the process
asked for (`rchar` of /proc/PID/io) and that came from the disk (`read_bytes`). Prints one line for each round, and writes JSON.
"""

import os
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from bench import driver
from bench.driver import Limits
from bench.frames import make_batch_of_size
from bench.report import file_system_of, git_state, machine, write_json
from bench.startup import Broker, create_topics

CHECKPOINT_S = 6.0
"""A little more than `replica.high.watermark.checkpoint.interval.ms`, at which recovery points are written as well."""
MB = 1_000_000
TOPIC = "topic-0"
VALUE_SIZE_BYTES = 1000
WINDOW = 5


def fill(broker: Broker, size_bytes: int, batch_bytes: int) -> None:
    """Produce about that much."""
    batch = make_batch_of_size(batch_bytes, min(VALUE_SIZE_BYTES, batch_bytes // 2))
    limits = Limits(seconds=3600.0, bytes_max=size_bytes, requests_max=1 << 40)
    driver.produce(broker.address, TOPIC, batch, window=WINDOW, limits=limits)


def drop_caches() -> bool:
    """Forget what files hold, so that reads come from the disk; False where that is not allowed."""
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def bytes_read(pid: int) -> dict[str, int]:
    """What the process has read so far."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    found = dict(line.split(": ") for line in lines)
    return {name: int(found[name]) for name in ("rchar", "read_bytes")}


def log_bytes(directory: Path) -> int:
    """The size of the partition's segments."""
    return sum(path.stat().st_size for path in directory.glob(f"data/{TOPIC}-0/*.log"))


def measure(
    broker: Broker, directory: Path, above_bytes: int, batch_bytes: int, settle_s: float
) -> dict[str, object]:
    """One kill and one start."""
    time.sleep(settle_s)
    before = log_bytes(directory)
    if above_bytes:
        fill(broker, above_bytes, batch_bytes)
    broker.kill()
    is_cold = drop_caches()
    start = broker.start(1)
    read = bytes_read(broker.pid)
    return {
        "log_bytes": log_bytes(directory),
        "added_before_the_kill_bytes": log_bytes(directory) - before,
        "cold_cache": is_cold,
        "first_answer_s": round(start.first_answer_s, 3),
        "served_s": round(start.all_leaders_s, 3),
        **read,
    }


@click.command(context_settings={"show_default": True})
@click.option("--gigabytes", default=5.0, help="Size of the partition.")
@click.option("--batch-bytes", default=1_000_000, help="Size of a batch.")
@click.option("--above", default=(0, 100), multiple=True, help="Megabytes above the recovery point.")
@click.option("--rounds", default=3, help="Kills for each of these.")
@click.option("--settle", default=CHECKPOINT_S, help="Seconds for the recovery point to come to the end.")
@click.option("--set", "settings", multiple=True, help="A broker setting, key=value.")
@click.option("--data-dir", default="/var/tmp", help="Where the broker writes: a real disk.")
@click.option("--results", default="bench/results/local", help="Where the JSON goes.")
def main(
    gigabytes: float,
    batch_bytes: int,
    above: Sequence[int],
    rounds: int,
    settle: float,
    settings: Sequence[str],
    data_dir: str,
    results: str,
) -> None:
    """Time starts after a kill."""
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(dir=data_dir, ignore_cleanup_errors=True) as scratch:
        directory = Path(scratch)
        broker = Broker(directory, settings)
        broker.start(0)
        try:
            create_topics(broker.bootstrap, 1)
            fill(broker, int(gigabytes * 1_000_000_000), batch_bytes)
            for above_mb in above:
                for _ in range(rounds):
                    rows.append(measure(broker, directory, above_mb * MB, batch_bytes, settle))
                    print(rows[-1], flush=True)
        finally:
            broker.stop()
        document = {
            "bench": "unclean_start",
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "batch_bytes": batch_bytes,
            "settings": list(settings),
            "file_system": file_system_of(directory),
            "machine": machine(),
            "git": git_state(),
            "rows": rows,
        }
    Path(results).mkdir(parents=True, exist_ok=True)
    print(write_json(document, Path(results)))


if __name__ == "__main__":
    main()
