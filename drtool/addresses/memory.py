"""A provider in this process's memory: for tests, and the plainest statement of what an Address does."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, TypeVar

from drtool.addresses.waiting import Patience, compare_and_move, elsewhere
from drtool.clock import Clock
from drtool.errors import AddressError, AddressTransient

T = TypeVar("T")
Call = Literal["look", "ask", "bind", "unbind"]


def _undisturbed(call: Call) -> None:
    """Let the call pass."""


@dataclass
class MemoryProvider:
    """The one address that this provider has, and its truth. Several MemoryAddress may speak to it.

    ``two_steps``: an address that is bound must be unbound first, as at Alibaba. ``takes``: how long a change is on
    its way, during which no other is taken. ``before`` and ``after`` are called around each change of state and each
    look; what they raise is what the caller gets, so ``after`` makes a lost reply.
    """

    clock: Clock
    hosts: Collection[str]
    holder: str | None = None
    two_steps: bool = False
    takes: timedelta = timedelta()
    before: Callable[[Call], None] = _undisturbed
    after: Callable[[Call], None] = _undisturbed
    calls: list[Call] = field(default_factory=list)
    _settled_at: float = 0

    def look(self) -> str | None:
        """Say who has it; AddressTransient while it is on its way."""
        return self._do("look", self._settled)

    def ask(self, to: str) -> None:
        """Find out whether ``bind`` would know ``to``."""
        self._do("ask", lambda: self._known(to))

    def unbind(self, holder: str) -> None:
        def change() -> None:
            if self._settled() != holder:
                raise AddressError(f"it is not with {holder}", code="NotBound")
            self._set(None)

        self._do("unbind", change)

    def bind(self, to: str) -> None:
        def change() -> None:
            self._known(to)
            if self._settled() not in (None, to) and self.two_steps:
                raise AddressError("it is bound", code="Bound", hint="Unbind it first.")
            self._set(to)

        self._do("bind", change)

    def place(self, holder: str | None) -> None:
        """Put it there at once, as somebody else's hand does."""
        self.holder, self._settled_at = holder, 0

    def _do(self, call: Call, work: Callable[[], T]) -> T:
        self.calls.append(call)
        self.before(call)
        done = work()
        self.after(call)
        return done

    def _known(self, to: str) -> None:
        if to not in self.hosts:
            raise AddressError(f"no host {to}", code="NoSuchHost", hint="Correct the host's id.")

    def _settled(self) -> str | None:
        if self.clock.monotonic() < self._settled_at:
            raise AddressTransient("the address is on its way", code="Pending")
        return self.holder

    def _set(self, holder: str | None) -> None:
        self.holder, self._settled_at = holder, self.clock.monotonic() + self.takes.total_seconds()


class MemoryAddress:
    """The address of a MemoryProvider."""

    settles_within = timedelta()

    def __init__(self, provider: MemoryProvider, *, name: str = "memory address", patience: Patience) -> None:
        self.name = name
        self._provider, self._patience = provider, patience

    def holder(self) -> str | None:
        return self._patience.insist(self._provider.look)

    def check(self, to: str, *, expected: str | None) -> None:
        holder = self.holder()
        if holder not in (expected, to):
            raise elsewhere(self.name, holder, to, expected)
        self._patience.insist(lambda: self._provider.ask(to))

    def move(self, to: str, *, expected: str | None) -> None:
        compare_and_move(
            self.name,
            self._patience,
            to=to,
            expected=expected,
            observe=self._provider.look,
            step=lambda holder: self._step(holder, to),
            through_nobody=self._provider.two_steps,
        )

    def _step(self, holder: str | None, to: str) -> bool:
        if holder is not None and self._provider.two_steps:
            self._provider.unbind(holder)
            return False
        self._provider.bind(to)
        return True
