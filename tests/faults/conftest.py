"""Brokers that are hurt: each test has one of its own, and its log is shown when the test fails."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.processes import RunningServer, running_server

StartServer = Callable[..., RunningServer]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts a broker with the settings that it is called with; killed at the end of the test."""
    started: list[RunningServer] = []
    with ExitStack() as stack:

        def start(
            folder: Path = tmp_path, environment: Mapping[str, str] | None = None, **settings: str
        ) -> RunningServer:
            named = {name.replace("_", "."): value for name, value in settings.items()}
            server = stack.enter_context(running_server(folder, named, environment=environment))
            started.append(server)
            return server

        yield start
        for server in started:
            print(server.log_text()[-4000:])
