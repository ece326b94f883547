"""The exceptions of the client libraries.

Owns what a caller can catch: `BrokerError`, one code of Kafka's in an answer, with subclasses only where callers branch, and the
errors that arise before any answer (nobody to connect to, no version in common). Lost connections and unreachable
addresses are the network port's `ConnectionLost` and `AddressError`.
"""

from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode, ProtocolError


class BrokerError(PenstockError):
    """A broker answered with an error code.

    `code` is Kafka's; a number that this version does not know shows as UNKNOWN_SERVER_ERROR with the number in the message.
    """

    def __init__(self, code: ErrorCode, message: str = "") -> None:
        super().__init__(f"{message} ({code.name})" if message else code.name)
        self.code = code

    @property
    def is_retriable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.code.is_retriable


class UnknownTopic(BrokerError):
    """The topic, topic id or partition is not there."""


class TopicExists(BrokerError):
    """A topic of that name is there already."""


class OffsetOutOfRange(BrokerError):
    """The offset is below the log start offset or above the high watermark."""


class AuthorizationFailed(BrokerError):
    """The principal may not do that."""


class UnknownGroup(BrokerError):
    """There is no group of that id (of the kind that was asked for)."""


class GroupNotEmpty(BrokerError):
    """The group has members, or is subscribed to the topic: it is not the time to delete."""


class GroupFenced(BrokerError):
    """Another consumer has taken the place of this static member: it has the same group_instance_id."""


class RebalanceInProgress(BrokerError):
    """The group is rebalancing: try again once that is over."""


class CommitFailed(PenstockError):
    """The offsets were not committed and never will be: their partitions have been given to other members (or soon will be)."""


class BacklogFull(BrokerError):
    """The topic's backlog is at its bound (`backlog.policy=reject`), or another policy of the broker's refuses the records. Nothing was appended."""


class ProducerFenced(BrokerError):
    """Another producer took over this one's identity; it can't write any more. Make a new one."""


class DeliveryFailed(PenstockError):
    """Records were not acked. `may_be_delivered` tells whether they may be in the log all the same."""

    def __init__(self, message: str, *, may_be_delivered: bool) -> None:
        super().__init__(message)
        self.may_be_delivered = may_be_delivered


class DeliveryTimedOut(DeliveryFailed):
    """No ack within `delivery_timeout_ms`, whatever was tried; the cause is what went wrong last."""


class BufferFull(PenstockError):
    """There is no room for the record now, and the call does not wait."""


class BootstrapFailed(PenstockError):
    """None of the bootstrap addresses could be connected to; the message says why for each."""


class RequestOutcomeUnknown(PenstockError):
    """The connection was lost before the answer to a change came: the broker may or may not have made it. Look before doing it again."""


class UnsupportedByBroker(PenstockError):
    """The broker serves no version of the API that the client speaks, or that has what was asked for."""


class ResponseTooLarge(ProtocolError):
    """An answer is over the bound. The connection was closed before the answer was read."""


_CLASSES: dict[ErrorCode, type[BrokerError]] = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: UnknownTopic,
    ErrorCode.UNKNOWN_TOPIC_ID: UnknownTopic,
    ErrorCode.TOPIC_ALREADY_EXISTS: TopicExists,
    ErrorCode.OFFSET_OUT_OF_RANGE: OffsetOutOfRange,
    ErrorCode.GROUP_ID_NOT_FOUND: UnknownGroup,
    ErrorCode.NON_EMPTY_GROUP: GroupNotEmpty,
    ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC: GroupNotEmpty,
    ErrorCode.FENCED_INSTANCE_ID: GroupFenced,
    ErrorCode.UNRELEASED_INSTANCE_ID: GroupFenced,
    ErrorCode.REBALANCE_IN_PROGRESS: RebalanceInProgress,
    ErrorCode.PRODUCER_FENCED: ProducerFenced,
    ErrorCode.TOPIC_AUTHORIZATION_FAILED: AuthorizationFailed,
    ErrorCode.GROUP_AUTHORIZATION_FAILED: AuthorizationFailed,
    ErrorCode.CLUSTER_AUTHORIZATION_FAILED: AuthorizationFailed,
    ErrorCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: AuthorizationFailed,
}


def broker_error(code: int, message: str | None = None, *, subject: str = "") -> BrokerError:
    """The exception for a code (not 0) of an answer. `subject` is what it is about; `message` what the broker wrote, if anything."""
    try:
        known = ErrorCode(code)
    except ValueError:
        known, message = ErrorCode.UNKNOWN_SERVER_ERROR, f"error code {code}: {message or 'no message'}"
    words = known.name.lower().replace("_", " ")
    text = ": ".join(part for part in (subject, message or words) if part)
    return _CLASSES.get(known, BrokerError)(known, text)


__all__ = [
    "AuthorizationFailed",
    "BacklogFull",
    "BootstrapFailed",
    "BrokerError",
    "BufferFull",
    "CommitFailed",
    "DeliveryFailed",
    "DeliveryTimedOut",
    "GroupFenced",
    "GroupNotEmpty",
    "OffsetOutOfRange",
    "ProducerFenced",
    "RebalanceInProgress",
    "RequestOutcomeUnknown",
    "ResponseTooLarge",
    "TopicExists",
    "UnknownGroup",
    "UnknownTopic",
    "UnsupportedByBroker",
    "broker_error",
]
