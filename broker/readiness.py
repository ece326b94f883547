"""Waiting until what a request has changed can be used by who asked.

Owns the patience of the admin APIs: the change is stored already, so running out of it is no error.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

PATIENCE_MIN_S = 1.0
"""Also where the client gave no time at all: librdkafka asks with a timeout of 0 and expects a topic that works."""
PATIENCE_MAX_S = 60.0


async def wait_until_seen(
    broker: "Broker", revision: int, timeout_ms: int, *, topic_ids: Sequence[bytes] = ()
) -> bool:
    """Wait until this broker's image shows `revision` and its replicas of the topics are open; False if that takes too long."""
    patience_s = min(max(timeout_ms / 1000, PATIENCE_MIN_S), PATIENCE_MAX_S)
    with trio.move_on_after(patience_s):
        await broker.watch.wait_for(revision)
        for topic_id in topic_ids:
            await broker.partitions.wait_ready(topic_id)
        return True
    return False
