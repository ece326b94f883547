"""The real input: log lines of two systems (tests/data/loghub), split as they are, with nothing stripped.

The files end their lines with CR LF. A line as a record's value keeps its CR: whoever trims or translates it is found out.
"""

from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "data" / "loghub"
FILES = (FOLDER / "OpenSSH_2k.log", FOLDER / "Zookeeper_2k.log")


@cache
def lines(name: str = "") -> tuple[bytes, ...]:
    """The lines without LF, with CR, of the files whose names start with `name`, in order."""
    found: list[bytes] = []
    for path in FILES:
        if path.name.startswith(name):
            found += path.read_bytes().split(b"\n")
    return tuple(found)
