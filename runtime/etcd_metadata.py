"""The metadata store of a cluster: etcd v3 through its JSON gateway.

Owns how the port's calls become etcd's. Members, retries and authentication are `etcd_client`'s, watches `etcd_watch`'s. Imported only
when a location is etcd's: with it comes httpx. No task of its own and no timer while nobody calls.

Invariants: every read goes through the leader's quorum (linearizable), also where a transaction only compares; a snapshot of many keys is
read in pages at one revision; what comes back is never older than what this store has answered before, or it is an error (a member
restored from a backup). Only the caller's clock counts for leases, from before `keep_alive` is called.
"""

import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import trio

from penstock.runtime.clock import Clock, Random
from penstock.runtime.etcd_client import ATTEMPT_LIMIT_S, WRITE_LIMIT_S, EtcdClient, HttpTransport
from penstock.runtime.etcd_location import EtcdLocation, parse_location
from penstock.runtime.etcd_messages import (
    Json,
    Keys,
    Refused,
    entry_of,
    is_compacted,
    key_after,
    metadata_error,
    number,
    transaction,
)
from penstock.runtime.etcd_watch import EtcdWatch
from penstock.runtime.metadata import (
    Compare,
    Delete,
    Entry,
    LeaseNotFound,
    MetadataError,
    MetadataUnavailable,
    Put,
    Snapshot,
    TransactionResult,
    WatchBatch,
)
from penstock.runtime.metadata_checks import check_lease_ttl, check_transaction
from penstock.runtime.threads import Threads

PAGE_KEY_COUNT = 1000
PARALLEL_WRITE_COUNT_MAX = 16
"""Transactions at once; each takes a connection."""
KEPT_CONNECTION_COUNT_MAX = 4
IDLE_CONNECTION_S = 30.0
_SOCKET_OPTIONS = (
    # A member whose machine is gone is noticed within about ten seconds, on a watch that waits as well.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 4),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
_SNAPSHOT_ATTEMPT_COUNT_MAX = 3


class EtcdMetadata:
    """The `MetadataStore` on etcd. Made by `open_etcd_metadata`."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._keys = Keys(client.location.prefix)
        self._writing = trio.CapacityLimiter(PARALLEL_WRITE_COUNT_MAX)
        self._revision = 0
        """The highest that a linearizable answer has shown."""

    async def get(self, key: str) -> Entry | None:
        """Linearizable read of one key. Raises MetadataUnavailable."""
        answer, _ = await self._read({"key": self._keys.outside(key)})
        pairs = answer.get("kvs", ())
        return entry_of(pairs[0], self._keys) if pairs else None

    async def range(self, prefix: str) -> Snapshot:
        """All keys under `prefix`, read in pages of `PAGE_KEY_COUNT` at one revision. Raises MetadataUnavailable."""
        for _ in range(_SNAPSHOT_ATTEMPT_COUNT_MAX):
            try:
                return await self._snapshot(prefix)
            except _HistoryGone:
                continue  # compacted between two pages
        raise MetadataUnavailable(f"{self._client}: its history goes faster than {prefix} can be read")

    async def transact(
        self, compares: Sequence[Compare], operations: Sequence[Put | Delete]
    ) -> TransactionResult:
        """Do all operations if all compares hold, else none. On the disks of a majority on return.

        Sent once only, unless it is known that nobody took it. Cancelled while under way, it may have been applied.
        """
        check_transaction(compares, operations)
        least = self._revision
        message = transaction(compares, operations, self._keys)
        async with self._writing:
            answer = await self._call("/v3/kv/txn", message, repeatable=not operations, limit_s=WRITE_LIMIT_S)
        return TransactionResult(bool(answer.get("succeeded")), self._revision_of(answer, least))

    async def grant_lease(self, ttl_s: int) -> int:
        """A new lease. After a lost reply another one is asked for: the first ends by itself, without a revision."""
        check_lease_ttl(ttl_s)
        answer = await self._call("/v3/lease/grant", {"TTL": str(ttl_s)})
        return number(answer, "ID")

    async def keep_alive(self, lease_id: int) -> None:
        """Renew; the lease lives for its ttl from some moment within this call. Raises LeaseNotFound, MetadataUnavailable."""
        answer = await self._call("/v3/lease/keepalive", {"ID": str(lease_id)})
        if not number(answer.get("result", {}), "TTL"):
            raise LeaseNotFound(f"lease {lease_id:x} has ended or never was")

    async def revoke_lease(self, lease_id: int) -> None:
        """End a lease and delete its keys. Raises MetadataUnavailable when no member answers: then it ends by itself, or has."""
        with suppress(LeaseNotFound):
            await self._call("/v3/lease/revoke", {"ID": str(lease_id)}, limit_s=WRITE_LIMIT_S)

    @asynccontextmanager
    async def watch(
        self, prefix: str, *, after_revision: int
    ) -> AsyncGenerator[AsyncIterator[WatchBatch], None]:
        """Changes under `prefix`, over any number of connections. A watcher that lags costs no memory here."""
        watch = EtcdWatch(self._client, self._keys, prefix, after_revision)
        try:
            yield watch
        finally:
            await watch.close()

    async def _snapshot(self, prefix: str) -> Snapshot:
        message = {**self._keys.span(prefix), "limit": str(PAGE_KEY_COUNT)}
        entries: list[Entry] = []
        while True:
            page, revision = await self._read(message)
            pairs = page.get("kvs", ())
            entries += (entry_of(pair, self._keys) for pair in pairs)
            # A later page's header has the newest revision, not the one that was asked for.
            message.setdefault("revision", str(revision))
            if not page.get("more"):
                return Snapshot(entries, int(message["revision"]))
            message["key"] = key_after(pairs[-1]["key"])

    async def _read(self, message: Json) -> tuple[Json, int]:
        """The answer to a range, and the revision that the store has by now."""
        least = self._revision
        answer = await self._call("/v3/kv/range", message)
        return answer, self._revision_of(answer, least)

    def _revision_of(self, answer: Json, least: int) -> int:
        """The store's revision at a linearizable answer. Raises MetadataError if it is below one known before the question."""
        revision = number(answer.get("header", {}), "revision")
        if revision < least:
            raise MetadataError(
                f"{self._client} has gone back from revision {least} to {revision}: was it restored from a backup?"
            )
        self._revision = max(self._revision, revision)
        return revision

    async def _call(
        self, path: str, message: Json, *, repeatable: bool = True, limit_s: float = ATTEMPT_LIMIT_S
    ) -> Json:
        """A call whose refusals are errors of the port."""
        try:
            return await self._client.call(path, message, repeatable=repeatable, limit_s=limit_s)
        except Refused as failure:
            if is_compacted(failure):
                raise _HistoryGone from failure
            raise metadata_error(failure, str(self._client)) from failure


class _HistoryGone(Exception):
    """The revision that a page was asked at has been compacted."""


@asynccontextmanager
async def open_etcd_metadata(
    location: str,
    *,
    clock: Clock,
    random: Random,
    threads: Threads,
    transport: HttpTransport | None = None,
) -> AsyncGenerator[EtcdMetadata, None]:
    """The store behind an etcd location. Asks nothing of it yet: the first call finds out whether it can be reached.

    `transport` takes the place of real sockets. Raises MetadataError for a location that makes no sense or files that can't be read.
    """
    parsed = parse_location(location)
    if parsed.password_file:
        parsed = await threads.run(_with_password, parsed)
    if transport is None:
        transport = await threads.run(_sockets, parsed)
    client = EtcdClient(parsed, transport, clock, random)
    try:
        yield EtcdMetadata(client)
    finally:
        with trio.CancelScope(shield=True):
            await client.close()


def _with_password(location: EtcdLocation) -> EtcdLocation:
    try:
        text = Path(location.password_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MetadataError(f"the password of etcd: {location.password_file}: {error}") from error
    return replace(location, password=text.rstrip("\r\n"))


def _sockets(location: EtcdLocation) -> HttpTransport:
    try:
        context = _tls(location) if location.is_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    except OSError as error:
        raise MetadataError(f"the certificates for etcd: {error}") from error
    return httpx.AsyncHTTPTransport(
        verify=context,
        limits=httpx.Limits(
            max_keepalive_connections=KEPT_CONNECTION_COUNT_MAX, keepalive_expiry=IDLE_CONNECTION_S
        ),
        socket_options=_SOCKET_OPTIONS,
    )


def _tls(location: EtcdLocation) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=location.ca or None)
    if location.certificate:
        context.load_cert_chain(location.certificate, location.key or None)
    return context
