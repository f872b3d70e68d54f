"""Everything a person or a machine reads. Alone in printing.

Results go to standard output, all else to standard error. ``--json`` prints one object per line on standard output:
events as they come, and a last one with ``"event": "result"`` or ``"error"``. Progress bars are for terminals.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, assert_never

import click

from drtool.errors import DrtoolError
from drtool.events import Event, HostSaid, Noticed, PhaseFinished, PhaseStarted, Progress, Waiting

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_SNAKE = re.compile(r"(?<!^)(?=[A-Z])")
_MARK = {"ok": ("ok", "green"), "warn": ("note", "yellow"), "bad": ("FAILED", "red")}


class ReaderGone(Exception):  # not an OSError: click ends silently, with status 1, on any that says EPIPE
    """Whoever read our output had enough, as ``head`` does."""


class Ui:
    """One command's voice."""

    def __init__(self, *, as_json: bool = False, verbose: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.quiet = quiet
        self._live = sys.stderr.isatty() and not (as_json or quiet)
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._waiting = ""
        self._held: list[str] | None = None
        self.found: object = None
        """The newest result; and the newest error, for whoever tells them elsewhere."""
        self.failed: DrtoolError | None = None

    # -- events -------------------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Show an event. Safe to call from several threads."""
        if self.as_json:
            self._emit_json(event)
            return
        match event:
            case PhaseStarted(phase, title):
                self._begin(phase, title)
            case Progress(phase, done, total, unit):
                self._advance(phase, done, total, unit)
            case PhaseFinished(phase, seconds):
                self._end(phase, seconds)
            case Noticed(_, message, hint, details):
                self.note(message, hint=hint, details=details)
            case Waiting(_, reason):
                if reason != self._waiting and not self.quiet:
                    self._say(f"  waiting: {reason}")
                self._waiting = reason
            case HostSaid(_, line):
                if self.verbose and not self.quiet:
                    self._say(f"  | {line}", dim=True)
            case _:
                assert_never(event)

    def close(self) -> None:
        if self._bars:
            self._bars.stop()
            self._bars = None

    # -- results ------------------------------------------------------------------------------------------------

    def result(self, value: object, text: str, *, bad: bool = False) -> None:
        """Print what the command found: ``value`` for machines, ``text`` for people; quietly only what is ``bad``."""
        self.close()
        self.found = value
        if self.as_json:
            self._print_last({"event": "result", **_plain_fields(value)})
        elif text and (bad or not self.quiet):
            _print(text)

    def error(self, error: DrtoolError) -> None:
        self.close()
        self.failed = error
        if self.as_json:
            self._print_last({"event": "error", **_error_fields(error)})
            return
        self._say(f"{style('error:', 'red')} {error}")
        if error.hint:
            self._say(f"  {style('→', 'cyan')} {error.hint}")

    def interrupted(self) -> None:
        self.close()
        hint = "The same command again takes up where this one stopped."
        if self.as_json:
            fields = {"error": "Interrupted", "message": "interrupted", "hint": hint, "exit_status": 130}
            self._print_last({"event": "error", **fields})
            return
        self._say(f"interrupted\n  {style('→', 'cyan')} {hint}")

    def note(self, message: str, *, hint: str = "", details: Sequence[str] = ()) -> None:
        self._say(f"{style('note:', 'yellow')} {message}")
        for detail in details:
            self._say(f"    {detail}")
        if hint:
            self._say(f"  {style('→', 'cyan')} {hint}")

    def say(self, text: str) -> None:
        """Tell something that is neither the result nor a problem."""
        if not (self.quiet or self.as_json):
            self._say(text)

    def confirm(self, question: str) -> bool:
        """Ask on the terminal. Without one the answer is no."""
        self.close()
        if self.as_json or not sys.stdin.isatty():
            return False
        return click.confirm(question, err=True)

    # -- how it is shown ----------------------------------------------------------------------------------------

    def _emit_json(self, event: Event) -> None:
        if isinstance(event, HostSaid | Progress) and not self.verbose:
            return
        name = _SNAKE.sub("_", type(event).__name__).lower()
        self._print_json({"event": name, **_plain_fields(event)})

    def hold(self) -> None:
        """Keep the result of ``--json`` back until ``release``: it is the last line, whatever is noticed meanwhile."""
        self._held = []

    def release(self) -> None:
        held, self._held = self._held or (), None
        for line in held:
            _print(line)

    def _print_last(self, fields: dict[str, Any]) -> None:
        if self._held is None:
            self._print_json(fields)
        else:
            self._held.append(json.dumps(fields, default=_plain))

    def _print_json(self, fields: dict[str, Any]) -> None:
        _print(json.dumps(fields, default=_plain))

    def _begin(self, phase: str, title: str) -> None:
        self._waiting = ""
        if self.quiet:
            return
        if not self._live:
            self._say(f"{title} …") if self.verbose else None
            return
        from rich.markup import escape

        bars = self._started_bars()
        self._tasks[phase] = bars.add_task(escape(title), total=None, amount="")

    def _advance(self, phase: str, done: int, total: int | None, unit: str) -> None:
        if self._bars and phase in self._tasks:
            amount = size_text(done) if unit == "bytes" else f"{done} {unit}"
            if total:
                amount += f" of {size_text(total) if unit == 'bytes' else total}"
            self._bars.update(self._tasks[phase], completed=done, total=total, amount=amount)

    def _end(self, phase: str, seconds: float) -> None:
        if self._bars and phase in self._tasks:
            bars, task = self._bars, self._tasks.pop(phase)
            title = bars.tasks[bars.task_ids.index(task)].description
            amount = bars.tasks[bars.task_ids.index(task)].fields["amount"]
            bars.remove_task(task)
            bars.console.print(f"[green]✓[/] {title} [dim]{amount} {seconds_text(seconds)}[/]", highlight=False)

    def _started_bars(self) -> Bars:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bars

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[amount]}"),
                TimeElapsedColumn(),
            )
            self._bars = Bars(*columns, console=Console(stderr=True), transient=True)
            self._bars.start()
        return self._bars

    def _say(self, text: str, *, dim: bool = False) -> None:
        if self._bars:
            from rich.text import Text

            self._bars.console.print(Text.from_ansi(text), style="dim" if dim else None, soft_wrap=True)
        else:
            _print(text, err=True)


def _print(text: str, *, err: bool = False) -> None:
    try:
        click.echo(text, err=err)
    except BrokenPipeError as problem:
        raise ReaderGone from problem


def style(text: str, colour: str, *, stream: Any = None) -> str:
    """Colour text where it will be seen: on a terminal, and not against NO_COLOR (https://no-color.org)."""
    shown = (stream or sys.stderr).isatty() and not os.environ.get("NO_COLOR")
    return click.style(text, fg=colour) if shown else text


def mark(kind: str) -> str:
    text, colour = _MARK[kind]
    return style(text, colour, stream=sys.stdout)


def table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    """Columns as wide as they need to be; the last one is never padded. Nothing is ever cut."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def size_text(size: int) -> str:
    """A size for people, in binary units."""
    if size < 1024:
        return f"{size} B"
    amount = float(size)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1023.95:  # from there on it would be shown as 1024.0
            return f"{amount:.1f} {unit}"
    return f"{amount / 1024:.1f} PiB"


def seconds_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def time_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _plain_fields(value: object) -> dict[str, Any]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, dict):
        return value
    return {"value": value}


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case Enum():
            return value.value
        case Path() | PurePath():
            return str(value)
        case set() | frozenset():
            return sorted(value)
        case DrtoolError():
            return _error_fields(value)
    raise TypeError(f"not for JSON: {type(value).__name__}")


def _error_fields(error: DrtoolError) -> dict[str, Any]:
    fields = {"error": type(error).__name__, "message": str(error), "hint": error.hint}
    return {**fields, "exit_status": error.exit_status}
