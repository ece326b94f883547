"""Producer ids: numbers that no two idempotent producers of a cluster share.

Owns this broker's blocks of ids. A block is taken from the store by compare-and-swap before its first id is given out, so a crash
loses the rest of the block and never gives an id twice. The next block is fetched when the present one runs low, so that InitProducerId
rarely waits. Source: KIP-730, Kafka's `ProducerIdManager`.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from penstock.broker import keys
from penstock.broker.errors import ApiError
from penstock.protocol.errors import ErrorCode
from penstock.runtime.metadata import Compare, MetadataError, MetadataStore, Put

log = logging.getLogger(__name__)

BLOCK_SIZE = 1_000
PREFETCH_BELOW = BLOCK_SIZE // 10
CONTENDED_ATTEMPT_COUNT_MAX = 20
PRODUCER_ID_MAX = 2**63 - 1


class ProducerIds:
    """Gives out ids. `spawn` runs a coroutine function in the broker's background nursery."""

    def __init__(self, store: MetadataStore, spawn: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self._store = store
        self._spawn = spawn
        self._present = range(0)
        self._next = range(0)
        self._taking = trio.Lock()

    async def allocate(self) -> int:
        """An id that nobody else gets.

        Raises:
            ApiError: COORDINATOR_LOAD_IN_PROGRESS (clients try again) when no block could be taken from the store.

        Cancellation: no id was given out; a block may have been lost.
        """
        while not self._present:
            if not self._next:
                await self._take_block()
                continue
            self._present, self._next = self._next, range(0)
        producer_id, self._present = self._present[0], self._present[1:]
        if len(self._present) == PREFETCH_BELOW:
            self._spawn(self._prefetch)
        return producer_id

    async def _prefetch(self) -> None:
        try:
            await self._take_block()
        except ApiError as error:
            log.warning("no producer ids ahead of time: %s", error)

    async def _take_block(self) -> None:
        """Have a block in `_next`, unless another task put one there meanwhile."""
        async with self._taking:
            for _ in range(CONTENDED_ATTEMPT_COUNT_MAX):
                if self._next:
                    return
                try:
                    self._next = await self._try_to_take()
                except MetadataError as error:
                    raise ApiError(
                        ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, f"no producer id to be had: {error}"
                    ) from error
        if not self._next:
            raise ApiError(
                ErrorCode.COORDINATOR_LOAD_IN_PROGRESS, "other brokers took every block of producer ids"
            )

    async def _try_to_take(self) -> range:
        """One attempt: the block taken, or an empty range if another broker was faster."""
        entry = await self._store.get(keys.PRODUCER_IDS_KEY)
        first = keys.decode_next_producer_id(entry.value) if entry else 0
        end = first + BLOCK_SIZE
        if end > PRODUCER_ID_MAX:
            raise ApiError(ErrorCode.UNKNOWN_SERVER_ERROR, "there are no producer ids left")
        # Not `transact`: two brokers would write the same value, so finding it would not tell whose it is. A lost reply costs a block.
        result = await self._store.transact(
            [Compare(keys.PRODUCER_IDS_KEY, mod_revision=entry.mod_revision if entry else 0)],
            [Put(keys.PRODUCER_IDS_KEY, keys.encode_next_producer_id(end))],
        )
        return range(first, end) if result.succeeded else range(0)
