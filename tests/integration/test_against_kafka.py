"""The client libraries against Apache Kafka itself: their own integration tests once more, with it in Penstock's place.

Whatever is skipped there is Kafka's own lack and skips with a line; what must not be missing is named here.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bench.peers import PeerMissing
from bench.peers.kafka import find_java, libraries
from tests.support.processes import IS_KAFKA
from tests.support.requirements import need

ROOT = Path(__file__).parents[2]
HERE = "tests/integration"
SUITES = {
    "consumer": (f"{HERE}/consumer/test_reading_records.py", f"{HERE}/consumer/test_group_consumers.py"),
    "membership": (
        f"{HERE}/consumer/test_membership.py",
        "-k",
        "come_and_go or crashed or static_member_keeps",
    ),
    "producer": (f"{HERE}/producer/test_producer.py",),
    "admin": (f"{HERE}/test_admin_groups.py", f"{HERE}/test_penstock_client.py"),
}
LIMIT_S = 300
PASSED_MIN = {"consumer": 30, "membership": 6, "producer": 10, "admin": 10}
MUST_PASS = {"consumer": "test_read_committed_hides_what_was_aborted"}


@pytest.mark.skipif(IS_KAFKA, reason="this is it")
@pytest.mark.parametrize("suite", sorted(SUITES))
def test_what_holds_for_penstock_holds_for_apache_kafka(suite: str, tmp_path: Path) -> None:
    try:
        find_java()
        libraries()
    except PeerMissing as missing:
        need(False, str(missing))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--no-header"),
            *("--basetemp", str(tmp_path / "kafka"), *SUITES[suite]),
        ],
        cwd=ROOT,
        env={**os.environ, "PENSTOCK_TEST_PEER": "kafka", "PENSTOCK_CI": "0"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed.group(1)) >= PASSED_MIN[suite], done.stdout[-3000:]
    if suite in MUST_PASS:
        assert re.search(rf"PASSED .*{MUST_PASS[suite]}", done.stdout), "it was not even tried"
