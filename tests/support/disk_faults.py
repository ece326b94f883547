"""Counting the calls of a simulated disk, and failing those that were named.

Owns the plan of faults. Knows neither files nor names.
"""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from penstock.runtime.files import StorageError


class _Fault(NamedTuple):
    operation: str
    at: int
    error: type[StorageError] | None
    """None: a short write."""
    short_bytes: int = 0
    forever: bool = False


class CallsThatFail:
    """What a disk is told to do wrong, call by call."""

    def __init__(self) -> None:
        self.short_write_bytes = 0
        """The most that one write takes; 0: all."""
        self.before_change: Callable[[str, str], None] | None = None
        """Called with (operation, path) before each call that changes something, and before a fault of that call."""
        self.calls: Counter[str] = Counter()
        """By operation; "any": those that change something."""
        self.call_count = 0
        self._faults: list[_Fault] = []

    def fail(
        self, operation: str, error: type[StorageError], *, call: int = 1, forever: bool = False
    ) -> None:
        """Let the `call`-th `operation` from now on raise `error`, and `forever` all after it.

        "any" is every operation that changes something, "every" is all of them.
        """
        self._faults.append(_Fault(operation, self._count(operation) + call, error, forever=forever))

    def write_shortly(self, count_bytes: int, *, call: int = 1) -> None:
        """Let the `call`-th write from now on take no more than that."""
        self._faults.append(_Fault("pwrite", self._count("pwrite") + call, None, count_bytes))

    def heal(self) -> None:
        """Forget all planned faults."""
        self._faults.clear()

    def note(self, operation: str, path: str, *, changes: bool = False) -> int:
        """Count a call, and fail it if that was planned; returns how much a write may take, 0: all."""
        self.call_count += 1
        self.calls[operation] += 1
        if changes:
            if self.before_change is not None:
                self.before_change(operation, path)
            self.calls["any"] += 1
        return self._fault(operation, path, changes) if self._faults else self.short_write_bytes

    def _count(self, operation: str) -> int:
        return self.call_count if operation == "every" else self.calls[operation]

    def _fault(self, operation: str, path: str, changes: bool) -> int:
        short_bytes = self.short_write_bytes
        for fault in self._faults.copy():
            concerned = fault.operation in (operation, "every") or (changes and fault.operation == "any")
            count = self._count(fault.operation)
            if concerned and (fault.at == count or (fault.forever and fault.at < count)):
                if not fault.forever:
                    self._faults.remove(fault)
                if fault.error is not None:
                    raise fault.error("injected", path=path)
                short_bytes = fault.short_bytes
        return short_bytes
