"""A response that a handler of `Message`s gives later: JoinGroup and SyncGroup wait for other members.

Keeps its place in its connection's order, and lets the connection read on. Knows no API: it encodes whatever `Message` it is given.
"""

import math
from collections.abc import Callable

from penstock.broker.context import RequestContext
from penstock.broker.replies import Parts, Reply
from penstock.protocol.codec import encode_response
from penstock.protocol.framing import response_prefix
from penstock.protocol.message import Message


def encode_parts(context: RequestContext, response: Message) -> Parts:
    """A whole response, as it is sent."""
    if context.throttle_time_ms:
        response = Message(**{**vars(response), "throttle_time_ms": context.throttle_time_ms})
    body = encode_response(context.api_key, context.api_version, response)
    return [response_prefix(context.api_key, context.api_version, context.correlation_id, len(body)) + body]


class PendingResponse(Reply):
    """Resolved by `answer`. Where the broker stops first, `refuse` says what to tell; `forget` is called when the connection is gone."""

    __slots__ = ("_context", "_message", "forget", "refuse")

    def __init__(self, context: RequestContext) -> None:
        super().__init__(math.inf)
        self._context = context
        self._message: Message | None = None
        self.refuse: Callable[[], Message] | None = None
        self.forget: Callable[[], None] | None = None

    def answer(self, message: Message) -> None:
        """The response is there. Only the first one counts."""
        if self._message is None:
            self._message = message
            self.resolve()

    @property
    def message(self) -> Message | None:
        """The response, when it is there."""
        return self._message

    def hurry(self) -> None:
        """The broker stops: nobody else will come."""
        if self._message is None and self.refuse is not None:
            self.abandon()
            self.answer(self.refuse())

    def try_finish(self) -> Parts | None:
        """The response."""
        assert self._message is not None
        return encode_parts(self._context, self._message)

    def abandon(self) -> None:
        """Nobody is there to be answered."""
        if self.forget is not None:
            self.forget()
            self.forget = None
