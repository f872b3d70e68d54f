"""What every adapter waits for in the same way: until the provider is able, and says what was asked of it is so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from drtool.clock import Clock
from drtool.errors import AddressElsewhere, AddressError, AddressTransient

T = TypeVar("T")


class AskAgain(AddressTransient):
    """Not now: the provider said when."""

    def __init__(self, message: str, *, code: str = "", hint: str = "", after: timedelta = timedelta()) -> None:
        super().__init__(message, code=code, hint=hint)
        self.after = after


@dataclass(frozen=True, slots=True)
class Patience:
    """How long what may still pass is waited for, and how often it is asked meanwhile."""

    clock: Clock
    limit: timedelta = timedelta(minutes=5)
    pause: timedelta = timedelta(seconds=1)
    longest: timedelta = timedelta(seconds=5)  # an outage is not to look longer than it was

    def insist(self, ask: Callable[[], T]) -> T:
        """Call ``ask`` until it raises no AddressTransient; raise its last one once the limit is reached.

        The pauses grow from ``pause`` to ``longest``. The provider's own wish is kept, unless it is past the limit.
        """
        deadline, pause = self.clock.monotonic() + self.limit.total_seconds(), self.pause
        while True:
            try:
                return ask()
            except AddressTransient as error:
                wanted = error.after if isinstance(error, AskAgain) else timedelta()
                rest = timedelta(seconds=deadline - self.clock.monotonic())
                if rest <= timedelta() or wanted > rest:
                    error.hint = error.hint or "Look what the provider is busy with, wait, and run this again."
                    raise
            self.clock.sleep(min(max(pause, wanted), rest))
            pause = min(pause * 2, self.longest)


def elsewhere(name: str, holder: str | None, to: str, expected: str | None) -> AddressElsewhere:
    wanted = f"{expected} nor with {to}" if expected else f"nobody nor with {to}"
    return AddressElsewhere(
        f"{name} is with {holder or 'nobody'}, neither with {wanted}; nothing was moved",
        hint="Find out who moved it, and why; then name its present holder as the expected one.",
    )


def compare_and_move(
    name: str,
    patience: Patience,
    *,
    to: str,
    expected: str | None,
    observe: Callable[[], str | None],
    step: Callable[[str | None], bool],
    through_nobody: bool = False,
) -> None:
    """Compare, ask for the move, and return once ``observe`` says that ``to`` holds the address.

    ``observe`` raises AddressTransient while the address is on its way. ``step`` gets the holder it starts from and
    asks the provider for the next change; True: accepted, and nothing is left to ask for. It may raise
    AddressTransient, and is then asked again from what ``observe`` says by then. ``through_nobody``: on its way
    the address is with nobody, by our own doing.
    """
    begun = accepted = False

    def attempt() -> None:
        nonlocal begun, accepted
        while True:
            holder = observe()
            if holder == to:
                return
            if holder != expected and not (begun and through_nobody and holder is None):
                if not begun:
                    raise elsewhere(name, holder, to, expected)
                raise AddressError(
                    f"{name} went to {holder or 'nobody'} while it was on its way to {to}",
                    hint="Somebody else moves it: find out who, and make the same call again.",
                )
            if accepted:
                raise AddressTransient(
                    f"{name}: the provider took the order to move it to {to}, and still says {holder or 'nobody'}"
                )
            begun = True
            accepted = step(holder)

    patience.insist(attempt)
