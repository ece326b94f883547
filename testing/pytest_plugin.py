"""The pytest plugin: a real broker for a test session, and a fresh topic for each test.

Owns the fixtures `penstock_broker` and `penstock_topic`, the marker of the latter and the ini option for the former. It is loaded by
every pytest run of an environment that has Penstock installed (entry point `pytest11`), so it imports nothing of Penstock before
a test asks for a broker. `-p no:penstock` switches it off.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from penstock.testing.broker_process import BrokerProcess

_INI_OPTION = "penstock_config"
_MARKER = "penstock_topic"
_NAME_LENGTH_MAX = 200
_NOT_IN_A_TOPIC_NAME = re.compile(r"[^a-zA-Z0-9._-]+")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tell pytest of the ini option."""
    parser.addini(
        _INI_OPTION,
        type="linelist",
        default=[],
        help="configs of the broker that the penstock_broker fixture starts, as KEY=VALUE, one a line",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of the marker."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(partitions=1, configs={{}}): how to make the topic of the fixture penstock_topic",
    )


@pytest.fixture(scope="session")
def penstock_broker(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator["BrokerProcess"]:
    """A broker in a process of its own, started on first use and killed at the end; under xdist each worker has its own.

    Topics that a client asks for are made as it asks, unless the ini option `penstock_config` says `auto.create.topics.enable=false`.
    Its folder is kept with the session's other temporary folders.
    """
    from penstock.testing.broker_process import BrokerProcess, BrokerStartFailed

    properties = _properties(pytestconfig.getini(_INI_OPTION))
    try:
        broker = BrokerProcess(tmp_path_factory.mktemp("penstock"), properties)
    except BrokerStartFailed as failed:
        pytest.fail(str(failed), pytrace=False)
    with broker:
        yield broker


@pytest.fixture
def penstock_topic(request: pytest.FixtureRequest, penstock_broker: "BrokerProcess") -> Iterator[str]:
    """The name of a topic that was made for this test, deleted afterwards; `@pytest.mark.penstock_topic(...)` says how it is made."""
    partitions, configs = _wanted(request)
    name = _topic_name(request.node.name, penstock_broker)
    penstock_broker.create_topic(name, partitions=partitions, configs=configs)
    yield name
    penstock_broker.delete_topic(name)


def _properties(lines: list[str]) -> dict[str, str]:
    pairs = [line.partition("=") for line in lines]
    wrong = [name for name, separator, _ in pairs if not separator]
    if wrong:
        pytest.fail(f"{_INI_OPTION}: {wrong[0]!r} is not of the form KEY=VALUE", pytrace=False)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _wanted(request: pytest.FixtureRequest) -> tuple[int, Mapping[str, str]]:
    """What the nearest marker asks for."""

    def read(
        *, partitions: int = 1, configs: Mapping[str, object] | None = None
    ) -> tuple[int, dict[str, str]]:
        return partitions, {key: _config_text(value) for key, value in (configs or {}).items()}

    marker = request.node.get_closest_marker(_MARKER)
    if marker is None:
        return read()
    try:
        return read(*marker.args, **marker.kwargs)
    except TypeError as error:
        pytest.fail(f"@pytest.mark.{_MARKER}: {error}".replace("_wanted.<locals>.read() ", ""), pytrace=False)


def _config_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_counts: dict[int, int] = {}


def _topic_name(test: str, broker: "BrokerProcess") -> str:
    """A name that this broker has not seen, and by which a person knows the test."""
    count = _counts[broker.pid] = _counts.get(broker.pid, 0) + 1
    return f"{_NOT_IN_A_TOPIC_NAME.sub('-', test)[:_NAME_LENGTH_MAX].strip('-.')}-{count}"
