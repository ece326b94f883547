"""The tree keeps its own rules; and each rule is shown to find what breaks it."""

from pathlib import Path

import pytest
from tests.support.house_rules import (
    function_sizes,
    largest,
    layout_disagreements,
    package_folders,
    python_files,
    reached_for,
    too_large,
)

ROOT = Path(__file__).parents[2]

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 800
# What is there now. Lower a number when the test asks for it; never raise one.
FUNCTION_LINES_RATCHET = 70
FILE_LINES_RATCHET = 600
FUNCTION_LINES_SLACK = 10
FILE_LINES_SLACK = 100

OUTSIDE_ALLOWED: dict[str, frozenset[str]] = {
    # What makes a command: its standard streams, its arguments, its environment, its exit status.
    "cli/": frozenset({"sys.stdin", "sys.stdout", "sys.stderr", "sys.argv", "sys.exit", "os.environ"}),
    # The numbers of the signals that trio is asked for, and the second Ctrl-C, which waits for nothing.
    "cli/serve.py": frozenset({"signal.SIGINT", "signal.SIGTERM", "signal.Signals", "os._exit"}),
    # The numbers of the signals that trio is asked for.
    "cli/interruption.py": frozenset({"signal.SIGINT", "signal.SIGTERM"}),
    # The loop and the workers share a log's tables. A lock waits for nobody outside the process, and in simulation never.
    "storage/": frozenset({"threading.Lock"}),
    # What people are handed as a broker's folder, and never opened here.
    "testing/": frozenset({"pathlib.Path"}),
}
"""What modules outside `runtime/` may touch by themselves, for each folder or file exactly what and why."""


def allowed_in(name: str) -> frozenset[str]:
    return frozenset(
        one for place, names in OUTSIDE_ALLOWED.items() if name.startswith(place) for one in names
    )


def reached_for_in(name: str, allowed: frozenset[str]) -> list[str]:
    return reached_for((ROOT / name).read_text(encoding="utf-8"), allowed)


def production_modules() -> list[str]:
    """Every module of the packages but those of the runtime, as a path from the root."""
    names = [str(file.relative_to(ROOT)) for file in python_files(ROOT)]
    packages = package_folders(ROOT) - {"runtime"}
    return [name for name in names if name.partition("/")[0] in packages]


def test_no_function_and_no_file_is_larger_than_what_is_there_already() -> None:
    assert FUNCTION_LINES_RATCHET <= FUNCTION_LINES_MAX
    assert FILE_LINES_RATCHET <= FILE_LINES_MAX
    limits = {"function_lines_max": FUNCTION_LINES_RATCHET, "file_lines_max": FILE_LINES_RATCHET}
    assert too_large(ROOT, **limits) == []


def test_what_was_made_smaller_stays_smaller() -> None:
    function_lines, file_lines = largest(ROOT)
    assert function_lines + FUNCTION_LINES_SLACK >= FUNCTION_LINES_RATCHET, (
        f"the longest function has {function_lines} lines: lower FUNCTION_LINES_RATCHET"
    )
    assert file_lines + FILE_LINES_SLACK >= FILE_LINES_RATCHET, (
        f"the longest file has {file_lines} lines: lower FILE_LINES_RATCHET"
    )


def lines_of_function(count: int, head: str = "def f():") -> str:
    return "\n".join([head, *["    x = 1"] * (count - 1)])


@pytest.mark.parametrize("head", ["def f():", "async def f():", "@decorated\ndef f():"])
def test_the_length_of_a_function_is_counted_from_its_def(head: str) -> None:
    assert list(function_sizes(lines_of_function(71, head))) == [("f", 71)]


def test_methods_and_nested_functions_are_counted() -> None:
    source = "class A:\n    def m(self):\n        def inner():\n            return 1\n        return inner\n"
    assert sorted(function_sizes(source)) == [("inner", 2), ("m", 4)]


def test_a_planted_long_function_and_a_planted_long_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "broker" / "api").mkdir(parents=True)
    (tmp_path / "broker" / "__init__.py").write_text("")
    (tmp_path / "broker" / "api" / "long.py").write_text(lines_of_function(71))
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_x.py").write_text("x = 1\n" * 801)
    assert too_large(tmp_path, function_lines_max=70, file_lines_max=800) == [
        "broker/api/long.py: f has 71 lines, at most 70",
        "tests/test_x.py: 801 lines, at most 800",
    ]
    assert too_large(tmp_path, function_lines_max=71, file_lines_max=801) == []
    assert largest(tmp_path) == (71, 801)


def test_every_part_of_the_tree_is_looked_at() -> None:
    names = {str(file.relative_to(ROOT)) for file in python_files(ROOT)}
    assert {
        "runtime/files.py",
        "broker/api/__init__.py",
        "src/penstock/errors.py",
        "tests/unit/test_house_rules.py",
    } <= names
    assert not any(name.startswith("src/penstock/runtime") for name in names), "counted twice"


def test_folders_packaging_and_links_agree() -> None:
    assert layout_disagreements(ROOT) == []
    assert (ROOT / "src" / "penstock" / "py.typed").exists(), "the wheel tells type checkers that it is typed"


PROJECT = """
[tool.setuptools]
packages = ["penstock", "penstock.broker", "penstock.broker.api"]
[tool.setuptools.package-dir]
penstock = "src/penstock"
"penstock.broker" = "broker"
[tool.pyright]
include = ["src/penstock/broker", "tests"]
[tool.ruff.lint.flake8-tidy-imports.banned-api]
"broker".msg = "import penstock.broker"
[[tool.importlinter.contracts]]
type = "layers"
layers = ["penstock.broker"]
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree that keeps the rules."""
    for folder in ("broker/api", "src/penstock", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (
        "broker/__init__.py",
        "broker/api/__init__.py",
        "src/penstock/__init__.py",
        "tests/__init__.py",
    ):
        (tmp_path / file).write_text("")
    (tmp_path / "src" / "penstock" / "broker").symlink_to("../../broker")
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    return tmp_path


def test_a_tree_that_keeps_the_rules_is_left_in_peace(tree: Path) -> None:
    assert layout_disagreements(tree) == []


def test_a_new_folder_that_nobody_knows_is_found(tree: Path) -> None:
    (tree / "new").mkdir()
    (tree / "new" / "__init__.py").write_text("")
    assert sorted(layout_disagreements(tree)) == [
        "import-linter's layers: lacks new",
        "links in src/penstock: lacks new",
        "tool.pyright.include: lacks new",
        "tool.ruff banned-api: lacks new",
        "tool.setuptools.package-dir: lacks new",
        "tool.setuptools.packages: lacks penstock.new",
    ]


def test_a_missing_and_a_wrong_link_are_found(tree: Path) -> None:
    link = tree / "src" / "penstock" / "broker"
    link.unlink()
    assert layout_disagreements(tree) == ["links in src/penstock: lacks broker"]
    link.symlink_to("../../tests")
    assert layout_disagreements(tree) == ["src/penstock/broker: points to ../../tests"]


def test_a_sub_package_that_the_wheel_would_lack_is_found(tree: Path) -> None:
    (tree / "broker" / "coordinators").mkdir()
    (tree / "broker" / "coordinators" / "group.py").write_text("")
    assert layout_disagreements(tree) == ["tool.setuptools.packages: lacks penstock.broker.coordinators"]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('= "broker"', '= "brokers"', "package-dir: 'penstock.broker' is mapped to 'brokers'"),
        (
            '"penstock.broker.api"',
            '"penstock.broker.old"',
            "tool.setuptools.packages: lacks penstock.broker.api",
        ),
        ('"src/penstock/broker", ', "", "tool.pyright.include: lacks broker"),
        (
            '["penstock.broker"]',
            '["penstock.broker | penstock.x"]',
            "import-linter's layers: has x, which is no package",
        ),
    ],
)
def test_a_line_of_pyproject_that_is_wrong_is_found(tree: Path, old: str, new: str, found: str) -> None:
    assert old in PROJECT
    (tree / "pyproject.toml").write_text(PROJECT.replace(old, new))
    assert found in layout_disagreements(tree)


def test_only_the_runtime_touches_the_outside() -> None:
    names = production_modules()
    assert {"broker/broker.py", "cli/main.py", "storage/log.py"} <= set(names)
    assert [f"{name}:{place}" for name in names for place in reached_for_in(name, allowed_in(name))] == []


def test_no_exception_outlives_its_use() -> None:
    for place, allowed in OUTSIDE_ALLOWED.items():
        files = [name for name in production_modules() if name.startswith(place)]
        used = {found.partition(": ")[2] for name in files for found in reached_for_in(name, frozenset())}
        idle = {one for one in allowed if not any(f"{name}.".startswith(f"{one}.") for name in used)}
        assert not idle, f"{place}: allowed and not used: {sorted(idle)}"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", "1: time"),
        ("import time as t", "1: time"),
        ("from time import monotonic", "1: time.monotonic"),
        ("def f():\n    import random", "2: random"),
        ("import uuid", "1: uuid"),
        ("import secrets", "1: secrets"),
        ("import socket", "1: socket"),
        ("import ssl", "1: ssl"),
        ("import subprocess", "1: subprocess"),
        ("import threading", "1: threading"),
        ("import sqlite3", "1: sqlite3"),
        ("from concurrent.futures import ThreadPoolExecutor", "1: concurrent.futures.ThreadPoolExecutor"),
        ("import urllib.request", "1: urllib"),
        ("from pathlib import Path", "1: pathlib.Path"),
        ("data = open('x').read()", "1: open"),
        ("opener = open", "1: open"),
        ("import io\nio.open('x')", "2: io.open"),
        ("from io import FileIO", "1: io.FileIO"),
        ("import os\nos.unlink('x')", "2: os.unlink"),
        ("import os as system\nsystem.open('x', 0)", "2: os.open"),
        ("from os import replace", "1: os.replace"),
        ("import os\nos.path.exists('x')", "2: os.path.exists"),
        ("from os.path import getsize", "1: os.path.getsize"),
        ("import os.path\nos.listdir('.')", "2: os.listdir"),
        ("import os\nos.environ['X']", "2: os.environ"),
        ("import trio\nawait trio.to_thread.run_sync(f)", "2: trio.to_thread"),
        ("from trio import to_thread as workers", "1: trio.to_thread"),
        ("from trio.to_thread import run_sync", "1: trio.to_thread.run_sync"),
        ("import trio\nasync def f():\n    await trio.open_file('x')", "3: trio.open_file"),
        ("import trio\ntrio.socket.socket()", "2: trio.socket"),
        ("import trio.socket", "1: trio.socket"),
        ("import trio as t\nt.open_tcp_stream('x', 1)", "2: trio.open_tcp_stream"),
        ("from trio import open_tcp_listeners", "1: trio.open_tcp_listeners"),
        ("from trio.lowlevel import wait_readable", "1: trio.lowlevel.wait_readable"),
        ("import datetime\ndatetime.datetime.now()", "2: datetime.datetime.now"),
        ("from datetime import datetime, UTC\ndatetime.now(UTC)", "2: datetime.datetime.now"),
        ("from datetime import datetime as D\nnow = D.utcnow", "2: datetime.datetime.utcnow"),
        ("from datetime import date\ndate.today()", "2: datetime.date.today"),
        ("print('x')", "1: print"),
        ("import sys\nsys.stdout.write('x')", "2: sys.stdout"),
        ("__import__('time')", "1: __import__"),
        ("class A:\n    def open(self): ...\nopen('x')", "3: open"),
        ("if True:\n    import time", "2: time"),
    ],
)
def test_a_planted_reach_for_the_outside_is_found(source: str, found: str) -> None:
    places = reached_for(source)
    assert any(place == found or place.startswith(found + ".") for place in places), places


@pytest.mark.parametrize(
    "source",
    [
        "import trio\nawait trio.sleep(1)\ntrio.current_time()\nwith trio.move_on_after(1): ...",
        "from trio.lowlevel import checkpoint, ParkingLot",
        "files.open('x')\nfiles.unlink('x')\nself.clock.time.time()",
        "import os\nos.path.join('a', 'b')\npath: os.PathLike[str]",
        "def open(x): ...\nopen(1)",
        "from penstock.runtime.files import read_file as open\nopen(1)",
        "from datetime import datetime, timedelta\ndatetime.fromtimestamp(0)",
        "now = clock.now()\ntoday = day.today()",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ssl import SSLContext",
        "import typing\nif typing.TYPE_CHECKING:\n    import socket",
        "random.random()\ntime = 5\ntime.time",
        '"""import time; open(1)"""',
    ],
)
def test_what_only_looks_like_the_outside_is_left_in_peace(source: str) -> None:
    assert reached_for(source) == []


def test_an_exception_covers_what_it_names_and_no_more() -> None:
    source = "import sys, threading\nsys.stdout.write('x')\nsys.stdin.read()\nthreading.Lock()\nthreading.Thread()\n"
    assert reached_for(source, frozenset({"sys.stdout", "threading.Lock"})) == [
        "3: sys.stdin.read",
        "5: threading.Thread",
    ]
    assert "1: threading" in reached_for(source, frozenset({"sys.stdout"}))
