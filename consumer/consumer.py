"""The consumer: what a program that reads records holds in its hand.

Owns the public methods and the wiring of the parts: `handout` (what is handed out next), `fetcher` (where it comes from), `group_link` (whose
it is), `reading` (bounded reads). Decides nothing by itself.

What is in hand: a record or a batch that was handed out is in hand until the user comes back for more. Partitions are given up in a
rebalance only when nothing of them is in hand; auto_commit commits only what was come back from; `commit()` commits all that was handed out.
Cancellation never loses a record: it was handed out, or it will be next.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import trio

from penstock.client.cluster import Cluster
from penstock.client.connection import ConnectionSettings
from penstock.client.group_values import OffsetAndMetadata
from penstock.client.lifetime import OwnedNursery, Spawner
from penstock.client.metadata import TopicPartition, parse_bootstrap
from penstock.client.topic_cache import TopicCache
from penstock.consumer.assignment_state import AssignmentState
from penstock.consumer.batch import ConsumerBatch
from penstock.consumer.fetcher import Fetcher
from penstock.consumer.group_link import CANCELLED_CLOSE_LIMIT_S, CLOSE_LIMIT_S, Callback, GroupLink
from penstock.consumer.handout import Handout
from penstock.consumer.membership import GroupProtocol, MembershipOptions
from penstock.consumer.offset_lookup import EARLIEST, LATEST, OffsetLookup
from penstock.consumer.options import FetchOptions, IsolationLevel, OffsetReset
from penstock.consumer.positioner import Positioner
from penstock.consumer.reading import Bound, Reading, timestamp_ms_of
from penstock.consumer.record import ConsumerRecord
from penstock.consumer.subscription import Subscription
from penstock.runtime.environment import Environment

if TYPE_CHECKING:
    from penstock.consumer.assignors.assignor import Assignor

_MIB = 1024 * 1024


class Consumer:
    """Reads records: `async with Consumer("localhost:9092", "orders", group="billing") as consumer: async for record in consumer: ...`.

    With a group, partitions are shared with its other members and begin at the group's committed offsets. Without one, it has all
    partitions of its topics (or those that `assign` names) and begins where `auto_offset_reset` says. One task at a time may take records;
    all other methods may be called from any task of the same trio run.

    Settings have Kafka's names without the dots, but for those of its pace, over all its partitions together (the group is not left):
        max_records_per_second: records handed out: in t seconds at most this times t, and `burst_records`.
        burst_records: what may come at once after a pause; a tenth of a second's records by default, one at least.
        max_in_flight: records handed out and not committed; needs a group. Who has so many waits for a commit. With auto_commit one is
            made when half of it is reached. Without: `commit()` before coming back for more, or in another task.

    Callbacks are awaited, one at a time; what they raise is raised by the next call for records. `on_assigned`: the partitions are ours, nothing
    of them is handed out before it returns. `on_revoked`: they are about to be given up, also by leaving the block; others get them when
    it has returned. `on_lost`: they are gone already (the session has timed out, the user was away for longer than max_poll_interval_ms).
    """

    _nursery: Spawner | None = None
    _lookup: OffsetLookup | None = None
    _fetcher: Fetcher | None = None

    def __init__(
        self,
        bootstrap: str,
        *topics: str,
        environment: Environment | None = None,
        group: str | None = None,
        pattern: str | None = None,
        group_protocol: Literal["classic", "consumer"] = "classic",
        assignors: Sequence["str | Assignor"] = ("range", "cooperative-sticky"),
        group_instance_id: str | None = None,
        auto_offset_reset: Literal["latest", "earliest", "none"] = "latest",
        isolation_level: Literal["read_uncommitted", "read_committed"] = "read_uncommitted",
        auto_commit: bool = True,
        auto_commit_interval_ms: int = 5_000,
        session_timeout_ms: int = 45_000,
        heartbeat_interval_ms: int = 3_000,
        max_poll_interval_ms: int = 300_000,
        max_records_per_second: float | None = None,
        burst_records: int | None = None,
        max_in_flight: int | None = None,
        prefetch_max_bytes: int = 32 * _MIB,
        fetch_min_bytes: int = 1,
        fetch_max_wait_ms: int = 500,
        fetch_max_bytes: int = 50 * _MIB,
        partition_fetch_max_bytes: int = _MIB,
        on_assigned: Callback | None = None,
        on_revoked: Callback | None = None,
        on_lost: Callback | None = None,
        client_id: str = "penstock-consumer",
        rack: str | None = None,
    ) -> None:
        """Connects when its block is entered. Raises ValueError for settings that make no sense, InvalidAddress for a bootstrap that is none."""
        self._bootstrap = parse_bootstrap(bootstrap)
        self._environment = environment or _production_environment()
        self._settings = ConnectionSettings(client_id=client_id)
        self._options = FetchOptions(
            auto_offset_reset=OffsetReset(auto_offset_reset),
            isolation_level=IsolationLevel(isolation_level),
            prefetch_max_bytes=prefetch_max_bytes,
            fetch_min_bytes=fetch_min_bytes,
            fetch_max_wait_ms=fetch_max_wait_ms,
            fetch_max_bytes=fetch_max_bytes,
            partition_fetch_max_bytes=partition_fetch_max_bytes,
            max_records_per_second=max_records_per_second,
            burst_records=burst_records,
            max_in_flight=max_in_flight,
            rack=rack or "",
        )
        self._subscription = Subscription(frozenset(topics), pattern)
        self._state = AssignmentState(self._options)
        self._handout = Handout(self._state, self._environment)
        self._group = GroupLink(
            group,
            GroupProtocol(group_protocol),
            MembershipOptions(
                group_instance_id=group_instance_id,
                session_timeout_ms=session_timeout_ms,
                heartbeat_interval_ms=heartbeat_interval_ms,
                max_poll_interval_ms=max_poll_interval_ms,
                assignors=_assignors(assignors) if group is not None else (),
                rack=rack,
            ),
            self._state,
            self._handout,
            self._environment,
            auto_commit=auto_commit,
            auto_commit_interval_ms=auto_commit_interval_ms,
            callbacks=(on_assigned, on_revoked, on_lost),
            require_stable=self._options.isolation_level is IsolationLevel.READ_COMMITTED,
        )

    async def __aenter__(self) -> Self:
        if self._fetcher is not None:
            raise RuntimeError("a Consumer is used for one `async with` block")
        self._background = OwnedNursery()
        nursery = self._nursery = await self._background.open_sheltered()
        cluster = Cluster(self._environment, self._bootstrap, nursery, self._settings)
        topics = TopicCache(cluster, self._environment, creates_topics=False)
        self._lookup = OffsetLookup(cluster, topics, self._environment, self._options.isolation_level)
        self._positioner = Positioner(
            cluster, topics, self._lookup, self._environment, self._state, self._handout
        )
        self._positioner.starting_offsets = self._group.starting_offsets
        self._fetcher = Fetcher(
            cluster, self._environment, self._options, self._state, self._handout, self._positioner
        )
        self._group.on_assignment = self._fetcher.wake
        self._group.open(nursery, cluster, topics)
        nursery.start_soon(self._fetcher.run)
        self._apply_subscription()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leaving the block: what was come back from is committed (auto_commit), `on_revoked` is called, the group is left. Ten seconds at most.

        So, too, where the block is cancelled or around it everything is: the background works on until then, three seconds at most. Where the
        broker can't be reached, the last commit has four tenths of that time (so has an `on_assigned` that is under way), then `on_revoked` is
        called all the same: as far as can be known the partitions are still owned, and nobody else has them before the session times out. Once
        it has timed out, also meanwhile, `on_lost` is called instead. A callback that is not done in time is cancelled.

        Leaving it without an error says that what is in hand is done, too. After an error or a cancellation that leaves the block it counts as not
        processed, and is not committed; likewise where another task has it that did not come back, or where the deadline has passed that
        held when it was handed out (`move_on_after` around the loop): it is consumed again. To be sure of either, `commit()`.
        """
        try:
            if kind is None:
                self._handout.finish()
            # A cancelled block may take a little time for its last commit, so that the work done is not done again.
            is_cancelled = trio.current_effective_deadline() <= trio.current_time()
            limit_s = CANCELLED_CLOSE_LIMIT_S if is_cancelled else CLOSE_LIMIT_S
            with trio.move_on_after(limit_s, shield=True):
                await self._group.close(limit_s)
        finally:
            self._handout.close()
            self._nursery = None
            await self._background.close(kind, error, traceback)

    # Records

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumerRecord:
        """The next record. A trio checkpoint for each batch, not for each record.

        Raises as `next_batch`. Cancellation: the record is handed out next time.
        """
        for record in self._handout.records:
            return record
        self._require_fetcher()
        return await self._handout.next_record()

    async def next_batch(self, *, max_records: int | None = None) -> ConsumerBatch:
        """The next records of one partition, as many as are at hand (some thousands; at most `max_records`). Waits for at least one.

        Partitions take turns. To call it again says that what it gave before is done.

        Raises:
            PartitionError: one partition can't go on: NoInitialOffset, PositionOutOfRange, LogTruncated, CorruptRecords.
            UnknownTopic, AuthorizationFailed: of a topic or group that was asked for.
            PenstockError: the group membership failed for good; or what a rebalance callback raised.
            trio.BusyResourceError: another task is waiting for records.

        Cancellation: nothing is taken.
        """
        self._require_fetcher()
        return await self._handout.next_batch(max_records)

    def batches(self, *, max_records: int | None = None) -> "Batches":
        """Iterate over batches: the fast path. As `next_batch`, over and over."""
        return Batches(self, max_records)

    def read(
        self,
        topic: str,
        *,
        start: Bound | Mapping[int, Bound] | None = None,
        end: Bound | Mapping[int, Bound] | None = None,
        partitions: Iterable[int] | None = None,
        merge_by_time: bool = False,
    ) -> Reading:
        """Read a topic from `start` to `end`, and end. Needs no group, and leaves the assignment and its positions alone.

        A bound is an offset (int), a time (datetime with a time zone, or a date: its beginning in UTC), or one for each partition by
        its index. `start` None: the log start offset; `end` (exclusive) None: the high watermark at the first record asked for (with
        read_committed: the last stable offset). An offset past that end means that end as well. A time chooses records by their
        timestamps, in ms: of all that lie before that end, exactly those with start <= timestamp < end are given, in whatever order
        timestamps are (CreateTime). So with a time as `end` everything behind the start is looked at, but for topics with LogAppendTime.

        Records come in order within each partition. With `merge_by_time` the partitions are merged into one order: by timestamp, ties by
        partition, then offset; a record that is older than one before it in its partition counts as late as that one. It holds at
        least one batch of each partition. Use one Reading in one task; `batches()` of it is the fast path (not when merged). To stop
        early just stop; `aclose()` ends its background work at once.

        Raises (from iteration): UnknownTopic, LogTruncated, CorruptRecords, UnsupportedByBroker, BootstrapFailed. ValueError at once for a
        datetime without a time zone.
        """
        if self._nursery is None:
            raise RuntimeError("a Consumer is used inside its `async with` block")
        cluster = Cluster(self._environment, self._bootstrap, self._nursery, self._settings)
        return Reading(
            self._nursery,
            cluster,
            self._environment,
            self._options,
            topic,
            start,
            end,
            partitions,
            merge_by_time=merge_by_time,
        )

    # Which partitions

    @property
    def group(self) -> str | None:
        """The group that it is a member of."""
        return self._group.name

    @property
    def auto_commit(self) -> bool:
        """Whether what was come back from is committed by itself."""
        return self._group.commits_by_itself

    @property
    def environment(self) -> Environment:
        """Its clock and all that."""
        return self._environment

    @property
    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions that it has now."""
        return frozenset(self._state.partitions)

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read exactly these partitions, without the group deciding. Positions of those that it has already stay.

        New ones begin at the group's committed offsets, where there is a group, else where auto_offset_reset says; `seek` goes before.

        Raises RuntimeError while subscribed in a group.
        """
        self._require_fetcher()
        if self._group.is_subscribed:
            raise RuntimeError("the group decides what is assigned; unsubscribe first")
        self._subscription = Subscription()
        self._positioner.is_managed = False
        self._positioner.subscribe(self._subscription)
        self._set_assignment(TopicPartition(*partition) for partition in partitions)

    def subscribe(self, *topics: str, pattern: str | None = None, from_beginning: Iterable[str] = ()) -> None:
        """Read these topics, or all whose whole name matches `pattern` (RE2 syntax with the consumer protocol), instead of what it read.

        In a group a rebalance follows. Without one: all partitions of the topics, new ones too. Those of `from_beginning` begin at the log start
        offset where nothing is committed, whatever auto_offset_reset says.
        """
        self._state.from_beginning = frozenset(from_beginning)
        self._subscription = Subscription(frozenset(topics), pattern)
        self._apply_subscription()

    async def unsubscribe(self) -> None:
        """Read nothing any more; the group is left, once the user has come back from what is in hand, and that is committed (auto_commit).

        Called by the very task that has something in hand, it does not wait for it, and that counts as not processed: `commit()` before, if it is.
        Cancellation: the group is left in the background.
        """
        self._subscription = Subscription()
        self._require_fetcher()
        self._positioner.subscribe(self._subscription)
        await self._group.unsubscribe()
        self._set_assignment(())

    # Pausing

    @property
    def paused(self) -> frozenset[TopicPartition]:
        """Partitions of which nothing is handed out now."""
        return frozenset(tp for tp, state in self._state.partitions.items() if state.is_paused)

    def pause(self, *partitions: TopicPartition) -> None:
        """Hand out nothing of these until `resume`. The group is not left, and what was fetched is kept.

        Raises KeyError for a partition that is not assigned.
        """
        self._handout.pause(map(_named, partitions))

    def resume(self, *partitions: TopicPartition) -> None:
        """Hand out again. Raises KeyError for a partition that is not assigned."""
        self._handout.resume(map(_named, partitions))
        self._require_fetcher().wake()

    def pause_all(self) -> None:
        """Hand out nothing at all, also of partitions that are assigned later, until `resume_all`. The group is not left."""
        self._handout.pause_all()

    def resume_all(self) -> None:
        """Hand out everything again, whatever was paused one by one."""
        self._handout.resume_all()
        self._require_fetcher().wake()

    # Positions

    async def position(self, partition: TopicPartition) -> int:
        """The offset of the next record to hand out; waits until it is known. KeyError for a partition that is not assigned."""
        return await self._handout.position(_named(partition))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Go on from `offset`. What was fetched of the partition is dropped. KeyError for a partition that is not assigned."""
        if offset < 0:
            raise ValueError(f"offset {offset} is negative")
        self._handout.seek(_named(partition), offset)
        self._require_fetcher().wake()

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """Go on from the log start offset, looked up when it is needed. Of all assigned partitions where none is named."""
        self._seek_to(partitions, EARLIEST)

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Go on from the end (high watermark; with read_committed the last stable offset), looked up when it is needed."""
        self._seek_to(partitions, LATEST)

    async def seek_to_time(self, time: datetime | date | int, *partitions: TopicPartition) -> None:
        """Go on from the first record that is not older than `time` (ms since 1970 as an int), or from the end.

        Raises as `offsets_for_times`. Cancellation: no position is changed.
        """
        wanted = [_named(tp) for tp in partitions] or list(self._state.partitions)
        found = await self.offsets_for_times(dict.fromkeys(wanted, time))
        missing = [tp for tp, offset in found.items() if offset is None]
        ends = await self.end_offsets(missing)
        for tp, offset in found.items():
            if tp in self._state.partitions:
                self.seek(tp, ends[tp] if offset is None else offset)

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Log start offsets. Raises UnknownTopic, and what Admin.list_offsets raises."""
        return await self._require_lookup().offsets(dict.fromkeys(map(_named, partitions), EARLIEST))

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """High watermarks; with read_committed last stable offsets. Raises as `beginning_offsets`."""
        return await self._require_lookup().offsets(dict.fromkeys(map(_named, partitions), LATEST))

    async def offsets_for_times(
        self, times: Mapping[TopicPartition, datetime | date | int]
    ) -> dict[TopicPartition, int | None]:
        """For each partition the first offset whose record is not older than a time (ms since 1970 as an int); None: there is none.

        Raises ValueError for a datetime without a time zone; else as `beginning_offsets`.
        """
        wanted = {_named(tp): timestamp_ms_of(time) for tp, time in times.items()}
        found = await self._require_lookup().offsets(wanted)
        return {tp: None if offset < 0 else offset for tp, offset in found.items()}

    def lag(self, partition: TopicPartition) -> int | None:
        """Records between the position and the end that the broker told last; None while nothing is known. KeyError as `position`."""
        return self._state.partitions[_named(partition)].lag

    @property
    def buffered_bytes(self) -> int:
        """What was fetched and not handed out yet, in bytes as they came; at most `prefetch_max_bytes`, but for a single larger batch."""
        return self._state.buffered_bytes

    @property
    def fetch_request_count(self) -> int:
        """Fetch requests sent so far."""
        return 0 if self._fetcher is None else self._fetcher.request_count

    # Commits

    async def commit(self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None = None) -> None:
        """Commit these offsets (of the *next* record to consume), or the position after all that was handed out so far.

        On return the group's coordinator has them for good.

        Raises:
            CommitFailed: the partitions were given to another member (this one was away for too long, or fenced). Without `offsets`, told once
                after they were lost: what was handed out of them and not committed will be consumed again. Nothing was committed then.
            RuntimeError: there is no group.
            PenstockError: as `GroupOffsets.commit`.

        Cancellation: committed or not.
        """
        await self._group.commit(offsets)

    async def committed(
        self, partitions: Iterable[TopicPartition]
    ) -> dict[TopicPartition, OffsetAndMetadata | None]:
        """What the group has committed; None where it has not. Raises as `commit`."""
        return await self._group.committed(map(_named, partitions))

    def _apply_subscription(self) -> None:
        if self._nursery is None:
            return
        if self._group.exists:
            if not self._subscription.is_empty or self._group.is_subscribed:
                self._positioner.is_managed = True
                self._group.subscribe(self._subscription)
        else:
            self._positioner.subscribe(self._subscription)

    def _set_assignment(self, partitions: Iterable[TopicPartition]) -> None:
        self._handout.set_assignment(frozenset(partitions))
        if self._fetcher is not None:
            self._fetcher.wake()

    def _seek_to(self, partitions: Sequence[TopicPartition], timestamp: int) -> None:
        for tp in [_named(tp) for tp in partitions] or list(self._state.partitions):
            self._handout.seek_to(tp, timestamp)
        self._require_fetcher().wake()

    def _require_fetcher(self) -> Fetcher:
        if self._fetcher is None:
            raise RuntimeError("a Consumer is used inside its `async with` block")
        return self._fetcher

    def _require_lookup(self) -> OffsetLookup:
        if self._lookup is None:
            raise RuntimeError("a Consumer is used inside its `async with` block")
        return self._lookup


class Batches:
    """The iterator of `Consumer.batches`."""

    def __init__(self, consumer: Consumer, max_records: int | None) -> None:
        self._consumer = consumer
        self._max_records = max_records

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumerBatch:
        return await self._consumer.next_batch(max_records=self._max_records)


def _named(partition: tuple[str, int]) -> TopicPartition:
    return TopicPartition(*partition)


def _assignors(given: Sequence["str | Assignor"]) -> Sequence["Assignor"]:
    from penstock.consumer.assignors.registry import find_assignors

    return find_assignors(given)


def _production_environment() -> Environment:
    # Imported here: who brings an environment of their own needs none of the real ports.
    from penstock.runtime.production import production_environment

    return production_environment()


__all__ = ["Batches", "Consumer"]
