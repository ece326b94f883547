"""A whole broker whose process is killed and whose power is cut at any call to its disk, and whose disk fails, in virtual time.

Each run is a machine that lives through several brokers, with clients of all kinds around it; what the machine was seen to promise is
compared with what is there after each start (PROPERTIES D1, D2, D3, D9, D11, D12, T1, G2, K1). `CRASH_RUNS` says how many runs are tried
(`make long` tries many); the n-th run is the same everywhere.
"""

import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from random import Random

import pytest
from tests.support.crashes.deterministic import run_in_virtual_time
from tests.support.crashes.machine import Machine
from tests.support.crashes.process import End, Fault, Plan
from tests.support.trial_counts import count_trials

from penstock.runtime.files import DiskError, DiskFull, StorageError, TooManyOpenFiles

RUNS = int(os.environ.get("CRASH_RUNS", "15"))
FAILING_SYNC_RUNS = RUNS // 3
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
        fault = Fault(operation, error, int(2 ** random.uniform(0, 6)))
    room = random.randrange(3000) if random.random() < 0.2 else None
    return Plan(end, random.choice([0.02, 0.1, 0.4]), calls, fault, room)


async def run_machine(seed: int) -> Machine:
    machine = Machine(seed)
    for _ in range(LIVES):
        await machine.live(plan_life(machine.random))
    await machine.live(Plan(End.STOP, 0.1))
    return machine


async def run_with_failing_syncs(seed: int) -> Machine:
    """A failed sync leaves pages that look written: after a kill they are still there to be read, after a power cut they are not."""
    machine = Machine(seed)
    for _ in range(3):
        for end in (End.POWER_CUT, End.KILL):
            fault = Fault("datasync", DiskError, machine.random.randrange(1, 20), ".log")
            await machine.live(Plan(end, 0.05, fault=fault))
        await machine.live(Plan(End.POWER_CUT, 0.01))
    await machine.live(Plan(End.STOP, 0.01))
    return machine


async def run_shortly(seed: int) -> Machine:
    machine = Machine(seed)
    await machine.live(Plan(End.POWER_CUT, 0.05))
    await machine.live(Plan(End.STOP, 0.02))
    return machine


def first_of(error: BaseException) -> BaseException:
    """The first error in groups of groups."""
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return first_of(inner[0]) if inner else error


def run_all(run: Callable[[int], Awaitable[Machine]], count: int) -> list[Machine]:
    machines: list[Machine] = []
    for seed in range(FIRST_RUN, FIRST_RUN + count):
        try:
            machines.append(run_in_virtual_time(run, seed))
        except BaseExceptionGroup as group:
            raise AssertionError(f"run {seed}: {first_of(group)}") from group
    ends = Counter(end for machine in machines for end in machine.ended)
    count_trials({f"whole brokers {end.value}": count for end, count in ends.items()})
    count_trials({"disk errors under whole brokers": sum(machine.faults_met for machine in machines)})
    count_trials({"acks of whole brokers held to": sum(machine.acked_count for machine in machines)})
    return machines


def test_what_was_promised_is_there_after_every_crash() -> None:
    machines = run_all(run_machine, RUNS)
    assert sum(machine.acked_count for machine in machines) > 100 * RUNS
    ends = Counter(end for machine in machines for end in machine.ended)
    assert min(ends[end] for end in End) >= RUNS / 5


def test_what_a_failed_sync_did_not_bring_to_the_disk_is_never_promised() -> None:
    machines = run_all(run_with_failing_syncs, FAILING_SYNC_RUNS)
    assert sum(machine.faults_met for machine in machines) > 3 * FAILING_SYNC_RUNS


def test_one_seed_is_one_run() -> None:
    digests = {run_in_virtual_time(run_shortly, 3).digest() for _ in range(2)}
    assert len(digests) == 1
    assert run_in_virtual_time(run_shortly, 4).digest() not in digests
