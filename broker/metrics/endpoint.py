"""The metrics over HTTP: `GET /metrics` on the address of `metrics.listener`, for Prometheus and whatever reads its format.

Owns the listener's connections and the little of HTTP/1.1 that this needs: one request for each connection, whose head is at most 8 KiB and whole within
ten seconds; whatever body comes with it is not read. Nothing is kept between two questions: figures are gathered when somebody asks, and the event loop
gets its turn between their families. There is no authentication: bind it to an address that only those reach who may see topic and group names.
"""

import logging
from typing import TYPE_CHECKING

import trio

from penstock import __version__
from penstock.broker.backlog.figures import gather
from penstock.broker.metrics.text import CONTENT_TYPE, backlog_texts, info_text
from penstock.runtime.files import TooManyOpenFiles
from penstock.runtime.network import ConnectionLost, Listener, Stream

if TYPE_CHECKING:
    from penstock.broker.broker import Broker

log = logging.getLogger(__name__)

HEAD_SIZE_BYTES_MAX = 8192
DEADLINE_S = 10.0
CONNECTIONS_MAX = 16
ACCEPT_BACKOFF_S = 0.1


class MetricsEndpoint:
    """See the module."""

    def __init__(self, broker: "Broker") -> None:
        self._broker = broker
        self._connections = 0

    async def run(self, listener: Listener) -> None:
        """Answer until the listener is closed or this is cancelled; one connection too many is closed at once."""
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    stream = await listener.accept()
                except TooManyOpenFiles:
                    await trio.sleep(ACCEPT_BACKOFF_S)
                    continue
                except ConnectionLost:
                    return
                if self._connections >= CONNECTIONS_MAX:
                    stream.close()
                    continue
                self._connections += 1
                nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: Stream) -> None:
        try:
            with trio.move_on_after(DEADLINE_S):
                head = await _read_head(stream)
                if head is not None:
                    await stream.send_all([await self._answer(head)])
        except ConnectionLost:
            pass
        except Exception:
            log.exception("%s: a question for metrics was ended by a bug", stream.peer)
        finally:
            self._connections -= 1
            stream.close()

    async def _answer(self, head: bytes) -> bytes:
        if len(head) > HEAD_SIZE_BYTES_MAX:
            return _response("431 Request Header Fields Too Large", "text/plain", "the request is too long\n")
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return _response("400 Bad Request", "text/plain", "this is no HTTP/1 request\n")
        method, target = words[0], words[1].partition(b"?")[0]
        if target != b"/metrics":
            return _response("404 Not Found", "text/plain", "only /metrics is here\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "text/plain", "ask with GET\n", "Allow: GET, HEAD\r\n")
        answer = _response("200 OK", CONTENT_TYPE, await self._text())
        return answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == b"HEAD" else answer

    async def _text(self) -> str:
        broker = self._broker
        found = await gather(broker.partitions, broker.clock, broker.threads)
        figures = {(partition.topic, partition.index): each for partition, each in found.items()}
        texts = [info_text(version=__version__, cluster_id=broker.cluster_id, node_id=broker.config.node_id)]
        for text in backlog_texts(figures):
            texts.append(text)
            await trio.lowlevel.checkpoint()  # a thousand partitions are a millisecond for each family
        return "".join(texts)


async def _read_head(stream: Stream) -> bytes | None:
    """What came up to the empty line; more than HEAD_SIZE_BYTES_MAX where there is none, None at the end of the stream."""
    head = bytearray()
    buffer = bytearray(4096)
    while b"\r\n\r\n" not in head and len(head) <= HEAD_SIZE_BYTES_MAX:
        count = await stream.receive_into(buffer)
        if not count:
            return None
        head += buffer[:count]
        await trio.lowlevel.checkpoint()
    return bytes(head)


def _response(status: str, content_type: str, text: str, more: str = "") -> bytes:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}"
    return head.encode() + b"Connection: close\r\n\r\n" + body


__all__ = ["MetricsEndpoint"]
