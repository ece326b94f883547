"""A disk that loses what it had taken into its cache, and tells so once: the real fsyncgate (PROPERTIES D11). Needs root.

An ext4 in a sparse image on a tmpfs: when the tmpfs is full, ext4 still has room, so a write is taken; its sync fails, the pages are marked
clean all the same, and the next sync says yes over data that never reached the image.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.faults.conftest import StartServer
from tests.support import disks
from tests.support.batches import encode_batch
from tests.support.errors import ErrorCode
from tests.support.processes import IS_KAFKA
from tests.support.real_disks import RealDisk, real_disk
from tests.support.topics import create_topic, fetch, fetch_values, init_producer_id, produce
from tests.support.wire import Connection, connect

pytestmark = pytest.mark.skipif(IS_KAFKA, reason="it ends when its disk fails")

BELOW_SIZE_BYTES = 32 << 20
ROOM_BYTES = 512 << 10
VALUE_SIZE_BYTES = 100_000


class LyingDisk:
    """The file system, and the room that it really has."""

    def __init__(self, disk: RealDisk, below: Path) -> None:
        self.disk = disk
        self._filler = below / "filler"

    def fill_below(self) -> None:
        """From here on what is written is lost, but for a little."""
        os.sync()
        disks.fill_up(self._filler, leave_bytes=ROOM_BYTES)

    def give_room(self) -> None:
        """What is written is kept again."""
        self._filler.unlink()

    def forget_pages(self) -> None:
        """Unmount and mount: what is read now comes from the disk."""
        self.disk.unmount()
        self.disk.mount()


@pytest.fixture
def lying_disk(tmp_path: Path) -> Iterator[LyingDisk]:
    with (
        disks.tiny_disk(tmp_path / "below", BELOW_SIZE_BYTES) as below,
        real_disk("ext4", below / "image", tmp_path / "data") as disk,
    ):
        yield LyingDisk(disk, below)


def test_this_machine_has_no_fsyncgate(lying_disk: LyingDisk) -> None:
    """Else the test below this one would show nothing: the second sync says yes, and the data is gone."""
    path = lying_disk.disk.folder / "file"
    written = b"kept?" * (ROOM_BYTES // 2)
    with path.open("w+b") as file:
        descriptor = file.fileno()
        os.posix_fallocate(descriptor, 0, len(written))
        lying_disk.fill_below()
        os.pwrite(descriptor, written, 0)
        refusals = [refusal for refusal in (sync_refusal(descriptor) for _ in range(4)) if refusal]
        assert 0 < len(refusals) < 4, f"it went on saying {refusals}"
        assert sync_refusal(descriptor) == ""
        assert os.pread(descriptor, len(written), 0) == written, "the cache does not even show it"
    lying_disk.give_room()
    lying_disk.forget_pages()
    assert path.read_bytes() != written


def sync_refusal(descriptor: int) -> str:
    """What fdatasync says; empty if it says yes."""
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        return str(error)
    return ""


def value(number: int) -> bytes:
    return b"%06d" % number * (VALUE_SIZE_BYTES // 6)


class Sender:
    """An idempotent producer of large records, and what it was acked."""

    def __init__(self, connection: Connection, topic: str) -> None:
        self._topic = topic
        self._identity, self._epoch = init_producer_id(connection)
        self.told: dict[int, bytes] = {}

    def send(self, connection: Connection) -> ErrorCode:
        """The next record, or the refused one again."""
        sequence = len(self.told)
        records = encode_batch(
            [value(sequence)],
            producer_id=self._identity,
            producer_epoch=self._epoch,
            base_sequence=sequence,
        )
        answer = produce(connection, self._topic, records)
        if answer.error_code == ErrorCode.none:
            assert answer.base_offset == sequence
            self.told[sequence] = value(sequence)
        return ErrorCode(answer.error_code)


def test_a_sync_that_lost_data_is_believed_the_second_time(
    lying_disk: LyingDisk, start_server: StartServer
) -> None:
    server = start_server(write_caching="false")
    with connect(server.bootstrap) as connection:
        topic = create_topic(connection, "lost")
        sender = Sender(connection, topic)
        for _ in range(5):
            assert sender.send(connection) == ErrorCode.none
        lying_disk.fill_below()
        codes = [sender.send(connection) for _ in range(2 * ROOM_BYTES // VALUE_SIZE_BYTES + 5)]
        assert codes[-1] == ErrorCode.kafka_storage_error
        first = codes.index(ErrorCode.kafka_storage_error)
        assert set(codes[first:]) == {ErrorCode.kafka_storage_error}, "the log went on after a failed sync"
        lying_disk.give_room()
        assert sender.send(connection) == ErrorCode.kafka_storage_error, (
            "room is no reason to believe the disk"
        )
        answer = fetch(connection, topic, 0)
        assert answer.error_code == ErrorCode.kafka_storage_error or answer.high_watermark <= len(sender.told)
    assert "Traceback" not in server.log_text()
    server.kill()
    lying_disk.forget_pages()
    server.start()
    with connect(server.bootstrap) as connection:
        found = dict(fetch_values(connection, topic))
        assert {offset: found.get(offset) for offset in sender.told} == sender.told
        assert len(found) - len(sender.told) <= 1
        for _ in range(3):
            assert sender.send(connection) == ErrorCode.none
        assert dict(fetch_values(connection, topic)) == sender.told
