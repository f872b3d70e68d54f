"""Does an archive hold every repository whole: manifest, steps, bundles, refs? Three layouts, in whatever order.

Manifest layout (GitLab 16.10 on; S is a storage, P a path ending in .git, R the same without, B a backup's id)::

    manifests/S/P/B.toml   manifests/S/P/+latest.toml   S/P/B/001.bundle   S/P/B/001.refs   S/P/B/001.custom_hooks.tar

Pointers (15.0 to 16.9): ``R/LATEST`` names B, ``R/B/LATEST`` the last step; ``R/B/001.bundle`` and so on, since 16.6
with manifests besides. Before that: ``R.bundle``, lately ``R.refs``. Observed with Gitaly 16.11, read of the others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from drtool.core.census import Repository
from drtool.errors import SetDamaged
from drtool.gitlab.components import TarCount
from drtool.gitlab.manifests import Chain, Key, read_manifest
from drtool.gitlab.repositories import NO_REFS, BundleCheck, Kept, RefsCheck, RefSet, Then, agree
from drtool.gitlab.scan import Member, Sink

_TOP: Final = "repositories/"
_MANIFESTS: Final = "manifests/"
_TOML: Final = ".toml"
_LATEST: Final = "+latest"
_POINTER: Final = "/LATEST"
_FIRST_STEP: Final = "001"
_STEP: Final = re.compile(r"(?P<repository>.+)/(?P<id>[^/]+)/(?P<number>\d{3,})")
_HASHED: Final = re.compile(r"@[a-z]+/[0-9a-f]{2}/[0-9a-f]{2}/")


@dataclass(frozen=True, slots=True)
class Repositories:
    """What the archive's repositories came to. ``found`` is named as in a census.

    ``problems`` name repositories; ``moved`` are those whose bundle has other refs than were listed for it, as a push
    leaves it that comes between the two.
    """

    found: Mapping[str, Repository]
    problems: tuple[str, ...]
    moved: tuple[str, ...]


@dataclass(slots=True)
class _Step:
    """What is known of one step's files; ``lines`` are kept until both have passed, or for the joining of a chain."""

    bundle: bool = False
    is_empty: bool = False
    prerequisites: int = 0
    object_format: str = ""
    refs: RefSet | None = None
    problem: str = ""
    moved: bool = False
    lines: dict[str, bytes] = field(default_factory=dict)


class RepositoriesCheck:
    """Watches everything below ``repositories/``; ``finish`` puts it together.

    Holds a few hundred bytes per repository, and the refs of one whose bundle and list have not both passed; with
    ``joins``, which only an archive with increments needs, the refs of every step.
    """

    def __init__(self) -> None:
        self.joins = True
        self._steps: dict[str, _Step] = {}
        self._manifests: dict[Key, dict[str, Kept]] = {}
        self._pointers: dict[str, Kept] = {}

    def watch(self, member: Member) -> Sink | None:
        """Choose who looks at a member's data; its judgement of damage raises SetDamaged."""
        if not member.name.startswith(_TOP):
            return None
        name = member.name.removeprefix(_TOP)
        if name.startswith(_MANIFESTS) and name.endswith(_TOML):
            return self._watch_manifest(member.name, name)
        stem, dot, ending = name.rpartition(".")
        if dot and ending == "bundle":
            bundle = BundleCheck(member.name)
            return Then(bundle, lambda: self._end_bundle(stem, bundle))
        if dot and ending == "refs":
            refs = RefsCheck(member.name)
            return Then(refs, lambda: self._end_refs(stem, refs))
        if name.endswith("custom_hooks.tar") and member.size:
            return TarCount(member.name)
        if name.endswith(_POINTER):
            kept = self._pointers[name.removesuffix(_POINTER)] = Kept(member.name)
            return kept
        return None

    def finish(
        self, backup_id: str, *, with_manifests: bool, expected: Collection[tuple[str, str]] = ()
    ) -> Repositories:
        """Judge what passed. ``with_manifests`` says whether this GitLab restores only what has a manifest.

        ``expected`` are the (storage, relative path) pairs that must then have one, whatever else is found.
        """
        problems: list[str] = []
        found: dict[str, Repository] = {}
        chains = list(self._manifest_chains(backup_id, problems))
        used = {stem for chain in chains for stem in chain.stems}
        needed = {self._owner(stem) for stem in self._steps}
        if with_manifests:
            needed |= {Key(*names) for names in expected} | self._manifests.keys()
        else:
            needed = {key for key in needed if key.storage}
            older = [*self._pointer_chains(problems), *self._legacy_chains()]
            chains += [chain for chain in older if not used.intersection(chain.stems)]
        # GitLab asks for a manifest of exactly this id; a restore removes or leaves out what has none.
        lost = [key for key in needed if backup_id not in self._manifests.get(key, {})]
        problems += [f"repository {key} has no manifest of this backup, so a restore would lose it" for key in lost]
        moved = []
        for chain in chains:
            wrong = self._judge(chain)
            problems += [f"repository {chain.key}: {what}" for what in wrong]
            if not wrong and chain.stems and any(self._step(stem).moved for stem in chain.stems):
                moved.append(str(chain.key))
            if not chain.non_existent:
                found[str(chain.key)] = self._counted(chain)
        return Repositories(found, tuple(sorted(problems)), tuple(sorted(moved)))

    # -- what passes ---------------------------------------------------------------------------------------------

    def _watch_manifest(self, member_name: str, name: str) -> Sink | None:
        storage, _, rest = name[len(_MANIFESTS) : -len(_TOML)].partition("/")
        path, _, backup_id = rest.rpartition("/")
        known = self._manifests.setdefault(Key(storage, path), {})
        if backup_id == _LATEST:
            return None
        known[backup_id] = Kept(member_name)
        return known[backup_id]

    def _end_bundle(self, stem: str, check: BundleCheck) -> None:
        step = self._steps.setdefault(stem, _Step())
        step.bundle, step.is_empty = True, check.is_empty
        step.prerequisites, step.object_format = check.prerequisites, check.object_format
        step.lines["heads"] = check.heads
        self._pair(stem, step)

    def _end_refs(self, stem: str, check: RefsCheck) -> None:
        step = self._steps.setdefault(stem, _Step())
        step.refs = RefSet.of(check.refs) if check.refs else NO_REFS
        if check.refs:
            step.lines["refs"] = check.refs
            self._pair(stem, step)

    def _pair(self, stem: str, step: _Step) -> None:
        if len(step.lines) < 2:
            return
        later = _STEP.fullmatch(stem) and not stem.endswith(f"/{_FIRST_STEP}")
        is_increment = step.prerequisites > 0 or bool(later)
        match agree(step.lines["heads"], step.lines["refs"], is_increment=is_increment):
            case "foreign":
                step.problem = "its bundle holds other refs than were listed for it"
            case "moved":
                step.moved = True
            case "same":
                pass
        if not (self.joins and _STEP.fullmatch(stem)):
            step.lines = {}

    def _step(self, stem: str) -> _Step:
        return self._steps.get(stem, _NOTHING)

    # -- manifests -----------------------------------------------------------------------------------------------

    def _manifest_chains(self, backup_id: str, problems: list[str]) -> Iterator[Chain]:
        for key, texts in sorted(self._manifests.items(), key=lambda item: str(item[0])):
            if backup_id not in texts:
                continue
            try:
                yield read_manifest(key, texts[backup_id].content)
            except SetDamaged as problem:
                problems.append(f"repository {key}: {problem}")

    def _owner(self, stem: str) -> Key:
        """Tell whose step this is, in whichever layout."""
        found = _STEP.fullmatch(stem)
        if found and found["repository"].endswith(".git"):
            storage, _, path = found["repository"].partition("/")
            return Key(storage, path)
        pointed = self._pointer(stem)
        return Key("", f"{pointed['repository'] if pointed else stem}.git")

    # -- older layouts -------------------------------------------------------------------------------------------

    def _pointer_chains(self, problems: list[str]) -> Iterator[Chain]:
        pointed = set()
        for repository in sorted({name for name in self._pointers if self._is_pointed(name)}):
            backup_id = self._pointers[repository].content.decode("utf-8", "replace").strip()
            folder = f"{repository}/{backup_id}"
            number = self._pointers[folder].content if folder in self._pointers else b""
            pointed.add(repository)
            if not re.fullmatch(rb"\d{3,9}", number.strip()):
                problems.append(f"repository {repository}.git: LATEST names {backup_id!r}, which is not there")
                continue
            stems = tuple(f"{folder}/{step:03d}" for step in range(1, int(number) + 1))
            yield Chain(Key("", f"{repository}.git"), stems)
        for repository in sorted({found["repository"] for stem in self._steps if (found := self._pointer(stem))}):
            if repository not in pointed:
                problems.append(f"repository {repository}.git has data and no LATEST, so a restore would skip it")

    def _is_pointed(self, name: str) -> bool:
        """Tell R/LATEST from the R/B/LATEST that it names, or should."""
        if f"{name}/{_FIRST_STEP}" in self._steps:
            return False
        parent, _, last = name.rpartition("/")
        return parent not in self._pointers or self._pointers[parent].content.strip() != last.encode()

    def _pointer(self, stem: str) -> re.Match[str] | None:
        """Read R/B/001; None for a project of the oldest layout whose name is a number."""
        found = _STEP.fullmatch(stem)
        if not found or found["repository"].endswith(".git"):
            return None
        repository, folder = found["repository"], f"{found['repository']}/{found['id']}"
        inside = _HASHED.match(repository) or repository in self._pointers or folder in self._pointers
        return found if inside else None

    def _legacy_chains(self) -> Iterator[Chain]:
        for stem in sorted(self._steps):
            found = _STEP.fullmatch(stem)
            if self._pointer(stem) is None and not (found and found["repository"].endswith(".git")):
                yield Chain(Key("", f"{stem}.git"), (stem,), has_refs=False)

    # -- judgement -----------------------------------------------------------------------------------------------

    def _judge(self, chain: Chain) -> list[str]:
        if chain.non_existent:
            return []
        if not chain.stems:
            return ["its manifest has no step"]
        wrong = [what for number, stem in enumerate(chain.stems, 1) if (what := self._judge_step(chain, number, stem))]
        return wrong or ([what] if len(chain.stems) > 1 and (what := self._judge_joined(chain)) else [])

    def _judge_joined(self, chain: Chain) -> str:
        """Fetch in thought one bundle after the other into an empty repository, as Gitaly 16.11 does.

        Nothing takes away a ref, and an increment's bundle does not hold one that was set back to an older commit.
        """
        joined: dict[bytes, bytes] = {}
        for stem in chain.stems:
            step = self._step(stem)
            if step.bundle and "heads" not in step.lines:
                return "it has increments, in a backup that says it is none"
            joined |= _by_name(step.lines.get("heads", b""))
        last = self._step(chain.stems[-1])
        # A push between the listing and the bundling is in the bundle.
        wanted = _by_name(last.lines.get("refs", b"")) | _by_name(last.lines.get("heads", b""))
        wrong = sum(wanted.get(name) != joined.get(name) for name in wanted.keys() | joined.keys())
        return f"a restore onto an empty host brings back {wrong} refs that are gone or older" if wrong else ""

    def _judge_step(self, chain: Chain, number: int, stem: str) -> str:
        step = self._step(stem)
        name = stem.rpartition("/")[2]
        if chain.has_refs and step.refs is None:
            return f"{name}.refs is missing"
        if chain.empty is False and number == 1 and not step.bundle:
            return f"{name}.bundle is missing, and its manifest does not call it empty"
        if step.refs is not None and not step.refs.count and not step.refs.head:
            bundled = step.lines.get("heads")
            return f"{name}.bundle holds refs, and none were listed for it" if bundled else ""
        if not step.bundle:
            return f"{name}.bundle is missing"
        if step.is_empty:
            return f"{name}.bundle holds nothing"
        if number == 1 and step.prerequisites:
            return f"{name}.bundle is an increment of something that is not there"
        if chain.object_format and step.object_format != chain.object_format:
            return f"{name}.bundle is of {step.object_format} objects, its manifest says {chain.object_format}"
        if chain.empty:
            return "its manifest calls it empty, and it has refs"
        return step.problem

    def _counted(self, chain: Chain) -> Repository:
        step = self._step(chain.stems[-1]) if chain.stems else _NOTHING
        refs = step.refs or (RefSet.of(step.lines["heads"]) if "heads" in step.lines else NO_REFS)
        return Repository(refs.count, refs.digest, chain.head)


def _by_name(lines: bytes) -> dict[bytes, bytes]:
    refs = (line.partition(b" ")[::2] for line in lines.split(b"\n") if line)
    return {name: object_id for object_id, name in refs if name != b"HEAD"}


_NOTHING: Final = _Step()
