"""`import penstock` costs next to nothing, and each public name is there on first use, for interpreters and type checkers alike."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import penstock

SOURCE = Path(__file__).parents[2] / "src" / "penstock" / "__init__.py"
PUBLIC = [name for name in penstock.__all__ if name != "__version__"]
HEAVY = ("trio", "click", "rich", "sqlite3", "asyncio", "cramjam", "zstandard", "crc32c")


def modules_after(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def imports_for_type_checkers() -> dict[str, str]:
    """Name and module of each import under `if TYPE_CHECKING`."""
    (block,) = (node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    found: dict[str, str] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        (alias,) = statement.names
        assert alias.asname == alias.name, "a checker takes only `import X as X` for a public name"
        assert statement.module is not None
        found[alias.name] = statement.module
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_what_its_module_has(name: str) -> None:
    home = imports_for_type_checkers()[name]
    assert getattr(penstock, name) is getattr(importlib.import_module(home), name)


def test_type_checkers_and_the_interpreter_are_told_the_same_names() -> None:
    assert sorted(PUBLIC) == sorted(imports_for_type_checkers())
    assert sorted(PUBLIC) == sorted(penstock._HOMES)  # type: ignore[attr-defined]  # pyright: ignore
    assert list(penstock.__all__) == sorted(penstock.__all__, key=lambda name: (name.startswith("_"), name))


def test_importing_the_package_loads_nothing() -> None:
    loaded = modules_after("import penstock")
    assert {name for name in loaded if name.startswith("penstock")} == {"penstock"}
    assert loaded.isdisjoint(HEAVY)


def test_a_client_loads_no_broker() -> None:
    loaded = modules_after(
        "import penstock\nfor name in ('Producer', 'Consumer', 'Admin', 'BacklogFull'): getattr(penstock, name)"
    )
    packages = {name.split(".")[1] for name in loaded if name.startswith("penstock.")}
    assert packages <= {"client", "consumer", "producer", "protocol", "runtime", "errors"}
    assert "sqlite3" not in loaded


def test_names_are_listed_before_their_first_use() -> None:
    program = (
        "import penstock; assert set(penstock.__all__) <= set(dir(penstock)); from penstock import *; Broker"
    )
    assert "penstock.testing.broker" in modules_after(program)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'penstock' has no attribute 'Prodcuer'"):
        getattr(penstock, "Prodcuer")  # noqa: B009 (a checker would rightly refuse the attribute)
