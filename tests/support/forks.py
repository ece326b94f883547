"""Programs in processes of their own that share one loading of what they import: up to a second of a core for each.

A `ForkServer` is a process that has imported some modules and forks for each program. The fork has the environment, the standard streams and
the working folder of a process that was started for it, and ends as one (exit code, or the signal that ended it, negative as in `subprocess`).
What it must not depend on is what an import does, since that happened before.
"""

import atexit
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn, cast

ROOT = Path(__file__).parents[2]
FAILED = 70


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended, and what it wrote."""

    status: int
    out: bytes
    err: bytes


class ForkServer:
    """Forks of a process that has imported `modules`; ends with the process that made it. Thread-safe: one program at a time."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; from {__name__} import serve; serve(sys.argv[1:])",
                *modules,
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        atexit.register(self._end)

    def _end(self) -> None:
        with self._process as process:
            process.kill()

    def run(
        self,
        program: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        limit_s: float,
        *,
        stdin: bytes = b"",
        folders: Sequence[Path] = (),
    ) -> Ended:
        """Run `module:function` with `sys.argv` and more folders in front of `sys.path`; SIGALRM ends it after `limit_s`."""
        with tempfile.TemporaryDirectory() as place, self._lock:
            out, err = (Path(place) / name for name in ("out", "err"))
            (Path(place) / "in").write_bytes(stdin)
            order = [program, list(arguments), dict(environment), limit_s, [str(x) for x in folders], place]
            orders, answers = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
            orders.write(json.dumps(order).encode() + b"\n")
            orders.flush()
            return Ended(int(answers.readline()), out.read_bytes(), err.read_bytes())


def serve(modules: Sequence[str]) -> None:
    """In the process: fork for each line of stdin, and answer with a line that is the exit status."""
    for name in modules:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _run_here(*json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run_here(
    program: str,
    arguments: list[str],
    environment: dict[str, str],
    limit_s: float,
    folders: list[str],
    place: str,
) -> NoReturn:
    _give_streams(Path(place))
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = folders
    sys.argv[1:] = arguments
    signal.alarm(int(limit_s))
    status: Any = FAILED
    try:
        module, _, function = program.partition(":")
        status = getattr(importlib.import_module(module), function)(
            *([] if function == "main" else [arguments])
        )
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - the program's, and the process ends with it
        traceback.print_exc()
        status = 1
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(int(status or 0))


def _give_streams(place: Path) -> None:
    """Pipe-like streams on the descriptors 0 to 2, and Python's own upon them."""
    write = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for descriptor, (name, flags) in enumerate((("in", os.O_RDONLY), ("out", write), ("err", write))):
        opened = os.open(place / name, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
