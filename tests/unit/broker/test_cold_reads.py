"""Cold reads make room for hot traffic, and nobody starves by it: the pure part, in made-up time."""

import pytest

from penstock.broker.cold_reads import (
    CHUNK_BYTES,
    FETCH_S,
    FLOOR_BYTES_PER_S,
    GETS_AHEAD,
    HOT_S,
    SEND_S_PER_BYTE,
    SHARE,
    TURN_KEPT_S,
    ColdClass,
    ColdReads,
)

RUN_S = 20.0
MB = 1_000_000


class Hot:
    hot_bytes = 0


def read_for(
    cold_reads: ColdReads,
    cold_class: ColdClass,
    readers: int,
    read_s: float,
    *,
    size_bytes: int = CHUNK_BYTES,
    hot_bytes_per_s: float = 1000.0,
) -> dict[int, int]:
    """Let the readers of a class read as fast as they may beside hot traffic; how many bytes each got in `RUN_S` seconds."""
    found = dict.fromkeys(range(readers), 0)
    now, hot = 100.0, 0.0
    while now < 100.0 + RUN_S:
        turn, reader = min((cold_class.turn_at(reader, now), reader) for reader in found)
        step = max(turn - now, 0.0)
        hot += step * hot_bytes_per_s + 1
        cold_reads.hot.hot_bytes = int(hot)
        now += step
        assert cold_reads.makes_room(now)
        now += read_s + FETCH_S + size_bytes * SEND_S_PER_BYTE
        cold_class.record(reader, size_bytes, read_s, now)
        found[reader] += size_bytes
    return found


def test_without_hot_traffic_no_room_is_made() -> None:
    cold_reads = ColdReads(Hot())
    assert not any(cold_reads.makes_room(now) for now in (0.0, 10.0, 1000.0))
    cold_reads.hot.hot_bytes += 1
    assert cold_reads.makes_room(1000.5)
    assert cold_reads.makes_room(1000.5 + HOT_S * 0.9), "the producer may send another one at once"
    assert not cold_reads.makes_room(1000.5 + HOT_S)


@pytest.mark.parametrize("read_s", [0.0, 0.0005])
def test_cold_reads_take_no_more_than_their_share_of_the_time(read_s: float) -> None:
    cold_reads = ColdReads(Hot())
    (size_bytes,) = read_for(cold_reads, cold_reads.followers, 1, read_s).values()
    busy_s = size_bytes / CHUNK_BYTES * (read_s + FETCH_S + CHUNK_BYTES * SEND_S_PER_BYTE)
    assert 0.8 * SHARE < busy_s / RUN_S <= SHARE * 1.01


def test_a_slow_disk_does_not_starve_a_cold_reader() -> None:
    cold_reads = ColdReads(Hot())
    (size_bytes,) = read_for(cold_reads, cold_reads.consumers, 1, 0.005).values()
    assert size_bytes / RUN_S > FLOOR_BYTES_PER_S * 0.7, "5 ms of each 16 are the disk's"


@pytest.mark.parametrize("followers", [1, 2, 3])
def test_each_follower_gets_ahead_of_what_is_produced(followers: int) -> None:
    cold_reads, hot_bytes_per_s = ColdReads(Hot()), 60.0 * MB
    found = read_for(
        cold_reads,
        cold_reads.followers,
        followers,
        0.0001,
        size_bytes=MB,
        hot_bytes_per_s=hot_bytes_per_s,
    )
    assert all(size_bytes / RUN_S > 1.3 * hot_bytes_per_s for size_bytes in found.values())
    assert sum(found.values()) / RUN_S < followers * GETS_AHEAD * hot_bytes_per_s * 1.1, "and no more"


def test_many_consumers_share_what_one_would_get() -> None:
    alone, together = ColdReads(Hot()), ColdReads(Hot())
    (one,) = read_for(alone, alone.consumers, 1, 0.0005).values()
    all_of_them = read_for(together, together.consumers, 10, 0.0005)
    assert sum(all_of_them.values()) == pytest.approx(one, rel=0.1)
    assert max(all_of_them.values()) < 1.2 * min(all_of_them.values())


def test_readers_take_turns_in_the_order_in_which_they_came() -> None:
    cold = ColdReads(Hot()).consumers
    cold.turn_at("first", 10.0)
    cold.record("first", CHUNK_BYTES, 0.001, 10.0)
    turns = [cold.turn_at(name, 10.0) for name in ("second", "third", "first")]
    assert turns == sorted(turns)
    assert len(set(turns)) == 3
    assert turns[0] > 10.0
    assert cold.turn_at("third", 10.0) == turns[1], "who asks again keeps its place"


def test_a_follower_does_not_wait_for_consumers() -> None:
    cold_reads = ColdReads(Hot())
    cold_reads.consumers.turn_at("reader", 10.0)
    cold_reads.consumers.record("reader", CHUNK_BYTES, 1.0, 10.0)
    assert cold_reads.consumers.turn_at("reader", 10.0) > 10.0
    assert cold_reads.followers.turn_at(2, 10.0) == 10.0


def test_turns_of_readers_that_have_gone_are_forgotten() -> None:
    cold = ColdReads(Hot()).consumers
    for number in range(50):
        cold.turn_at(number, 10.0)
    assert cold.waiting_count == 50
    cold.turn_at("another", 10.1 + TURN_KEPT_S)
    assert cold.waiting_count == 1


def test_readers_that_have_gone_leave_their_time_to_those_who_come_next() -> None:
    cold = ColdReads(Hot()).consumers
    cold.turn_at(0, 10.0)
    cold.record(0, CHUNK_BYTES, 0.001, 10.0)
    turns = [cold.turn_at(number, 10.0) for number in range(1, 101)]
    for number in range(2, 101):
        cold.give_back(number, 10.0)
    cold.give_back("who has no turn", 10.0)
    assert cold.waiting_count == 1
    assert cold.turn_at(1, 10.0) == turns[0]
    assert cold.turn_at("another", 10.0) == pytest.approx(turns[1])
    cold.give_back("another", turns[1])
    assert cold.turn_at("late", turns[1]) > turns[1], "time that has passed is not given back"
