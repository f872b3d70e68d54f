"""drtool's dependencies for the Python of the hosts: fetched by this machine's pip, which knows where from.

The versions are those that are installed here. pip unpacks them for a Python that is not its own, so the hosts need no
compiler, no pip and no index.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_PYTHON = "3.13"  # of Debian 13
#: Has to be compiled and has no wheel; Debian has it.
_FROM_DEBIAN = ("crcmod",)
_GLIBC = (17, 24, 26, 27, 28, 31, 34)


def describe() -> bytes:
    """Say what will be packed."""
    return "\n".join([_PYTHON, platform.machine(), *_pins()]).encode()


def pack(context: tarfile.TarFile) -> None:
    """Add ``python.tar``, a directory of packages. Raises RuntimeError with what pip said."""
    with tempfile.TemporaryDirectory() as folder:
        tree, wheels = Path(folder, "tree"), Path(folder, "wheels")
        wheels.mkdir()
        _build_pure(wheels)
        _pip(
            *("install", "--target", str(tree), "--no-deps", "--no-compile", "--find-links", str(wheels)),
            *("--only-binary", ":all:", "--implementation", "cp", "--python-version", _PYTHON),
            *(word for name in _platforms() for word in ("--platform", name)),
            *_pins(),
        )
        shutil.rmtree(tree / "bin", ignore_errors=True)
        with tarfile.open(Path(folder, "python.tar"), "w") as packed:
            packed.add(tree, ".", filter=_as_root)
        context.add(Path(folder, "python.tar"), "python.tar", filter=_as_root)


def _build_pure(directory: Path) -> None:
    """Build what comes as source alone; kept by pip's own cache."""
    _pip("wheel", "--no-deps", "--wheel-dir", str(directory), *(pin for pin in _pins() if pin.startswith("oss2==")))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"pip {arguments[0]}: {result.stderr[-2000:]}")


def _platforms() -> list[str]:
    machine = platform.machine()
    return [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [f"manylinux2014_{machine}", "any"]


def _pins() -> list[str]:
    """drtool's requirements and all of theirs, in the versions that are installed here."""
    found: dict[str, str] = {}
    wanted = [Requirement(line) for line in requires("drtool") or ()]
    environment = {"python_version": _PYTHON, "python_full_version": f"{_PYTHON}.0", "extra": ""}
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        if name in found or name in _FROM_DEBIAN or (one.marker and not one.marker.evaluate(environment)):
            continue
        try:
            found[name] = f"{name}=={version(name)}"
        except PackageNotFoundError:  # needed by that Python and not by ours
            found[name] = str(Requirement(f"{one.name}{one.specifier}"))
            continue
        wanted += [Requirement(line) for line in requires(name) or ()]
    return sorted(found.values())


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = "root"
    member.mode |= 0o555 if member.isdir() else 0o444
    return member
