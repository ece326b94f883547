"""What each error code of a Produce answer means for the batch. A table; no state.

Source: Kafka's `Sender.completeBatch` and `Errors`; KIP-360 for the sequences, KIP-951 for leaders.
"""

import enum
from typing import Final

from penstock.client.errors import BacklogFull, BrokerError, broker_error
from penstock.protocol.errors import ErrorCode


class Verdict(enum.Enum):
    """What is to be done with a batch."""

    DELIVERED = enum.auto()
    REFUSED = enum.auto()
    """Not in the log, and trying again would not help."""
    RETRY = enum.auto()
    """Not in the log; the same request may succeed later."""
    RETRY_ELSEWHERE = enum.auto()
    """As RETRY, after asking who leads the partition now."""
    RETRY_UNCLEAR = enum.auto()
    """As RETRY, but the batch may be in the log."""
    RETRY_ELSEWHERE_UNCLEAR = enum.auto()
    """As RETRY_ELSEWHERE, but the batch may be in the log: a leader that is deposed, or whose disk fails, says so of what it had appended, too."""
    RESEQUENCE = enum.auto()
    """Not in the log, for its sequence."""
    SPLIT = enum.auto()
    """Not in the log; smaller batches may be taken."""
    FATAL = enum.auto()
    """This producer can't write any more."""


_VERDICTS: Final[dict[int, Verdict]] = {
    ErrorCode.NONE: Verdict.DELIVERED,
    ErrorCode.DUPLICATE_SEQUENCE_NUMBER: Verdict.DELIVERED,
    ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER: Verdict.RESEQUENCE,
    ErrorCode.UNKNOWN_PRODUCER_ID: Verdict.RESEQUENCE,
    ErrorCode.INVALID_PRODUCER_EPOCH: Verdict.RESEQUENCE,
    ErrorCode.MESSAGE_TOO_LARGE: Verdict.SPLIT,
    ErrorCode.RECORD_LIST_TOO_LARGE: Verdict.SPLIT,
    ErrorCode.PRODUCER_FENCED: Verdict.FATAL,
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED: Verdict.FATAL,
    ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: Verdict.FATAL,
    ErrorCode.REQUEST_TIMED_OUT: Verdict.RETRY_UNCLEAR,
    ErrorCode.NOT_ENOUGH_REPLICAS_AFTER_APPEND: Verdict.RETRY_UNCLEAR,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: Verdict.RETRY_ELSEWHERE_UNCLEAR,
    ErrorCode.LEADER_NOT_AVAILABLE: Verdict.RETRY_ELSEWHERE,
    ErrorCode.REPLICA_NOT_AVAILABLE: Verdict.RETRY_ELSEWHERE,
    ErrorCode.BROKER_NOT_AVAILABLE: Verdict.RETRY_ELSEWHERE,
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: Verdict.RETRY_ELSEWHERE,
    ErrorCode.UNKNOWN_TOPIC_ID: Verdict.RETRY_ELSEWHERE,
    ErrorCode.INCONSISTENT_TOPIC_ID: Verdict.RETRY_ELSEWHERE,
    ErrorCode.KAFKA_STORAGE_ERROR: Verdict.RETRY_ELSEWHERE_UNCLEAR,
    ErrorCode.FENCED_LEADER_EPOCH: Verdict.RETRY_ELSEWHERE,
    ErrorCode.UNKNOWN_LEADER_EPOCH: Verdict.RETRY_ELSEWHERE,
    ErrorCode.NETWORK_EXCEPTION: Verdict.RETRY_ELSEWHERE_UNCLEAR,
}


def verdict(code: int) -> Verdict:
    """What a code means; numbers that nobody knows are refusals."""
    known = _VERDICTS.get(code)
    if known is not None:
        return known
    try:
        return Verdict.RETRY if ErrorCode(code).is_retriable else Verdict.REFUSED
    except ValueError:
        return Verdict.REFUSED


def produce_error(code: int, message: str | None, subject: str) -> BrokerError:
    """The exception for a code of a Produce answer."""
    if code == ErrorCode.POLICY_VIOLATION:
        text = message or "the backlog is full"
        named = text if text.startswith(f"{subject}: ") else f"{subject}: {text}"
        return BacklogFull(ErrorCode.POLICY_VIOLATION, named)
    return broker_error(code, message, subject=subject)


__all__ = ["Verdict", "produce_error", "verdict"]
