"""Machines that commands run on: one protocol; local, ssh and prefixed runners behind it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import BinaryIO, Protocol

from drtool.core.command import Command


class Runner(Protocol):
    """Runs commands on one host. Every method raises CommandFailed; none returns a status.

    The message of CommandFailed names the program, its status and the last lines of its standard error;
    ``status`` is 127 when the program does not exist. Standard input is empty unless ``write_to`` feeds it.
    Standard error is always drained, so a chatty program never blocks.
    """

    @property
    def name(self) -> str:
        """What people call this host in messages: ``local``, ``root@gitlab.example.com``."""
        ...

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        """Run to the end and return standard output."""
        ...

    def read_from(self, command: Command) -> AbstractContextManager[BinaryIO]:
        """Stream standard output. The last ``read`` returns ``b""`` only after the command ended with status 0.

        A command that failed raises CommandFailed from that last ``read`` (so whoever copies the stream cannot
        take a dead producer for the end of data) and again on leaving. Leaving before the end kills the command
        silently. The environment and the locale are C/POSIX so that output can be parsed.
        """
        ...

    def write_to(self, command: Command) -> AbstractContextManager[BinaryIO]:
        """Stream standard input. Leaving closes it, waits, and raises CommandFailed on a bad status.

        Leaving by an exception kills the command: half an input is never taken for the whole.
        """
        ...
