"""Bring an instance back from a set: look, decide, show, do, record.

Nothing on the target is replaced before every byte that is needed lies on it and is proven: staging comes before the
configuration, the safety copy before GitLab's own restore, which has no undo (it deletes what it moved aside; read in
GitLab 18.9).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from drtool.catalog import BackupSet
from drtool.clock import Clock
from drtool.core.model import Manifest, is_set_id
from drtool.core.plan import Expect, Plan, Prove, Record, Restore, Run, Send, Step, Wait, parse_plan
from drtool.core.versions import same_version
from drtool.engine import Site, StepTime, execute
from drtool.errors import HostUnfit, ResumeError, TargetHoldsData
from drtool.events import Emit
from drtool.gitlab.archive import INFORMATION, order_members
from drtool.hosts import Runner
from drtool.installs.omnibus import Omnibus
from drtool.journal import Journal, journals, new_journal, only_run
from drtool.signing import Signer
from drtool.survey import (
    LOOSE_MEMBERS,
    backup_directory,
    count_projects,
    hostname,
    look_at_version,
    staged_information,
)

_TASK_PATIENCE = timedelta(hours=6)
_START_PATIENCE = timedelta(minutes=15)
_TAKEN_UP_WITHIN = timedelta(days=1)

_STAGING = ".drtool-"  # begins the name of a run's own directory, beside GitLab's members so that links can be made


@dataclass(frozen=True, slots=True)
class Target:
    """What was seen on the host.

    ``host`` is how drtool reaches it, ``hostname`` what it calls itself. ``projects`` is None when the database would
    not say.
    """

    host: str
    hostname: str
    version: str
    projects: int | None
    loose_backup_id: str | None
    loose_members: tuple[str, ...]

    @property
    def empty(self) -> bool:
        return self.projects == 0


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted. ``replace`` is the hostname whose projects may be replaced; None allows an empty target only."""

    instance: str
    install: Omnibus
    replace: str | None = None
    resume: str | None = None


@dataclass(frozen=True)
class Place:
    """What the work is done with."""

    runner: Runner
    backup_set: BackupSet
    signer: Signer | None
    state: Path
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished restore."""

    run_id: str
    set_id: str
    resumed: bool
    steps: tuple[StepTime, ...]


@dataclass(frozen=True)
class Prepared:
    """A plan that may be shown, and then carried out with ``carry_out``."""

    plan: Plan
    target: Target
    journal: Journal
    resumed: bool


def prepare(request: Request, place: Place) -> Prepared:
    """Look at the target and decide what to do; nothing is changed, on the target or anywhere else.

    An unfinished run for the same set and host is taken up again. Raises SetDamaged for a red set, VersionMismatch,
    TargetHoldsData, HostUnfit, ResumeError.
    """
    place.backup_set.refuse_red()
    manifest = place.backup_set.manifest
    interrupted = _unfinished(request, place)
    target = look(request.install, place.runner)
    same_version(manifest.gitlab.version, target.version)
    if interrupted and _may_go_on(interrupted, request, target, place.clock.now()):
        return Prepared(_plan_of(interrupted), target, interrupted, resumed=True)
    _refuse_unfit(request, target)
    run_id = f"restore-{place.clock.now():%Y%m%dT%H%M%SZ}-{place.new_token()}"
    plan = plan_restore(request.install, manifest, target, run_id=run_id)
    return Prepared(plan, target, Journal(place.state / "runs" / f"{run_id}.jsonl"), resumed=False)


def carry_out(prepared: Prepared, request: Request, place: Place) -> Outcome:
    """Do what was prepared. Raises what its steps raise; the same command again goes on from there."""
    plan = prepared.plan
    with only_run(place.state, request.instance, doing="a restore"):
        journal = new_journal(place.state, plan.run_id)
        site = Site(place.runner, request.install, place.backup_set, place.signer, place.clock, place.emit)
        steps = execute(plan, site, journal)
    return Outcome(plan.run_id, plan.set_id, prepared.resumed, steps)


def look(install: Omnibus, runner: Runner) -> Target:
    """Describe the host, changing nothing. Raises HostUnfit when there is no GitLab on it."""
    version = look_at_version(install, runner)
    names = sorted(entry.name for entry in backup_directory(install, runner))
    ours = tuple(name for name in names if name in LOOSE_MEMBERS or name.startswith(_STAGING))
    staged = staged_information(install, runner)
    loose = staged.backup_id if staged else None
    return Target(runner.name, hostname(runner), version, count_projects(install, runner), loose, ours)


def plan_restore(install: Omnibus, manifest: Manifest, target: Target, *, run_id: str) -> Plan:
    """Decide the steps. Pure."""
    staging = install.backup_path / f"{_STAGING}{run_id}"
    safety: tuple[Step, ...] = (
        ()
        if target.empty
        else (
            Run(
                "safety-copy",
                "Keep a copy of what the target holds, as a backup of GitLab's own",
                (install.create_backup(_safety_id(run_id), skip=()),),
                Expect.BACKUP_DONE,
            ),
        )
    )
    steps: tuple[Step, ...] = (
        Prove("prove", "Check that every volume is there and can be opened", whole=("config",)),
        Send(
            "stage",
            "Bring GitLab's members to the host, every digest checked",
            "application",
            (install.remove(staging.parent, (staging.name,)), install.make_directory(staging)),
            install.unpack(staging),
        ),
        Wait(
            "idle",
            "Wait until no backup or restore of GitLab's own is running",
            install.read_file(install.pid_file),
            Expect.NO_TASK_RUNNING,
            _TASK_PATIENCE,
        ),
        *safety,
        Run("save-config", "Keep a copy of the target's configuration", (install.save_config(),)),
        Send(
            "send-config",
            "Put configuration, secrets, certificates and host keys in place",
            "config",
            (),
            install.unpack(install.root, exclude=("opt",)),
            at_once=True,
        ),
        Run("reconfigure", "Reconfigure GitLab with them", (install.reconfigure(),)),
        Run(
            "quiesce",
            "Stop what talks to the database",
            (install.stop("puma"), install.stop("sidekiq"), install.status()),
            Expect.PUMA_AND_SIDEKIQ_DOWN,
            lasting=False,  # a host that starts anew starts them too
        ),
        Restore(
            "restore",
            "GitLab restores",
            install.remove(install.backup_path, order_members({*LOOSE_MEMBERS, *target.loose_members})),
            staging,
            install.backup_path,
            INFORMATION,
            install.restore_backup(),
            _TASK_PATIENCE,
        ),
        Run(
            "clean",
            "Remove the staged members",
            (install.remove(install.backup_path, (staging.name, *LOOSE_MEMBERS)),),
        ),
        Run("start", "Start GitLab", (install.start(),)),
        Wait("up", "Wait until every service runs", install.status(), Expect.ALL_SERVICES_UP, _START_PATIENCE),
        Wait("ready", "Wait until GitLab answers", install.ready(), Expect.SUCCESS, _START_PATIENCE),
        Run("check", "Ask GitLab to check itself", (install.gitlab_check(),), Expect.CHECK_CLEAN),
        Run("secrets", "Ask GitLab whether its secrets fit", (install.doctor_secrets(),), Expect.SECRETS_FIT),
        Record("receipt", "Write the receipt"),
    )
    return Plan(run_id, "restore", manifest.instance, manifest.set_id, target.host, steps)


def _safety_id(run_id: str) -> str:
    return f"drtool-safety-{run_id.removeprefix('restore-')}"


def _refuse_unfit(request: Request, target: Target) -> None:
    if target.loose_backup_id is not None and not is_set_id(target.loose_backup_id):
        name = target.loose_backup_id or "without an id"
        raise HostUnfit(
            f"{request.install.backup_path} holds the loose members of backup {name}",
            hint="GitLab would take those for the backup to restore. Move them away first.",
        )
    if target.empty or request.replace == target.hostname:
        return
    what = "its database does not answer" if target.projects is None else f"it holds {target.projects} projects"
    wrong = f", and is not called {request.replace}" if request.replace else ""
    raise TargetHoldsData(
        f"{target.hostname} is not empty: {what}{wrong}",
        hint=f"To replace what is there, after a safety copy: --yes-replace {target.hostname}",
    )


def _unfinished(request: Request, place: Place) -> Journal | None:
    """The run to take up: the one named, or the newest for this set and host that did not end."""
    found = [journal for journal in journals(place.state, "restore-") if _fits(journal, request, place)]
    if request.resume is None:
        return found[-1] if found else None
    for journal in found:
        if journal.run_id == request.resume:
            return journal
    raise ResumeError(
        f"no unfinished restore {request.resume} of this set onto {place.runner.name}",
        hint="Without --resume a new one is started, or the newest unfinished one taken up.",
    )


def _fits(journal: Journal, request: Request, place: Place) -> bool:
    """Tell whether a run did not end and is for this set and host; whatever an older drtool wrote in its plan."""
    entry = journal.find("plan")
    if entry is None:
        return False
    plan = json.loads(entry["plan"])
    ended = {step["name"] for step in plan["steps"]} <= {done["step"] for done in journal.all("finished")}
    wanted = (request.instance, place.backup_set.manifest.set_id, place.runner.name)
    return not ended and (plan["instance"], plan["set_id"], plan["host"]) == wanted


def _may_go_on(journal: Journal, request: Request, target: Target, now: datetime) -> bool:
    """Tell whether the host may still be as an interrupted run left it.

    Before GitLab's restore began, a target that was empty has to be empty still, or a safety copy planned. After it,
    the projects there are most likely the set's own, but not for ever: a host that somebody repaired by hand and put
    to work must not be overwritten because of a forgotten journal. Then only --resume, in so many words, goes on.
    """
    began = [entry for entry in journal.all("started") if entry["step"] == "restore"]
    if not began:
        return target.empty or any(step.name == "safety-copy" for step in _plan_of(journal).steps)
    return request.resume is not None or now - datetime.fromisoformat(began[-1]["at"]) < _TAKEN_UP_WITHIN


def _plan_of(journal: Journal) -> Plan:
    entry = journal.find("plan")
    assert entry is not None
    try:
        return parse_plan(entry["plan"])
    except ResumeError as problem:
        raise ResumeError(
            f"{journal.path}: {problem}", hint="Another drtool wrote it. Move the file away to start anew."
        ) from problem
