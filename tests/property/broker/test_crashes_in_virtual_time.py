"""A whole broker whose process is killed and whose power is cut at any call to its disk, and whose disk fails, in virtual time.

Each run is a machine that lives through several brokers, with clients of all kinds around it; what the machine was seen to promise is
compared with what is there after each start (PROPERTIES D1, D2, D3, D9, D11, D12, T1, G2, K1). `CRASH_RUNS` says how many runs are tried
(`make long` tries many); the n-th run is the same everywhere.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from tests.support.crashes.deterministic import run_in_virtual_time
from tests.support.crashes.machine import Machine
from tests.support.crashes.process import End, Plan

from penstock.runtime.files import DiskError, DiskFull, StorageError, TooManyOpenFiles

RUNS = int(os.environ.get("CRASH_RUNS", "60"))
FIRST_RUN = int(os.environ.get("CRASH_FIRST_RUN", "0"))
LIVES = 5
FAILING = (
    "pwrite",
    "pwrite",
    "datasync",
    "datasync",
    "pread",
    "open",
    "truncate",
    "rename",
    "sync_directory",
    "unlink",
    "make_directories",
)
ERRORS: tuple[type[StorageError], ...] = (DiskError, DiskFull)


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Brokers that die have much to say."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def plan_life(random: Random) -> Plan:
    """How a life goes."""
    end = random.choice([End.KILL, End.KILL, End.POWER_CUT, End.POWER_CUT, End.POWER_CUT, End.STOP])
    calls = int(2 ** random.uniform(0, 9)) if random.random() < 0.7 and end is not End.STOP else 1 << 60
    fault = None
    if random.random() < 0.4:
        operation = random.choice(FAILING)
        error = random.choice((*ERRORS, TooManyOpenFiles) if operation == "open" else ERRORS)
        fault = (operation, error, int(2 ** random.uniform(0, 6)))
    room = random.randrange(3000) if random.random() < 0.2 else None
    return Plan(end, random.choice([0.02, 0.1, 0.4]), calls, fault, room)


async def run_machine(seed: int) -> Machine:
    machine = Machine(seed)
    for _ in range(LIVES):
        await machine.live(plan_life(machine.random))
    await machine.live(Plan(End.STOP, 0.1))
    return machine


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in groups of groups."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def test_what_was_promised_is_there_after_every_crash() -> None:
    acked = 0
    ends: Counter[End] = Counter()
    for seed in range(FIRST_RUN, FIRST_RUN + RUNS):
        try:
            machine = run_in_virtual_time(run_machine, seed)
        except BaseExceptionGroup as group:
            raise AssertionError(f"run {seed}: {first_of(group)}") from group
        acked += machine.acked_count
        ends.update(machine.ended)
    print(f"{RUNS} runs, {dict(ends)}, {acked} acks")
    assert acked > 100 * RUNS
    assert min(ends.values()) >= RUNS / 5


def test_one_seed_is_one_run() -> None:
    digests = {run_in_virtual_time(run_machine, 3).digest() for _ in range(2)}
    assert len(digests) == 1
    assert run_in_virtual_time(run_machine, 4).digest() not in digests
