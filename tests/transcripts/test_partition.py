"""Scenes from the life of a replica, each a script with what comes of it (tests/support/partition_script.py tells the language)."""

from pathlib import Path

import pytest
from tests.support.partition_script import PartitionScript

SCRIPTS = sorted((Path(__file__).parent / "partition").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    expected = path.read_text()
    actual = PartitionScript().run(expected)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(actual)
    else:
        assert actual == expected, "the replica does something else now: look at it, then --rewrite"


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 5
