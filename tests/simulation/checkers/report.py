"""Where checkers report to."""

from collections.abc import Callable
from dataclasses import dataclass

REPORTED_MAX = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """A property that did not hold."""

    property_name: str
    text: str
    at_s: float

    def __str__(self) -> str:
        return f"[{self.property_name}] at {self.at_s:.3f} s: {self.text}"


class Report:
    """All violations of a run, the first ones in words."""

    def __init__(
        self, now: Callable[[], float] = lambda: 0.0, note: Callable[[str], None] = lambda _: None
    ) -> None:
        self.violations: list[Violation] = []
        self.count = 0
        self.checked: dict[str, int] = {}
        """How often each property was put to the test: a checker that is never told of anything shows nothing."""
        self.on_violation: Callable[[], None] = lambda: None
        self._now = now
        self._note = note

    def violate(self, property_name: str, text: str) -> None:
        """That must not be."""
        self.count += 1
        self.on_violation()
        if len(self.violations) < REPORTED_MAX:
            violation = Violation(property_name, text, self._now())
            self.violations.append(violation)
            self._note(f"violation {violation}")

    def check(self, property_name: str, holds: bool, text: str) -> None:
        """One test of a property."""
        self.checked[property_name] = self.checked.get(property_name, 0) + 1
        if not holds:
            self.violate(property_name, text)


__all__ = ["Report", "Violation"]
