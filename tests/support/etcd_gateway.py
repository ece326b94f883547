"""An etcd cluster in memory, behind an HTTP transport: what the real adapter talks to in virtual time, with the faults of a real one.

The state is a `MemoryMetadata`, so leases end by trio's clock. Each member is an address; all show the same state. Faults are armed for
the next calls (`fail_next`), for a member (`take_down`, `silence`), or for the watches (`cut_watches`, `deafen_watches`, `compact`).
"""

import enum
import itertools
import json
from base64 import b64decode, b64encode
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import httpx
import trio
from tests.support.memory_metadata import MemoryMetadata

from penstock.runtime.metadata import (
    Compacted,
    Compare,
    Delete,
    Entry,
    LeaseNotFound,
    Put,
    TransactionTooLarge,
    WatchBatch,
    WatchEvent,
)

CLUSTER_ID = "77"


class CallFault(enum.Enum):
    """What goes wrong with one call, as its client sees it."""

    NO_CONNECTION = "it could not be sent"
    LOST_REQUEST = "the connection broke before it was done"
    LOST_REPLY = "it was done, and then the connection broke"
    NO_LEADER = "the member says that there is no leader"
    TIMED_OUT = "the member says that it does not know what became of it; it was done"
    SILENT = "it was done, and no answer ever comes"
    GARBAGE = "something that is no etcd answers"


class GrpcError(Exception):
    """An error answer."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class EtcdGateway(httpx.AsyncBaseTransport):
    """The transport and the cluster behind it."""

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self.store = MemoryMetadata()
        self.cluster_ids: dict[str, str] = {}
        """By address, for members of another cluster."""
        self.calls: Counter[str] = Counter()
        """How often each path was called."""
        self.asked: list[str] = []
        """The member that each call reached, in order."""
        self.seen: list[tuple[httpx.Request, Mapping[str, Any]]] = []
        """Requests with their messages."""
        self.events_per_message_max = 1_000_000
        """Above it, a message is sent in fragments."""
        self.users: dict[str, str] = {}
        """Passwords by user; with any, calls need a token."""
        self.latency_s = latency_s
        self.is_closed = False
        self.closed_stream_count = 0
        """Watches whose responses were closed."""
        self._faults: deque[CallFault | None] = deque()
        self._down: set[str] = set()
        self._silent: set[str] = set()
        self._tokens: set[str] = set()
        self._numbers = itertools.count(1)
        self._watches: set[trio.CancelScope] = set()
        self._streams: set[object] = set()
        self._deaf: set[trio.CancelScope] = set()
        self._pages: dict[int, list[Entry]] = {}
        self._revision_shown_less = 0

    # Faults.

    def fail_next(self, *faults: CallFault | None) -> None:
        """What the next calls but watches suffer, one each; None lets one pass."""
        self._faults.extend(faults)

    def take_down(self, *addresses: str) -> None:
        """These members refuse connections, and their watches break."""
        self._down.update(addresses)
        self.cut_watches()

    def bring_up(self, *addresses: str) -> None:
        """They are there again."""
        self._down.difference_update(addresses)
        self._silent.difference_update(addresses)

    def silence(self, *addresses: str) -> None:
        """These members take calls and never answer; their watches stay open and say nothing."""
        self._silent.update(addresses)
        self.deafen_watches()

    def cut_watches(self) -> None:
        """Break the connections of all watches."""
        for scope in tuple(self._watches):
            scope.cancel()

    def deafen_watches(self) -> None:
        """The watches that are open now get nothing any more, and nobody tells them."""
        self._deaf |= self._watches
        self.cut_watches()

    def compact(self) -> None:
        """Forget all history up to now."""
        self.store.compact()
        self._pages.clear()

    def expire_tokens(self) -> None:
        """No token is good any more."""
        self._tokens.clear()

    def restore_backup(self, revision_count: int) -> None:
        """From now on the store shows revisions that are lower by so much."""
        self._revision_shown_less = revision_count

    # The transport.

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert request.method == "POST"
        address = f"{request.url.host}:{request.url.port}"
        if address in self._down:
            await trio.lowlevel.checkpoint()
            raise httpx.ConnectError("Connection refused")
        path = request.url.path
        self.calls[path] += 1
        self.asked.append(address)
        message = json.loads(b"".join([chunk async for chunk in _stream_of(request)]))
        self.seen.append((request, message))
        fault = self._faults.popleft() if self._faults and path != "/v3/watch" else None
        if fault is CallFault.NO_CONNECTION:
            await trio.lowlevel.checkpoint()
            raise httpx.ConnectError("told to fail")
        await trio.sleep(self.latency_s)
        if address in self._silent:
            await trio.sleep_forever()
        if fault is CallFault.LOST_REQUEST:
            raise httpx.ReadError("told to fail")
        if fault is CallFault.GARBAGE:
            return httpx.Response(502, stream=_Whole(b"<html>Bad gateway</html>"))
        response = await self._answer(path, message, request, address, fault)
        await trio.sleep(self.latency_s)
        if fault is CallFault.LOST_REPLY:
            raise httpx.RemoteProtocolError("told to fail")
        if fault is CallFault.SILENT:
            await trio.sleep_forever()
        return response

    async def aclose(self) -> None:
        self.is_closed = True

    @property
    def open_watch_count(self) -> int:
        """Watches whose streams have been begun and not ended."""
        return len(self._streams)

    async def _answer(
        self,
        path: str,
        message: Mapping[str, Any],
        request: httpx.Request,
        address: str,
        fault: CallFault | None,
    ) -> httpx.Response:
        try:
            if fault is CallFault.NO_LEADER:
                raise GrpcError(14, "etcdserver: no leader", 503)
            if path == "/v3/watch":
                return httpx.Response(200, stream=_Stream(self, self._watch(message, request, address)))
            answer = await self._done(path, message, request, address)
            if fault is CallFault.TIMED_OUT:
                raise GrpcError(14, "etcdserver: request timed out", 503)
        except GrpcError as error:
            body = {"error": str(error), "message": str(error), "code": error.code}
            return httpx.Response(error.status, stream=_Whole(json.dumps(body).encode()))
        answer.setdefault("header", self._header(address))
        if path == "/v3/lease/keepalive":
            answer = {"result": answer}
        return httpx.Response(200, stream=_Whole(json.dumps(answer).encode()))

    def _header(self, address: str, revision: int | None = None) -> dict[str, Any]:
        revision = (self.store.revision if revision is None else revision) - self._revision_shown_less
        return {"cluster_id": self.cluster_ids.get(address, CLUSTER_ID), "revision": str(revision)}

    async def _done(
        self, path: str, message: Mapping[str, Any], request: httpx.Request, address: str
    ) -> dict[str, Any]:
        if path == "/v3/auth/authenticate":
            return self._authenticate(message)
        self._check_token(request)
        try:
            match path:
                case "/v3/kv/range":
                    return await self._range(message, address)
                case "/v3/kv/txn":
                    return await self._transact(message, address)
                case "/v3/lease/grant":
                    lease_id = await self.store.grant_lease(int(message["TTL"]))
                    return {"ID": str(lease_id), "TTL": message["TTL"]}
                case "/v3/lease/keepalive":
                    return await self._keep_alive(int(message["ID"]))
                case "/v3/lease/revoke":
                    await self.store.keep_alive(int(message["ID"]))  # as etcd: an error when it has ended
                    await self.store.revoke_lease(int(message["ID"]))
                    return {}
                case _:
                    raise GrpcError(12, f"no such call: {path}", 501)
        except LeaseNotFound as error:
            raise GrpcError(5, "etcdserver: requested lease not found", 404) from error
        except TransactionTooLarge as error:
            raise GrpcError(3, "etcdserver: request is too large") from error

    # Users.

    def _authenticate(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if not self.users:
            raise GrpcError(9, "etcdserver: authentication is not enabled", 412)
        if self.users.get(message["name"]) != message["password"]:
            raise GrpcError(3, "etcdserver: authentication failed, invalid user ID or password")
        token = f"token.{next(self._numbers)}"
        self._tokens.add(token)
        return {"token": token}

    def _token_fault(self, request: httpx.Request) -> tuple[int, str] | None:
        token = request.headers.get("Authorization", "")
        if not self.users or token in self._tokens:
            return None
        return (16, "invalid auth token") if token else (3, "user name is empty")

    def _check_token(self, request: httpx.Request) -> None:
        fault = self._token_fault(request)
        if fault is not None:
            raise GrpcError(fault[0], f"etcdserver: {fault[1]}", 401)

    # Keys.

    async def _range(self, message: Mapping[str, Any], address: str) -> dict[str, Any]:
        snapshot = await self.store.range("")
        asked = int(message.get("revision", 0))
        if asked and asked != snapshot.revision and asked not in self._pages:
            raise GrpcError(11, "etcdserver: mvcc: required revision has been compacted")
        entries = self._pages[asked] if asked in self._pages else list(snapshot.entries)
        found = [entry for entry in entries if _is_within(message, entry.key)]
        limit = int(message.get("limit", 0)) or len(found)
        if len(found) > limit:
            self._pages.setdefault(asked or snapshot.revision, entries)
        pairs = [] if message.get("count_only") else [_pair(entry) for entry in found[:limit]]
        header = self._header(address, snapshot.revision)
        return {"header": header, "kvs": pairs, "more": len(found) > limit, "count": str(len(found))}

    async def _transact(self, message: Mapping[str, Any], address: str) -> dict[str, Any]:
        compares = [_compare(one) for one in message.get("compare", ())]
        operations = [each for one in message.get("success", ()) if (each := _operation(one)) is not None]
        result = await self.store.transact(compares, operations)
        header = self._header(address, result.revision)
        return {"header": header, "succeeded": True} if result.succeeded else {"header": header}

    async def _keep_alive(self, lease_id: int) -> dict[str, Any]:
        try:
            await self.store.keep_alive(lease_id)
        except LeaseNotFound:
            return {"ID": str(lease_id)}
        return {"ID": str(lease_id), "TTL": "1"}

    # Watches.

    async def _watch(
        self, message: Mapping[str, Any], request: httpx.Request, address: str
    ) -> AsyncGenerator[bytes]:
        stream = object()
        self._streams.add(stream)
        try:
            async with aclosing(self._told(message, request, address)) as lines:
                async for line in lines:
                    yield line
        finally:
            self._streams.discard(stream)

    async def _told(
        self, message: Mapping[str, Any], request: httpx.Request, address: str
    ) -> AsyncGenerator[bytes]:
        asked = message["create_request"]
        created = {"header": self._header(address), "created": True}
        fault = self._token_fault(request)
        if fault is not None:
            reason = f"rpc error: code = Unauthenticated desc = etcdserver: {fault[1]}"
            yield _line({**created, "canceled": True, "cancel_reason": reason})
            return
        yield _line(created)
        begin = int(asked["start_revision"])
        # As etcd: to begin at the very revision of the compaction is no error.
        after = max(begin - 1, self.store.compacted_revision if begin == self.store.compacted_revision else 0)
        while True:
            try:
                batches = await self._changes(after)
            except Compacted:
                yield _line({"canceled": True, "compact_revision": str(self.store.revision)})
                return
            for batch in batches:
                events = [event for event in batch.events if _is_within(asked, event.key)]
                for part, is_last in _parts(events, self.events_per_message_max):
                    fragment = {} if is_last else {"fragment": True}
                    shown = [_event(event, batch) for event in part]
                    yield _line({"header": self._header(address), "events": shown, **fragment})
                after = batch.revision

    async def _changes(self, after: int) -> Sequence[WatchBatch]:
        with trio.CancelScope() as scope:
            self._watches.add(scope)
            try:
                return await self.store.changes(after)
            finally:
                self._watches.discard(scope)
        if scope in self._deaf:
            await trio.sleep_forever()
        raise httpx.ReadError("told to fail")


class _Whole(httpx.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        await trio.lowlevel.checkpoint()
        yield self._body


class _Stream(httpx.AsyncByteStream):
    def __init__(self, gateway: EtcdGateway, chunks: AsyncGenerator[bytes]) -> None:
        self._gateway = gateway
        self._chunks = chunks

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._chunks

    async def aclose(self) -> None:
        self._gateway.closed_stream_count += 1
        await self._chunks.aclose()


def _stream_of(request: httpx.Request) -> httpx.AsyncByteStream:
    assert isinstance(request.stream, httpx.AsyncByteStream)
    return request.stream


def _line(result: Mapping[str, Any]) -> bytes:
    return json.dumps({"result": result}).encode() + b"\n"


def _parts(events: Sequence[WatchEvent], size: int) -> Sequence[tuple[Sequence[WatchEvent], bool]]:
    starts = range(0, len(events), size)
    return [(events[start : start + size], start + size >= len(events)) for start in starts]


def _is_within(asked: Mapping[str, Any], key: str) -> bool:
    begin = b64decode(asked["key"])
    end = b64decode(asked.get("range_end", ""))
    return begin <= key.encode() < end if end else begin == key.encode()


def _text(field: str) -> str:
    return b64decode(field).decode()


def _pair(entry: Entry) -> dict[str, str]:
    pair = {
        "key": b64encode(entry.key.encode()).decode(),
        "create_revision": str(entry.create_revision),
        "mod_revision": str(entry.mod_revision),
    }
    if entry.value:
        pair["value"] = b64encode(entry.value).decode()
    return {**pair, "lease": str(entry.lease_id)} if entry.lease_id else pair


def _event(event: WatchEvent, batch: WatchBatch) -> dict[str, Any]:
    if event.entry is not None:
        return {"kv": _pair(event.entry)}
    key = b64encode(event.key.encode()).decode()
    return {"type": "DELETE", "kv": {"key": key, "mod_revision": str(batch.revision)}}


def _compare(message: Mapping[str, Any]) -> Compare:
    assert message["result"] == "EQUAL"
    if message["target"] == "MOD":
        return Compare(_text(message["key"]), mod_revision=int(message["mod_revision"]))
    assert message["target"] == "CREATE"
    return Compare(_text(message["key"]), create_revision=int(message["create_revision"]))


def _operation(message: Mapping[str, Any]) -> Put | Delete | None:
    if "request_put" in message:
        put = message["request_put"]
        return Put(_text(put["key"]), b64decode(put.get("value", "")), int(put.get("lease", 0)))
    if "request_delete_range" in message:
        return Delete(_text(message["request_delete_range"]["key"]))
    assert "request_range" in message
    return None
