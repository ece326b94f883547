"""A child process that never outlives its parent, however the parent ends.

Owns both sides. The parent (`GuardedProcess`) holds the write end of the child's standard input and says its own process id. The child
(`python -m penstock.runtime.guarded_process PARENT MODULE ARGUMENT...`) runs the module as `python -m` would, and a thread beside
it ends the process at once when its input ends or its parent is another: the first is seen immediately, but not while a process that
the parent has forked since still holds the pipe; the second is seen within a second, whatever holds what.
"""

import os
import runpy
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from penstock.errors import PenstockError

ORPHAN_CHECK_MS = 1000
ORPHANED_EXIT_CODE = 86
_LOG_TAIL_BYTES = 4000


class ProcessFailed(PenstockError):
    """The child ended, or did not speak in time. The message has the end of its log."""


class GuardedProcess:
    """`module` run by this interpreter, its standard error in the file `log_path`, in a session of its own (Ctrl-C does not reach it)."""

    def __init__(
        self, module: str, arguments: Sequence[str], *, log_path: str, variables: Mapping[str, str]
    ) -> None:
        self._log_path = log_path
        command = [sys.executable, "-P", "-m", __name__, str(os.getpid()), module, *arguments]
        with open(log_path, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=variables,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; below zero is the signal that ended it."""
        return self._process.poll()

    def log_text(self) -> str:
        """What it wrote to its standard error so far."""
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            return log.read()

    def first_line(self, limit_s: float) -> str:
        """The first line that it prints; blocks until then. Raises ProcessFailed when it ends before that, or after `limit_s` seconds."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + limit_s
        text = b""
        while b"\n" not in text:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise ProcessFailed(f"said nothing for {limit_s} s\n{self._log_tail()}")
            read = os.read(descriptor, 4096)
            if not read:
                raise ProcessFailed(f"ended with {self._process.wait()}\n{self._log_tail()}")
            text += read
        return text.decode(errors="replace").partition("\n")[0]

    def _log_tail(self) -> str:
        return self.log_text()[-_LOG_TAIL_BYTES:].strip()

    def kill(self) -> None:
        """End it at once, and wait for that; twice is allowed."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def variables_without(prefix: str) -> dict[str, str]:
    """This process's environment without the variables whose names begin with `prefix`."""
    return {name: text for name, text in os.environ.items() if not name.startswith(prefix)}


def end_with_parent(parent_pid: int) -> None:
    """Watch from a thread of its own, from now on."""
    threading.Thread(target=_watch, args=(parent_pid,), daemon=True, name="end with parent").start()


def _watch(parent_pid: int) -> None:
    standard_input = select.poll()
    standard_input.register(0, select.POLLIN)
    while os.getppid() == parent_pid:
        if standard_input.poll(ORPHAN_CHECK_MS) and not os.read(0, 4096):
            break
    os._exit(ORPHANED_EXIT_CODE)


def _main() -> None:
    parent_pid, module = int(sys.argv[1]), sys.argv[2]
    end_with_parent(parent_pid)
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()


__all__ = ["GuardedProcess", "ProcessFailed", "end_with_parent", "variables_without"]
