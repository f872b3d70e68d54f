"""One invocation of the command line: the options that every command takes, and what is made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from drtool.app import App
    from drtool.endings import Run
    from drtool.ui import Ui

_Function = TypeVar("_Function", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, readable=False)  # whether it can be read is told by who reads it, with status 3
COMMON = (
    click.option("--config", "-c", type=FILE, help="drtool.toml (default: ./ then /etc/drtool/)."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object per line on standard output."),
    click.option("-v", "--verbose", is_flag=True, help="Also show what GitLab's commands print."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing unless something is wrong. For cron."),
)
_ASKING = ("restore", "cutover")
INSTANCE = click.option("--instance", help="Which instance, if the configuration has several.")
STORE = click.option("--store", metavar="NAME", help="Read this store of the configuration, not the instance's own.")
IDENTITY = click.option("--identity", "-i", "identities", multiple=True, type=FILE, help="File with an age identity.")
UNSIGNED = click.option("--unsigned", is_flag=True, help="Go on without a valid signature. You were warned.")


class Call:
    """The common options of one invocation, given before or after the command's name."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.run: Run | None = None
        """What is to be told to others when it ends; None for commands that nobody waits for."""
        self.defect = ""
        """The class of the error that nobody expected."""
        self._app: App | None = None
        self._instance: str | None = None

    def take(self, given: dict[str, Any]) -> None:
        for name in ("config", "as_json", "verbose", "quiet"):
            self.options[name] = given.pop(name) or self.options.get(name)

    @functools.cached_property
    def ui(self) -> Ui:
        from drtool.ui import Ui

        flags = {name: bool(self.options.get(name)) for name in ("as_json", "verbose", "quiet")}
        return Ui(**flags)

    def app(self, instance: str | None = None) -> App:
        """Read the configuration. For a command that does not ask before it begins, this is its beginning."""
        self._app = self._load(instance)
        if self.run and self.run.command not in _ASKING:
            self.begin()
        return self._app

    def begin(self, *, goes_on: bool = False) -> None:
        """Tell others that the work begins now. Raises HookFailed, but not where it ``goes_on``; see ``Run.begin``."""
        if self.run and self._app:
            self.run.begin(self._app, goes_on=goes_on)

    def withdraw(self) -> None:
        """Tell nobody: nothing was begun, because somebody at the terminal said no."""
        self.run = None

    def expect(self, name: str, given: dict[str, Any]) -> None:
        """Remember, before the command does anything, whether others are to hear of it."""
        from drtool.config_notify import COMMANDS

        self._instance = given.get("instance")
        if name in COMMANDS and not given.get("dry_run"):
            from drtool.endings import Run

            self.run = Run(name)
            self.ui.hold()

    def end(self, status: int) -> int:
        """Tell everybody else how the command ended; return the status to end with. Raises nothing of its own."""
        if self.run is None:
            return status
        from drtool.endings import Ending
        from drtool.errors import DrtoolError

        try:
            app = self._app or self._load(self._instance)
        except DrtoolError:
            return status  # it says who is to be told
        failed = self.run.end(app, Ending(status, self.ui.failed, self.ui.found, self.defect))
        if failed is None:
            return status
        self.ui.error(failed)
        return failed.exit_status

    def _load(self, instance: str | None) -> App:
        from drtool.app import load

        emit = self.run.listening(self.ui.emit) if self.run else self.ui.emit
        return load(self.options.get("config"), instance, emit)


def command(function: _Function) -> _Function:
    """Give a command the common options, and its call instead of them."""

    @functools.wraps(function)
    def wrapped(**given: Any) -> Any:
        call = click.get_current_context().find_object(Call)
        assert call is not None
        call.take(given)
        call.expect(click.get_current_context().info_name or "", given)
        try:
            return function(call, **given)
        except (BrokenPipeError, EOFError) as problem:
            # click would take the one for an early end of our output and the other for Ctrl-C, and say nothing
            raise RuntimeError(f"{type(problem).__name__}: {problem}") from problem

    for option in reversed(COMMON):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # click's decorators change the signature
