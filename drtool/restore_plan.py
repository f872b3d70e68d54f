"""The steps of a restore and of its undoing, decided from what was seen of the target. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from drtool.core.command import Command
from drtool.core.marker import MARKER, Marker, render_marker
from drtool.core.model import Manifest
from drtool.core.plan import Compare, Expect, Plan, Prove, PutBack, Record, Restore, Run, Send, Step, Wait
from drtool.gitlab.archive import INFORMATION, order_members
from drtool.installs.omnibus import Omnibus
from drtool.survey import LOOSE_MEMBERS

STAGING = ".drtool-restore-"
"""Begins the name of a run's own directory, beside GitLab's members so that links can be made."""

_TASK_PATIENCE = timedelta(hours=6)
_START_PATIENCE = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Target:
    """What was seen on the host.

    ``host`` is how drtool reaches it, ``hostname`` what it calls itself. ``projects`` is None when the database would
    not say. ``marker`` is what a restore left that did not end.
    """

    host: str
    hostname: str
    version: str
    projects: int | None
    loose_backup_id: str | None
    loose_members: tuple[str, ...]
    marker: Marker | None = None

    @property
    def empty(self) -> bool:
        """Nothing to lose here. A database that a restore left half replaced is no longer what there was to lose."""
        return self.projects == 0 and not self.half_replaced

    @property
    def half_replaced(self) -> bool:
        return self.marker is not None and self.marker.phase == "replacing"


def safety_id(run_id: str) -> str:
    """What the copy is called that GitLab makes of the target before a run replaces it."""
    return f"drtool-safety-{run_id.removeprefix('restore-')}"


def plan_restore(install: Omnibus, manifest: Manifest, target: Target, marker: Marker, *, compare: bool) -> Plan:
    """Decide the steps of a restore. ``marker`` is the one that the run will leave, as of its beginning."""
    run_id = marker.run_id
    staging = install.backup_path / f"{STAGING}{run_id.removeprefix('restore-')}"
    keeps_copies = marker.copies == run_id
    steps: tuple[Step, ...] = (
        Prove("prove", "Check that every volume is there and can be opened", whole=("config",)),
        _mark("mark", "Mark the host as being restored", install, marker),
        Send(
            "stage",
            "Bring GitLab's members to the host, every digest checked",
            "application",
            (install.remove(staging.parent, (staging.name,)), install.make_directory(staging)),
            install.unpack(staging),
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
            at_once=True,
        ),
        *_quiet(install),
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
        *((Compare("compare", "Count what the host holds, and compare it with the set"),) if compare else ()),
        Run(
            "clean",
            "Remove the staged members",
            (install.remove(install.backup_path, (staging.name, *LOOSE_MEMBERS)),),
        ),
        *_prove_it_works(install),
    )
    return Plan(run_id, "restore", manifest.instance, manifest.set_id, target.host, steps, marker.copies)


def plan_undo(install: Omnibus, instance: str, target: Target, marker: Marker) -> Plan:
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
        *_quiet(install),
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
        *_prove_it_works(install),
    )
    return Plan(marker.run_id, "undo", instance, marker.set_id, target.host, steps, marker.copies)


def _mark(name: str, title: str, install: Omnibus, marker: Marker) -> Run:
    return Run(name, title, (install.write_file(install.backup_path / MARKER, render_marker(marker)),))


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
    return (safety, config) if data else (config,)


def _quiet(install: Omnibus) -> tuple[Step, ...]:
    return (
        Run("reconfigure", "Reconfigure GitLab with them", (install.reconfigure(),)),
        Run(
            "quiesce",
            "Stop what talks to the database",
            (install.stop("puma"), install.stop("sidekiq"), install.status()),
            Expect.PUMA_AND_SIDEKIQ_DOWN,
            lasting=False,  # a host that starts anew starts them too
        ),
    )


def _clear(install: Omnibus, target: Target) -> Command:
    return install.remove(install.backup_path, order_members({*LOOSE_MEMBERS, *target.loose_members}))


def _listing(install: Omnibus, backup_id: str) -> Command:
    return install.list_archive(install.kept_backup(backup_id))


def _prove_it_works(install: Omnibus) -> tuple[Step, ...]:
    return (
        Run("start", "Start GitLab", (install.start(),)),
        Wait("up", "Wait until every service runs", install.status(), Expect.ALL_SERVICES_UP, _START_PATIENCE),
        Wait("ready", "Wait until GitLab answers", install.ready(), Expect.SUCCESS, _START_PATIENCE),
        Run("check", "Ask GitLab to check itself", (install.gitlab_check(),), Expect.CHECK_CLEAN),
        Run("secrets", "Ask GitLab whether its secrets fit", (install.doctor_secrets(),), Expect.SECRETS_FIT),
        Run("unmark", "Take the mark off the host", (install.remove(install.backup_path, (MARKER,)),)),
        Record("receipt", "Write the receipt"),
    )
