"""The trio side that both kinds of membership share: it keeps time, calls the listener and carries requests, for a pure machine that decides.

Owns the tasks of a membership. Decides nothing.

Invariants: `machine.step` is called synchronously where something has happened, so that events have one order; the listener is called
from one task. A LOSE cancels the call under way, and names only what the listener has in fact been given and not yet given up.
"""

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import trio

from penstock.client.coordinator import is_worth_looking_again
from penstock.consumer.membership import GroupListener
from penstock.consumer.membership_events import (
    NOTHING,
    AbandonRequest,
    AwaitPolled,
    CallbackFinished,
    CallbackKind,
    CallListener,
    End,
    LeaveWanted,
    Partitions,
    Polled,
    RequestFailed,
    TimePassed,
)
from penstock.errors import PenstockError
from penstock.runtime.clock import Clock


class Machine(Protocol):
    """A pure machine."""

    @property
    def deadline_ms(self) -> float | None:
        """When to step with TimePassed."""
        ...

    @property
    def is_settled(self) -> bool:
        """In the group, and no rebalance is known of."""
        ...

    @property
    def is_between_generations(self) -> bool:
        """Whether commits have to wait."""
        ...

    def step(self, event: Any, now_ms: float) -> Sequence[Any]:
        """Take in an event; returns the actions."""
        ...


class MembershipShell:
    """The base of `ClassicMembership` and `ConsumerMembership`."""

    def __init__(self, machine: Machine, listener: GroupListener, clock: Clock) -> None:
        self._machine_of_shell = machine
        self._listener = listener
        self._clock = clock
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[int, trio.CancelScope] = {}
        self._woken = trio.Event()
        self._settled_lot = trio.lowlevel.ParkingLot()
        self._end: End | None = None
        self._has_ended = trio.Event()
        self._call: CallListener | None = None  # the next one, or the one that is under way
        self._called = trio.Event()
        self._call_scope = trio.CancelScope()
        self._held: Partitions = NOTHING  # by the listener
        self.failure: PenstockError | None = None

    @property
    def is_settled(self) -> bool:
        """See Membership."""
        return self._machine_of_shell.is_settled

    async def wait_settled(self) -> None:
        """See Membership."""
        await trio.lowlevel.checkpoint()
        while self._machine_of_shell.is_between_generations and not self._has_ended.is_set():
            await self._settled_lot.park()

    async def run(self) -> None:
        """See Membership."""
        if self._has_ended.is_set():
            return
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._serve_listener)
                self._start(nursery)
                await self._keep_time()
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self._has_ended.set()
            self._settled_lot.unpark_all()

    async def leave(self) -> None:
        """See Membership."""
        if self._nursery is None:
            self._has_ended.set()  # a `run` that has not begun yet has nothing to do any more
            return
        if self._end is None:
            self._step(LeaveWanted())
        await self._has_ended.wait()

    @abstractmethod
    def _start(self, nursery: trio.Nursery) -> None:
        """Begin: tasks of its own, and the first events."""

    @abstractmethod
    def _do(self, action: Any) -> None:
        """Carry out an action that only this protocol has."""

    def _after_step(self) -> None:
        """What is to be looked at after each step."""

    def _step(self, event: Any, not_before_ms: float = 0.0) -> None:
        if self._end is not None:
            return
        for action in self._machine_of_shell.step(event, max(self._now_ms(), not_before_ms)):
            match action:
                case CallListener():
                    self._begin_call(action)
                case AwaitPolled():
                    self._spawn(self._await_polled)
                case AbandonRequest():
                    if (scope := self._scopes.get(action.request)) is not None:
                        scope.cancel()
                case End():
                    self._end = action
                case _:
                    self._do(action)
        self._after_step()
        self._woken.set()
        if not self._machine_of_shell.is_between_generations:
            self._settled_lot.unpark_all()

    def _now_ms(self) -> float:
        return self._clock.monotonic() * 1000

    async def _keep_time(self) -> None:
        while self._end is None:
            self._woken = trio.Event()
            deadline_ms = self._machine_of_shell.deadline_ms
            with trio.move_on_at(float("inf") if deadline_ms is None else deadline_ms / 1000) as timer:
                await self._woken.wait()
            if deadline_ms is not None and (timer.cancelled_caught or self._now_ms() >= deadline_ms):
                # seconds and milliseconds may differ in the last bit: what has expired is due, or this would turn on the spot
                self._step(TimePassed(self._listener.ms_since_poll), deadline_ms)
        while self._call is not None:
            self._woken = trio.Event()
            await self._woken.wait()
        if self._end.error is not None:
            self.failure = self._end.error
            self._listener.fail(self._end.error)

    # The listener

    def _begin_call(self, call: CallListener) -> None:
        self._call = call
        self._called.set()
        self._call_scope.cancel()

    async def _serve_listener(self) -> None:
        while True:
            if self._call is None:
                await self._called.wait()
            self._called = trio.Event()
            call = self._call
            assert call is not None
            with trio.CancelScope() as self._call_scope:
                await self._deliver(call)
            if self._call is call:
                self._call = None
                self._step(CallbackFinished(call.callback))
                self._woken.set()

    async def _deliver(self, call: CallListener) -> None:
        if call.kind is CallbackKind.ASSIGN:
            self._held |= call.partitions
            await self._listener.assign(call.partitions)
        elif call.kind is CallbackKind.REVOKE:
            await self._listener.revoke(call.partitions)
            self._held -= call.partitions
        else:
            lost = call.partitions & self._held
            self._held -= lost
            if lost:
                await self._listener.lose(lost)

    async def _await_polled(self) -> None:
        await self._listener.wait_polled()
        self._step(Polled())

    # Requests

    def _spawn(self, job: Callable[[], Awaitable[None]]) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(job)

    def _send(self, request: int, ask: Callable[[], Awaitable[Any]]) -> None:
        """Start a request; `ask` returns the event that its answer makes."""

        async def job() -> None:
            with trio.CancelScope() as scope:
                self._scopes[request] = scope
                try:
                    event = await ask()
                except PenstockError as error:
                    event = RequestFailed(request, error, is_worth_looking_again(error))
                finally:
                    del self._scopes[request]
                self._step(event)

        self._spawn(job)


__all__ = ["Machine", "MembershipShell"]
