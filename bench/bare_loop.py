"""The yardstick: the least that a trio server can do for a Produce. Frame, CRC-32C check, base offset, append, answer.

Owns one file of record batches and a listener on loopback. It speaks enough of the protocol for librdkafka (ApiVersions,
Metadata, Produce 9 to 12) and takes every topic for the same one, with one partition. It knows no fetch, no index, no segment and
no error but a closed connection, and it never syncs: what `write.caching=true` means before any flush.

It is the best simple loop, so that being close to it means something: a standard non-blocking socket that is tried before trio is
asked to wait, one receive buffer for a connection, a batch checked and written from where it was received, one send for
all the answers to one receive. And it skips nothing that a broker owes its clients: a batch's lengths, magic and CRC are
checked, and the bytes are in the page cache before the answer leaves.

    python -m bench.bare_loop --port 9092 --file /tmp/bare.log
"""

import os
import socket
import struct

import click
import crc32c
import trio
from trio.lowlevel import checkpoint, wait_readable, wait_writable

PRODUCE, FETCH, METADATA, API_VERSIONS = 0, 1, 3, 18
API_VERSIONS_MAX = 3
# librdkafka writes batches of magic 2 only where Produce 3 and Fetch 4 are in the table, so they are, though not served.
ADVERTISED = ((PRODUCE, 3, 12), (FETCH, 4, 4), (METADATA, 4, 4), (API_VERSIONS, 0, API_VERSIONS_MAX))
UNSUPPORTED_VERSION = 35

RECEIVE_SIZE_BYTES = 128 * 1024
YIELD_AFTER_READS = 16

BATCH_HEADER_SIZE_BYTES = 61
BATCH_LENGTH_END = 12
CRC_START = 21

_SIZE = struct.Struct(">i")
_REQUEST = struct.Struct(">hhih")  # API key, version, correlation id, client id's length
_BATCH = struct.Struct(
    ">qiibIhi"
)  # base offset, length, leader epoch, magic, CRC, attributes, last offset delta
_STAMP = struct.Struct(">qii")  # base offset, length, leader epoch
_PRODUCED_HEAD = struct.Struct(">iiBB")  # length, correlation id, header's tags, topics
_PRODUCED_TAIL = struct.Struct(">BihqqqBBBBiB")  # from the count of partitions to the last tags


class Refused(Exception):
    """What the peer sent is not what this loop serves: the connection ends."""


class BareLog:
    """A file of batches and its next offset."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._position = 0
        self._next_offset = 0

    def append(self, records: memoryview) -> int:
        """Check the one batch in `records`, stamp it and append it; returns its base offset. Raises Refused."""
        size_bytes = len(records)
        if size_bytes < BATCH_HEADER_SIZE_BYTES:
            raise Refused("no batch")
        _, length, _, magic, crc, _, last_offset_delta = _BATCH.unpack_from(records)
        if length + BATCH_LENGTH_END != size_bytes or magic != 2:
            raise Refused("not one batch of magic 2")
        if crc32c.crc32c(records[CRC_START:]) != crc:
            raise Refused("wrong CRC")
        base_offset = self._next_offset
        _STAMP.pack_into(records, 0, base_offset, length, 0)
        if os.pwrite(self._descriptor, records, self._position) != size_bytes:
            raise Refused("short write")
        self._position += size_bytes
        self._next_offset = base_offset + last_offset_delta + 1
        return base_offset


class BareServer:
    """Answers frames; one for all connections."""

    def __init__(self, log: BareLog, port: int) -> None:
        self._log = log
        self._port = port

    def answer(self, frame: memoryview) -> bytes:
        """The whole response, its length in front, to a request without its length. Raises Refused."""
        api_key, version, correlation_id, client_size = _REQUEST.unpack_from(frame)
        position = _REQUEST.size + max(0, client_size)
        if api_key == PRODUCE and 9 <= version <= 12:
            return self._produce(frame, position, correlation_id)
        if api_key == METADATA and version == 4:
            body = self._metadata(frame, position)
        elif api_key == API_VERSIONS:
            body = api_versions(version)
        else:
            raise Refused(f"API {api_key} in version {version}")
        return _SIZE.pack(len(body) + 4) + _SIZE.pack(correlation_id) + body

    def _produce(self, frame: memoryview, position: int, correlation_id: int) -> bytes:
        # No tags, no transactional id; acks and the timeout take six bytes; one topic of one partition.
        if frame[position] != 0 or frame[position + 1] != 0 or frame[position + 8] != 2:
            raise Refused("tags, a transaction or several topics")
        name_start = position + 9
        name_size, position = read_varint(frame, name_start)
        position += name_size - 1
        name = frame[name_start:position]
        if frame[position] != 2:
            raise Refused("several partitions")
        size, position = read_varint(frame, position + 5)
        base_offset = self._log.append(frame[position : position + size - 1])
        length = _PRODUCED_HEAD.size - 4 + len(name) + _PRODUCED_TAIL.size
        head = _PRODUCED_HEAD.pack(length, correlation_id, 0, 2)
        return b"".join((head, name, _PRODUCED_TAIL.pack(2, 0, 0, base_offset, -1, 0, 1, 0, 0, 0, 0, 0)))

    def _metadata(self, frame: memoryview, position: int) -> bytes:
        (count,) = _SIZE.unpack_from(frame, position)
        position += 4
        topics: list[bytes] = []
        for _ in range(count):
            size = int.from_bytes(frame[position : position + 2], "big")
            name = bytes(frame[position : position + 2 + size])
            position += 2 + size
            partition = struct.pack(">hiiiiii", 0, 0, 0, 1, 0, 1, 0)
            topics.append(b"\0\0" + name + struct.pack(">bi", 0, 1) + partition)
        host = b"127.0.0.1"
        broker = struct.pack(f">iih{len(host)}sih", 1, 0, len(host), host, self._port, -1)
        head = b"\0\0\0\0" + broker + struct.pack(">hi", -1, 0)
        return head + _SIZE.pack(len(topics)) + b"".join(topics)


def api_versions(version: int) -> bytes:
    """The body of an ApiVersions response."""
    if version > API_VERSIONS_MAX:
        return struct.pack(">hihhh", UNSUPPORTED_VERSION, 1, API_VERSIONS, 0, API_VERSIONS_MAX)
    ranges = [struct.pack(">hhh", *served) for served in ADVERTISED]
    if version == 3:
        return struct.pack(">hB", 0, len(ranges) + 1) + b"".join(each + b"\0" for each in ranges) + bytes(5)
    return struct.pack(">hi", 0, len(ranges)) + b"".join(ranges) + bytes(4 if version else 0)


def read_varint(view: memoryview, position: int) -> tuple[int, int]:
    """An unsigned varint and the position after it."""
    value = shift = 0
    while True:
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


async def serve_connection(server: BareServer, connected: socket.socket) -> None:
    """Read frames and answer them until the peer leaves or sends what is not served."""
    connected.setblocking(False)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await _serve(server, connected)
    except (Refused, OSError, struct.error, IndexError) as error:
        click.echo(f"closed: {error!r}", err=True)
    finally:
        trio.lowlevel.notify_closing(connected)
        connected.close()


async def _serve(server: BareServer, connected: socket.socket) -> None:
    view = memoryview(bytearray(RECEIVE_SIZE_BYTES))
    have = reads = 0
    limit = len(view)
    while True:
        try:
            count = connected.recv_into(view[have:limit])
        except BlockingIOError:
            await wait_readable(connected)
            reads = 0
            continue
        if count == 0:
            return
        have += count
        if have < limit and limit != len(view):
            continue  # a large frame, not whole yet
        start, need, answers = take_frames(server, view[:have])
        if answers:
            await _send(connected, answers[0] if len(answers) == 1 else b"".join(answers))
        if start:
            have -= start
            view[:have] = view[start : start + have]
        if need > len(view):
            view = _grown(view, have, need)
        # A frame that fills most of the buffer is read to its end and no further, so that nothing has to be moved.
        limit = need if need > RECEIVE_SIZE_BYTES // 2 else len(view)
        reads += 1
        if reads >= YIELD_AFTER_READS:
            reads = 0
            await checkpoint()


def take_frames(server: BareServer, received: memoryview) -> tuple[int, int, list[bytes]]:
    """Answer the whole frames in `received`.

    Returns:
        Where the rest starts, how many bytes the frame there needs in all (0: not known), and the answers.
    """
    start, end = 0, len(received)
    answers: list[bytes] = []
    while end - start >= 4:
        size = 4 + _SIZE.unpack_from(received, start)[0]
        if size < 4:
            raise Refused("a negative length")
        if start + size > end:
            return start, size, answers
        answers.append(server.answer(received[start + 4 : start + size]))
        start += size
    return start, 0, answers


def _grown(view: memoryview, have: int, need: int) -> memoryview:
    larger = memoryview(bytearray(need))
    larger[:have] = view[:have]
    return larger


async def _send(connected: socket.socket, answer: bytes) -> None:
    rest = memoryview(answer)
    while rest:
        try:
            rest = rest[connected.send(rest) :]
        except BlockingIOError:
            await wait_writable(connected)


async def serve(host: str, port: int, path: str) -> None:
    """Listen and serve for ever; prints the port when it listens."""
    with socket.create_server((host, port)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        server = BareServer(BareLog(path), port)
        click.echo(f"listening on {host}:{port}")
        async with trio.open_nursery() as nursery:
            while True:
                await wait_readable(listening)
                connected, _ = listening.accept()
                nursery.start_soon(serve_connection, server, connected)


@click.command()
@click.option("--port", default=0, help="Port on loopback; 0 takes a free one.")
@click.option("--file", "path", required=True, help="File for the batches; emptied at the start.")
def main(port: int, path: str) -> None:
    """Serve Produce with the least that it takes, until killed."""
    trio.run(serve, "127.0.0.1", port, path)


if __name__ == "__main__":
    main()
