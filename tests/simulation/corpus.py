"""The corpus: seeds that are run in every `make test`, because they have found something, or cover much. `corpus.txt` is the file."""

from pathlib import Path

from tests.simulation.simulation import Options

FILE = Path(__file__).parent / "corpus.txt"


def corpus() -> list[str]:
    """The seeds, in the order of the file; what follows a `#` is why it is there. `7+backlog` has a topic with a bounded backlog, `7+20s` so many
    simulated seconds of faults."""
    lines = (line.partition("#")[0].strip() for line in FILE.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def options_of(entry: str, chaos_s: float) -> Options:
    """What an entry of the corpus is run with."""
    seed, _, what = entry.partition("+")
    if what == "backlog":  # dearer than the others, and so shorter
        return Options(int(seed), min(chaos_s, 8.0), has_backlog=True)
    return Options(int(seed), float(what.removesuffix("s")) if what else chaos_s)


__all__ = ["corpus", "options_of"]
