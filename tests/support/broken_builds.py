"""Builds of Penstock with one edit each, and parts of the suite run against them in processes of their own.

    build = Build(tmp_path / "whole")                   a copy of the packages
    broken = build.broken(tmp_path / "broken", mutant)  another, with the edit in it
    outcome = broken.run("tests/unit/…::test_…")

Owns that it is the copy which is tried: the process looks at every module of Penstock that it has loaded (`is_of_build`). An edit must apply exactly
once, so that one which fits no longer is no silence.
"""

import functools
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.forks import ForkServer
from tests.support.house_rules import package_folders

ROOT = Path(__file__).parents[2]
FOLDER_VARIABLE = "PENSTOCK_BUILD"
LIMIT_S = 120.0
WRONG_BUILD = 70
ALREADY_THERE = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One edit of one file."""

    name: str
    path: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        """The text with the edit in it. Raises AssertionError if it does not fit exactly once."""
        count = text.count(self.old)
        assert count == 1, f"{self.name}: {self.old!r} is {count} times in {self.path}: write the edit anew"
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a part of the suite."""

    exit_status: int
    output: str


class Build:
    """A copy of the packages at `folder`."""

    def __init__(self, folder: Path, source: Path = ROOT) -> None:
        self.folder = folder
        for name in (*sorted(package_folders(ROOT)), "src"):
            shutil.copytree(source / name, folder / name, symlinks=True)

    def broken(self, folder: Path, mutant: Mutant) -> "Build":
        """One more, with an edit; what was compiled here is compiled there."""
        other = Build(folder, self.folder)
        path = folder / mutant.path
        path.write_text(mutant.apply(path.read_text(encoding="utf-8")), encoding="utf-8")
        return other

    def run(self, *tests: str, environment: Mapping[str, str] | None = None) -> Outcome:
        """Run tests of this tree against the build, up to the first failure."""
        ended = _forks().run(
            "pytest:main",
            ["-q", "-x", "-p", __name__, "-p", "no:cacheprovider", "-W", ALREADY_THERE, *tests],
            {**os.environ, **(environment or {}), FOLDER_VARIABLE: str(self.folder)},
            LIMIT_S,
            folders=[self.folder / "src", ROOT],
        )
        return Outcome(ended.status, (ended.out + ended.err).decode())


@functools.cache
def _forks() -> ForkServer:
    """What each run would import first, and nothing of Penstock."""
    return ForkServer(
        ["pytest", "hypothesis.stateful", "trio.testing", "sqlite3", "crc32c", "zstandard", "cramjam"]
    )


def is_of_build(folder: str) -> bool:
    """Whether Penstock is loaded, and all of it from that folder."""
    files = [
        module.__file__ or ""
        for name, module in tuple(sys.modules.items())
        if name == "penstock" or name.startswith("penstock.")
    ]
    return bool(files) and all(file.startswith(folder + os.sep) for file in files)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In the process: a run that tried another build has no outcome."""
    if not is_of_build(os.environ[FOLDER_VARIABLE]):
        pytest.exit("another build of Penstock was tried", returncode=WRONG_BUILD)


__all__ = ["WRONG_BUILD", "Build", "Mutant", "Outcome"]
