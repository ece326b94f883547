"""One process of a cluster: started with a log that outlives it, killed, stopped, frozen, started again."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.processes import STOP_LIMIT_S, freeze


class NodeProcess:
    """A process that may be started again and again; all its starts write to one log."""

    def __init__(self, log_path: Path) -> None:
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._is_frozen = False

    def run(self, command: Sequence[str]) -> None:
        """Start it; the one before must have ended."""
        assert not self.is_running, f"{self.log_path.stem} runs already"
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def is_running(self) -> bool:
        """Whether there is a process, frozen or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait for the end. No error when it has ended or never began."""
        self._is_frozen = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def begin_to_stop(self) -> None:
        """SIGTERM."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def await_end(self) -> int:
        """Wait for the end; returns the exit code."""
        assert self._process is not None
        return self._process.wait(STOP_LIMIT_S)

    def stop(self) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        self.begin_to_stop()
        return self.await_end()

    def freeze(self) -> None:
        """SIGSTOP; on return no thread of it runs."""
        freeze(self.pid)
        self._is_frozen = True

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)
        self._is_frozen = False

    @property
    def is_frozen(self) -> bool:
        """Between `freeze` and `thaw`."""
        return self._is_frozen

    def check_alive(self) -> None:
        """AssertionError with the end of its log when it has ended by itself."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise AssertionError(
                f"{self.log_path.stem} ended by itself with {code}:\n{self.log_text()[-3000:]}"
            )

    def log_text(self, since: int = 0) -> str:
        """What it wrote from byte `since` on, in all its starts."""
        if not self.log_path.exists():
            return ""
        with self.log_path.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def log_size(self) -> int:
        """Bytes that it has written so far."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0
