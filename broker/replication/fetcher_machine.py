"""What a follower asks one leader for, and what each answer means: pure.

Owns which partitions are ready to be asked for, from which offset; which wait for their own log; which were refused and wait a while. Knows
no log, no network, no clock: the shell (`fetcher.py`) says where logs stand and what time it is, and does what is decided here.

A partition is at any moment in one of three states:

    busy     its log is at work: an append, a sync, a cut, or making ready. It is in no request.
    ready    its log stands: the next request asks for its end offset.
    waiting  ready, but not before some time: the leader refused it, or what came was no good.

Invariants:
    - What is asked for is the end of what *counts* on this replica (PROPERTIES, DESIGN section 6), so that the leader may take it as that.
    - An answer changes nothing unless the partition is still followed in the leader epoch, and stands at the offset, that it was asked with.
    - Divergence is found by epochs and cut on this side alone. Nothing is cut because of a high watermark (KIP-101, KIP-279, KIP-595).

Source: Kafka's `AbstractFetcherThread`, `PartitionFetchState`.
"""

import enum
from dataclasses import dataclass

from penstock.protocol.errors import ErrorCode
from penstock.protocol.fetch_client import FetchedPartition

FIRST_BACKOFF_MS = 20
"""After the first refusal: mostly one of two brokers has not seen yet who leads. It doubles up to `replica.fetch.backoff.ms`."""
NO_EPOCH = -1

Key = tuple[bytes, int]
"""Topic id and partition index."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a log stands, all of it counted."""

    end_offset: int
    last_epoch: int
    """The leader epoch of the last batch; -1 for a log without batches."""
    log_start_offset: int


# What answers mean


@dataclass(frozen=True, slots=True)
class Append:
    """Append these records, then take note of the offsets."""

    key: Key
    leader_epoch: int
    records: memoryview
    high_watermark: int
    log_start_offset: int


@dataclass(frozen=True, slots=True)
class TakeNote:
    """Nothing to append: the log has all that the leader has."""

    key: Key
    leader_epoch: int
    high_watermark: int
    log_start_offset: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """The leader's log has the largest epoch at or below ours as `epoch`, and it ends at `end_offset`: cut what is not in it."""

    key: Key
    leader_epoch: int
    epoch: int
    end_offset: int


@dataclass(frozen=True, slots=True)
class StartOver:
    """The leader has nothing of what would come next: drop everything and go on, empty, at `offset`, where its log begins."""

    key: Key
    leader_epoch: int
    offset: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The leader gave nothing; it is asked again after a while."""

    key: Key
    code: int


Decision = Append | TakeNote | Truncate | StartOver | Refused


class _State(enum.Enum):
    BUSY = "busy"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class Ask:
    """One partition to be asked for; the same one as long as it stands where it stands."""

    key: Key
    leader_epoch: int
    standing: Standing


@dataclass(slots=True)
class _Followed:
    key: Key
    leader_epoch: int
    state: _State
    ask: Ask
    not_before_ms: float = 0.0
    failure_count: int = 0
    is_throttled: bool = False


NOWHERE = Standing(-1, NO_EPOCH, -1)


class FetcherMachine:
    """The partitions that one leader is asked for."""

    def __init__(self, *, backoff_max_ms: float) -> None:
        self._backoff_max_ms = backoff_max_ms
        self._followed: dict[Key, _Followed] = {}
        self._touched: dict[Key, None] = {}
        """Whatever may be asked for otherwise than when `changes` was called last."""
        self._later: dict[Key, None] = {}
        """All that wait, and perhaps some that do not any more."""
        self._had_room = True

    def __len__(self) -> int:
        return len(self._followed)

    @property
    def busy_count(self) -> int:
        """How many partitions' logs are at work."""
        return sum(one.state is _State.BUSY for one in self._followed.values())

    def leader_epoch(self, key: Key) -> int | None:
        """In which epoch a partition is followed; None if it is not."""
        found = self._followed.get(key)
        return None if found is None else found.leader_epoch

    def is_ready(self, key: Key) -> bool:
        """Whether its log stands, so that it is asked for, at once or after a while."""
        found = self._followed.get(key)
        return found is not None and found.state is _State.READY

    # What the image says

    def follow(self, key: Key, leader_epoch: int) -> bool:
        """Follow a partition in a leader epoch; it is busy until `stands`. False if it is followed so already."""
        found = self._followed.get(key)
        if found is not None and found.leader_epoch == leader_epoch:
            return False
        self._followed[key] = _Followed(key, leader_epoch, _State.BUSY, Ask(key, leader_epoch, NOWHERE))
        self._touched[key] = None
        return True

    def unfollow(self, key: Key) -> None:
        """Ask for it no more; no error if it is not followed."""
        self._followed.pop(key, None)
        self._touched[key] = None

    def throttle(self, key: Key, is_throttled: bool) -> None:
        """Whether a partition is asked for only while `changes` is told that there is room."""
        followed = self._followed.get(key)
        if followed is not None and followed.is_throttled != is_throttled:
            followed.is_throttled = is_throttled
            self._touched[key] = None

    def is_throttled(self, key: Key) -> bool:
        """See `throttle`."""
        followed = self._followed.get(key)
        return followed is not None and followed.is_throttled

    # What the log says

    def stands(self, key: Key, leader_epoch: int, standing: Standing) -> None:
        """What was under way in the log is done, and all of it counts."""
        followed = self._current(key, leader_epoch)
        if followed is not None:
            followed.state, followed.ask = _State.READY, Ask(key, leader_epoch, standing)
            followed.failure_count, followed.not_before_ms = 0, 0.0
            self._touched[key] = None

    def failed(self, key: Key, leader_epoch: int, standing: Standing, now_ms: float) -> None:
        """What was under way ended badly; the log stands, and may be asked for again after a while."""
        followed = self._current(key, leader_epoch)
        if followed is not None:
            followed.state, followed.ask = _State.READY, Ask(key, leader_epoch, standing)
            self._back_off(followed, now_ms)

    # Asking

    def changes(self, now_ms: float, *, has_room: bool = True) -> dict[Key, Ask | None]:
        """What may be asked for otherwise than at the last call; None: not now. `has_room` False leaves out what is throttled.

        It costs what has changed, not what is followed: most partitions are idle most of the time.
        """
        if has_room != self._had_room:
            self._had_room = has_room
            self._touched |= {key: None for key, one in self._followed.items() if one.is_throttled}
        if self._later:
            self._touched |= self._later
        touched, self._touched = self._touched, {}
        return {key: self._ask(key, now_ms) for key in touched}

    def _ask(self, key: Key, now_ms: float) -> Ask | None:
        one = self._followed.get(key)
        if one is None or one.state is not _State.READY or one.not_before_ms <= now_ms:
            self._later.pop(key, None)
        if one is None or one.state is not _State.READY or one.not_before_ms > now_ms:
            return None
        return one.ask if self._had_room or not one.is_throttled else None

    def touch(self, key: Key) -> None:
        """Have `changes` tell of a partition once more."""
        self._touched[key] = None

    def touch_all(self) -> None:
        """Have `changes` tell of all."""
        self._touched |= dict.fromkeys(self._followed)

    def set_busy(self, key: Key, leader_epoch: int) -> None:
        """The log is at work after all; `stands` or `failed` will follow."""
        followed = self._current(key, leader_epoch)
        if followed is not None:
            followed.state = _State.BUSY
            self._touched[key] = None

    def next_time_ms(self, now_ms: float) -> float | None:
        """When the next one that waits may be asked for; None if nobody waits."""
        waiting = [self._followed[key] for key in self._later if key in self._followed]
        times = [
            one.not_before_ms for one in waiting if one.state is _State.READY and one.not_before_ms > now_ms
        ]
        return min(times, default=None)

    def take(self, ask: Ask, answer: FetchedPartition, now_ms: float) -> Decision | None:
        """What the answer to `ask` means; None: nothing any more. A partition that has work to do for its log is busy from now on."""
        followed = self._current(ask.key, ask.leader_epoch)
        if (
            followed is None
            or followed.state is not _State.READY
            or followed.ask.standing.end_offset != ask.standing.end_offset
        ):
            return None
        decision = _meaning(ask, answer)
        if isinstance(decision, Refused):
            self._back_off(followed, now_ms)
            return decision
        if isinstance(decision, TakeNote):
            followed.failure_count = 0
        else:
            followed.state = _State.BUSY  # what comes of it decides whether it was a failure
            self._touched[ask.key] = None
        return decision

    def _current(self, key: Key, leader_epoch: int) -> _Followed | None:
        found = self._followed.get(key)
        return found if found is not None and found.leader_epoch == leader_epoch else None

    def _back_off(self, followed: _Followed, now_ms: float) -> None:
        followed.failure_count += 1
        wait_ms = min(FIRST_BACKOFF_MS * 2 ** min(followed.failure_count - 1, 20), self._backoff_max_ms)
        followed.not_before_ms = now_ms + wait_ms
        self._touched[followed.key] = self._later[followed.key] = None


def _meaning(ask: Ask, answer: FetchedPartition) -> Decision:
    key, epoch, standing = ask.key, ask.leader_epoch, ask.standing
    if answer.error_code == ErrorCode.OFFSET_OUT_OF_RANGE:
        return _meaning_out_of_range(ask, answer)
    if answer.error_code:
        return Refused(key, answer.error_code)
    if answer.diverging_epoch is not None:
        if standing.last_epoch == NO_EPOCH:
            return Refused(key, ErrorCode.UNKNOWN_SERVER_ERROR)  # nothing was asked that could be answered so
        return Truncate(key, epoch, *answer.diverging_epoch)
    if len(answer.records):
        return Append(key, epoch, answer.records, answer.high_watermark, answer.log_start_offset)
    return TakeNote(key, epoch, answer.high_watermark, answer.log_start_offset)


def _meaning_out_of_range(ask: Ask, answer: FetchedPartition) -> Decision:
    """The offset is not in the leader's log.

    Below its start: retention or a deletion there has taken what would come next, and all that this log holds is older still. Above its
    end: a log with batches would have been told where the two diverge, so this one is empty, and begins where the leader's does. Anything
    else is a leader that does not know (yet) what it leads.
    """
    start, end = answer.log_start_offset, ask.standing.end_offset
    if start > end or (0 <= start < end and ask.standing.last_epoch == NO_EPOCH):
        return StartOver(ask.key, ask.leader_epoch, start)
    return Refused(ask.key, answer.error_code)


__all__ = [
    "Append",
    "Ask",
    "Decision",
    "FetcherMachine",
    "Key",
    "Refused",
    "Standing",
    "StartOver",
    "TakeNote",
    "Truncate",
]
