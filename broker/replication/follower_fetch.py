"""What a leader believes of a fetch with a replica id.

A follower's fetch offset gives acks, so a forged one would fake them. It is believed only if its principal may act as a broker, if the
broker it names is registered with exactly the epoch that it gives (the create revision of the registration, KIP-903: an earlier start of
the same broker has another), and, partition by partition, if that broker holds a replica, the fetch names this leader's epoch, and the
follower's log has not diverged from the leader's (KIP-595). Whatever is not believed moves nothing.

Knows nothing of how a fetch is answered. Source: Kafka's `Partition.fetchRecords` and `updateFollowerFetchState`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.broker.isr import may_join
from penstock.broker.partition_events import FollowerFetched
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch import FetchPartition, FetchRequest

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.partition import Partition


@dataclass(frozen=True, slots=True)
class Follower:
    """A registered broker that fetches as a replica. `may_join`: an ISR may take it in; `serves_consumers`: some may be sent there (KIP-392)."""

    broker_id: int
    broker_epoch: int
    may_join: bool
    serves_consumers: bool = False

    def holds(self, partition: "Partition") -> bool:
        """Whether it has a replica of the partition, which this broker leads."""
        return partition.machine.follower(self.broker_id) is not None

    def take_word(
        self, partitions: "Iterable[tuple[FetchPartition, Partition | None]]", now_ms: float
    ) -> None:
        """Let each partition know how far the follower's log counts; high watermarks move by it. `now_ms` is monotonic."""
        for entry, partition in partitions:
            if (
                partition is not None
                and partition.is_leader
                and entry.current_leader_epoch == partition.leader_epoch
                and self.holds(partition)
                and _is_prefix(entry, partition)
            ):
                partition.step(
                    FollowerFetched(
                        self.broker_id,
                        self.broker_epoch,
                        entry.fetch_offset,
                        now_ms,
                        self.may_join,
                        entry.log_start_offset,
                    )
                )
                if partition.log_starts_moved is not None:
                    partition.log_starts_moved.unpark_all()


def _is_prefix(entry: FetchPartition, partition: "Partition") -> bool:
    """Whether what the follower has up to its fetch offset stands in the leader's log as well."""
    log = partition.log
    if not log.log_start_offset <= entry.fetch_offset <= log.log_end_offset:
        return False
    if entry.last_fetched_epoch < 0:  # nothing is there that could be different
        return True
    return not is_diverging(entry, *log.end_offset_for_epoch(entry.last_fetched_epoch))


def is_diverging(entry: FetchPartition, epoch: int, end_offset: int) -> bool:
    """Whether the leader's log, in which the last fetched epoch or the one before it is (`epoch`, `end_offset`), is another one."""
    return epoch != entry.last_fetched_epoch or end_offset < entry.fetch_offset


def identify(broker: "Broker", request: FetchRequest, principal: str, listener: str) -> Follower | ErrorCode:
    """Who fetches, or why it is not believed at all."""
    if not broker.cluster_principals.may_act_as_broker(principal, listener):
        return ErrorCode.CLUSTER_AUTHORIZATION_FAILED
    registered = broker.image.brokers.get(request.replica_id)
    if registered is None or request.replica_id == broker.config.node_id:
        return ErrorCode.BROKER_ID_NOT_REGISTERED
    if registered.create_revision != request.replica_epoch:
        return ErrorCode.STALE_BROKER_EPOCH
    return Follower(
        request.replica_id,
        request.replica_epoch,
        may_join(broker.image, request.replica_id, request.replica_epoch),
        bool(broker.config.replica_selector_class and registered.rack),
    )


__all__ = ["Follower", "identify", "is_diverging"]
