"""Who is told of commits, and when: not before the source knows all."""

from collections.abc import Iterable
from dataclasses import dataclass

from penstock.broker.backlog.registry import BacklogRegistry

TOPIC_ID, OLDER_ID, NO_ID = bytes([1]) * 16, bytes([2]) * 16, bytes(16)


@dataclass
class Commit:
    """One commit."""

    offset: int
    topic_id: bytes = TOPIC_ID


class Told:
    """A partition that is told."""

    def __init__(self, index: int = 0, topic: str = "orders") -> None:
        self.topic = topic
        self.topic_id = TOPIC_ID
        self.index = index
        self.log: list[object] = []

    def told(self, group_id: str, offset: int | None) -> None:
        self.log.append((group_id, offset))

    def told_all(self, offsets: dict[str, int]) -> None:
        self.log.append(offsets)


class Source:
    """All that is committed, once it is known."""

    def __init__(self) -> None:
        self.knows_all_offsets = False
        self.offsets: list[tuple[str, int, Commit]] = []
        self.told_count = 0

    def offsets_of(self, topic: str, partition: int | None = None) -> Iterable[tuple[str, int, Commit]]:
        told = [each for each in self.offsets if partition in (None, each[1])]
        self.told_count += len(told)
        return told if self.knows_all_offsets else []


def test_who_follows_is_told_when_the_source_knows_all_and_not_before() -> None:
    registry, source, early, late = BacklogRegistry(), Source(), Told(), Told(1)
    source.offsets = [("g", 0, Commit(5)), ("h", 0, Commit(7)), ("g", 1, Commit(9))]
    registry.follow(early)
    registry.set_source(source)
    registry.refresh()
    assert early.log == []
    source.knows_all_offsets = True
    registry.refresh()
    registry.refresh()
    registry.follow(late)
    assert (early.log, late.log) == ([{"g": 5, "h": 7}], [{"g": 9}])


def test_who_comes_to_lead_while_groups_are_read_anew_is_told_when_that_is_done() -> None:
    registry, source, follower = BacklogRegistry(), Source(), Told()
    source.knows_all_offsets = True
    source.offsets = [("g", 0, Commit(5))]
    registry.set_source(source)
    source.knows_all_offsets = False  # leadership has changed, and nobody has looked since
    registry.follow(follower)
    assert follower.log == []
    source.knows_all_offsets = True
    registry.refresh()
    assert follower.log == [{"g": 5}]


def test_who_waited_is_told_also_where_a_newcomer_finds_out_first_that_all_is_known() -> None:
    registry, source, early, late = BacklogRegistry(), Source(), Told(), Told(1)
    source.offsets = [("g", 0, Commit(5)), ("g", 1, Commit(9))]
    registry.set_source(source)
    registry.follow(early)
    source.knows_all_offsets = True
    registry.follow(late)
    registry.refresh()
    assert (early.log, late.log) == ([{"g": 5}], [{"g": 9}])


def test_partitions_that_begin_one_after_the_other_look_at_their_own_offsets_only() -> None:
    registry, source = BacklogRegistry(), Source()
    source.offsets = [("g", index, Commit(5)) for index in range(100)]
    source.knows_all_offsets = True
    registry.set_source(source)
    for index in range(100):
        registry.follow(Told(index))
    assert source.told_count == 100


def test_commits_are_told_to_their_partition_alone_and_to_nobody_who_has_left() -> None:
    registry, zero, one = BacklogRegistry(), Told(0), Told(1)
    registry.follow(zero)
    registry.follow(one)
    registry.note("g", "orders", 0, Commit(3))
    registry.note("g", "other", 0, Commit(4))
    registry.note("g", "orders", 0, None)
    registry.forget(zero)
    registry.note("g", "orders", 0, Commit(5))
    registry.note("g", "orders", 1, Commit(-1))
    assert (zero.log, one.log) == ([("g", 3), ("g", None)], [("g", 0)])


def test_a_commit_that_meant_an_older_topic_of_the_name_is_none() -> None:
    registry, source, follower = BacklogRegistry(), Source(), Told()
    source.knows_all_offsets = True
    source.offsets = [("g", 0, Commit(5, OLDER_ID)), ("h", 0, Commit(6, NO_ID))]
    registry.set_source(source)
    registry.follow(follower)
    registry.note("g", "orders", 0, Commit(8, OLDER_ID))
    assert follower.log == [{"h": 6}, ("g", None)]
