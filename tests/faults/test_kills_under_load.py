"""SIGKILL at random moments while all kinds of clients write, read, commit and delete (PROPERTIES D1, D2, T1, G2).

`KILLS=200` is the long run (`make long`); the kills are shared by the two modes, and each mode has one data folder for all of them.
"""

import os
import random
import threading

import pytest
from tests.faults.conftest import StartServer
from tests.support.load import mixtures
from tests.support.load.load import verify
from tests.support.processes import IS_KAFKA

pytestmark = pytest.mark.skipif(IS_KAFKA, reason="what it promises to keep over a kill is less")

KILLS = int(os.environ.get("KILLS", "10"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
MOMENT_S_MAX = 0.3
WRITE_CACHING = ["true", "false"]


@pytest.mark.parametrize("write_caching", WRITE_CACHING)
def test_kills_under_load_lose_tear_repeat_or_hide_what_was_promised(
    write_caching: str, start_server: StartServer
) -> None:
    count = max(KILLS // len(WRITE_CACHING), 1)
    server = start_server(write_caching=write_caching, **mixtures.SETTINGS)
    load = mixtures.everything(server.bootstrap, SEED)
    chance = random.Random(SEED)
    moment = threading.Event()
    load.start()
    for number in range(count):
        load.await_acks_or_all(number, 10)
        pause_s = chance.uniform(0, MOMENT_S_MAX)
        moment.wait(pause_s)  # so that a kill may come at any moment, and not only behind an ack
        server.kill()
        print(f"kill {number} of seed {SEED}: {pause_s * 1000:.0f} ms, {load.acked_count} acked", flush=True)
        load.rest()
        server.start()
        load.check_after_restart()
        load.go_on()
    load.await_acks(10)
    load.finish()
    assert server.stop() == 0
    verify(server.data_directory)
    server.start()
    load.check_all()
    segments = len(list(server.data_directory.glob("kept-*/*.log")))
    assert segments > len(load.ledgers), "nothing was rolled"
    assert all(ledger.start_acked > 0 for ledger in load.ledgers if ledger.may_expire), "nothing expired"
    assert load.compacted_count > 0, "nothing was compacted"
    print(
        f"{count} kills, {load.acked_count} records acked, {load.compared_count} comparisons, {segments} segments"
    )
