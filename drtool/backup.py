"""One backup: look, decide whether to continue or to begin, then do it (``backup_run``)."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from drtool.backup_run import Order as Order
from drtool.backup_run import Place as Place
from drtool.backup_run import Run, await_other_tasks, clean_staging
from drtool.catalog import Catalog
from drtool.core.leftovers import Continue, Decision, Interrupted, Refuse, StartAnew, decide
from drtool.core.model import Manifest, is_set_id, new_set_id
from drtool.errors import HostUnfit
from drtool.events import Noticed
from drtool.gitlab.archive import INFORMATION
from drtool.journal import Journal, forget_old, journals, new_journal, only_run
from drtool.lease import leased
from drtool.phases import phase
from drtool.survey import config_members, look_at_version, refuse_half_restored, staged_information
from drtool.volumes import StagedChanged


@dataclass(frozen=True, slots=True)
class Outcome:
    """A committed set; ``continued`` when an interrupted run was finished instead of a new one begun."""

    manifest: Manifest
    continued: bool


@dataclass(frozen=True, slots=True)
class Preview:
    """What a backup would do now."""

    action: Literal["new", "continue"]
    set_id: str
    gitlab_version: str
    store: str
    commands: tuple[str, ...]


def back_up(order: Order, place: Place) -> Outcome:
    """Take one backup. Returns only when the set is committed and was read back.

    Raises SetDamaged for a red set, which is kept but counts for nothing; Busy, HostUnfit, SealError, BackupFailed,
    StoreError and what else the parts raise. The next call continues or cleans up.
    """
    order.check_seals()
    with only_run(place.state, order.instance, doing="a backup"), ExitStack() as held:
        with phase("look", "Looking at the host", place.clock, place.emit):
            look_at_version(order.install, place.runner)
            refuse_half_restored(order.install, place.runner)
            config_members(order.install, place.runner)  # without the secrets hours of GitLab's work are for nothing
            place.signer.sign(b"drtool: can this key sign?\n")  # now, not after GitLab wrote its backup
            place.catalog.check_reachable()
            place = replace(place, catalog=held.enter_context(_leased(place)))
            await_other_tasks(order, place)
            version = look_at_version(order.install, place.runner)  # only now: what was waited for may be an upgrade
            _remove_unfinished(order, place)
            journal, continued = _settle(order, place)
        try:
            return Outcome(Run(order, place, journal, version, continued).finish(), continued)
        except StagedChanged as change:
            place.emit(Noticed("staged-changed", str(change), "A new set is begun."))
        clean_staging(order.install, place.runner)
        journal = _begin(order, place)
        return Outcome(Run(order, place, journal, version, continued=False).finish(), continued=False)


def _leased(place: Place) -> AbstractContextManager[Catalog]:
    return leased(place.catalog, place.state, purpose="a backup", clock=place.clock, emit=place.emit)


def preview(order: Order, place: Place) -> Preview:
    """Say what ``back_up`` would do, and change nothing. Raises what it would refuse."""
    order.check_seals()
    version = look_at_version(order.install, place.runner)
    refuse_half_restored(order.install, place.runner)
    match _decide(order, place):
        case Refuse(backup_id):
            raise _refusal(order, backup_id)
        case Continue(set_id):
            return Preview("continue", set_id, version, place.catalog.store.name, ())
        case StartAnew():
            set_id = new_set_id(place.clock.now(), place.new_token())
            commands = (str(order.install.create_backup(set_id)),)
            return Preview("new", set_id, version, place.catalog.store.name, commands)


def _remove_unfinished(order: Order, place: Place) -> None:
    """Remove the parts of volumes that killed runs left in the store.

    Those of sets that a journal here began and never committed go at once: no other host has such a set, and no other
    process of this one is at work (``only_run``). All others could be another host's, and go after hours of silence.
    """
    begins = [run.find("begin") for run in _runs(order, place) if not run.find("committed")]
    place.catalog.remove_unfinished([str(begin["set_id"]) for begin in begins if begin])


# -- how a run begins ------------------------------------------------------------------------------------------------


def _settle(order: Order, place: Place) -> tuple[Journal, bool]:
    """Continue, clean up or begin: the journal of the run to do, and whether it is an interrupted one."""
    match _decide(order, place):
        case Refuse(backup_id):
            raise _refusal(order, backup_id)
        case Continue():
            journal = _newest_unfinished(order, place)
            assert journal is not None
            return journal, True
        case StartAnew(clean):
            if clean:
                clean_staging(order.install, place.runner)
            return _begin(order, place), False


def _begin(order: Order, place: Place) -> Journal:
    for journal in _unfinished(order, place):
        journal.append("abandoned")
    forget_old(place.state, f"backup-{order.instance}-")
    now = place.clock.now()
    set_id = new_set_id(now, place.new_token())
    journal = new_journal(place.state, f"backup-{order.instance}-{set_id}")
    journal.append("begin", set_id=set_id, at=now.isoformat(), terms=_terms(order, place))
    return journal


def _decide(order: Order, place: Place) -> Decision:
    journal = _newest_unfinished(order, place)
    return decide(
        _interrupted(journal, place) if journal else None,
        staged=_staged_backup(order, place),
        terms=_terms(order, place),
        now=place.clock.now(),
        patience=order.resume_within,
    )


def _interrupted(journal: Journal, place: Place) -> Interrupted:
    begin = journal.find("begin")
    assert begin is not None
    # A run may end between the manifest's arrival and its own note of it; what is listed is never written into again.
    kept = place.catalog.is_committed(begin["set_id"]) or place.catalog.is_rejected(begin["set_id"])
    committed = journal.find("committed") is not None or kept
    return Interrupted(
        set_id=begin["set_id"],
        begun_at=datetime.fromisoformat(begin["at"]),
        terms=begin["terms"],
        created=journal.find("created") is not None,
        committed=committed,
    )


def _runs(order: Order, place: Place) -> list[Journal]:
    prefix = f"backup-{order.instance}-"
    found = journals(place.state, prefix)
    # Not those of instance "a-b" for instance "a".
    return [journal for journal in found if is_set_id(journal.run_id.removeprefix(prefix)) and journal.find("begin")]


def _unfinished(order: Order, place: Place) -> list[Journal]:
    return [run for run in _runs(order, place) if not run.find("done") and not run.find("abandoned")]


def _newest_unfinished(order: Order, place: Place) -> Journal | None:
    found = _unfinished(order, place)
    return found[-1] if found else None


def _terms(order: Order, place: Place) -> str:
    """What must not change between two tries at one set, as text."""
    parts = (place.catalog.store.name, order.volume_size, *order.recipients, "config", *order.config_recipients)
    return " ".join(str(part) for part in parts)


def _staged_backup(order: Order, place: Place) -> str | None:
    """The backup id of the loose members in GitLab's backup directory; None without a ``backup_information.yml``.

    GitLab before 16.8 writes no id. Members without one are taken for ours if they were made after our newest run
    began, and that run never came to its cleaning.
    """
    information = staged_information(order.install, place.runner)
    if information is None:
        return None
    if information.backup_id:
        return information.backup_id
    newest = _runs(order, place)[-1:]
    begin = newest[0].find("begin") if newest and not newest[0].find("done") else None
    ours = begin and information.created_at >= datetime.fromisoformat(begin["at"]).replace(microsecond=0)
    return str(begin["set_id"]) if begin and ours else ""


def _refusal(order: Order, backup_id: str) -> HostUnfit:
    path = order.install.backup_path
    return HostUnfit(
        f"{path} holds the loose members of another backup, {backup_id or 'one without an id'}",
        hint=f"GitLab would overwrite them. Restore or move away {path}/{INFORMATION} and what lies beside it.",
    )
