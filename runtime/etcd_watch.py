"""A watch on etcd: an endless sequence of batches over connections that come and go.

Owns the position (the last revision that was handed on whole) and the connection. Two parts: `Assembly`, which is pure, makes batches of
messages; `EtcdWatch` reads the messages and connects again, from the position on.

Invariants:

- A batch is handed on only when it is whole: etcd sends a revision's events in one message, or in fragments, all but the last marked.
- A connection that says nothing for `IDLE_LIMIT_S` is replaced, whatever the reason; so no watch is deaf for longer. (etcd's own
  progress messages come every ten minutes by default; where they come, they move the position, so that compaction does not overtake it.)
- Between attempts there is a growing pause; one line tells of an outage, and one of its end.
"""

import json
import logging
from collections import deque
from collections.abc import Sequence

import trio

from penstock.runtime.etcd_client import ATTEMPT_LIMIT_S, EtcdClient, Member, Reply
from penstock.runtime.etcd_messages import (
    CallFailed,
    Json,
    Keys,
    MaybeDone,
    NotDone,
    Refused,
    TokenRefused,
    answer_of,
    cancellation_of,
    event_of,
    failure_of,
    is_permission,
    metadata_error,
    number,
    object_of,
)
from penstock.runtime.metadata import Compacted, WatchBatch, WatchEvent

log = logging.getLogger(__name__)

IDLE_LIMIT_S = 10.0
PAUSE_MIN_S = 0.1
PAUSE_MAX_S = 2.0
MESSAGE_SIZE_BYTES_MAX = 64 * 1024 * 1024
_REFUSAL_COUNT_MAX = 2


class Assembly:
    """Makes whole batches of the messages of one connection, above a revision. Pure."""

    def __init__(self, position: int, keys: Keys) -> None:
        self.position = position
        """Everything up to this revision has been handed on."""
        self._keys = keys
        self._revision = 0
        self._events: list[WatchEvent] = []

    def take(self, message: Json) -> Sequence[WatchBatch]:
        """The batches that this message completes, in order. Raises Compacted."""
        if number(message, "compact_revision"):
            raise Compacted(f"etcd has forgotten the revisions up to {message['compact_revision']}")
        batches: list[WatchBatch] = []
        for event in message.get("events", ()):
            revision, change = event_of(event, self._keys)
            if revision <= self.position:
                continue
            if revision != self._revision:
                batches += self._complete()
            self._revision = revision
            self._events.append(change)
        if not message.get("fragment"):
            batches += self._complete()
            if not message.get("events") and not message.get("created"):
                # Progress: everything up to this revision has been sent.
                self.position = max(self.position, number(message.get("header", {}), "revision"))
        return batches

    def _complete(self) -> Sequence[WatchBatch]:
        if not self._events:
            return ()
        batch = WatchBatch(self._revision, self._events)
        self.position = self._revision
        self._events = []
        return (batch,)


class _Messages:
    """The messages of one reply, one JSON value a line."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._rest = bytearray()
        self._lines: deque[bytes] = deque()

    async def next(self) -> Json:
        """The next message. Raises CallFailed when there is none any more, or an error in its place."""
        while not self._lines:
            chunk = await self._reply.read()
            if not chunk:
                raise MaybeDone("the connection was closed")
            self._take(chunk)
        message = object_of(self._lines.popleft())
        if message is not None and "error" in message:
            raise failure_of(message)
        if message is None or "result" not in message:
            raise MaybeDone("what is no etcd answers there")
        result: Json = message["result"]
        return result

    def _take(self, chunk: bytes) -> None:
        whole, newline, rest = chunk.rpartition(b"\n")
        if newline:
            self._lines.extend(line for line in (bytes(self._rest) + whole).split(b"\n") if line)
            self._rest = bytearray(rest)
        else:
            self._rest += chunk
        if len(self._rest) > MESSAGE_SIZE_BYTES_MAX:
            raise MaybeDone(f"a message of more than {MESSAGE_SIZE_BYTES_MAX} bytes")

    async def close(self) -> None:
        await self._reply.close()


class EtcdWatch:
    """The iterator of one watch; one task at a time. It connects when it is first asked, and again whenever it has to."""

    def __init__(self, client: EtcdClient, keys: Keys, prefix: str, after_revision: int) -> None:
        self._client = client
        self._keys = keys
        self._prefix = prefix
        self._assembly = Assembly(after_revision, keys)
        self._waiting: deque[WatchBatch] = deque()
        self._messages: _Messages | None = None
        self._member: Member | None = None
        self._pause = PAUSE_MIN_S
        self._is_cut = False
        self._refusal_count = 0

    def __aiter__(self) -> "EtcdWatch":
        return self

    async def __anext__(self) -> WatchBatch:
        """The next batch. Cancelled, nothing is lost: it connects anew. Raises Compacted, MetadataError."""
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            try:
                await self._read_on()
            except CallFailed as failure:
                await self._recover(failure)
        return self._waiting.popleft()

    async def close(self) -> None:
        """Let go of the connection."""
        messages, self._messages = self._messages, None
        if messages is not None:
            await messages.close()

    async def _read_on(self) -> None:
        """Read one message, or replace a connection that is silent. Raises CallFailed, Compacted."""
        if self._messages is None:
            await self._connect()
        assert self._messages is not None
        assert self._member is not None
        message: Json | None = None
        with trio.move_on_after(IDLE_LIMIT_S) as reading:
            self._member.reading.add(reading)
            try:
                message = await self._messages.next()
            finally:
                self._member.reading.discard(reading)
                if message is None:  # failed or cancelled, which leaves a reply that can't be read on
                    await self.close()
        if message is not None:
            self._check(message)
            self._waiting.extend(self._assembly.take(message))

    async def _connect(self) -> None:
        """Open a watch at the position, and wait until etcd has it. Raises CallFailed, Compacted."""
        self._assembly = Assembly(self._assembly.position, self._keys)
        self._member = member = self._client.members()[0]
        request = {
            **self._keys.span(self._prefix),
            # One too early (what was handed on is left out): at the very revision up to which history was compacted, etcd before
            # 3.4.36 and 3.5.18 may have forgotten deletions and says nothing.
            "start_revision": str(max(1, self._assembly.position)),
            "fragment": True,
            "progress_notify": True,
        }
        content = json.dumps({"create_request": request}).encode()
        with trio.move_on_after(ATTEMPT_LIMIT_S):
            token = await self._client.token(member)
            try:
                await self._open(member, content, token)
            except TokenRefused as failure:
                self._client.forget_token(token, failure)
                raise
            self._connected(member)
            return
        raise NotDone(f"no watch within {ATTEMPT_LIMIT_S:g} s")

    async def _open(self, member: Member, content: bytes, token: str) -> None:
        reply = await self._client.open(member, "/v3/watch", content, token)
        messages = _Messages(reply)
        try:
            if reply.status != 200:
                answer_of(reply.status, await reply.whole())
            message = await messages.next()
            self._client.check_cluster(member, message)
            self._check(message)
            self._waiting.extend(self._assembly.take(message))
        except BaseException:
            await messages.close()
            raise
        self._messages = messages

    def _connected(self, member: Member) -> None:
        if self._is_cut:
            log.info("%s: the watch goes on at %s", self._client, member.name)
        self._is_cut = False
        self._pause = PAUSE_MIN_S
        self._refusal_count = 0

    def _check(self, message: Json) -> None:
        """Raise what the end of the watch means, unless it means that the past is gone."""
        if message.get("canceled") and not number(message, "compact_revision"):
            raise cancellation_of(str(message.get("cancel_reason", "")))

    async def _recover(self, failure: CallFailed) -> None:
        """After a failure: tell of it once, and wait. Raises MetadataError where trying again can't help."""
        await self.close()
        if isinstance(failure, Refused):
            # Once may be an expired token, which old versions of etcd do not tell from a missing permission.
            self._refusal_count += 1
            if self._refusal_count >= _REFUSAL_COUNT_MAX or not is_permission(failure):
                raise metadata_error(failure, f"{self._client}: watching {self._keys.prefix}{self._prefix}")
            self._client.renew_token()
        elif not isinstance(failure, TokenRefused) and self._member is not None:
            self._client.suspect(self._member)
        if not self._is_cut and not isinstance(failure, TokenRefused):
            name = self._member.name if self._member else ""
            log.warning("%s: the watch on %s was cut, connecting again: %s", self._client, name, failure)
            self._is_cut = True
        await trio.sleep(self._pause * (0.5 + self._client.random.random() / 2))
        self._pause = min(2 * self._pause, PAUSE_MAX_S)
