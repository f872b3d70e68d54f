"""Commands over a runner, as users write them, for the contract of addresses. The provider is a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

from drtool.addresses.command import CommandAddress
from drtool.addresses.waiting import Patience
from drtool.core.command import Command
from drtool.errors import CommandFailed
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from tests.contracts.address_contract import PATIENCE, Gate, Site

HOLDER = 'cat "$0.holder"\n'
MOVE = """test -e "$0.down.$1" && { echo "$1 is down" >&2; exit 3; }
test "$(cat "$(dirname "$0")/holder.holder")" = "$2" || { echo "not with $2" >&2; exit 4; }
printf %s "$1" > "$(dirname "$0")/holder.holder"
"""
CHECK = 'if test -e "$(dirname "$0")/move.down.$1"; then echo "$1 is down" >&2; exit 3; fi\n'


class GatedRunner:
    """Lets the gate decide about each command: the weather of the host on which they run."""

    def __init__(self, gate: Gate) -> None:
        self.inner, self.gate, self.commands = LocalRunner(), gate, list[Command]()

    @property
    def name(self) -> str:
        return self.inner.name

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        self.commands.append(command)
        what = Path(command.argv[0]).name
        fate = self.gate.decide(what, changes=what == "move")
        if fate == "throttle":
            raise CommandFailed("not now", status=75)
        if fate == "deny":
            raise CommandFailed("not you", status=77)
        if fate in ("drop", "error"):
            raise CommandFailed("it ran out of time")
        output = self.inner.run(command, stdin=stdin)
        if fate != "serve":
            raise CommandFailed("it ran out of time")
        return output

    def read_from(self, command: Command) -> AbstractContextManager[BinaryIO]:
        return self.inner.read_from(command)

    def write_to(self, command: Command) -> AbstractContextManager[BinaryIO]:
        return self.inner.write_to(command)


class CommandSite(Site):
    """Three scripts and a file that says who has the address. The move compares: it is told whom we expect."""

    a, b, c = "gitlab-1.example.com", "gitlab-2.example.com", "192.0.2.3"
    denied_code = "77"
    compares = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.runner: Runner = GatedRunner(self.gate)
        self.script("holder", HOLDER)
        self.script("move", MOVE)
        self.script("check", CHECK)
        self.place(self.a)

    def script(self, name: str, text: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\nset -e\n{text}")
        (self.folder / name).chmod(0o755)

    def address(self, **settings: Any) -> CommandAddress:
        commands: dict[str, Any] = {
            "holder": (str(self.folder / "holder"),),
            "move": (str(self.folder / "move"), "{to}", "{expected}"),
            "check": (str(self.folder / "check"), "{to}", "{expected}"),
            "timeout": timedelta(seconds=20),
        }
        return CommandAddress(
            "front", runner=self.runner, patience=Patience(self.clock, PATIENCE), **{**commands, **settings}
        )

    def at(self) -> str | None:
        return (self.folder / "holder.holder").read_text() or None

    def place(self, holder: str | None) -> None:
        (self.folder / "holder.holder").write_text(holder or "")

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        return {
            "the check says no": self._down,
            "an option for a name": self._option,
            "no move command": self._no_command,
        }

    def _down(self) -> str:
        (self.folder / f"move.down.{self.b}").touch()
        return "3"

    def _option(self) -> str:
        self.b = "--help"
        return ""

    def _no_command(self) -> str:
        self.b = "gitlab-3.example.com"
        (self.folder / "move").unlink()
        return "127"
