"""The client libraries against Apache Kafka itself: their own integration tests once more, with it in Penstock's place.

One run of pytest for all of them, so that they share brokers. Whatever is skipped there is Kafka's own lack and skips with a line; what must
not be missing is named here.
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
PASSED_MIN = {
    "consumer/test_reading_records.py": 23,
    "consumer/test_group_consumers.py": 7,
    "consumer/test_membership.py": 6,
    "producer/test_producer.py": 10,
    "test_admin_groups.py": 2,
}
"""By file. (`test_penstock_client.py` asks both brokers by itself.)"""
LEFT_OUT = "test_membership and not (come_and_go or crashed or static_member_keeps)"
"""What sees to Penstock's own side of membership."""
MUST_PASS = "test_read_committed_hides_what_was_aborted"
LIMIT_S = 400


@pytest.mark.skipif(IS_KAFKA, reason="this is it")
def test_what_holds_for_penstock_holds_for_apache_kafka(tmp_path: Path) -> None:
    try:
        find_java()
        libraries()
    except PeerMissing as missing:
        need(False, str(missing))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "--no-header"),
            *("--basetemp", str(tmp_path / "kafka"), "-k", f"not ({LEFT_OUT})"),
            *(f"{HERE}/{file}" for file in PASSED_MIN),
        ],
        cwd=ROOT,
        env={**os.environ, "PENSTOCK_TEST_PEER": "kafka", "PENSTOCK_CI": "0"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for file, least in PASSED_MIN.items():
        passed = re.findall(rf"^PASSED {HERE}/{file}::", done.stdout, re.MULTILINE)
        assert len(passed) >= least, done.stdout[-3000:]
    assert re.search(rf"PASSED .*{MUST_PASS}", done.stdout), "it was not even tried"
