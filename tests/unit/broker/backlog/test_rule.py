"""The rule of a bounded backlog by itself: the least offset, and when only a look at the log decides."""

import random
from collections.abc import Sequence

from penstock.broker.backlog.bounds import BacklogBounds, BacklogPolicy
from penstock.broker.backlog.places import KEPT, Place
from penstock.broker.backlog.rule import BacklogRule, Judgement, LogEnds


class Segment:
    """The active segment of a log that has grown to a size."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes


SEGMENTS = (Segment(1000),)


def rule(*, max_records: int = -1, max_bytes: int = -1, max_age_ms: int = -1) -> BacklogRule:
    made = BacklogRule(BacklogBounds(max_records, max_bytes, max_age_ms, groups=("*",)))
    made.replace({})
    return made


def ends(end: int, start: int = 0, *, now_ms: int = 0, segments: Sequence[Segment] = SEGMENTS) -> LogEnds:
    return LogEnds(start, end, segments, now_ms)


def test_the_least_offset_follows_commits_forwards_backwards_and_deletions() -> None:
    one = rule(max_records=5)
    steps: list[tuple[str, int | None, int | None]] = [
        ("a", 7, 7),
        ("b", 3, 3),
        ("b", 9, 7),
        ("a", 8, 8),
        ("b", 8, 8),
        ("a", 20, 8),
        ("c", 2, 2),
        ("c", None, 8),
        ("nobody", None, 8),
        ("b", None, 20),
        ("a", None, None),
    ]
    for group, offset, least in steps:
        one.put(group, offset)
        assert one.least_offset == least, (group, offset)


def test_what_is_admitted_surely_the_whole_rule_admits_too() -> None:
    chance = random.Random(5)
    sure = 0
    for _ in range(3000):
        records, size, age = (chance.choice((-1, chance.randrange(30))) for _ in range(3))
        policy = chance.choice(list(BacklogPolicy))
        bounds = BacklogBounds(records, 4 * size if size > 0 else size, age, groups=("*",), policy=policy)
        one = BacklogRule(bounds)
        active = Segment(40)
        segments: tuple[Segment, ...] = (Segment(60), active)
        end = 20
        for _ in range(6):
            match chance.randrange(5):
                case 0:
                    one.replace({"a": chance.randrange(end), "b": chance.randrange(end)})
                case 1:
                    one.put(chance.choice("ab"), chance.choice((None, chance.randrange(end))))
                case 2 if one.is_known:
                    offset = one.place_wanted(0)
                    one.look(Place(offset, 60 - 5 * offset, 0, segments))
                case 3:
                    end, active.size_bytes = end + 2, active.size_bytes + 10
                case _:
                    segments = (*segments, active := Segment(0))
            here = ends(end, segments=segments)
            if one.admits_surely(end + 1, 5, segments):
                sure += 1
                assert one.judge(1, 5, here) is Judgement.ADMITTED, (bounds, here)
    assert sure > 500


def test_far_from_the_bound_nothing_more_is_asked() -> None:
    one = rule(max_records=100, max_bytes=10_000)
    one.put("g", 4)
    assert not one.admits_surely(11, 10, SEGMENTS), "nobody has looked"
    one.look(Place(4, -140, -1, SEGMENTS))
    assert one.admits_surely(104, 10, SEGMENTS)
    assert not one.admits_surely(105, 10, SEGMENTS)
    assert not one.admits_surely(104, 9_141, SEGMENTS)
    assert not one.admits_surely(104, 10, (Segment(1000),))
    one.put("g", 3)
    assert not one.admits_surely(11, 10, SEGMENTS), "a commit backwards"


def test_an_earlier_place_admits_and_never_refuses() -> None:
    active = Segment(200)
    segments = (active,)
    one = rule(max_bytes=100)
    one.put("g", 4)
    assert one.judge(1, 10, ends(10, segments=segments)) is Judgement.MUST_LOOK
    one.look(Place(4, -140, -1, segments))
    assert one.judge(1, 40, ends(10, segments=segments)) is Judgement.ADMITTED
    assert one.judge(1, 41, ends(10, segments=segments)) is Judgement.OVER
    active.size_bytes = 240
    assert one.judge(1, 1, ends(11, segments=segments)) is Judgement.OVER
    one.put("g", 6)
    assert one.judge(1, 1, ends(11, segments=segments)) is Judgement.MUST_LOOK, "there may be room since"
    one.look(Place(6, -210, -1, segments))
    one.put("g", 8)
    assert one.judge(1, 70, ends(11, segments=segments)) is Judgement.ADMITTED, "there is even more room now"
    one.put("g", 5)
    assert one.judge(1, 1, ends(11, segments=segments)) is Judgement.MUST_LOOK, "there may be less"


def test_a_log_with_other_segments_is_looked_at_again() -> None:
    one = rule(max_bytes=100)
    one.put("g", 0)
    one.look(Place(0, 100 - 1000, -1, SEGMENTS))
    assert one.judge(1, 1, ends(10)) is Judgement.OVER
    assert one.judge(1, 1, ends(10, segments=(Segment(1000),))) is Judgement.MUST_LOOK


def test_age_is_looked_up_anew_for_each_first_record() -> None:
    one = rule(max_age_ms=1000)
    one.put("g", 4)
    one.look(Place(4, 60, 5000, SEGMENTS))
    assert one.judge(1, 1, ends(10, now_ms=6000)) is Judgement.ADMITTED
    assert one.judge(1, 1, ends(10, now_ms=6001)) is Judgement.OVER
    one.put("g", 5)
    assert one.judge(1, 1, ends(10, now_ms=6001)) is Judgement.MUST_LOOK, "timestamps need not rise"
    assert one.judge(1, 1, ends(5, now_ms=6001)) is Judgement.ADMITTED, "nothing is unconsumed"


def test_the_begin_of_a_batch_that_was_just_appended_needs_no_look() -> None:
    active = Segment(300)
    segments = (active,)
    one = rule(max_age_ms=1000)
    one.recent.note(4, 0, 5000, segments)
    one.recent.note(6, 100, 4000, segments)
    one.recent.note(9, 200, 7000, segments)
    one.put("g", 4)
    assert one.judge(1, 1, ends(10, now_ms=6001, segments=segments)) is Judgement.OVER
    one.put("g", 5)
    assert one.judge(1, 1, ends(10, now_ms=5001, segments=segments)) is Judgement.MUST_LOOK, "within a batch"
    one.put("g", 6)
    assert one.judge(1, 1, ends(10, now_ms=5001, segments=segments)) is Judgement.OVER
    one.put("g", 9)
    assert one.judge(1, 1, ends(10, now_ms=8000, segments=segments)) is Judgement.ADMITTED
    one.put("g", 6)
    assert one.judge(1, 1, ends(10, now_ms=5000, segments=segments)) is Judgement.MUST_LOOK, "forgotten"


def test_bytes_count_from_the_begin_of_a_batch_that_was_just_appended() -> None:
    active = Segment(300)
    segments = (Segment(1000), active)
    one = rule(max_bytes=200)
    one.recent.note(4, 0, -1, segments)
    one.recent.note(6, 100, -1, segments)
    one.recent.note(9, 200, -1, segments)
    one.put("g", 7)
    assert one.judge(1, 0, ends(10, segments=segments)) is Judgement.ADMITTED
    assert one.judge(1, 1, ends(10, segments=segments)) is Judgement.OVER
    one.put("g", 9)
    assert one.judge(1, 100, ends(10, segments=segments)) is Judgement.ADMITTED
    assert one.judge(1, 101, ends(10, segments=segments)) is Judgement.OVER
    rolled = (*segments, Segment(50))
    assert one.judge(1, 1, ends(11, segments=rolled)) is Judgement.MUST_LOOK
    one.recent.note(10, 0, -1, rolled)
    assert one.judge(1, 1, ends(11, segments=rolled)) is Judgement.MUST_LOOK, "before what is known"


def test_of_many_batches_the_newest_are_known() -> None:
    one = rule(max_bytes=100)
    for number in range(100):
        one.recent.note(number, 10 * number, -1, SEGMENTS)
    one.put("g", 99 - KEPT)
    assert one.judge(1, 1, ends(100)) is Judgement.MUST_LOOK
    one.put("g", 100 - KEPT)
    assert one.judge(1, 1, ends(100)) is Judgement.OVER


def test_groups_that_do_not_count_change_nothing() -> None:
    one = BacklogRule(BacklogBounds(max_records=5, groups=("a", "b")))
    assert one.judge(1, 1, ends(0)) is Judgement.UNKNOWN
    one.replace({"c": 0, "b": 3})
    one.put("d", 0)
    assert (one.least_offset, one.slowest_group) == (3, "b")
    assert one.judge(5, 1, ends(3)) is Judgement.ADMITTED
    assert one.judge(6, 1, ends(3)) is Judgement.OVER
