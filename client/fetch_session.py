"""A fetch session with one broker, from the client's side (KIP-227).

Owns what the broker remembers of this client's partitions, so that a request names only what has changed. Pure: sends nothing.

Invariants: what `sent` holds is what the broker holds after its last good answer; after anything else the next request is a full one.
Source: KIP-227; Kafka's `FetchSessionHandler`.
"""

from collections.abc import Mapping

from penstock.client.metadata import TopicPartition
from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch import FetchPartition

NO_SESSION_EPOCH = -1
_FIRST_EPOCH = 0
_EPOCH_MAX = 2**31 - 1
SESSION_ERRORS = frozenset(
    {
        ErrorCode.FETCH_SESSION_ID_NOT_FOUND,
        ErrorCode.INVALID_FETCH_SESSION_EPOCH,
        ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR,
        ErrorCode.INCONSISTENT_TOPIC_ID,
        ErrorCode.UNKNOWN_TOPIC_ID,
    }
)
Forgotten = tuple[str, bytes | None, int]


class FetchSession:
    """What one broker knows of us."""

    def __init__(self) -> None:
        self.session_id = 0
        self.epoch = _FIRST_EPOCH
        self._by_id = False
        self._sent: dict[TopicPartition, FetchPartition] = {}
        self._names: dict[tuple[bytes | None, int], TopicPartition] = {}

    def next_request(
        self, wanted: Mapping[TopicPartition, FetchPartition], *, by_id: bool
    ) -> tuple[list[FetchPartition], list[Forgotten]]:
        """The partitions to name, and those to take back, so that the broker has exactly `wanted`. `by_id`: they go by topic id."""
        if by_id != self._by_id:
            self._by_id = by_id
            self.restart()
        sent = self._sent
        if self.epoch == _FIRST_EPOCH:
            changed = list(wanted.values())
            forgotten: list[Forgotten] = []
        else:
            changed = [
                partition
                for tp, partition in wanted.items()
                if (old := sent.get(tp)) is not partition and old != partition
            ]
            forgotten = [
                (old.topic, old.topic_id, old.index)
                for tp, old in sent.items()
                if tp not in wanted or (by_id and wanted[tp].topic_id != old.topic_id)
            ]
        self._sent = dict(wanted)
        self._names = {(part.topic_id, part.index): tp for tp, part in wanted.items()}
        return changed, forgotten

    def epoch_after(self, ahead: int) -> int:
        """The epoch for a request before which so many have not been answered; only a session that the broker keeps may be that much ahead."""
        epoch = self.epoch
        for _ in range(ahead):
            epoch = 1 if epoch == _EPOCH_MAX else epoch + 1
        return epoch

    def name(self, topic: str, topic_id: bytes | None, index: int) -> TopicPartition | None:
        """The partition that an answer means; None: none that was asked for."""
        if not self._by_id:
            tp = TopicPartition(topic, index)
            return tp if tp in self._sent else None
        return self._names.get((topic_id, index))

    def answered(self, error_code: int, session_id: int) -> bool:
        """Take in the head of an answer. Returns whether its partitions count."""
        if error_code:
            self.restart()
            if error_code == ErrorCode.FETCH_SESSION_ID_NOT_FOUND:
                self.session_id = 0
            return False
        if session_id == 0:
            self.session_id, self.epoch = 0, _FIRST_EPOCH
        elif self.epoch == _FIRST_EPOCH:
            self.session_id, self.epoch = session_id, 1
        else:
            self.epoch = 1 if self.epoch == _EPOCH_MAX else self.epoch + 1
        return True

    def restart(self) -> None:
        """The next request is a full one; it closes the session that may be there."""
        self.epoch = _FIRST_EPOCH
        self._sent = {}


__all__ = ["NO_SESSION_EPOCH", "SESSION_ERRORS", "FetchSession"]
