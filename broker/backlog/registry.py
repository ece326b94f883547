"""Which partitions must know what groups have committed, and the way it is told to them.

Owns the table of bounded partitions by topic. A commit of a topic that is not in it costs one dict lookup. Knows neither logs nor the groups' own
tables: the coordinator is asked for those through `OffsetSource`, and tells of each change in the same step in which it becomes visible.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.broker.backlog.ports import Committed, Follower, OffsetSource

NO_TOPIC_ID = bytes(16)


class BacklogRegistry:
    """See the module."""

    __slots__ = ("_ask", "_followers", "_knows_all", "_source")

    def __init__(self) -> None:
        self._followers: dict[str, dict[int, Follower]] = {}
        self._source: OffsetSource | None = None
        self._knows_all = False
        self._ask: Callable[[], None] | None = None

    def follow(self, follower: "Follower") -> None:
        """Tell this partition from now on, and at once all that is known, if that is all there is."""
        self._followers.setdefault(follower.topic, {})[follower.index] = follower
        if self._ask is not None:
            self._ask()
            return
        # not as it was last seen: groups may be about to be read anew, or have been
        knew_all = self._knows_all
        self.refresh()
        if knew_all and self._knows_all:
            self._tell_all(follower.topic, (follower,))

    def forget(self, follower: "Follower") -> None:
        """Tell this partition no more."""
        partitions = self._followers.get(follower.topic, {})
        if partitions.get(follower.index) is follower:
            del partitions[follower.index]
            if not partitions:
                del self._followers[follower.topic]

    def set_source(self, source: "OffsetSource") -> None:
        """Who is asked from now on."""
        self._source = source
        self.refresh()

    def refresh(self) -> None:
        """The source may know more than before: tell everybody, if now it knows all."""
        knew_all, self._knows_all = (
            self._knows_all,
            self._source is not None and self._source.knows_all_offsets,
        )
        if self._knows_all and not knew_all and self._ask is None:
            for topic, partitions in tuple(self._followers.items()):
                self._tell_all(topic, tuple(partitions.values()))

    # In a cluster

    def ask_others(self, ask: Callable[[], None]) -> None:
        """Groups may have other coordinators: whoever follows is told by the one that `ask` wakes (`backlog.asking.OffsetAsker`)."""
        self._ask = ask

    @property
    def asks_others(self) -> bool:
        """Whether what is known may be out of date."""
        return self._ask is not None

    def ask(self) -> None:
        """Have what groups have committed told anew, soon."""
        if self._ask is not None:
            self._ask()

    def followers(self) -> "list[Follower]":
        """All that are to be told."""
        return [follower for partitions in self._followers.values() for follower in partitions.values()]

    def follows(self, follower: "Follower") -> bool:
        """Whether it is to be told still."""
        return self._followers.get(follower.topic, {}).get(follower.index) is follower

    def note(self, group_id: str, topic: str, index: int, committed: "Committed | None") -> None:
        """A commit has become visible, or (None) was deleted."""
        partitions = self._followers.get(topic)
        if partitions is None:
            return
        follower = partitions.get(index)
        if follower is not None:
            follower.told(group_id, _meant(follower, committed))

    def _tell_all(self, topic: str, followers: "Sequence[Follower]") -> None:
        assert self._source is not None
        by_index: dict[int, dict[str, Committed]] = {}
        # a thousand partitions that begin one after the other would else look at a million offsets
        only = followers[0].index if len(followers) == 1 else None
        for group_id, index, committed in self._source.offsets_of(topic, only):
            by_index.setdefault(index, {})[group_id] = committed
        for follower in followers:
            found = by_index.get(follower.index, {})
            meant = {group: _meant(follower, committed) for group, committed in found.items()}
            follower.told_all({group: offset for group, offset in meant.items() if offset is not None})


def _meant(follower: "Follower", committed: "Committed | None") -> int | None:
    """The offset, if it is one of this very topic and not of an earlier one of its name."""
    if committed is None or committed.topic_id not in (follower.topic_id, NO_TOPIC_ID):
        return None
    return max(committed.offset, 0)


__all__ = ["NO_TOPIC_ID", "BacklogRegistry"]
