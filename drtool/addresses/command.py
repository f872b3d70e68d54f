"""An address that the user's own commands move: keepalived, a router, a DNS server that nobody else knows.

``holder`` prints who has it on one line, and nothing if nobody has. ``move`` moves it; ``check`` finds out whether it
could. An argument that is or holds ``{to}`` or ``{expected}`` gets the holders' names; nobody is an empty argument.
A status of 75 (EX_TEMPFAIL) means "not now": it is waited for. What a move's own status says is never trusted: it is
done when ``holder`` says so.
"""

from __future__ import annotations

from datetime import timedelta

from drtool.addresses.waiting import Patience, compare_and_move, elsewhere
from drtool.core.command import Command
from drtool.errors import AddressError, AddressTransient, CommandFailed, ConfigError
from drtool.hosts import Runner

_NOT_NOW = 75
_LONGEST_NAME = 253


class CommandAddress:
    """``commands`` run on ``runner``, each for ``timeout`` at most. ``settles_within`` is the user's own statement."""

    def __init__(
        self,
        name: str,
        *,
        runner: Runner,
        holder: tuple[str, ...],
        move: tuple[str, ...],
        patience: Patience,
        check: tuple[str, ...] = (),
        timeout: timedelta = timedelta(minutes=1),
        settles_within: timedelta = timedelta(),
    ) -> None:
        if not holder or not move:
            raise ConfigError(f"address {name}: it needs a holder command and a move command")
        if not any("{to}" in argument for argument in move[1:]):
            raise ConfigError(
                f"address {name}: the move command does not say where to", hint='Add the argument "{to}" to it.'
            )
        self.name = f"address {name}"
        self.settles_within = settles_within
        self._runner, self._patience, self._timeout = runner, patience, timeout
        self._holder, self._move, self._check = holder, move, check

    def holder(self) -> str | None:
        return self._patience.insist(self._observe)

    def check(self, to: str, *, expected: str | None) -> None:
        self._patience.insist(lambda: self._find_obstacles(to, expected))

    def move(self, to: str, *, expected: str | None) -> None:
        self._fit(to)
        compare_and_move(
            self.name,
            self._patience,
            to=to,
            expected=expected,
            observe=self._observe,
            step=lambda _: self._order(to, expected),
        )

    def _observe(self) -> str | None:
        output = self._run(self._holder, "holder").decode("utf-8", "replace")
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        if len(lines) > 1:
            raise AddressError(
                f"{self.name}: the holder command printed {len(lines)} lines, and one name is wanted",
                hint="Let it print the one who answers; two holders at once are a fault in themselves.",
            )
        return self._fit(lines[0]) if lines else None

    def _order(self, to: str, expected: str | None) -> bool:
        try:
            self._run(self._filled(self._move, to, expected), "move")
        except AddressTransient:
            raise
        except AddressError:
            # It may have done its work all the same.
            if self._observe() != to:
                raise
        return True

    def _find_obstacles(self, to: str, expected: str | None) -> None:
        self._fit(to)
        holder = self._observe()
        if holder not in (expected, to):
            raise elsewhere(self.name, holder, to, expected)
        look = ("sh", "-c", 'command -v "$1" > /dev/null || { echo "no $1 here" >&2; exit 127; }', "sh", self._move[0])
        self._run(look, "move")
        if self._check:
            self._run(self._filled(self._check, to, expected), "check")

    def _filled(self, command: tuple[str, ...], to: str, expected: str | None) -> tuple[str, ...]:
        return tuple(argument.replace("{to}", to).replace("{expected}", expected or "") for argument in command)

    def _run(self, command: tuple[str, ...], what: str) -> bytes:
        try:
            return self._runner.run(Command(command, self._timeout))
        except CommandFailed as error:
            text, code = f"{self.name}: {what}: {error}", "" if error.status is None else str(error.status)
            if error.status in (None, _NOT_NOW):  # None: out of time, or the host did not answer
                raise AddressTransient(text, code=code, hint=error.hint) from error
            hint = error.hint or f"Run the {what} command by hand on {self._runner.name}, and mend it."
            raise AddressError(text, code=code, hint=hint) from error

    def _fit(self, holder: str) -> str:
        """Refuse what a command would take for an option, or for several words."""
        if not holder or holder.startswith("-") or len(holder) > _LONGEST_NAME or not holder.isprintable():
            raise AddressError(f"{self.name}: {holder[:80]!r} is no holder's name", hint="Correct the holder's name.")
        return holder
