"""A disk that fills up at a random byte while all kinds of clients write, read, commit and delete (PROPERTIES D1, D2, D12, T1, G2).

`FULL_DISKS=100` is the long run (`make long`). A tmpfs can be filled to its last byte and page; what is refused then is a matter of chance: a
batch, a roll, a snapshot, a checkpoint, a commit, a topic, a start.
"""

import os
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.conftest import StartServer
from tests.support import disks
from tests.support.load import mixtures
from tests.support.load.load import Load, verify
from tests.support.processes import IS_KAFKA, RunningServer, resident_bytes

pytestmark = pytest.mark.skipif(IS_KAFKA, reason="Apache Kafka ends when its disk is full")

MIB = 1 << 20
FULL_DISKS = int(os.environ.get("FULL_DISKS", "3"))
DISK_SIZE_BYTES = (64 + FULL_DISKS) * MIB
"""What is kept in the end, too: a disk that the records alone fill is full for good."""
SEED = int(os.environ.get("FAULT_SEED", "1"))
ROOM_BYTES_MAX = 400_000
FULL_S_MAX = 0.3
MEMORY_BYTES_MAX = 40 * MIB
"""What a broker may take more than it did before its disks were full."""
ENDS = ("space", "kill", "kill on a full disk")


class FullDisks:
    """A broker whose disk is filled again and again."""

    def __init__(self, disk: Path, server: RunningServer, load: Load) -> None:
        self._filler = disk / "filler"
        self._server, self._load = server, load
        self._chance = random.Random(SEED)
        self._moment = threading.Event()
        self.refused_starts = 0

    def fill(self, number: int) -> None:
        """Fill the disk, let the load meet that for a moment, and give the space back."""
        load, chance = self._load, self._chance
        load.await_acks_or_all(number, 5)
        end, room_bytes = ENDS[number % len(ENDS)], chance.randrange(ROOM_BYTES_MAX)
        refused = load.refused_count
        disks.fill_up(self._filler, leave_bytes=room_bytes)
        load.await_refusals(5)
        self._moment.wait(chance.uniform(0, FULL_S_MAX))
        print(
            f"full {number} of seed {SEED}: {room_bytes} bytes left, {load.acked_count} acked, {end}",
            flush=True,
        )
        assert load.refused_count > refused
        if end == "space":
            self._filler.unlink()
            return
        self._server.kill()
        load.rest()
        if end == "kill":
            self._filler.unlink()
            self._server.start()
        else:
            disks.fill_up(self._filler)
            self._start_on_full_disk()
        load.check_after_restart()
        load.go_on()

    def _start_on_full_disk(self) -> None:
        """It may refuse to start, with a line that says why; when there is space it starts."""
        refusal = ""
        try:
            self._server.start()
        except AssertionError as error:
            refusal = str(error)
        self._filler.unlink()
        if refusal:
            self.refused_starts += 1
            assert re.search("disk is full|No space left", refusal), refusal
            self._server.start()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with disks.tiny_disk(tmp_path / "data", DISK_SIZE_BYTES) as mounted:
        yield mounted


def test_full_disks_under_load_lose_what_was_promised_or_end_the_broker(
    disk: Path, start_server: StartServer
) -> None:
    server = start_server(write_caching="false", **mixtures.SETTINGS)
    load = mixtures.everything(server.bootstrap, SEED)
    full = FullDisks(disk, server, load)
    load.start()
    load.await_acks(100)
    before = resident_bytes(server.pid)
    for number in range(FULL_DISKS):
        full.fill(number)
        assert "Traceback" not in server.log_text()
    load.await_acks(10)
    assert resident_bytes(server.pid) - before < MEMORY_BYTES_MAX
    load.finish()
    load.check_all()
    assert server.stop() == 0
    verify(server.data_directory)
    print(
        f"{FULL_DISKS} full disks, {load.acked_count} records acked, {load.compared_count} comparisons, "
        f"{load.refused_count} refusals seen, {full.refused_starts} starts refused"
    )
