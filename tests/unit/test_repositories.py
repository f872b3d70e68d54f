"""Bundles are judged by what they say about themselves, without unpacking them."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from drtool.errors import SetDamaged
from drtool.gitlab.repositories import BundleCheck
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
    assert {_judge(content).refs for content in bundles.values()} == {6}


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
    [b"", b"\n", b"# v2 git bundle\n\n", b"# v4 git bundle\n\nPACK", b"x" * 100_000, b"# v2 git bundle\n\nJUNK"],
)
def test_what_is_no_bundle_is_damaged(content: bytes) -> None:
    with pytest.raises(SetDamaged):
        _judge(content)
