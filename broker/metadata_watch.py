"""Follows the metadata store, so that the cluster image is what the store holds, a moment later.

Owns the image's progress: the snapshot, the watch, the new snapshot when the store has forgotten what came between, and those who wait
for a revision. Knows nothing of what a change means: listeners are told of each delta, in order, in the step that made it.

Invariants: nothing in this broker changes the image but this task. A listener must not await; who has to do slow work for a delta puts it
into a queue of its own. A broker learns what it leads from here only, also after its own writes.
"""

import logging
from collections.abc import Callable

import trio

from penstock.broker import keys
from penstock.broker.image import ClusterImage, ImageDelta
from penstock.runtime.metadata import Compacted, MetadataStore, MetadataUnavailable

log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.5

Listener = Callable[[ImageDelta], None]


class MetadataWatch:
    """The one task that moves a `ClusterImage`."""

    def __init__(self, store: MetadataStore, image: ClusterImage) -> None:
        self.image = image
        self._store = store
        self._listeners: list[Listener] = []
        self._moved = trio.lowlevel.ParkingLot()

    def listen(self, listener: Listener) -> None:
        """Have `listener` called with every delta from now on; the first one, of the first snapshot, adds everything."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """Take the first snapshot into the image; listeners are told of it.

        Raises:
            MetadataUnavailable: it could not be read, and nothing was told: to be tried again, or not.
            CorruptMetadata: as `run`.
        """
        snapshot = await self._store.range(keys.ROOT)
        self._tell(self.image.reset(snapshot))

    async def run(self) -> None:
        """Follow the store for ever, from what `load` has brought on; a store that can't be reached is waited for.

        Raises:
            CorruptMetadata: the store holds what can't be read. The image must not be used any more.
        """
        while True:
            try:
                await self._follow()
            except Compacted:
                log.info(
                    "the metadata store has forgotten what came after revision %d: reading all anew",
                    self.image.revision,
                )
            except MetadataUnavailable as error:
                log.warning("the metadata store can't be watched, trying again: %s", error)
                await trio.sleep(RETRY_DELAY_S)
            await self._load_patiently()

    async def wait_for(self, revision: int) -> None:
        """Return when the image has seen `revision`, a revision that changed something under Penstock's keys.

        Cancellation: nothing changes. Waits for ever if the watch has ended, so wait inside of its nursery.
        """
        while self.image.revision < revision:
            await self._moved.park()

    async def _follow(self) -> None:
        async with self._store.watch(keys.ROOT, after_revision=self.image.revision) as batches:
            async for batch in batches:
                self._tell(self.image.apply(batch))

    async def _load_patiently(self) -> None:
        while True:
            try:
                return await self.load()
            except MetadataUnavailable:
                await trio.sleep(RETRY_DELAY_S)

    def _tell(self, delta: ImageDelta) -> None:
        for listener in self._listeners:
            listener(delta)
        self._moved.unpark_all()
