"""The yardstick must owe its clients what a broker owes them, else being close to it says nothing."""

import os
import struct
from pathlib import Path

import pytest
from bench.bare_loop import BareLog, BareServer, Refused, api_versions, take_frames
from bench.frames import Batch, make_batch, produce_answer, produce_request


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "log")


def received(*frames: bytes) -> memoryview:
    return memoryview(bytearray(b"".join(frames)))


def test_batches_get_consecutive_offsets_in_the_file_and_in_the_answers(path: str) -> None:
    server = BareServer(BareLog(path), 9092)
    batch = make_batch(3, 10)
    frame = produce_request("t", batch.data)
    start, need, answers = take_frames(server, received(frame, frame))
    assert (start, need) == (2 * len(frame), 0)
    layout = produce_answer("t", len(answers[0]))
    for answer in answers:
        layout.check(answer, 0, 0)
        assert struct.unpack_from(">i", answer)[0] == len(answer) - 4
    assert [layout.fields.unpack_from(answer)[2] for answer in answers] == [0, 3]
    stored = Path(path).read_bytes()
    size = len(batch.data)
    assert [struct.unpack_from(">q", stored, index * size)[0] for index in (0, 1)] == [0, 3]
    assert stored[size + 16 :] == batch.data[16:]


def test_a_frame_that_is_not_whole_is_left_with_the_size_it_needs(path: str) -> None:
    frame = produce_request("t", make_batch(1, 100).data)
    server = BareServer(BareLog(path), 9092)
    assert take_frames(server, received(frame[:2])) == (0, 0, [])
    assert take_frames(server, received(frame[:50])) == (0, len(frame), [])
    start, need, answers = take_frames(server, received(frame, frame[:-1]))
    assert (start, need, len(answers)) == (len(frame), len(frame), 1)


@pytest.mark.parametrize("position", [16, 17, 30, -1])
def test_a_batch_with_one_wrong_byte_is_refused_and_nothing_is_written(path: str, position: int) -> None:
    batch = bytearray(make_batch(2, 20).data)
    batch[position] ^= 1
    server = BareServer(BareLog(path), 9092)
    with pytest.raises(Refused):
        take_frames(server, received(produce_request("t", bytes(batch))))
    assert os.path.getsize(path) == 0


def test_lengths_that_do_not_tile_are_refused(path: str) -> None:
    batch: Batch = make_batch(1, 20)
    server = BareServer(BareLog(path), 9092)
    for records in (batch.data + b"\0", batch.data[:-1], batch.data[:60]):
        with pytest.raises(Refused):
            take_frames(server, received(produce_request("t", records)))
    with pytest.raises(Refused):
        take_frames(server, received(struct.pack(">i", -1) + bytes(8)))


def test_an_unknown_version_of_api_versions_is_answered_in_version_0() -> None:
    assert struct.unpack(">hihhh", api_versions(99)) == (35, 1, 18, 0, 3)
