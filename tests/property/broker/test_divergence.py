"""Whatever leaders came and went: a follower ends with its leader's bytes, and never cuts what was committed (PROPERTIES D2, D7).

Three logs on disks in memory, the fetcher's machine between them, and a leader's answers as `broker/api/fetch.py` gives them. Elections are
as Kafka's: whoever has all that is committed may lead, also from an old epoch, also without having heard of what others appended.
"""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.compaction import compact, keyed
from tests.support.logs import NOW_MS, append, batch, new_log, read_batches, reopen
from tests.support.memory_files import MemoryFiles

from penstock.broker.replication.fetcher_machine import (
    Append,
    Ask,
    FetcherMachine,
    Standing,
    StartOver,
    Truncate,
)
from penstock.broker.replication.follower import point_of_divergence
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch_client import FetchedPartition
from penstock.protocol.record_batch import read_batch_header
from penstock.storage.log import Log
from penstock.storage.log_config import LogConfig

KEY = (b"t" * 16, 0)
SMALL = LogConfig(segment_bytes=400, index_interval_bytes=80)
REPLICAS = 3
FETCHED_MAX_BYTES = 250
ROUNDS_MAX = 500


class Replica:
    """One log, and how it follows."""

    def __init__(self) -> None:
        self.files = MemoryFiles()
        self.log: Log = new_log(self.files, SMALL)
        self.machine = FetcherMachine(backoff_max_ms=0)
        self.high_watermark = 0

    def follow(self, epoch: int) -> None:
        """A leader was elected."""
        if self.machine.follow(KEY, epoch):
            self.machine.stands(KEY, epoch, self.standing())

    def standing(self) -> Standing:
        """As `standing_of` has it."""
        log = self.log
        is_empty = log.log_end_offset == log.segments[0].base_offset
        last_epoch = -1 if is_empty else log.epoch_at(log.log_end_offset - 1)
        return Standing(log.log_end_offset, last_epoch, log.log_start_offset)

    def fetch(self, leader: "Replica", epoch: int) -> bool:
        """Ask once and do what the answer says; False if there was nothing new."""
        self.machine.touch_all()
        (ask,) = self.machine.changes(0).values()
        assert ask is not None
        answer = leader.answer(ask)
        decision = self.machine.take(ask, answer, 0)
        if isinstance(decision, Append):
            self.log.append_as_follower(decision.records, now_ms=NOW_MS, epoch_max=epoch)
            self._hear(decision.high_watermark)
        elif isinstance(decision, Truncate):
            offset = point_of_divergence(self.log, decision.epoch, decision.end_offset)
            assert offset >= self.high_watermark, "what is committed would be cut"
            before = (self.log.log_end_offset, self.log.latest_epoch)
            self.log.truncate_to(offset)
            assert (self.log.log_end_offset, self.log.latest_epoch) != before, "the same again for ever"
        elif isinstance(decision, StartOver):
            self.log.truncate_fully_and_start_at(decision.offset)
        else:
            self._hear(answer.high_watermark)
            return False
        self.machine.stands(KEY, epoch, self.standing())
        return True

    def _hear(self, high_watermark: int) -> None:
        """What the leader says, of what is known to be its log."""
        self.high_watermark = max(self.high_watermark, min(high_watermark, self.log.log_end_offset))

    def answer(self, ask: Ask) -> FetchedPartition:
        """As a leader."""
        log, standing = self.log, ask.standing
        answer = FetchedPartition(
            "", KEY[0], 0, 0, self.high_watermark, -1, log.log_start_offset, None, -1, memoryview(b"")
        )
        if standing.last_epoch >= 0:
            epoch, end_offset = log.end_offset_for_epoch(standing.last_epoch)
            if epoch != standing.last_epoch or end_offset < standing.end_offset:
                assert epoch >= 0
                return dataclasses.replace(answer, diverging_epoch=(epoch, end_offset))
        if not log.log_start_offset <= standing.end_offset <= log.log_end_offset:
            return dataclasses.replace(answer, error_code=ErrorCode.OFFSET_OUT_OF_RANGE)
        with log.read(
            standing.end_offset, FETCHED_MAX_BYTES, log.log_end_offset, resident_only=False
        ) as part:
            return dataclasses.replace(answer, records=memoryview(bytes(part.read())))

    def catch_up(self, leader: "Replica", epoch: int) -> None:
        """Fetch until there is nothing new."""
        for _ in range(ROUNDS_MAX):
            if not self.fetch(leader, epoch):
                return
        raise AssertionError("it never ends")


class History:
    """Three replicas under leaders that change."""

    def __init__(self) -> None:
        self.replicas = [Replica() for _ in range(REPLICAS)]
        self.leader = 0
        self.epoch = 0
        self.committed: list[bytes] = []
        self.replicas[0].log.start_leader_epoch(0)
        self._tell()

    def _tell(self) -> None:
        for number, replica in enumerate(self.replicas):
            if number != self.leader:
                replica.follow(self.epoch)

    def append(self, count: int) -> None:
        log = self.replicas[self.leader].log
        for _ in range(count):
            value = b"%d %d" % (self.epoch, log.log_end_offset)
            append(log, batch([value]), epoch=self.epoch)

    def fetch(self, number: int) -> None:
        """One follower asks once; then what two have is committed."""
        if number != self.leader:
            self.replicas[number].fetch(self.replicas[self.leader], self.epoch)
            self._commit()

    def _commit(self) -> None:
        leader = self.replicas[self.leader]
        theirs = read_batches(leader.log)
        for number, replica in enumerate(self.replicas):
            if number == self.leader:
                continue
            mine = read_batches(replica.log)
            if mine == theirs[: len(mine)] and len(mine) > len(self.committed):
                assert mine[: len(self.committed)] == self.committed
                self.committed = mine
        if self.committed:
            end_offset = read_batch_header(self.committed[-1]).next_offset
            leader.high_watermark = max(leader.high_watermark, end_offset)

    def elect(self, number: int) -> None:
        """If it has all that is committed."""
        if read_batches(self.replicas[number].log)[: len(self.committed)] != self.committed:
            return
        self.replicas[self.leader].machine.unfollow(KEY)
        self.replicas[number].machine.unfollow(KEY)
        self.leader, self.epoch = number, self.epoch + 1
        self.replicas[number].log.start_leader_epoch(self.epoch)
        self._tell()

    def restart(self, number: int) -> None:
        """Its process is killed."""
        replica = self.replicas[number]
        replica.files.kill()
        replica.log = reopen(replica.files, SMALL)
        if number == self.leader:
            self.elect(number)
        else:
            replica.machine.unfollow(KEY)
            replica.follow(self.epoch)

    def end(self) -> None:
        """All catch up, and have the same."""
        leader = self.replicas[self.leader]
        for number, replica in enumerate(self.replicas):
            if number != self.leader:
                replica.catch_up(leader, self.epoch)
        expected = read_batches(leader.log)
        assert expected[: len(self.committed)] == self.committed
        for replica in self.replicas:
            assert read_batches(replica.log) == expected
            replica.log.sync()
            again = reopen(replica.files.copy(), SMALL, recovery_point=replica.log.durable_end_offset)
            assert read_batches(again) == expected
            used = {read_batch_header(raw).partition_leader_epoch for raw in expected}
            assert {epoch for epoch, _ in again.epoch_entries} == used


who = st.integers(0, REPLICAS - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("fetch"), who),
        st.tuples(st.just("fetch"), who),
        st.tuples(st.just("elect"), who),
        st.tuples(st.just("restart"), who),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_follower_ends_with_its_leaders_bytes_whatever_was_before(steps: list[tuple[str, int]]) -> None:
    history = History()
    for name, argument in steps:
        getattr(history, name)(argument)
    history.end()


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), min_size=1, max_size=3), min_size=5, max_size=30
    ),
    st.sets(st.integers(1, 29), max_size=3),
)
def test_a_new_follower_of_a_compacted_leader_has_its_bytes_and_its_gaps(
    keys: list[list[bytes]], elections: set[int]
) -> None:
    leader, epoch = Replica(), 0
    leader.log.config = dataclasses.replace(SMALL, compact=True)
    for number, some in enumerate(keys):
        epoch += number in elections
        leader.log.start_leader_epoch(epoch)
        append(leader.log, keyed([(key, b"%d" % number) for key in some]), epoch=epoch)
    leader.log.roll()
    compact(leader.log, committed=leader.log.log_end_offset)
    follower = Replica()
    follower.log.config = leader.log.config
    follower.follow(epoch)
    follower.catch_up(leader, epoch)
    assert read_batches(follower.log) == read_batches(leader.log)
    assert follower.log.log_end_offset == leader.log.log_end_offset
    assert follower.log.gaps_below <= leader.log.gaps_below
    follower.log.sync()
    again = reopen(follower.files.copy(), leader.log.config, recovery_point=0)
    assert read_batches(again) == read_batches(leader.log)
