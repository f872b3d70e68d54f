"""One host of a cut-over: look how it stands to writing, freeze it, fence it, let it serve again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, Protocol

from drtool.clock import Clock
from drtool.core.census import Census
from drtool.core.cutover import HostSeen, State
from drtool.counting import count_host
from drtool.errors import CommandFailed, CutoverFailed, HostUnfit
from drtool.events import Emit, Waiting
from drtool.holding import only_restore_onto
from drtool.hosts import Runner
from drtool.installs import fencing as commands
from drtool.installs.fencing import Services
from drtool.installs.omnibus import Omnibus
from drtool.phases import say_and_collect

_STARTS_WITHIN = timedelta(minutes=10)
_PAUSE = timedelta(seconds=2)

Role = Literal["exposed", "fenced"]


class Side(Protocol):
    """A host that may hold the address. ``holder`` is what the provider calls it."""

    @property
    def holder(self) -> str: ...

    @property
    def name(self) -> str:
        """What people call it: how it is reached."""
        ...

    def look(self) -> HostSeen:
        """Say how it stands now; out of reach is an answer too. Raises HostUnfit where there is no GitLab."""
        ...

    def freeze(self) -> None:
        """Stop what writes. Raises, as do the others, when that did not come to be."""
        ...

    def fence(self, note: str) -> None: ...

    def open(self) -> None:
        """Let it serve, and return once it does."""
        ...

    def expose(self, note: str) -> None:
        """Leave word on it that it may have been behind the address."""
        ...

    def settle(self) -> None:
        """Take that word away."""
        ...

    def count(self, now: datetime) -> Census: ...

    def hold(self, who: str) -> AbstractContextManager[None]:
        """Keep other runs off it while the block runs, where it can be reached. Raises Busy."""
        ...


@dataclass
class GitLabSide:
    """A package installation. ``answers`` asks it past the public address as people would."""

    holder: str
    runner: Runner
    install: Omnibus
    clock: Clock
    emit: Emit
    answers: Callable[[], str | None]
    """None: it does; else why not."""
    plain: bool = False
    """It is asked without TLS."""
    starts_within: timedelta = _STARTS_WITHIN
    no_way_in: str = field(default="", init=False)
    """Why it could not be reached when it was looked at last."""

    @property
    def name(self) -> str:
        return self.runner.name

    def look(self) -> HostSeen:
        services = self._reach()
        if services is None:
            return HostSeen(State.ANSWERING if self.answers() is None else State.SILENT)
        exposed = '"exposed"' in services.mark
        if services.writing:
            return HostSeen(State.SERVING, healthy=self.why_unhealthy() is None, exposed=exposed)
        state = State.FENCED if services.held and not services.up else State.FROZEN
        return HostSeen(state, exposed=exposed, held=services.held)

    @contextmanager
    def hold(self, who: str) -> Iterator[None]:
        """Keep others from restoring onto it or cutting over meanwhile, where it can be reached. Raises Busy."""
        with ExitStack() as held:
            if self._reach() is not None:
                held.enter_context(_let_go(self.runner, self.install, who))
            yield

    def freeze(self) -> None:
        services = self._services()
        for command in commands.freeze(self.install, services):
            say_and_collect(self.runner, command, "freeze", self.emit)
        if still := self._services().writing:
            raise CutoverFailed(
                f"{self.name}: {', '.join(still)} did not stop", hint="Look at gitlab-ctl status there."
            )

    def fence(self, note: str) -> None:
        self._leave("fenced", note)
        say_and_collect(self.runner, commands.fence(self.install), "fence", self.emit)
        services = self._services()
        if services.up or not services.held:
            left = ", ".join(sorted(services.up)) or "its services would start with the machine"
            raise CutoverFailed(f"{self.name} is not fenced: {left}", hint="Look at gitlab-ctl status there.")

    def open(self) -> None:
        say_and_collect(self.runner, commands.open_again(self.install), "open", self.emit)
        deadline = self.clock.monotonic() + self.starts_within.total_seconds()
        while problem := self.why_unhealthy():
            if self.clock.monotonic() >= deadline:
                raise CutoverFailed(
                    f"{self.name} does not serve within {self.starts_within}: {problem}",
                    hint="Look at gitlab-ctl status and gitlab-ctl tail there.",
                )
            self.emit(Waiting("open", f"{self.name}: {problem}"))
            self.clock.sleep(_PAUSE)
        self.settle()

    def expose(self, note: str) -> None:
        self._leave("exposed", note)

    def settle(self) -> None:
        self.runner.run(commands.unmark(self.install))

    def count(self, now: datetime) -> Census:
        return count_host(self.install, self.runner, now)

    def _leave(self, role: Role, note: str) -> None:
        text = json.dumps({"role": role, "note": note, "at": self.clock.now().isoformat()})
        self.runner.run(self.install.write_file(commands.mark_path(self.install), text))

    def _services(self) -> Services:
        return commands.parse_services(self.runner.run(commands.look(self.install)), self.name)

    def _reach(self) -> Services | None:
        """None when there is no way in; whatever else is wrong there is told."""
        self.no_way_in = ""
        try:
            output = self.runner.run(commands.look(self.install))
        except HostUnfit as problem:  # no connection, no login, another host key
            self.no_way_in = str(problem)
        except CommandFailed as problem:
            if problem.status is not None:
                raise
            self.no_way_in = str(problem)
        else:
            return commands.parse_services(output, self.name)
        return None

    def why_unhealthy(self) -> str | None:
        """What GitLab itself says on the host, and then what people would be told."""
        try:
            self.runner.run(self.install.ready())
        except CommandFailed as problem:
            return str(problem)
        return self.answers()


@contextmanager
def _let_go(runner: Runner, install: Omnibus, who: str) -> Iterator[None]:
    """Hold the host's lock. A host that went away meanwhile, perhaps switched off by us, let go of it by itself."""
    held = ExitStack()
    held.enter_context(only_restore_onto(runner, install, who))
    try:
        yield
    finally:
        with suppress(CommandFailed, HostUnfit):
            held.close()
