"""Where damage ends: a batch is believed only if nothing around it speaks against it."""

import struct

import pytest
from tests.support.logs import DIRECTORY, append, batch, fill, new_log
from tests.support.memory_files import MemoryFiles

from penstock.storage.batch_walk import ChainRules
from penstock.storage.layout import LOG_SUFFIX, OFFSET_MAX, segment_file_name
from penstock.storage.survey import NOTHING_FOLLOWS, Damage, Found, Survey

PATH = f"{DIRECTORY}/{segment_file_name(0, LOG_SUFFIX)}"
RULES = ChainRules(gaps_below=0, epoch_at=None, index_interval_bytes=0)
GAPS_ALLOWED = RULES._replace(gaps_below=OFFSET_MAX)


@pytest.fixture
def files() -> MemoryFiles:
    files = MemoryFiles()
    log = new_log(files)
    fill(log, 6)
    log.close()
    return files


def survey(files: MemoryFiles, rules: ChainRules = RULES, limit: int = -1) -> list[Found]:
    file = files.open(PATH)
    return list(Survey(files, file, 0, limit, rules).found())


def positions(files: MemoryFiles) -> list[int]:
    return [found[0] for found in survey(files) if not isinstance(found, Damage)]


def damages(found: list[Found]) -> list[tuple[int, int, int, int]]:
    return [(d.position, d.end_position, d.offset, d.next_offset) for d in found if isinstance(d, Damage)]


@pytest.mark.parametrize("rules", [RULES, GAPS_ALLOWED])
@pytest.mark.parametrize("at", [*range(8), *range(8, 12), 16, 17, 22, 40, 65])
def test_one_damaged_byte_costs_one_batch(files: MemoryFiles, rules: ChainRules, at: int) -> None:
    starts = positions(files)
    value = files.content(PATH)[starts[2] + at]
    files.change(PATH, starts[2] + at, bytes([value ^ 0x40]))
    found = survey(files, rules)
    assert len(found) == 6
    assert damages(found) == [(starts[2], starts[3], 2, 3)]


def test_two_stretches_are_told_apart_and_neighbours_are_one(files: MemoryFiles) -> None:
    starts = positions(files)
    for number in (1, 2, 4):
        files.change(PATH, starts[number] + 30, b"\xff")
    assert damages(survey(files)) == [(starts[1], starts[3], 1, 3), (starts[4], starts[5], 4, 5)]


@pytest.mark.parametrize("limit", [-1, 6])
def test_damage_at_the_end_reaches_to_the_end(files: MemoryFiles, limit: int) -> None:
    starts = positions(files)
    files.change(PATH, starts[5] + 30, b"\xff")
    size = len(files.content(PATH))
    assert damages(survey(files, limit=limit)) == [
        (starts[5], size, 5, NOTHING_FOLLOWS if limit < 0 else limit)
    ]


def test_a_batch_past_the_next_segment_is_not_believed(files: MemoryFiles) -> None:
    starts = positions(files)
    assert damages(survey(files, limit=4)) == [(starts[4], len(files.content(PATH)), 4, 4)]


def test_a_batch_inside_of_a_damaged_record_is_not_taken_for_one_of_the_log(files: MemoryFiles) -> None:
    """A mirror's records hold batches of other logs, whose offsets may well fit."""
    inner = bytearray(batch([b"inner"]))
    struct.pack_into(">q", inner, 0, 50)
    log = new_log(other := MemoryFiles())
    fill(log, 2)
    append(log, batch([bytes(inner)]))
    fill(log, 2)
    log.close()
    starts = positions(other)
    other.change(PATH, starts[2] + 30, b"\xff")
    assert damages(survey(other)) == [(starts[2], starts[3], 2, 3)]


def test_damage_as_long_as_many_batches_ends_at_the_next_good_one(files: MemoryFiles) -> None:
    starts = positions(files)
    files.change(PATH, starts[1], bytes(starts[4] - starts[1]))
    assert damages(survey(files)) == [(starts[1], starts[4], 1, 4)]


@pytest.mark.parametrize("rules", [RULES, GAPS_ALLOWED])
@pytest.mark.parametrize("offset", [0, 1, 2, 4, 1000])
def test_a_wrong_offset_right_behind_damage_is_not_believed(
    files: MemoryFiles, rules: ChainRules, offset: int
) -> None:
    """The checksum does not cover it; the batches behind tell."""
    starts = positions(files)
    files.change(PATH, starts[2] + 30, b"\xff")
    files.change(PATH, starts[3], struct.pack(">q", offset))
    if rules is GAPS_ALLOWED and offset == 2:
        return  # nothing speaks against it: in such a log it may be right
    assert damages(survey(files, rules)) == [(starts[2], starts[4], 2, 4)]


def test_a_flipped_bit_that_the_broker_refuses_is_a_torn_tail_for_the_repair() -> None:
    files = MemoryFiles()
    log = new_log(files)
    for _ in range(3):
        append(log, batch([bytes(1200)]))
    log.close()
    size = log.segments[0].size_bytes // 3

    def found_in(content: bytes) -> list[tuple[int, int, int, int]]:
        files.replace(PATH, content)
        return damages(list(Survey(files, files.open(PATH), 0, -1, RULES, recovery_point=0).found()))

    content = files.content(PATH)
    for position in (size + 7, size + 9, size + 30, size + 1000):
        damaged = bytearray(content)
        damaged[position] ^= 4
        assert found_in(bytes(damaged)) == [(size, 2 * size, 1, 2)], position
    lost = content[:size] + bytes(1536 - size) + content[1536:]
    assert found_in(lost) == [(size, 3 * size, 1, NOTHING_FOLLOWS)]
