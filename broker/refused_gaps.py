"""What looks like a gap in a producer's sequence because this broker itself has just refused the batch before. Pure.

Owns the last refusal of one partition after which clients send again: not the leader (or fenced for a moment), too few replicas, no room, not open yet. Knows no
producers.

An idempotent producer has several batches on their way. Where the first is refused so and the next finds the partition served again (its fence
lifted, its ISR whole), the next is out of sequence, and no fault of the producer: it will send both again, in order. OUT_OF_ORDER_SEQUENCE_NUMBER
would say that something is lost. Java's producer knows better and tries again; librdkafka begins a new epoch with all that it has in flight
anywhere, also with what it was not told is there: then that is there twice. So for a while the next is told what the first was. Where the
refused batch was the producer's first, the next would even be taken, since a producer that is not known may begin anywhere: before what was sent first.

Source: Kafka's `Sender.canRetry`; librdkafka's `rd_kafka_handle_Produce_error`.
"""

from penstock.protocol.errors import ErrorCode

MEMORY_S = 10.0
"""How long a batch may have been on its way when the one before it was refused."""


class RefusedGaps:
    """See the module. Times are monotonic seconds."""

    __slots__ = ("_code", "_code_until", "until")

    def __init__(self) -> None:
        self._code = ErrorCode.NONE
        self._code_until = 0.0
        self.until = 0.0
        """Until then a producer of which the log knows nothing may only begin with sequence 0: another number may come behind what was refused."""

    def refuse(self, code: ErrorCode, now: float) -> ErrorCode:
        """Take note that a batch is refused with a code after which it is sent again; returns the code."""
        self._code = code
        self._code_until = self.until = now + MEMORY_S
        return code

    def skip(self, base_sequence: int, now: float) -> None:
        """Take note that a batch is refused with a code after which it is *not* sent again as it is: its producer closes the gap by itself, or splits it.

        Those behind it that are on their way are out of order, and are to be told so: that is when a client gives them other sequences. It matters only of
        what may be its producer's first: whoever else is unknown may begin anywhere, however often others are refused.
        """
        if base_sequence == 0:
            self.until = now + MEMORY_S

    def code_of(self, code: ErrorCode, now: float) -> ErrorCode:
        """What to answer to a batch that must not be appended because of `code`."""
        if code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER and now < self._code_until:
            return self._code
        return code


__all__ = ["RefusedGaps"]
