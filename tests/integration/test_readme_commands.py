"""What the pages tell people to do does what they show. Every block of every page is covered, also one written tomorrow."""

from pathlib import Path

import pytest
from tests.support.console_pages import (
    START_BROKER,
    STOP_BROKER,
    Command,
    Note,
    PageError,
    Script,
    agrees,
    code_blocks,
    make_targets,
    masked,
    pages,
    steps,
    targets_in,
)
from tests.support.console_shell import CommandDiffers, page_run

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)
WITH_COMMANDS = [page for page in PAGES if steps(page.read_text())]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_the_commands_of_a_page_do_what_it_shows(page: Path, tmp_path: Path) -> None:
    with page_run(tmp_path, ROOT) as run:
        run.follow(page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_a_page_says_to_make_can_be_made(page: Path) -> None:
    assert make_targets(page.read_text()) <= targets_in((ROOT / "Makefile").read_text())


def test_the_readme_is_among_them_with_commands_and_targets() -> None:
    readme = (ROOT / "README.md").read_text()
    assert ROOT / "README.md" in WITH_COMMANDS
    assert {"run", "test"} <= make_targets(readme)
    texts = [step.text for step in steps(readme) if isinstance(step, Command)]
    assert any(text.startswith("penstock topic create ") for text in texts)
    assert any("kcat -C" in text for text in texts)


PAGE = """
Some `make run` here.

```console
$ echo one; echo two
one
two

$ for i in 1 2
> do echo $i; done
1
2
$ true
```

<!-- console: stop the broker -->

```
$ not a console
```

<!-- console: not run: it would take a day -->
```console
$ sleep 86400
```

- an item
  ```console
  $ echo indented
  indented
  ```

<!-- console: start the broker -->
"""


def test_programs_are_told_from_tests() -> None:
    program, tests = steps("```python\nprint(1)\n```\n```python\nasync def test_it():\n    pass\n```\n")
    assert isinstance(program, Script)
    assert isinstance(tests, Script)
    assert tests.has_tests
    assert not program.has_tests


def test_commands_outputs_and_notes_are_found() -> None:
    assert steps(PAGE) == [
        Command(5, "echo one; echo two", ("one", "two")),
        Command(9, "for i in 1 2\ndo echo $i; done", ("1", "2")),
        Command(13, "true", ()),
        Note(16, STOP_BROKER),
        Command(29, "echo indented", ("indented",)),
        Note(33, START_BROKER),
    ]
    assert make_targets(PAGE) == {"run"}
    assert code_blocks("```python\nx = 1\n```\n```python\ny = 2\n```\n", "python") == ["x = 1\n", "y = 2\n"]


@pytest.mark.parametrize("text", ["<!-- console: stop the brokers -->", "```console\npenstock serve\n```"])
def test_a_page_that_would_not_be_covered_is_refused(text: str) -> None:
    with pytest.raises(PageError):
        steps(text)


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        ("topic orders, id MDNuWXFp_SVkT3j4D_1X5A", "topic orders, id Ml-uWXFp_SVkT3j4D_1X5A"),
        ("at 2026-11-23T02:52:57Z", "at 2027-01-01T00:00:00.123Z"),
        ("in 0.02 s, 17 ms, 1.5 MB", "in 1.31 s, 2 ms, 20 MB"),
        ("12,000 records/s", "4 records/s"),
        ("A  SIZE  B\n1  102   2", "A SIZE B\n1 99 2"),
        ("first\n...\nlast", "first\na\nb\nlast"),
        ("first\n...", "first"),
    ],
)
def test_what_differs_from_run_to_run_agrees(shown: str, seen: str) -> None:
    assert agrees(shown.splitlines(), seen.splitlines()), (masked([shown]), masked([seen]))


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        ("created orders: 3 partitions", "created orders: 1 partition"),
        ("retention.ms  86400000  topic", "retention.ms  86400001  topic"),
        ("A  SIZE  B\n1  102   2", "A SIZE B\n1 102 3"),
        ("one\ntwo", "one"),
        ("one", "one\ntwo"),
        ("first\n...\nlast", "first\na\nb"),
        ("a-name-of-22-characters", "b-name-of-22-characters"),
    ],
)
def test_what_says_something_else_does_not_agree(shown: str, seen: str) -> None:
    assert not agrees(shown.splitlines(), seen.splitlines())


@pytest.mark.parametrize(
    "block",
    [
        "$ penstock topic create orders\ncreated orders: 2 partitions",
        "$ penstock topic describe missing",
        "$ echo one\n\n$ echo two\none",
        "$ no-such-program",
        "$ exit 3",
    ],
)
def test_a_command_that_lies_is_found(block: str, tmp_path: Path) -> None:
    with page_run(tmp_path, ROOT) as run, pytest.raises(CommandDiffers):
        run.follow(f"```console\n{block}\n```\n")


@pytest.mark.parametrize(
    "block", ["x =", "1 / 0", "def test_it():\n    assert 1 == 2", "def test_it(no_such_fixture): pass"]
)
def test_python_that_does_not_run_is_found(block: str, tmp_path: Path) -> None:
    with page_run(tmp_path, ROOT) as run, pytest.raises(CommandDiffers):
        run.follow(f"```python\n{block}\n```\n")


def test_python_is_given_the_address_of_the_page(tmp_path: Path) -> None:
    page = """
```console
$ penstock topic create orders
```
```python
import penstock
import trio

async def main():
    async with penstock.Admin("localhost:9092") as admin:
        assert [topic.name for topic in await admin.list_topics()] == ["orders"]

trio.run(main)
```
"""
    with page_run(tmp_path, ROOT) as run:
        assert run.follow(page) == 2


def test_a_shell_keeps_its_state_and_the_address_is_the_pages(tmp_path: Path) -> None:
    page = """
```console
$ cd examples; export GREETING=hello
$ echo $GREETING from $(basename $PWD)
hello from examples
$ cat -
$ (exit 3)
$ echo $?
3
$ echo localhost:9092 localhost x-localhost
localhost:9092 localhost:9092 x-localhost
$ penstock topic create one --bootstrap localhost:9092 && penstock topic list
created one: 1 partition
...
$ echo started; sleep 600
started
^C
```
<!-- console: stop the broker -->
```console
$ penstock topic list --bootstrap localhost:9092 2>&1 | grep -c refused
1
```
"""
    with page_run(tmp_path, ROOT) as run:
        assert run.follow(page) == 9
