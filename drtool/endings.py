"""How a command begins and ends for everybody but who started it: hooks, notifications and the dead-man ping.

The one place for all of them, called by name, so that no command can forget it and a defect of drtool is told too.
Nothing here changes how a run ended, but for a hook that was to run after a success.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from drtool.app import App
from drtool.config_notify import ON_FAILURE
from drtool.core.bulletin import Bulletin, Kind
from drtool.errors import DrtoolError, HookFailed, ObjectiveBreached, SetDamaged
from drtool.events import Emit, Event, Noticed, PhaseFinished, PhaseStarted
from drtool.hooks import Place, run_hooks
from drtool.notifying import Delivered, Delivery, notify, ping, wait_for
from drtool.told import record

WATCHED = "backup"
"""What the dead-man service waits for. All other commands only write to its log."""

_NAMES = {SetDamaged.exit_status: "SetDamaged", ObjectiveBreached.exit_status: "ObjectiveBreached", 130: "Interrupted"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a command ended: its status, and what it said. ``defect`` names the class of an error nobody expected."""

    exit_status: int
    error: DrtoolError | None = None
    found: object = None
    defect: str = ""

    @property
    def kind(self) -> Kind:
        if self.exit_status == 0:
            return "success"
        return "breach" if self.exit_status == ObjectiveBreached.exit_status else "failure"


class Run:
    """A command from its beginning to its end."""

    def __init__(self, command: str) -> None:
        self.command = command
        self._began = time.monotonic()
        self._app: App | None = None
        self._failed: HookFailed | None = None
        self._deliveries: list[Delivery] = []

    def begin(self, app: App, *, goes_on: bool = False) -> None:
        """Tell that it begins, without waiting, and run the hooks before it. Raises HookFailed.

        ``goes_on``: something that began before is finished or undone. Then a hook that fails is told, now and at the
        end, and nobody is kept from it: half done is worse than done without the hook.
        """
        if self._app:
            return
        self._app = app
        bulletin = Bulletin("start", self.command, app.instance.name, platform.node())
        self._deliveries = notify(app.instance.notify, bulletin)
        if self.command == WATCHED:
            self._deliveries += ping(app.instance.notify, "start", bulletin.body)
        hint = f"Nothing was done. Mend the hook, or take it out of {app.path}."
        try:
            self._run(app, f"before-{self.command}", hint)
        except HookFailed as problem:
            if not goes_on:
                raise
            app.emit(Noticed("hook-failed", str(problem), f"The {self.command} had begun before, and goes on without."))
            self._failed = HookFailed(str(problem), hint="All else was done, and nothing undone. Mend the hook.")

    def listening(self, emit: Emit) -> Emit:
        """The same, which also runs the hooks of the phases that it hears of. Raises HookFailed before one."""

        def hear(event: Event) -> None:
            emit(event)
            match event:
                case PhaseStarted(phase=name):
                    self._enter(name)
                case PhaseFinished(phase=name):
                    self._leave(name)

        return hear

    def _enter(self, phase: str) -> None:
        if app := self._app:
            hint = f"The next {self.command} goes on from here. Mend the hook, or take it out of {app.path}."
            self._run(app, f"before-{self.command}-{phase}", hint)

    def _leave(self, phase: str) -> None:
        """Run the hooks after a phase. What is done is done, and the rest must not be lost: it is told at the end."""
        if app := self._app:
            try:
                self._run(app, f"after-{self.command}-{phase}", "All else was done, and nothing undone. Mend the hook.")
            except HookFailed as problem:
                self._failed = self._failed or problem

    def _run(self, app: App, moment: str, hint: str) -> None:
        run_hooks(app.instance.hooks, moment, self._facts(app), _place(app), hint=hint)

    def end(self, app: App, ending: Ending) -> DrtoolError | None:
        """Run the hooks after it, then tell how it ended. Returns HookFailed if only such a hook went wrong."""
        failed = self._run_hooks(app, ending)
        if failed:
            ending = Ending(failed.exit_status, failed, ending.found)
        bulletin = self._bulletin(app, ending)
        told = wait_for(self._deliveries)  # a beginning must not arrive after the end
        kind = bulletin.kind if self.command == WATCHED else None
        table = app.instance.notify
        told += wait_for([*notify(table, bulletin), *ping(table, kind, bulletin.body)])
        if told:
            _complain(app, told)
            _remember(app, bulletin, told)
        return failed

    def _run_hooks(self, app: App, ending: Ending) -> DrtoolError | None:
        """Run those of the end. What failed makes a success none; beside another failure it is a note."""
        facts = self._facts(app, ending)
        good = ending.exit_status == 0
        hint = f"The {self.command} itself is done and well; nothing of it was undone. Mend the hook."
        failed = [self._failed] if self._failed else []
        try:
            moment = f"after-{self.command}" if good else ON_FAILURE
            run_hooks(app.instance.hooks, moment, facts, _place(app), hint=hint)
        except HookFailed as problem:
            failed.append(problem)
        if good:
            return failed[0] if failed else None
        for each in failed:
            app.emit(Noticed("hook-failed", str(each), "The run failed for another reason, too."))
        return None

    def _facts(self, app: App, ending: Ending | None = None) -> dict[str, str]:
        """The environment of hooks. A public contract: README lists it."""
        facts = {"DRTOOL_COMMAND": self.command, "DRTOOL_INSTANCE": app.instance.name}
        if ending is None:
            return facts
        status = str(ending.exit_status)
        return {
            **facts,
            "DRTOOL_OUTCOME": ending.kind,
            "DRTOOL_EXIT_STATUS": status,
            "DRTOOL_SET": set_id_in(ending.found),
        }

    def _bulletin(self, app: App, ending: Ending) -> Bulletin:
        error = ending.error
        name, message, hint = "", "", ""
        if ending.defect:  # its text is nobody's who reads it elsewhere: it can hold anything
            name, message = ending.defect, "a defect in drtool"
            hint = "Run it again with -v on the host."
        elif error:
            name, message, hint = type(error).__name__, str(error), error.hint
        elif ending.exit_status:
            name = _NAMES.get(ending.exit_status, "")
            message = _summary(list(problems_in(ending.found)))
            hint = "The command's output on the host has the rest."
        return Bulletin(
            ending.kind,
            self.command,
            app.instance.name,
            platform.node(),
            ending.exit_status,
            timedelta(seconds=time.monotonic() - self._began),
            set_id_in(ending.found),
            name,
            message,
            hint,
        )


def set_id_in(found: object) -> str:
    """The set that a result is about; empty if it is about none, or several."""
    for value in (_field(found, "set_id"), _field(_field(found, "manifest"), "set_id")):
        if isinstance(value, str):
            return value
    return ""


def problems_in(found: object) -> Iterator[str]:
    """What a result that ended badly complains about."""
    for each in _field(found, "stores") or ():
        yield from problems_in(each)
    for problem in _field(found, "problems") or ():
        yield str(problem)
    if freeze := _field(_field(_field(found, "plan"), "decision"), "freeze"):
        yield str(freeze)


def _field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _summary(problems: list[str]) -> str:
    if len(problems) <= 1:
        return "".join(problems)
    return f"{len(problems)} problems. The first: {problems[0]}"


def _place(app: App) -> Place:
    return Place(app.runner, app.clock, app.emit)


def _remember(app: App, bulletin: Bulletin, told: list[Delivered]) -> None:
    try:
        record(app.config.state_dir, bulletin, told)
    except DrtoolError as problem:
        app.emit(Noticed("notification-not-recorded", str(problem), problem.hint))


def _complain(app: App, told: list[Delivered]) -> None:
    for one in told:
        if one.reason:
            app.emit(
                Noticed(
                    "notification-failed",
                    f"nobody was told by {one.service} ({one.kind}): it {one.reason}",
                    "`drtool notify --test` tries it again. How the run ended is not changed by it.",
                )
            )
