"""Bring an instance back from a set: look, decide, show, do, record.

Nothing on the target is replaced before every byte that is needed lies on it and is proven: staging comes before the
configuration, copies of what is there before either. GitLab's own restore has no undo (it deletes what it moved aside;
read in GitLab 18.9): ours brings those copies back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath

from drtool.catalog import BackupSet
from drtool.clock import Clock, SystemClock
from drtool.core.fitness import judge_target
from drtool.core.host import Host
from drtool.core.marker import Marker
from drtool.core.model import Manifest
from drtool.core.needs import Needs, needs_of
from drtool.core.obstacles import Obstacle, refuse
from drtool.core.plan import Plan, parse_plan
from drtool.core.versions import same_version
from drtool.engine import HostKey, Site, StepTime, execute
from drtool.errors import HostUnfit, ResumeError
from drtool.events import Emit
from drtool.holding import last_restore_onto, only_restore_onto
from drtool.hosts import Runner
from drtool.inspection import inspect
from drtool.installing import look_at_packages, refuse_unfit
from drtool.installs.omnibus import Omnibus
from drtool.journal import Journal, journals, new_journal, only_run
from drtool.restore_plan import Wanted, plan_restore
from drtool.signing import Signer
from drtool.unsealing import check_can_fetch, room_needed

_TAKEN_UP_WITHIN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted.

    ``wanted.replace`` of None allows an empty target only. ``resume`` names a run to take up, ``anew`` takes up none.
    """

    instance: str
    install: Omnibus
    wanted: Wanted = field(default_factory=Wanted)
    resume: str | None = None
    anew: bool = False


@dataclass(frozen=True)
class Place:
    """What the work is done with. ``operator`` is what the machine calls itself that runs it.

    ``key`` is for hosts that fetch the set themselves.
    """

    runner: Runner
    backup_set: BackupSet
    signer: Signer | None
    state: Path
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]
    operator: str = ""
    key: HostKey | None = None


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
    target: Host
    journal: Journal
    resumed: bool
    warnings: tuple[Obstacle, ...] = ()


def prepare(request: Request, place: Place) -> Prepared:
    """Look at the target and decide what to do; nothing is changed, on the target or anywhere else.

    An unfinished run for the same set and host is taken up again. Raises SetDamaged for a red set, VersionMismatch,
    TargetHoldsData, HostUnfit, Busy, ResumeError, and for a host that is to fetch the set itself what it cannot do.
    """
    place.backup_set.refuse_red()
    manifest = place.backup_set.manifest
    interrupted = None if request.anew else _unfinished(request, place)
    target = look(request.install, place.runner)
    if interrupted and _may_go_on(interrupted, request, target, place):
        refuse_other_version(target, manifest)
        plan = _plan_of(interrupted)
        _refuse_unisolated(plan, request.wanted)
        _refuse_other_store(plan, request.wanted)
        return Prepared(plan, target, interrupted, resumed=True)
    obstacles = judge_target(target, _needs(request, manifest))
    refuse(obstacles)
    if request.wanted.via == "signed-url":
        _refuse_unreachable(place)
    wanted = replace(
        request.wanted,
        package=None if target.installation else request.wanted.package,
        count=request.wanted.count and manifest.census is not None,
    )
    if wanted.package:
        refuse_unfit(wanted.package, look_at_packages(place.runner), place.runner)
    run_id = f"restore-{place.clock.now():%Y%m%dT%H%M%SZ}-{place.new_token()}"
    plan = plan_restore(request.install, manifest, target, _new_marker(run_id, place, target), wanted)
    warnings = tuple(obstacle for obstacle in obstacles if obstacle.severity == "warn")
    return Prepared(plan, target, new_journal_of(place, run_id), resumed=False, warnings=warnings)


def new_journal_of(place: Place, run_id: str) -> Journal:
    """The journal of a run to come; nothing is written."""
    return Journal(place.state / "runs" / f"{run_id}.jsonl")


def carry_out(prepared: Prepared, request: Request, place: Place) -> Outcome:
    """Do what was prepared, a restore or its undoing.

    Raises what its steps raise; the same command again goes on from there. Raises HostUnfit, and has done nothing, when
    the host has changed since.
    """
    plan = prepared.plan
    who = f"{plan.run_id} ({place.operator})"
    with (
        only_run(place.state, request.instance, doing="a restore"),
        only_restore_onto(place.runner, request.install, who) as still_held,
    ):
        _refuse_changed(prepared.target, look(request.install, place.runner))
        journal = new_journal(place.state, plan.run_id)
        site = Site(
            place.runner,
            request.install,
            place.backup_set,
            place.signer,
            place.clock,
            place.emit,
            place.key,
            still_held,
        )
        steps = execute(plan, site, journal)
    return Outcome(plan.run_id, plan.set_id, prepared.resumed, steps)


def look(install: Omnibus, runner: Runner) -> Host:
    """Describe the host, changing nothing. Raises HostUnfit where nothing can be run there.

    Its clock is held against this machine's own, whatever time the work goes by.
    """
    return inspect(install, runner, SystemClock())


def _needs(request: Request, manifest: Manifest) -> Needs:
    needs, wanted = needs_of(manifest, request.install.counted_components), request.wanted
    fetches = wanted.via == "signed-url"
    return replace(
        needs,
        staged_size=room_needed(manifest.archive("application")) if fetches else needs.staged_size,
        unseal_on_host=fetches,
        replace=wanted.replace,
        installs=wanted.package is not None,
        as_root=request.install.root == PurePosixPath("/"),
    )


def refuse_other_version(target: Host, manifest: Manifest) -> None:
    """Raise VersionMismatch where another GitLab is installed than the set is of."""
    if target.installation:
        same_version(manifest.gitlab.version, target.installation.version)


def _refuse_unisolated(plan: Plan, wanted: Wanted) -> None:
    if wanted.isolate and not any(step.kind == "isolate" for step in plan.steps):
        raise ResumeError(
            f"{plan.run_id} was begun without --isolate, and goes on without",
            hint="Leave --isolate out to go on, or add --anew to begin an isolated one.",
        )


def _refuse_other_store(plan: Plan, wanted: Wanted) -> None:
    if plan.store != wanted.store:
        raise ResumeError(
            f"{plan.run_id} was begun from the store {plan.store}, and goes on from no other",
            hint=f"--store {plan.store} goes on; --anew begins a new one, from {wanted.store}.",
        )


def _refuse_changed(before: Host, now: Host) -> None:
    """Raise HostUnfit if it has become another host while somebody was asked, or while the lock was somebody else's."""
    if (now.installation, _mark_of(now)) != (before.installation, _mark_of(before)) or (before.empty and not now.empty):
        raise HostUnfit(
            f"{now.name}: {now.system.hostname} has changed since it was looked at",
            hint="Nothing was done; run this again to look anew.",
        )


def _refuse_unreachable(place: Place) -> None:
    backup_set = place.backup_set
    archive = backup_set.manifest.archive("application")
    key = backup_set.catalog.key(backup_set.manifest.set_id, archive.volumes[0].name)
    check_can_fetch(place.runner, backup_set.catalog.store, key, sealed=archive.seal == "age")


def _new_marker(run_id: str, place: Place, target: Host) -> Marker:
    """The mark of a new run. Copies that another run kept before it replaced things are the ones to go back to."""
    kept = target.half_replaced
    return Marker(
        run_id,
        place.backup_set.manifest.set_id,
        place.clock.now(),
        place.operator,
        "replacing" if kept else "staging",  # what was half replaced stays so until all is done
        copies=kept.copies if kept else run_id,
        had_data=kept.had_data if kept else not target.empty,
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
    wanted = (request.wanted.purpose, request.instance, place.backup_set.manifest.set_id, place.runner.name)
    return not ended and (plan["purpose"], plan["instance"], plan["set_id"], plan["host"]) == wanted


def _may_go_on(journal: Journal, request: Request, target: Host, place: Place) -> bool:
    """Tell whether the host may still be as an interrupted run left it.

    Before GitLab's restore began, a target that was empty has to be empty still, or a safety copy planned, to which
    somebody agreed for this very host; a database that is down may be the work of the run itself. After it, the
    projects there are most likely the set's own, but not for ever: a host that somebody repaired by hand and put to
    work must not be overwritten because of a forgotten journal. Then only --resume, in so many words, goes on.
    """
    if not was_last_onto(journal, target, request.install, place.runner):
        if request.resume is None:
            return False
        raise ResumeError(
            f"{target.system.hostname} does not have the mark of {journal.run_id}",
            hint="It is another machine, or somebody else restored onto it. Leave --resume out to start anew.",
        )
    began = [entry for entry in journal.all("started") if entry["step"] == "restore"]
    if not began:
        agreed = _mark_of(target) is not None or request.wanted.replace == target.system.hostname
        copied = any(step.name == "safety-copy" for step in _plan_of(journal).steps)
        if target.projects == 0 or (copied and agreed):
            return True
        if target.projects is not None or not target.half_replaced:
            return False
    began_at = datetime.fromisoformat((began or journal.all("started"))[-1]["at"])
    return request.resume is not None or place.clock.now() - began_at < _TAKEN_UP_WITHIN


def was_last_onto(journal: Journal, target: Host, install: Omnibus, runner: Runner) -> bool:
    """Tell whether the host shows that nobody else restored onto it since this run, or an undoing, broke off.

    Its mark says so; once that was taken off, the lock, which names who held it last. Without either it may be another
    machine of the same name. A run that has not yet put its mark there has not changed anything.
    """
    if target.backups and target.backups.marked:
        mark = _mark_of(target)
        return mark is not None and mark.run_id == journal.run_id
    if any(entry["step"] == "unmark" for entry in journal.all("started")):
        return last_restore_onto(runner, install).split(" ")[0] == journal.run_id
    return not any(entry["step"] in ("mark", "replace") for entry in journal.all("finished"))


def _mark_of(target: Host) -> Marker | None:
    return target.backups.marker if target.backups else None


def _plan_of(journal: Journal) -> Plan:
    entry = journal.find("plan")
    assert entry is not None
    try:
        return parse_plan(entry["plan"])
    except ResumeError as problem:
        raise ResumeError(
            f"{journal.path}: {problem}", hint="Another drtool wrote it. Move the file away to start anew."
        ) from problem
