"""What groups of the consumer protocol take in memory, about: for `group.memory.max.bytes`.

Owns the weights. Pure; counts what is stored, and what a heartbeat would add to that.
"""

from collections.abc import Collection

from penstock.broker.groups.consumer_group_events import Assignment, ConsumerHeartbeat, MemberMetadata
from penstock.broker.groups.consumer_group_state import StoredGroup

MEMBER_BYTES = 1_500
"""What a member takes besides what its client has sent."""
NAME_BYTES = 60
"""What a topic's name takes besides its characters."""
PARTITION_BYTES = 250
"""What a partition in an assignment takes, its holder included."""


def held_bytes(stored: StoredGroup) -> int:
    """What members, assignments and resolved regular expressions take."""
    members = sum(_member_bytes(member_id, metadata) for member_id, metadata in stored.members.items())
    targets = sum(map(_partition_count, stored.targets.values()))
    currents = sum(
        _partition_count(current.assigned) + _partition_count(current.pending_revocation)
        for current in stored.currents.values()
    )
    regexes = sum(
        len(record.regex) + NAME_BYTES * len(record.topic_names or ()) for record in stored.regexes.values()
    )
    return members + PARTITION_BYTES * (targets + currents) + regexes


def growth_bytes(stored: StoredGroup | None, beat: ConsumerHeartbeat) -> int:
    """How much more the sender would take when the heartbeat is heard; never negative."""
    known: MemberMetadata | None = None
    if stored is not None:
        known = stored.members.get(beat.member_id)
        if known is None and beat.instance_id is not None:
            known = stored.members.get(stored.static_member(beat.instance_id) or "")
    if known is None:
        names = beat.topic_names or ()
        return MEMBER_BYTES + 2 * len(beat.member_id) + _names_bytes(names) + _texts_bytes(beat)
    growth = 0
    if beat.topic_names is not None:
        growth += max(_names_bytes(beat.topic_names) - _names_bytes(known.topic_names), 0)
    if beat.topic_regex is not None:
        growth += max(len(beat.topic_regex) - len(known.topic_regex), 0)
    return growth


def subscription_bytes(beat: ConsumerHeartbeat) -> int:
    """What the sender says of itself takes in a record, about; at least that."""
    names = sum(len(name.encode()) + 3 for name in beat.topic_names or ())
    return names + 4 * _texts_bytes(beat)


def _member_bytes(member_id: str, metadata: MemberMetadata) -> int:
    texts = (metadata.instance_id, metadata.rack_id, metadata.client_id, metadata.topic_regex)
    return (
        MEMBER_BYTES
        + 2 * len(member_id)
        + _names_bytes(metadata.topic_names)
        + sum(len(text or "") for text in texts)
    )


def _texts_bytes(beat: ConsumerHeartbeat) -> int:
    texts = (beat.instance_id, beat.rack_id, beat.client_id, beat.topic_regex)
    return sum(len(text or "") for text in texts)


def _names_bytes(names: Collection[str]) -> int:
    return sum(map(len, names)) + NAME_BYTES * len(names)


def _partition_count(assignment: Assignment) -> int:
    return sum(map(len, assignment.values()))
