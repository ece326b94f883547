"""Runs what a page tells its reader to type: one shell and one broker for a page, both in a folder of their own.

Owns the processes. The page's `localhost:9092` (and `localhost` alone, as kcat takes it) is the broker's real address when a command
runs, and is put back in what it prints. State of the shell carries on from one command to the next, as it does for the reader.
"""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path

from tests.support.console_pages import (
    INTERRUPT,
    STOP_BROKER,
    Command,
    Note,
    Script,
    agrees,
    masked,
    steps,
)
from tests.support.deadline import until
from tests.support.processes import PenstockServer
from tests.support.requirements import need_program

LIMIT_S = 120.0
PAGE_ADDRESS = "localhost:9092"
_ADDRESS = re.compile(r"(?<![\w.-])localhost(:9092)?(?![\w:.-])")
_STARTS_BROKER = re.compile(r"^(penstock serve|make run)\b")
_MARK = "\x1eend of output"
# What changes the reader's machine, or takes half an hour.
_NOT_RUN = re.compile(r"^(pip|pipx|uv|make|git|docker)\b")
_PROGRAMS = ("kcat", "jq", "curl")


class CommandDiffers(AssertionError):
    """What a page shows is not what happens."""


class PageRun:
    """One page being followed."""

    def __init__(self, folder: Path, root: Path) -> None:
        self._folder = folder / "reader"
        self._folder.mkdir(parents=True)
        (self._folder / "examples").symlink_to(root / "examples")
        self._server = PenstockServer(folder, {}, {})
        self._server.data_directory = self._folder / "penstock-data"
        self._is_serving = False
        self._shell: subprocess.Popen[bytes] | None = None

    def follow(self, text: str) -> int:
        """Do all that a page says; returns how many commands and programs were run. Raises CommandDiffers."""
        self._start_broker()
        found = steps(text)
        count = 0
        for step, after in zip(found, [*found[1:], None], strict=True):
            if isinstance(step, Script):
                self._check(self._command_for(step), may_fail=False)
                count += 1
            elif isinstance(step, Note):
                self._stop_broker() if step.text == STOP_BROKER else self._start_broker()
            elif _STARTS_BROKER.match(step.text):
                self._stop_broker()
                self._start_broker()
            elif not _NOT_RUN.match(step.text):
                self._check(step, may_fail=isinstance(after, Command) and after.text.startswith("echo $?"))
                count += 1
        return count

    def _check(self, command: Command, *, may_fail: bool) -> None:
        for program in _PROGRAMS:
            if re.search(rf"\b{program}\b", command.text):
                need_program(program)
        text = _ADDRESS.sub(self._server.bootstrap, command.text)
        if command.is_interrupted:
            seen, status = self._run_until_interrupted(text, command)
        else:
            seen, status = self._run(text)
        told = seen.replace(self._server.bootstrap, PAGE_ADDRESS)
        told = re.sub(rf"(?<!\d){self._server.bootstrap.rpartition(':')[2]}(?!\d)", "9092", told)
        lines = told.strip("\n").splitlines()
        where = f"line {command.line}: $ {command.text}"
        if status != 0 and not may_fail and not command.is_interrupted:
            raise CommandDiffers(f"{where}\nended with {status}:\n{told}\n{self._server.log_text()[-2000:]}")
        shown = [line for line in command.output if line != INTERRUPT]
        if shown and not agrees(shown, lines):
            page, real = "\n".join(masked(shown)), "\n".join(masked(lines))
            raise CommandDiffers(
                f"{where}\nthe page shows:\n{page}\nand it printed:\n{real}\n(in full:)\n{told}"
            )

    def _command_for(self, script: Script) -> Command:
        """The command that runs a block of Python."""
        path = self._folder.parent / f"test_line_{script.line}.py"
        path.write_text(_ADDRESS.sub(self._server.bootstrap, script.source))
        pytest = "python -m pytest -q --basetemp=../pytest -p no:cacheprovider -p no:anyio -p no:hypothesispytest -o trio_mode=true -W error"
        return Command(script.line, f"{pytest if script.has_tests else 'python -W error'} {path}", ())

    # The broker

    def _start_broker(self) -> None:
        if not self._is_serving:
            self._server.start()
            self._is_serving = True

    def _stop_broker(self) -> None:
        if self._is_serving:
            assert self._server.stop() == 0, self._server.log_text()
            self._is_serving = False

    # The shell

    def _run(self, text: str) -> tuple[str, int]:
        shell = self._open_shell()
        assert shell.stdin is not None
        # Braces keep the state; `(exit)` gives the command's status back to an `echo $?` that follows.
        program = f"{{ {text}\n}} </dev/null\nstatus=$?; echo; echo '{_MARK}' $status; (exit $status)\n"
        shell.stdin.write(program.encode())
        shell.stdin.flush()
        output = self._read_to_mark(shell, text)
        told, _, status = output.rpartition(_MARK)
        return told.removesuffix("\n"), int(status)

    def _read_to_mark(self, shell: subprocess.Popen[bytes], text: str) -> str:
        assert shell.stdout is not None
        descriptor = shell.stdout.fileno()
        output = b""
        end = time.monotonic() + LIMIT_S
        while not re.search(rf"{_MARK} \d+\n$".encode(), output):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            read = os.read(descriptor, 65536) if ready else b""
            if not read:
                raise CommandDiffers(f"$ {text}\ndid not end within {LIMIT_S} s:\n{output.decode()}")
            output += read
        return output.decode()

    def _open_shell(self) -> subprocess.Popen[bytes]:
        if self._shell is None:
            self._shell = subprocess.Popen(
                [need_program("bash"), "--norc", "--noprofile"],
                cwd=self._folder,
                env=self._variables(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._shell

    def _run_until_interrupted(self, text: str, command: Command) -> tuple[str, int]:
        """Press Ctrl-C when all that the page shows before it has come."""
        before = command.output[: command.output.index(INTERRUPT)]
        path = self._folder.parent / "interrupted"
        with path.open("wb") as output:
            process = subprocess.Popen(
                [need_program("bash"), "-c", text],
                cwd=self._folder,
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            until(
                lambda: len(path.read_text().splitlines()) >= len(before),
                f"the output of {text}",
                limit_s=LIMIT_S,
            )
            os.killpg(process.pid, signal.SIGINT)
            status = process.wait(LIMIT_S)
        finally:
            _kill_all_of(process)
        return path.read_text(), status

    def _variables(self) -> Mapping[str, str]:
        own = {name: text for name, text in os.environ.items() if not name.startswith("PENSTOCK_")}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', os.defpath)}"
        return {
            **own,
            "PATH": programs,
            "PENSTOCK_BOOTSTRAP": self._server.bootstrap,
            "PYTHONUNBUFFERED": "1",
        }

    def close(self) -> None:
        """End all processes."""
        if self._shell is not None:
            _kill_all_of(self._shell)
            for pipe in (self._shell.stdin, self._shell.stdout):
                assert pipe is not None
                pipe.close()
        self._server.kill()


def _kill_all_of(process: subprocess.Popen[bytes]) -> None:
    """Kill a session's leader and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def page_run(folder: Path, root: Path) -> Generator[PageRun]:
    """A reader's folder, shell and broker; all end with the block."""
    assert shutil.which("bash"), "console blocks are written for bash"
    run = PageRun(folder, root)
    try:
        yield run
    finally:
        run.close()
