"""One broker for all integration tests that ask for `server`; each uses topics of its own."""

from collections.abc import Iterator

import pytest
from tests.support.consumer_protocol import FAST_GROUPS
from tests.support.processes import RunningServer, running_server
from tests.support.wire import Connection, connect


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A running broker with the defaults, but for topics that nobody created."""
    settings = {"auto.create.topics.enable": "false"}
    with running_server(tmp_path_factory.mktemp("server"), settings) as running:
        yield running


@pytest.fixture(scope="session")
def group_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A running broker on which members of groups write often and expire soon."""
    with running_server(tmp_path_factory.mktemp("group-server"), FAST_GROUPS) as running:
        yield running


@pytest.fixture(autouse=True)
def broker_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print what the shared broker logs during a test; pytest shows it when the test fails."""
    if "server" not in request.fixturenames:
        yield
        return
    running: RunningServer = request.getfixturevalue("server")
    begin = len(running.log_text())
    yield
    print(running.log_text()[begin:][-4000:])


@pytest.fixture
def connection(server: RunningServer) -> Iterator[Connection]:
    """A raw connection to the shared broker."""
    with connect(server.bootstrap) as connected:
        yield connected
