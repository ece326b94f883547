"""The port to worker threads: where blocking calls go."""

from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Threads(Protocol):
    """Runs blocking functions off the event loop."""

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run `function(*args)` on a worker and return what it returns.

        The number of workers at once is bounded; further calls wait in order. Cancellation: refused while the function runs (a
        half-done write must not go on unseen); a call still waiting for a worker is given up.
        """
        ...
