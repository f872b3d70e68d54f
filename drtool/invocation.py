"""One invocation of the command line: the options that every command takes, and what is made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from drtool.app import App
    from drtool.ui import Ui

_Function = TypeVar("_Function", bound=Callable[..., Any])

FILE = click.Path(path_type=Path, readable=False)  # whether it can be read is told by who reads it, with status 3
COMMON = (
    click.option("--config", "-c", type=FILE, help="drtool.toml (default: ./ then /etc/drtool/)."),
    click.option("--json", "as_json", is_flag=True, help="One JSON object per line on standard output."),
    click.option("-v", "--verbose", is_flag=True, help="Also show what GitLab's commands print."),
    click.option("-q", "--quiet", is_flag=True, help="Print nothing unless something is wrong. For cron."),
)
INSTANCE = click.option("--instance", help="Which instance, if the configuration has several.")
IDENTITY = click.option("--identity", "-i", "identities", multiple=True, type=FILE, help="File with an age identity.")
UNSIGNED = click.option("--unsigned", is_flag=True, help="Go on without a valid signature. You were warned.")


class Call:
    """The common options of one invocation, given before or after the command's name."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}

    def take(self, given: dict[str, Any]) -> None:
        for name in ("config", "as_json", "verbose", "quiet"):
            self.options[name] = given.pop(name) or self.options.get(name)

    @functools.cached_property
    def ui(self) -> Ui:
        from drtool.ui import Ui

        flags = {name: bool(self.options.get(name)) for name in ("as_json", "verbose", "quiet")}
        return Ui(**flags)

    def app(self, instance: str | None = None) -> App:
        from drtool.app import load

        return load(self.options.get("config"), instance, self.ui.emit)


def command(function: _Function) -> _Function:
    """Give a command the common options, and its call instead of them."""

    @functools.wraps(function)
    def wrapped(**given: Any) -> Any:
        call = click.get_current_context().find_object(Call)
        assert call is not None
        call.take(given)
        try:
            return function(call, **given)
        except (BrokenPipeError, EOFError) as problem:
            # click would take the one for an early end of our output and the other for Ctrl-C, and say nothing
            raise RuntimeError(f"{type(problem).__name__}: {problem}") from problem

    for option in reversed(COMMON):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]  # click's decorators change the signature
