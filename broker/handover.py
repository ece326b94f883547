"""A controlled stop: a broker of a cluster gives its leaderships away before it stops (`controlled.shutdown.enable`).

Owns the order and the patience. The broker fences itself; the controller (which may be this broker) moves every leadership that another
in-sync replica can take, and takes the broker out of the ISRs with the same change; the broker serves on until its image shows that. Where
the metadata store does not answer nothing can be given away, and nothing is waited for.
Source: Kafka's `BrokerServer.shutdown`, `ReplicationControlManager.handleBrokerInControlledShutdown`.
"""

import logging

import trio

from penstock.broker.controller.planner import is_relieved
from penstock.broker.metadata_watch import MetadataWatch
from penstock.broker.registration import Registration

log = logging.getLogger(__name__)


async def hand_over(registration: Registration, watch: MetadataWatch, patience_s: float) -> bool:
    """Return when nothing is left that others could lead, at the latest after `patience_s`; whether nothing is left."""
    is_done = False
    with trio.move_on_after(patience_s):
        is_fenced = await registration.leave()
        while is_fenced and not is_done:
            moved = watch.image.revision
            is_done = is_relieved(watch.image, registration.node_id)
            if not is_done:
                await watch.wait_for(moved + 1)
    if not is_done:
        log.warning("broker %d: stops before all of its leaderships have moved", registration.node_id)
    return is_done
