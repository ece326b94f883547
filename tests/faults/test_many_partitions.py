"""Thousands of partitions on one broker, and more of them than it may open files: it starts, serves, stops, and recovers from a kill.

`make test` takes a share; `make long` runs all of it: MANY_PARTITIONS=5000. The figures are printed.
"""

import os
from pathlib import Path

import pytest
from tests.support.many_partitions import Life, cpu_percent, open_files
from tests.support.processes import IS_KAFKA, running_server

pytestmark = pytest.mark.skipif(IS_KAFKA, reason="the limit of open files is Penstock's to divide")

FULL_COUNT = int(os.environ.get("MANY_PARTITIONS", "0"))
FEW_DESCRIPTORS = 160
IDLE_S = 10.0
IDLE_PERCENT_MAX = 5.0
SHARE_COUNT = 200


def live(tmp_path: Path, count: int, open_files_max: int) -> None:
    """Everything once, with all that was acked looked at after each start."""
    with running_server(tmp_path, open_files_max=open_files_max) as server:
        life = Life(server, count)
        try:
            life.step("create", life.create)
            life.step("one record to each", life.produce_to_all)
            life.step("one more to each", life.produce_to_all)
            life.step("fetch all", life.check_all)
            if FULL_COUNT:
                idle = cpu_percent(server.pid, IDLE_S)
                life.lines.append(f"idle: {idle:.2f} % of a core")
                assert idle < IDLE_PERCENT_MAX
            life.step("stop", server.stop, measure=False)
            life.step("start", server.start)
            life.step("fetch all", life.check_all)
            life.step("one more to each", life.produce_to_all)
            if open_files_max:
                assert open_files(server.pid) < open_files_max
            server.kill()
            life.step("start after a kill", server.start)
            life.step("fetch all", life.check_all)
            life.step("one more to each", life.produce_to_all)
            life.step("stop", server.stop, measure=False)
        finally:
            print(f"{count} partitions, {open_files_max or 'as many as the system gives'} descriptors")
            print("\n".join(f"    {line}" for line in life.lines))
        assert "Too many open files" not in server.log_text()


@pytest.mark.parametrize(
    ("count", "open_files_max"),
    [(FULL_COUNT, 0), (FULL_COUNT, 256)] if FULL_COUNT else [(SHARE_COUNT, FEW_DESCRIPTORS)],
)
def test_a_broker_with_fewer_descriptors_than_partitions_loses_or_refuses_records(
    tmp_path: Path, count: int, open_files_max: int
) -> None:
    live(tmp_path, count, open_files_max)
