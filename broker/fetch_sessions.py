"""Fetch sessions (KIP-227): what a fetcher asked for is kept here, so that it sends and gets only what changed.

Owns the sessions, their epochs and the bound on their number. Knows no logs. Keys of partitions are (topic name or topic id, index), as
the request's version has them; a session never mixes both.

The rules (DESIGN section 4, trap 10): id 0 with epoch -1 is no session; epoch 0 asks for a new one (and closes the one named);
a session id with epoch -1 closes it; a session id with epoch n must be the next in turn.

Both sessions and the partitions in all of them are bounded: an incremental request may name new ones for ever. A session that would go
over the bound is ended; its fetcher begins anew and is served without one. What no topic can be called is answered and not kept, for a
name may be as long as 32 KB.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from penstock.broker.names import TOPIC_NAME_LENGTH_MAX
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch import FetchPartition, FetchPartitionResult, FetchRequest
from penstock.runtime.clock import Random

if TYPE_CHECKING:
    from penstock.broker.partition import Partition
    from penstock.broker.replication.session_news import SessionNews

EPOCH_MAX = 2**31 - 1
NO_SESSION_EPOCH = -1
NEW_SESSION_EPOCH = 0
PARTITIONS_MAX = 200_000
"""In all sessions of a broker; one takes about 400 bytes, and its topic's name besides."""

Key = tuple[str | bytes, int]


@dataclass(slots=True)
class SessionPartition:
    """One partition of a session: what is asked, and what was answered last."""

    request: FetchPartition
    high_watermark: int = -1
    log_start_offset: int = -1


class WaitingFetch(Protocol):
    """A follower's fetch that is kept until there is something to say."""

    def resolve(self) -> None:
        """Answer it now."""
        ...

    def hear(self, partition: "Partition", news: int) -> None:
        """Something has happened to a partition of the session; `news` as `Partition.replica_waiters` are told."""
        ...


class FetchSession:
    """The partitions of one fetcher, in the order in which they are served (those that got data go to the end)."""

    __slots__ = ("epoch", "last_used", "news", "partitions", "replica_id", "session_id", "waiting")

    def __init__(self, session_id: int, replica_id: int) -> None:
        self.session_id = session_id
        self.replica_id = replica_id
        """The follower that it belongs to; negative for a consumer."""
        self.epoch = 1
        self.waiting: WaitingFetch | None = None
        """A follower's fetch that is kept until there is something to say."""
        self.news: SessionNews | None = None
        """Of a follower's session: which partitions are worth a look."""
        self.last_used = 0.0
        self.partitions: OrderedDict[Key, SessionPartition] = OrderedDict()

    def update(self, request: FetchRequest) -> list[FetchPartition]:
        """Take what an incremental request adds, changes and forgets; returns what is to be answered now and not kept."""
        not_kept: list[FetchPartition] = []
        for entry in request.partitions:
            known = self.partitions.get(key := partition_key(entry.topic, entry.topic_id, entry.index))
            if known is None:
                if len(entry.topic) > TOPIC_NAME_LENGTH_MAX or not entry.topic.isascii():
                    not_kept.append(entry)
                else:
                    self.partitions[key] = SessionPartition(entry)
            else:
                if entry.current_leader_epoch != known.request.current_leader_epoch:
                    known.high_watermark = -1  # a follower forgets with the epoch what it was told in it
                known.request = entry
        for topic, topic_id, index in request.forgotten:
            key = partition_key(topic, topic_id, index)
            self.partitions.pop(key, None)
            if self.news is not None:
                self.news.forget(key)
        return not_kept

    def to_look_at(self, request: FetchRequest, now: float) -> list[FetchPartition]:
        """The partitions of the session that an incremental request is about: all, or those with news."""
        if self.news is not None:
            return self.news.to_look_at(request.partitions, now)
        return [entry.request for entry in self.partitions.values()]

    def changed(self, results: Iterable[FetchPartitionResult]) -> list[FetchPartitionResult]:
        """The results that an incremental answer must carry; notes what the fetcher knows then."""
        kept: list[FetchPartitionResult] = []
        for result in results:
            key = partition_key(result.topic, result.topic_id, result.index)
            known = self.partitions.get(key)
            if known is None:
                kept.append(result)
                continue
            has_data = result.records.count > 0
            if (
                has_data
                or result.error_code
                or result.diverging_epoch is not None
                or known.high_watermark != result.high_watermark
                or known.log_start_offset != result.log_start_offset
                or result.preferred_read_replica >= 0
            ):
                # an error must be told again next time, so what was known before it is forgotten; and whoever has to cut its log
                # first can't make use of the high watermark yet
                is_lost = result.error_code or result.diverging_epoch is not None
                known.high_watermark = -1 if is_lost else result.high_watermark
                known.log_start_offset = result.log_start_offset
                kept.append(result)
                if has_data:
                    self.partitions.move_to_end(key)
        return kept

    def must_be_told(self, results: Iterable[FetchPartitionResult], *, high_watermarks: bool) -> bool:
        """Whether a follower must not wait for what is news among the results: where the log begins, and how far it is committed.

        The latter only if `high_watermarks`, or if the follower was told none in the epoch.
        """
        for result in results:
            known = self.partitions.get(partition_key(result.topic, result.topic_id, result.index))
            if known is not None and (
                known.log_start_offset != result.log_start_offset
                or (
                    known.high_watermark != result.high_watermark
                    and (high_watermarks or known.high_watermark < 0)
                )
            ):
                return True
        return False


@dataclass(frozen=True, slots=True)
class FetchPlan:
    """What to fetch for one request. `session` is None for a sessionless fetch; `error` refuses the whole request."""

    session: FetchSession | None
    partitions: list[FetchPartition]
    is_full: bool
    error: ErrorCode = ErrorCode.NONE

    @property
    def session_id(self) -> int:
        """The id for the response; 0 without a session."""
        return 0 if self.session is None else self.session.session_id


class FetchSessions:
    """All sessions of a broker, at most `slots`.

    The least recently used one of a consumer gives way when it was idle long enough, and to a follower at once. A follower's ends with its
    next one.
    """

    def __init__(
        self,
        slots: int,
        random: Random,
        *,
        evict_after_s: float = 120.0,
        partitions_max: int = PARTITIONS_MAX,
    ) -> None:
        self._slots = slots
        self._partitions_max = partitions_max
        self._partition_count = 0
        self._random = random
        self._evict_after_s = evict_after_s
        self._sessions: OrderedDict[int, FetchSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def sessions(self) -> Iterable[FetchSession]:
        """All that there are."""
        return self._sessions.values()

    def plan(self, request: FetchRequest, now: float) -> FetchPlan:
        """Decide what `request` means; `now` is monotonic seconds."""
        if request.session_epoch in (NO_SESSION_EPOCH, NEW_SESSION_EPOCH):
            self._end(request.session_id)
            session = None
            if request.session_epoch == NEW_SESSION_EPOCH:
                session = self._new_session(request, now)
            return FetchPlan(session, request.partitions, is_full=True)
        session = self._sessions.get(request.session_id)
        if session is None or session.replica_id != request.replica_id:
            return FetchPlan(None, [], is_full=False, error=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        if session.epoch != request.session_epoch:
            return FetchPlan(None, [], is_full=False, error=ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        not_kept = self._update(session, request)
        if self._partition_count > self._partitions_max:
            self._end(session.session_id)
            return FetchPlan(None, [], is_full=False, error=ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        session.epoch = 1 if session.epoch == EPOCH_MAX else session.epoch + 1
        session.last_used = now
        self._sessions.move_to_end(session.session_id)
        partitions = session.to_look_at(request, now)
        if not_kept:
            partitions += not_kept
        return FetchPlan(session, partitions, is_full=False)

    def _new_session(self, request: FetchRequest, now: float) -> FetchSession | None:
        """A session for a full fetch, or None (session id 0: the fetcher goes on with full fetches) when there is no slot."""
        if not request.partitions:
            return None
        is_follower = request.replica_id >= 0
        if is_follower:
            self._end_of_replica(request.replica_id)
        while (
            len(self._sessions) >= self._slots
            or self._partition_count + len(request.partitions) > self._partitions_max
        ):
            oldest = next((each for each in self._sessions.values() if each.replica_id < 0), None)
            if oldest is None or (now - oldest.last_used < self._evict_after_s and not is_follower):
                return None
            self._end(oldest.session_id)
        session_id = self._random.randrange(1, EPOCH_MAX)
        while session_id in self._sessions:
            session_id = self._random.randrange(1, EPOCH_MAX)
        session = FetchSession(session_id, request.replica_id)
        session.last_used = now
        self._update(session, request)
        self._sessions[session_id] = session
        return session

    def _update(self, session: FetchSession, request: FetchRequest) -> list[FetchPartition]:
        before = len(session.partitions)
        not_kept = session.update(request)
        self._partition_count += len(session.partitions) - before
        return not_kept

    def _end_of_replica(self, replica_id: int) -> None:
        """A follower has one session with each leader: what its earlier connection began is of no use."""
        for session in [each for each in self._sessions.values() if each.replica_id == replica_id]:
            self._end(session.session_id)

    def _end(self, session_id: int) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._partition_count -= len(session.partitions)
            if session.news is not None:
                session.news.close()


def partition_key(topic: str, topic_id: bytes | None, index: int) -> Key:
    """How a session names a partition."""
    return (topic if topic_id is None else topic_id, index)
