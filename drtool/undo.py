"""Bring back what a restore replaced, from the copies that it kept on the host."""

from __future__ import annotations

import json
from pathlib import Path

from drtool.core.command import Command
from drtool.core.fitness import judge_target
from drtool.core.host import Host
from drtool.core.marker import Marker
from drtool.core.needs import needs_of
from drtool.core.obstacles import refuse
from drtool.core.plan import Plan, parse_plan
from drtool.errors import CommandFailed, HostUnfit, ResumeError
from drtool.installs.omnibus import Omnibus
from drtool.journal import Journal, journals
from drtool.restore import Place, Prepared, Request, look, new_journal_of, refuse_other_version, was_last_onto
from drtool.restore_plan import plan_undo, plan_withdrawal, safety_id
from drtool.survey import backup_directory

_STOPS_GITLAB = {"no-gitlab", "lock", "loose-members", "mounts", "foreign-directories", "materialized-views"}
"""What of a restore's obstacles an undoing meets too: the rest is about the set, or somebody's consent."""


def find_restore(state: Path, run_id: str) -> Plan:
    """The plan of a restore, whether it ended or not. Raises ResumeError."""
    for journal in journals(state, "restore-"):
        entry = journal.find("plan")
        if journal.run_id == run_id and entry is not None:
            return parse_plan(entry["plan"])
    raise ResumeError(
        f"no journal of a restore {run_id}",
        hint=f"It lies in {state / 'runs'} of the machine that ran it: run this there.",
    )


def prepare_undo(restored: Plan, request: Request, place: Place) -> Prepared:
    """Look at the target and decide how to bring back what ``restored`` replaced; changes nothing.

    Raises HostUnfit when there are no copies to bring back, VersionMismatch, ResumeError.
    """
    target = look(request.install, place.runner)
    _refuse_another(restored, target, place)
    replaced = not _only_staged(restored, target)
    if replaced:
        refuse_other_version(target, place.backup_set.manifest)  # GitLab would refuse, with all services down
    interrupted = _unfinished(restored, place)
    if interrupted and was_last_onto(interrupted, target, request.install, place.runner):
        entry = interrupted.find("plan")
        assert entry is not None
        return Prepared(parse_plan(entry["plan"]), target, interrupted, resumed=True)
    if replaced:
        needs = needs_of(place.backup_set.manifest, request.install.counted_components)
        refuse([each for each in judge_target(target, needs) if each.code in _STOPS_GITLAB])
        _refuse_without_copies(restored, request.install, place)
    run_id = f"undo-{place.clock.now():%Y%m%dT%H%M%SZ}-{place.new_token()}"
    marker = Marker(
        run_id, restored.set_id, place.clock.now(), place.operator, "staging", copies=restored.copies, had_data=True
    )
    plan = (plan_undo if replaced else plan_withdrawal)(request.install, restored.instance, target, marker)
    return Prepared(plan, target, new_journal_of(place, run_id), resumed=False)


def _only_staged(restored: Plan, target: Host) -> bool:
    """Tell whether the restore broke off before it replaced anything: then there is only its mark to take off."""
    marker = target.backups.marker if target.backups else None
    return marker is not None and marker.run_id == restored.run_id and marker.phase == "staging"


def _refuse_another(restored: Plan, target: Host, place: Place) -> None:
    """Raise HostUnfit where another restore, or the undoing of another, did not end."""
    marker = target.backups.marker if target.backups else None
    if marker is None or restored.run_id in (marker.run_id, marker.copies):
        return
    unfinished = _unfinished(restored, place)
    if unfinished is None or marker.run_id != unfinished.run_id:
        raise HostUnfit(f"{target.system.hostname} holds {marker}", hint=f"Undo that one: --undo {marker.run_id}")


def forget(restored: Plan, place: Place) -> None:
    """Note in the journal of a restore that it was undone: nobody takes it up again."""
    for journal in journals(place.state, "restore-"):
        if journal.run_id == restored.run_id:
            journal.append("undone", at=place.clock.now().isoformat())


def _refuse_without_copies(restored: Plan, install: Omnibus, place: Place) -> None:
    backup = install.kept_backup(safety_id(restored.copies))
    if backup.name not in {entry.name for entry in backup_directory(install, place.runner)}:
        raise HostUnfit(
            f"{place.runner.name} holds no copy of what {restored.run_id} replaced: {backup} is not there",
            hint="A target without projects is not copied. To begin again, install GitLab anew.",
        )
    kept = install.kept_config(restored.copies)
    try:
        place.runner.run(Command(("test", "-s", str(kept))))
    except CommandFailed as problem:
        if problem.status != 1:
            raise
        raise HostUnfit(
            f"{place.runner.name}: the copy of its configuration is not there: {kept}",
            hint=f"Put the configuration back from elsewhere, then restore {backup.name} by GitLab's own command.",
        ) from problem


def _unfinished(restored: Plan, place: Place) -> Journal | None:
    """An undoing of the same copies on the same host that did not end."""
    for journal in reversed(journals(place.state, "undo-")):
        entry = journal.find("plan")
        if entry is None:
            continue
        plan = json.loads(entry["plan"])
        ended = {step["name"] for step in plan["steps"]} <= {done["step"] for done in journal.all("finished")}
        if not ended and (plan["copies"], plan["host"]) == (restored.copies, place.runner.name):
            return journal
    return None
