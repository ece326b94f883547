"""What leaving the block does, and how long it may take: by itself, by cancellation, and where the broker can't be reached."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest
import trio
from tests.support.lone_member import PROTOCOLS, TP, committed, in_virtual_time, member, take_two
from tests.support.memory_server import MemoryServer

from penstock.client.metadata import TopicPartition

Partitions = frozenset[TopicPartition]


@dataclass
class Calls:
    """What a user's callbacks were called with, and how each ended."""

    hangs_in: str = ""
    begun: list[tuple[str, Partitions]] = field(default_factory=list[tuple[str, Partitions]])
    cancelled: list[str] = field(default_factory=list[str])

    def callbacks(self) -> dict[str, Callable[[Partitions], Awaitable[None]]]:
        """As options of a Consumer."""
        return {name: self._callback(name) for name in ("on_assigned", "on_revoked", "on_lost")}

    def _callback(self, name: str) -> Callable[[Partitions], Awaitable[None]]:
        async def called(partitions: Partitions) -> None:
            self.begun.append((name, partitions))
            try:
                await trio.sleep(inf if name == self.hangs_in else 0.1)
            except trio.Cancelled:
                self.cancelled.append(name)
                raise

        return called

    @property
    def names(self) -> list[str]:
        """In order."""
        return [name for name, partitions in self.begun if partitions == frozenset({TP})]


async def leave_unreached(server: MemoryServer, calls: Calls, away_s: float = 0, **options: Any) -> float:
    """Leave the block when the broker has been away for so long; returns how long that takes."""
    options = {"environment": server.client("away"), **calls.callbacks(), **options}
    async with member(server, **options) as consumer:
        await take_two(consumer)
        server.hosts["away"].freeze()
        await trio.sleep(away_s)
        began = trio.current_time()
    return trio.current_time() - began


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("auto_commit", [True, False])
def test_nobody_is_told_of_what_was_owned_when_the_broker_cannot_be_reached(
    protocol: str, auto_commit: bool
) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        calls = Calls()
        assert await leave_unreached(server, calls, protocol=protocol, auto_commit=auto_commit) <= 10
        assert calls.names == ["on_assigned", "on_revoked"]
        assert not calls.cancelled

    in_virtual_time(run, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("away_s", [4, 8])
def test_what_others_have_by_now_is_told_as_still_ours(protocol: str, away_s: float) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        calls = Calls()
        options: dict[str, Any] = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 1_000}
        assert await leave_unreached(server, calls, away_s, protocol=protocol, **options) <= 10
        assert calls.names == ["on_assigned", "on_lost"]
        assert not calls.cancelled

    in_virtual_time(run, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_callback_that_never_returns_holds_up_who_leaves(protocol: str, is_cancelled: bool) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        for hangs_in, limit_s in (
            ("on_assigned", 1.5 if is_cancelled else 4.5),
            ("on_revoked", 3 if is_cancelled else 10),
        ):
            calls = Calls(hangs_in)
            began = trio.current_time()
            with trio.CancelScope() as scope:
                async with member(
                    server, protocol, session_timeout_ms=6_000, **calls.callbacks()
                ) as consumer:
                    while "on_assigned" not in calls.names:  # noqa: ASYNC110 (virtual time)
                        await trio.sleep(0.1)
                    if hangs_in == "on_revoked":
                        await take_two(consumer)
                    began = trio.current_time()
                    if is_cancelled:
                        scope.cancel()
            assert trio.current_time() - began <= limit_s
            assert calls.names == ["on_assigned", "on_revoked"]
            assert calls.cancelled == [hangs_in]

    in_virtual_time(run, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_cancelled_block_repeats_its_work_and_blocks_its_group(protocol: str) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        calls = Calls()
        began = trio.current_time()
        with trio.CancelScope() as scope:
            async with member(server, protocol, **calls.callbacks()) as consumer:
                await take_two(consumer)
                began = trio.current_time()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() - began < 1
        assert calls.names == ["on_assigned", "on_revoked"]
        assert await committed(server) == 1, "the one in hand is not known to be done"
        with trio.fail_after(5):
            async with member(server, protocol, environment=server.client("next")) as consumer:
                assert (await anext(consumer)).offset == 1

    in_virtual_time(run, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_whoever_cancels_waits_long_for_a_broker_that_is_away(protocol: str) -> None:
    async def run(server: MemoryServer, protocol: str) -> None:
        calls = Calls()
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + 20
            await leave_unreached(server, calls, 60, protocol=protocol, session_timeout_ms=100_000)
        assert scope.cancelled_caught
        assert trio.current_time() - scope.deadline <= 3
        assert calls.names == ["on_assigned", "on_revoked"]

    in_virtual_time(run, protocol)
