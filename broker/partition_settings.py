"""What a partition is given: the settings of its topic, and what all partitions of a broker share. Only data."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import trio

from penstock.broker.backlog.held_bytes import HeldBytes
from penstock.broker.backlog.registry import BacklogRegistry
from penstock.broker.open_files import ActiveFiles
from penstock.broker.rewrite import InternalTopicGuard, Rewriter
from penstock.runtime.clock import Clock
from penstock.runtime.threads import Threads
from penstock.storage.log_config import LogConfig

if TYPE_CHECKING:
    from penstock.broker.backlog.bounds import BacklogBounds
    from penstock.broker.partition import Partition
    from penstock.broker.partition_events import ChangeIsr

HELD_OVERHEAD_BYTES = 1024
"""What a batch that waits, for the lane or for room, takes besides its own bytes: small batches would else cost far more than is counted."""


@dataclass(frozen=True, slots=True)
class PartitionSettings:
    """What the topic's effective config means for one partition."""

    log_config: LogConfig
    write_caching: bool
    min_insync_replicas: int
    max_message_bytes: int
    timestamp_before_max_ms: int
    timestamp_after_max_ms: int
    flush_messages: int
    flush_ms: int
    rewriter: Rewriter | InternalTopicGuard | None
    """Set where batches are changed on the way in: LogAppendTime, or a compression.type that is not the producer's."""
    bounds: "BacklogBounds | None" = None
    """Set where it matters what groups have committed."""


class Lease(Protocol):
    """This broker's registration, as far as a leader must look at it (`broker.registration.Registration`)."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds after which this broker decides nothing as a leader, as another may do so (PROPERTIES M2)."""
        ...


class NoLease:
    """Of a broker whose metadata store is in its own process: nobody can depose it behind its back."""

    deadline = math.inf


NO_LEASE = NoLease()


class IsrKeeper(Protocol):
    """Who has ISRs stored (`broker.replication.isr_changes.IsrChanges`)."""

    def ask(self, partition: "Partition", change: "ChangeIsr") -> None:
        """Have an ISR stored; the outcome comes by the watch, or as `IsrChangeFailed`."""
        ...

    def leave(self, topic_id: bytes, index: int) -> None:
        """The log is lost here: be no leader, and in no ISR with others."""
        ...


def _leave_as_it_is(partition: "Partition", reason: str) -> None:
    """Where no other broker has a replica, what is not damaged is served on."""


@dataclass(frozen=True, slots=True)
class PartitionServices:
    """What all partitions of a broker share."""

    clock: Clock
    threads: Threads
    spawn: Callable[[Callable[[], Awaitable[None]]], None]
    """Run in the broker's background nursery."""
    sync_limit: trio.CapacityLimiter
    active_files: ActiveFiles
    hold_bytes: Callable[[int], None]
    """Count (or, negative, discount) bytes of batches that wait for a lane."""
    lease: Lease = NO_LEASE
    isr_changes: IsrKeeper | None = None
    """None where there is no other broker."""
    note_damage: "Callable[[Partition, str], None]" = _leave_as_it_is
    """A reader or a cut has come upon damage in a replica, of this kind."""
    backlogs: BacklogRegistry = field(default_factory=BacklogRegistry)
    """Tells bounded partitions what groups commit."""
    held: HeldBytes = field(default_factory=HeldBytes)
    """Counts batches that wait for room in a full backlog."""


__all__ = ["HELD_OVERHEAD_BYTES", "NO_LEASE", "IsrKeeper", "Lease", "PartitionServices", "PartitionSettings"]
