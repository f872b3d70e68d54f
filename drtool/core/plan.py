"""Plans: what is going to be done, as a value.

A plan is printed by a dry run, written at the head of the journal, and interpreted by the engine alone. A step's
``name`` identifies it in the journal, so names are unique in a plan. A ``repeatable`` step may be done again after
a crash in the middle of it; the engine refuses to resume inside one that is not. What a ``lasting`` step did outlives
an interruption; what another found or arranged (a service that is down) may not hold any more when a run is resumed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal

from drtool.core.command import Command
from drtool.core.packages import Package, PackageSource
from drtool.errors import ResumeError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


class Expect(StrEnum):
    """What a command's output must show. An exit status alone proves little with GitLab's commands."""

    SUCCESS = "exit status 0"
    BACKUP_DONE = "a complete backup, no component failed"
    RESTORE_DONE = "every repository of the set restored, no SQL error"
    PUMA_AND_SIDEKIQ_DOWN = "puma and sidekiq down"
    ALL_SERVICES_UP = "every service running"
    CHECK_CLEAN = "no check answered no"
    SECRETS_FIT = "no row that cannot be decrypted"
    NO_TASK_RUNNING = "no backup or restore of GitLab's own in progress"


Via = Literal["relay", "signed-url"]


@dataclass(frozen=True, slots=True)
class Install:
    """Put exactly this package on the host, held from upgrades; nothing is configured or started."""

    name: str
    title: str
    package: Package
    source: PackageSource
    kind: Literal["install"] = "install"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Release:
    """Let the package be upgraded again."""

    name: str
    title: str
    package: Package
    kind: Literal["release"] = "release"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Isolate:
    """Keep the restored GitLab from sending anything: in its configuration, or in its database."""

    name: str
    title: str
    part: Literal["configuration", "database"]
    kind: Literal["isolate"] = "isolate"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Fit:
    """Look at the host once more, with the set's configuration in force: its registry and storages are those it needs.

    ``replace`` as the restore was asked.
    """

    name: str
    title: str
    replace: str | None
    kind: Literal["fit"] = "fit"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Prove:
    """Check that everything the set names is in the store, and that the given identities open it.

    The archives in ``whole`` are read to their end, every digest compared.
    """

    name: str
    title: str
    whole: tuple[str, ...] = ()
    kind: Literal["prove"] = "prove"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Send:
    """Bring an archive's members below ``directory`` on the host; every digest checked before the step counts as done.

    ``before`` runs first (it makes the directory, or empties what an interrupted try left there). ``at_once`` holds
    the whole archive in memory before the first byte is sent: for small ones that replace what is there. ``via`` says
    whether the bytes go through this machine, or the host fetches them itself.
    """

    name: str
    title: str
    archive: str
    before: tuple[Command, ...]
    unpack: Command
    directory: PurePosixPath
    at_once: bool = False
    via: Via = "relay"
    kind: Literal["send"] = "send"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Run commands in order; ``expect`` judges what the last one printed."""

    name: str
    title: str
    commands: tuple[Command, ...]
    expect: Expect = Expect.SUCCESS
    lasting: bool = True
    kind: Literal["run"] = "run"
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again and again until ``expect`` holds, at most for ``patience``."""

    name: str
    title: str
    command: Command
    expect: Expect
    patience: timedelta
    pause: timedelta = timedelta(seconds=2)
    kind: Literal["wait"] = "wait"
    lasting: bool = False
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Restore:
    """Show GitLab the staged members, ``last`` after all others, and let it restore from them.

    One step, because an ordinary backup overwrites and then deletes what is shown (18.9), and a restore that finds
    nothing loose takes the lone archive in ``directory`` instead. What is shown are links; ``staging`` keeps everything
    for another try. ``clear`` removes what an earlier try, or an older set, left in the way.
    """

    name: str
    title: str
    clear: Command
    staging: PurePosixPath
    directory: PurePosixPath
    last: str
    command: Command
    patience: timedelta
    kind: Literal["restore"] = "restore"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class PutBack:
    """Let GitLab restore an archive of its own that lies in ``directory``; ``clear`` removes what would go before it.

    Judged by the repositories that the archive itself has manifests of.
    """

    name: str
    title: str
    clear: Command
    listing: Command
    backup_id: str
    command: Command
    patience: timedelta
    kind: Literal["put-back"] = "put-back"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    """Count what the host holds, and hold it against the set's census; a single difference fails."""

    name: str
    title: str
    kind: Literal["compare"] = "compare"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Clone:
    """Let git read a few repositories whole, as for a clone: at most ``samples`` of those that have refs."""

    name: str
    title: str
    samples: int
    kind: Literal["clone"] = "clone"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """Write the signed receipt."""

    name: str
    title: str
    kind: Literal["record"] = "record"
    lasting: bool = True
    repeatable: bool = True
    irreversible: bool = False


Step = Install | Release | Isolate | Fit | Prove | Send | Run | Wait | Restore | PutBack | Compare | Clone | Record


@dataclass(frozen=True, slots=True)
class Plan:
    """What one run does. ``purpose`` is what receipts call it; ``host`` what people call the target.

    ``copies`` names the run whose copies of what was there before bring that back; empty where there are none.
    ``store`` is what the configuration calls the one that the set is read from; empty where that does not matter.
    """

    run_id: str
    purpose: Literal["restore", "undo", "drill", "cutover"]
    instance: str
    set_id: str
    host: str
    steps: tuple[Step, ...]
    copies: str
    store: str

    def __post_init__(self) -> None:
        names = [step.name for step in self.steps]
        if len(names) != len(set(names)):
            raise ValueError(f"two steps of one name: {sorted(names)}")


def render_plan(plan: Plan) -> str:
    """Write a plan as one line of JSON."""
    return _plan_type().dump_json(plan).decode()


def parse_plan(text: str) -> Plan:
    """Read what ``render_plan`` wrote. Raises ResumeError."""
    from pydantic import ValidationError

    try:
        return _plan_type().validate_json(text)
    except ValidationError as problem:
        raise ResumeError(f"the journal's plan cannot be read: {problem.error_count()} problems") from problem


def plan_fields(plan: Plan) -> dict[str, object]:
    """The plan as plain JSON values, for ``--json``."""
    fields: dict[str, object] = json.loads(render_plan(plan))
    return fields


@cache
def _plan_type() -> TypeAdapter[Plan]:
    from pydantic import TypeAdapter

    return TypeAdapter(Plan)
