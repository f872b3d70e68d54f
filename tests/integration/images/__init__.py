"""Images for the tests, each made from a directory here: a Dockerfile and what it copies.

A tag carries a hash of the recipe and of what it builds on, so a changed recipe is built and an unchanged one is not.
Nothing is pulled but debian:trixie-slim; where that cannot be had, mmdebstrap makes one from the machine's own mirror.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from docker.errors import APIError, BuildError, DockerException, ImageNotFound

HERE = Path(__file__).parent
#: What each image builds on. Its Dockerfile gets the tag as the argument of that name, in capitals.
PARENTS: dict[str, tuple[str, ...]] = {"base": (), "rgw": ("base",), "packages": ("base",)}
SUITE = "trixie"


def find_or_build(client: Any, name: str) -> str:
    """Return the tag of an image. Only one process at a time may call it. Raises RuntimeError with what went wrong."""
    tag = tag_of(name)
    try:
        client.images.get(tag)
    except ImageNotFound:
        _build(client, name, tag)
    return tag


def tag_of(name: str) -> str:
    digest = hashlib.sha256()
    for path in sorted((HERE / name).rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.relative_to(HERE)} {path.stat().st_mode & 0o111} {len(content)}\n".encode() + content)
    for parent in PARENTS[name]:
        digest.update(tag_of(parent).encode())
    return f"drtool-tests/{name}:{digest.hexdigest()[:16]}"


def _build(client: Any, name: str, tag: str) -> None:
    arguments = {parent.upper(): find_or_build(client, parent) for parent in PARENTS[name]}
    if name == "base":
        arguments = {"DEBIAN": _debian(client), "MIRROR": _mirror()}
    try:
        client.images.build(path=str(HERE / name), tag=tag, buildargs=arguments, rm=True, forcerm=True)
    except BuildError as error:
        said = "".join(line.get("stream", "") for line in error.build_log)
        raise RuntimeError(f"{name}: {error}\n{said[-3000:]}") from error


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
