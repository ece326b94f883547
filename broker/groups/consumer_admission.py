"""Who a heartbeat is from, and whether it may be heard: the fencing of KIP-848.

Owns every reason to refuse a heartbeat that has to do with the sender: unknown members, member epochs, instance ids, the size of the group. Pure
functions on what is stored; they change nothing. Source: KIP-848, and what Kafka's `GroupMetadataManager` answers.
"""

from penstock.broker.groups.consumer_group_events import (
    JOIN_EPOCH,
    STATIC_LEAVE_EPOCH,
    ConsumerGroupLimits,
    ConsumerHeartbeat,
    CurrentAssignment,
    MemberMetadata,
)
from penstock.broker.groups.consumer_group_state import StoredGroup, is_subset
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode

REGEXES_MAX = 50
"""Regular expressions of one group: each is matched with all topics whenever topics change. A group has one, or two while it is upgraded."""


class Refused(PenstockError):
    """A heartbeat is answered with an error; the group is as it was."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def admit(stored: StoredGroup, limits: ConsumerGroupLimits, beat: ConsumerHeartbeat) -> str | None:
    """The member that the sender is, or takes over from; None for a new one. Raises Refused."""
    joins = beat.member_epoch == JOIN_EPOCH
    known = beat.member_id in stored.members
    if not known and len(stored.members) >= limits.max_size:
        raise Refused(
            ErrorCode.GROUP_MAX_SIZE_REACHED, f"the group has its {limits.max_size} members already"
        )
    if beat.instance_id is None:
        if not known and not joins:
            raise unknown_member(beat.member_id)
        predecessor = beat.member_id if known else None
    else:
        predecessor = _admit_static(stored, beat, beat.instance_id, joins)
    if predecessor is not None and not joins:
        _check_member_epoch(beat, stored.current(predecessor))
    return predecessor


def _admit_static(stored: StoredGroup, beat: ConsumerHeartbeat, instance_id: str, joins: bool) -> str | None:
    owner = stored.static_member(instance_id)
    if not joins:
        return static_owner(stored, beat, instance_id)
    if owner is None:
        return beat.member_id if beat.member_id in stored.members else None
    left = stored.current(owner).member_epoch == STATIC_LEAVE_EPOCH
    if not left and owner != beat.member_id:
        raise Refused(
            ErrorCode.UNRELEASED_INSTANCE_ID,
            f"the instance id {instance_id} is in use by the member {owner}",
        )
    return owner


def static_owner(stored: StoredGroup, beat: ConsumerHeartbeat, instance_id: str) -> str:
    """The member that has the instance id, which must be the sender. Raises Refused."""
    owner = stored.static_member(instance_id)
    if owner is None:
        raise Refused(ErrorCode.UNKNOWN_MEMBER_ID, f"nobody has the instance id {instance_id}")
    if owner != beat.member_id:
        raise Refused(
            ErrorCode.FENCED_INSTANCE_ID,
            f"the instance id {instance_id} was taken over by the member {owner}",
        )
    return owner


def unknown_member(member_id: str) -> Refused:
    """The refusal of a stranger."""
    return Refused(ErrorCode.UNKNOWN_MEMBER_ID, f"{member_id} is not a member of the group")


def admit_regex(stored: StoredGroup, regex: str) -> None:
    """Raises Refused where the group's members have as many other expressions as may be."""
    used = {metadata.topic_regex for metadata in stored.members.values()} - {"", regex}
    if len(used) >= REGEXES_MAX:
        raise Refused(
            ErrorCode.INVALID_REGULAR_EXPRESSION,
            f"the group's members subscribe by {len(used)} different regular expressions already",
        )


def _check_member_epoch(beat: ConsumerHeartbeat, current: CurrentAssignment) -> None:
    """Fence who is ahead, or behind by more than a lost answer explains."""
    if beat.member_epoch == current.member_epoch:
        return
    lost_answer = beat.member_epoch == current.previous_member_epoch
    if beat.member_epoch < current.member_epoch and lost_answer and is_subset(beat.owned, current.assigned):
        return
    raise Refused(
        ErrorCode.FENCED_MEMBER_EPOCH,
        f"the member's epoch {beat.member_epoch} is not the coordinator's {current.member_epoch}: "
        "it has to give up its partitions and join again",
    )


def introduced(stored: StoredGroup, beat: ConsumerHeartbeat, predecessor: str | None) -> MemberMetadata:
    """The member with what the heartbeat says anew."""
    known = stored.members.get(predecessor or "", MemberMetadata())
    names = known.topic_names if beat.topic_names is None else tuple(sorted(set(beat.topic_names)))
    waits = beat.rebalance_timeout_ms
    return MemberMetadata(
        instance_id=known.instance_id if beat.instance_id is None else beat.instance_id,
        rack_id=known.rack_id if beat.rack_id is None else beat.rack_id,
        client_id=beat.client_id,
        client_host=beat.client_host,
        topic_names=names,
        topic_regex=known.topic_regex if beat.topic_regex is None else beat.topic_regex,
        rebalance_timeout_ms=known.rebalance_timeout_ms if waits == -1 else waits,
        server_assignor=known.server_assignor if beat.server_assignor is None else beat.server_assignor,
    )
