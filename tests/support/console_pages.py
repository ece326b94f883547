"""What a Markdown page has its reader do: the commands of its console blocks with what they print, and its Python.

Owns the reading of pages and the comparison of outputs; runs nothing (that is `console_shell`).

In a fenced block marked `console`, a line that begins with `$ ` is a command, `> ` continues it, and what follows up to the next command is
its output. Nothing shown means that nothing is compared; a line `...` stands for any lines; `^C` for the key. Ids, times, rates and the
columns SIZE and BYTES may differ. A block marked `python` is a program, or tests for pytest. A comment on a line of its own speaks to the test, not to the reader:

    <!-- console: stop the broker -->           what follows happens without a broker
    <!-- console: start the broker -->          on the same folder and port
    <!-- console: not run: why not -->          leaves out the next block
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERRUPT = "^C"
ANY_LINES = "..."
STOP_BROKER = "stop the broker"
START_BROKER = "start the broker"
NOT_RUN = "not run:"

_FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*([\w-]*)")
_NOTE = re.compile(r"^\s*<!-- console: (.*?) -->\s*$")
_MAKE = re.compile(r"(?:^|`|\$ )make((?: [a-z][a-z-]*)+)", re.MULTILINE)

_MASKS = (
    (re.compile(r"(?<!\d)\d{8}T\d{6}Z"), "<time>"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?"), "<time>"),
    (re.compile(r"(?<![\w-])(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{22}(?![\w-])"), "<id>"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d[\d,.]* (\w+/s\b|\w+ (a|per) second)"), "<rate>"),
    (re.compile(r"(?<![\w.])\d[\d,]*\.\d+ ?(ms|s|min|h|d|B|kB|KB|KiB|MB|MiB|GB|GiB)\b"), "<quantity>"),
    (re.compile(r"(?<![\w.])\d[\d,]* ?(ms|s|min|h|B|kB|KB|KiB|MB|MiB|GB|GiB)\b"), "<quantity>"),
)
_SIZE_COLUMNS = frozenset({"SIZE", "BYTES"})


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed, and what is shown below it. `line` counts from 1."""

    line: int
    text: str
    output: tuple[str, ...]

    @property
    def is_interrupted(self) -> bool:
        """Whether the page shows it ended by Ctrl-C."""
        return INTERRUPT in self.output


@dataclass(frozen=True, slots=True)
class Script:
    """Python that must run to its end; `line` is that of the block."""

    line: int
    source: str

    @property
    def has_tests(self) -> bool:
        """Whether it is for pytest."""
        return re.search(r"^(async )?def test_", self.source, re.MULTILINE) is not None


@dataclass(frozen=True, slots=True)
class Note:
    """What a comment asks of the test."""

    line: int
    text: str


Step = Command | Script | Note


class PageError(AssertionError):
    """A page that can't be read in this way."""


@dataclass(slots=True)
class _Block:
    indent: int
    fence: str
    language: str
    line: int
    lines: list[str]


def blocks(text: str) -> Iterator[_Block | Note]:
    """The fenced blocks of a page, and the notes between them."""
    block: _Block | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        fence = _FENCE.match(line)
        note = _NOTE.match(line)
        if block is None:
            if fence is not None:
                block = _Block(len(fence[1]), fence[2], fence[3], number, [])
            elif note is not None:
                yield Note(number, note[1])
        elif fence is not None and fence[2].startswith(block.fence) and not fence[3]:
            yield block
            block = None
        else:
            block.lines.append(line[block.indent :])


def code_blocks(text: str, language: str) -> list[str]:
    """The text of each block in a language."""
    found = (block for block in blocks(text) if not isinstance(block, Note) and block.language == language)
    return ["\n".join(block.lines) + "\n" for block in found]


def steps(text: str) -> list[Step]:
    """What a page has its reader do, in order; blocks that are not to be run are left out."""
    found: list[Step] = []
    is_left_out = False
    for block in blocks(text):
        if isinstance(block, Note):
            is_left_out = block.text.startswith(NOT_RUN)
            if block.text not in (STOP_BROKER, START_BROKER) and not is_left_out:
                raise PageError(f"line {block.line}: no such note: {block.text}")
            found += [] if is_left_out else [block]
        elif is_left_out:
            is_left_out = False
        elif block.language == "console":
            found += _commands(block)
        elif block.language == "python":
            found.append(Script(block.line, "\n".join(block.lines) + "\n"))
    return found


def _commands(block: _Block) -> Iterator[Command]:
    command: list[str] = []
    output: list[str] = []
    begin = 0
    for number, line in enumerate(block.lines, start=block.line + 1):
        if line.startswith("$ "):
            if command:
                yield Command(begin, "\n".join(command), _trimmed(output))
            begin, command, output = number, [line[2:]], []
        elif line.startswith("> ") and command and not output:
            command.append(line[2:])
        elif not command and line.strip():
            raise PageError(f"line {number}: a console block begins with `$ `")
        else:
            output.append(line)
    if command:
        yield Command(begin, "\n".join(command), _trimmed(output))


def _trimmed(lines: Sequence[str]) -> tuple[str, ...]:
    """Without the blank lines around."""
    return tuple("\n".join(lines).strip("\n").splitlines())


def make_targets(text: str) -> set[str]:
    """Every target that a page tells its reader to make."""
    return {target for found in _MAKE.finditer(text) for target in found[1].split()}


def targets_in(makefile: str) -> set[str]:
    """The targets of a Makefile."""
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def masked(lines: Sequence[str]) -> list[str]:
    """Lines with all that differs from run to run made equal, runs of blanks and rules included."""
    found: list[str] = []
    size_columns: set[int] = set()
    for line in lines:
        text = line
        for pattern, name in _MASKS:
            text = pattern.sub(name, text)
        words = text.split()
        if not words:
            size_columns = set()
        elif not _SIZE_COLUMNS.isdisjoint(words):
            size_columns = {index for index, word in enumerate(words) if word in _SIZE_COLUMNS}
        elif size_columns:
            words = ["<size>" if index in size_columns else word for index, word in enumerate(words)]
        found.append(" ".join(words))
    return found


def agrees(shown: Sequence[str], seen: Sequence[str]) -> bool:
    """Whether what was seen is what the page shows."""
    return _matches(masked(shown), masked(seen))


def _matches(shown: Sequence[str], seen: Sequence[str]) -> bool:
    if not shown:
        return not seen
    if shown[0] == ANY_LINES:
        return any(_matches(shown[1:], seen[count:]) for count in range(len(seen) + 1))
    return bool(seen) and shown[0] == seen[0] and _matches(shown[1:], seen[1:])


def pages(root: Path) -> list[Path]:
    """The pages that people read with a terminal beside it."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md")), *sorted(root.glob("examples/*.md"))]
