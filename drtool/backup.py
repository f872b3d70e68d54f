"""One backup: look, decide, let GitLab stage its members, seal and send them, commit, clean up.

GitLab's exit status is never trusted alone (18.9 prints "Backup … is done." after a failed database dump): what it
printed is read, and what it wrote is judged as it passes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from drtool import __version__
from drtool.catalog import Catalog
from drtool.core.command import Command
from drtool.core.leftovers import Continue, Decision, Interrupted, Refuse, StartAnew, decide
from drtool.core.model import (
    FORMAT,
    Archive,
    Finding,
    GitLabFacts,
    IndexedMember,
    Manifest,
    SealKind,
    is_set_id,
    new_set_id,
    verdict_of,
)
from drtool.core.versions import package_for
from drtool.engine import Clock, await_tasks, phase, try_and_collect, unless_locked_out
from drtool.errors import BackupFailed, CommandFailed, HostUnfit, SealError, SetDamaged
from drtool.events import Emit, Noticed
from drtool.gitlab.application import ApplicationJudge
from drtool.gitlab.archive import INFORMATION, TarScanner, order_members
from drtool.gitlab.judging import Created, judge_create
from drtool.hosts import Runner
from drtool.installs.omnibus import Omnibus
from drtool.journal import Journal, forget_old, journals, new_journal, only_run
from drtool.signing import Signer
from drtool.streams import parse_recipients
from drtool.survey import LOOSE_MEMBERS, backup_directory, config_members, look_at_version, staged_information
from drtool.volumes import StagedChanged, VolumeWriter

_TASK_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True, slots=True)
class Order:
    """What to back up and how. ``seal`` of "none" must have been asked for in so many words."""

    instance: str
    install: Omnibus
    seal: SealKind
    recipients: tuple[str, ...]
    config_recipients: tuple[str, ...]
    volume_size: int = 1 << 30
    volumes_in_flight: int = 2
    resume_within: timedelta = timedelta(hours=6)

    def check_seals(self) -> None:
        """Raise SealError for a recipient that is missing or is not one."""
        if self.seal == "age" and not self.recipients:
            raise SealError(
                f"instance {self.instance}: seal_to names nobody to seal the backup to",
                hint='`drtool init` makes a key; to write application data in clear, say seal = "none".',
            )
        if not self.config_recipients:
            raise SealError(
                f"instance {self.instance}: config_seal_to names nobody; secrets are never written in clear",
                hint='Set config_seal_to: gitlab-secrets.json is sealed even where seal = "none".',
            )
        parse_recipients((*self.recipients, *self.config_recipients))


@dataclass(frozen=True)
class Place:
    """What the work is done with. ``new_token`` gives four random hex digits."""

    catalog: Catalog
    runner: Runner
    signer: Signer
    state: Path
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]


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

    Raises Busy, HostUnfit, SealError, BackupFailed, StoreError and what else the parts raise; the next call continues
    or cleans up.
    """
    order.check_seals()
    with only_run(place.state, order.instance, doing="a backup"):
        with phase("look", "Looking at the host", place.clock, place.emit):
            version = look_at_version(order.install, place.runner)
            place.signer.sign(b"drtool: can this key sign?\n")  # now, not after GitLab wrote its backup
            place.catalog.check_reachable()
            _await_other_tasks(order, place)
            _remove_unfinished(order, place)
            journal, continued = _settle(order, place)
        try:
            return Outcome(_Run(order, place, journal, version, continued).finish(), continued)
        except StagedChanged as change:
            place.emit(Noticed("staged-changed", str(change), "A new set is begun."))
        _clean_staging(order.install, place.runner)
        journal = _begin(order, place)
        return Outcome(_Run(order, place, journal, version, continued=False).finish(), continued=False)


def preview(order: Order, place: Place) -> Preview:
    """Say what ``back_up`` would do, and change nothing. Raises what it would refuse."""
    order.check_seals()
    version = look_at_version(order.install, place.runner)
    match _decide(order, place):
        case Refuse(backup_id):
            raise _refusal(order, backup_id)
        case Continue(set_id):
            return Preview("continue", set_id, version, place.catalog.store.name, ())
        case StartAnew():
            set_id = new_set_id(place.clock.now(), place.new_token())
            commands = (str(order.install.create_backup(set_id)),)
            return Preview("new", set_id, version, place.catalog.store.name, commands)


def _await_other_tasks(order: Order, place: Place) -> None:
    await_tasks(place.runner, order.install, place.clock, place.emit, phase_name="look", patience=_TASK_PATIENCE)


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
                _clean_staging(order.install, place.runner)
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
    committed = journal.find("committed") is not None or place.catalog.is_committed(begin["set_id"])
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


def _clean_staging(install: Omnibus, runner: Runner) -> None:
    """Remove GitLab's loose members. The information goes first: a torso must not look like a backup."""
    found = {entry.name for entry in backup_directory(install, runner)} & set(LOOSE_MEMBERS)
    for names in ({INFORMATION} & found, found - {INFORMATION}):
        if names:
            runner.run(install.remove(install.backup_path, tuple(order_members(names))))


# -- the run ---------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """One run's state between its phases; the journal holds the same for the next process."""

    order: Order
    place: Place
    journal: Journal
    version: str
    continued: bool
    index: dict[str, list[IndexedMember]] = field(default_factory=dict)
    sent: int = 0

    def finish(self) -> Manifest:
        if self.journal.find("created") is None:
            with self._phase("create", "GitLab writes its backup"):
                self._create()
        with self._phase("send", f"Sealing and sending to {self.place.catalog.store.name}"):
            judge = self._application_judge()
            application = self._send_application(judge)
            config = self._send_config()
            index = self._send_index()
        with self._phase("commit", "Signing and committing the set"):
            manifest = self._manifest((application, config), index, judge)
            self.place.catalog.commit(manifest, self.place.signer)
            self.journal.append("committed")
        with self._phase("clean", "Removing the staged files"):
            _clean_staging(self.order.install, self.place.runner)
            self.journal.append("done")
        return manifest

    @property
    def set_id(self) -> str:
        return str(self._entry("begin")["set_id"])

    def _create(self) -> None:
        created = unless_locked_out(self._created, lambda: _await_other_tasks(self.order, self.place))
        self.journal.append(
            "created",
            members=list(created.members),
            completed=sorted(created.repositories),
            findings=[asdict(finding) for finding in created.findings],
            disabled=list(created.disabled),
        )

    def _created(self) -> Created:
        command = self.order.install.create_backup(self.set_id)
        lines, failure = try_and_collect(self.place.runner, command, "create", self.place.emit)
        staged = {entry.name for entry in backup_directory(self.order.install, self.place.runner)}
        return judge_create(lines, failure, self.set_id, staged=staged)

    def _application_judge(self) -> ApplicationJudge:
        created = self._entry("created")
        repositories = frozenset((storage, path) for storage, path in created["completed"])
        return ApplicationJudge(
            self.set_id, self.version, tuple(created["members"]), repositories, disabled=tuple(created["disabled"])
        )

    def _send_application(self, judge: ApplicationJudge) -> Archive:
        install = self.order.install
        command = install.pack(install.backup_path, judge.members)
        scanner = TarScanner(judge.watch)
        try:
            archive = self._send("application", command, self.order.recipients, scanner)
            judge.finish(scanner.members)
        except (BackupFailed, SetDamaged, CommandFailed) as problem:
            if self.continued:  # they were good once; whatever befell them, only new ones help
                raise StagedChanged(f"the staged members are no good any more: {problem}") from problem
            if not isinstance(problem, CommandFailed):
                self.journal.append("abandoned")  # bad from the beginning: no later run may continue with them
            raise
        return archive

    def _send_config(self) -> Archive:
        install = self.order.install
        names = config_members(install, self.place.runner)
        command = install.pack(install.root, names, follow_links=True)
        return self._send("config", command, self.order.config_recipients, TarScanner())

    def _send(self, name: str, command: Command, recipients: tuple[str, ...], scanner: TarScanner) -> Archive:
        writer = VolumeWriter(
            self.place.catalog,
            self.set_id,
            self.journal,
            self.order.volume_size,
            self.order.volumes_in_flight,
            self.place.emit,
            self.sent,
        )
        with self.place.runner.read_from(command) as stream:
            volumes = writer.write(name, stream, scanner, parse_recipients(recipients))
        self.sent += sum(volume.plain_size for volume in volumes)
        files = [member for member in scanner.members if member.kind == "file"]
        self.index[name] = [IndexedMember(member.name, member.offset, member.size) for member in files]
        return Archive(name, _seal_kind(recipients), recipients, len(scanner.members), volumes)

    def _send_index(self) -> Archive:
        recipients = self.order.recipients
        volume = self.place.catalog.put_index(self.set_id, self.index, parse_recipients(recipients))
        return Archive("index", _seal_kind(recipients), recipients, 0, (volume,))

    def _manifest(self, archives: tuple[Archive, ...], index: Archive, judge: ApplicationJudge) -> Manifest:
        findings = (*(Finding(**entry) for entry in self._entry("created")["findings"]), *judge.findings)
        for finding in findings:
            self.place.emit(Noticed(finding.code, finding.message))
        facts = GitLabFacts(
            version=self.version,
            package=package_for(self.version),
            install="omnibus",
            installation_type=judge.information.installation_type,
            db_version=judge.information.db_version,
            backup_id=self.set_id,
            repositories=len(judge.repositories),
        )
        return Manifest(
            format=FORMAT,
            tool=f"drtool {__version__}",
            instance=self.order.instance,
            set_id=self.set_id,
            created_at=datetime.fromisoformat(self._entry("begin")["at"]),
            finished_at=self.place.clock.now(),
            gitlab=facts,
            verdict=verdict_of(findings),
            findings=findings,
            archives=archives,
            index=index,
            census=None,
            contents=(),
            secrets=None,
        )

    def _entry(self, what: str) -> dict[str, Any]:
        entry = self.journal.find(what)
        assert entry is not None, f"the journal has no {what!r} entry yet"
        return entry

    def _phase(self, name: str, title: str) -> AbstractContextManager[Callable[[], float]]:
        return phase(name, title, self.place.clock, self.place.emit)


def _seal_kind(recipients: tuple[str, ...]) -> SealKind:
    return "age" if recipients else "none"
