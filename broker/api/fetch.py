"""Fetch, versions 4 to 18: long poll, min/max bytes, fetch sessions (KIP-227), read at the high watermark.

Answers at once when `min_bytes` are there, an error is to be told, or nothing may be waited for; else a `PendingFetch` keeps the
request's place and listens to the high watermarks of its partitions until enough has come or `max_wait_ms` have passed. Those that
wait may take so many bytes in all (`ByteBudget`): where they do, a fetch of many partitions is answered with what there is. Record bytes
are never touched: the answer names file ranges. A range that is not in the page cache is read in a worker first.

At least one whole batch is answered for the first partition that has any, whatever the limits (KIP-74). Further partitions only get what is within the limits. Transactions come later:
the last stable offset is the high watermark, and the list of aborted transactions is empty for read_committed.
Reads far from a log's end make room for hot traffic (`cold_reads.py`): while it is not a partition's turn the fetch goes on without it.
A fetch with a replica id is a follower's: it reads up to the log end, and what it asks for says what it has, if it is believed
(`replication/follower_fetch.py`). It is answered when nothing but a high watermark has moved only if consumers are sent to it (KAFKA-9731).
Consumers are sent to a replica in their rack, and may read followers up to those's high watermarks. Who asks where nobody leads any more is told who does (from version 16 on).
KIP-320 (epochs), KIP-392, KIP-516, KIP-595, KIP-903, KIP-951.
"""

from collections.abc import Hashable
from typing import TYPE_CHECKING

from penstock.broker.context import ANONYMOUS
from penstock.broker.fetch_sessions import FetchPlan
from penstock.broker.leader_hints import FETCH_CODES, FIRST_FETCH_VERSION, tell_leaders
from penstock.broker.pending_fetch import UNCOUNTED_BYTES, PendingFetch, bytes_to_wait
from penstock.broker.replies import Part, Parts, Reply
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch import (
    EMPTY,
    FetchPartition,
    FetchPartitionResult,
    FetchRequest,
    Records,
    decode_fetch_request,
    encode_fetch_response,
)
from penstock.protocol.framing import RequestHeader, response_prefix
from penstock.protocol.tagged import NodeEndpoint
from penstock.runtime.files import StorageError, TooManyOpenFiles
from penstock.storage.errors import CorruptBatch, NotResident, OffsetOutOfRange
from penstock.storage.log import LogSlice

if TYPE_CHECKING:
    from penstock.broker.broker import Broker
    from penstock.broker.cold_reads import ColdFetch
    from penstock.broker.partition import Partition
    from penstock.broker.quotas.throttling import FetchToll
    from penstock.broker.replication.follower_fetch import Follower

_KEY = int(ApiKey.FETCH)
READ_COMMITTED = 1
CONSUMER_REPLICA_ID = -1
DEBUG_REPLICA_ID = -2
FIRST_FROM_FOLLOWERS = 11
"""Fetch version from which on consumers know that they may read followers (KIP-392)."""


def fetch(
    broker: "Broker",
    header: RequestHeader,
    frame: memoryview,
    principal: str = ANONYMOUS,
    listener: str = "",
    toll: "FetchToll | None" = None,
    reader: Hashable = None,
) -> Parts | Reply:
    """Handle one Fetch frame of `principal`, which came in by `listener`; `toll` is there where quotas are set.

    `reader` is the connection, which the broker is told of when it has ended (`Broker.reader_left`); all who have none are one reader.
    """
    request = decode_fetch_request(header.api_version, frame[header.body_position :])
    job = FetchJob(broker, header, request, principal, listener, reader)
    if toll is not None:
        job.pay(toll)
    if job.refusal:
        return job.refused()
    if job.follower is not None:
        job.hurry_before()
    try:
        results = job.read_now()
    except (NotResident, OffsetOutOfRange, StorageError):
        if not job.may_wait(len(frame)):
            return job.respond(job.read_offsets())
        waiting = PendingFetch(job, 0)
        waiting.resolve()  # the connection's writer reads on a worker, and tells errors partition by partition
        return waiting
    if job.is_enough(results) or not job.may_wait(len(frame)):
        return job.respond(results)
    missing_bytes = job.missing_bytes(results)
    release_records(results)
    waiting = PendingFetch(job, missing_bytes)
    waiting.listen()
    return waiting


class FetchJob:
    """One fetch request and how to answer it."""

    __slots__ = (
        "_broker",
        "_cold",
        "_correlation_id",
        "_held_bytes",
        "_is_cut",
        "_is_fenced",
        "_listener",
        "_max_bytes",
        "_rack",
        "_reader",
        "_session_epoch",
        "_toll",
        "_version",
        "follower",
        "partitions",
        "plan",
        "refusal",
        "request",
    )

    def __init__(
        self,
        broker: "Broker",
        header: RequestHeader,
        request: FetchRequest,
        principal: str,
        listener: str,
        reader: Hashable,
    ) -> None:
        self._broker = broker
        self._reader = reader
        self._version = header.api_version
        self._listener = listener
        self._correlation_id = header.correlation_id
        self._max_bytes = min(request.max_bytes, broker.config.fetch_max_bytes)
        self._rack = request.rack_id if request.rack_id and broker.config.replica_selector_class else ""
        self.request = request
        self.refusal = ErrorCode.NONE
        self.follower: Follower | None = None
        self._cold: ColdFetch | None = None
        self._toll: FetchToll | None = None
        self._is_cut = False
        self._held_bytes = 0
        now = broker.clock.monotonic()
        self._is_fenced = broker.fetchers is not None and now >= broker.registration.deadline
        if request.replica_id not in (CONSUMER_REPLICA_ID, DEBUG_REPLICA_ID):
            self._identify(principal, listener)
        if self.refusal:
            self.plan = FetchPlan(None, request.partitions, is_full=True)
        else:
            self.plan = broker.fetch_sessions.plan(request, now)
            self.refusal = self.plan.error
        self.partitions: list[tuple[FetchPartition, Partition | None]] = [
            (entry, self._find(entry)) for entry in self.plan.partitions
        ]
        if self.follower is not None and not self.refusal:
            self._listen_to_news()
            self.follower.take_word(self.partitions, now * 1000)

    def _identify(self, principal: str, listener: str) -> None:
        from penstock.broker.replication.follower_fetch import identify  # a single broker does not load it

        found = identify(self._broker, self.request, principal, listener)
        if isinstance(found, ErrorCode):
            self.refusal = found
        else:
            self.follower = found

    def pay(self, toll: "FetchToll") -> None:
        """Let the answer count as used by its client, unless that is a follower."""
        if self.follower is not None:
            toll.is_exempt = True
            return
        self._toll = toll
        self._max_bytes = toll.limit(self._max_bytes)
        self.request.min_bytes = min(self.request.min_bytes, self._max_bytes)

    @property
    def _is_over_quota(self) -> bool:
        """Whether the consumer gets the offsets only."""
        return self._toll is not None and self._toll.is_over

    def _listen_to_news(self) -> None:
        """Hear of what happens to the partitions of a follower's session, so that most need not be looked at."""
        session = self.plan.session
        if session is None:
            return
        self._session_epoch = session.epoch
        if session.news is None:
            from penstock.broker.replication.session_news import SessionNews  # as above

            session.news = SessionNews(session)
        for entry, partition in self.partitions:
            session.news.listen(entry, partition)

    def look_again(self) -> None:
        """A follower's fetch has waited: take in what has news by now. Not what a later request of the session asks for, which answers that."""
        session = self.plan.session
        if session is None or session.news is None or session.epoch != self._session_epoch:
            return
        looked_at = {(entry.topic_id, entry.index) for entry, _ in self.partitions}
        self.partitions += [
            (entry, self._find(entry))
            for entry in session.news.all_news()
            if (entry.topic_id, entry.index) not in looked_at
        ]

    def _note_told(self, results: list[FetchPartitionResult]) -> None:
        """Partitions whose follower has all, and knows now how far it is committed, have no news."""
        session = self.plan.session
        if session is None or session.news is None:
            return
        for (entry, partition), result in zip(self.partitions, results, strict=True):
            if (
                partition is not None
                and not result.error_code
                and result.diverging_epoch is None
                and entry.fetch_offset == partition.log.log_end_offset
                and result.high_watermark == partition.high_watermark
            ):
                session.news.told(entry)

    def hurry_before(self) -> None:
        """A follower asks again before it was answered: it has more to ask for, so what waits is answered now."""
        if (session := self.plan.session) is not None:
            waiting, session.waiting = session.waiting, None
            if waiting is not None:
                waiting.resolve()

    @property
    def deadline(self) -> float:
        """Monotonic seconds until which the request may wait: its own time, or until a cold partition that was left out has its turn."""
        deadline = self._broker.clock.monotonic() + max(self.request.max_wait_ms, 0) / 1000
        return deadline if self._cold is None else min(deadline, self._cold.turn_at)

    def _find(self, entry: FetchPartition) -> "Partition | None":
        partitions = self._broker.partitions
        if entry.topic_id is None:
            return partitions.by_name(entry.topic, entry.index)
        return partitions.by_id(entry.topic_id, entry.index)

    def refused(self) -> Parts:
        """The whole request is refused. Before version 7 there is no code for that but in each partition."""
        results: list[FetchPartitionResult] = []
        if self._version < 7:
            results = [
                FetchPartitionResult(entry.topic, entry.topic_id, entry.index, self.refusal, -1)
                for entry in self.plan.partitions
            ]
        return self._encode(results, self.refusal)

    def may_wait(self, frame_bytes: int) -> bool:
        """Whether there is room for what the request takes while it waits, and hold that. Small ones and followers' are not counted."""
        count = bytes_to_wait(len(self.partitions), len(self.request.forgotten), frame_bytes)
        if count <= UNCOUNTED_BYTES or self.follower is not None:
            return True
        if not self._broker.budget.admit_fetch(count):
            return False
        self._held_bytes = count
        return True

    def end_wait(self) -> None:
        """Give back what it took. Safe to call again."""
        if self._held_bytes:
            self._broker.budget.end_fetch(self._held_bytes)
            self._held_bytes = 0

    def read_offsets(self) -> list[FetchPartitionResult]:
        """What there is to tell of every partition but its records."""
        return [self._begin(entry, partition) for entry, partition in self.partitions]

    def read_now(self) -> list[FetchPartitionResult]:
        """Read every partition as far as that takes no disk access. Raises NotResident, with nothing held."""
        if self._is_over_quota:
            return self.read_offsets()
        results: list[FetchPartitionResult] = []
        budget = self._max_bytes
        try:
            for entry, partition in self.partitions:
                result = self._begin(entry, partition)
                results.append(result)
                if partition is not None and self._wants_data(result, entry, partition, budget):
                    limit = min(entry.max_bytes, budget)
                    cold = self._cold
                    size = limit if cold is None else cold.shorten(entry, limit)
                    records = self._read(partition, entry.fetch_offset, size)
                    _keep(records, result, limit, is_first=budget == self._max_bytes)
                    if cold is not None:
                        cold.record(entry, result.records.count, 0.0, self._broker.clock.monotonic())
                    budget -= result.records.count
        except BaseException:
            release_records(results)
            raise
        return results

    def _begin(self, entry: FetchPartition, partition: "Partition | None") -> FetchPartitionResult:
        """The result without its records: errors, offsets, epochs."""
        if partition is None:
            code = self._broker.partitions.why_absent(entry.topic, entry.topic_id, entry.index)
            return FetchPartitionResult(entry.topic, entry.topic_id, entry.index, code, -1)
        code = self._check_reader(partition, entry)
        if code:
            return FetchPartitionResult(entry.topic, entry.topic_id, entry.index, code, -1)
        high_watermark = partition.high_watermark
        result = FetchPartitionResult(
            entry.topic,
            entry.topic_id,
            entry.index,
            ErrorCode.NONE,
            high_watermark,
            high_watermark,
            partition.log.log_start_offset,
            () if self.request.isolation_level == READ_COMMITTED else None,
        )
        if self._is_fenced and self._asks_for_more(partition, entry.fetch_offset):
            result.error_code = ErrorCode.NOT_LEADER_OR_FOLLOWER
            return result
        if entry.last_fetched_epoch >= 0:
            epoch, end_offset = partition.log.end_offset_for_epoch(entry.last_fetched_epoch)
            if epoch < 0:  # an epoch that this log knows nothing of: there is no point to go back to
                result.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
                return result
            if epoch != entry.last_fetched_epoch or end_offset < entry.fetch_offset:
                result.diverging_epoch = (epoch, end_offset)
                return result
        offset = entry.fetch_offset
        if self.follower is None and not partition.is_leader and offset > high_watermark:
            # ahead of the follower that it reads: let it ask the leader, or wait where that is in sync
            result.error_code = ErrorCode.NOT_LEADER_OR_FOLLOWER
            if partition.machine.broker_id in partition.machine.isr:
                result.error_code = ErrorCode.OFFSET_NOT_AVAILABLE
        elif offset < partition.log.log_start_offset or offset > partition.log.log_end_offset:
            result.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
        elif self._rack and self.follower is None and partition.is_leader:
            self._prefer(result, offset, partition)
        return result

    def _asks_for_more(self, partition: "Partition", offset: int) -> bool:
        """Whether a consumer asks for what is not committed here: past the deadline another may lead by now, who has it.

        It would wait here in vain, or take its position for one that is out of range and begin anew.
        """
        return self.follower is None and partition.is_leader and offset >= partition.high_watermark

    def _check_reader(self, partition: "Partition", entry: FetchPartition) -> ErrorCode:
        """Whether this broker may answer this fetcher for the partition. Followers answer consumers that know of KIP-392."""
        follower = self.follower
        if not partition.is_leader and (
            follower is not None or self._version < FIRST_FROM_FOLLOWERS or not partition.is_follower
        ):
            return partition.refusal
        if entry.current_leader_epoch >= 0:
            code = check_epoch(partition, entry.current_leader_epoch)
            if code:
                return code
        if follower is not None and not follower.holds(partition):
            return ErrorCode.NOT_LEADER_OR_FOLLOWER
        return ErrorCode.NONE

    def _prefer(self, result: FetchPartitionResult, offset: int, partition: "Partition") -> None:
        from penstock.broker.replication.read_replica import preferred_read_replica

        result.preferred_read_replica = preferred_read_replica(
            partition.machine, self._broker.image, self._rack, offset
        )

    def _read(self, partition: "Partition", offset: int, limit: int) -> LogSlice:
        if self.follower is not None:
            return partition.read_as_replica(offset, limit)
        records = partition.read(offset, limit)
        if self._toll is not None and records.end_at_batch():  # nobody pays for what can't be used
            self._is_cut = True
        return records

    def _wants_data(
        self,
        result: FetchPartitionResult,
        entry: FetchPartition,
        partition: "Partition",
        budget: int,
    ) -> bool:
        """Whether there is something to read for this partition, and room for it: `budget` more bytes.

        The first partition with data is served even when it is over the limit: a fetcher must be able to go on.
        """
        if (
            result.error_code
            or result.diverging_epoch is not None
            or result.preferred_read_replica >= 0
            or entry.fetch_offset
            >= (partition.high_watermark if self.follower is None else partition.log.log_end_offset)
        ):
            return False
        if self.follower is not None and self.holds_back(partition):
            return False
        if (
            partition.high_watermark - entry.fetch_offset > partition.log.near_records
            and not self._may_read_behind(entry, partition)
        ):
            return False
        return budget > 0 or budget == self._max_bytes

    def _may_read_behind(self, entry: FetchPartition, partition: "Partition") -> bool:
        """Whether a read that may be far from the log's end is to be made now. Those of replicas in sync are."""
        follower = self.follower
        if follower is not None and follower.broker_id in partition.machine.isr:
            return True
        if self._cold is None:
            cold_reads = self._broker.cold_reads
            if follower is not None:
                self._cold = cold_reads.fetch(cold_reads.followers, follower.broker_id)
            else:
                self._cold = cold_reads.fetch(cold_reads.consumers, self._reader)
        return self._cold.admits(entry, partition.log, self._broker.clock.monotonic())

    def leaves_out(self, partition: "Partition") -> bool:
        """Whether the fetch waits for its turn, or the throttle, with this partition: so long what is appended there does not answer it."""
        return (self._cold is not None and partition.log in self._cold.left_out) or self.holds_back(partition)

    def holds_back(self, partition: "Partition") -> bool:
        """Whether the throttle of replicas that catch up lets this follower have nothing of the partition at this moment."""
        throttle, follower = self._broker.leader_throttle, self.follower
        return (
            throttle is not None
            and follower is not None
            and throttle.holds_back(partition, follower.broker_id)
        )

    def throttled_until(self) -> float:
        """Monotonic seconds at which those that are held back may have something."""
        assert self._broker.leader_throttle is not None
        return self._broker.clock.monotonic() + self._broker.leader_throttle.wait_s()

    def _record_throttled(self, results: list[FetchPartitionResult]) -> None:
        throttle, follower = self._broker.leader_throttle, self.follower
        if throttle is None or follower is None:
            return
        for result in results:
            if result.records.count:
                partition = self._broker.partitions.by_id(result.topic_id or b"", result.index)
                if partition is not None and throttle.holds_for(partition, follower.broker_id):
                    throttle.record(result.records.count)

    async def read_waiting(self) -> list[FetchPartitionResult]:
        """The same as `read_now`, with the cold partitions read on workers."""
        if self._is_over_quota:
            return self.read_now()
        results: list[FetchPartitionResult] = []
        budget = self._max_bytes
        try:
            for entry, partition in self.partitions:
                result = self._begin(entry, partition)
                results.append(result)
                if partition is not None and self._wants_data(result, entry, partition, budget):
                    limit, is_first = min(entry.max_bytes, budget), budget == self._max_bytes
                    await self._read_one(result, entry, partition, limit, is_first=is_first)
                    budget -= result.records.count
        except BaseException:
            release_records(results)
            raise
        return results

    async def _read_one(
        self,
        result: FetchPartitionResult,
        entry: FetchPartition,
        partition: "Partition",
        limit: int,
        *,
        is_first: bool,
    ) -> None:
        cold, monotonic, read_s = self._cold, self._broker.clock.monotonic, 0.0
        size = limit if cold is None else cold.shorten(entry, limit)
        try:
            try:
                records = self._read(partition, entry.fetch_offset, size)
            except NotResident:
                started = monotonic()
                records = await partition.read_cold(
                    entry.fetch_offset, size, as_replica=self.follower is not None
                )
                read_s = monotonic() - started
                if self._toll is not None and records.end_at_batch():
                    self._is_cut = True
                # it has advanced meanwhile, and what was read goes up to there
                result.high_watermark = result.last_stable_offset = partition.high_watermark
            _keep(records, result, limit, is_first=is_first)
            if cold is not None:
                cold.record(entry, result.records.count, read_s, monotonic())
        except OffsetOutOfRange:
            result.error_code = ErrorCode.OFFSET_OUT_OF_RANGE
        except StorageError as error:
            if isinstance(error, TooManyOpenFiles) and not is_first:
                return  # what there is goes out; this partition's turn comes when the files are free again
            partition.note_storage_error(error)
            # Damage does not go away: clients raise the one, and ask again for ever upon the other.
            is_damage = isinstance(error, CorruptBatch)
            result.error_code = ErrorCode.CORRUPT_MESSAGE if is_damage else ErrorCode.KAFKA_STORAGE_ERROR

    def is_enough(self, results: list[FetchPartitionResult]) -> bool:
        """Whether to answer now: enough bytes, something else to tell, or nothing to wait for."""
        request = self.request
        if self._cold is not None and self._cold.chosen is not None:
            return True  # it is shorter than what was asked for
        if request.max_wait_ms <= 0 or (not results and not self._has_quiet_partitions):
            return True
        if self._is_cut or self._is_over_quota:
            return True  # no more would come by waiting
        found = 0
        for result in results:
            if result.error_code or result.diverging_epoch is not None or result.preferred_read_replica >= 0:
                return True
            found += result.records.count
        if found >= request.min_bytes:
            return True
        session = self.plan.session
        return (
            self.follower is not None
            and session is not None
            and session.must_be_told(results, high_watermarks=self.tells_high_watermarks_at_once)
        )

    @property
    def tells_high_watermarks_at_once(self) -> bool:
        """Whether a follower is answered when nothing but a high watermark has moved."""
        return self.follower is not None and self.follower.serves_consumers

    @property
    def _has_quiet_partitions(self) -> bool:
        """Whether a follower waits for partitions of its session that have no news."""
        session = self.plan.session
        return session is not None and session.news is not None and bool(session.partitions)

    def missing_bytes(self, results: list[FetchPartitionResult]) -> int:
        """How many more bytes must become visible before it is worth looking again."""
        return max(1, self.request.min_bytes - sum(result.records.count for result in results))

    def respond(self, results: list[FetchPartitionResult]) -> Parts:
        """The response, for an incremental session with what changed only."""
        if self.follower is not None:
            self._record_throttled(results)
            self._note_told(results)
        throttle_time_ms = 0
        if self._toll is not None:
            throttle_time_ms = self._toll.charge(sum(result.records.count for result in results))
        session = self.plan.session
        if session is not None:
            changed = session.changed(results)
            if not self.plan.is_full:
                results = changed
        return self._encode(results, ErrorCode.NONE, throttle_time_ms)

    def _encode(
        self, results: list[FetchPartitionResult], error: ErrorCode, throttle_time_ms: int = 0
    ) -> Parts:
        version = self._version
        endpoints: list[NodeEndpoint] = []
        if version >= FIRST_FETCH_VERSION and any(result.error_code for result in results):
            broker = self._broker
            endpoints = tell_leaders(
                broker.image, broker.config.node_id, self._listener, results, FETCH_CODES
            )
        size_bytes, body = encode_fetch_response(
            version, throttle_time_ms, error, self.plan.session_id, results, endpoints
        )
        parts: list[Part] = [response_prefix(_KEY, version, self._correlation_id, size_bytes)]
        for part in body:
            assert isinstance(part, bytes | LogSlice)
            parts.append(part)
        return parts


def check_leadership(partition: "Partition", current_leader_epoch: int) -> ErrorCode:
    """Whether this broker may answer for the partition, given the epoch that the client knows (-1: none). KIP-320."""
    return check_epoch(partition, current_leader_epoch) if partition.is_leader else partition.refusal


def check_epoch(partition: "Partition", current_leader_epoch: int) -> ErrorCode:
    """Whether the client's idea of the leader epoch (-1: none) is the one of this broker."""
    if current_leader_epoch >= 0:
        if current_leader_epoch < partition.leader_epoch:
            return ErrorCode.FENCED_LEADER_EPOCH
        if current_leader_epoch > partition.leader_epoch:
            return ErrorCode.UNKNOWN_LEADER_EPOCH
    return ErrorCode.NONE


def _keep(records: LogSlice, result: FetchPartitionResult, limit: int, *, is_first: bool) -> None:
    """Put what was read into the result, unless its one batch is over the limit and another partition has data already (not `is_first`)."""
    if records.count > limit and not is_first:
        records.release()
    else:
        result.records = records


def release_records(results: list[FetchPartitionResult]) -> None:
    """Let go of the log slices of results that won't be sent."""
    for result in results:
        records: Records = result.records
        if isinstance(records, LogSlice):
            records.release()
            result.records = EMPTY
