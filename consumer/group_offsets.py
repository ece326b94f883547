"""Committed offsets of a group, on its coordinator.

Owns OffsetCommit and OffsetFetch in all versions, and which of their errors are tried again. Does not know which offsets are worth
committing, nor who owns a partition now.
"""

from collections.abc import Callable, Iterable, Mapping

from penstock.client.coordinator import Coordinators
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.metadata import TopicPartition
from penstock.client.topic_cache import TopicCache
from penstock.consumer.membership import GroupIdentity
from penstock.runtime.environment import Environment

IdentitySource = Callable[[], GroupIdentity]


class GroupOffsets:
    """The offsets of any groups, for one client."""

    def __init__(
        self,
        coordinators: Coordinators,
        topics: TopicCache,
        environment: Environment,
        *,
        require_stable: bool = False,
    ) -> None:
        """`require_stable`: wait for offsets of open transactions (for read_committed; KIP-447)."""

    async def commit(
        self, identity: IdentitySource, offsets: Mapping[TopicPartition, OffsetAndMetadata]
    ) -> None:
        """Commit all of these offsets. On return they are in the group's log on the coordinator and its in-sync replicas.

        `identity` (usually `lambda: membership.identity`) is asked anew at each attempt.

        Raises:
            RebalanceInProgress: the group is rebalancing, or did while this was under way: wait until the membership is settled, and commit what
                is still owned.
            CommitFailed: for good: the partitions are no longer this member's to commit.
            GroupFenced: another member has the same group_instance_id.
            BrokerError: another code (OFFSET_METADATA_TOO_LARGE, AuthorizationFailed, UnknownTopic after several attempts).
            ConnectionLost, BootstrapFailed, AddressError: no coordinator in several attempts (some seconds).

        Cancellation: committed or not.
        """
        raise NotImplementedError

    async def fetch(
        self, identity: IdentitySource, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed; None where it has not. Raises as `commit`. Cancellation: nothing is changed."""
        raise NotImplementedError


__all__ = ["GroupOffsets", "IdentitySource"]
