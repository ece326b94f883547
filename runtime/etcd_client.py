"""Calls to an etcd cluster: which member is asked, for how long, as whom, and what is known when no answer comes.

Owns the HTTP transport (injected, so that simulation can run all of this), the members' order and their health, and the authentication
token. Knows no key, no lease and no watch; `etcd_metadata` and `etcd_watch` do.

Invariants:

- A call that may have been received and got no answer is never sent again, unless it may be done twice (`repeatable`).
- Each attempt has a bound, all attempts of a call together have one, and between rounds over the members there is a growing pause.
- A member that fails is asked last from then on, and the watches that read from it are told at once.
- No password and no token is in an error or a log line; at most one task authenticates.
"""

import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol, cast

import httpx
import trio

from penstock.runtime.clock import Clock, Random
from penstock.runtime.etcd_location import EtcdLocation
from penstock.runtime.etcd_messages import (
    CallFailed,
    Json,
    MaybeDone,
    NotDone,
    Refused,
    TokenRefused,
    answer_of,
    is_authentication_off,
    metadata_error,
)
from penstock.runtime.metadata import MetadataError, MetadataUnavailable, OutcomeUnknown

CONNECT_LIMIT_S = 1.0
ATTEMPT_LIMIT_S = 2.0
"""For what a member answers without writing, or by itself."""
WRITE_LIMIT_S = 5.0
"""For a transaction: to give up on one costs its caller a look at what became of it."""
PATIENCE_S = 1.5
"""For how long a call that was not done begins another round over the members."""
PAUSE_MIN_S = 0.05
PAUSE_MAX_S = 0.8
ANSWER_SIZE_BYTES_MAX = 64 * 1024 * 1024
_AUTHENTICATION_COUNT_MAX = 2


class HttpTransport(Protocol):
    """What is used of `httpx.AsyncBaseTransport`. Raises httpx.TransportError."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the response when its headers are there."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


class _Body(httpx.AsyncByteStream):
    """A request's body. httpx's own is a generator, of which trio warns when a connection breaks before it is sent."""

    def __init__(self, content: bytes) -> None:
        self._rest = content

    def __aiter__(self) -> "_Body":
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._rest:
            raise StopAsyncIteration
        content, self._rest = self._rest, b""
        return content


class Reply:
    """The response to one request: its status, and its body as it comes. One task at a time."""

    def __init__(self, response: httpx.Response) -> None:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        self.status = response.status_code
        self._stream = response.stream
        self._chunks = aiter(response.stream)
        self._has_ended = False

    async def read(self) -> bytes:
        """The next bytes; empty at the end. Raises MaybeDone when the connection breaks. Cancelled, it can only be closed."""
        chunk = b""
        try:
            with _mapped_errors():
                chunk = await anext(self._chunks, b"")
        finally:
            self._has_ended = not chunk
        return chunk

    async def whole(self) -> bytes:
        """All of a bounded body. Raises MaybeDone."""
        body = bytearray()
        while chunk := await self.read():
            body += chunk
            if len(body) > ANSWER_SIZE_BYTES_MAX:
                raise MaybeDone(f"an answer of more than {ANSWER_SIZE_BYTES_MAX} bytes")
        return bytes(body)

    async def close(self) -> None:
        """Give the connection back, or close it if there is more to come. Not cancelled."""
        # httpx reads through generators inside generators. Leaving them half-way would leave them to the garbage collector, and trio
        # warns of that; a read that is cancelled ends all of them.
        with trio.CancelScope(shield=True) as reading, suppress(CallFailed):
            reading.cancel()
            while not self._has_ended:
                await self.read()
        with trio.CancelScope(shield=True):
            await self._stream.aclose()


class Member:
    """One endpoint of the cluster."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reading: set[trio.CancelScope] = set()
        """The reads of watches on this member; they are cancelled when it is suspected."""

    @property
    def name(self) -> str:
        """For messages."""
        return self.url.partition("://")[2]


class EtcdClient:
    """Calls and streams. Made for one location; closed by its owner."""

    def __init__(
        self,
        location: EtcdLocation,
        transport: HttpTransport,
        clock: Clock,
        random: Random,
    ) -> None:
        self.location = location
        self.clock = clock
        self.random = random
        self._transport = transport
        self._members = [Member(url) for url in location.urls]
        # The brokers of a cluster are told the same list: each begins elsewhere.
        self._first = random.randrange(0, len(self._members))
        self._token = ""
        self._wants_token = bool(location.user)
        self._was_let_in = False
        self._authenticating = trio.Lock()
        self._cluster_id = ""

    def __str__(self) -> str:
        return f"etcd at {', '.join(self.location.addresses)}"

    async def close(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def call(
        self, path: str, message: Json, *, repeatable: bool = True, limit_s: float = ATTEMPT_LIMIT_S
    ) -> Json:
        """Send a message to the members, one after the other, until one answers.

        Raises:
            MetadataUnavailable: no member did it (or, `repeatable`, no member answered).
            OutcomeUnknown: the reply was lost, and the call is not `repeatable`.
            Refused: the answer is no.
            MetadataError: user or password are refused.
        """
        content = json.dumps(message).encode()
        ends = self.clock.monotonic() + PATIENCE_S
        pause = PAUSE_MIN_S
        while True:
            failures: list[str] = []
            for member in self.members():
                try:
                    return await self._call_member(member, path, content, limit_s)
                except MaybeDone as failure:
                    self.suspect(member)
                    if not repeatable:
                        raise OutcomeUnknown(f"{self}: {member.name}: {failure}") from failure
                    failures.append(f"{member.name}: {failure}")
                except NotDone as failure:
                    self.suspect(member)
                    failures.append(f"{member.name}: {failure}")
            if self.clock.monotonic() + pause >= ends:
                raise MetadataUnavailable(f"etcd can't be reached: {'; '.join(failures)}{self._hint()}")
            await trio.sleep(pause * (0.5 + self.random.random() / 2))
            pause = min(2 * pause, PAUSE_MAX_S)

    def _hint(self) -> str:
        # A server that misses the certificate breaks the connection, often without a word that reaches us.
        return " (with TLS, without a client certificate)" if self.location.lacks_certificate else ""

    def members(self) -> Sequence[Member]:
        """All members in the order in which to ask them: whoever answered last before who failed."""
        return self._members[self._first :] + self._members[: self._first]

    def suspect(self, member: Member) -> None:
        """A member has failed: the others are asked first from now on, and the watches on it look for another."""
        if self._members[self._first] is member:
            self._first = (self._first + 1) % len(self._members)
        for scope in tuple(member.reading):
            scope.cancel()

    # One member.

    async def _call_member(self, member: Member, path: str, content: bytes, limit_s: float) -> Json:
        for _ in range(_AUTHENTICATION_COUNT_MAX):
            token = await self.token(member)
            try:
                return await self._ask(member, path, content, limit_s, token)
            except TokenRefused as failure:
                self.forget_token(token, failure)
        raise NotDone("it takes none of the tokens that it gives")

    async def _ask(self, member: Member, path: str, content: bytes, limit_s: float, token: str) -> Json:
        with trio.move_on_after(limit_s):
            reply = await self.open(member, path, content, token)
            try:
                answer = answer_of(reply.status, await reply.whole())
            finally:
                await reply.close()
            self.check_cluster(member, answer)
            return answer
        raise MaybeDone(f"no answer within {limit_s:g} s")

    async def open(self, member: Member, path: str, content: bytes, token: str) -> "Reply":
        """Send one request to one member; the caller closes the reply. Raises NotDone, MaybeDone."""
        request = httpx.Request(
            "POST",
            member.url + path,
            headers={"Host": member.name, "Content-Length": str(len(content)), **_headers(token)},
            stream=_Body(content),
            extensions={"timeout": {"connect": CONNECT_LIMIT_S}},
        )
        with _mapped_errors():
            return Reply(await self._transport.handle_async_request(request))

    def check_cluster(self, member: Member, answer: Json) -> None:
        """Raise MetadataError if a member is of another cluster than the others."""
        header = answer.get("header") or answer.get("result", {}).get("header", {})
        cluster_id = str(header.get("cluster_id", ""))
        if not cluster_id:
            return
        if not self._cluster_id:
            self._cluster_id = cluster_id
        if cluster_id != self._cluster_id:
            raise MetadataError(f"{self}: {member.name} is a member of another etcd cluster than the others")

    # Authentication.

    async def token(self, member: Member) -> str:
        """The token to send, fetched from `member` if there is none; empty where none is wanted. Raises CallFailed, MetadataError."""
        if not self._wants_token or self._token:
            return self._token
        async with self._authenticating:
            if not self._token and self._wants_token:
                await self._authenticate(member)
            return self._token

    def forget_token(self, token: str, failure: CallFailed) -> None:
        """A member has refused `token`: the next call fetches a new one. Raises MetadataError if there is no user to do it as."""
        if not self.location.user:
            raise MetadataError(f"{self} wants a user and a password: {failure}")
        self._wants_token = True
        if self._token == token:
            self._token = ""

    def renew_token(self) -> None:
        """Fetch a new token at the next call: this one may have expired."""
        self._token = ""

    async def _authenticate(self, member: Member) -> None:
        message = {"name": self.location.user, "password": self.location.password}
        content = json.dumps(message).encode()
        try:
            answer = await self._ask(member, "/v3/auth/authenticate", content, ATTEMPT_LIMIT_S, "")
        except MaybeDone as failure:
            raise NotDone(str(failure)) from failure  # of the call that needs the token, nothing was sent
        except Refused as failure:
            if is_authentication_off(failure):
                self._wants_token = False
            elif self._was_let_in:
                # The password is being changed, perhaps. A start with a wrong one fails; what runs goes on as long as its lease does.
                raise NotDone(str(failure)) from failure
            else:
                raise metadata_error(failure, f"{self}, user {self.location.user!r}") from failure
        else:
            self._token = str(answer.get("token", ""))
            self._was_let_in = True


def _headers(token: str) -> Mapping[str, str]:
    # Without a leader there is no answer, and to wait for one on this member helps nobody.
    headers = {"Content-Type": "application/json", "Grpc-Metadata-hasleader": "true"}
    return {**headers, "Authorization": token} if token else headers


@contextmanager
def _mapped_errors() -> Generator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise NotDone(_reason(error)) from error
    except httpx.TransportError as error:
        raise MaybeDone(_reason(error)) from error


def _reason(error: Exception) -> str:
    """What happened, in the words of the system where it has some: httpx and trio wrap them several times."""
    if isinstance(error, httpx.ConnectTimeout):
        return f"no connection within {CONNECT_LIMIT_S:g} s"
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, BaseExceptionGroup):
            inner = cast(BaseExceptionGroup[BaseException], inner).exceptions[0]
        if isinstance(inner, ConnectionError) and inner.errno:
            return os.strerror(inner.errno)  # trio adds the address, which the message has already
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return str(error) or "the connection broke"
