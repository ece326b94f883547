"""A fetch that waits: for bytes, for its time to end, or for the disk.

Owns what wakes it, and that nothing listens for it afterwards. What is read then, and how it is told, is its job's (`api/fetch.py`).
"""

from typing import TYPE_CHECKING

from penstock.broker.partition import GONE, HIGH_WATERMARK_MOVED
from penstock.broker.replies import Parts, Reply
from penstock.runtime.files import StorageError
from penstock.storage.errors import NotResident, OffsetOutOfRange

if TYPE_CHECKING:
    from penstock.broker.api.fetch import FetchJob
    from penstock.broker.partition import Partition


class PendingFetch(Reply):
    """A fetch that waits: for bytes, for its time to end, or for the disk."""

    __slots__ = ("_job", "_listening", "_missing_bytes")

    def __init__(self, job: "FetchJob", missing_bytes: int) -> None:
        super().__init__(job.deadline)
        self._job = job
        self._missing_bytes = missing_bytes
        self._listening = False

    def listen(self) -> None:
        """Wake up when the high watermarks of the partitions have let enough bytes through; for a follower, when they were appended."""
        self._listening = True
        job = self._job
        for _, partition in job.partitions:
            if partition is None:
                continue
            if job.follower is None:
                if not job.leaves_out(partition):
                    partition.fetch_waiters.add(self._notify)
            elif job.holds_back(partition):
                self.deadline = min(self.deadline, job.throttled_until())
            elif job.plan.session is None and not job.leaves_out(partition):
                partition.wait_as_replica(self._notify_replica)
        if job.follower is not None and job.plan.session is not None:
            job.plan.session.waiting = self

    def _notify(self, visible_bytes: int) -> None:
        self._missing_bytes -= visible_bytes
        if self._missing_bytes <= 0 or visible_bytes == GONE:
            self.resolve()

    def hear(self, partition: "Partition", news: int) -> None:
        """A partition of the follower's session has news."""
        if news == GONE or not self._job.leaves_out(partition):
            self._notify_replica(news)

    def _notify_replica(self, news: int) -> None:
        """How far all is committed is no reason to answer, but for whose consumers know no more than that: the next answer tells it."""
        if news > 0:
            self._missing_bytes -= news
            is_due = self._missing_bytes <= 0
        else:
            is_due = news != HIGH_WATERMARK_MOVED or self._job.tells_high_watermarks_at_once
        if is_due:
            self.resolve()

    def hurry(self) -> None:
        """The broker stops: an empty answer is an honest one."""
        self.resolve()

    def try_finish(self) -> Parts | None:
        """The response from what is resident."""
        self.abandon()
        if self._job.follower is not None:
            self._job.look_again()
        try:
            return self._job.respond(self._job.read_now())
        except (NotResident, OffsetOutOfRange, StorageError):
            return None

    async def finish(self) -> Parts:
        """The response, with a worker reading what is not resident."""
        return self._job.respond(await self._job.read_waiting())

    def abandon(self) -> None:
        """Listen no more."""
        if self._listening:
            self._listening = False
            for _, partition in self._job.partitions:
                if partition is None:
                    continue
                if self._job.follower is None:
                    partition.fetch_waiters.discard(self._notify)
                elif partition.replica_waiters is not None:
                    partition.replica_waiters.discard(self._notify_replica)
            session = self._job.plan.session
            if session is not None and session.waiting is self:
                session.waiting = None


__all__ = ["PendingFetch"]
