"""What a thief with a host's keys would try on a store: what every store is asked, and what its kind adds.

An attempt touches its own scratch object, or puts a setting of the bucket back exactly as it was read: byte by byte,
so that nothing is lost that an SDK does not know. What cannot be tried so is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from drtool.errors import ObjectMissing, StoreError

T = TypeVar("T")


class NotTried(Exception):
    """It could do harm, or there is nothing to try it on. ``str()`` says why."""


class Harmless(Exception):
    """The store did it, and nothing is lost by it. ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """``run`` gets a key nobody uses, and the time. It returns what it saw when it succeeded, which is the finding.

    Raises StoreAccessDenied where it is refused, Harmless, NotTried; any other StoreError tells nothing.
    """

    name: str
    gains: str
    run: Callable[[str, datetime], str]
    cure: str = ""


class Arms(Protocol):
    """What a kind of store can be tried with besides."""

    def version_of(self, key: str) -> str:
        """The version of what lies there now; "" where the bucket keeps none."""
        ...

    def read_version(self, key: str, version: str) -> bytes: ...

    @property
    def attempts(self) -> Sequence[Attempt]: ...


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a bucket, and what it means that this host can change it. ``absent``: what a bucket without says."""

    name: str
    gains: str
    absent: str = ""


def around(function: Callable[[], T]) -> T:
    """Do what goes before the attempt, or look at what came of it: a refusal of that is none of the attempt.

    Raises NotTried; ObjectMissing goes through.
    """
    try:
        return function()
    except ObjectMissing:
        raise
    except StoreError as problem:
        raise NotTried(f"what has to go with it was refused or failed: {problem}") from problem


def refuse_unread(name: str, reason: object) -> NotTried:
    return NotTried(f"{name} cannot be read, so it could not be put back as it was: {reason}")
