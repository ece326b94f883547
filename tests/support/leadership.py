"""Leadership in the hand of a test: partition keys are written as a controller would, and the broker sees them by its watch."""

import dataclasses
from collections.abc import Sequence

import trio.testing
from tests.support.memory_broker import MemoryBroker

from penstock.broker import keys
from penstock.broker.keys import PartitionState
from penstock.runtime.metadata import Compare, Put

OTHER = 2
"""Another broker; it need not be there."""


async def change_leader(
    memory: MemoryBroker,
    topic: str,
    index: int = 0,
    *,
    leader: int,
    isr: Sequence[int] | None = None,
    raises_epoch: bool = True,
    waits: bool = True,
) -> None:
    """Let `leader` lead the partition in the next epoch, with itself and the test's broker as replicas; `isr`: only the leader.

    Returns when the broker has seen it, and (`waits`) when its partition acts on it.
    """
    broker = memory.broker
    known = broker.image.topic(topic)
    assert known is not None
    key = keys.partition_key(known.topic_id, index)
    entry = await broker.store.get(key)
    assert entry is not None
    old: PartitionState = keys.decode_partition(key, entry.value)
    state = dataclasses.replace(
        old,
        replicas=tuple(dict.fromkeys((*old.replicas, leader, *(isr or ())))),
        isr=tuple(isr or (leader,)),
        leader=leader,
        leader_epoch=old.leader_epoch + raises_epoch,
    )
    result = await broker.store.transact(
        [Compare(key, mod_revision=entry.mod_revision)], [Put(key, keys.encode_partition(state))]
    )
    assert result.succeeded
    await broker.watch.wait_for(result.revision)
    if waits:
        await trio.testing.wait_all_tasks_blocked()
        partition = memory.partition(topic, index)
        while partition.leader_epoch < state.leader_epoch:
            await trio.testing.wait_all_tasks_blocked()
