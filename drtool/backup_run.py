"""One backup run: let GitLab stage its members, judge them while they are sealed and sent, commit, clean up.

GitLab's exit status is never trusted alone (18.9 prints "Backup … is done." after a failed database dump): what it
printed is read, and what it wrote is judged as it passes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from drtool import __version__
from drtool.catalog import BackupSet, Catalog
from drtool.clock import Clock
from drtool.core.census import Census
from drtool.core.command import Command
from drtool.core.model import (
    FORMAT,
    Archive,
    Finding,
    GitLabFacts,
    HostFacts,
    IndexedMember,
    Manifest,
    SealKind,
    SecretsFacts,
    Tally,
    Volume,
    verdict_of,
)
from drtool.core.versions import package_for
from drtool.errors import (
    Busy,
    CommandFailed,
    FormatTooNew,
    SealError,
    SetDamaged,
    SetMissing,
    SignatureInvalid,
    StoreError,
)
from drtool.events import Emit, Noticed
from drtool.gitlab.application import ApplicationJudge, Judgement, few
from drtool.gitlab.archive import INFORMATION, TarScanner, order_members
from drtool.gitlab.judging import Created, judge_create
from drtool.gitlab.secrets import Sample, Secrets, SecretsCheck, SecretsVerdict, fingerprints, read_secrets
from drtool.gitlab.worth import changed_secrets, contents_of, emptied, facts_of, findings_of, judge_secrets_file
from drtool.hosts import Runner
from drtool.inspection import inspect
from drtool.installs.omnibus import Omnibus
from drtool.journal import Journal
from drtool.phases import await_tasks, phase, try_and_collect, unless_locked_out
from drtool.signing import Signer, Verifier
from drtool.streams import parse_recipients
from drtool.survey import LOOSE_MEMBERS, backup_directory, config_members, look_at_version
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
    accept_unfit_secrets: bool = False

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
    """What the work is done with. ``new_token`` gives four random hex digits, ``new_salt`` 16 random bytes.

    ``verifier`` checks the set before, which this one is held against; None trusts it unseen.
    """

    catalog: Catalog
    runner: Runner
    signer: Signer
    state: Path
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]
    new_salt: Callable[[], bytes]
    verifier: Verifier | None = None


@dataclass(frozen=True, slots=True)
class _Weighed:
    """What a set is worth, for its manifest."""

    findings: tuple[Finding, ...]
    census: Census | None
    contents: tuple[Tally, ...]
    secrets: SecretsFacts


@dataclass
class Run:
    """One run's state between its phases; the journal holds the same for the next process."""

    order: Order
    place: Place
    journal: Journal
    version: str
    continued: bool
    index: dict[str, list[IndexedMember]] = field(default_factory=dict)
    sent: int = 0

    def finish(self) -> Manifest:
        """Do what is left to do. Raises SetDamaged, and keeps the set beside the others, if it turns out red."""
        if self.journal.find("created") is None:
            with self._phase("create", "GitLab writes its backup"):
                self._create()
        with self._phase("send", f"Sealing and sending to {self.place.catalog.store.name}"):
            secrets, broken = self._read_secrets()
            judge, fit = self._judges(secrets)
            application = self._send_application(judge)
            config = self._send_config()
        with self._phase("commit", "Signing and committing the set"):
            found = self._weigh(judge.judgement, secrets, fit.finish(), broken)
            manifest = self._manifest((application, config), judge, found)
            self._refuse_lost(manifest)
            self.place.catalog.commit(manifest, self.place.signer)
            self.journal.append("committed")
        with self._phase("clean", "Removing the staged files"):
            clean_staging(self.order.install, self.place.runner)
            self.journal.append("done")
        self._refuse_red(manifest)
        return manifest

    @property
    def set_id(self) -> str:
        return str(self._entry("begin")["set_id"])

    def _create(self) -> None:
        self.place.catalog.fence.check()
        created = unless_locked_out(self._created, lambda: await_other_tasks(self.order, self.place))
        self._refuse_other_version()
        self.journal.append(
            "created",
            members=list(created.members),
            completed=sorted(created.repositories),
            findings=[asdict(finding) for finding in created.findings],
            disabled=list(created.disabled),
        )

    def _refuse_other_version(self) -> None:
        """Raise Busy if an upgrade overtook GitLab's backup: its parts need not be of one version."""
        now = look_at_version(self.order.install, self.place.runner)
        if now != self.version:
            raise Busy(
                f"GitLab was {self.version}, and became {now} while it wrote its backup",
                hint="Run this again; have upgrades begin at another hour.",
            )

    def _created(self) -> Created:
        command = self.order.install.create_backup(self.set_id)
        lines, failure = try_and_collect(self.place.runner, command, "create", self.place.emit)
        staged = {entry.name for entry in backup_directory(self.order.install, self.place.runner)}
        return judge_create(lines, failure, self.set_id, staged=staged)

    def _read_secrets(self) -> tuple[Secrets, tuple[Finding, ...]]:
        install, runner = self.order.install, self.place.runner
        content = runner.run(install.read_file(install.secrets_file))
        secrets = read_secrets(gitlab_rb=runner.run(install.read_file(install.config_file)), secrets_json=content)
        return secrets, judge_secrets_file(content, accept_unfit=self.order.accept_unfit_secrets)

    def _judges(self, secrets: Secrets) -> tuple[ApplicationJudge, SecretsCheck]:
        created = self._entry("created")
        # Another seed every night: so every value has its turn.
        fit = SecretsCheck(secrets, sample=Sample(seed=int(self.set_id[-4:], 16)))
        judge = ApplicationJudge(
            self.set_id,
            self.version,
            tuple(created["members"]),
            frozenset((storage, path) for storage, path in created["completed"]),
            disabled=tuple(created["disabled"]),
            watchers=(fit,),
        )
        return judge, fit

    def _send_application(self, judge: ApplicationJudge) -> Archive:
        install = self.order.install
        command = install.pack(install.backup_path, judge.members)
        scanner = TarScanner(judge.watch)
        try:
            archive = self._send("application", command, self.order.recipients, scanner)
        except (SetDamaged, CommandFailed) as problem:
            if self.continued:  # they were good once; whatever befell them, only new ones help
                raise StagedChanged(f"the staged members are no good any more: {problem}") from problem
            if not isinstance(problem, CommandFailed):
                self.journal.append("abandoned")  # bad from the beginning: no later run may continue with them
            raise
        judgement = judge.judge(scanner.members)
        if self.continued and judgement.problems:
            raise StagedChanged(f"the staged members are no good any more: {few(judgement.problems)}")
        return archive

    def _weigh(
        self, judgement: Judgement, secrets: Secrets, fit: SecretsVerdict, broken: tuple[Finding, ...]
    ) -> _Weighed:
        """Say what the set is worth, also beside the one before it."""
        accept = self.order.accept_unfit_secrets
        contents = contents_of(judgement.census) if judgement.census else ()
        findings = [Finding(**entry) for entry in self._entry("created")["findings"]]
        findings += [*findings_of(judgement, fit, accept_unfit=accept), *broken]
        before = self._set_before()
        if before and judgement.census:
            findings += emptied(contents, before.contents, since=before.set_id)
        if before and before.secrets:
            findings += changed_secrets(before.secrets, secrets, since=before.set_id)
        for finding in findings:
            self.place.emit(Noticed(finding.code, finding.message))
        details = (*judgement.problems, *judgement.remarks)
        if details:
            self.place.emit(Noticed("details", "Which they are:", details=details))
        facts = facts_of(fit, fingerprints(secrets, self.place.new_salt()))
        return _Weighed(tuple(findings), judgement.census, contents, facts)

    def _set_before(self) -> Manifest | None:
        """The newest set before this one, if there is one that can be believed."""
        known = [set_id for set_id in self.place.catalog.set_ids() if set_id < self.set_id]
        if not known:
            return None
        try:
            return self.place.catalog.read_manifest(known[-1], self.place.verifier)
        except (SetDamaged, SetMissing, SignatureInvalid, FormatTooNew) as problem:
            self.place.emit(Noticed("set-before", f"This set is compared with none before it: {problem}", problem.hint))
            return None

    def _refuse_lost(self, manifest: Manifest) -> None:
        """Raise StoreError unless the store shows every volume at its size: that it said yes to each proves little."""
        looked = BackupSet(self.place.catalog, manifest).look_at_volumes()
        if lost := [str(problem) for problem in looked if problem]:
            raise StoreError(few(lost), hint="The store lost what it had taken. Look at it, then run this again.")

    def _refuse_red(self, manifest: Manifest) -> None:
        if manifest.verdict == "red":
            wrong = [finding.message for finding in manifest.findings if finding.severity == "red"]
            raise SetDamaged(
                f"{manifest.set_id} is red and counts for nothing: {'; '.join(wrong)}",
                hint=f"What there is of it is kept: `drtool show {manifest.set_id}`. The sets before are untouched.",
            )

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

    def _seal(self, name: str, volume: Volume) -> Archive:
        return Archive(name, _seal_kind(self.order.recipients), self.order.recipients, 0, (volume,))

    def _manifest(self, archives: tuple[Archive, ...], judge: ApplicationJudge, found: _Weighed) -> Manifest:
        catalog, recipients = self.place.catalog, parse_recipients(self.order.recipients)
        index = self._seal("index", catalog.put_index(self.set_id, self.index, recipients))
        census = (
            self._seal("census", catalog.put_census(self.set_id, found.census, recipients)) if found.census else None
        )
        return Manifest(
            format=FORMAT,
            tool=f"drtool {__version__}",
            instance=self.order.instance,
            set_id=self.set_id,
            created_at=datetime.fromisoformat(self._entry("begin")["at"]),
            finished_at=self.place.clock.now(),
            gitlab=self._facts(judge),
            verdict=verdict_of(found.findings),
            findings=found.findings,
            archives=archives,
            index=index,
            census=census,
            contents=found.contents,
            secrets=found.secrets,
            host=self._host(),
        )

    def _host(self) -> HostFacts:
        seen = inspect(self.order.install, self.place.runner, self.place.clock)
        settings = seen.settings
        return HostFacts(
            architecture=seen.system.architecture,
            postgresql=seen.postgresql,
            storages=settings.storages or () if settings else (),
            database_elsewhere=bool(settings and settings.database_host),
            object_storage=settings.object_storage if settings else (),
        )

    def _facts(self, judge: ApplicationJudge) -> GitLabFacts:
        try:
            information = judge.information
        except SetDamaged:  # the findings say so
            kind = schema = ""
        else:
            kind, schema = information.installation_type, information.db_version
        package, count = package_for(self.version), len(judge.repositories)
        disabled = tuple(self._entry("created")["disabled"])
        return GitLabFacts(self.version, package, "omnibus", kind, schema, self.set_id, count, disabled)

    def _entry(self, what: str) -> dict[str, Any]:
        entry = self.journal.find(what)
        assert entry is not None, f"the journal has no {what!r} entry yet"
        return entry

    def _phase(self, name: str, title: str) -> AbstractContextManager[Callable[[], float]]:
        return phase(name, title, self.place.clock, self.place.emit)


def _seal_kind(recipients: tuple[str, ...]) -> SealKind:
    return "age" if recipients else "none"


def clean_staging(install: Omnibus, runner: Runner) -> None:
    """Remove GitLab's loose members. The information goes first: a torso must not look like a backup."""
    found = {entry.name for entry in backup_directory(install, runner)} & set(LOOSE_MEMBERS)
    for names in ({INFORMATION} & found, found - {INFORMATION}):
        if names:
            runner.run(install.remove(install.backup_path, tuple(order_members(names))))


def await_other_tasks(order: Order, place: Place) -> None:
    """Wait for a backup or restore of GitLab's own, and for who replaces GitLab."""
    await_tasks(place.runner, order.install, place.clock, place.emit, phase_name="look", patience=_TASK_PATIENCE)
