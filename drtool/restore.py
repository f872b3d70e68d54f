"""Bring an instance back from a set: look, decide, show, do, record.

Nothing on the target is replaced before every byte that is needed lies on it and is proven: staging comes before the
configuration, copies of what is there before either. GitLab's own restore has no undo (it deletes what it moved aside;
read in GitLab 18.9): ours brings those copies back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from drtool.catalog import BackupSet
from drtool.clock import Clock
from drtool.core.marker import Marker
from drtool.core.model import is_set_id
from drtool.core.plan import Plan, parse_plan
from drtool.core.versions import same_version
from drtool.engine import Site, StepTime, execute
from drtool.errors import HostUnfit, ResumeError, TargetHoldsData
from drtool.events import Emit
from drtool.holding import only_restore_onto
from drtool.hosts import Runner
from drtool.installs.omnibus import Omnibus
from drtool.journal import Journal, journals, new_journal, only_run
from drtool.restore_plan import STAGING, Target, plan_restore
from drtool.signing import Signer
from drtool.survey import (
    LOOSE_MEMBERS,
    backup_directory,
    count_projects,
    hostname,
    look_at_version,
    staged_information,
    unfinished_restore,
)

_TAKEN_UP_WITHIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted.

    ``replace`` is the hostname whose projects may be replaced; None allows an empty target only. ``resume`` names a run
    to take up, ``anew`` takes up none. ``compare`` counts what the host holds at the end.
    """

    instance: str
    install: Omnibus
    replace: str | None = None
    resume: str | None = None
    anew: bool = False
    compare: bool = True


@dataclass(frozen=True)
class Place:
    """What the work is done with. ``operator`` is what the machine calls itself that runs it."""

    runner: Runner
    backup_set: BackupSet
    signer: Signer | None
    state: Path
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]
    operator: str = ""


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
    interrupted = None if request.anew else _unfinished(request, place)
    target = look(request.install, place.runner)
    same_version(manifest.gitlab.version, target.version)
    if interrupted and _may_go_on(interrupted, request, target, place.clock.now()):
        return Prepared(_plan_of(interrupted), target, interrupted, resumed=True)
    _refuse_unfit(request, target)
    run_id = f"restore-{place.clock.now():%Y%m%dT%H%M%SZ}-{place.new_token()}"
    plan = plan_restore(
        request.install, manifest, target, _new_marker(run_id, place, target), compare=_counts(request, place)
    )
    return Prepared(plan, target, Journal(place.state / "runs" / f"{run_id}.jsonl"), resumed=False)


def carry_out(prepared: Prepared, request: Request, place: Place) -> Outcome:
    """Do what was prepared, a restore or its undoing.

    Raises what its steps raise; the same command again goes on from there.
    """
    plan = prepared.plan
    who = f"{plan.run_id} ({place.operator})"
    with (
        only_run(place.state, request.instance, doing="a restore"),
        only_restore_onto(place.runner, request.install, who),
    ):
        journal = new_journal(place.state, plan.run_id)
        site = Site(place.runner, request.install, place.backup_set, place.signer, place.clock, place.emit)
        steps = execute(plan, site, journal)
    return Outcome(plan.run_id, plan.set_id, prepared.resumed, steps)


def look(install: Omnibus, runner: Runner) -> Target:
    """Describe the host, changing nothing. Raises HostUnfit when there is no GitLab on it."""
    version = look_at_version(install, runner)
    names = sorted(entry.name for entry in backup_directory(install, runner))
    ours = tuple(name for name in names if name in LOOSE_MEMBERS or name.startswith(STAGING))
    staged = staged_information(install, runner)
    loose = staged.backup_id if staged else None
    projects, marker = count_projects(install, runner), unfinished_restore(install, runner)
    return Target(runner.name, hostname(runner), version, projects, loose, ours, marker)


def _counts(request: Request, place: Place) -> bool:
    return request.compare and place.backup_set.manifest.census is not None


def _new_marker(run_id: str, place: Place, target: Target) -> Marker:
    """The mark of a new run. Copies that another run kept before it replaced things are the ones to go back to."""
    kept = target.marker if target.half_replaced else None
    return Marker(
        run_id,
        place.backup_set.manifest.set_id,
        place.clock.now(),
        place.operator,
        "staging",
        copies=kept.copies if kept else run_id,
        had_data=kept.had_data if kept else not target.empty,
    )


def _refuse_unfit(request: Request, target: Target) -> None:
    if target.loose_backup_id is not None and not is_set_id(target.loose_backup_id):
        name = target.loose_backup_id or "without an id"
        raise HostUnfit(
            f"{request.install.backup_path} holds the loose members of backup {name}",
            hint="GitLab would take those for the backup to restore. Move them away first.",
        )
    if target.empty or request.replace == target.hostname:
        return
    if target.half_replaced:
        what = f"it holds {target.marker}"
    else:
        what = "its database does not answer" if target.projects is None else f"it holds {target.projects} projects"
    wrong = f", and is not called {request.replace}" if request.replace else ""
    keeps = "" if target.half_replaced else ", after a safety copy"
    raise TargetHoldsData(
        f"{target.hostname} is not empty: {what}{wrong}",
        hint=f"To replace what is there{keeps}: --yes-replace {target.hostname}",
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
    ended = ended or journal.find("undone") is not None
    wanted = (request.instance, place.backup_set.manifest.set_id, place.runner.name)
    return not ended and (plan["instance"], plan["set_id"], plan["host"]) == wanted


def _may_go_on(journal: Journal, request: Request, target: Target, now: datetime) -> bool:
    """Tell whether the host may still be as an interrupted run left it.

    It has the run's mark, or there is no telling: it may be another machine of the same name. Before GitLab's restore
    began, a target that was empty has to be empty still, or a safety copy planned. After it, the projects there are
    most likely the set's own, but not for ever: a host that somebody repaired by hand and put to work must not be
    overwritten because of a forgotten journal. Then only --resume, in so many words, goes on.
    """
    if not _marked_as_it_should(journal, target):
        if request.resume is None:
            return False
        raise ResumeError(
            f"{target.hostname} does not have the mark of {journal.run_id}",
            hint="It is another machine, or somebody else restored onto it. Leave --resume out to start anew.",
        )
    began = [entry for entry in journal.all("started") if entry["step"] == "restore"]
    if not began:
        return target.projects == 0 or any(step.name == "safety-copy" for step in _plan_of(journal).steps)
    return request.resume is not None or now - datetime.fromisoformat(began[-1]["at"]) < _TAKEN_UP_WITHIN


def _marked_as_it_should(journal: Journal, target: Target) -> bool:
    marked = any(entry["step"] == "mark" for entry in journal.all("finished"))
    unmarked = any(entry["step"] == "unmark" for entry in journal.all("started"))
    found = target.marker.run_id if target.marker else None
    return found == journal.run_id or (found is None and (unmarked or not marked))


def _plan_of(journal: Journal) -> Plan:
    entry = journal.find("plan")
    assert entry is not None
    try:
        return parse_plan(entry["plan"])
    except ResumeError as problem:
        raise ResumeError(
            f"{journal.path}: {problem}", hint="Another drtool wrote it. Move the file away to start anew."
        ) from problem
