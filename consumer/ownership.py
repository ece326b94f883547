"""Which partitions a member has, and the calls to the listener that give and take them, one at a time. Pure.

Owns the order of the calls. Does not know why partitions come and go: the membership machines do.

Invariants: a partition is owned from the moment its ASSIGN is asked for until its REVOKE has returned or its LOSE is asked for; a LOSE takes
everything and replaces whatever call is under way or was still to come.
"""

from collections import deque

from penstock.consumer.membership_events import NOTHING, CallbackKind, CallListener, Partitions


class Ownership:
    """The partitions of one member."""

    def __init__(self) -> None:
        self.owned: Partitions = NOTHING
        self.running: CallListener | None = None
        self._to_come: deque[tuple[CallbackKind, Partitions]] = deque()
        self._last_callback = 0

    @property
    def is_calm(self) -> bool:
        """No call is under way, and none to come."""
        return self.running is None and not self._to_come

    @property
    def is_revoking(self) -> bool:
        """Whether it waits for the user to give something up."""
        return self.running is not None and self.running.kind is CallbackKind.REVOKE

    def plan(self, kind: CallbackKind, partitions: Partitions) -> None:
        """Call once those before it have returned; an empty call is none."""
        if partitions:
            self._to_come.append((kind, partitions))

    def forget_plans(self) -> None:
        """What was not begun is not done."""
        self._to_come.clear()

    def next_call(self) -> CallListener | None:
        """The call to make now, if there is one."""
        if self.running is not None or not self._to_come:
            return None
        kind, partitions = self._to_come.popleft()
        if kind is CallbackKind.ASSIGN:
            self.owned |= partitions
        return self._begin(kind, partitions)

    def lose_all(self) -> CallListener | None:
        """Nothing is owned any more; the call that says so, if there is anything to say."""
        self._to_come.clear()
        lost, self.owned = self.owned, NOTHING
        return self._begin(CallbackKind.LOSE, lost) if lost else None

    def finished(self, callback: int) -> bool:
        """The listener has returned. False: from a call that was replaced."""
        done = self.running
        if done is None or done.callback != callback:
            return False
        if done.kind is CallbackKind.REVOKE:
            self.owned -= done.partitions
        self.running = None
        return True

    def _begin(self, kind: CallbackKind, partitions: Partitions) -> CallListener:
        self._last_callback += 1
        self.running = CallListener(self._last_callback, kind, partitions)
        return self.running


__all__ = ["Ownership"]
