"""What a follower asks for, and what answers mean: nothing that is out of date changes a log, and nothing is asked for that does not count."""

from random import Random

import pytest

from penstock.broker.replication.fetcher_machine import (
    FIRST_BACKOFF_MS,
    Append,
    Ask,
    FetcherMachine,
    Key,
    Refused,
    Standing,
    StartOver,
    TakeNote,
    Truncate,
)
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch_client import FetchedPartition

KEY, OTHER = (b"t" * 16, 0), (b"t" * 16, 1)
EPOCH = 5
STANDING = Standing(100, 4, 20)
RECORDS = memoryview(b"records")


def machine(standing: Standing = STANDING) -> FetcherMachine:
    """One that follows KEY, whose log stands."""
    made = FetcherMachine(backoff_max_ms=1000)
    assert made.follow(KEY, EPOCH)
    made.stands(KEY, EPOCH, standing)
    return made


def answer(
    *,
    code: int = 0,
    records: memoryview = RECORDS[:0],
    diverging: tuple[int, int] | None = None,
    log_start: int = 20,
) -> FetchedPartition:
    return FetchedPartition("", KEY[0], 0, code, 90, 90, log_start, None, -1, records, diverging)


def next_asks(made: FetcherMachine, now_ms: float, *, has_room: bool = True) -> list[Ask]:
    """All that is to be asked for."""
    made.touch_all()
    return [ask for ask in made.changes(now_ms, has_room=has_room).values() if ask is not None]


def ask_of(made: FetcherMachine) -> Ask:
    (ask,) = next_asks(made, 0)
    return ask


def test_a_log_is_asked_for_where_it_stands() -> None:
    assert ask_of(machine()) == Ask(KEY, EPOCH, STANDING)


def test_nothing_is_asked_for_before_the_log_stands() -> None:
    made = FetcherMachine(backoff_max_ms=1000)
    made.follow(KEY, EPOCH)
    assert next_asks(made, 0) == []
    assert made.busy_count == 1


def test_a_log_at_work_is_in_no_request_and_holds_up_no_other() -> None:
    made = machine()
    made.follow(OTHER, EPOCH)
    made.stands(OTHER, EPOCH, STANDING)
    first = next_asks(made, 0)[0]
    assert made.take(first, answer(records=RECORDS), 0) == Append(KEY, EPOCH, RECORDS, 90, 20)
    assert [ask.key for ask in next_asks(made, 0)] == [OTHER]
    made.stands(KEY, EPOCH, Standing(107, 5, 20))
    assert {ask.key: ask.standing.end_offset for ask in next_asks(made, 0)} == {KEY: 107, OTHER: 100}


def test_an_answer_of_an_older_epoch_changes_nothing() -> None:
    made = machine()
    ask = ask_of(made)
    assert made.follow(KEY, EPOCH + 1)
    assert made.take(ask, answer(records=RECORDS), 0) is None
    made.stands(KEY, EPOCH + 1, STANDING)
    assert made.take(ask, answer(records=RECORDS), 0) is None
    assert made.take(ask, answer(diverging=(3, 50)), 0) is None


def test_an_answer_for_another_offset_changes_nothing() -> None:
    """Two requests may be under way, and the first one's records are appended already."""
    made = machine()
    ask = ask_of(made)
    made.take(ask, answer(records=RECORDS), 0)
    assert made.take(ask, answer(records=RECORDS), 0) is None, "at work"
    made.stands(KEY, EPOCH, Standing(107, 5, 20))
    assert made.take(ask, answer(records=RECORDS), 0) is None, "further on"


def test_an_answer_for_what_is_followed_no_more_changes_nothing() -> None:
    made = machine()
    ask = ask_of(made)
    made.unfollow(KEY)
    made.unfollow(KEY)
    assert made.take(ask, answer(records=RECORDS), 0) is None
    made.stands(KEY, EPOCH, STANDING)
    assert next_asks(made, 0) == []


def test_work_begun_in_an_older_epoch_makes_no_log_stand_in_a_newer_one() -> None:
    made = machine()
    made.take(ask_of(made), answer(records=RECORDS), 0)
    made.follow(KEY, EPOCH + 1)
    made.stands(KEY, EPOCH, Standing(107, 5, 20))
    made.failed(KEY, EPOCH, Standing(107, 5, 20), 0)
    made.set_busy(KEY, EPOCH)
    assert next_asks(made, 0) == []
    assert made.leader_epoch(KEY) == EPOCH + 1


def test_to_follow_again_in_the_same_epoch_disturbs_nothing() -> None:
    made = machine()
    assert not made.follow(KEY, EPOCH)
    assert len(next_asks(made, 0)) == 1


def test_an_empty_answer_tells_offsets_and_leaves_the_log_in_the_next_request() -> None:
    made = machine()
    assert made.take(ask_of(made), answer(), 0) == TakeNote(KEY, EPOCH, 90, 20)
    assert len(next_asks(made, 0)) == 1


def test_divergence_is_cut_before_anything_else_is_asked_for() -> None:
    made = machine()
    assert made.take(ask_of(made), answer(diverging=(3, 50)), 0) == Truncate(KEY, EPOCH, 3, 50)
    assert next_asks(made, 0) == []


def test_an_answer_to_a_question_that_was_not_asked_cuts_nothing() -> None:
    made = machine(Standing(100, -1, 100))
    assert isinstance(made.take(ask_of(made), answer(diverging=(3, 50)), 0), Refused)


@pytest.mark.parametrize("last_epoch", [4, -1])
def test_a_log_that_ends_before_its_leaders_begins_starts_over_there(last_epoch: int) -> None:
    made = machine(Standing(100, last_epoch, 20))
    told = made.take(ask_of(made), answer(code=ErrorCode.OFFSET_OUT_OF_RANGE, log_start=150), 0)
    assert told == StartOver(KEY, EPOCH, 150)


def test_an_empty_log_that_begins_above_its_leaders_end_starts_over_where_that_begins() -> None:
    made = machine(Standing(100, -1, 100))
    told = made.take(ask_of(made), answer(code=ErrorCode.OFFSET_OUT_OF_RANGE, log_start=50), 0)
    assert told == StartOver(KEY, EPOCH, 50)


@pytest.mark.parametrize(("last_epoch", "log_start"), [(4, 50), (4, 100), (-1, 100), (-1, -1), (4, -1)])
def test_a_leader_that_can_not_say_where_to_go_on_makes_nobody_drop_a_log(
    last_epoch: int, log_start: int
) -> None:
    made = machine(Standing(100, last_epoch, 20))
    told = made.take(ask_of(made), answer(code=ErrorCode.OFFSET_OUT_OF_RANGE, log_start=log_start), 0)
    assert isinstance(told, Refused)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.FENCED_LEADER_EPOCH,
        ErrorCode.UNKNOWN_LEADER_EPOCH,
        ErrorCode.NOT_LEADER_OR_FOLLOWER,
        ErrorCode.KAFKA_STORAGE_ERROR,
        ErrorCode.CORRUPT_MESSAGE,
        ErrorCode.UNKNOWN_TOPIC_ID,
    ],
)
def test_a_refused_partition_waits_longer_each_time_and_never_longer_than_the_bound(code: ErrorCode) -> None:
    made = machine()
    now = 0.0
    waits: list[float] = []
    for _ in range(8):
        (ask,) = next_asks(made, now)
        assert made.take(ask, answer(code=code), now) == Refused(KEY, code)
        assert next_asks(made, now) == []
        due = made.next_time_ms(now)
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits[0] == FIRST_BACKOFF_MS
    assert waits == sorted(waits)
    assert waits[-1] == 1000


def test_a_new_epoch_ends_the_wait() -> None:
    made = machine()
    made.take(ask_of(made), answer(code=ErrorCode.FENCED_LEADER_EPOCH), 0)
    made.follow(KEY, EPOCH + 1)
    made.stands(KEY, EPOCH + 1, STANDING)
    assert len(next_asks(made, 0)) == 1


def test_records_that_are_no_good_again_and_again_are_fetched_again_ever_more_slowly() -> None:
    made = machine()
    now = 0.0
    for count in range(1, 4):
        (ask,) = next_asks(made, now)
        made.take(ask, answer(records=RECORDS), now)
        made.failed(KEY, EPOCH, STANDING, now)
        wait_ms = FIRST_BACKOFF_MS * 2 ** (count - 1)
        assert made.next_time_ms(now) == now + wait_ms
        now += wait_ms


def test_throttled_partitions_are_left_out_while_there_is_no_room() -> None:
    made = machine()
    made.follow(OTHER, EPOCH)
    made.stands(OTHER, EPOCH, STANDING)
    made.throttle(KEY, True)
    assert (made.is_throttled(KEY), made.is_throttled(OTHER)) == (True, False)
    assert [ask.key for ask in next_asks(made, 0, has_room=False)] == [OTHER]
    assert len(next_asks(made, 0)) == 2
    made.throttle(KEY, False)
    assert len(next_asks(made, 0, has_room=False)) == 2


@pytest.mark.parametrize("seed", range(10))
def test_what_changed_adds_up_to_all_that_is_to_be_asked_for(seed: int) -> None:
    random = Random(seed)
    made, asked, now_ms = FetcherMachine(backoff_max_ms=100), dict[Key, Ask](), 0.0
    keys = [(bytes(16), index) for index in range(6)]
    ready: dict[Key, Ask] = {}
    for _ in range(300):
        key = random.choice(keys)
        epoch = made.leader_epoch(key) or 0
        now_ms += random.choice((0, 5, 30))
        match random.randrange(8):
            case 0:
                made.follow(key, epoch + random.randrange(2))
            case 1:
                made.unfollow(key)
            case 2:
                made.throttle(key, random.random() < 0.5)
            case 3:
                made.set_busy(key, epoch)
            case 4:
                made.failed(key, epoch, STANDING, now_ms)
            case 5 if key in ready:
                code = random.choice((0, ErrorCode.NOT_LEADER_OR_FOLLOWER))
                made.take(
                    ready[key], answer(code=code, records=random.choice((RECORDS[:0], RECORDS))), now_ms
                )
            case _:
                made.stands(key, epoch, Standing(random.randrange(100), 5, 20))
        has_room = random.random() < 0.7
        changes = made.changes(now_ms, has_room=has_room)
        asked |= {each: ask for each, ask in changes.items() if ask is not None}
        for gone in [each for each, ask in changes.items() if ask is None]:
            asked.pop(gone, None)
        ready = {ask.key: ask for ask in next_asks(made, now_ms, has_room=has_room)}
        assert asked == ready


def test_what_has_not_changed_costs_nothing() -> None:
    made = machine()
    assert list(made.changes(0)) == [KEY]
    assert made.changes(0) == {}
    assert made.take(Ask(KEY, EPOCH, STANDING), answer(), 0) is not None
    assert made.changes(0) == {}, "it stands where it stood"
