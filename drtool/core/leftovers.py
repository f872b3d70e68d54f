"""What to do about what an earlier, interrupted backup left behind."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from drtool.core.model import is_set_id


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A backup that was begun and neither finished nor given up."""

    set_id: str
    begun_at: datetime
    terms: str
    created: bool
    committed: bool


@dataclass(frozen=True, slots=True)
class Continue:
    """Take up this set: its members are complete in GitLab's backup directory."""

    set_id: str


@dataclass(frozen=True, slots=True)
class StartAnew:
    """Begin a new set. ``clean`` says that the loose members lying there are ours and go first."""

    clean: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """Loose members of somebody else's backup lie there; GitLab would overwrite them."""

    backup_id: str


Decision = Continue | StartAnew | Refuse


def decide(
    interrupted: Interrupted | None,
    *,
    staged: str | None,
    terms: str,
    now: datetime,
    patience: timedelta,
) -> Decision:
    """Choose how a backup begins.

    ``staged`` is the backup id of the loose ``backup_information.yml``, None if there is none: GitLab writes it after
    all other members, so without it whatever lies there is a torso that GitLab itself replaces. ``terms`` tells
    under which settings a set is written; a set is never continued under others. After ``patience`` the staged data
    is too old to pass for tonight's backup.
    """
    if staged is None:
        return StartAnew(clean=False)
    if not is_set_id(staged):
        return Refuse(staged)
    if (
        interrupted is not None
        and interrupted.created
        and not interrupted.committed
        and interrupted.set_id == staged
        and interrupted.terms == terms
        and timedelta(0) <= now - interrupted.begun_at < patience
    ):
        return Continue(staged)
    return StartAnew(clean=True)
