"""What a shard must know to run one kind of membership: the border between the shard and `classic_driver` or `consumer_group_store`.

Owns no code of its own. A driver translates between a pure machine's actions and the shard's records and waiting requests.
"""

from collections.abc import Iterable
from typing import Any, Protocol

from penstock.broker.groups.group import Group


class MembershipDriver(Protocol):
    """One for each kind of group; shared by all shards."""

    kinds: frozenset[int]
    """The kinds of records that such groups have besides offsets."""

    def handles(self, group: Group) -> bool:
        """Whether the group's membership is of this kind."""
        ...

    def apply(self, group: Group, key: bytes, value: bytes | None) -> None:
        """Replay one record while the shard loads; a tombstone has value None. Raises DecodeError for damage: the record is skipped."""
        ...

    def loaded(self, group: Group, now_ms: int) -> None:
        """The log has been replayed: put the membership in `group` as of now (monotonic ms).

        Called for every group, and last for the driver whose kind the group is of: where the log holds both kinds, that replaces the other.
        """
        ...

    def forget(self, group: Group) -> None:
        """The load was given up before `loaded`: nothing of the replay is kept."""
        ...

    def perform(self, group: Group, actions: Iterable[Any]) -> None:
        """Do what the machine wants: answer by `group.shard.resolve(token, action)`, store by `group.shard.store`."""
        ...

    def tombstone_keys(self, group: Group) -> list[bytes]:
        """The keys of all records that the log may hold of the membership, which is of this kind; `group.leftovers` are not among them."""
        ...
