"""What a tether needs of a connection: to start processes at its far end, and to speak to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Link(Protocol):
    """One process far away. Safe for one reader of each stream, one writer, and anybody who closes it."""

    def read(self, size: int) -> bytes:
        """Return what there is of standard output, ``b""`` at its end and when the connection is lost."""
        ...

    def read_error(self, size: int) -> bytes:
        """Return what there is of standard error, ``b""`` at its end and when the connection is lost."""
        ...

    def write(self, data: ReadableBuffer) -> None:
        """Write all to standard input. Raises OSError when the far end takes no more."""
        ...

    def wait(self, seconds: float | None) -> int | None:
        """Wait for the exit status. None: the connection was lost before all of output or status came. TimeoutError."""
        ...

    def beside(self, argv: Sequence[str]) -> Link:
        """Start another process over the same connection. Raises CommandFailed, also when that is lost."""
        ...

    def close(self) -> None:
        """Let go of it, and wake whoever reads or writes. May be called again."""
        ...


class Carrier(Protocol):
    """Starts processes far away."""

    def start(self, argv: Sequence[str]) -> Link:
        """Raises HostUnfit when there is no way to the host, CommandFailed when it does not take the command."""
        ...

    def close(self) -> None:
        """Let go of the host. May be called again; a later ``start`` connects anew."""
        ...
