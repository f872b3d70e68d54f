"""The one interpreter of plans.

A step is journaled before it starts and after it ended. What ended is not done again, but for the steps right before
the one where a run goes on whose effect may not have lasted. Nothing here decides: what to do stands in the plan, what
an output means is told by ``gitlab.output``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import BinaryIO, assert_never

from drtool import __version__
from drtool.catalog import BackupSet
from drtool.clock import Clock
from drtool.core.census import compare
from drtool.core.fitness import judge_settings
from drtool.core.needs import needs_of
from drtool.core.obstacles import refuse
from drtool.core.plan import (
    Clone,
    Compare,
    Expect,
    Fit,
    Install,
    Isolate,
    Plan,
    Prove,
    PutBack,
    Record,
    Release,
    Restore,
    Run,
    Send,
    Step,
    Wait,
    render_plan,
)
from drtool.core.versions import same_version
from drtool.counting import as_a_backup_would, count_host
from drtool.errors import CommandFailed, DrtoolError, HostUnfit, RestoreFailed, ResumeError
from drtool.events import Emit, Noticed, Progress, Waiting
from drtool.gitlab.application import few
from drtool.gitlab.archive import Member, repository_manifests
from drtool.gitlab.judging import judge
from drtool.hosts import Runner
from drtool.inspection import inspect
from drtool.installing import install_package, release_package
from drtool.installs.omnibus import Omnibus
from drtool.isolating import isolate_configuration, isolate_database, refuse_unless_isolated
from drtool.journal import Journal
from drtool.phases import await_tasks, copy_scanned, phase, say_and_collect, try_and_collect, unless_locked_out
from drtool.signing import Signer
from drtool.survey import look_at_version
from drtool.unsealing import stage_by_signed_url

_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class Site:
    """What a plan works on and with."""

    runner: Runner
    install: Omnibus
    backup_set: BackupSet
    signer: Signer | None
    clock: Clock
    emit: Emit
    key: HostKey | None = None
    still_held: Callable[[], None] = lambda: None
    """Raises when the target's lock was lost, see ``holding``; asked before every step."""


@dataclass(frozen=True)
class HostKey:
    """What a host needs to fetch and unseal a set by itself: an age identity as text, empty for a clear set."""

    identity: bytes = field(repr=False)
    signature_checked: bool


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a step took, in seconds; tries that were interrupted do not count."""

    name: str
    seconds: float


def execute(plan: Plan, site: Site, journal: Journal) -> tuple[StepTime, ...]:
    """Do what the journal does not yet say is done, in order; return the time of every step.

    Raises whatever a step raises, with the journal telling how far it came; the same call goes on from there.
    """
    if journal.find("plan") is None:
        journal.append("plan", plan=render_plan(plan), at=site.clock.now().isoformat())
    for step in plan.steps[_where_to_go_on(plan, journal) :]:
        _execute_step(step, plan, site, journal)
    return step_times(journal)


def _where_to_go_on(plan: Plan, journal: Journal) -> int:
    """The first step that is not done, or those before it that may have to be done again."""
    finished = {entry["step"] for entry in journal.all("finished")}
    names = [step.name for step in plan.steps]
    place = next((number for number, name in enumerate(names) if name not in finished), len(names))
    while 0 < place < len(names) and not plan.steps[place - 1].lasting:
        place -= 1
    return place


def step_times(journal: Journal) -> tuple[StepTime, ...]:
    """Every step that ended, in the order of the plan, with the seconds of all the times when it came to its end."""
    seconds: dict[str, float] = {}
    for entry in journal.all("finished"):
        seconds[entry["step"]] = round(seconds.get(entry["step"], 0.0) + entry["seconds"], 3)
    return tuple(StepTime(name, spent) for name, spent in seconds.items())


def _execute_step(step: Step, plan: Plan, site: Site, journal: Journal) -> None:
    if not step.repeatable and any(entry["step"] == step.name for entry in journal.all("started")):
        raise ResumeError(
            f"{plan.run_id}: was interrupted inside {step.name!r}, which must not be done twice",
            hint="Look at the host, then start anew.",
        )
    site.still_held()
    journal.append("started", step=step.name, at=site.clock.now().isoformat())
    with phase(step.name, step.title, site.clock, site.emit) as elapsed:
        _perform(step, plan, site, journal)
    journal.append("finished", step=step.name, seconds=round(elapsed(), 3))


def _perform(step: Step, plan: Plan, site: Site, journal: Journal) -> None:
    match step:
        case Install():
            _install(step, site)
        case Release():
            release_package(site.runner, step.package, site.emit, site.clock)
        case Isolate():
            _isolate(step, plan, site)
        case Fit():
            _fit(step, site)
        case Prove():
            _prove(step, site)
        case Send():
            _send(step, site)
        case Run():
            for command in step.commands[:-1]:
                say_and_collect(site.runner, command, step.name, site.emit)
            unless_locked_out(lambda: _run_judged(step, site), lambda: _await_tasks(step.name, _PATIENCE, site))
        case Wait():
            _wait(step, site)
            if step.expect is Expect.NO_TASK_RUNNING and plan.purpose != "undo":
                _refuse_other_version(site)  # what was waited for may have been an upgrade
        case Restore():
            unless_locked_out(lambda: _restore(step, site), lambda: _await_tasks(step.name, step.patience, site))
        case PutBack():
            unless_locked_out(lambda: _put_back(step, site), lambda: _await_tasks(step.name, step.patience, site))
        case Compare():
            _compare(site)
        case Clone():
            _clone(step, site)
        case Record():
            _record(plan, site, journal)
        case _:
            assert_never(step)


def _prove(step: Prove, site: Site) -> None:
    volumes = site.backup_set.manifest.volumes
    for number, problem in enumerate(site.backup_set.look_at_volumes(), 1):
        if problem:
            raise problem
        site.emit(Progress(step.name, number, len(volumes), "volumes"))
    site.backup_set.read_index()  # sealed like the data: a wrong identity shows here, before anything is touched
    for archive in step.whole:
        _read_proven(archive, site)


def _send(step: Send, site: Site) -> None:
    for command in step.before:
        site.runner.run(command)
    if step.via == "signed-url":
        _let_fetch(step, site)
        return
    total = site.backup_set.manifest.archive(step.archive).size
    source = _read_proven(step.archive, site) if step.at_once else site.backup_set.read_archive(step.archive)
    with site.runner.write_to(step.unpack) as sink:
        for done in copy_scanned(source, sink, step.archive):
            site.emit(Progress(step.name, done, total))


def _let_fetch(step: Send, site: Site) -> None:
    if site.key is None:
        raise ResumeError(
            "this run lets the host fetch the set itself, which needs --via signed-url",
            hint="Give the same options as when it began, or --anew.",
        )
    stage_by_signed_url(
        site.runner,
        site.backup_set,
        step.archive,
        step.directory,
        step.unpack,
        identity=site.key.identity,
        signature_checked=site.key.signature_checked,
        emit=site.emit,
        phase_name=step.name,
    )


def _install(step: Install, site: Site) -> None:
    install_package(
        site.runner,
        step.package,
        step.source,
        site.emit,
        site.clock,
        install=site.install,
        store=site.backup_set.catalog.store,
        phase=step.name,
    )


def _isolate(step: Isolate, plan: Plan, site: Site) -> None:
    """A drill does not start what may send anything; who restores is told, because the data is in place already."""
    if step.part == "configuration":
        isolate_configuration(site.install, site.runner)
        return
    found = isolate_database(site.install, site.runner)
    if plan.purpose == "drill":
        refuse_unless_isolated(found, site.runner.name)
    for finding in found.findings:
        site.emit(
            Noticed("not-isolated", f"{site.runner.name}: {finding}", "Stop that by other means before it starts.")
        )


def _fit(step: Fit, site: Site) -> None:
    needs = replace(
        needs_of(site.backup_set.manifest, site.install.counted_components),
        replace=step.replace,
        brings_configuration=False,
    )
    refuse(tuple(judge_settings(inspect(site.install, site.runner, site.clock), needs)))


def _read_proven(archive: str, site: Site) -> BinaryIO:
    """All of an archive in memory, every digest compared, every member judged."""
    content = io.BytesIO()
    for _ in copy_scanned(site.backup_set.read_archive(archive), content, archive):
        pass
    content.seek(0)
    return content


def _run_judged(step: Run, site: Site) -> None:
    lines, failure = try_and_collect(site.runner, step.commands[-1], step.name, site.emit)
    if step.expect is Expect.SUCCESS and failure:
        raise failure
    judge(step.expect, lines, failure)


def _restore(step: Restore, site: Site) -> None:
    # A backup of GitLab's own deletes loose members at its end, also ours: so first its end, then the members.
    _await_tasks(step.name, step.patience, site)
    _refuse_other_version(site)
    _show_members(step, site)
    lines, failure = try_and_collect(site.runner, step.command, step.name, site.emit)
    judge(Expect.RESTORE_DONE, lines, failure, _repositories_of(site.backup_set))


def _refuse_other_version(site: Site) -> None:
    same_version(site.backup_set.manifest.gitlab.version, look_at_version(site.install, site.runner))


def _show_members(step: Restore, site: Site) -> None:
    install, runner = site.install, site.runner
    runner.run(step.clear)
    staged = install.parse_directory(runner.run(install.list_directory(step.staging)))
    names = sorted(entry.name for entry in staged if entry.name != step.last)
    sources = [step.staging / name for name in names]
    try:
        runner.run(install.copy(sources, step.directory, link=True))
    except CommandFailed:  # a file system without links: then it costs the space and the time
        runner.run(install.remove(step.directory, names))
        runner.run(install.copy(sources, step.directory))
    # Links share bytes, and GitLab writes this one without unlinking it first (18.9): so a copy, after all others.
    runner.run(install.copy([step.staging / step.last], step.directory))


def _repositories_of(backup_set: BackupSet) -> frozenset[tuple[str, str]]:
    """What a restore must bring back: every repository with a manifest of the set's own backup id."""
    indexed = backup_set.read_index()["application"]
    members = (Member(member.name, member.offset, member.size, "file") for member in indexed)
    return frozenset(repository_manifests(members, backup_set.manifest.gitlab.backup_id))


def _put_back(step: PutBack, site: Site) -> None:
    _await_tasks(step.name, step.patience, site)
    names = site.runner.run(step.listing).decode("utf-8", "surrogateescape").splitlines()
    members = (Member(name, 0, 0, "file") for name in names)
    repositories = frozenset(repository_manifests(members, step.backup_id))
    site.runner.run(step.clear)
    lines, failure = try_and_collect(site.runner, step.command, step.name, site.emit)
    judge(Expect.RESTORE_DONE, lines, failure, repositories)


def _compare(site: Site) -> None:
    then = site.backup_set.read_census()
    now = count_host(site.install, site.runner, site.clock.now())
    differences = compare(then, as_a_backup_would(now, then, site.backup_set.manifest.gitlab.disabled))
    if differences:
        raise RestoreFailed(
            f"{site.runner.name} does not hold what the set does: {few([str(found) for found in differences])}",
            hint=f"`drtool diff {site.backup_set.manifest.set_id} HOST` lists it all; the same command counts again.",
        )


def _clone(step: Clone, site: Site) -> None:
    """Evenly over all names, so that another set has other samples and the same set the same ones."""
    found = sorted(name for name, repository in site.backup_set.read_census().repositories.items() if repository.refs)
    every = max(1, len(found) // step.samples)
    chosen = found[every // 2 :: every][: step.samples]
    paths = [site.install.repositories_path / name.partition("/")[2] for name in chosen]
    for number, path in enumerate(paths, 1):
        try:
            site.runner.run(site.install.send_clone(path))
        except CommandFailed as problem:
            raise RestoreFailed(
                f"{site.runner.name}: {path} cannot be read by git: {problem}", hint="The repository lacks objects."
            ) from problem
        site.emit(Progress(step.name, number, len(paths), "repositories"))


def _wait(step: Wait, site: Site) -> None:
    if step.expect is Expect.NO_TASK_RUNNING:
        _await_tasks(step.name, step.patience, site)
        return
    deadline = site.clock.monotonic() + step.patience.total_seconds()
    while True:
        problem = _unmet(step, site)
        if problem is None:
            return
        if site.clock.monotonic() >= deadline:
            raise HostUnfit(
                f"{step.title}: not within {step.patience}: {problem}",
                hint="Look at the host; the same command goes on from here.",
            )
        site.emit(Waiting(step.name, str(problem)))
        site.clock.sleep(step.pause)


def _unmet(step: Wait, site: Site) -> DrtoolError | None:
    lines, failure = try_and_collect(site.runner, step.command, step.name, site.emit)
    if step.expect is Expect.SUCCESS:
        return failure
    try:
        judge(step.expect, lines, failure)
    except DrtoolError as problem:
        return problem
    return None


def _await_tasks(phase_name: str, patience: timedelta, site: Site) -> None:
    await_tasks(site.runner, site.install, site.clock, site.emit, phase_name=phase_name, patience=patience)


def _record(plan: Plan, site: Site, journal: Journal) -> None:
    head = journal.find("plan")
    receipt = {
        "format": 1,
        "tool": f"drtool {__version__}",
        "run_id": plan.run_id,
        "purpose": plan.purpose,
        "instance": plan.instance,
        "set_id": plan.set_id,
        "gitlab_version": site.backup_set.manifest.gitlab.version,
        "host": plan.host,
        "started_at": head["at"] if head else None,
        "finished_at": site.clock.now().isoformat(),
        "steps": [{"name": step.name, "seconds": step.seconds} for step in step_times(journal)],
    }
    text = json.dumps(receipt, indent=1).encode() + b"\n"
    site.backup_set.catalog.put_receipt(plan.run_id, text, site.signer)
