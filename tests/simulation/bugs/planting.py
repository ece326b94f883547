"""How a bug is planted: an attribute of the code under test is another one while the run lasts."""

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple


class Patch(NamedTuple):
    """`wrap` is given what was there (a function, a property) and returns what takes its place."""

    target: object
    name: str
    wrap: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Bug:
    """A mistake that somebody has made, or could have."""

    name: str
    text: str
    patches: Sequence[Patch]
    faults: tuple[str, ...] | None = None
    """The faults that seeds for it are drawn with; None: a subset, as ever."""
    seed: int = 0
    """A seed that finds it."""
    found_by: tuple[str, ...] = ()
    """The property that is seen not to hold with that seed."""
    has_backlog: bool = False
    """Whether its seeds have a topic with a bounded backlog. Fresh seeds have one by chance, as ever."""

    @contextmanager
    def planted(self) -> Generator[None]:
        """Make the mistake while the block lasts."""
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(_patched(patch))
            yield


def _attribute(target: Any, name: str) -> Any:
    """As it stands in the class or module: a property is not asked for its value."""
    return inspect.getattr_static(target, name)


@contextmanager
def _patched(patch: Patch) -> Generator[None]:
    target: Any = patch.target
    original: Any = _attribute(target, patch.name)
    setattr(target, patch.name, patch.wrap(original))
    try:
        yield
    finally:
        setattr(target, patch.name, original)


__all__ = ["Bug", "Patch"]
