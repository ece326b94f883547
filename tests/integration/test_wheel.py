"""What people install is the wheel, not the tree: it must be whole, and ask for all that it imports.

The wheel goes into a fresh venv that has nothing but the distributions which the wheel asks for; these are linked from the
environment that runs the tests, so that nothing is downloaded but the build backend.
"""

import importlib.metadata
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tests.support.deadline import until
from tests.support.requirements import need

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
LIMIT_S = 30


@dataclass(frozen=True)
class Installed:
    """A venv with the wheel in it."""

    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the venv, away from the tree."""
        program = str(self.folder / "bin" / command[0])
        return subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    copy_sources(folder / "tree")
    wheel = build_wheel(folder / "tree", folder / "dist")
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
    return Installed(venv)


def copy_sources(target: Path) -> None:
    """What a build looks at, without what earlier builds in the tree have left there."""
    target.mkdir()
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, target)
    folders = {Path(path).parts[0] for path in SETUPTOOLS["package-dir"].values()}
    for name in folders:
        shutil.copytree(
            ROOT / name,
            target / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )


def build_wheel(tree: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(target), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    backend = PROJECT["build-system"]["requires"][0]
    need(f"for {backend}" not in done.stderr, f"the build backend {backend}, which pip could not fetch")
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


def check_call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


def link_dependencies(wheel: Path, venv: Path) -> None:
    """Give the venv each distribution that the wheel asks for, directly or not, and no other."""
    (site_packages,) = venv.glob("lib/python*/site-packages")
    (metadata,) = importlib.metadata.distributions(path=[str(wheel)])
    wanted = required_by(metadata.requires or ())
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        distribution = importlib.metadata.distribution(name)
        wanted += required_by(distribution.requires or ())
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] != ".."}:
            target = site_packages / top
            if top != "__pycache__" and not target.exists():
                target.symlink_to(str(distribution.locate_file(top)))
    assert "trio" in seen


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
        importlib.import_module(module.name)
assert importlib.util.find_spec("pytest") is None, "the venv is not clean"
"""
    packages = SETUPTOOLS["packages"]
    done = installed.run("python", "-W", "error", "-c", program, *packages)
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


def test_type_checkers_are_told_that_there_are_types(installed: Installed) -> None:
    assert list(installed.folder.glob("lib/python*/site-packages/penstock/py.typed"))


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
