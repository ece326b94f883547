"""Rules of the tree that no linter knows, as functions from a tree to what breaks them.

Sizes of functions and files; folders, packaging and links that agree; and the environment rule: only `runtime/` (and tests, benches and
examples) may reach for time, chance, sockets, files and threads. Every function takes what it looks at as an argument, so that a
violation can be planted.
"""

import ast
import functools
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

NOT_PRODUCTION = ("tests", "bench", "examples")
"""Folders of Python at the root that are no packages."""

FORBIDDEN_MODULES = frozenset(
    {
        *(
            "asyncio",
            "concurrent",
            "multiprocessing",
            "queue",
            "select",
            "selectors",
            "signal",
            "subprocess",
            "threading",
        ),
        *("random", "secrets", "time", "uuid"),
        *("fcntl", "fileinput", "glob", "mmap", "pathlib", "shutil", "sqlite3", "tempfile"),
        *("ftplib", "http", "smtplib", "socket", "socketserver", "ssl", "urllib"),
        *("_socket", "_sqlite3", "_thread", "posix"),
    }
)
FORBIDDEN_NAMES = frozenset(
    {
        *(
            "trio.to_thread",
            "trio.from_thread",
            "trio.open_file",
            "trio.wrap_file",
            "trio.Path",
            "trio.run_process",
        ),
        *(
            "trio.socket",
            "trio.serve_tcp",
            "trio.serve_ssl_over_tcp",
            "trio.serve_listeners",
            "trio.open_unix_socket",
        ),
        *(
            "trio.open_tcp_stream",
            "trio.open_tcp_listeners",
            "trio.open_ssl_over_tcp_stream",
            "trio.SocketStream",
        ),
        *("trio.open_ssl_over_tcp_listeners", "trio.SocketListener", "trio.SSLStream", "trio.SSLListener"),
        *("trio.lowlevel.open_process", "trio.lowlevel.wait_readable", "trio.lowlevel.wait_writable"),
        *("io.open", "io.FileIO", "builtins.open", "codecs.open", "gzip.open", "bz2.open", "lzma.open"),
        *(
            "datetime.datetime.now",
            "datetime.datetime.utcnow",
            "datetime.datetime.today",
            "datetime.date.today",
        ),
        *("sys.stdin", "sys.stdout", "sys.stderr", "sys.argv", "sys.exit"),
    }
)
FORBIDDEN_BUILTINS = frozenset({"__import__", "breakpoint", "input", "open", "print"})
OS_ALLOWED = frozenset(
    {
        *(
            "os.PathLike",
            "os.fspath",
            "os.sep",
            "os.path",
            "os.path.join",
            "os.path.basename",
            "os.path.dirname",
        ),
        *("os.path.split", "os.path.splitext", "os.path.normpath", "os.path.isabs"),
    }
)
"""What of `os` computes and touches nothing."""

MODULE_BODY = "the module"


def python_files(root: Path) -> list[Path]:
    """Every Python file that is ours: packages, the root package, tests, benches, examples."""
    folders = [
        *(root / name for name in (*package_folders(root), *NOT_PRODUCTION)),
        root / "src" / "penstock",
    ]
    files = {file for folder in folders if folder.is_dir() for file in _walk(folder)}
    return sorted(files | set(root.glob("*.py")))


def _walk(folder: Path) -> Iterator[Path]:
    """Python files below, not through links (`src/penstock/` holds a link for each package)."""
    for path in folder.iterdir():
        if path.is_symlink() or path.name.startswith((".", "__pycache__")):
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix == ".py":
            yield path


# Sizes.


@functools.cache
def function_sizes(source: str) -> Sequence[tuple[str, int]]:
    """Name and lines of every function, from `def` to its end, without decorators; nested ones count for themselves, too."""
    return [
        (node.name, _last_line(node) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def _last_line(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno


def too_large(root: Path, *, function_lines_max: int, file_lines_max: int) -> list[str]:
    """What is over the limits."""
    broken: list[str] = []
    for file in python_files(root):
        source = file.read_text(encoding="utf-8")
        name = file.relative_to(root)
        line_count = len(source.splitlines())
        if line_count > file_lines_max:
            broken.append(f"{name}: {line_count} lines, at most {file_lines_max}")
        broken += [
            f"{name}: {function} has {lines} lines, at most {function_lines_max}"
            for function, lines in function_sizes(source)
            if lines > function_lines_max
        ]
    return broken


def largest(root: Path) -> tuple[int, int]:
    """Lines of the longest function and of the longest file."""
    sources = [file.read_text(encoding="utf-8") for file in python_files(root)]
    functions = (lines for source in sources for _, lines in function_sizes(source))
    return max(functions), max(len(source.splitlines()) for source in sources)


# Layout.


def package_folders(root: Path) -> set[str]:
    """The folders at the root that are packages."""
    return {path.parent.name for path in root.glob("*/__init__.py") if path.parent.name not in NOT_PRODUCTION}


def layout_disagreements(root: Path) -> list[str]:
    """Where folders, `pyproject.toml` and the links in `src/penstock` tell different stories."""
    project: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools, tool = project["tool"]["setuptools"], project["tool"]
    folders = package_folders(root)
    mapping: dict[str, str] = setuptools["package-dir"]
    broken = [
        f"package-dir: {package!r} is mapped to {folder!r}"
        for package, folder in mapping.items()
        if folder != ("src/penstock" if package == "penstock" else package.removeprefix("penstock."))
    ]
    links = {path.name: path for path in (root / "src" / "penstock").iterdir() if path.is_symlink()}
    broken += [
        f"src/penstock/{name}: points to {path.readlink()}"
        for name, path in links.items()
        if path.readlink() != Path("../..") / name
    ]
    banned = tool["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    told = {
        "tool.setuptools.package-dir": {name.removeprefix("penstock.") for name in mapping} - {"penstock"},
        "links in src/penstock": set(links),
        "tool.pyright.include": {name.removeprefix("src/penstock/") for name in tool["pyright"]["include"]}
        - {*NOT_PRODUCTION},
        "tool.ruff banned-api": set(banned),
        "import-linter's layers": _layers(tool["importlinter"]["contracts"]),
    }
    for place, names in told.items():
        broken += [f"{place}: lacks {name}" for name in sorted(folders - names)]
        broken += [f"{place}: has {name}, which is no package" for name in sorted(names - folders)]
    return broken + _unpackaged(root, folders, set(setuptools["packages"]))


def _layers(contracts: list[dict[str, Any]]) -> set[str]:
    layers = [layer for contract in contracts if contract["type"] == "layers" for layer in contract["layers"]]
    return {name.strip().removeprefix("penstock.") for layer in layers for name in layer.split("|")}


def _unpackaged(root: Path, folders: set[str], packages: set[str]) -> list[str]:
    """Folders of modules that a wheel would not hold, and packages that are not there."""
    modules = [file.relative_to(root) for folder in folders for file in _walk(root / folder)]
    wanted = {"penstock"} | {"penstock." + ".".join(module.parent.parts) for module in modules}
    broken = [f"tool.setuptools.packages: lacks {name}" for name in sorted(wanted - packages)]
    return broken + [
        f"tool.setuptools.packages: has {name}, which holds no module" for name in sorted(packages - wanted)
    ]


# The environment rule.


def reached_for(source: str, allowed: frozenset[str] = frozenset()) -> list[str]:
    """What of the outside a module reaches for by itself, as `line: name`.

    Names are followed through `import ... as` and `from ... import`. What stands under `if TYPE_CHECKING` may be named, as a type.
    A name that is `allowed` covers its attributes, and the import of its module.
    """
    return [f"{line}: {name}" for line, name in _reached_for(source) if not is_covered(name, allowed)]


@functools.cache
def _reached_for(source: str) -> Sequence[tuple[int, str]]:
    """Line and name of all that is of the outside, allowed or not."""
    tree = ast.parse(source)
    for_types_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and _is_type_checking(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    names: dict[str, str] = {}
    found: set[tuple[int, str]] = set()
    own_names: set[str] = set()
    nodes = [node for node in ast.walk(tree) if id(node) not in for_types_only]
    inner_parts = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for local, full in _imported(node):
                names[local] = full
                found.add((node.lineno, full))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node in tree.body:
            own_names.add(node.name)
    for node in nodes:
        if isinstance(node, ast.Name) and node.id in FORBIDDEN_BUILTINS - own_names and node.id not in names:
            found.add((node.lineno, node.id))
        elif isinstance(node, ast.Attribute) and id(node) not in inner_parts:
            full_name = _full_name(node, names)
            if full_name is not None:
                found.add((node.lineno, full_name))
    return [(line, name) for line, name in sorted(found) if _is_forbidden(name)]


def is_covered(name: str, allowed: frozenset[str]) -> bool:
    """Whether `name` is allowed, or part of what is, or the module that holds it."""
    return any(name == one or name.startswith(one + ".") or one.startswith(name + ".") for one in allowed)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """Local names and what they stand for. `import a.b` binds `a`, and is told as a.b under a name of its own."""
    for alias in node.names:
        if isinstance(node, ast.ImportFrom):
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"
        elif alias.asname:
            yield alias.asname, alias.name
        else:
            yield alias.name.partition(".")[0], alias.name.partition(".")[0]
            yield f"import {alias.name}", alias.name


def _full_name(node: ast.Attribute, names: dict[str, str]) -> str | None:
    parts: list[str] = []
    expression: ast.expr = node
    while isinstance(expression, ast.Attribute):
        parts.append(expression.attr)
        expression = expression.value
    if not isinstance(expression, ast.Name) or expression.id not in names:
        return None
    return ".".join([names[expression.id], *reversed(parts)])


def _is_forbidden(name: str) -> bool:
    if name.partition(".")[0] in FORBIDDEN_MODULES or name in FORBIDDEN_BUILTINS:
        return True
    if name.startswith("os."):
        return name not in OS_ALLOWED
    prefixes = [name]
    while "." in prefixes[-1]:
        prefixes.append(prefixes[-1].rpartition(".")[0])
    return not FORBIDDEN_NAMES.isdisjoint(prefixes)
