"""Waiting for a metadata store that can't be reached, at the start of a broker of a cluster.

Owns the pace, the lines that tell of it, and that a broker which is told to stop meanwhile does so at once. A cluster's machines come up
in any order: as Kafka's brokers wait for their quorum, ours wait for etcd.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from penstock.errors import PenstockError
from penstock.runtime.metadata import LeaseNotFound, MetadataUnavailable, OutcomeUnknown

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRY_DELAY_S = 0.5
TELL_AGAIN_S = 30.0


class StartAbandoned(PenstockError):
    """The broker was told to stop before it had started."""


async def until_stored(attempt: Callable[[], Awaitable[T]], stop: trio.Event) -> T:
    """The result of `attempt`, which is made again for as long as the store can't be reached.

    To be called where what `attempt` does may be done twice. Raises StartAbandoned as soon as `stop` is set, also in the middle of an
    attempt, and whatever else `attempt` raises.
    """
    results: list[T] = []
    failures: list[Exception] = []

    async def try_on() -> None:
        try:
            results.append(await _reached(attempt))
        except Exception as failure:  # noqa: BLE001 - raised below: the nursery would wrap it into a group of one
            failures.append(failure)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(try_on)
        await stop.wait()
        nursery.cancel_scope.cancel()
    if failures:
        raise failures[0]
    if not results:
        raise StartAbandoned("told to stop while waiting for the metadata store")
    return results[0]


async def _reached(attempt: Callable[[], Awaitable[T]]) -> T:
    told_at = float("-inf")
    while True:
        try:
            result = await attempt()
        except (MetadataUnavailable, OutcomeUnknown, LeaseNotFound) as error:
            if trio.current_time() >= told_at + TELL_AGAIN_S:
                log.warning("waiting for the metadata store: %s", error)
                told_at = trio.current_time()
            await trio.sleep(RETRY_DELAY_S)
        else:
            if told_at > float("-inf"):
                log.info("the metadata store answers")
            return result


__all__ = ["StartAbandoned", "until_stored"]
