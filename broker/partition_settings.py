"""What a partition is given: the settings of its topic, and what all partitions of a broker share. Only data."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from penstock.broker.open_files import ActiveFiles
from penstock.broker.rewrite import InternalTopicGuard, Rewriter
from penstock.runtime.clock import Clock
from penstock.runtime.threads import Threads
from penstock.storage.log_config import LogConfig


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


__all__ = ["PartitionServices", "PartitionSettings"]
