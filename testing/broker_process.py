"""A broker in a process of its own, for tests of any kind: blocking, asyncio, trio, or another language altogether.

Owns its start, its topics and its end. The broker is `penstock serve`, with the settings it is given and none from the environment
or a file, so that a test does the same on every machine.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from penstock.errors import PenstockError
from penstock.runtime.guarded_process import GuardedProcess, ProcessFailed, variables_without
from penstock.testing.properties import FOR_TESTS, THROWN_AWAY, flags_of

if TYPE_CHECKING:
    from penstock.client.admin_values import CreatedTopic

START_LIMIT_S = 60.0
_LAST_WORDS = 2000
_START_LINE = re.compile(r" listens on (?:\w+://)?(\S+:\d+)[, ]")


class BrokerStartFailed(PenstockError):
    """The broker did not start; the message is what it said."""


class BrokerEnded(PenstockError):
    """The broker does not run any more: it was killed, or failed; the message has the end of its log."""


class BrokerProcess:
    """A running broker with its data below `directory`. Every call blocks; any thread may make it, also inside an event loop.

    Making it returns when the broker answers. It ends with `kill`, with the end of its `with` block if it has one, or with the process
    that made it, whatever becomes of that.

    Raises:
        BrokerStartFailed: with the broker's own words.
    """

    def __init__(self, directory: Path, properties: Mapping[str, str] | None = None) -> None:
        self._directory = directory
        flags = flags_of(FOR_TESTS | THROWN_AWAY | dict(properties or {}))
        arguments = ["serve", "--data-dir", str(self.data_directory), *flags]
        self._process = GuardedProcess(
            "penstock.cli.main",
            arguments,
            log_path=str(directory / "broker.log"),
            variables=variables_without("PENSTOCK_"),
        )
        try:
            self._start_line = self._process.first_line(START_LIMIT_S)
        except ProcessFailed as failed:
            self._process.kill()
            raise BrokerStartFailed(f"the broker did not start: {failed}") from None
        except BaseException:
            self._process.kill()
            raise

    @property
    def bootstrap(self) -> str:
        """`host:port`, for clients."""
        found = _START_LINE.search(self._start_line)
        assert found is not None, self._start_line
        return found.group(1)

    @property
    def data_directory(self) -> Path:
        """The folder with the logs, one folder for each partition."""
        return self._directory / "data"

    @property
    def pid(self) -> int:
        """The process that serves."""
        return self._process.pid

    def log_text(self) -> str:
        """What the broker has logged so far."""
        return f"{self._start_line}\n{self._process.log_text()}"

    def create_topic(
        self, name: str, *, partitions: int = 1, configs: Mapping[str, str] | None = None
    ) -> "CreatedTopic":
        """Make a topic; `configs` by Kafka's names. It can be used when this returns. Raises BrokerError (TopicExists, ...), BrokerEnded."""
        self._check_running()
        # trio and the client only now: a test run that wants no broker imports this module, too.
        from penstock.runtime.blocking import run_blocking
        from penstock.testing.topics import create_topic

        return run_blocking(lambda: create_topic(self.bootstrap, name, partitions, configs or {}))

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all that is in it; no error where it is gone already. Raises BrokerError, BrokerEnded."""
        self._check_running()
        from penstock.runtime.blocking import run_blocking
        from penstock.testing.topics import delete_topic

        run_blocking(lambda: delete_topic(self.bootstrap, name))

    def _check_running(self) -> None:
        code = self._process.exit_code
        if code is not None:
            raise BrokerEnded(
                f"the broker ended with {code}; its last words:\n{self.log_text()[-_LAST_WORDS:]}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL), and wait for that; twice is allowed. The folder stays."""
        self._process.kill()


__all__ = ["BrokerEnded", "BrokerProcess", "BrokerStartFailed"]
