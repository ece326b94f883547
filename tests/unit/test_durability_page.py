"""`docs/durability.md` names tests; a name that nobody answers to would be a promise that nobody tries to break."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "durability.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
PROMISES = re.compile(r"^## The promises\n(.*?)^## ", re.MULTILINE | re.DOTALL)


def unanswered(text: str, root: Path) -> list[str]:
    """The tests that a page names and the tree does not have."""
    return sorted({f"{file}::{name}" for file, name in NAMED.findall(text) if not has(root / file, name)})


def has(path: Path, name: str) -> bool:
    """Whether the file is there and, if a name is given, makes something of that name at its top level."""
    if not path.exists():
        return False
    return not name or name in top_level_names(ast.parse(path.read_text(encoding="utf-8")))


def top_level_names(module: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


def untested(text: str) -> list[str]:
    """The promises beside which no test stands."""
    (promises,) = PROMISES.findall(text)
    rows = [line for line in promises.splitlines() if line.startswith("| ")]
    return [row for row in rows if not row.startswith(("| what ", "| --- ")) and not NAMED.search(row)]


def test_every_test_that_the_page_names_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert len(NAMED.findall(text)) > 40
    assert unanswered(text, ROOT) == []


def test_every_promise_has_a_test_beside_it() -> None:
    assert untested(PAGE.read_text(encoding="utf-8")) == []


def test_a_planted_wrong_name_is_found() -> None:
    here = "tests/unit/test_durability_page.py"
    text = f"`{here}` `{here}::test_nothing` `{here}::ROOT` `tests/unit/test_missing.py::test_x`"
    assert unanswered(text, ROOT) == [f"{here}::test_nothing", "tests/unit/test_missing.py::test_x"]


def test_a_planted_promise_without_a_test_is_found() -> None:
    text = "## The promises\n| what is promised | tests |\n| --- | --- |\n| a | `tests/a.py::test_a` |\n| b | soon |\n## Next\n"
    assert untested(text) == ["| b | soon |"]
