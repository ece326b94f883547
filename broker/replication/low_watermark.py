"""How far a partition's records are gone on every replica that is alive: what DeleteRecords answers (KIP-107).

Owns the low watermark of a leader, which is worked out when somebody asks, and those who wait for it. Followers say where their logs begin with each
fetch. A replica whose broker is dead does not count, as with Kafka: it begins where the leader does when it comes back.
"""

from collections.abc import Collection

import trio

from penstock.broker.partition import LOG_START_MOVED, Partition

LOOK_AGAIN_S = 0.5
"""How soon a broker's death is noticed, which no fetch tells of."""


def low_watermark(partition: Partition, alive: Collection[int]) -> int:
    """The lowest log start offset of the replicas whose brokers are `alive`; this broker leads and is alive. -1 while one has not said it."""
    machine = partition.machine
    starts = [partition.log.log_start_offset]
    for broker_id in machine.replicas:
        follower = machine.follower(broker_id)
        if follower is not None and broker_id in alive:
            starts.append(follower.log_start_offset)
    return min(starts)


async def wait_low_watermark(partition: Partition, alive: Collection[int], offset: int) -> bool:
    """Return when the low watermark has reached `offset`; False where this broker leads no more. `alive` is looked at anew each time.

    Followers are told at once that the log begins elsewhere. Cancellation: nothing changes.
    """
    epoch = partition.leader_epoch
    partition.tell_replicas(LOG_START_MOVED)
    while partition.is_leader and partition.leader_epoch == epoch:
        if low_watermark(partition, alive) >= offset:
            return True
        if partition.log_starts_moved is None:
            partition.log_starts_moved = trio.lowlevel.ParkingLot()
        with trio.move_on_after(LOOK_AGAIN_S):
            await partition.log_starts_moved.park()
    return False


__all__ = ["low_watermark", "wait_low_watermark"]
