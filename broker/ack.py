"""Producers' acks that wait for a partition's offsets to be reached.

Two lines, each in the order of offsets: those that wait for the high watermark (acks=all), and those that wait for the leader's
counted end offset (acks=1).
"""

from collections import deque
from collections.abc import Callable

from penstock.protocol.errors import ErrorCode
from penstock.protocol.produce import ProducePartitionResult

_Waiter = tuple[int, ProducePartitionResult, Callable[[], None]]

_NOBODY: deque[_Waiter] = deque()
"""In place of a line that nobody ever waited in, and always empty: a deque takes 760 bytes, and there may be thousands of partitions."""


class PendingAcks:
    """Waiters of one partition. False when nobody waits."""

    __slots__ = ("_for_commit", "_for_leader")

    def __init__(self) -> None:
        self._for_commit = _NOBODY
        self._for_leader = _NOBODY

    def __bool__(self) -> bool:
        return bool(self._for_commit or self._for_leader)

    def add(
        self, end_offset: int, for_commit: bool, result: ProducePartitionResult, done: Callable[[], None]
    ) -> None:
        """Wait until everything below `end_offset` is reached; `done` is called then.

        Until then the result stands at REQUEST_TIMED_OUT, so that whoever gives up waiting has the right answer in hand.
        """
        result.error_code = ErrorCode.REQUEST_TIMED_OUT
        line = self._for_commit if for_commit else self._for_leader
        if line is _NOBODY:
            line = deque[_Waiter]()
            if for_commit:
                self._for_commit = line
            else:
                self._for_leader = line
        line.append((end_offset, result, done))

    def release(self, high_watermark: int, leader_end_offset: int) -> None:
        """Let go those whose offsets have been reached."""
        for line, reached in ((self._for_commit, high_watermark), (self._for_leader, leader_end_offset)):
            while line and line[0][0] <= reached:
                _, result, done = line.popleft()
                result.error_code = ErrorCode.NONE
                done()

    def fail_all(self, code: ErrorCode) -> None:
        """Leadership or the log is gone: nobody can say any more that these will be kept."""
        _fail(self._for_commit, code)
        _fail(self._for_leader, code)

    def fail_commits(self, code: ErrorCode) -> None:
        """The high watermark won't come to them: those that wait for the leader only still may."""
        _fail(self._for_commit, code)


def _fail(line: deque[_Waiter], code: ErrorCode) -> None:
    while line:
        _, result, done = line.popleft()
        result.error_code = code
        result.base_offset = -1
        done()
