"""Waiting for the metadata store at the start: again and again, with few lines, and never against a stop."""

import logging

import pytest
import trio
from trio.testing import MockClock

from penstock.broker.errors import RegistrationError
from penstock.broker.patience import TELL_AGAIN_S, StartAbandoned, until_stored
from penstock.runtime.metadata import LeaseNotFound, MetadataUnavailable, OutcomeUnknown


class Store:
    """Answers after some failures."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    async def attempt(self) -> str:
        await trio.lowlevel.checkpoint()
        if self.failures:
            raise self.failures.pop(0)
        return "stored"


async def test_what_may_pass_is_tried_again_and_told_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = Store(MetadataUnavailable("nobody there"), OutcomeUnknown("lost"), LeaseNotFound("ended"))
    assert await until_stored(store.attempt, trio.Event()) == "stored"
    waiting, there = (record.getMessage() for record in caplog.records)
    assert "nobody there" in waiting
    assert "answers" in there


async def test_a_long_wait_is_a_line_now_and_then(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def attempt() -> None:
        raise MetadataUnavailable("nobody there")

    with trio.move_on_after(10 * TELL_AGAIN_S):
        await until_stored(attempt, trio.Event())
    assert 10 <= len(caplog.records) <= 11


async def test_what_waiting_does_not_mend_is_raised_as_it_is(autojump_clock: MockClock) -> None:
    with pytest.raises(RegistrationError, match="in use"):
        await until_stored(Store(RegistrationError("in use")).attempt, trio.Event())


async def test_a_stop_ends_an_attempt_under_way_and_a_pause_between_two(autojump_clock: MockClock) -> None:
    for attempt in (trio.sleep_forever, Store(*[MetadataUnavailable("nobody there")] * 100).attempt):
        stop = trio.Event()
        async with trio.open_nursery() as nursery:

            async def told_to_stop(stop: trio.Event = stop) -> None:
                await trio.sleep(1.2)
                stop.set()

            nursery.start_soon(told_to_stop)
            begin = trio.current_time()
            with pytest.raises(StartAbandoned):
                await until_stored(attempt, stop)
            assert trio.current_time() - begin == pytest.approx(1.2)


async def test_a_single_attempt_that_is_good_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert await until_stored(Store().attempt, trio.Event()) == "stored"
    assert not caplog.records
