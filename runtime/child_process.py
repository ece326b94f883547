"""Other programs, run beside this process: their output line by line, their end, and that none of them is left behind.

Owns the process and its output pipe. The child is in a session of its own, so that Ctrl-C in a terminal reaches only this process, which
then ends its children in its own order. Where the system has `setpriv` (Linux), a child is told to stop when this process is killed.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence

import trio

from penstock.errors import PenstockError

LINE_SIZE_BYTES_MAX = 64 * 1024
_READ_SIZE_BYTES = 64 * 1024


class ProgramMissing(PenstockError):
    """There is no such program, or it can't be started."""


def find_program(name: str) -> str | None:
    """The path of a program on PATH, or None."""
    return shutil.which(name)


def this_program(*arguments: str) -> list[str]:
    """The command line that runs `penstock` with the interpreter and the packages of this process."""
    return [sys.executable, "-P", "-m", "penstock.cli.main", *arguments]


class ChildProcess:
    """A running program. Raises ProgramMissing when it can't be started."""

    def __init__(self, command: Sequence[str], *, variables: Mapping[str, str]) -> None:
        read, write = os.pipe()
        try:
            # Here and not on a worker: the signal at the parent's death comes when the *thread* that started the child ends.
            self._process = subprocess.Popen(
                [*_stopped_with_parent(), *command],
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                env=dict(variables),
                start_new_session=True,
            )
        except OSError as error:
            os.close(read)
            raise ProgramMissing(f"{command[0]}: {error.strerror}") from error
        finally:
            os.close(write)
        self._output = trio.lowlevel.FdStream(read)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def lines(self) -> AsyncIterator[str]:
        """What it writes to its output and its errors, until all that write there have ended; a longer line is cut in pieces."""
        rest = b""
        while chunk := await self._output.receive_some(_READ_SIZE_BYTES):
            *whole, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_SIZE_BYTES_MAX:
                whole, rest = [*whole, rest], b""
            for line in whole:
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")

    async def wait(self) -> int:
        """Its exit code; below zero is the signal that ended it. Cancelled, it goes on."""
        return await trio.to_thread.run_sync(self._process.wait, abandon_on_cancel=True)

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask it to stop. No error when it has ended."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once, wait for that, and let go of its output; twice is allowed."""
        self._process.kill()
        self._process.wait()
        self._output.close()


def signal_name(exit_code: int) -> str:
    """What ended a process, for people: `exit code 1`, or `SIGKILL`."""
    return signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"


def _stopped_with_parent() -> list[str]:
    program = find_program("setpriv")
    return [program, "--pdeathsig", "TERM", "--"] if program else []


__all__ = ["ChildProcess", "ProgramMissing", "find_program", "signal_name", "this_program"]
