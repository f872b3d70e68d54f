"""Bundles are judged by what they say about themselves, without unpacking them."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
from pathlib import Path

import pytest

from drtool.errors import SetDamaged
from drtool.gitlab.repositories import NO_REFS, BundleCheck, Kept, RefsCheck, RefSet, agree
from tests.sandboxes import OBSERVED_ARCHIVE


def _judge(content: bytes, *, chunk: int = 1 << 20) -> BundleCheck:
    check = BundleCheck("x.bundle")
    for start in range(0, len(content), chunk):
        check.write(memoryview(content)[start : start + chunk])
    check.close()
    return check


def _bundles() -> dict[str, bytes]:
    with tarfile.open(OBSERVED_ARCHIVE) as tar:
        found = [member for member in tar if member.name.endswith(".bundle")]
        contents = [tar.extractfile(member) for member in found]
        return {member.name: stream.read() for member, stream in zip(found, contents, strict=True) if stream}


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return next(iter(_bundles().values()))


def test_every_bundle_of_a_real_archive_is_intact() -> None:
    bundles = _bundles()
    assert len(bundles) == 5
    assert {_judge(content).heads.count(b"\n") for content in bundles.values()} == {6}
    assert not any(_judge(content).prerequisites or _judge(content).is_empty for content in bundles.values())


@pytest.mark.parametrize("chunk", [1, 3, 19, 20, 21, 64])
def test_bundle_is_judged_alike_in_chunks_of_any_size(bundle: bytes, chunk: int) -> None:
    _judge(bundle, chunk=chunk)


def test_bundle_of_sha256_objects_is_judged_by_sha256(tmp_path: Path) -> None:
    script = """
    git init -q --object-format=sha256 r && cd r
    git -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m one
    git bundle create -q ../b --all
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    content = (tmp_path / "b").read_bytes()
    _judge(content)
    with pytest.raises(SetDamaged):
        _judge(content[:-1] + bytes([content[-1] ^ 1]))


def test_bundle_that_needs_commits_says_so_and_one_of_nothing_too(tmp_path: Path) -> None:
    script = """
    git init -q -b main r && cd r
    commit() { git -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m "$1"; }
    commit one; git tag first; commit two
    git bundle create -q ../b --all ^first
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    increment = _judge((tmp_path / "b").read_bytes())
    assert increment.prerequisites == 1
    assert sorted(line.split()[1] for line in increment.heads.splitlines()) == [b"HEAD", b"refs/heads/main"]
    assert _judge(b"# v2 git bundle\n\n").is_empty


def test_bundle_cut_anywhere_is_damaged(bundle: bytes) -> None:
    for size in range(len(bundle)):
        with pytest.raises(SetDamaged, match=r"x\.bundle"):
            _judge(bundle[:size])


def test_pack_changed_anywhere_is_damaged(bundle: bytes) -> None:
    for place in range(bundle.index(b"PACK"), len(bundle)):
        changed = bytearray(bundle)
        changed[place] ^= 1
        with pytest.raises(SetDamaged):
            _judge(bytes(changed))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"# v4 git bundle\n\nPACK",
        b"x" * 100_000,
        b"# v2 git bundle\n" + b"x" * 100_000,
        b"# v2 git bundle\n\nJUNK",
        b"# v2 git bundle\n" + b"1" * 40 + b" refs/heads/main\n\n",
        b"# v3 git bundle\n@filter=blob:none\n\nPACK",
    ],
)
def test_what_is_no_bundle_is_damaged(content: bytes) -> None:
    with pytest.raises(SetDamaged):
        _judge(content)


def _whole(header: bytes, pack: bytes = b"PACK and objects") -> bytes:
    return header + b"\n" + pack + hashlib.sha1(pack).digest()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (_whole(b"# v4 git bundle\n"), "is no bundle"),
        (_whole(b"# v3 git bundle\n@filter=blob:none\n"), "is a partial bundle"),
        (_whole(b"# v2 git bundle\n", b"JUNK"), "holds no pack"),
        (b"# v2 git bundle\n" + b"1" * 40 + b" refs/heads/main\n", "is cut off inside its header"),
        (b"# v2 git bundle\n" + b"1" * 40 + b" refs/heads/main\n\n", "holds no pack"),
    ],
)
def test_bundle_is_refused_for_what_is_wrong_with_it_alone(content: bytes, complaint: str) -> None:
    _judge(_whole(b"# v2 git bundle\n"))
    for chunk in (1, 1 << 20):
        with pytest.raises(SetDamaged, match=rf"x\.bundle {complaint}"):
            _judge(content, chunk=chunk)


def test_what_is_no_bundle_is_not_kept_in_memory() -> None:
    for beginning in (b"x" * 100, b"# v2 git bundle\n"):
        check = BundleCheck("x.bundle")
        check.write(memoryview(beginning[:16]))
        with pytest.raises(SetDamaged, match="is no bundle"):
            check.write(memoryview(b"x" * (100 << 10)))


def test_small_member_that_is_not_small_is_damaged() -> None:
    kept = Kept("x.toml", longest=10)
    kept.write(memoryview(b"x" * 10))
    with pytest.raises(SetDamaged, match=r"x\.toml is longer than 10 bytes"):
        kept.write(memoryview(b"x"))


def test_refs_are_what_git_lists_in_whatever_order_they_come(tmp_path: Path) -> None:
    script = """
    git init -q -b main r && cd r
    git -c user.name=t -c user.email=t@example.com commit -q --allow-empty -m one
    for name in a-b a/b a.b Z; do git branch $name; done
    git for-each-ref --format='%(objectname) %(refname)' >../listed
    git show-ref --head >../refs
    git bundle create -q ../b --all
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    listed, refs = (tmp_path / "listed").read_bytes(), (tmp_path / "refs").read_bytes()
    found = RefSet.of(refs)
    assert found == RefSet.of(_judge((tmp_path / "b").read_bytes()).heads)
    assert (found.count, found.digest) == (5, hashlib.sha256(listed).hexdigest())
    assert found.head == refs[:40]
    assert RefSet.of(b"") == NO_REFS
    assert NO_REFS.digest == hashlib.sha256(b"").hexdigest()


@pytest.mark.parametrize("chunk", [1, 7, 41, 1000])
def test_list_of_refs_is_read_in_chunks_of_any_size(chunk: int) -> None:
    content = b"".join(b"%040x refs/heads/%d\n" % (number, number) for number in range(100)) + b"1" * 64 + b" x\n"
    check = RefsCheck("x.refs")
    for start in range(0, len(content), chunk):
        check.write(memoryview(content)[start : start + chunk])
    check.close()
    assert check.refs == content


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"\n", 1),
        (b"1" * 40 + b" refs/heads/main", 1),
        (b"1" * 40 + b" a\n" + b"1" * 39 + b" b\n", 2),
        (b"1" * 40 + b" a\n\n", 2),
        (b"X" * 40 + b" a\n", 1),
    ],
)
def test_list_of_refs_that_is_none_is_damaged(content: bytes, line: int) -> None:
    check = RefsCheck("x.refs")
    check.write(memoryview(content))
    with pytest.raises(SetDamaged, match=rf"x\.refs .*line {line} "):
        check.close()


@pytest.mark.parametrize(
    ("heads", "refs", "is_increment", "expected"),
    [
        ("ab", "ab", False, "same"),
        ("ba", "ab", False, "same"),
        ("", "", False, "same"),
        ("abc", "ab", False, "moved"),
        ("ac", "ab", False, "moved"),
        ("ac", "abd", False, "foreign"),
        ("c", "ab", False, "foreign"),
        ("", "ab", False, "foreign"),
        ("b", "ab", True, "same"),
        ("bc", "ab", True, "moved"),
        ("c", "ab", True, "foreign"),
    ],
)
def test_bundle_agrees_with_its_list_wholly_mostly_or_not(
    heads: str, refs: str, is_increment: bool, expected: str
) -> None:
    lines = [b"".join(b"%c\n" % name for name in text.encode()) for text in (heads, refs)]
    assert agree(lines[0], lines[1], is_increment=is_increment) == expected
