"""Idempotence: a batch is in the log once, a gap is refused, and both survive a restart (PROPERTIES T1, T2)."""

import itertools
import struct

import pytest
from tests.support.logs import DIRECTORY, NOW_MS, append, batch, new_log, read_values, reopen
from tests.support.memory_files import MemoryFiles

from penstock.protocol.errors import ErrorCode
from penstock.protocol.record_batch import BatchHeader, check_produced_batch, read_batch_header
from penstock.runtime.files import DiskFull
from penstock.storage.errors import CorruptFile, InvalidProducerEpoch, OutOfOrderSequence, ProducerStateError
from penstock.storage.log import Log
from penstock.storage.log_config import DAY_MS, LogConfig
from penstock.storage.producer_state import SEQUENCE_MAX, ProducerState, decode_snapshot

PRODUCER = 4711


def header(sequence: int, count: int = 1, *, producer_id: int = PRODUCER, epoch: int = 0) -> BatchHeader:
    raw = batch(count, producer_id=producer_id, producer_epoch=epoch, sequence=sequence)
    return read_batch_header(raw)


def new_state(count_max: int = 100) -> ProducerState:
    return ProducerState(expiration_ms=DAY_MS, count_max=count_max)


def write(state: ProducerState, batch_header: BatchHeader, base_offset: int, now_ms: int = NOW_MS) -> None:
    assert state.check(batch_header) is None
    state.update(batch_header, base_offset, now_ms)


def send(log: Log, sequence: int, count: int = 1, *, epoch: int = 0) -> int:
    """Append as an idempotent producer; returns the base offset, negative minus one for a duplicate."""
    info = append(log, batch(count, producer_id=PRODUCER, producer_epoch=epoch, sequence=sequence))
    return -info.base_offset - 1 if info.is_duplicate else info.base_offset


def test_the_last_five_batches_are_recognised_and_answered_with_their_offset() -> None:
    log = new_log(MemoryFiles())
    for number in range(7):
        assert send(log, 2 * number, 2) == 2 * number
    for number in range(2, 7):
        assert send(log, 2 * number, 2) == -2 * number - 1
    assert log.log_end_offset == 14
    with pytest.raises(OutOfOrderSequence):
        send(log, 2, 2)
    assert send(log, 14, 2) == 14


def test_a_repetition_that_is_cut_otherwise_is_no_duplicate() -> None:
    log = new_log(MemoryFiles())
    send(log, 0, 2)
    send(log, 2, 2)
    for sequence, count in ((2, 1), (0, 1), (3, 1), (0, 4), (1, 2)):
        with pytest.raises(OutOfOrderSequence):
            send(log, sequence, count)
    assert log.log_end_offset == 4


def test_a_gap_appends_nothing() -> None:
    log = new_log(MemoryFiles())
    send(log, 0)
    with pytest.raises(OutOfOrderSequence) as caught:
        send(log, 2)
    assert caught.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert isinstance(caught.value, ProducerStateError)
    assert log.log_end_offset == 1
    assert send(log, 1) == 1


def test_the_sequence_wraps_after_the_largest_int32() -> None:
    state = new_state()
    write(state, header(SEQUENCE_MAX - 1, 2), 0)
    with pytest.raises(OutOfOrderSequence):
        state.check(header(1))
    write(state, header(0), 2)
    assert state.check(header(SEQUENCE_MAX - 1, 2)) is not None
    state = new_state()
    write(state, header(SEQUENCE_MAX - 1, 4), 0)
    assert state.check(header(2)) is None
    with pytest.raises(OutOfOrderSequence):
        state.check(header(3))


def test_a_new_epoch_begins_at_zero_and_fences_the_old_one() -> None:
    log = new_log(MemoryFiles())
    send(log, 0)
    send(log, 1)
    with pytest.raises(OutOfOrderSequence):
        send(log, 2, epoch=1)
    assert send(log, 0, epoch=1) == 2
    assert send(log, 0, epoch=1) == -3, "a duplicate of the new epoch, not of the old one"
    with pytest.raises(InvalidProducerEpoch) as caught:
        send(log, 2, epoch=0)
    assert caught.value.code is ErrorCode.INVALID_PRODUCER_EPOCH
    assert log.log_end_offset == 3


def test_an_unknown_producer_may_start_anywhere() -> None:
    """Its state may have gone by retention or expiry; Kafka takes it since KIP-360, and so do we."""
    log = new_log(MemoryFiles())
    assert send(log, 17) == 0
    assert send(log, 18) == 1


def test_what_was_not_appended_is_not_remembered() -> None:
    files = MemoryFiles()
    log = new_log(files)
    send(log, 0)
    files.fail("pwrite", DiskFull)
    with pytest.raises(DiskFull):
        send(log, 1)
    assert send(log, 1) == 1


@pytest.mark.parametrize("ending", ["close", "kill", "power cut"])
def test_duplicates_are_recognised_after_a_restart(ending: str) -> None:
    files = MemoryFiles()
    config = LogConfig(segment_bytes=300)
    log = new_log(files, config)
    for number in range(10):
        send(log, number)
    log.sync()
    if ending == "close":
        log.close()
    getattr(files, "power_cut" if ending == "power cut" else "kill")()
    log = reopen(files, config, clean=ending == "close", recovery_point=10)
    assert send(log, 9) == -10
    assert send(log, 10) == 10
    with pytest.raises(OutOfOrderSequence):
        send(log, 12)
    assert [offset for offset, _ in read_values(log)] == list(range(11))


@pytest.mark.parametrize("segment_bytes", [100, 300, 1 << 30])
@pytest.mark.parametrize("ending", ["close", "kill"])
def test_all_of_the_last_five_are_recognised_after_a_restart(segment_bytes: int, ending: str) -> None:
    """A snapshot holds one batch only, and a client that repeats an earlier one takes a refusal for fatal."""
    files = MemoryFiles()
    config = LogConfig(segment_bytes=segment_bytes, index_interval_bytes=200)
    log = new_log(files, config)
    for number in range(10):
        send(log, number)
        append(log, batch(producer_id=1, sequence=number))
    if ending == "close":
        log.close()
    files.kill()
    log = reopen(files, config, clean=ending == "close")
    for number in (5, 9, 7, 6, 8):
        assert send(log, number) == -2 * number - 1
    with pytest.raises(OutOfOrderSequence):
        send(log, 4)
    assert send(log, 10) == 20
    assert send(log, 6) == -13, "one of the last five still"
    with pytest.raises(OutOfOrderSequence):
        send(log, 5)
    assert log.log_end_offset == 21


def test_the_log_is_searched_once_for_each_producer() -> None:
    files = MemoryFiles()
    log = new_log(files)
    for number in range(3):
        send(log, number)
    log.close()
    log = reopen(files, clean=True)
    for reads in (True, False):
        before = files.calls["pread"]
        with pytest.raises(OutOfOrderSequence):
            send(log, 17)
        assert (files.calls["pread"] > before) == reads


def test_batches_of_another_epoch_are_not_recalled() -> None:
    files = MemoryFiles()
    log = new_log(files)
    send(log, 0)
    send(log, 1)
    send(log, 0, epoch=1)
    log.close()
    log = reopen(files, clean=True)
    with pytest.raises(OutOfOrderSequence):
        send(log, 5, epoch=1)
    with pytest.raises(InvalidProducerEpoch):
        send(log, 1, epoch=0)
    assert send(log, 0, epoch=2) == 3


def test_a_torn_batch_may_be_sent_again() -> None:
    files = MemoryFiles()
    log = new_log(files)
    send(log, 0)
    send(log, 1)
    files.kill()
    files.replace(log.segments[0].path, files.content(log.segments[0].path)[:-1])
    log = reopen(files)
    assert send(log, 1) == 1


@pytest.mark.parametrize("damage", [b"", b"\0", b"garbage", None])
def test_a_damaged_snapshot_falls_back_to_an_older_one_and_the_log(damage: bytes | None) -> None:
    files = MemoryFiles()
    config = LogConfig(segment_bytes=300)
    log = new_log(files, config)
    for number in range(10):
        send(log, number)
    log.close()
    newest = f"{DIRECTORY}/00000000000000000010.snapshot"
    if damage is None:
        files.change(newest, 20, b"?")
    else:
        files.replace(newest, damage)
    log = reopen(files, config, clean=True)
    assert send(log, 9) == -10
    assert send(log, 10) == 10
    assert any("snapshot" in note for note in log.report.notes)
    assert not files.exists(newest)


def test_batches_below_the_log_start_still_count_for_their_producer() -> None:
    """A snapshot from before them would name a last sequence that is not the last, and the next batch would be refused."""
    files = MemoryFiles()
    log = new_log(files)
    send(log, 0)
    log.write_producer_snapshot()
    send(log, 1)
    send(log, 2)
    log.advance_log_start_offset(2)
    log.truncate_to(2)
    assert send(log, 2) == 2
    log.sync()
    files.kill()
    log = reopen(files, log_start_offset=3)
    assert send(log, 3) == 3


def test_a_snapshot_with_a_hole_behind_it_is_not_believed() -> None:
    files = MemoryFiles()
    log = new_log(files)
    send(log, 0)
    log.write_producer_snapshot()
    stale = files.content(f"{DIRECTORY}/00000000000000000001.snapshot")
    send(log, 1)
    log.roll()
    log.advance_log_start_offset(2)
    log.delete_old_segments()
    files.kill()
    files.replace(f"{DIRECTORY}/00000000000000000001.snapshot", stale)
    files.unlink(f"{DIRECTORY}/00000000000000000002.snapshot")
    log = reopen(files, log_start_offset=2)
    assert send(log, 2) == 2


def test_a_snapshot_from_beyond_the_end_is_not_believed() -> None:
    files = MemoryFiles()
    log = new_log(files)
    for number in range(3):
        send(log, number)
    log.write_producer_snapshot()
    content = files.content(log.segments[0].path)
    files.kill()
    files.replace(log.segments[0].path, content[: len(content) // 3])
    log = reopen(files)
    assert not files.exists(f"{DIRECTORY}/00000000000000000003.snapshot")
    assert send(log, 1) == 1


def test_producers_expire_by_the_brokers_clock_and_not_by_their_own_timestamps() -> None:
    state = new_state()
    write(state, header(0, producer_id=1), 0, NOW_MS)
    write(state, header(0, producer_id=2), 1, NOW_MS + 10)
    write(state, header(1, producer_id=1), 2, NOW_MS + 20)
    assert state.expire(NOW_MS + DAY_MS) == 0
    assert state.expire(NOW_MS + DAY_MS + 10) == 1
    assert state.get(2) is None
    assert state.get(1) is not None
    assert state.check(header(9, producer_id=2)) is None


def test_a_changed_expiration_holds_at_once() -> None:
    log = new_log(MemoryFiles())
    send(log, 0)
    assert log.expire_producers(NOW_MS + 1000) == 0
    log.config = LogConfig(producer_id_expiration_ms=1000)
    assert log.expire_producers(NOW_MS + 1000) == 1


def test_wall_clock_of_one_start_makes_a_log_forget_its_producers() -> None:
    """It may have jumped, and a producer that is forgotten may have its batches appended twice."""
    state = new_state()
    write(state, header(0, producer_id=1), 0, NOW_MS)
    write(state, header(0, producer_id=2), 1, NOW_MS + DAY_MS)
    again = new_state()
    again.load_snapshot(state.encode_snapshot())
    assert [entry.producer_id for entry in again.entries()] == [1, 2]
    assert again.expire(NOW_MS + DAY_MS) == 1


def test_past_the_cap_the_producer_idle_longest_is_forgotten() -> None:
    state = new_state(count_max=3)
    for number, producer_id in enumerate((1, 2, 3)):
        write(state, header(0, producer_id=producer_id), number)
    write(state, header(1, producer_id=1), 3)
    write(state, header(0, producer_id=4), 4)
    assert [entry.producer_id for entry in state.entries()] == [3, 1, 4]


def test_the_snapshot_is_kafkas_byte_for_byte() -> None:
    state = new_state()
    write(state, header(0, 3, producer_id=0x1122334455667788, epoch=2), 100, 0x0A0B0C0D)
    data = state.encode_snapshot()
    assert (
        data.hex(" ")
        == (
            "00 01 "  # version
            + data[2:6].hex(" ")
            + " 00 00 00 01 "  # count
            "11 22 33 44 55 66 77 88 00 02 00 00 00 02 "  # producer id, epoch, last sequence
            "00 00 00 00 00 00 00 66 00 00 00 02 "  # last offset 102, offset delta
            "00 00 00 00 0a 0b 0c 0d ff ff ff ff ff ff ff ff ff ff ff ff"  # timestamp, coordinator epoch, transaction
        )
    )
    (entry,) = decode_snapshot(data)
    assert entry.batches[0][:4] == (0, 2, 100, 102)


def test_every_damaged_snapshot_is_refused() -> None:
    state = new_state()
    write(state, header(0), 0)
    data = state.encode_snapshot()
    broken = [data[:length] for length in range(len(data))]
    broken += [data + b"\0"]
    broken += [
        data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :]
        for position, bit in itertools.product(range(len(data)), range(8))
    ]
    for content in broken:
        with pytest.raises(CorruptFile):
            decode_snapshot(content)
    with pytest.raises(CorruptFile):
        decode_snapshot(struct.pack(">hIi", 1, 0, -1))


def test_batches_without_a_producer_id_are_not_checked() -> None:
    log = new_log(MemoryFiles())
    for _ in range(3):
        raw = batch()
        log.append_as_leader(
            memoryview(raw), check_produced_batch(memoryview(raw)), leader_epoch=0, now_ms=NOW_MS
        )
    assert log.producer_count == 0
