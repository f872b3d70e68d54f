"""What a set is worth: what one pass found, in the words of its manifest, which is in clear and names no project."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from drtool.core.census import LASTING_TABLES, Census
from drtool.core.model import Finding, Fingerprint, SecretsFacts, Severity, Tally
from drtool.gitlab.application import Judgement, few
from drtool.gitlab.secrets import Change, Fingerprints, Fit, Secrets, SecretsVerdict, compare
from drtool.gitlab.secrets.columns import Family

# Before hashed storage, a repository lies under its project's name.
_NAMED: Final = re.compile(r"(?:(?<=repositories/)|(?<=repository )|(?<=leads to )|(?<=PATHS=))(?!\S*@)[^\s:]+")
_UNNAMED: Final = "…"
_TABLE: Final = "table "
# What only means anything while somebody is at work may well be empty the next night.
_MAY_VANISH: Final = ("builds",)


def findings_of(judgement: Judgement, secrets: SecretsVerdict, *, accept_unfit: bool = False) -> tuple[Finding, ...]:
    """Say in the manifest's words what is wrong with a set, or must not be forgotten.

    ``accept_unfit`` makes secrets that do not fit a warning: somebody said that they are lost for good.
    """
    found = [*judgement.findings]
    if judgement.problems:
        problems = [without_names(problem) for problem in judgement.problems]
        found.append(Finding("incomplete", few(problems), len(problems), "red"))
    return (*found, *_of_secrets(secrets, accept_unfit=accept_unfit))


def judge_secrets_file(content: bytes, *, accept_unfit: bool = False) -> tuple[Finding, ...]:
    """Say so when gitlab-secrets.json is no such file: GitLab stops at it, or makes new secrets that open nothing."""
    try:
        if isinstance(json.loads(content), dict):
            return ()
    except (ValueError, RecursionError):
        pass
    severity: Severity = "amber" if accept_unfit else "red"
    return (Finding("secrets-broken", "gitlab-secrets.json is cut off or no JSON", severity=severity),)


def without_names(problem: str) -> str:
    """Leave out what a repository of the old storage is called: the name of its project."""
    return _NAMED.sub(_UNNAMED, problem)


def facts_of(secrets: SecretsVerdict, prints: Fingerprints) -> SecretsFacts:
    """Put into the manifest whether the secrets fit, and what tells them from others."""
    listed = tuple(Fingerprint(name, digests) for name, digests in sorted(prints.digests.items()))
    return SecretsFacts(secrets.fit.value, secrets.opened, secrets.failed, secrets.complete, prints.salt, listed)


def changed_secrets(before: SecretsFacts, secrets: Secrets, *, since: str) -> tuple[Finding, ...]:
    """Report every secret that is not what it was in the set ``since``: a regenerated one opens no old value."""
    prints = Fingerprints(before.salt, {each.name: each.digests for each in before.fingerprints})
    changes = compare(prints, secrets)
    return tuple(
        Finding("secret-changed", f"{key} was {change} since {since}{_ADVICE.get(change, '')}")
        for key, change in sorted(changes.items())
    )


_ADVICE: Final[Mapping[Change, str]] = {
    Change.REPLACED: ": what it sealed before cannot be opened with it; keep that set",
    Change.LOST: ": what it sealed cannot be opened any more; keep that set",
}


def contents_of(census: Census) -> tuple[Tally, ...]:
    """Count what the next set is held against. Numbers only: the manifest is in clear."""
    tallies = [
        Tally("projects", len(census.projects), 0),
        Tally("groups", census.groups, 0),
        Tally("users", census.users, 0),
        Tally("repositories", len(census.repositories), 0),
        Tally("refs", sum(found.refs for found in census.repositories.values()), 0),
        Tally("rows", census.rows, 0),
        *(Tally(name, files.count, files.size) for name, files in sorted(census.components.items())),
    ]
    rows = {name: census.tables.get(f"public.{name}") for name in LASTING_TABLES}
    return (*tallies, *(Tally(_TABLE + name, count, 0) for name, count in rows.items() if count is not None))


def emptied(now: Collection[Tally], before: Collection[Tally], *, since: str) -> tuple[Finding, ...]:
    """Report what held something in the set ``since`` and holds nothing now, or is not there any more."""
    counts = {tally.name: tally.count for tally in now}
    return tuple(
        Finding("emptied", f"{tally.name}: none; {tally.count} in {since}")
        for tally in before
        if tally.count and not counts.get(tally.name) and tally.name not in _MAY_VANISH
    )


def _of_secrets(verdict: SecretsVerdict, *, accept_unfit: bool) -> Iterator[Finding]:
    match verdict.fit:
        case Fit.FITS:
            pass
        case Fit.DOES_NOT_FIT:
            # One user's old second factor is no reason to have no backup; a database that nothing opens is.
            fatal = any(each.fit is Fit.DOES_NOT_FIT and each.family is not Family.OTP for each in verdict.families)
            severity: Severity = "red" if fatal and not accept_unfit else "amber"
            yield Finding("secrets-do-not-fit", verdict.sentence(), verdict.failed, severity)
        case Fit.PARTLY:
            yield Finding("secrets-fit-in-part", verdict.sentence(), verdict.failed)
        case Fit.UNTESTED:
            yield Finding("secrets-untested", verdict.sentence())
    yield from (Finding("secrets-unread", problem) for problem in verdict.problems)
