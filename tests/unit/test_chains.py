"""Repositories in every layout, put together from members that come in any order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pytest

from drtool.core.census import Repository
from drtool.gitlab.chains import Repositories, RepositoriesCheck
from drtool.gitlab.repositories import NO_REFS, RefSet
from drtool.gitlab.scan import Member

HASHED = "@hashed/aa/bb/aabb"
REFS = b"".join(digit * 40 + b" refs/heads/" + digit + b"\n" for digit in (b"1", b"2"))
MANIFEST = """\
object_format = 'sha1'
head_reference = 'refs/heads/main'

[[steps]]
bundle_path = 'default/{path}.git/B/001.bundle'
ref_path = 'default/{path}.git/B/001.refs'
custom_hooks_path = 'default/{path}.git/B/001.custom_hooks.tar'
"""


def _bundle(refs: bytes = REFS) -> bytes:
    pack = b"PACK with some objects"
    return b"# v2 git bundle\n" + refs + b"\n" + pack + hashlib.sha1(pack).digest()


def _check(
    members: Mapping[str, bytes], *, backup_id: str = "B", with_manifests: bool = False, joins: bool = True
) -> Repositories:
    check = RepositoriesCheck()
    check.joins = joins
    for name, content in members.items():
        sink = check.watch(Member(f"repositories/{name}", 0, len(content), "file"))
        if sink is not None:
            sink.write(memoryview(content))
            sink.close()
    return check.finish(backup_id, with_manifests=with_manifests)


def _manifests(text: str = MANIFEST, path: str = HASHED) -> dict[str, bytes]:
    return {
        f"manifests/default/{path}.git/+latest.toml": b"",
        f"manifests/default/{path}.git/B.toml": text.format(path=path).encode(),
        f"default/{path}.git/B/001.bundle": _bundle(),
        f"default/{path}.git/B/001.refs": REFS,
    }


def _pointers(path: str = HASHED) -> dict[str, bytes]:
    files = {"B/LATEST": b"001", "LATEST": b"B", "B/001.bundle": _bundle(), "B/001.refs": REFS}
    return {f"{path}/{name}": content for name, content in files.items()}


def _legacy(path: str = "group/project") -> dict[str, bytes]:
    return {f"{path}.bundle": _bundle(), f"{path}.refs": REFS}


@pytest.mark.parametrize(
    ("members", "name", "head", "with_manifests"),
    [
        (_manifests(), f"default/{HASHED}.git", "refs/heads/main", True),
        (_manifests(), f"default/{HASHED}.git", "refs/heads/main", False),
        (_pointers(), f"{HASHED}.git", "", False),
        (_pointers("group/project"), "group/project.git", "", False),
        (_legacy(), "group/project.git", "", False),
        (_legacy("group/123"), "group/123.git", "", False),
        (_legacy("group/sub/123"), "group/sub/123.git", "", False),
    ],
)
def test_a_repository_is_found_in_every_layout_whatever_comes_first(
    members: dict[str, bytes], name: str, head: str, with_manifests: bool
) -> None:
    expected = Repository(2, RefSet.of(REFS).digest, head)
    for order in (members, dict(reversed(members.items()))):
        found = _check(order, with_manifests=with_manifests)
        assert (dict(found.found), found.problems, found.moved) == ({name: expected}, (), ())


@pytest.mark.parametrize("members", [_manifests(), _pointers(), _legacy()])
def test_refs_are_not_kept_once_their_bundle_passed_where_there_are_no_increments(members: dict[str, bytes]) -> None:
    check = RepositoriesCheck()
    check.joins = False
    for name, content in members.items():
        if sink := check.watch(Member(f"repositories/{name}", 0, len(content), "file")):
            sink.write(memoryview(content))
            sink.close()
    assert [step.lines for step in check._steps.values()] == [{}]


@pytest.mark.parametrize(
    ("members", "lost", "culprit"),
    [
        (_manifests(), f"default/{HASHED}.git/B/001.bundle", f"default/{HASHED}.git: 001.bundle is missing"),
        (_pointers(), f"{HASHED}/LATEST", f"{HASHED}.git"),
        (_pointers(), f"{HASHED}/B/LATEST", f"{HASHED}.git"),
        (_pointers(), f"{HASHED}/B/001.bundle", f"{HASHED}.git: 001.bundle is missing"),
        (_pointers(), f"{HASHED}/B/001.refs", f"{HASHED}.git: 001.refs is missing"),
        (_pointers("group/project"), "group/project/LATEST", "group/project"),
        (_legacy(), "group/project.bundle", "group/project.git: project.bundle is missing"),
    ],
)
def test_what_is_lost_is_named_in_every_layout(members: dict[str, bytes], lost: str, culprit: str) -> None:
    found = _check({name: content for name, content in members.items() if name != lost})
    assert found.problems
    assert all(culprit in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(
    "text",
    [
        MANIFEST,
        "empty = true\nnon_existent = false\n" + MANIFEST,
        "empty = true\n" + MANIFEST.replace("bundle_path", "# bundle_path"),
    ],
)
def test_an_empty_repository_has_no_bundle_and_is_there(text: str) -> None:
    members = _manifests(text)
    members[f"default/{HASHED}.git/B/001.refs"] = b""
    del members[f"default/{HASHED}.git/B/001.bundle"]
    found = _check(members, with_manifests=True)
    assert found.problems == ()
    assert found.found == {f"default/{HASHED}.git": Repository(0, NO_REFS.digest, "refs/heads/main")}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("bundle_path = ", "# ", "a step without bundle and refs"),
        ("bundle_path = 'default", "bundle_path = 'other", "a step without bundle and refs"),
        ("'default/", "'other/", "leads to other/"),
        ("[[steps]]", "steps = 1\n[x]", "head_reference or steps"),
        ("head_reference = ", "head_reference = 1 # ", "head_reference or steps"),
        ("object_format", "empty = 'no'\nobject_format", "says empty = 'no'"),
        ("[[steps]]", "[[steps", "is not understood"),
        ("'sha1'", "''", "names no object format"),
    ],
)
def test_a_manifest_that_says_too_little_is_a_problem(old: str, new: str, complaint: str) -> None:
    assert old in MANIFEST
    (problem,) = _check(_manifests(MANIFEST.replace(old, new)), with_manifests=True).problems
    assert problem.startswith(f"repository default/{HASHED}.git: its manifest ")
    assert complaint in problem


def test_what_lies_elsewhere_is_no_repository() -> None:
    for name in ("uploads/a.bundle", "b.refs", "x/manifests/default/a.git/B.toml"):
        assert RepositoriesCheck().watch(Member(name, 0, 5, "file")) is None


def test_a_repository_that_did_not_exist_has_a_manifest_and_nothing_else() -> None:
    text = b"empty = false\nnon_existent = true\nobject_format = ''\nhead_reference = ''\n"
    found = _check({f"manifests/default/{HASHED}.git/B.toml": text}, with_manifests=True)
    assert (found.problems, dict(found.found)) == ((), {})


def test_a_legacy_bundle_is_counted_without_its_list() -> None:
    found = _check({"group/project.bundle": _bundle()})
    assert (found.found["group/project.git"].refs, found.problems) == (2, ())


def test_a_bundle_without_its_manifest_is_lost_where_manifests_rule() -> None:
    for older in (_pointers(), _legacy(HASHED)):
        found = _check(older, with_manifests=True)
        assert found.found == {}
        assert found.problems == (
            f"repository {HASHED}.git has no manifest of this backup, so a restore would lose it",
        )
    members = {name: content for name, content in _manifests().items() if not name.startswith("manifests/")}
    assert _check(members, with_manifests=True).problems == (
        f"repository default/{HASHED}.git has no manifest of this backup, so a restore would lose it",
    )


@pytest.mark.parametrize(
    ("listed", "bundled"),
    [
        (REFS.splitlines(True)[0] + b"3" * 40 + b" refs/heads/3\n", b"3" * 40 + b" refs/heads/3\n"),  # 2 was deleted
        (
            REFS.replace(b"2" * 40, b"0" * 40) + b"3" * 40 + b" refs/heads/3\n",
            b"3" * 40 + b" refs/heads/3\n",
        ),  # set back
    ],
)
def test_a_ref_that_a_chain_would_bring_back_is_a_problem(listed: bytes, bundled: bytes) -> None:
    second = MANIFEST[MANIFEST.index("[[steps]]") :].replace("/001.", "/002.")
    members = {
        **_manifests(MANIFEST + second),
        f"default/{HASHED}.git/B/002.bundle": _bundle(bundled).replace(b"bundle\n", b"bundle\n-" + b"1" * 40 + b" x\n"),
        f"default/{HASHED}.git/B/002.refs": listed,
    }
    for order in (members, dict(reversed(members.items()))):
        (problem,) = _check(order, with_manifests=True).problems
        assert problem == (
            f"repository default/{HASHED}.git: a restore onto an empty host brings back 1 refs that are gone or older"
        )


def test_increments_in_a_backup_that_says_it_is_none_are_a_problem() -> None:
    second = MANIFEST[MANIFEST.index("[[steps]]") :].replace("/001.", "/002.")
    new = b"3" * 40 + b" refs/heads/3\n"
    members = {
        **_manifests(MANIFEST + second),
        f"default/{HASHED}.git/B/002.bundle": _bundle(new).replace(b"bundle\n", b"bundle\n-" + b"1" * 40 + b" x\n"),
        f"default/{HASHED}.git/B/002.refs": REFS + new,
    }
    said = _check(members, with_manifests=True, joins=False).problems
    assert said == (f"repository default/{HASHED}.git: it has increments, in a backup that says it is none",)
    assert _check(members, with_manifests=True).problems == ()


def test_an_increment_in_the_layout_with_pointers_counts_its_last_step() -> None:
    new = b"3" * 40 + b" refs/heads/3\n"
    members = {
        **_pointers(),
        f"{HASHED}/B/LATEST": b"002",
        f"{HASHED}/B/002.bundle": _bundle(new).replace(b"bundle\n", b"bundle\n-" + b"1" * 40 + b" x\n"),
        f"{HASHED}/B/002.refs": REFS + new,
    }
    found = _check(members)
    assert (found.problems, found.found[f"{HASHED}.git"].refs) == ((), 3)
    del members[f"{HASHED}/B/002.refs"]
    assert _check(members).problems == (f"repository {HASHED}.git: 002.refs is missing",)
