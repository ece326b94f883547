"""What people install is the wheel, not the tree: it must be whole, and ask for all that it imports.

The wheel is built from the source distribution, as an index would offer both. It goes into a fresh venv that has nothing but the distributions which the wheel asks for; these are linked from the
environment that runs the tests, so that nothing is downloaded but the build backend.

The compiled wheel is not what an index offers; it must be built where there is a compiler, and its modules must pass the tests of the Python that
they were made from.
"""

import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.support.deadline import until
from tests.support.requirements import need, need_program

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
BACKEND = PROJECT["build-system"]["requires"][0]
PAGES = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")
LIMIT_S = 30
BUILD_LIMIT_S = 300
NEED_EXTRA = [
    (f"penstock.offline.{name}", "numpy")
    for name in ("arrow_files", "arrow_tables", "columns", "json_columns")
]
"""What only `penstock[parquet]` has, and what is missing without it."""
COMPILED = ("penstock.consumer.decoding", "penstock.consumer.runs", "penstock.protocol.record_writer")


@dataclass(frozen=True)
class Installed:
    """A venv with the wheel in it, and the source distribution that it was built from."""

    folder: Path
    sdist: Path

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the venv, away from the tree."""
        program = str(self.folder / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the build backend in it."""
    folder = tmp_path_factory.mktemp("backend")
    pip("install", "--target", str(folder), BACKEND)
    return folder


@pytest.fixture(scope="module")
def installed(backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    copy_sources(folder / "tree")
    sdist = build_sdist(backend, folder / "tree", folder / "dist")
    wheel = build_wheel(sdist, folder / "dist")
    venv = folder / "venv"
    check_call(sys.executable, "-m", "venv", "--without-pip", str(venv))
    link_dependencies(wheel, venv)
    python = str(venv / "bin" / "python")
    check_call(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        str(wheel),
    )
    return Installed(venv, sdist)


def copy_sources(target: Path) -> None:
    """What a build looks at, without what earlier builds in the tree have left there."""
    target.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", *PAGES):
        shutil.copy(ROOT / name, target)
    folders = {Path(path).parts[0] for path in SETUPTOOLS["package-dir"].values()}
    for name in (*folders, "docs", "examples"):
        shutil.copytree(
            ROOT / name,
            target / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )


def build_sdist(backend: Path, tree: Path, target: Path) -> Path:
    """Ask the build backend itself: pip builds wheels only."""
    program = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    check_call(sys.executable, "-c", program, str(target), cwd=tree, PYTHONPATH=str(backend))
    (sdist,) = target.glob("*.tar.gz")
    return sdist


def build_wheel(source: Path, target: Path) -> Path:
    pip("wheel", "--no-deps", "--wheel-dir", str(target), str(source))
    (wheel,) = target.glob("*.whl")
    return wheel


def pip(*arguments: str, **variables: str) -> None:
    """Run pip; a skip where the build backend can't be had."""
    command = [sys.executable, "-m", "pip", *arguments[:1], "-q", *arguments[1:]]
    done = subprocess.run(
        command,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=BUILD_LIMIT_S,
        check=False,
    )
    need(f"for {BACKEND}" not in done.stderr, f"the build backend {BACKEND}, which pip could not fetch")
    assert done.returncode == 0, done.stderr


def check_call(*command: str, cwd: Path | None = None, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def link_dependencies(wheel: Path, venv: Path) -> None:
    """Give the venv each distribution that the wheel asks for, directly or not, and no other."""
    (site_packages,) = venv.glob("lib/python*/site-packages")
    (metadata,) = importlib.metadata.distributions(path=[str(wheel)])
    linked = link(required_by(metadata.requires or ()), site_packages)
    assert "trio" in linked


def link(wanted: list[str], folder: Path) -> set[str]:
    """Link distributions and all that they ask for into a folder; returns their names."""
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        wanted = wanted + required_by(distribution.requires or ())
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            target = folder / top
            if top != "__pycache__" and not target.exists():
                target.symlink_to(str(distribution.locate_file(top)))
    return seen


def required_by(requirements: Sequence[str]) -> list[str]:
    parsed = [Requirement(text) for text in requirements]
    return [each.name for each in parsed if each.marker is None or each.marker.evaluate({"extra": ""})]


def test_the_version_is_told(installed: Installed) -> None:
    done = installed.run("penstock", "--version")
    assert done.stdout == f"penstock {PROJECT['project']['version']}\n"
    assert done.returncode == 0


def test_every_module_is_there_and_finds_what_it_imports(installed: Installed) -> None:
    program = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    print(package.__file__)
    for module in pkgutil.iter_modules(package.__path__, name + "."):
        if module.name == "penstock.testing.pytest_plugin":  # pytest itself loads it
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert (module.name, error.name) in NEED_EXTRA, (module.name, error.name)
            NEED_EXTRA.remove((module.name, error.name))
assert not NEED_EXTRA, f"loaded without the extra: {NEED_EXTRA}"
assert importlib.util.find_spec("pytest") is None, "the venv is not clean"
"""
    packages = SETUPTOOLS["packages"]
    done = installed.run("python", "-W", "error", "-c", f"NEED_EXTRA = {NEED_EXTRA}\n{program}", *packages)
    assert done.returncode == 0, done.stderr
    files = [Path(line) for line in done.stdout.splitlines()]
    assert len(files) == len(packages)
    assert all(file.is_relative_to(installed.folder) for file in files)


def test_every_codec_finds_its_library_which_is_imported_on_first_use(installed: Installed) -> None:
    program = """
from penstock.protocol.compression import Codec, compress, decompress
for codec in Codec:
    assert decompress(codec, compress(codec, b"lines" * 99), output_max_bytes=9999) == b"lines" * 99
"""
    done = installed.run("python", "-c", program)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def compiled(backend: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the compiled wheel in it."""
    need_program("gcc")
    folder = tmp_path_factory.mktemp("compiled")
    copy_sources(folder / "tree")
    pip(
        *("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(folder / "tree")),
        PENSTOCK_COMPILE="1",
        MYPYC_OPT_LEVEL="0",  # what the optimizer makes of it is gcc's business, and 6 of 32 seconds
        PYTHONPATH=str(backend),
    )
    (wheel,) = folder.glob("*.whl")
    assert not wheel.name.endswith("-none-any.whl")
    pip("install", "--no-deps", "--no-index", "--target", str(folder / "installed"), str(wheel))
    return folder / "installed"


def test_compiled_modules_pass_the_tests_of_their_source(compiled: Path) -> None:
    program = (
        "import importlib, sys; print(*[importlib.import_module(name).__file__ for name in sys.argv[1:]])"
    )
    told = check_call(sys.executable, "-c", program, *COMPILED, cwd=ROOT, PYTHONPATH=str(compiled))
    assert all(Path(file).is_relative_to(compiled) and file.endswith(".so") for file in told.split())
    pytest_quietly = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    tests = ("tests/property/consumer/test_decoding.py", "tests/unit/protocol/test_record_writer.py")
    check_call(sys.executable, *pytest_quietly, *tests, cwd=ROOT, PYTHONPATH=str(compiled))


def test_what_is_installed_by_default_is_pure(installed: Installed) -> None:
    folders = [folder / "penstock" for folder in installed.folder.glob("lib/python*/site-packages")]
    assert folders
    assert not [file for folder in folders for file in folder.rglob("*.so")]


def test_type_checkers_are_told_that_there_are_types(installed: Installed) -> None:
    assert list(installed.folder.glob("lib/python*/site-packages/penstock/py.typed"))


def test_public_names_are_found(installed: Installed) -> None:
    program = "import penstock; print(*[getattr(penstock, name) for name in penstock.__all__], sep='\\n')"
    done = installed.run("python", "-W", "error", "-c", program)
    assert done.returncode == 0, done.stderr


def test_pytest_finds_the_plugin_and_its_fixtures_work(installed: Installed, tmp_path: Path) -> None:
    link(["pytest"], tmp_path)
    suite = installed.folder / "test_it.py"
    suite.write_text(
        "def test_it(penstock_broker, penstock_topic):\n    assert penstock_broker.data_directory.is_dir()\n"
    )
    arguments = (
        "-m",
        "pytest",
        "--trace-config",
        "--basetemp=pytest",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        str(suite),
    )
    done = installed.run("python", *arguments, PYTHONPATH=str(tmp_path))
    assert "penstock.testing.pytest_plugin" in done.stdout, done.stdout + done.stderr
    assert f"penstock-{PROJECT['project']['version']} at {installed.folder}" in done.stdout
    assert "1 passed" in done.stdout


def test_the_source_distribution_has_the_pages_and_the_examples(installed: Installed) -> None:
    with tarfile.open(installed.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        str(path.relative_to(ROOT)) for folder in ("docs", "examples") for path in (ROOT / folder).glob("*.*")
    }
    assert len(wanted) > 8
    assert wanted | {*PAGES, "LICENSE", "pyproject.toml", "src/penstock/py.typed"} <= names
    assert not any("__pycache__" in name or name.startswith("tests") for name in names)


@pytest.fixture
def served(installed: Installed, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [installed.folder / "bin" / "penstock", "serve", "--listen", "127.0.0.1:0"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    yield process, log
    process.kill()
    process.wait()


def test_a_broker_starts_serves_and_stops(
    installed: Installed, served: tuple[subprocess.Popen[bytes], Path]
) -> None:
    process, log = served

    def start_line() -> str | None:
        assert process.poll() is None, log.read_text()
        return next((line for line in log.read_text().splitlines() if " listens on " in line), None)

    line = until(start_line, "the start line", limit_s=LIMIT_S)
    bootstrap = line.partition(" listens on ")[2].partition(",")[0]
    created = installed.run("penstock", "topic", "create", "orders", "--bootstrap", bootstrap)
    assert created.stdout == "created orders: 1 partition\n", created.stderr
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0, log.read_text()
