"""A fetch that waits: for bytes, for its time to end, or for the disk.

Owns what wakes it, what it takes meanwhile, and that nothing listens for it afterwards, nor is held for it. What is read then, and how it
is told, is its job's (`api/fetch.py`).
"""

from typing import TYPE_CHECKING

from penstock.broker.partition import GONE, HIGH_WATERMARK_MOVED
from penstock.broker.replies import Parts, Reply
from penstock.runtime.files import StorageError
from penstock.storage.errors import NotResident, OffsetOutOfRange

if TYPE_CHECKING:
    from penstock.broker.api.fetch import FetchJob
    from penstock.broker.partition import Partition

UNCOUNTED_BYTES = 8 * 1024
"""So much a fetch may take while it waits without being counted: some twenty partitions."""


def bytes_to_wait(partition_count: int, forgotten_count: int, frame_bytes: int) -> int:
    """About what a fetch takes at most: 345 for a partition listened to, 100 for one that leaves the session, four for a name's character."""
    return 350 * partition_count + 120 * forgotten_count + 4 * frame_bytes


class PendingFetch(Reply):
    """A fetch that waits: for bytes, for its time to end, or for the disk."""

    __slots__ = ("_job", "_listening", "_missing_bytes")

    def __init__(self, job: "FetchJob", missing_bytes: int) -> None:
        """`job` may wait."""
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
        self._unlisten()
        if self._job.follower is not None:
            self._job.look_again()
        try:
            parts = self._job.respond(self._job.read_now())
        except (NotResident, OffsetOutOfRange, StorageError):
            return None
        self._job.end_wait()
        return parts

    async def finish(self) -> Parts:
        """The response, with a worker reading what is not resident."""
        parts = self._job.respond(await self._job.read_waiting())
        self._job.end_wait()
        return parts

    def abandon(self) -> None:
        """Listen no more, and hold nothing."""
        self._unlisten()
        self._job.end_wait()

    def _unlisten(self) -> None:
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


__all__ = ["UNCOUNTED_BYTES", "PendingFetch", "bytes_to_wait"]
