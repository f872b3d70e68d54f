"""A runner, and a journal, that fail on command: what ``drtool.stores.faults`` is for stores.

    runner = FaultyRunner(LocalRunner())
    runner.fail_at(3, "after", Crash())      # the third command does its work, then the process "dies"

Exhaustive use: fail call n for n = 1, 2, 3, … with fresh objects each time, until ``fired`` stays false.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO, Literal, cast

import pytest

from drtool.core.command import Command
from drtool.errors import CommandFailed
from drtool.hosts import Runner
from drtool.journal import Journal
from drtool.stores.faults import Crash
from drtool.streams import CHUNK, Source

Method = Literal["run", "read_from", "write_to"]
When = Literal["before", "during", "after"]
WHENS: tuple[When, ...] = ("before", "during", "after")
ENOUGH: tuple[When, ...] = ("during", "after")
"""For crashes in order: dying before a call leaves what dying after the call before it left."""


def worth_dying_in(calls: Sequence[Call], when: When) -> list[int]:
    """The numbers of these calls, but for those in which dying ``when`` leaves what another place leaves, too."""
    return [nth for nth, call in enumerate(calls, 1) if when == "after" or call.has_middle]


@dataclass(frozen=True, slots=True)
class Call:
    """One command that reached the FaultyRunner."""

    method: Method
    command: Command

    @property
    def program(self) -> str:
        return PurePath(self.command.argv[0]).name

    @property
    def has_middle(self) -> bool:
        """Whether dying during it leaves something else than dying before it; see ``FaultyRunner.fail_at``."""
        return self.method != "run" or self.program == "rm"


@dataclass(frozen=True, slots=True)
class _Fault:
    nth: int
    when: When
    error: BaseException


class FaultyRunner:
    """Passes every command on to ``inner``, counts it, and fails where it was told to.

    Once an error that is no Exception (a Crash) was raised, every later call raises it too: nothing is left of a
    process that died.
    """

    def __init__(self, inner: Runner) -> None:
        self.inner = inner
        self.calls: list[Call] = []
        self.fired = False
        self._faults: list[_Fault] = []
        self._dead: BaseException | None = None
        self._words: tuple[str, BaseException] | None = None

    def fail_at(self, nth: int, when: When = "before", error: BaseException | None = None) -> None:
        """Make the ``nth`` call raise ``error``, by default a CommandFailed.

        ``before`` it has any effect; ``after`` all of its effect; ``during``: a command that is read from has given
        its first bytes and is ended, one that is written to has got half of its first bytes, ``rm`` has removed the
        first half of what it should. Other commands of ``run`` have no middle: like ``before``.
        """
        self._faults.append(_Fault(nth, when, error or CommandFailed(f"fault at call {nth}, {when}", status=1)))

    def fail_on(self, words: str, error: BaseException) -> None:
        """Make the first command that has these words raise ``error`` before it has any effect."""
        self._words = (words, error)

    @property
    def name(self) -> str:
        return self.inner.name

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        fault = self._enter("run", command)
        if fault and fault.when == "during":
            if self.calls[-1].has_middle:
                self.inner.run(_half(command))
            raise self._raised(fault)
        try:
            output = self.inner.run(command, stdin=stdin)
        finally:
            self._leave(fault)
        return output

    def read_from(self, command: Command) -> AbstractContextManager[BinaryIO]:
        return self._read_from(command, self._enter("read_from", command))

    @contextlib.contextmanager
    def _read_from(self, command: Command, fault: _Fault | None) -> Iterator[BinaryIO]:
        with self.inner.read_from(command) as stream:
            broken = fault is not None and fault.when == "during"
            yield cast(BinaryIO, _BrokenOutput(self, stream, fault)) if fault and broken else stream
        self._leave(fault)

    def write_to(self, command: Command) -> AbstractContextManager[BinaryIO]:
        return self._write_to(command, self._enter("write_to", command))

    @contextlib.contextmanager
    def _write_to(self, command: Command, fault: _Fault | None) -> Iterator[BinaryIO]:
        with self.inner.write_to(command) as stream:
            broken = fault is not None and fault.when == "during"
            yield cast(BinaryIO, _BrokenInput(self, stream, fault)) if fault and broken else stream
        self._leave(fault)

    def _enter(self, method: Method, command: Command) -> _Fault | None:
        if self._dead:
            raise self._dead
        self.calls.append(Call(method, command))
        fault = next((fault for fault in self._faults if fault.nth == len(self.calls)), None)
        if self._words and self._words[0] in str(command):
            fault = _Fault(len(self.calls), "before", self._words[1])
        if fault:
            self.fired = True
            if fault.when == "before":
                raise self._raised(fault)
        return fault

    def _leave(self, fault: _Fault | None) -> None:
        if fault:
            raise self._raised(fault)

    def _raised(self, fault: _Fault) -> BaseException:
        if not isinstance(fault.error, Exception):
            self._dead = fault.error
        return fault.error


class _BrokenOutput(Source):
    """The first bytes of an output, then the fault; also if there is no more to read."""

    def __init__(self, runner: FaultyRunner, stream: BinaryIO, fault: _Fault) -> None:
        self._runner, self._stream, self._fault = runner, stream, fault
        self._given = False

    def read(self, size: int = -1, /) -> bytes:
        if self._given:
            raise self._runner._raised(self._fault)
        self._given = True
        first = self._stream.read(CHUNK if size < 0 else size)
        if not first:
            raise self._runner._raised(self._fault)
        return first[: (len(first) + 1) // 2]


class _BrokenInput:
    """Takes half of the first bytes, then raises the fault."""

    def __init__(self, runner: FaultyRunner, stream: BinaryIO, fault: _Fault) -> None:
        self._runner, self._stream, self._fault = runner, stream, fault

    def write(self, data: bytes) -> int:
        self._stream.write(data[: len(data) // 2])
        raise self._runner._raised(self._fault)


def _half(command: Command) -> Command:
    """An rm of the first half of its operands, at least one."""
    options, operands = command.argv[: command.argv.index("--") + 1], command.argv[command.argv.index("--") + 1 :]
    return Command((*options, *operands[: (len(operands) + 1) // 2]), command.timeout)


class JournalFault:
    """Breaks the ``nth`` append to any journal, while it is set by ``in_force``: the real one, with a death around it.

    ``before``: nothing is written; ``during``: half of the line; ``after``: all of it. Later appends raise too.
    """

    def __init__(self, nth: int, when: When) -> None:
        self.nth = nth
        self.when = when
        self.count = 0
        self.fired = False
        self.appended: list[str] = []

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        real = Journal.append

        def append(journal: Journal, what: str, **fields: Any) -> None:
            self.count += 1
            if self.fired:
                raise Crash
            self.fired = self.count == self.nth
            if not (self.fired and self.when == "before"):
                real(journal, what, **fields)
            if self.fired:
                if self.when == "during":
                    _tear(journal)
                raise Crash
            self.appended.append(what)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "append", append)
            yield


def _tear(journal: Journal) -> None:
    """Take half of the last line away, as a power cut in the middle of a write does."""
    content = journal.path.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    os.truncate(journal.path, start + (len(content) - start) // 2)
