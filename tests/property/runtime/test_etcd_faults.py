"""The store on etcd under faults of every kind at once, seeded: what each caller was told is true, and each watch tells the history.

`ETCD_FAULT_RUNS` is the number of seeds.
"""

import os
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from tests.support.etcd_gateway import CallFault, EtcdGateway
from tests.support.metadata_plane import TrioClock
from trio.testing import MockClock

from penstock.runtime.etcd_metadata import EtcdMetadata, open_etcd_metadata
from penstock.runtime.metadata import (
    Compacted,
    Compare,
    MetadataUnavailable,
    OutcomeUnknown,
    Put,
    WatchBatch,
)
from penstock.runtime.worker_threads import WorkerThreads

RUNS = int(os.environ.get("ETCD_FAULT_RUNS", "15"))
MEMBERS = ("one:2379", "two:2379", "three:2379")
KEYS = ("/a", "/b", "/c")
CLIENT_COUNT = 3
CHANGE_COUNT = 30
FAULT_COUNT = 40
LIMIT_S = 3600.0


class Run:
    """One seed: clients that change keys by compare-and-swap, watches that follow, and faults."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.gateway = EtcdGateway()
        self.gateway.events_per_message_max = 1
        self.history: list[WatchBatch] = []
        self.done: dict[bytes, int] = {}
        """Revisions of changes that were told to be done, by value; each value is written once."""
        self.not_done: set[bytes] = set()
        self.unknown: set[bytes] = set()
        self.told: list[list[WatchBatch]] = []
        self.resync_count = 0
        self._changing = CLIENT_COUNT

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_history)
            async with trio.open_nursery() as working:
                for number in range(CLIENT_COUNT):
                    told: list[WatchBatch] = []
                    self.told.append(told)
                    working.start_soon(self._client, number, told)
                working.start_soon(self._break_things)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def _opened(self) -> AsyncGenerator[EtcdMetadata]:
        location = f"etcd://{','.join(MEMBERS)}"
        async with open_etcd_metadata(
            location, clock=TrioClock(), random=self.random, threads=WorkerThreads(), transport=self.gateway
        ) as store:
            yield store

    async def _keep_history(self) -> None:
        """What really happened, from the store itself."""
        async with self.gateway.store.watch("/", after_revision=0) as watch:
            async for batch in watch:
                self.history.append(batch)

    async def _client(self, number: int, told: list[WatchBatch]) -> None:
        async with self._opened() as store, trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, store, told)
            for change in range(CHANGE_COUNT):
                await self._change(store, b"%d.%d" % (number, change))
                await trio.sleep(self.random.expovariate(1))
            self._changing -= 1
            # The watch ends when it has told everything.

    async def _change(self, store: EtcdMetadata, value: bytes) -> None:
        key = self.random.choice(KEYS)
        other = self.random.choice(KEYS)
        try:
            entry = await store.get(key)
        except MetadataUnavailable:
            return
        puts = [Put(one, value) for one in {key, other}]
        compare = Compare(key, mod_revision=entry.mod_revision if entry else 0)
        try:
            result = await store.transact([compare], puts)
        except OutcomeUnknown:
            self.unknown.add(value)
        except MetadataUnavailable:
            self.not_done.add(value)
        else:
            if result.succeeded:
                self.done[value] = result.revision
            else:
                self.not_done.add(value)

    async def _follow(self, store: EtcdMetadata, told: list[WatchBatch]) -> None:
        position = 0
        while True:
            try:
                async with store.watch("/", after_revision=position) as watch:
                    while self._changing or position < self.gateway.store.revision:
                        with trio.move_on_after(
                            self.random.uniform(0.01, 5)
                        ):  # a cancelled wait loses nothing
                            batch = await anext(watch)
                            position = batch.revision
                            told.append(batch)
                    return
            except Compacted:
                position = await self._resync(store)

    async def _resync(self, store: EtcdMetadata) -> int:
        self.resync_count += 1
        while True:
            try:
                snapshot = await store.range("/")
            except MetadataUnavailable:
                await trio.sleep(0.5)
            else:
                return snapshot.revision

    async def _break_things(self) -> None:
        gateway, chance = self.gateway, self.random
        for _ in range(FAULT_COUNT):
            await trio.sleep(chance.expovariate(1))
            gateway.latency_s = chance.choice((0.0, 0.01, 0.3))
            match chance.randrange(7):
                case 0 | 1:
                    gateway.fail_next(*chance.choices([*CallFault, None], k=chance.randrange(1, 4)))
                case 2:
                    gateway.take_down(*chance.sample(MEMBERS, chance.randrange(1, 4)))
                case 3:
                    gateway.silence(chance.choice(MEMBERS))
                case 4:
                    gateway.cut_watches()
                case 5:
                    gateway.deafen_watches()
                case _:
                    if chance.random() < 0.2:
                        gateway.compact()
            if chance.random() < 0.5:
                gateway.bring_up(*MEMBERS)
        gateway.bring_up(*MEMBERS)
        gateway.latency_s = 0.0

    def check(self) -> None:
        written = {
            event.entry.value: batch.revision
            for batch in self.history
            for event in batch.events
            if event.entry
        }
        for value, revision in self.done.items():
            assert written.get(value) == revision, f"{value!r} was told to be done"
        assert not self.not_done & written.keys(), "it was told not to be done"
        assert written.keys() <= self.done.keys() | self.unknown
        for told in self.told:
            revisions = [batch.revision for batch in told]
            assert revisions == sorted(set(revisions))
            by_revision = {batch.revision: batch for batch in self.history}
            assert all(batch == by_revision[batch.revision] for batch in told), "whole, and as it was"
            if not self.resync_count:
                assert revisions == sorted(by_revision)


@pytest.mark.parametrize("seed", range(RUNS))
async def test_under_faults_callers_are_told_the_truth_and_watches_the_history(
    autojump_clock: MockClock, seed: int
) -> None:
    run = Run(seed)
    with trio.fail_after(LIMIT_S):
        await run.run()
    run.check()
    assert run.done
