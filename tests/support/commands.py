"""The `penstock` command as a process, the way people meet it."""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.forks import ForkServer

LIMIT_S = 60.0
LOADED = ("consume_work", "export", "group", "import_files", "log", "offsets", "produce_work", "topic")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    exit_code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[str]:
        """What it wrote to stdout, line by line."""
        return self.out.decode().removesuffix("\n").split("\n") if self.out else []


class Commands:
    """Runs commands against one broker."""

    def __init__(self, bootstrap: str, variables: Mapping[str, str] | None = None) -> None:
        self.bootstrap = bootstrap
        self._variables = {**os.environ, "PENSTOCK_BOOTSTRAP": bootstrap, **(variables or {})}

    def line(self, *arguments: str) -> list[str]:
        """The command line."""
        return [str(Path(sys.executable).with_name("penstock")), *arguments]

    def run(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run a command to its end, in a fork of a process that has loaded the commands (`running` and `in_shell` start a whole one)."""
        ended = _forks().run("penstock.cli.main:main", arguments, self._variables, LIMIT_S, stdin=stdin)
        return Done(ended.status, ended.out, ended.err.decode())

    def good(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run a command that must succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.exit_code == 0, done
        return done

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Generator[subprocess.Popen[bytes], None, None]:
        """A command that runs beside the test, its streams as pipes; killed at the end of the block."""
        process = subprocess.Popen(
            self.line(*arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._variables,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def in_shell(self, script: str) -> Done:
        """Run a line of shell in which `penstock` is the command."""
        folder = str(Path(sys.executable).parent)
        variables = {**self._variables, "PATH": f"{folder}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", script],
            check=False,
            capture_output=True,
            env=variables,
            timeout=LIMIT_S,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())


@functools.cache
def _forks() -> ForkServer:
    return ForkServer(["penstock.cli.main", *(f"penstock.cli.{name}" for name in LOADED), "trio", "penstock"])
