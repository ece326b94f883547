"""Bounded reads: from a start to an end that is fixed when the read begins.

Owns the bounds and the end. Everything between is done by the same parts as for a subscription, with connections and positions of its own.

The bounds: the end is at most the high watermark when the read begins (read_committed: the last stable offset). A start below the log start
offset means the log start offset: what retention has deleted, also during the read, is skipped. A time chooses records by their timestamps,
wherever they lie between the first one that is not older than the start (ListOffsets: nothing before it can match) and that end: timestamps need not
rise. So a read with a time as its end looks at everything up to the end that was fixed; what the topic's broker stamps (LogAppendTime) is the
exception: there the first record that is not older than the end ends its partition.
Source: DESIGN, "online and offline consumption".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Self

import trio

from penstock.client.admin_messages import describe_configs_request, read_configs
from penstock.client.admin_values import ConfigResource, ResourceKind
from penstock.client.cluster import Cluster
from penstock.client.errors import broker_error
from penstock.client.lifetime import Spawner
from penstock.client.metadata import TopicPartition
from penstock.client.topic_cache import TopicCache
from penstock.consumer.assignment_state import AssignmentState
from penstock.consumer.batch import ConsumerBatch, TimeWindow
from penstock.consumer.fetcher import Fetcher
from penstock.consumer.handout import Handout
from penstock.consumer.merging import TimeMerge
from penstock.consumer.offset_lookup import EARLIEST, LATEST, OffsetLookup
from penstock.consumer.options import FetchOptions, OffsetReset
from penstock.consumer.positioner import Positioner
from penstock.consumer.record import ConsumerRecord
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.runtime.environment import Environment

Bound = int | datetime | date
Bounds = Bound | Mapping[int, Bound] | None
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
TIMESTAMP_TYPE = "message.timestamp.type"
_EVER = TimeWindow(-(1 << 63), 1 << 63)


def timestamp_ms_of(time: object) -> int:
    """Milliseconds since 1970, rounded up; an int is that already. A date means its beginning in UTC.

    Raises ValueError for a datetime without a time zone, TypeError for anything else.
    """
    if isinstance(time, int):
        return time
    if not isinstance(time, date):
        raise TypeError(f"{time!r} is no offset, no datetime and no date")
    if not isinstance(time, datetime):
        time = datetime(time.year, time.month, time.day, tzinfo=UTC)
    if time.tzinfo is None:
        raise ValueError(f"{time} has no time zone; write which one is meant")
    return -((_EPOCH - time) // _MILLISECOND)


class _Engine:
    """What works for one read. It does not know the `Reading`, so that one which is dropped half-way is found and ended."""

    def __init__(self, cluster: Cluster, environment: Environment, options: FetchOptions) -> None:
        options = replace(options, auto_offset_reset=OffsetReset.NONE, max_in_flight=None)
        self.cluster = cluster
        self.topics = TopicCache(cluster, environment, creates_topics=False)
        self.lookup = OffsetLookup(cluster, self.topics, environment, options.isolation_level)
        self.state = AssignmentState(options)
        self.handout = Handout(self.state, environment)
        self.positioner = Positioner(cluster, self.topics, self.lookup, environment, self.state, self.handout)
        self.fetcher = Fetcher(
            cluster, environment, options, self.state, self.handout, self.positioner, uses_sessions=False
        )
        self.scope = trio.CancelScope()
        self.handout.is_finished = self.is_finished

    def is_finished(self) -> bool:
        """Whether everything was handed out, or (in a merged read) everything that is waited for."""
        partitions = self.state.partitions
        if self.state.awaited is not None:
            return any(partitions[tp].is_done for tp in self.state.awaited)
        return all(state.is_done for state in partitions.values())

    async def run(self) -> None:
        """The background work."""
        with self.scope:
            try:
                await self.fetcher.run()
            finally:
                self.cluster.close()


class Reading:
    """An async iterator of records that ends by itself. Made by `Consumer.read`."""

    def __init__(
        self,
        nursery: Spawner,
        cluster: Cluster,
        environment: Environment,
        options: FetchOptions,
        topic: str,
        start: Bounds,
        end: Bounds,
        partitions: Iterable[int] | None,
        *,
        merge_by_time: bool = False,
    ) -> None:
        self._nursery = nursery
        self._engine = _Engine(cluster, environment, options)
        self._topic = topic
        self._start = start
        self._end = end
        self._indexes = None if partitions is None else list(partitions)
        self._bounds: dict[TopicPartition, tuple[int, int]] | None = None
        self._narrowed: TimeWindow | None = None
        self._has_rising_times = False
        self._is_begun = False
        self._merges = merge_by_time
        self._merge: TimeMerge | None = None
        self._merged: Iterator[ConsumerRecord] = iter(())
        for bound in (*_given(start), *_given(end)):
            if isinstance(bound, int) and bound < 0:
                raise ValueError(f"offset {bound} is negative")
            timestamp_ms_of(bound)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumerRecord:
        """The next record. Cancellation: it is handed out next time."""
        for record in self._merged if self._merges else self._engine.handout.records:
            return record
        if self._merges:
            self._merged = iter(await self.next_merged())
            return next(self._merged)
        await self._begin()
        return await self._engine.handout.next_record()

    async def next_merged(self) -> list[ConsumerRecord]:
        """The next records of a read that is merged by time, some hundreds to thousands. Raises StopAsyncIteration at the end.

        Cancellation: nothing is taken.
        """
        await self._begin()
        merge, engine = self._merge, self._engine
        if merge is None:
            raise RuntimeError("this read is not merged; read(merge_by_time=True) is")
        while not merge.is_finished:
            lacking = merge.lacking
            if not lacking:
                return merge.take()
            engine.state.awaited = frozenset(TopicPartition(self._topic, index) for index in lacking)
            engine.fetcher.wake_nodes()
            try:
                batch, records = await engine.handout.next_records()
            except StopAsyncIteration:
                for tp in engine.state.awaited:
                    if engine.state.partitions[tp].is_done:
                        merge.finish(tp.partition)
            else:
                merge.add(batch.partition, records)
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration

    async def next_batch(self, *, max_records: int | None = None) -> ConsumerBatch:
        """The next records of one partition. Raises StopAsyncIteration at the end. Cancellation: nothing is taken."""
        if self._merges:
            raise RuntimeError(
                "a read that is merged by time has no batches of one partition; see next_merged"
            )
        await self._begin()
        return await self._engine.handout.next_batch(max_records)

    def narrow(self, window: TimeWindow) -> None:
        """Give only what has a timestamp in there as well, whatever the bounds are. Before anything is asked for."""
        self._narrowed = window

    async def next_unlooked_at(self) -> ConsumerBatch:
        """As `next_batch`, but not decoded: where all its records lie out of the bounds it is empty. For who decodes by other means."""
        await self._begin()
        return await self._engine.handout.next_unlooked_at()

    def batches(self, *, max_records: int | None = None) -> "ReadingBatches":
        """Iterate over batches instead."""
        return ReadingBatches(self, max_records)

    async def bounds(self) -> dict[TopicPartition, tuple[int, int]]:
        """From where (inclusive) to where (exclusive) each partition is read; asked of the brokers at the first call of any method.

        Nothing is fetched before the first record is asked for. Cancellation: not fixed yet.
        """
        if self._bounds is None:
            bounds = await self._find_bounds()
            windows = [self._window(tp) for tp in bounds]
            if any(window is not None and window.end_ms != _EVER.end_ms for window in windows):
                self._has_rising_times = await self._is_stamped_by_the_broker()
            self._bounds = bounds
        return dict(self._bounds)

    async def aclose(self) -> None:
        """End the background work. It ends by itself at the end of the read, and with the consumer's block."""
        self._engine.scope.cancel()
        self._engine.handout.close()
        await trio.lowlevel.checkpoint()

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and self._is_begun:
            engine.scope.cancel()

    async def _begin(self) -> None:
        if self._is_begun:
            return
        engine = self._engine
        bounds = await self.bounds()
        if self._is_begun:
            raise trio.BusyResourceError("another task has begun this read")
        engine.state.add(bounds)
        for tp, (start, end) in bounds.items():
            state = engine.state.partitions[tp]
            state.seek(start)
            state.stop_offset = end
            state.window = self._window(tp)
            state.has_rising_times = self._has_rising_times
        if self._merges:
            self._merge = TimeMerge(tp.partition for tp in bounds)
        self._is_begun = True
        if not engine.is_finished():
            self._nursery.start_soon(engine.run)

    async def _is_stamped_by_the_broker(self) -> bool:
        """Whether the topic has LogAppendTime; False where nobody tells (no right to ask, a broker that does not answer)."""
        topic = ConfigResource(ResourceKind.TOPIC, self._topic)
        request = describe_configs_request([topic], with_documentation=False)
        try:
            answer = await self._engine.cluster.ask_any(ApiKey.DESCRIBE_CONFIGS, request, at_least=1)
        except PenstockError:
            return False
        configs = read_configs(answer).get(topic)
        told = configs.get(TIMESTAMP_TYPE) if isinstance(configs, dict) else None
        return told is not None and told.value == "LogAppendTime"

    async def _find_bounds(self) -> dict[TopicPartition, tuple[int, int]]:
        lookup = self._engine.lookup
        metadata = await self._engine.topics.get(self._topic)
        indexes = sorted(metadata.partitions) if self._indexes is None else self._indexes
        for index in indexes:
            if index not in metadata.partitions:
                name = f"partition {TopicPartition(self._topic, index)}"
                raise broker_error(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, subject=name)
        partitions = [TopicPartition(self._topic, index) for index in indexes]
        first = await lookup.offsets(dict.fromkeys(partitions, EARLIEST))
        last = await lookup.offsets(dict.fromkeys(partitions, LATEST))
        starts = await self._resolve(self._start, first, last)
        ends = await self._resolve_end(last)
        return {tp: (min(max(starts[tp], first[tp]), last[tp]), min(ends[tp], last[tp])) for tp in partitions}

    async def _resolve(
        self, given: Bounds, default: Mapping[TopicPartition, int], last: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        offsets: dict[TopicPartition, int] = dict(default)
        times: dict[TopicPartition, int] = {}
        for tp in default:
            bound = _bound_of(given, tp)
            if isinstance(bound, int):
                offsets[tp] = bound
            elif bound is not None:
                times[tp] = timestamp_ms_of(bound)
        for tp, offset in (await self._engine.lookup.offsets(times)).items():
            offsets[tp] = last[tp] if offset < 0 else offset
        return offsets

    async def _resolve_end(self, last: Mapping[TopicPartition, int]) -> dict[TopicPartition, int]:
        """Offsets as they are; a time ends nothing by itself."""
        ends = dict(last)
        for tp in last:
            bound = _bound_of(self._end, tp)
            if isinstance(bound, int):
                ends[tp] = bound
        return ends

    def _window(self, tp: TopicPartition) -> TimeWindow | None:
        if self._narrowed is not None:
            return self._narrowed
        start, end = _bound_of(self._start, tp), _bound_of(self._end, tp)
        start_ms = _EVER.start_ms if start is None or isinstance(start, int) else timestamp_ms_of(start)
        end_ms = _EVER.end_ms if end is None or isinstance(end, int) else timestamp_ms_of(end)
        window = TimeWindow(start_ms, end_ms)
        return None if window == _EVER else window


class ReadingBatches:
    """The iterator of `Reading.batches`."""

    def __init__(self, reading: Reading, max_records: int | None) -> None:
        self._reading = reading
        self._max_records = max_records

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ConsumerBatch:
        return await self._reading.next_batch(max_records=self._max_records)


def _bound_of(given: Bounds, tp: TopicPartition) -> Bound | None:
    return given.get(tp.partition) if isinstance(given, Mapping) else given


def _given(bounds: Bounds) -> list[Bound]:
    if bounds is None:
        return []
    return list(bounds.values()) if isinstance(bounds, Mapping) else [bounds]


__all__ = ["Bound", "Bounds", "Reading", "ReadingBatches", "timestamp_ms_of"]
