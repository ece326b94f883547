"""The corpus: seeds that are run in every `make test`, because they have found something, or cover much. `corpus.txt` is the file."""

from pathlib import Path

FILE = Path(__file__).parent / "corpus.txt"


def corpus() -> list[int]:
    """The seeds, in the order of the file; what follows a `#` is why it is there."""
    lines = (line.partition("#")[0].strip() for line in FILE.read_text(encoding="utf-8").splitlines())
    return [int(line) for line in lines if line]


__all__ = ["corpus"]
