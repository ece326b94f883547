"""`docs/on-disk-format.md` shows a data directory; the code must still make exactly that one."""

import re
from pathlib import Path

import pytest
from tests.support.logs import TOPIC_ID, append, batch
from tests.support.memory_files import MemoryFiles

from penstock.storage.data_directory import DataDirectory
from penstock.storage.log_config import LogConfig

DOCUMENT = Path(__file__).parents[3] / "docs" / "on-disk-format.md"
PATH = "/data"
CONFIG = LogConfig(segment_bytes=400, index_interval_bytes=100)


class CountingRandom:
    """Bytes that count up."""

    def random(self) -> float:
        return 0.0

    def randrange(self, start: int, stop: int) -> int:
        return start

    def randbytes(self, n: int) -> bytes:
        return bytes(range(0xD0, 0xD0 + n))


@pytest.fixture(scope="module")
def example() -> MemoryFiles:
    files = MemoryFiles()
    directory = DataDirectory.open(files, PATH, 1, CountingRandom())
    directory.join_cluster("kD1aB9sOQfWzZJp2dBcC2g")
    log = directory.open_log("orders", 0, TOPIC_ID, CONFIG, 0)
    for number in range(7):
        raw = batch([b"hello"], timestamps_ms=1700000000000 + 5 * number, producer_id=4711, sequence=number)
        append(log, raw, epoch=7 if number < 3 else 8, now_ms=1700000000100 + number)
    log.close()
    directory.write_recovery_points({("orders", 0): 7})
    directory.write_log_starts({("orders", 0): 0})
    directory.write_high_watermarks({("orders", 0): 7})
    directory.mark_clean()
    return files


def shown_files() -> dict[str, bytes]:
    """Each file that the worked example shows, with its bytes."""
    text = DOCUMENT.read_text()
    chapter = text[text.index("## A worked example\n") : text.index("## After a crash\n")]
    shown: dict[str, bytes] = {}
    for name, kind, block in re.findall(
        r"^`([^`]+)`[^\n]*:\n```(\w*)\n(.*?)```$", chapter, re.MULTILINE | re.DOTALL
    ):
        if kind == "hex":
            numbers = [line.split("    ")[0] for line in block.splitlines()]
            shown[name] = bytes.fromhex("".join(numbers))
        else:
            shown[name] = block.encode()
    return shown


def test_every_file_of_the_example_is_shown(example: MemoryFiles) -> None:
    names = {name for name in example.list_directory(PATH) if name not in (".lock", "orders-0")}
    names |= {f"orders-0/{name}" for name in example.list_directory(f"{PATH}/orders-0")}
    text = DOCUMENT.read_text()
    assert [name for name in sorted(names) if f"`{name}`" not in text] == []
    assert len(shown_files()) >= 11


@pytest.mark.parametrize("name", sorted(shown_files()))
def test_the_shown_bytes_are_the_files_bytes(example: MemoryFiles, name: str) -> None:
    content = example.content(f"{PATH}/{name}")
    shown = shown_files()[name]
    if name.endswith(".log"):
        assert content.startswith(shown)
        assert len(content) == 365
        assert len(shown) == 73
    else:
        assert content.rstrip(b"\n") == shown.rstrip(b"\n")
