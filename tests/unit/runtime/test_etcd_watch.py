"""Watches on etcd in virtual time: connections that are cut, go deaf or say nothing, fragments, compaction, and no flood."""

import base64
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
from tests.support.etcd_gateway import CallFault, EtcdGateway
from tests.unit.runtime.test_etcd_metadata import ALL, LOCATION, opened, with_user
from trio.testing import MockClock

from penstock.runtime.etcd_client import ATTEMPT_LIMIT_S
from penstock.runtime.etcd_messages import Keys
from penstock.runtime.etcd_watch import IDLE_LIMIT_S, Assembly
from penstock.runtime.metadata import Compacted, Delete, MetadataError, Put, WatchBatch

WATCH = "/v3/watch"


async def revisions(watch: AsyncIterator[WatchBatch], count: int) -> list[int]:
    return [(await anext(watch)).revision for _ in range(count)]


async def test_a_cut_watch_goes_on_elsewhere_without_loss_or_repetition(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gateway = EtcdGateway()
    seen: list[int] = []

    async def follow(watch: AsyncIterator[WatchBatch]) -> None:
        seen.extend(await revisions(watch, 8))

    async with (
        opened(gateway) as store,
        store.watch("/", after_revision=0) as watch,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(follow, watch)
        for down in [*ALL, ALL[0]]:
            await store.transact([], [Put("/a", b"")])
            gateway.take_down(down)
            await store.transact([], [Put("/a", b"")])
            await trio.sleep(5)
            gateway.bring_up(down)
    assert seen == list(range(1, 9))
    cut, back = caplog.text.count("was cut"), caplog.text.count("goes on")
    assert cut == back <= 4


async def test_a_watch_that_hears_nothing_is_replaced_before_long(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway) as store, store.watch("/", after_revision=0) as watch:
        await store.transact([], [Put("/a", b"")])
        assert await revisions(watch, 1) == [1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(revisions, watch, 1)
            await trio.testing.wait_all_tasks_blocked()
            gateway.deafen_watches()
            await trio.testing.wait_all_tasks_blocked()
            begin = trio.current_time()
            await store.transact([], [Put("/a", b"")])
        assert IDLE_LIMIT_S - 1 <= trio.current_time() - begin <= IDLE_LIMIT_S


async def test_a_watch_leaves_a_member_as_soon_as_a_call_finds_that_silent(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway) as store, store.watch("/", after_revision=0) as watch:
        await store.transact([], [Put("/a", b"")])
        assert await revisions(watch, 1) == [1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(revisions, watch, 1)
            await trio.testing.wait_all_tasks_blocked()
            gateway.silence(gateway.asked[-1])
            await gateway.store.transact([], [Put("/a", b"")])
            begin = trio.current_time()
            await store.get("/a")
        assert trio.current_time() - begin == pytest.approx(ATTEMPT_LIMIT_S, abs=0.2)


async def test_an_idle_watch_costs_a_connection_now_and_then(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway) as store, store.watch("/", after_revision=0) as watch:
        with trio.move_on_after(600):
            await anext(watch)
        assert gateway.calls[WATCH] <= 600 / IDLE_LIMIT_S + 1


async def test_an_outage_is_no_flood_and_two_lines(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    gateway = EtcdGateway()
    attempts = 0

    class Counting(EtcdGateway):
        async def handle_async_request(self, request: Any) -> Any:
            nonlocal attempts
            attempts += 1
            return await super().handle_async_request(request)

    gateway = Counting()
    async with opened(gateway) as store, store.watch("/", after_revision=0) as watch:
        await store.transact([], [Put("/a", b"")])
        assert await revisions(watch, 1) == [1]
        gateway.take_down(*ALL)
        with trio.move_on_after(300):
            await anext(watch)
        assert attempts < 300
        gateway.bring_up(*ALL)
        await store.transact([], [Put("/a", b"")])
        assert await revisions(watch, 1) == [2]
    lines = [record.getMessage() for record in caplog.records if "watch" in record.getMessage()]
    assert len(lines) == 2
    assert "Connection refused" in lines[0] or "told to fail" in lines[0]


async def test_history_that_was_compacted_while_the_watch_was_away_is_told(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway) as store, store.watch("/", after_revision=0) as watch:
        await store.transact([], [Put("/a", b"")])
        assert await revisions(watch, 1) == [1]
        await store.transact([], [Put("/a", b"")])
        await store.transact([], [Put("/a", b"")])
        gateway.cut_watches()
        gateway.compact()
        with pytest.raises(Compacted):
            await anext(watch)
    async with opened(gateway) as store, store.watch("/", after_revision=3) as watch:
        await store.transact([], [Delete("/a")])
        assert await revisions(watch, 1) == [4]


async def test_a_watch_outlives_its_token(autojump_clock: MockClock) -> None:
    gateway = with_user(EtcdGateway())
    async with opened(gateway, "etcd://me:s3cret@one") as store, store.watch("/", after_revision=0) as watch:
        await store.transact([], [Put("/a", b"")])
        assert await revisions(watch, 1) == [1]
        gateway.expire_tokens()
        gateway.cut_watches()
        await store.transact([], [Put("/a", b"")])
        gateway.expire_tokens()
        assert await revisions(watch, 1) == [2]


async def test_a_watch_as_nobody_where_a_user_is_wanted_is_an_error(autojump_clock: MockClock) -> None:
    async with opened(with_user(EtcdGateway())) as store, store.watch("/", after_revision=0) as watch:
        with pytest.raises(MetadataError, match="wants a user"):
            await anext(watch)


async def test_leaving_a_watch_lets_go_of_its_connection(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway, LOCATION) as store:
        await store.transact([], [Put("/a", b"")])
        async with store.watch("/", after_revision=0) as watch:
            await anext(watch)
            assert gateway.open_watch_count == 1
        assert gateway.open_watch_count == 0


async def test_a_watch_whose_task_is_cancelled_lets_go_of_its_connection(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    async with opened(gateway, LOCATION) as store:
        await store.transact([], [Put("/a", b"")])
        with trio.CancelScope() as scope:
            async with store.watch("/", after_revision=0) as watch:
                await anext(watch)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert gateway.closed_stream_count == gateway.calls[WATCH] == 1


# The assembly of batches, by itself.


def message(*events: tuple[str, int], fragment: bool = False, **fields: Any) -> dict[str, Any]:
    shown = [
        {"kv": {"key": base64.b64encode(key.encode()).decode(), "mod_revision": str(revision)}}
        for key, revision in events
    ]
    return {"events": shown, **({"fragment": True} if fragment else {}), **fields}


def told(assembly: Assembly, *messages: dict[str, Any]) -> list[tuple[int, list[str]]]:
    return [
        (batch.revision, [event.key for event in batch.events])
        for one in messages
        for batch in assembly.take(one)
    ]


def test_a_message_with_several_revisions_is_as_many_batches() -> None:
    assembly = Assembly(3, Keys("/p"))
    assert told(assembly, message(("/p/a", 4), ("/p/b", 4), ("/p/a", 6))) == [(4, ["/a", "/b"]), (6, ["/a"])]
    assert assembly.position == 6


def test_a_revision_in_fragments_is_one_batch_and_counts_only_when_whole() -> None:
    assembly = Assembly(3, Keys())
    assert told(assembly, message(("/a", 4), ("/a", 5), fragment=True)) == [(4, ["/a"])]
    assert told(assembly, message(("/b", 5), fragment=True)) == []
    assert assembly.position == 4, "after a cut, revision 5 has to be asked for again"
    assert told(assembly, message(("/c", 5), ("/a", 6))) == [(5, ["/a", "/b", "/c"]), (6, ["/a"])]


def test_what_was_handed_on_before_is_left_out() -> None:
    assembly = Assembly(5, Keys())
    assert told(assembly, message(("/a", 4), ("/a", 5), ("/a", 6))) == [(6, ["/a"])]


def test_progress_moves_the_position_and_the_answer_to_a_request_does_not() -> None:
    assembly = Assembly(5, Keys())
    assert told(assembly, {"created": True, "header": {"revision": "90"}}) == []
    assert assembly.position == 5, "the member may have much to tell yet"
    assert told(assembly, {"header": {"revision": "80"}}) == []
    assert assembly.position == 80
    assert told(assembly, {"header": {"revision": "70"}}) == []
    assert assembly.position == 80


def test_compaction_is_told() -> None:
    with pytest.raises(Compacted):
        Assembly(5, Keys()).take({"canceled": True, "compact_revision": "9", "header": {}})


async def test_a_watch_asks_for_a_leader_fragments_and_progress(autojump_clock: MockClock) -> None:
    gateway = EtcdGateway()
    gateway.fail_next(CallFault.NO_LEADER)
    async with opened(gateway) as store, store.watch("/", after_revision=7) as watch:
        with trio.move_on_after(1):
            await anext(watch)
    request, message = gateway.seen[-1]
    assert request.headers["Grpc-Metadata-hasleader"] == "true"
    asked = message["create_request"]
    assert asked["fragment"]
    assert asked["progress_notify"]
    assert asked["start_revision"] == "7", "one too early, so that etcd says if it has compacted revision 8"
