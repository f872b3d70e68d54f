"""Read all of a set from its store, and judge it as a backup does: is it still what was signed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from drtool.catalog import BackupSet
from drtool.core.census import Census, compare
from drtool.core.model import Check, Finding, IndexedMember
from drtool.errors import MemberMissing, SetDamaged
from drtool.gitlab.application import ApplicationJudge, Judgement
from drtool.gitlab.archive import Member, TarScanner
from drtool.gitlab.repositories import Kept
from drtool.gitlab.secrets import Fit, Secrets, SecretsCheck, SecretsVerdict, read_secrets
from drtool.gitlab.worth import changed_secrets, contents_of, findings_of
from drtool.installs.omnibus import Omnibus
from drtool.streams import CHUNK

_THREADS = 2
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Contents:
    """What reading everything found. ``findings`` are what was found now, whatever the manifest says."""

    checks: tuple[Check, ...]
    findings: tuple[Finding, ...]
    secrets: SecretsVerdict
    census: Census | None


def read_contents(backup_set: BackupSet, saw: Callable[[int], None]) -> Contents:
    """Unseal and judge every archive; ``saw`` is told the plain bytes as they pass.

    Everything is looked at, also after a bad thing. Raises IdentityMismatch and StoreError, because then nothing
    was learned.
    """
    return _Reading(backup_set, saw).run()


@dataclass
class _Reading:
    backup_set: BackupSet
    saw: Callable[[int], None]
    checks: list[Check] = field(default_factory=list)

    def run(self) -> Contents:
        index = self._index()
        secrets = self._configuration(index)
        with ThreadPoolExecutor(_THREADS, "secrets") as threads:
            check = SecretsCheck(secrets, over=threads.map)
            judgement = self._application(index, check)
            fit = check.finish()
        self._note("census", self._judge_census(judgement.census))
        self._note("secrets", self._judge_secrets(secrets, fit))
        return Contents(tuple(self.checks), findings_of(judgement, fit), fit, judgement.census)

    def _note(self, name: str, problems: Sequence[str]) -> None:
        self.checks.append(Check(name, tuple(problems)))

    def _index(self) -> dict[str, list[IndexedMember]] | None:
        try:
            index = self.backup_set.read_index()
        except SetDamaged as problem:
            self._note("index", [str(problem)])
            return None
        self._note("index", ())
        return index

    def _configuration(self, index: dict[str, list[IndexedMember]] | None) -> Secrets:
        install = Omnibus()
        wanted = {str(path.relative_to("/")): Kept(str(path)) for path in (install.config_file, install.secrets_file)}
        scanner = TarScanner(lambda member: wanted.get(member.name))
        problems = self._pass("config", scanner, index)
        names = {member.name for member in scanner.members}
        problems += [f"{name} is missing" for name in install.config_required if name not in names]
        self._note("configuration", problems)
        rb, secrets = (kept.content if name in names else None for name, kept in wanted.items())
        return read_secrets(gitlab_rb=rb, secrets_json=secrets)

    def _application(self, index: dict[str, list[IndexedMember]] | None, check: SecretsCheck) -> Judgement:
        facts = self.backup_set.manifest.gitlab
        judge = ApplicationJudge(
            facts.backup_id,
            facts.version,
            (),
            frozenset(),
            disabled=facts.disabled,
            watchers=(check,),
        )
        scanner = TarScanner(judge.watch)
        problems = self._pass("application", scanner, index)
        judgement = judge.judge(scanner.members)
        restorable = len(judge.repositories)
        if not problems and restorable != facts.repositories:
            problems.append(f"{restorable} repositories can be restored, the manifest says {facts.repositories}")
        self._note("application", [*problems, *judgement.problems])
        return judgement

    def _pass(self, archive: str, scanner: TarScanner, index: dict[str, list[IndexedMember]] | None) -> list[str]:
        """Let an archive pass through a scanner to its end; say what is wrong with it as a tar."""
        try:
            with self.backup_set.read_archive(archive, self.saw) as stream:
                while chunk := stream.read(CHUNK):
                    scanner.feed(chunk)
            scanner.close()
        except SetDamaged as problem:
            return [str(problem)]
        problems = []
        manifest = self.backup_set.manifest.archive(archive)
        if len(scanner.members) != manifest.members:
            problems.append(f"{len(scanner.members)} members, the manifest says {manifest.members}")
        if index is not None and index.get(archive) != _indexed(scanner.members):
            problems.append("its members are not those of the index")
        return problems

    def _judge_census(self, census: Census | None) -> list[str]:
        try:
            stored = self.backup_set.read_census()
        except MemberMissing as problem:
            return [str(problem)] if census else []
        except SetDamaged as problem:
            return [str(problem)]
        if census is None:
            return ["what the set contains cannot be counted any more"]
        problems = [str(difference) for difference in compare(stored, census, shown=_SHOWN)]
        if contents_of(stored) != self.backup_set.manifest.contents:
            problems.append("the manifest counts otherwise")
        return problems

    def _judge_secrets(self, secrets: Secrets, fit: SecretsVerdict) -> list[str]:
        before = self.backup_set.manifest.secrets
        if before is None:
            return ["the manifest says nothing about the secrets"]
        problems = [finding.message for finding in changed_secrets(before, secrets, since="this set was made")]
        # What a sample opened, all of them must; the rest are findings.
        if fit.fit in (Fit.DOES_NOT_FIT, Fit.UNTESTED) and before.fit != fit.fit.value:
            problems.append(f"{fit.sentence()}; when the set was made: {before.fit}")
        return problems


def _indexed(members: Sequence[Member]) -> list[IndexedMember]:
    return [IndexedMember(member.name, member.offset, member.size) for member in members if member.kind == "file"]
