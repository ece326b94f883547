"""An export that is killed at any step, or loses power there, and is run again: each record once, and the group where the manifest is."""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.support.exports import DAY_MS, Place, expected_places, export_once, names_in, time_of, value_of
from tests.support.memory_files import MemoryFiles

from penstock.offline.folder import FolderInUse
from penstock.offline.folding import Folding
from penstock.offline.manifest import BadManifest
from penstock.offline.plan import CannotGoOn
from penstock.offline.text_files import LineEncoder, csv_first_line, csv_line
from penstock.runtime.files import DiskFull

FIRST = {0: 20, 1: 9}
LATER = {0: 26, 1: 9, 2: 4}


def encoder() -> LineEncoder:
    return LineEncoder("csv", csv_line, Folding("day"), csv_first_line())


def places_in(files: MemoryFiles) -> list[Place]:
    """What a reader finds who goes by the manifest; checked against it on the way."""
    manifest = json.loads(files.content("/out/_manifest.json"))
    found: list[Place] = []
    for each in manifest["files"]:
        data = files.content(f"/out/{each['path']}")
        assert hashlib.sha256(data).hexdigest() == each["sha256"]
        assert len(data) == each["bytes"]
        rows = list(csv.DictReader(data.decode().splitlines()))
        assert len(rows) == each["records"]
        inside: list[Place] = []
        for row in rows:
            place = int(row["partition"]), int(row["offset"])
            assert row["value"].encode() == value_of(*place)
            assert int(row["timestamp"]) == time_of(*place)
            assert each["path"].startswith(f"day=1970-01-{1 + time_of(*place) // DAY_MS:02d}/")
            inside.append(place)
        for index, told in each["partitions"].items():
            own = [offset for partition, offset in inside if partition == int(index)]
            assert own == sorted(own)
            assert told == {"first_offset": own[0], "last_offset": own[-1], "records": len(own)}
        found += inside
    return found


@dataclass
class Moment:
    """What is left when everything stops here."""

    files: MemoryFiles
    group: dict[int, int]


async def moments_of_a_run(files: MemoryFiles, group: dict[int, int], ends: dict[int, int]) -> list[Moment]:
    """The state before each change of the disk, and before and after each commit."""
    found: list[Moment] = []

    def look(*_: object) -> None:
        found.append(Moment(files.fork(), dict(group)))

    files.before_change = look
    await export_once(files, encoder(), ends, group, on_commit=look)
    files.before_change = None
    look()
    return found


def ways_to_end(moment: Moment) -> Iterator[Moment]:
    yield Moment(moment.files.fork(), dict(moment.group))  # killed: what was written is there
    dark = moment.files.fork()
    dark.power_cut()
    yield Moment(dark, dict(moment.group))


async def check_rerun(moment: Moment, ends: dict[int, int]) -> None:
    # In another order: what was left over has no namesake that replaces it by chance.
    manifest = await export_once(moment.files, encoder(), ends, moment.group, is_reversed=True)
    if {index: each.end for index, each in manifest.partitions.items()} != ends:
        # An unfinished run ends as it was planned; what is new comes with the next.
        manifest = await export_once(moment.files, encoder(), ends, moment.group)
    found = places_in(moment.files)
    assert len(found) == len(set(found)), "twice"
    assert sorted(found) == expected_places(ends)
    assert names_in(moment.files) == sorted(each.path for each in manifest.files), "left over"
    assert manifest.is_complete
    assert moment.group == ends


async def test_killed_anywhere_in_the_first_run_each_record_is_there_once() -> None:
    moments = await moments_of_a_run(MemoryFiles(), {}, FIRST)
    assert len(moments) > 60
    for moment in moments:
        for ended in ways_to_end(moment):
            await check_rerun(ended, FIRST)


async def test_killed_anywhere_in_a_later_run_each_record_is_there_once() -> None:
    files, group = MemoryFiles(), dict[int, int]()
    await export_once(files, encoder(), FIRST, group)
    moments = await moments_of_a_run(files, group, LATER)
    for moment in moments[::2]:
        for ended in ways_to_end(moment):
            await check_rerun(ended, LATER)


async def test_killed_twice_each_record_is_there_once() -> None:
    first = await moments_of_a_run(MemoryFiles(), {}, FIRST)
    for moment in first[1::13]:
        (_, dark) = ways_to_end(moment)
        for again in (await moments_of_a_run(dark.files, dark.group, FIRST))[::9]:
            for ended in ways_to_end(again):
                await check_rerun(ended, FIRST)


async def test_at_each_moment_the_manifest_names_whole_files_and_no_record_twice() -> None:
    for moment in await moments_of_a_run(MemoryFiles(), {}, FIRST):
        for ended in ways_to_end(moment):
            if not ended.files.exists("/out/_manifest.json"):
                assert (names_in(ended.files), ended.group) == ([], {})
                continue
            found = places_in(ended.files)
            assert len(found) == len(set(found))
            progress = json.loads(ended.files.content("/out/_manifest.json"))["partitions"]
            for index, each in progress.items():
                assert [o for p, o in sorted(found) if p == int(index)] == list(range(each["next"]))
                assert ended.group.get(int(index), 0) <= each["next"], "the group is ahead of the manifest"


async def test_a_second_export_adds_only_what_is_new() -> None:
    files, group = MemoryFiles(), dict[int, int]()
    first = await export_once(files, encoder(), FIRST, group)
    names = [each.path for each in first.files]
    again = await export_once(files, encoder(), FIRST, group)
    assert [each.path for each in again.files] == names
    assert (again.runs, again.record_count) == (2, 29)
    await export_once(files, encoder(), LATER, group)
    assert sorted(places_in(files)) == expected_places(LATER)
    assert group == LATER


async def test_a_group_begins_where_it_stands() -> None:
    files, group = MemoryFiles(), {0: 15}
    await export_once(files, encoder(), FIRST, group)
    assert sorted(places_in(files)) == expected_places(FIRST, {0: 15})
    other = MemoryFiles()
    await export_once(other, encoder(), LATER, group)  # another folder: what the group has not had
    assert sorted(places_in(other)) == expected_places(LATER, {0: 20, 1: 9})


async def test_a_group_that_somebody_else_moved_is_told() -> None:
    files, group = MemoryFiles(), dict[int, int]()
    await export_once(files, encoder(), FIRST, group)
    group[0] = 7
    with pytest.raises(CannotGoOn, match="stands at 7 in t-0, but this folder's export at 20"):
        await export_once(files, encoder(), LATER, group)
    files.kill()
    del group[0]  # expired: the manifest knows
    await export_once(files, encoder(), LATER, group)
    assert sorted(places_in(files)) == expected_places(LATER)


async def test_records_that_retention_took_are_told() -> None:
    files, group = MemoryFiles(), dict[int, int]()
    await export_once(files, encoder(), FIRST, group)
    manifest = await export_once(files, encoder(), {0: 40, 1: 9}, group, log_starts={0: 30})
    assert [(gap.partition, gap.start, gap.end) for gap in manifest.gaps] == [(0, 20, 30)]
    assert sorted(places_in(files)) == sorted(expected_places(FIRST) + expected_places({0: 40}, {0: 30}))


async def test_a_log_that_is_shorter_than_what_was_exported_is_told() -> None:
    files = MemoryFiles()
    await export_once(files, encoder(), FIRST, None)
    with pytest.raises(CannotGoOn, match="t-0 ends at 5, and was exported up to 20"):
        await export_once(files, encoder(), {0: 5, 1: 9}, None)


async def test_another_export_in_the_same_folder_is_refused() -> None:
    files = MemoryFiles()
    await export_once(files, encoder(), FIRST, None)
    with pytest.raises(CannotGoOn, match=r"holds another export \(format csv, now jsonl\)"):
        await export_once(files, encoder(), FIRST, None, format_name="jsonl")
    with pytest.raises(FolderInUse):  # that one was not closed
        await export_once(files, encoder(), FIRST, None)


async def test_files_without_a_manifest_are_not_touched() -> None:
    files = MemoryFiles()
    await export_once(files, encoder(), FIRST, None)
    names = names_in(files)
    files.unlink("/out/_manifest.json")
    with pytest.raises(BadManifest, match=r"no _manifest\.json"):
        await export_once(files, encoder(), FIRST, None)
    assert names_in(files) == names


async def test_a_full_disk_fails_the_run_and_the_next_one_goes_on() -> None:
    wrong = 0
    for call in range(1, 60, 4):
        files, group = MemoryFiles(), dict[int, int]()
        files.fail("any", DiskFull, call=call)
        try:
            await export_once(files, encoder(), FIRST, group)
        except DiskFull:
            wrong += 1
        files.kill()
        await check_rerun(Moment(files, group), FIRST)
    assert wrong > 10
