"""Fetching from one leader: a task, a connection and a fetch session for all that this broker follows of it.

Owns the connection and the order of requests. What to ask and what an answer means `fetcher_machine` decides; what is done to a log `follower`
does; which partition is fetched from whom `fetchers` knows.

The next request goes out when the appends of the last answer are done, or after a short while without those that are not: a slow disk under
one partition holds up no other. It may wait long at the leader; a partition that becomes ready meanwhile is asked for by a second request at
once, upon which the leader answers the first.

Where nothing is to be waited for, an answer is acted on and the next request sent by the connection's reader, in the turn in which the answer
came in (`_go_on`): by way of the task it would take two turns more, and a lone record waits for this hop. The task goes on wherever that ends.

The records of an answer are views into it, so it lives until all its appends are done. At most `UNFINISHED_ANSWERS_MAX` answers of one leader
live at once: a disk that takes nothing any more stops the fetching, not the memory.

Source: Kafka's `ReplicaFetcherManager`, `ReplicaFetcherThread`; KIP-227, KIP-595 (divergence in Fetch), KIP-903.
"""

import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from penstock.broker.partition import Partition
from penstock.broker.partition_events import LeaderTold
from penstock.broker.replication.fetcher_machine import (
    Append,
    Ask,
    Decision,
    FetcherMachine,
    Key,
    Refused,
    StartOver,
    TakeNote,
    Truncate,
)
from penstock.broker.replication.follower import (
    NotFollowed,
    TruncationRefused,
    standing_of,
)
from penstock.client.connection import Connection, ConnectionSettings, PendingAnswer
from penstock.client.fetch_session import FetchSession
from penstock.errors import PenstockError
from penstock.protocol.api import ApiKey
from penstock.protocol.errors import ErrorCode, ProtocolError
from penstock.protocol.fetch import FetchPartition, FetchRequest
from penstock.protocol.fetch_client import (
    REPLICA_FETCH_VERSION_MIN,
    FetchAnswer,
    decode_fetch_response,
    encode_fetch_request,
)
from penstock.runtime.files import StorageError
from penstock.runtime.network import AddressError, ConnectionLost
from penstock.storage.errors import CorruptBatch, StaleLeaderEpoch

if TYPE_CHECKING:
    from penstock.broker.replication.fetchers import ReplicaFetchers

log = logging.getLogger(__name__)

PATIENCE_S = 0.003
"""How long the next request waits for the appends of the last answer."""
FIRST_WAIT_MAX_MS = 1
"""How long a leader may keep the request that begins a session: before its answer no second one can be sent."""
UNFINISHED_ANSWERS_MAX = 4
LOOK_AT_ALL_MS = 1000
"""How often all that is followed is looked at for what nobody tells: where its logs begin, and what counts in them."""
NEW_SESSION_EPOCH = 0
SAME_LINE_S = 10.0
FIRST_PAUSE_S = 0.05
READ_UNCOMMITTED = 0


Work = Append | Truncate | StartOver


class SessionLost(PenstockError):
    """The leader has forgotten the session while two requests were under way; all begins anew."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One that was sent."""

    answer: PendingAnswer
    version: int
    wait_ms: int
    replaced: dict[Key, "_Entry | None"]
    """What it has asked for where a request behind it asks otherwise."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is asked for of one partition."""

    ask: Ask
    wanted: FetchPartition
    partition: Partition


@dataclass(slots=True)
class _Unfinished:
    """An answer some of whose records are still being appended."""

    count: int


class LeaderFetcher:
    """All that this broker follows of one leader."""

    def __init__(self, fetchers: "ReplicaFetchers", node_id: int) -> None:
        self.machine = FetcherMachine(backoff_max_ms=fetchers.config.replica_fetch_backoff_ms)
        self._fetchers = fetchers
        self._config = fetchers.config
        self._clock = fetchers.environment.clock
        self._logs = fetchers.logs
        self._throttle = fetchers.throttle
        self._node_id = node_id
        self._session = FetchSession()
        self._entries: dict[Key, _Entry] = {}
        """What the last request asks for, as the leader's session has it."""
        self._changes: dict[Key, _Entry | None] = {}
        """Where the next one is to ask otherwise."""
        self._looked_at_all = -math.inf
        self._connection: Connection | None = None
        self._waiting_for: _Request | None = None
        self._is_taken = False
        """Whether what was waited for has been acted on, and the rest is the task's."""
        self._pushed: _Request | None = None
        """Sent while the one before it waits at the leader."""
        self._unfinished_count = 0
        self._changed = trio.Event()
        self._scope = trio.CancelScope()
        self._connecting = trio.CancelScope()
        self._failure_count = 0
        self._next_lines: dict[str, float] = {}

    # Told from outside

    def follow(self, partition: Partition, leader_epoch: int) -> None:
        """Fetch a partition in this epoch, once its log has come to rest."""
        if self.machine.follow((partition.topic_id, partition.index), leader_epoch):
            self._fetchers.spawn(self._settle, partition, leader_epoch)

    def note_log_start(self, key: Key) -> None:
        """A log begins elsewhere: the leader is told at once."""
        self.machine.touch(key)
        self._note_change(key)

    def moved(self) -> None:
        """The leader has registered anew, or has gone: a connection to where it was is of no use, nor is waiting."""
        self._failure_count = 0
        self._connecting.cancel()

    def end(self) -> None:
        """Nothing is followed of this leader any more."""
        self._scope.cancel()

    # The task

    async def run(self) -> None:
        """Fetch until `end`, connecting anew whenever that is needed."""
        with self._scope:
            while True:
                with trio.CancelScope() as self._connecting:
                    try:
                        await self._connect_and_fetch()
                    except PenstockError as error:
                        self._tell(
                            "connection", f"can't fetch from broker {self._node_id}, trying again: {error}"
                        )
                if not self._connecting.cancelled_caught:
                    with trio.CancelScope() as self._connecting:
                        await self._pause()

    async def _pause(self) -> None:
        """Wait a while after a failure, longer after each that follows."""
        self._failure_count += 1
        wait_s = FIRST_PAUSE_S * 2 ** min(self._failure_count - 1, 10)
        await trio.sleep(min(wait_s, self._config.replica_fetch_backoff_ms / 1000))

    async def _connect_and_fetch(self) -> None:
        broker = self._fetchers.image.brokers.get(self._node_id)
        if broker is None:
            raise AddressError(f"broker {self._node_id} is not registered")
        endpoint = broker.endpoints.get(self._config.inter_broker_listener_name)
        if endpoint is None:
            raise AddressError(
                f"broker {self._node_id} has no listener {self._config.inter_broker_listener_name}"
            )
        settings = ConnectionSettings(
            client_id=f"broker-{self._config.node_id}-fetcher",
            request_timeout_ms=self._config.replica_socket_timeout_ms,
        )
        connection = await self._fetchers.connect(endpoint, settings)
        try:
            self._session, self._connection, self._pushed = FetchSession(), connection, None
            self._is_taken = False
            await self._fetch_on(connection)
        finally:
            self._connection = None
            connection.close()

    async def _fetch_on(self, connection: Connection) -> None:
        while True:
            request, self._pushed = self._pushed, None
            if request is None:
                request = await self._next_request(connection)
            self._waiting_for = request
            try:
                body = await connection.finish(
                    request.answer,
                    ApiKey.FETCH,
                    request.version,
                    broker_wait_ms=self._config.replica_fetch_wait_max_ms,
                )
            finally:
                waited_for = self._wait_no_more()
            is_taken, self._is_taken = self._is_taken, False
            if is_taken or waited_for is None:
                continue
            if self._take(waited_for, decode_fetch_response(waited_for.version, body)):
                self._failure_count = 0
            else:
                await self._pause()

    def _wait_no_more(self) -> _Request | None:
        """The request that was waited for: another than at first where `_go_on` has gone on."""
        waited_for, self._waiting_for = self._waiting_for, None
        return waited_for

    def _go_on(self, answer: PendingAnswer) -> bool:
        """Act on an answer where it comes in, and ask for more from there if nothing is to be waited for. Else False: the task goes on."""
        request, connection = self._waiting_for, self._connection
        if request is None or request.answer is not answer or connection is None or answer.frame is None:
            return False
        if self._pushed is not None:
            return False
        try:
            fetched = decode_fetch_response(
                request.version, connection.body_of(answer.frame, ApiKey.FETCH, request.version)
            )
        except ProtocolError:
            return False  # the task meets it again
        if fetched.error_code:
            return False
        self._waiting_for, self._is_taken = None, True
        self._take(request, fetched)
        self._failure_count = 0
        if self._unfinished_count:
            return False
        self._look(self._now_ms())
        if not self._has_asks:
            return False
        try:
            self._waiting_for = self._send(connection, again=answer)
        except PenstockError:
            return False
        self._is_taken = False
        return True

    async def _next_request(self, connection: Connection) -> _Request:
        """Send one as soon as there is something to ask for."""
        while True:
            await self._wait_for_appends()
            self._changed = trio.Event()
            now_ms = self._now_ms()
            self._look(now_ms)
            if self._has_asks:
                return self._send(connection)
            with trio.move_on_after(self._idle_ms(now_ms) / 1000):
                await self._changed.wait()

    def _note_change(self, key: Key) -> None:
        """A partition is ready, perhaps. The request under way may wait long without it; so another is sent, once."""
        self._changed.set()
        before, connection = self._waiting_for, self._connection
        if before is None or connection is None or self._pushed is not None:
            return
        if self._session.epoch == NEW_SESSION_EPOCH:
            return
        if not self.machine.is_ready(key):
            return
        self._look(self._now_ms())
        if key in self._changes:
            with suppress(ConnectionLost):  # whoever waits for the answer before learns of it
                self._pushed = self._send(connection, behind=before)

    async def _wait_for_appends(self) -> None:
        """Give the appends of the last answer a moment; as many answers as may be unfinished are waited for."""
        with trio.move_on_after(PATIENCE_S):
            while self._unfinished_count:
                await self._wait_for_change()
        while self._unfinished_count >= UNFINISHED_ANSWERS_MAX:
            await self._wait_for_change()

    async def _wait_for_change(self) -> None:
        self._changed = trio.Event()
        await self._changed.wait()

    # One request

    def _look(self, now_ms: float) -> None:
        """Work out where the next request is to ask otherwise than the last; all that is followed is looked at now and then only."""
        if self._session.epoch == NEW_SESSION_EPOCH:  # the leader is to learn of all
            self._entries, self._changes = {}, {}
            self.machine.touch_all()
        elif now_ms - self._looked_at_all >= LOOK_AT_ALL_MS:
            self._looked_at_all = now_ms
            self.machine.touch_all()
        for key, ask in self.machine.changes(now_ms, has_room=not self._throttle.is_spent()).items():
            known = self._entries.get(key)
            entry = None if ask is None else self._entry(ask, known)
            if entry is known:
                self._changes.pop(key, None)
            else:
                self._changes[key] = entry

    @property
    def _has_asks(self) -> bool:
        """Whether the next request asks for anything."""
        changes, entries = self._changes, self._entries
        return any(changes.values()) or len(entries) > sum(key in entries for key in changes)

    def _entry(self, ask: Ask, known: _Entry | None) -> _Entry | None:
        """What the request has of it: `known` where nothing has changed; None if it is not to be asked for."""
        partition = self._fetchers.partitions.by_id(*ask.key)
        if partition is None or partition.is_offline:
            return None  # to ask would vouch for a log that has failed
        if known is not None and known.partition is not partition:
            self.machine.touch(ask.key)
            return None  # another log: what was told to the one before is forgotten first, and told again when it is asked for anew
        standing = ask.standing
        if partition.machine.counted_end_offset < standing.end_offset:
            # write.caching was turned off: what was counted is to be synced first
            self.machine.set_busy(ask.key, ask.leader_epoch)
            self._fetchers.spawn(self._settle, partition, ask.leader_epoch)
            return None
        # not as of `standing`: it moves without an append, and DeleteRecords waits for it
        log_start_offset = partition.log.log_start_offset
        if known is not None and known.ask is ask and known.wanted.log_start_offset == log_start_offset:
            return known
        return _Entry(
            ask,
            FetchPartition(
                "",
                *ask.key,
                ask.leader_epoch,
                standing.end_offset,
                standing.last_epoch,
                log_start_offset,
                self._config.replica_fetch_max_bytes,
            ),
            partition,
        )

    def _send(
        self, connection: Connection, *, behind: _Request | None = None, again: PendingAnswer | None = None
    ) -> _Request:
        """Send a request; `behind` one that has not been answered, or `again` for whoever waits for that answer. Raises ConnectionLost."""
        config, session = self._config, self._session
        changes, self._changes = self._changes, {}
        wanted: list[FetchPartition] = []
        forgotten: list[tuple[str, bytes | None, int]] = []
        for key, entry in changes.items():
            known = self._entries.get(key)
            if behind is not None:
                behind.replaced[key] = known
            if entry is not None:
                self._entries[key] = entry
                wanted.append(entry.wanted)
            elif known is not None:
                del self._entries[key]
                forgotten.append(("", *key))
        wait_ms = self._wait_ms() if session.session_id else FIRST_WAIT_MAX_MS
        request = FetchRequest(
            config.node_id,
            self._fetchers.registration.create_revision,
            wait_ms,
            config.replica_fetch_min_bytes,
            config.replica_fetch_response_max_bytes,
            READ_UNCOMMITTED,
            session.session_id,
            session.epoch_after(0 if behind is None else 1),
            wanted,
            forgotten,
            config.rack or "",
            None,
        )
        version = connection.version(ApiKey.FETCH, at_least=REPLICA_FETCH_VERSION_MIN)
        body = encode_fetch_request(version, request)
        if again is None:
            again = connection.begin(ApiKey.FETCH, version, [body], at_once=True)
            again.taken_by = self._go_on
        else:
            connection.again(again, ApiKey.FETCH, version, [body])
        return _Request(again, version, wait_ms, {})

    def _wait_ms(self) -> int:
        """How long the leader may keep a request."""
        return int(min(self._config.replica_fetch_wait_max_ms, self._idle_ms(self._now_ms())))

    def _idle_ms(self, now_ms: float) -> float:
        """How long until one that was refused, or is throttled, may be asked for again."""
        next_ms = self.machine.next_time_ms(now_ms)
        refused_ms = float("inf") if next_ms is None else next_ms - now_ms
        return max(1.0, min(refused_ms, self._throttle.wait_ms()))

    def _take(self, request: _Request, answer: FetchAnswer) -> bool:
        """Act on an answer; False if the leader refuses the whole request."""
        if not self._session.answered(answer.error_code, answer.session_id):
            if self._pushed is not None:
                raise SessionLost(f"broker {self._node_id} has forgotten the session")
            if answer.error_code != ErrorCode.FETCH_SESSION_ID_NOT_FOUND:
                self._tell(
                    "session",
                    f"broker {self._node_id} refuses to be fetched from: {_name(answer.error_code)}",
                )
            return False
        unfinished = _Unfinished(0)
        now_ms = self._now_ms()
        for part in answer.partitions:
            key = (part.topic_id or b"", part.index)
            entry = request.replaced[key] if key in request.replaced else self._entries.get(key)
            decision = None if entry is None else self.machine.take(entry.ask, part, now_ms)
            if decision is not None:
                self._carry_out(decision, unfinished)
        if unfinished.count:
            self._unfinished_count += 1
        return True

    # What follows from an answer

    def _carry_out(self, decision: Decision, unfinished: _Unfinished) -> None:
        partition = self._fetchers.partitions.by_id(*decision.key)
        if partition is None:
            return
        if isinstance(decision, Refused):
            self._tell(
                f"{decision.code}",
                f"{partition.topic}-{partition.index}: broker {self._node_id} gives nothing, trying again: {_name(decision.code)}",
            )
            return
        if isinstance(decision, TakeNote):
            partition.step(LeaderTold(decision.high_watermark))
            self._fetchers.log_starts.follow(partition, decision.leader_epoch, decision.log_start_offset)
            return
        if isinstance(decision, Append) and self.machine.is_throttled(decision.key):
            self._throttle.record(len(decision.records))
        if (work := self._begin(partition, decision)) is not None:
            unfinished.count += 1
            self._fetchers.spawn(self._work, partition, work, unfinished)

    def _begin(self, partition: Partition, decision: Work) -> Work | None:
        """Do at once what can be; returns what is left to do."""
        if not isinstance(decision, Append):
            return decision
        rest = self._logs.begin(partition, decision)
        if rest is None:
            self._appended(partition, decision)
        return rest

    def _appended(self, partition: Partition, append: Append) -> None:
        self.machine.stands(append.key, append.leader_epoch, standing_of(partition))
        self._fetchers.log_starts.follow(partition, append.leader_epoch, append.log_start_offset)

    async def _work(self, partition: Partition, decision: Work, unfinished: _Unfinished) -> None:
        try:
            await self._do(partition, decision)
        except NotFollowed:
            pass  # the image has moved on, and so has the machine
        except (StorageError, StaleLeaderEpoch) as error:
            await self._went_wrong(partition, decision, error)
        except TruncationRefused as error:
            self.machine.unfollow(decision.key)
            self._fetchers.partitions.quarantine(*decision.key, str(error))
        finally:
            unfinished.count -= 1
            if not unfinished.count:
                self._unfinished_count -= 1
            self._note_change(decision.key)

    async def _do(self, partition: Partition, decision: Work) -> None:
        before = partition.log.log_end_offset
        if isinstance(decision, Append):
            await self._logs.append(partition, decision)
            self._appended(partition, decision)
            return
        if isinstance(decision, Truncate):
            await self._logs.truncate(partition, decision)
        else:
            await self._logs.start_over(partition, decision)
        log.info(
            "%s-%d: cut from offset %d to %d, to follow broker %d in epoch %d",
            partition.topic,
            partition.index,
            before,
            partition.log.log_end_offset,
            self._node_id,
            decision.leader_epoch,
        )
        self.machine.stands(decision.key, decision.leader_epoch, standing_of(partition))

    async def _went_wrong(self, partition: Partition, decision: Decision, error: PenstockError) -> None:
        assert not isinstance(decision, Refused)
        name = f"{partition.topic}-{partition.index}"
        if isinstance(error, CorruptBatch | StaleLeaderEpoch):
            self._tell(
                name, f"{name}: broker {self._node_id} sent what can't be appended, fetched again: {error}"
            )
        elif isinstance(error, StorageError):
            partition.note_storage_error(error)
        with suppress(NotFollowed, StorageError):
            await self._logs.settle(partition, decision.leader_epoch)  # what came before the error counts
            self.machine.failed(decision.key, decision.leader_epoch, standing_of(partition), self._now_ms())

    async def _settle(self, partition: Partition, leader_epoch: int) -> None:
        with suppress(NotFollowed, StorageError):
            await self._logs.settle(partition, leader_epoch)
            key = (partition.topic_id, partition.index)
            self.machine.stands(key, leader_epoch, standing_of(partition))
            self._note_change(key)

    # Small things

    def _now_ms(self) -> float:
        return self._clock.monotonic() * 1000

    def _tell(self, subject: str, text: str) -> None:
        """A line, and none about the same for ten seconds: there may be a thousand partitions."""
        now = self._clock.monotonic()
        if now >= self._next_lines.get(subject, 0.0):
            self._next_lines[subject] = now + SAME_LINE_S
            log.warning("%s", text)


def _name(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error {code}"


__all__ = ["LeaderFetcher"]
