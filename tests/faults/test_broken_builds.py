"""The suite against builds that are broken on purpose: one that would pass without the fsyncs, too, would prove nothing.

Each mutant is one edit of the sources; a small part of the suite must fail on it, for the reason that is named, each time. The edit must fit
exactly once: who changes those lines writes it anew. `docs/durability.md` lists the mutants.
"""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.broken_builds import ROOT, WRONG_BUILD, Build, Mutant

CRASHES = "tests/property/broker/test_crashes_in_virtual_time.py"
FAILING_SYNCS = f"{CRASHES}::test_what_a_failed_sync_did_not_bring_to_the_disk_is_never_promised"
RECOVERY = "tests/unit/storage/test_recovery.py"
SWAP = "tests/unit/storage/test_segment_swap.py::test_a_crash_at_every_call_leaves_the_old_segments_or_the_new_one"
LOST = r"(is lost|without an error of the disk: CorruptBatch)"
"""What was acked or seen is not there after a start, or the broker finds damage where the disk did nothing wrong."""


class Broken(NamedTuple):
    """A mutant, what catches it, and how."""

    mutant: Mutant
    tests: str
    reason: str


BROKEN = [
    Broken(
        Mutant(
            "fsync-left-out",
            "storage/log_writer.py",
            "                file.datasync()\n            except",
            "                pass\n            except",
        ),
        FAILING_SYNCS,
        LOST,
    ),
    Broken(
        Mutant(
            "fsync-counts-what-came-while-it-ran",
            "storage/log_writer.py",
            "            self._durable_end_offset = target\n",
            "            self._durable_end_offset = self._log_end_offset\n",
        ),
        FAILING_SYNCS,
        rf"{LOST}|CORRUPT_MESSAGE without an error of the disk",
    ),
    Broken(
        Mutant(
            "fsync-retried-after-a-failure",
            "storage/log_writer.py",
            "            except StorageError as error:\n                self._fail(error)\n            self._durable",
            "            except StorageError:\n                file.datasync()\n            self._durable",
        ),
        FAILING_SYNCS,
        LOST,
    ),
    Broken(
        Mutant(
            "ack-before-append",
            "storage/log_writer.py",
            "written = file.pwrite(batch, position)",
            "written = size_bytes",
        ),
        FAILING_SYNCS,
        r"the length prefix is right",  # a slice that ends before its bytes
    ),
    Broken(
        Mutant(
            "ack-before-sync",
            "broker/partition_machine.py",
            "return self._log_end_offset if self.write_caching else self._durable_end_offset",
            "return self._log_end_offset",
        ),
        FAILING_SYNCS,
        LOST,
    ),
    Broken(
        Mutant(
            "directory-not-synced",
            "storage/log_writer.py",
            "            file.close()\n        try:\n            self._files.sync_directory(self.directory)\n",
            "            file.close()\n        try:\n            pass\n",
        ),
        FAILING_SYNCS,
        LOST,
    ),
    Broken(
        Mutant(
            "epoch-checkpoint-not-synced",
            "storage/checkpoint.py",
            '    _write_entries(files, path, (f"{epoch} {start_offset}" for epoch, start_offset in entries))\n',
            """    lines = [f"{epoch} {start_offset}" for epoch, start_offset in entries]
    file = files.open(path, write=True, create=True)
    file.truncate(0)
    file.pwrite("\\n".join([str(VERSION), str(len(lines)), *lines, ""]).encode(), 0)
    file.close()
""",
        ),
        FAILING_SYNCS,
        r"(leader-epoch-checkpoint: |leader epoch)",
    ),
    Broken(
        Mutant(
            "high-watermark-above-the-log",
            "broker/partitions.py",
            "min(known, opened.log_end_offset)",
            "known",
        ),
        FAILING_SYNCS,
        r"(cached|toggled)-0: gaps in",
    ),
    Broken(
        Mutant(
            "log-start-shown-before-it-is-durable",
            "broker/retention.py",
            "        try:\n            await self._partitions.move_log_starts(starts, holds)\n        except DiskFull:",
            "        for partition, offset in starts.items():\n            partition.log.advance_log_start_offset(offset)\n"
            "        try:\n            await self._partitions.move_log_starts(starts, holds)\n        except DiskFull:",
        ),
        "tests/unit/broker/test_retention.py::test_the_start_is_durable_before_it_holds_and_before_any_file_goes",
        r"AssertionError: assert \d+ == 0",
    ),
    Broken(
        Mutant(
            "recovery-does-not-rewrite",
            "storage/recovery.py",
            "                write_all(file, batch, position)\n            file.datasync()",
            "                pass\n            file.datasync()",
        ),
        FAILING_SYNCS,
        LOST,
    ),
    Broken(
        Mutant(
            "tail-not-checked",
            "storage/recovery.py",
            "                check_batch(segment.path, position, header, batch, expected, self._rules)\n",
            "",
        ),
        f"{RECOVERY}::test_a_flipped_bit_is_cut_in_the_last_batch_and_refused_everywhere_else",
        r"DID NOT RAISE|assert",
    ),
    Broken(
        Mutant(
            "compacted-segment-not-synced",
            "storage/compaction.py",
            "        self._write()\n        self._file.datasync()\n",
            "        self._write()\n",
        ),
        SWAP,
        r"the segment that compaction made is|corrupt record batch|assert \[Kept\(",
    ),
    Broken(
        Mutant(
            "compaction-swaps-before-the-old-segments-are-gone",
            "storage/segment_swap.py",
            "        self._files.sync_directory(self.directory)\n        _rename_to_final(",
            "        _rename_to_final(",
        ),
        SWAP,
        r"comes next",
    ),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("builds") / "whole")


def test_a_build_with_nothing_broken_fails(whole: Build) -> None:
    tests = sorted({broken.tests for broken in BROKEN})
    outcome = whole.run(*tests, environment={"CRASH_RUNS": "9"})
    assert outcome.exit_status == 0, outcome.output


@pytest.mark.parametrize("broken", BROKEN, ids=[each.mutant.name for each in BROKEN])
def test_a_broken_build_passes(broken: Broken, whole: Build, tmp_path: Path) -> None:
    outcome = whole.broken(tmp_path / "broken", broken.mutant).run(broken.tests)
    assert outcome.exit_status == 1, outcome.output
    lines = outcome.output.splitlines()
    told = [line for line in lines if line.startswith("E  ") or "Error: " in line]
    assert any(re.search(broken.reason, line) for line in told), outcome.output


def test_an_edit_that_fits_no_longer_is_overlooked(tmp_path: Path, whole: Build) -> None:
    gone = Mutant("gone", "storage/log.py", "what is nowhere", "")
    with pytest.raises(AssertionError, match=r"gone: 'what is nowhere' is 0 times in storage/log\.py"):
        whole.broken(tmp_path / "gone", gone)
    with pytest.raises(AssertionError, match="twice: 'a' is 2 times"):
        Mutant("twice", "x", "a", "b").apply("a a")


def test_another_build_than_the_one_meant_is_tried(tmp_path: Path, whole: Build) -> None:
    other = Build(tmp_path / "other", whole.folder)
    shutil.rmtree(other.folder / "src")
    assert other.run("tests/unit/storage/test_layout.py").exit_status == WRONG_BUILD


def test_the_page_lists_the_mutants() -> None:
    page = (ROOT / "docs" / "durability.md").read_text(encoding="utf-8")
    section = page.partition("## Broken on purpose")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)`", section, re.MULTILINE) == [each.mutant.name for each in BROKEN]
