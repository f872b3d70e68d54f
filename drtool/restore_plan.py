"""The steps of a restore and of its undoing, decided from what was seen of the target. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal

from drtool.core.command import Command
from drtool.core.host import Host
from drtool.core.marker import MARKER, SAFETY, Marker, render_marker
from drtool.core.model import Manifest
from drtool.core.packages import FromRepository, Package, PackageSource
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
    Via,
    Wait,
)
from drtool.gitlab.archive import INFORMATION, order_members
from drtool.installs.isolation import hold_service
from drtool.installs.omnibus import Omnibus
from drtool.survey import LOOSE_MEMBERS
from drtool.unsealing import fetched_into

STAGING = ".drtool-restore-"
"""Begins the name of a run's own directory, beside GitLab's members so that links can be made."""

_TASK_PATIENCE = timedelta(hours=6)
_START_PATIENCE = timedelta(minutes=15)


_SAMPLES = 5
_TALKERS = ("puma", "sidekiq")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to restore. ``package`` is installed first, from ``source``; None leaves what is there.

    ``via`` is the way of the application's bytes. ``isolate`` keeps GitLab from sending anything afterwards, ``count``
    compares what the host then holds with the set's census. ``replace`` is the hostname whose projects may be replaced.
    A ``drill`` is isolated and counted, or it fails, and its receipt says what it was. ``store`` is what the
    configuration calls the one that the set is read from.
    """

    package: Package | None = None
    source: PackageSource = field(default_factory=FromRepository)
    via: Via = "relay"
    isolate: bool = False
    count: bool = True
    replace: str | None = None
    drill: bool = False
    store: str = ""

    @property
    def purpose(self) -> Literal["restore", "drill"]:
        return "drill" if self.drill else "restore"


def safety_id(run_id: str) -> str:
    """What the copy is called that GitLab makes of the target before a run replaces it."""
    return f"{SAFETY}{run_id.removeprefix('restore-')}"


def plan_restore(install: Omnibus, manifest: Manifest, target: Host, marker: Marker, wanted: Wanted) -> Plan:
    """Decide the steps of a restore. ``marker`` is the one that the run will leave, as of its beginning."""
    run_id = marker.run_id
    staging = install.backup_path / f"{STAGING}{run_id.removeprefix('restore-')}"
    keeps_copies = marker.copies == run_id
    package = wanted.package
    steps: tuple[Step, ...] = (
        Prove("prove", "Check that every volume is there and can be opened", whole=("config",)),
        *((Install("install", f"Install {package} from {wanted.source}", package, wanted.source),) if package else ()),
        _mark("mark", "Mark the host as being restored", install, marker),
        Send(
            "stage",
            "Bring GitLab's members to the host, every digest checked",
            "application",
            (install.remove(staging.parent, (staging.name,)), install.make_directory(staging)),
            install.unpack(staging),
            staging,
            via=wanted.via,
        ),
        _idle(install),
        *(_keep_copies(install, run_id, data=marker.had_data) if keeps_copies else ()),
        _mark("replace", "Mark the host as half replaced, until all is done", install, _replacing(marker)),
        Send(
            "send-config",
            "Put configuration, secrets, certificates and host keys in place",
            "config",
            (),
            install.unpack(install.root, exclude=("opt",)),
            install.root,
            at_once=True,
        ),
        *_isolate(wanted, "configuration"),
        Run("reconfigure", "Reconfigure GitLab with them", (install.reconfigure(),)),
        Fit("fit", "Check that the configuration now in force is one for this set", wanted.replace),
        *_hold(install, wanted),
        _quiesce(install),
        Restore(
            "restore",
            "GitLab restores",
            _clear(install, target),
            staging,
            install.backup_path,
            INFORMATION,
            install.restore_backup(),
            _TASK_PATIENCE,
        ),
        *_compare(wanted.count),
        *_isolate(wanted, "database"),
        Run(
            "clean",
            "Remove the staged members",
            (install.remove(install.backup_path, (staging.name, fetched_into(staging).name, *LOOSE_MEMBERS)),),
        ),
        *_let_go(install, held=wanted.isolate or not keeps_copies),
        *_prove_it_works(install),
        *((Release("release", f"Let {package} be upgraded again", package),) if package else ()),
        Record("receipt", "Write the receipt"),
    )
    ids = manifest.instance, manifest.set_id
    return Plan(run_id, wanted.purpose, *ids, target.name, steps, marker.copies, wanted.store)


def plan_undo(install: Omnibus, instance: str, target: Host, marker: Marker) -> Plan:
    """Decide how the copies come back that ``marker.copies`` kept."""
    backup_id = safety_id(marker.copies)
    steps: tuple[Step, ...] = (
        Run(
            "look",
            "Read the copies that the restore kept, to their end",
            (install.list_archive(install.kept_config(marker.copies)), _listing(install, backup_id)),
        ),
        _mark("replace", "Mark the host as half replaced, until all is done", install, _replacing(marker)),
        _idle(install),
        Run(
            "put-back-config",
            "Put the former configuration in place",
            (install.put_back_config(install.kept_config(marker.copies)),),
        ),
        Run("reconfigure", "Reconfigure GitLab with it", (install.reconfigure(),)),
        _quiesce(install),
        PutBack(
            "restore",
            "GitLab restores the copy of what was there before",
            _clear(install, target),
            _listing(install, backup_id),
            backup_id,
            install.restore_backup(backup_id),
            _TASK_PATIENCE,
        ),
        Run("clean", "Remove staged members", (_clear(install, target),)),
        *_let_go(install, held=True),
        *_prove_it_works(install),
        Record("receipt", "Write the receipt"),
    )
    return Plan(marker.run_id, "undo", instance, marker.set_id, target.name, steps, marker.copies, "")


def plan_withdrawal(install: Omnibus, instance: str, target: Host, marker: Marker) -> Plan:
    """Decide how a restore is taken back that has replaced nothing yet: what it staged goes, and its mark."""
    staged = target.backups.staging if target.backups else ()
    steps: tuple[Step, ...] = (
        _idle(install),
        Run(
            "clean",
            "Remove what the restore had staged; nothing was replaced",
            (install.remove(install.backup_path, [name for name in staged if name.startswith(STAGING)]),),
        ),
        _unmark(install),
        Record("receipt", "Write the receipt"),
    )
    return Plan(marker.run_id, "undo", instance, marker.set_id, target.name, steps, marker.copies, "")


def _mark(name: str, title: str, install: Omnibus, marker: Marker) -> Run:
    # A package that was never configured has no backup directory yet; reconfigure gives it its owner.
    directory = install.make_directory(install.backup_path)
    return Run(name, title, (directory, install.write_file(install.backup_path / MARKER, render_marker(marker))))


def _unmark(install: Omnibus) -> Run:
    return Run("unmark", "Take the mark off the host", (install.remove(install.backup_path, (MARKER,)),))


def _replacing(marker: Marker) -> Marker:
    return replace(marker, phase="replacing")


def _idle(install: Omnibus) -> Wait:
    return Wait(
        "idle",
        "Wait until no backup or restore of GitLab's own is running",
        install.read_file(install.pid_file),
        Expect.NO_TASK_RUNNING,
        _TASK_PATIENCE,
    )


def _keep_copies(install: Omnibus, run_id: str, *, data: bool) -> tuple[Step, ...]:
    safety = Run(
        "safety-copy",
        "Keep a copy of what the target holds, as a backup of GitLab's own",
        (install.create_backup(safety_id(run_id), skip=()),),
        Expect.BACKUP_DONE,
    )
    config = Run(
        "keep-config", "Keep a copy of the target's configuration", (install.keep_config(install.kept_config(run_id)),)
    )
    seen = Run(
        "see-copy",
        "See that it is where undoing will look for it",
        (Command(("ls", "-l", "--", str(install.kept_backup(safety_id(run_id))))),),
    )
    return (safety, seen, config) if data else (config,)


def _quiesce(install: Omnibus) -> Run:
    """Comes right before what needs it: a run that is taken up there does it again (``Plan``, ``lasting``)."""
    return Run(
        "quiesce",
        "Stop what talks to the database",
        (install.stop("puma"), install.stop("sidekiq"), install.status()),
        Expect.PUMA_AND_SIDEKIQ_DOWN,
        lasting=False,  # a host that starts anew starts them too
    )


def _clear(install: Omnibus, target: Host) -> Command:
    staged = target.backups.staging if target.backups else ()
    older = (name for name in staged if name.startswith(STAGING))  # not our mark, nor what is somebody's to keep
    return install.remove(install.backup_path, order_members({*LOOSE_MEMBERS, *older}))


def _isolate(wanted: Wanted, part: Literal["configuration", "database"]) -> tuple[Step, ...]:
    title = f"Keep GitLab from sending anything: its {part}"
    return (Isolate(f"isolate-{part}", title, part),) if wanted.isolate else ()


def _hold(install: Omnibus, wanted: Wanted) -> tuple[Step, ...]:
    """A host that starts anew in the middle must not start what nobody has isolated yet."""
    commands = tuple(hold_service(install, service)[0] for service in _TALKERS)
    return (
        (Run("hold", "Keep what talks to the world from starting with the host", commands),) if wanted.isolate else ()
    )


def _let_go(install: Omnibus, *, held: bool) -> tuple[Step, ...]:
    """Also what another restore held that did not end: it would stay down after the next start of the host."""
    commands = tuple(hold_service(install, service)[1] for service in _TALKERS)
    return (Run("let-go", "Let start with the host again what an isolation kept from it", commands),) if held else ()


def _compare(count: bool) -> tuple[Step, ...]:
    if not count:
        return ()
    return (
        Compare("compare", "Count what the host holds, and compare it with the set"),
        Clone("clone", "Let git read a few repositories whole, as for a clone", _SAMPLES),
    )


def _listing(install: Omnibus, backup_id: str) -> Command:
    return install.list_archive(install.kept_backup(backup_id))


def _prove_it_works(install: Omnibus) -> tuple[Step, ...]:
    return (
        Run("start", "Start GitLab", (install.start(),)),
        Wait("up", "Wait until every service runs", install.status(), Expect.ALL_SERVICES_UP, _START_PATIENCE),
        Wait("ready", "Wait until GitLab answers", install.ready(), Expect.SUCCESS, _START_PATIENCE),
        Run("check", "Ask GitLab to check itself", (install.gitlab_check(),), Expect.CHECK_CLEAN),
        Run("secrets", "Ask GitLab whether its secrets fit", (install.doctor_secrets(),), Expect.SECRETS_FIT),
        _unmark(install),
    )
