import time
from threading import Event, Thread

import trio
from trio.testing import MockClock

from penstock.runtime.clock import Clock, Random
from penstock.runtime.system_clock import SystemClock, SystemRandom


async def test_monotonic_is_the_scale_of_trios_deadlines(mock_clock: MockClock) -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    mock_clock.jump(5)
    assert clock.monotonic() == before + 5 == trio.current_time()


def test_wall_time_is_in_milliseconds_and_outside_a_loop_too() -> None:
    clock: Clock = SystemClock()
    assert time.time() - 60 < clock.wall_ms() / 1000 < time.time() + 60


def test_thread_time_is_what_the_thread_has_worked_and_not_what_it_has_waited() -> None:
    clock: Clock = SystemClock()
    found: list[float] = []

    def work() -> None:
        begin = clock.thread_time()
        while clock.thread_time() - begin < 0.005:
            pass
        Event().wait(0.05)
        found.append(clock.thread_time() - begin)

    worker = Thread(target=work)
    worker.start()
    worker.join()
    assert 0.005 <= found[0] < 0.05


def test_chance_keeps_its_bounds_and_does_not_repeat() -> None:
    chance: Random = SystemRandom()
    assert {chance.randrange(3, 6) for _ in range(200)} == {3, 4, 5}
    assert all(0 <= chance.random() < 1 for _ in range(100))
    ids = {chance.randbytes(16) for _ in range(100)}
    assert len(ids) == 100
    assert {len(one) for one in ids} == {16}
