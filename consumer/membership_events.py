"""What the pure membership machines are told and what they ask for, where both protocols have it.

Owns values only. Times are monotonic milliseconds. `request` and `callback` are numbers that a machine gave out: what comes back under a number that
it no longer waits for is ignored.
"""

import enum
from dataclasses import dataclass

from penstock.client.metadata import TopicPartition
from penstock.errors import PenstockError
from penstock.protocol.errors import ErrorCode

Partitions = frozenset[TopicPartition]
NOTHING: Partitions = frozenset()


class CallbackKind(enum.Enum):
    """The coroutines of a GroupListener."""

    REVOKE = enum.auto()
    LOSE = enum.auto()
    ASSIGN = enum.auto()


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """No answer came. Worth another try or not is told by `is_retriable`."""

    request: int
    error: PenstockError
    is_retriable: bool


@dataclass(frozen=True, slots=True)
class CallbackFinished:
    """The listener has returned."""

    callback: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """A deadline is due. `ms_since_poll` is the listener's."""

    ms_since_poll: float | None = None


@dataclass(frozen=True, slots=True)
class Polled:
    """A user who was late has come back."""


@dataclass(frozen=True, slots=True)
class LeaveWanted:
    """The consumer is being closed."""


@dataclass(frozen=True, slots=True)
class CallListener:
    """Call the listener; a LOSE cancels the call that is under way, if there is one. Answered by CallbackFinished."""

    callback: int
    kind: CallbackKind
    partitions: Partitions


@dataclass(frozen=True, slots=True)
class AwaitPolled:
    """Tell by Polled when the user has come back."""


@dataclass(frozen=True, slots=True)
class ForgetCoordinator:
    """The coordinator is elsewhere, or nowhere to be reached."""


@dataclass(frozen=True, slots=True)
class AbandonRequest:
    """Its answer does not matter any more, and may be long in coming."""

    request: int


@dataclass(frozen=True, slots=True)
class End:
    """All is done; with an error: it ended for good, and the user is to know."""

    error: PenstockError | None = None


COORDINATOR_MOVED = frozenset({ErrorCode.COORDINATOR_NOT_AVAILABLE, ErrorCode.NOT_COORDINATOR})


__all__ = [
    "COORDINATOR_MOVED",
    "NOTHING",
    "AbandonRequest",
    "AwaitPolled",
    "CallListener",
    "CallbackFinished",
    "CallbackKind",
    "End",
    "ForgetCoordinator",
    "LeaveWanted",
    "Partitions",
    "Polled",
    "RequestFailed",
    "TimePassed",
]
