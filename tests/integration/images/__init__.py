"""Images for the tests, each made from a directory here: a Dockerfile and what it copies.

A tag carries a hash of the recipe and of what it builds on, so a changed recipe is built and an unchanged one is not.
Nothing is pulled but debian:trixie-slim; where that cannot be had, mmdebstrap makes one from the machine's own mirror.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from docker.errors import APIError, BuildError, DockerException, ImageNotFound

from tests.integration.images import saved, wheels

HERE = Path(__file__).parent
_PROJECT = Path(__file__).parents[3]
#: What each image builds on. Its Dockerfile gets the tag as the argument of that name, in capitals.
PARENTS: dict[str, tuple[str, ...]] = {
    "base": (),
    "rgw": ("base",),
    "packages": ("base",),
    "gitaly": ("base",),
    "host": ("base",),
    "gitlab": ("host", "gitaly"),
}
#: What of the project an image contains, besides its own directory.
_SOURCES: dict[str, tuple[str, ...]] = {"gitlab": ("drtool/__init__.py", "drtool/demo")}
#: Who packs something into the context that is fetched from elsewhere, and what it says it will be.
_FETCHED: dict[str, tuple[Callable[[], bytes], Callable[[tarfile.TarFile], None]]] = {
    "host": (wheels.describe, wheels.pack)
}
#: Images that take minutes to build and are small: also kept as files, for the next engine.
_SAVED = ("gitaly",)
SUITE = "trixie"


def find(client: Any, name: str) -> str | None:
    """Return the tag of an image; None when it has to be built."""
    tag = tag_of(name)
    try:
        client.images.get(tag)
    except ImageNotFound:
        return None
    return tag


def find_or_build(client: Any, name: str) -> str:
    """Return the tag of an image. Only one process at a time may call it. Raises RuntimeError with what went wrong."""
    if found := find(client, name):
        return found
    tag = tag_of(name)
    if name not in _SAVED or not saved.load(client, tag):
        _build(client, name, tag)
        if name in _SAVED:
            saved.save(client, tag)
    return tag


def tag_of(name: str) -> str:
    digest = hashlib.sha256()
    for written, path in _files(name).items():
        content = path.read_bytes()
        digest.update(f"{name}/{written} {path.stat().st_mode & 0o111} {len(content)}\n".encode() + content)
    if name in _FETCHED:
        digest.update(_FETCHED[name][0]())
    for parent in PARENTS[name]:
        digest.update(tag_of(parent).encode())
    return f"drtool-tests/{name}:{digest.hexdigest()[:16]}"


def _files(name: str) -> Mapping[str, Path]:
    """What goes into the context of an image, by the names there, in order."""
    own = {str(path.relative_to(HERE / name)): path for path in _below(HERE / name)}
    roots = [_PROJECT / source for source in _SOURCES.get(name, ())]
    ours = {str(path.relative_to(_PROJECT)): path for root in roots for path in _below(root)}
    return dict(sorted({**own, **ours}.items()))


def _below(path: Path) -> Iterator[Path]:
    found = [path] if path.is_file() else path.rglob("*")
    return (each for each in found if each.is_file() and each.suffix != ".pyc")


def _build(client: Any, name: str, tag: str) -> None:
    arguments = {parent.upper(): find_or_build(client, parent) for parent in PARENTS[name]}
    if name == "base":
        arguments = {"DEBIAN": _debian(client), "MIRROR": _mirror()}
    with tempfile.TemporaryFile() as context:
        _write_context(name, context)
        context.seek(0)
        try:
            client.images.build(
                fileobj=context, custom_context=True, tag=tag, buildargs=arguments, rm=True, forcerm=True
            )
        except BuildError as error:
            said = "".join(line.get("stream", "") for line in error.build_log)
            raise RuntimeError(f"{name}: {error}\n{said[-3000:]}") from error
    # Stages that are not shipped can be large.
    client.images.prune(filters={"dangling": True, "label": f"drtool-tests.stage={name}"})


def _write_context(name: str, target: IO[bytes]) -> None:
    with tarfile.open(fileobj=target, mode="w") as context:
        for written, path in _files(name).items():
            member = tarfile.TarInfo(written)
            # Not the checkout's modes: its umask is not the host's. No times: the engine caches by content.
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            content = path.read_bytes()
            member.size = len(content)
            context.addfile(member, io.BytesIO(content))
        if name in _FETCHED:
            _FETCHED[name][1](context)


def _debian(client: Any) -> str:
    """Return the tag of a bare Debian: pulled, or made here."""
    try:
        client.images.pull("debian", f"{SUITE}-slim")
    except DockerException as refusal:
        return _bootstrap(client, refusal)
    return f"debian:{SUITE}-slim"


def _bootstrap(client: Any, refusal: DockerException) -> str:
    if shutil.which("mmdebstrap") is None:
        raise RuntimeError(f"debian:{SUITE}-slim cannot be pulled, and mmdebstrap is not installed") from refusal
    with tempfile.TemporaryFile() as rootfs:
        command = ["sh", str(HERE / "base/bootstrap"), SUITE, _mirror()]
        made = subprocess.run(command, stdout=rootfs, stderr=subprocess.PIPE, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"mmdebstrap failed:\n{made.stderr.decode(errors='replace')[-3000:]}") from refusal
        rootfs.seek(0)
        chunks = iter(lambda: rootfs.read(1 << 20), b"")  # a file would be sent with a length, and in chunks as well
        try:
            client.api.import_image_from_stream(chunks, repository="drtool-tests/debian", tag=SUITE)
        except APIError as error:
            raise RuntimeError(f"the bootstrapped {SUITE} cannot be imported: {error}") from error
    return f"drtool-tests/debian:{SUITE}"


def _mirror() -> str:
    """The Debian mirror that this machine uses; empty on other systems, which leaves what Debian's own image says."""
    if shutil.which("apt-get") is None:
        return ""
    wanted = ["Created-By: Packages", "Origin: Debian", "Label: Debian"]
    found = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted], capture_output=True, text=True, check=False
    )
    return next(iter(found.stdout.split()), "")
