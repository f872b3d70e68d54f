"""Commands of the operator's own, before and after a run.

A hook that is to run before keeps the run from beginning when it fails; but one that began earlier, and is now taken up
or undone, goes on, and ends with HookFailed (``endings``). One that runs after cannot undo what is done:
it makes the run end with HookFailed, which says that the rest was well. One for a failure changes nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drtool.clock import Clock
from drtool.config_notify import HookTable
from drtool.core.command import Command
from drtool.errors import CommandFailed, HookFailed
from drtool.events import Emit, HostSaid
from drtool.hosts import Runner
from drtool.phases import phase

_STDERR_LINES = 3


@dataclass(frozen=True, slots=True)
class Place:
    runner: Runner
    clock: Clock
    emit: Emit


def run_hooks(hooks: Sequence[HookTable], moment: str, facts: Mapping[str, str], place: Place, *, hint: str) -> None:
    """Run the hooks of a moment, in order. Raises HookFailed at the first that fails; those after it do not run.

    ``facts`` are the environment that they get beside PATH and HOME: they stand in the list of processes, so nothing
    secret belongs there.
    """
    settings = tuple(f"{name}={value}" for name, value in facts.items())
    for hook in hooks:
        if hook.when == moment:
            _run(hook, settings, place, hint)


def _run(hook: HookTable, settings: tuple[str, ...], place: Place, hint: str) -> None:
    with phase("hook", f"Hook {hook.when}: {hook.command[0]}", place.clock, place.emit):
        try:
            said = place.runner.run(Command(("env", *settings, *hook.command), hook.timeout))
        except CommandFailed as problem:
            raise HookFailed(f"the hook {hook.when} ({hook.command[0]}) {_why(problem)}", hint=hint) from problem
        for line in said.decode(errors="replace").splitlines():
            place.emit(HostSaid("hook", line))


def _why(problem: CommandFailed) -> str:
    """Like CommandFailed's own message, which would speak of ``env``."""
    what = "did not end in time" if problem.status is None else f"ended with status {problem.status}"
    last = [line.strip() for line in problem.stderr.splitlines() if line.strip()][-_STDERR_LINES:]
    return what + (": " + " | ".join(last) if last else "")
