import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from penstock.runtime.threads import Threads
from penstock.runtime.worker_threads import WorkerThreads


class Gate:
    """A blocking call that tells that it runs and waits until it may end."""

    def __init__(self) -> None:
        self.running = threading.Semaphore(0)
        self.may_end = threading.Event()
        self.ended = 0

    def wait_until_it_runs(self) -> None:
        assert self.running.acquire(timeout=10)

    def pass_through(self, answer: str) -> str:
        self.running.release()
        assert self.may_end.wait(10)
        self.ended += 1
        return answer


async def test_work_is_done_off_the_loop_and_its_answer_comes_back() -> None:
    threads: Threads = WorkerThreads(2)
    here = threading.get_ident()
    assert await threads.run(lambda a, b: (a, b, threading.get_ident() != here), 1, "x") == (1, "x", True)


async def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        await WorkerThreads(1).run(int, "x")


async def test_no_more_run_at_once_than_there_are_workers() -> None:
    threads = WorkerThreads(2)
    gate = Gate()
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(threads.run, gate.pass_through, "x")
        for _ in range(2):
            await trio.to_thread.run_sync(gate.wait_until_it_runs)
        await wait_all_tasks_blocked()
        assert not gate.running.acquire(blocking=False), "a third one runs"
        gate.may_end.set()
    assert gate.ended == 5


async def test_a_running_call_is_waited_for_when_cancelled_and_its_answer_kept() -> None:
    gate = Gate()
    answers: list[str] = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            answers.append(await WorkerThreads(1).run(gate.pass_through, "done"))

        nursery.start_soon(run)
        await trio.to_thread.run_sync(gate.wait_until_it_runs)
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await wait_all_tasks_blocked()
        assert answers == [], "given up while it ran"
        gate.may_end.set()
    assert answers == ["done"]


async def test_a_call_that_still_waits_for_a_worker_is_given_up_when_cancelled() -> None:
    threads = WorkerThreads(1)
    gate, never = Gate(), Gate()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(threads.run, gate.pass_through, "x")
        await trio.to_thread.run_sync(gate.wait_until_it_runs)
        async with trio.open_nursery() as waiting:
            waiting.start_soon(threads.run, never.pass_through, "x")
            await wait_all_tasks_blocked()
            waiting.cancel_scope.cancel()
        gate.may_end.set()
    assert not never.running.acquire(blocking=False)
