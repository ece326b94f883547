"""One member's way from what it has to what it is to have (KIP-848, "Reconciliation of the group").

Owns the one rule that keeps a partition from having two owners: a member is given a partition only when nobody holds it, and
it holds its own until it says that it does not own it any more. Pure functions on values; knows no group. Source: KIP-848, and what
Kafka's `CurrentAssignmentBuilder` answers.

The order is: first revoke (the member keeps its epoch and is told what it keeps), then, when it has let go, take the epoch of the
target and whatever of it is free; then wait for what is not free yet.
"""

from collections.abc import Callable

from penstock.broker.groups.consumer_group_events import NOTHING, Assignment, CurrentAssignment, MemberState


def reconcile(
    current: CurrentAssignment,
    *,
    target_epoch: int,
    target: Assignment,
    owned: Assignment | None,
    is_free: Callable[[bytes, int], bool],
) -> CurrentAssignment:
    """The next step of a member that has just told us what it owns (None: nothing new); the same value where there is none.

    `is_free(topic_id, index)` says whether no other member holds the partition.
    """
    if current.state is MemberState.STABLE and current.member_epoch == target_epoch:
        return current
    if current.state is MemberState.UNREVOKED_PARTITIONS and _owns_any(owned, current.pending_revocation):
        return current
    return _next_step(current, target_epoch, target, owned, is_free)


def _next_step(
    current: CurrentAssignment,
    target_epoch: int,
    target: Assignment,
    owned: Assignment | None,
    is_free: Callable[[bytes, int], bool],
) -> CurrentAssignment:
    kept = intersection(current.assigned, target)
    to_revoke = difference(current.assigned, kept)
    if to_revoke and _owns_any(owned, to_revoke):
        return _changed(current, current.member_epoch, MemberState.UNREVOKED_PARTITIONS, kept, to_revoke)
    wanted = difference(target, kept)
    free = {topic_id: _only(indexes, topic_id, is_free) for topic_id, indexes in wanted.items()}
    assigned = union(kept, free)
    state = MemberState.STABLE if assigned == target else MemberState.UNRELEASED_PARTITIONS
    return _changed(current, target_epoch, state, assigned, NOTHING)


def _changed(
    current: CurrentAssignment,
    epoch: int,
    state: MemberState,
    assigned: Assignment,
    pending_revocation: Assignment,
) -> CurrentAssignment:
    same = current.member_epoch == epoch and current.state is state
    if same and current.assigned == assigned and current.pending_revocation == pending_revocation:
        return current
    return CurrentAssignment(
        member_epoch=epoch,
        previous_member_epoch=current.member_epoch,
        state=state,
        assigned=assigned,
        pending_revocation=pending_revocation,
    )


def _owns_any(owned: Assignment | None, partitions: Assignment) -> bool:
    """Whether the member may still own some of the partitions: who says nothing may own them all."""
    return owned is None or bool(intersection(owned, partitions))


def _only(indexes: frozenset[int], topic_id: bytes, is_free: Callable[[bytes, int], bool]) -> frozenset[int]:
    return frozenset(index for index in indexes if is_free(topic_id, index))


# Sets of partitions, by topic.


def intersection(one: Assignment, other: Assignment) -> Assignment:
    """The partitions that are in both."""
    both = {topic_id: indexes & other.get(topic_id, frozenset()) for topic_id, indexes in one.items()}
    return without_empty(both)


def difference(one: Assignment, other: Assignment) -> Assignment:
    """The partitions of `one` that are not in `other`."""
    rest = {topic_id: indexes - other.get(topic_id, frozenset()) for topic_id, indexes in one.items()}
    return without_empty(rest)


def union(one: Assignment, other: Assignment) -> Assignment:
    """The partitions that are in either."""
    merged = {topic_id: indexes | other.get(topic_id, frozenset()) for topic_id, indexes in one.items()}
    return without_empty({**other, **merged})


def without_empty(assignment: Assignment) -> Assignment:
    """The same partitions, without topics that have none."""
    return {topic_id: indexes for topic_id, indexes in assignment.items() if indexes}
