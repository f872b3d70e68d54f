"""The tables of ``drtool.toml`` that say who is told of a run, and what is run before and after it."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from drtool.config_stores import SecretReference, Table

COMMANDS = ("backup", "verify", "prune", "copy", "restore", "cutover", "drill")
"""What begins and ends with hooks and notifications."""

BACKUP_PHASES = ("look", "create", "send", "commit", "clean", "copy")
"""What a backup consists of, in order; each of it can have hooks of its own. One that goes on begins in the middle."""

ON_FAILURE = "on-failure"
Kind = Literal["start", "success", "failure", "breach"]


def _parse_patience(value: object) -> timedelta:
    match = re.fullmatch(r"\s*(\d{1,5})\s*([smh])\s*", str(value))
    if not match or not int(match[1]):
        raise ValueError("write seconds, minutes or hours like 20s, 5m or 1h")
    return timedelta(seconds=int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]])


def _check_moment(text: str) -> str:
    when, _, what = text.partition("-")
    known = (*COMMANDS, *(f"backup-{phase}" for phase in BACKUP_PHASES))
    if text != ON_FAILURE and (when not in ("before", "after") or what not in known):
        raise ValueError(f"should be {ON_FAILURE}, or before- or after- one of {', '.join(known)}")
    return text


def _check_program(words: tuple[str, ...]) -> tuple[str, ...]:
    if not words[0] or "=" in words[0] or words[0].startswith("-"):
        raise ValueError("should begin with a program")
    return words


Patience = Annotated[timedelta, BeforeValidator(_parse_patience)]


class NotifyTable(Table):
    """Who is told. Every address is a secret reference: most hold a password or a token."""

    urls: tuple[SecretReference, ...] = Field(default=(), strict=False)
    on: tuple[Kind, ...] = Field(default=("failure", "breach"), strict=False)
    ping_url: SecretReference | None = None
    timeout: Patience = timedelta(seconds=20)

    @model_validator(mode="after")
    def _moments_have_somebody_to_tell(self) -> NotifyTable:
        if "on" in self.model_fields_set and not self.urls:
            raise ValueError("on is for urls: add some, or leave it out")
        return self

    def anchored(self, reference: Callable[[str], str]) -> NotifyTable:
        """The same with every reference rewritten."""
        ping_url = reference(self.ping_url) if self.ping_url else None
        return self.model_copy(update={"urls": tuple(map(reference, self.urls)), "ping_url": ping_url})


class HookTable(Table):
    """A command of the operator's own. One that is to run before keeps the run from beginning when it fails."""

    when: Annotated[str, AfterValidator(_check_moment)]
    command: Annotated[tuple[str, ...], AfterValidator(_check_program)] = Field(min_length=1, strict=False)
    timeout: Patience = timedelta(minutes=10)
