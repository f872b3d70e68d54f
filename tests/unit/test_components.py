"""Tarballs are counted as they pass, and one that breaks off is damaged."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from pathlib import Path

import pytest

from drtool.errors import SetDamaged
from drtool.gitlab.components import TarCount


def _count(content: bytes, *, chunk: int = 1 << 16) -> tuple[int, int]:
    found = TarCount("lfs.tar.gz")
    for at in range(0, len(content), chunk):
        found.write(memoryview(content)[at : at + chunk])
    found.close()
    return found.files, found.size


def _archive(form: int) -> bytes:
    buffer, dice = io.BytesIO(), random.Random(1)
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number in range(40):
            long = "x" * dice.choice([0, 0, 90, 200])
            entry = tarfile.TarInfo(
                f"./directory/{long}/{number} ü.bin" if form != tarfile.USTAR_FORMAT else f"{number}"
            )
            entry.size = dice.choice([0, 1, 511, 512, 513, 5000])
            entry.mtime = 1.5 if form == tarfile.PAX_FORMAT else 1  # a pax record
            tar.addfile(entry, io.BytesIO(dice.randbytes(entry.size)))
        directory = tarfile.TarInfo("./directory")
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = (
            tarfile.SYMTYPE,
            "/somewhere/else/" + "y" * (150 if form != tarfile.USTAR_FORMAT else 1),
        )
        tar.addfile(link)
    return buffer.getvalue()


FORMS = (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [1, 100, 511, 512, 513, 1 << 20])
def test_a_tar_of_every_format_is_counted_in_chunks_of_any_size(form: int, chunk: int) -> None:
    content = _archive(form)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        files = [member for member in tar if not member.isdir()]
    assert _count(content, chunk=chunk) == (len(files), sum(member.size for member in files)) != (0, 0)


def test_what_gnu_tar_writes_is_counted(tmp_path: Path) -> None:
    """Symbolic links may lead anywhere: nobody unpacks this here."""
    script = """
    mkdir -p d/sub && cd d
    echo hello >a; ln a b; ln -s /etc/passwd c; ln -s ../../.. e; head -c 3000 /dev/zero >sub/zero
    tar -cf ../t .
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    assert _count((tmp_path / "t").read_bytes()) == (5, 6 + 3000)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_sizes_beyond_eight_gigabytes_are_understood(form: str) -> None:
    entry = tarfile.TarInfo("huge")
    entry.size = 9 << 30
    header = entry.tobuf(format=tarfile.GNU_FORMAT if form == "gnu" else tarfile.PAX_FORMAT)
    found = TarCount("lfs.tar.gz")
    found.write(memoryview(header))
    zeros = memoryview(bytes(1 << 20))
    for _ in range(9 << 10):
        found.write(zeros)
    found.write(memoryview(bytes(1024)))
    found.close()
    assert (found.files, found.size) == (1, 9 << 30)


@pytest.mark.parametrize("form", FORMS)
def test_a_tar_cut_anywhere_is_damaged(form: int) -> None:
    content = _archive(form)
    whole = len(content.rstrip(b"\0")) // 512 * 512 + 512 + 1024  # the end mark; what follows it is filling
    for size in random.Random(2).sample(range(whole), 300):
        with pytest.raises(SetDamaged, match=r"lfs\.tar\.gz is cut off"):
            _count(content[:size])
    assert _count(content[:whole]) == _count(content)


def test_a_changed_byte_in_any_header_is_damaged() -> None:
    content = bytearray(_archive(tarfile.USTAR_FORMAT))
    for place in set(range(512)) - {154, 155}:  # what ends the checksum's digits
        changed = bytearray(content)
        changed[place] ^= 0x41
        with pytest.raises(SetDamaged, match=r"lfs\.tar\.gz"):
            _count(bytes(changed))


def _header(flag: bytes = b"0", size: bytes = b"00000000000\0") -> bytes:
    """One header whose checksum is right, whatever else it says."""
    block = bytearray(tarfile.TarInfo("x").tobuf(format=tarfile.GNU_FORMAT)[:512])
    block[156:157], block[124:136], block[148:156] = flag, size, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_a_header_that_says_nonsense_is_damaged() -> None:
    end = bytes(1024)
    assert _count(_header() + end) == (1, 0)
    with pytest.raises(SetDamaged, match="a header has no size"):
        _count(_header(size=b"0000000000x\0") + end)
    with pytest.raises(SetDamaged, match="a pax header of 8589934591 bytes"):
        _count(_header(flag=b"x", size=b"77777777777\0") + end)


def test_anything_but_zeros_after_the_end_is_damaged() -> None:
    content = _archive(tarfile.GNU_FORMAT)
    with pytest.raises(SetDamaged, match="after its end mark"):
        _count(content + content)
    with pytest.raises(SetDamaged, match="end mark"):
        _count(b"")
