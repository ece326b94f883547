"""One client connection: frames in, responses out in order.

Owns the reading of frames, the order of responses and the connection's deadlines. Does not know what any request means: the
dispatcher turns a frame into parts to send, a `Reply` to wait for, or an awaitable that ends in one of these.

Invariants that are easy to break:

- A frame is a view of a buffer that others use too (the broker's scratch, or a pooled one): it is good until the next await.
  Before anything is awaited, unread bytes of the scratch are copied out, and handlers decode or copy before they await.
- Only one task sends at a time: the reader while nothing is pending, else the writer, which ends when nothing is left.
- A claimed length allocates nothing: buffers grow as bytes arrive, against the broker's byte budget.
- A muted connection (KIP-219) is answered, and handles no further request: what it has read waits in a buffer of its own.
"""

import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable

import trio

from penstock.broker.backlog.held_bytes import HeldBytes
from penstock.broker.budget import BufferPool, ByteBudget
from penstock.broker.replies import FileRange, Part, Parts, Reply, release
from penstock.protocol.errors import ProtocolError
from penstock.protocol.produce_again import RepeatedProduce
from penstock.runtime.clock import Clock
from penstock.runtime.files import StorageError
from penstock.runtime.network import ConnectionLost, Stream

log = logging.getLogger(__name__)

SCRATCH_SIZE_BYTES = 256 * 1024
HEAD_WINDOW_BYTES = 8 * 1024
"""What is read at once behind a large frame: the next one is likely large, and goes to a buffer of its own without a copy."""
FIRST_BYTES = 64 * 1024
"""What a frame is given at once; from there its buffer doubles as its bytes arrive."""
ANSWERS_AT_ONCE_MAX = 4
"""Replies that may be sent right where they become ready, for each read of any connection: who waits for a record has it sooner, and
hundreds who wait for the same one hold nobody up."""
ANSWER_AT_ONCE_MAX_BYTES = 16 * 1024
PENDING_REPLIES_MAX = 128
BUFFERS_PER_SEND = 64
SEND_STEP_BYTES = 4 << 20
"""A slow peer shows by each step of this size that it takes its response."""
PRODUCE_KEY = 0
YIELD_AFTER_BYTES = 1 << 20
YIELD_AFTER_READS = 64
HEAD_BYTES = 6
"""Length and API key: what says whether a frame may be as long as it claims."""

_read_size = struct.Struct(">i").unpack_from
_KEY = struct.Struct(">h")

Outcome = Parts | Reply | None
"""Parts to send now, a reply to wait for, or nothing to send (acks=0)."""
Dispatcher = Callable[["Connection", memoryview], "Outcome | Awaitable[Outcome]"]


class ConnectionLimits:
    """What bounds a connection; shared by all connections of a broker."""

    __slots__ = ("frame_bytes_max", "frame_deadline_s", "idle_s", "small_frame_bytes_max", "write_deadline_s")

    def __init__(
        self,
        *,
        frame_bytes_max: int,
        small_frame_bytes_max: int,
        idle_s: float,
        frame_deadline_s: float,
        write_deadline_s: float,
    ) -> None:
        self.frame_bytes_max = frame_bytes_max
        self.small_frame_bytes_max = small_frame_bytes_max
        self.idle_s = idle_s
        self.frame_deadline_s = frame_deadline_s
        self.write_deadline_s = write_deadline_s


class ConnectionShared:
    """What all connections of a broker use in turn."""

    __slots__ = ("answers_at_once_left", "budget", "clock", "dispatch", "limits", "pool", "scratch")

    def __init__(
        self, dispatch: Dispatcher, limits: ConnectionLimits, budget: ByteBudget, clock: Clock
    ) -> None:
        self.dispatch = dispatch
        self.limits = limits
        self.budget = budget
        self.clock = clock
        self.pool = BufferPool()
        self.scratch = memoryview(bytearray(SCRATCH_SIZE_BYTES))
        self.answers_at_once_left = ANSWERS_AT_ONCE_MAX


class Connection:
    """One accepted stream. `serve` runs it to its end."""

    def __init__(self, stream: Stream, listener: str, shared: ConnectionShared) -> None:
        self.peer = stream.peer
        self.listener = listener
        self.repeated_produce: RepeatedProduce | None = None
        """What the next Produce is compared with first."""
        self.repeat_misses = 0
        self.is_crowded_by: HeldBytes | None = None
        """Set where its batches wait for room in a full backlog, and as many wait as may: nothing more is read before that has changed."""
        self._stream = stream
        self._shared = shared
        self._outbox: deque[Parts | Reply] = deque()
        self._nursery: trio.Nursery | None = None
        self._writer_running = False
        self._writer_is_sending = False
        self._wake_writer: trio.Event | None = None
        self._room = trio.lowlevel.ParkingLot()
        self._stopping = False
        self._reading = trio.CancelScope()
        self._interruptible = False
        self._expects_large = False
        self._awaited: Awaitable[None] | None = None
        self._muted_until = 0.0
        self._close_reason = ""
        now = shared.clock.monotonic()
        self._last_active = now
        self._frame_started: float | None = None
        self._send_started: float | None = None

    async def serve(self) -> None:
        """Read and answer until the peer leaves, breaks the rules, runs into a deadline, or the broker stops."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                with self._reading:
                    await self._read_frames()
                if not self._stopping:
                    nursery.cancel_scope.cancel()  # the peer is gone: nobody waits for what is pending
        except* ConnectionLost:
            if self._close_reason:
                log.info("%s: closed: %s", self.peer, self._close_reason)
        except* ProtocolError as errors:
            log.warning("%s: closed: %s", self.peer, _first_line(errors))
        except* StorageError as errors:
            log.error("%s: closed: %s", self.peer, _first_line(errors))
        finally:
            self._stream.close()
            for entry in self._outbox:
                if isinstance(entry, Reply):
                    entry.abandon()
                else:
                    release(entry)
            self._outbox.clear()

    def stop(self) -> None:
        """Take no further request; what is pending is answered, then the connection ends."""
        self._stopping = True
        if self._interruptible:  # else it is handling or sending, and looks at _stopping after that
            self._reading.cancel()
        for entry in tuple(self._outbox):
            if isinstance(entry, Reply):
                entry.hurry()

    def mute_until(self, until: float) -> None:
        """Handle no further request before `until` (monotonic seconds). What was asked before is answered all the same.

        Who calls it while a request is begun lets that be awaited; else those behind it in the same bytes are handled still.
        """
        self._muted_until = max(self._muted_until, until)

    def mute_for(self, seconds: float, at_most_until: float) -> float:
        """As `mute_until`, behind what it is muted for already; returns until when that is."""
        until = max(self._muted_until, self._shared.clock.monotonic()) + seconds
        self.mute_until(min(until, at_most_until))
        return self._muted_until

    def close_if_overdue(self, now: float) -> None:
        """End the connection when a deadline of its own has passed. Called by the broker's sweep."""
        limits = self._shared.limits
        if self._frame_started is not None and now - self._frame_started > limits.frame_deadline_s:
            self._close_reason = f"half a request, then silence for {limits.frame_deadline_s:g} s"
        elif self._send_started is not None and now - self._send_started > limits.write_deadline_s:
            self._close_reason = f"took none of its response for {limits.write_deadline_s:g} s"
        elif now - self._last_active > limits.idle_s and not self._outbox:
            self._close_reason = f"idle for {limits.idle_s:g} s"
        else:
            return
        self._stream.close()

    # Reading

    async def _read_frames(self) -> None:
        shared = self._shared
        scratch = shared.scratch
        receive_into = self._stream.receive_into
        monotonic = shared.clock.monotonic
        reads = total = 0
        while not self._stopping:
            self._interruptible = True
            if shared.budget.disk_is_behind:
                await shared.budget.wait_for_disk()
            if self.is_crowded_by is not None:
                crowd, self.is_crowded_by = self.is_crowded_by, None
                await crowd.wait_for_room()
            window = scratch[:HEAD_WINDOW_BYTES] if self._expects_large else scratch
            count = await receive_into(window)
            self._interruptible = False
            if count == 0:
                return
            if self._stopping:
                return  # told so while these bytes were on their way: reading is cancelled, and would cut a response off
            self._last_active = monotonic()
            shared.answers_at_once_left = ANSWERS_AT_ONCE_MAX
            view = scratch[:count]
            if self._muted_until:
                view = memoryview(bytearray(view))  # others use the scratch meanwhile
                await self._sit_out()
            position = self._take_frames(view)
            if self._awaited is not None:
                # others use the scratch while this connection waits; and a batch is stamped in its frame
                view = memoryview(bytearray(view[position:]))
                position = await self._take_slowly(view)
            if position < len(view):
                total += await self._read_rest(view[position:])
            else:
                self._expects_large = False
                if self._outbox and not self._writer_running:
                    await self._send_ready()
            if len(self._outbox) >= PENDING_REPLIES_MAX:
                await self._wait_for_outbox()
            reads += 1
            total += count
            if total >= YIELD_AFTER_BYTES or reads >= YIELD_AFTER_READS:
                reads = total = 0
                await trio.lowlevel.checkpoint()

    async def _take_slowly(self, view: memoryview) -> int:
        """Wait for what `_awaited` says, and go on with the whole frames in `view`; each answer is sent before the next frame."""
        position = 0
        while self._awaited is not None:
            awaited, self._awaited = self._awaited, None
            await awaited
            if self._outbox and not self._writer_running:
                await self._send_ready()
            if len(self._outbox) >= PENDING_REPLIES_MAX:
                await self._wait_for_outbox()
            if position < len(view):
                await trio.lowlevel.checkpoint()
                position += self._take_frames(view[position:])
        return position

    def _take_frames(self, view: memoryview) -> int:
        """Handle the whole frames in `view`, and return where the rest begins.

        Ends early when a frame's handling is to be awaited: `_awaited` says for what.
        """
        position, end = 0, len(view)
        small_max = self._shared.limits.small_frame_bytes_max
        while end - position >= 4:
            (size,) = _read_size(view, position)
            start = position + 4
            if not 0 <= size <= small_max:
                self._check_size(size, view[start : start + 2])
            if start + size > end:
                break
            position = start + size
            self._handle(view[start:position])
            if self._awaited is not None:
                break
        return position

    async def _read_rest(self, rest: memoryview) -> int:
        """Read the frame that begins with `rest` to its end, and no further, and handle it; returns its size in bytes."""
        self._frame_started = self._last_active
        if len(rest) < HEAD_BYTES:
            rest = await self._read_head(bytearray(rest))
        size: int = _read_size(rest, 0)[0]
        self._check_size(size, rest[4:HEAD_BYTES])
        shared = self._shared
        if size > FIRST_BYTES and shared.budget.is_spent:
            rest = memoryview(bytes(rest))  # others use the scratch while this connection waits
            if self._outbox and not self._writer_running:
                await self._send_ready()
            self._frame_started = None  # it is the broker that keeps the peer waiting
            self._interruptible = True
            await shared.budget.wait_for_room()
            self._interruptible = False
            self._frame_started = shared.clock.monotonic()
        self._expects_large = size >= SCRATCH_SIZE_BYTES
        head = rest[4 : 4 + size]
        buffer = shared.pool.take(size, max(min(size, FIRST_BYTES), len(head)))
        buffer[: len(head)] = head
        reserved = len(buffer)
        shared.budget.reserve(reserved)
        try:
            if self._outbox and not self._writer_running:
                await self._send_ready()
            have = len(head)
            while have < size:
                if have == len(buffer):
                    reserved += await self._grow(buffer, size)
                with memoryview(buffer) as whole:
                    have += await self._receive(whole[have : min(size, len(buffer))])
            self._frame_started = None
            if self._muted_until:
                await self._sit_out()
            with memoryview(buffer) as whole, whole[:size] as frame:
                self._handle(frame)
        finally:
            self._frame_started = None
            shared.budget.release(reserved, self)
        # Not after a failure: its traceback has views of the buffer, which could not grow then.
        shared.pool.give(buffer)
        if self._awaited is not None:
            awaited, self._awaited = self._awaited, None
            await awaited
        if self._outbox and not self._writer_running:
            await self._send_ready()
        return size

    async def _read_head(self, head: bytearray) -> memoryview:
        """The first bytes of a frame: its length and, unless it is shorter, its API key."""
        if self._outbox and not self._writer_running:
            await self._send_ready()
        while len(head) < HEAD_BYTES:
            with memoryview(bytearray(HEAD_BYTES - len(head))) as more:
                head += more[: await self._receive(more)]
            if len(head) >= 4 and _read_size(head, 0)[0] + 4 <= len(head):
                break
        return memoryview(head)

    async def _receive(self, buffer: memoryview) -> int:
        """Receive within a frame: the peer's end is a loss there."""
        self._interruptible = True
        count = await self._stream.receive_into(buffer)
        self._interruptible = False
        if count == 0:
            raise ConnectionLost(f"{self.peer}: left within a frame")
        if self._stopping:
            await trio.lowlevel.checkpoint_if_cancelled()
        return count

    async def _grow(self, buffer: bytearray, size: int) -> int:
        """Make room for more of a frame, against the byte budget; returns by how much."""
        budget = self._shared.budget
        step = min(len(buffer), size - len(buffer))
        if budget.is_spent:
            self._frame_started = None
            self._interruptible = True
        await budget.grow(step, self)
        self._interruptible = False
        if self._frame_started is None:
            self._frame_started = self._shared.clock.monotonic()
        buffer.extend(bytes(step))
        return step

    def _check_size(self, size: int, key: memoryview) -> None:
        """Refuse a frame by its length: over the bound, negative, or large without being a Produce."""
        limits = self._shared.limits
        if size < 0:
            raise ProtocolError(f"a frame of {size} bytes")
        if size > limits.frame_bytes_max:
            raise ProtocolError(
                f"a frame of {size} bytes is over socket.request.max.bytes={limits.frame_bytes_max}"
            )
        if size > limits.small_frame_bytes_max and len(key) == 2 and _KEY.unpack(key)[0] != PRODUCE_KEY:
            raise ProtocolError(
                f"a frame of {size} bytes for API {_KEY.unpack(key)[0]}; only Produce may be over "
                f"{limits.small_frame_bytes_max}"
            )

    # Handling and sending

    def _handle(self, frame: memoryview) -> None:
        """Begin one request. What comes of it is in the outbox, or `_awaited` says what to wait for first."""
        outcome = self._shared.dispatch(self, frame)
        if outcome is None:
            return
        if isinstance(outcome, list):
            self._outbox.append(outcome)
            if len(outcome) > 1 and not self._writer_running:
                self._awaited = self._send_ready()  # log slices are not held while further requests are read
        elif isinstance(outcome, Reply):
            self._add_pending(outcome)
        else:
            self._awaited = self._settle(outcome)

    async def _settle(self, outcome: Awaitable[Outcome]) -> None:
        """Wait for a handler that awaits; its response takes its place behind what is pending."""
        settled = await outcome
        if isinstance(settled, Reply):
            self._add_pending(settled)
        elif settled is not None:
            self._outbox.append(settled)
        if self._muted_until:
            await self._sit_out()

    async def _sit_out(self) -> None:
        """Wait until the connection is muted no more. Answers that are there go out first."""
        if self._outbox and not self._writer_running:
            await self._send_ready()
        self._interruptible = True
        while self._muted_until > self._shared.clock.monotonic() and not self._stopping:  # noqa: ASYNC110 - it may move
            await trio.sleep_until(self._muted_until)
        self._interruptible = False
        self._muted_until = 0.0
        if self._stopping:
            await trio.lowlevel.checkpoint_if_cancelled()

    def _add_pending(self, reply: Reply) -> None:
        self._outbox.append(reply)
        reply.on_ready(self._wake)
        if self._stopping:
            reply.hurry()
        if not self._writer_running:
            assert self._nursery is not None
            self._writer_running = True
            self._nursery.start_soon(self._write)

    def _wake(self) -> None:
        """A reply has become ready, somewhere in the work of another task."""
        if self._writer_running and not self._writer_is_sending and self._shared.answers_at_once_left > 0:
            self._shared.answers_at_once_left -= 1
            self._answer_at_once()
        if self._wake_writer is not None:
            self._wake_writer.set()

    def _answer_at_once(self) -> None:
        """Send the outbox's head, if it is ready and small, before its writer gets to it. Whatever goes wrong, the writer meets again."""
        head = self._outbox[0] if self._outbox else None
        if not isinstance(head, Reply) or not head.ready:
            return
        try:
            parts = head.try_finish()
            if parts is None:
                return
            self._outbox[0] = parts
            if (
                sum(len(part) if isinstance(part, bytes) else part.count for part in parts)
                > ANSWER_AT_ONCE_MAX_BYTES
            ):
                return
            data = b"".join([part if isinstance(part, bytes) else _read_whole(part) for part in parts])
            sent = self._stream.send_now((data,))
        except Exception:  # noqa: BLE001 - not the trouble of the task whose work made it ready
            return
        release(parts)
        if sent == len(data):
            self._outbox.popleft()
        else:
            self._outbox[0] = [data[sent:]]

    async def _write(self) -> None:
        """The writer: sends in order, waits for the head, ends when the outbox is empty."""
        monotonic = self._shared.clock.monotonic
        while self._outbox:
            head = self._outbox[0]
            if isinstance(head, Reply):
                await self._wait_for(head)
                self._writer_is_sending = True
                # else it was sent where it became ready
                is_due = bool(self._outbox) and self._outbox[0] is head
                if is_due and not self._finish_some():
                    self._outbox[0] = await head.finish()
                self._last_active = monotonic()  # the wait was not for the peer to take its response
            self._writer_is_sending = True
            await self._send_ready()
            self._writer_is_sending = False
            self._last_active = monotonic()
            if self._room:
                self._room.unpark_all()
        self._writer_running = False

    async def _wait_for(self, head: Reply) -> None:
        """Until it is ready, past its deadline, or sent by whoever made it ready."""
        monotonic = self._shared.clock.monotonic
        try:
            while not head.ready and head.deadline > monotonic():
                self._wake_writer = trio.Event()
                with trio.move_on_at(head.deadline):
                    await self._wake_writer.wait()
        finally:
            self._wake_writer = None

    def _finish_some(self) -> bool:
        """Turn the replies at the outbox's head that are due into parts, as far as that takes no waiting."""
        outbox = self._outbox
        for place in range(min(len(outbox), BUFFERS_PER_SEND)):
            entry = outbox[place]
            if isinstance(entry, Reply):
                parts = entry.try_finish() if entry.ready or place == 0 else None
                if parts is None:
                    return place > 0
                outbox[place] = parts
        return True

    async def _wait_for_outbox(self) -> None:
        while len(self._outbox) >= PENDING_REPLIES_MAX and self._writer_running:
            await self._room.park()

    async def _send_ready(self) -> None:
        """Send parts from the outbox's head up to the first pending reply: bytes together, log slices by sendfile."""
        stream, outbox = self._stream, self._outbox
        self._send_started = self._last_active
        if len(outbox) == 1:  # the common case: one answer, of one part
            parts = outbox[0]
            if isinstance(parts, list) and len(parts) == 1 and isinstance(part := parts[0], bytes):
                outbox.clear()
                await stream.send_all((part,))
                self._send_started = None
                return
        gathered: list[bytes] = []
        while outbox:
            entry = outbox[0]
            if isinstance(entry, Reply):
                break
            outbox.popleft()
            if len(entry) == 1 and type(entry[0]) is bytes:
                gathered.append(entry[0])
                if len(gathered) >= BUFFERS_PER_SEND:
                    await stream.send_all(gathered)
                    gathered = []
            else:
                await self._send_mixed(gathered, entry)
                gathered = []
        if gathered:
            await stream.send_all(gathered)
        self._send_started = None

    async def _send_mixed(self, gathered: list[bytes], parts: Parts) -> None:
        sent = 0
        try:
            for part in parts:
                if isinstance(part, bytes):
                    gathered.append(part)
                else:
                    if gathered:
                        await self._stream.send_all(gathered, more=True)
                        gathered.clear()
                    await self._send_range(part)
                    part.release()
                sent += 1
            if gathered:
                await self._stream.send_all(gathered)
        finally:
            release(parts[sent:])

    async def _send_range(self, part: FileRange) -> None:
        """Send a log slice; the deadline is for each step of it, since a large one takes a slow peer long."""
        position, end = part.position, part.position + part.count
        while position < end:
            count = min(SEND_STEP_BYTES, end - position)
            await self._stream.send_file(part.file, position, count)
            self._send_started = self._shared.clock.monotonic()
            position += count


def _read_whole(part: FileRange) -> bytes:
    """The bytes of a small range that is in the page cache. Raises ConnectionLost where the file has fewer than were promised."""
    data = part.file.pread(part.count, part.position)
    if len(data) < part.count:
        raise ConnectionLost("a log ended early")
    return data


def _first_line(error: BaseException) -> str:
    """The message of the first leaf of an exception group, on one line."""
    while nested := getattr(error, "exceptions", ()):
        error = nested[0]
    return " ".join(str(error).split())


__all__ = ["Connection", "ConnectionLimits", "ConnectionShared", "Outcome", "Part"]
