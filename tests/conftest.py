"""One rule for all tests: what a machine lacks skips with one clear line, and in CI (PENSTOCK_CI=1) a skip is a failure."""

import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = str(Path(__file__).parent.parent)
if (
    ROOT not in sys.path
):  # `bench.peers` and `tests.support` are found from the root, wherever pytest was called
    sys.path.append(ROOT)

from tests.support.examples import examples
from tests.support.processes import IS_KAFKA
from tests.support.requirements import IN_CI
from tests.support.trial_counts import PATH_VARIABLE, TRIALS, count_trials, told, write_trials

# How long an example takes says what else the machine is doing. Speed is a matter of the benches.
settings.register_profile("penstock", deadline=None, max_examples=examples(100))
settings.load_profile("penstock")


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of our marks."""
    config.addinivalue_line("markers", "kafka_only: needs what only Apache Kafka has yet (transactions)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only Apache Kafka can do; `integration/test_against_kafka.py` sees that it is run there."""
    if IS_KAFKA:
        return
    left_out = [item for item in items if item.get_closest_marker("kafka_only") is not None]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make a skip fail in CI."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and in CI nothing may be: {report.longrepr}"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand the counts of a worker to the run that it is part of."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["trials"] = dict(TRIALS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add up what the workers have tried."""
    count_trials(getattr(node, "workeroutput", {}).get("trials", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was tried, and write it down where that is asked for."""
    if TRIALS:
        terminalreporter.write_line(told(TRIALS))
        if PATH_VARIABLE in os.environ:
            write_trials(Path(os.environ[PATH_VARIABLE]), TRIALS)
