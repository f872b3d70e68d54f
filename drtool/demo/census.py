"""Count and digest everything an instance holds, tell two of them apart, and try its secrets on its database."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from drtool.demo import ciphers
from drtool.demo.ciphers import CannotDecrypt, Columns, Keys
from drtool.demo.layout import Instance

# What GitLab 18.9 leaves out of a component's archive, directly below the component; lost+found at any depth.
_NEVER_IN_A_BACKUP = "lost+found"


@dataclass(frozen=True, slots=True)
class Rows:
    """A table: how many rows, and the MD5 of their sorted texts."""

    count: int
    digest: str

    def __str__(self) -> str:
        return f"{self.count} rows, digest {self.digest[:8]}"


@dataclass(frozen=True, slots=True)
class Repository:
    """``head`` as in its file; ``hooks`` is empty without custom hooks; ``sound`` is what git fsck says."""

    head: str
    refs: int
    digest: str
    hooks: str
    sound: bool

    def __str__(self) -> str:
        hooks = f", hooks {self.hooks[:8]}" if self.hooks else ""
        return f"{self.refs} refs, digest {self.digest[:8]}, HEAD {self.head}{hooks}{'' if self.sound else ', broken'}"


@dataclass(frozen=True, slots=True)
class Files:
    """A directory of files, without what a backup leaves out; the digest is over paths and contents."""

    count: int
    size: int
    digest: str

    def __str__(self) -> str:
        return f"{self.count} files, {self.size} bytes, digest {self.digest[:8]}"


@dataclass(frozen=True, slots=True)
class Census:
    """What an instance contains, by names like ``public.users``, ``default/@hashed/….git`` and ``uploads``.

    ``definitions`` holds a digest per table, index, constraint, trigger, …; ``secrets`` one per ``section.key``.
    """

    tables: Mapping[str, Rows]
    sequences: Mapping[str, str]
    definitions: Mapping[str, str]
    repositories: Mapping[str, Repository]
    components: Mapping[str, Files]
    secrets: Mapping[str, str]


def take_census(instance: Instance) -> Census:
    """Look at everything a backup must carry. It must run, and be at rest: nothing is locked meanwhile."""
    records = [line.split("|") for line in instance.sql(_read("census.sql")).splitlines()]
    return Census(
        tables={name: Rows(int(count), digest) for kind, name, count, digest in records if kind == "table"},
        sequences={name: value for kind, name, value, _ in records if kind == "sequence"},
        definitions={name: digest for kind, name, _, digest in records if kind == "definition"},
        repositories=_repositories(instance),
        components={
            name: _files(directory, excluded) for name, (directory, excluded) in component_directories(instance).items()
        },
        secrets=_secrets(instance.gitlab_secrets),
    )


def difference(first: Census, second: Census) -> list[str]:
    """Name everything in which the second differs from the first, one sentence each; nothing when they are equal."""
    sentences: list[str] = []
    sentences += _compare("table", first.tables, second.tables)
    sentences += _compare("sequence", first.sequences, second.sequences)
    sentences += _compare("definition of", first.definitions, second.definitions)
    sentences += _compare("repository", first.repositories, second.repositories)
    sentences += _compare("component", first.components, second.components)
    sentences += _compare("secret", first.secrets, second.secrets)
    return sentences


def doctor(instance: Instance) -> tuple[int, int]:
    """Decrypt every encrypted value of the database with the current secrets: how many opened, how many did not.

    What ``gitlab-rake gitlab:doctor:secrets`` does, but counting values. Empty values count neither way.
    """
    keys = Keys.of(json.loads(instance.gitlab_secrets.read_text(encoding="utf-8")))
    values = [json.loads(line) for line in instance.sql(_read("doctor.sql")).splitlines()]
    opened = sum(_opens(value, keys) for value in values)
    return opened, len(values) - opened


def component_directories(instance: Instance) -> dict[str, tuple[Path, Sequence[str]]]:
    """Map each file component of a backup to its directory and to the entries that GitLab leaves out of it."""
    shared = instance.shared
    return {
        "uploads": (instance.uploads, ("tmp",)),
        "builds": (instance.builds, ()),
        "artifacts": (shared / "artifacts", ("tmp",)),
        "pages": (shared / "pages", ("@pages.tmp",)),
        "lfs": (shared / "lfs-objects", ()),
        "terraform_state": (shared / "terraform_state", ()),
        "registry": (shared / "registry", ()),
        "packages": (shared / "packages", ("tmp",)),
        "ci_secure_files": (shared / "ci_secure_files", ("tmp",)),
        "external_diffs": (shared / "external-diffs", ()),
    }


def _compare(kind: str, first: Mapping[str, object], second: Mapping[str, object]) -> Iterator[str]:
    for name in sorted(first.keys() | second.keys()):
        if name not in second:
            yield f"{kind} {name} is missing"
        elif name not in first:
            yield f"{kind} {name} is new"
        elif first[name] != second[name]:
            yield f"{kind} {name} differs: {first[name]}; then {second[name]}"


def _opens(value: Mapping[str, Any], keys: Keys) -> bool:
    """Say whether any of the keys opens a value as doctor.sql describes it."""
    attempts: Iterable[Callable[[], bytes]]
    match value["kind"]:
        case "token":
            attempts = [partial(ciphers.decrypt_token, value["value"], base) for base in keys.db_key_bases]
        case "attribute" if value["iv"] is None:
            attempts = ()
        case "attribute":
            columns = Columns(_cell(value["value"]), _cell(value["iv"]), value["salt"])
            bases = (keys.otp_key_base,) if value["name"].endswith("otp_secret") else keys.db_key_bases
            attempts = [partial(ciphers.decrypt_columns, columns, base) for base in bases]
        case _:
            attempts = (partial(ciphers.decrypt_rails, value["value"], key) for key in _rails_keys(keys))
    return any(_succeeds(attempt) for attempt in attempts)


def _rails_keys(keys: Keys) -> Iterator[bytes]:
    """Derive the keys one by one, the likely one first: each costs time. GitLab falls back to SHA-1 as well."""
    digests: tuple[ciphers.Digest, ...] = ("sha256", "sha1")
    for digest in digests:
        for secret in (*keys.rails_primary_keys, *keys.rails_deterministic_keys):
            yield ciphers.rails_key(secret, keys.rails_salt, digest)


def _succeeds(attempt: Callable[[], bytes]) -> bool:
    try:
        attempt()
    except CannotDecrypt:
        return False
    return True


def _cell(text: str) -> str | bytes:
    """Take the bytes of a bytea column, which JSON shows in hex; base64 never begins with a backslash."""
    return bytes.fromhex(text.removeprefix("\\x")) if text.startswith("\\x") else text


def _repositories(instance: Instance) -> dict[str, Repository]:
    paths = sorted(_find_repositories(instance.repositories))
    with ThreadPoolExecutor(max_workers=2) as pool:
        found = pool.map(_repository, paths)
        return {
            f"default/{path.relative_to(instance.repositories)}": one for path, one in zip(paths, found, strict=True)
        }


def _find_repositories(storage: Path) -> Iterator[Path]:
    for directory, names, _ in os.walk(storage):
        yield from (Path(directory, name) for name in names if name.endswith(".git"))
        # Gitaly keeps a directory per repository below +gitaly/state, named alike.
        names[:] = [name for name in names if not name.endswith(".git") and name != "+gitaly"]


def _repository(path: Path) -> Repository:
    refs = sorted(_git(path, "for-each-ref", "--format=%(objectname) %(refname)").stdout.splitlines())
    return Repository(
        head=(path / "HEAD").read_text().strip().removeprefix("ref: "),
        refs=len(refs),
        digest=hashlib.sha256(b"\n".join(refs)).hexdigest(),
        hooks=_hooks(path / "custom_hooks"),
        sound=_git(path, "fsck", "--full", "--no-dangling").returncode == 0,
    )


def _git(path: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    # The repositories may belong to the git user while root counts them.
    command = ("git", "-c", "safe.directory=*", "-C", str(path), *arguments)
    return subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL)


def _hooks(directory: Path) -> str:
    if not directory.is_dir():
        return ""
    found = sorted(path for path in directory.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for path in found:
        executable = b"x" if path.stat().st_mode & 0o100 else b"-"
        digest.update(os.fsencode(path.relative_to(directory)) + b"\0" + executable + _content_digest(path))
    return digest.hexdigest() if found else ""


def _files(directory: Path, excluded: Sequence[str]) -> Files:
    count, size, digest = 0, 0, hashlib.sha256()
    for path in sorted(_find_files(directory, excluded), key=os.fsencode):
        digest.update(os.fsencode(path.relative_to(directory)) + b"\0" + _content_digest(path))
        count += 1
        size += path.lstat().st_size
    return Files(count, size, digest.hexdigest())


def _find_files(directory: Path, excluded: Sequence[str]) -> Iterator[Path]:
    for parent, names, files in os.walk(directory):
        left_out = {_NEVER_IN_A_BACKUP, *(excluded if Path(parent) == directory else ())}
        links = [name for name in names if Path(parent, name).is_symlink()]
        yield from (Path(parent, name) for name in (*files, *links) if name not in left_out)
        names[:] = [name for name in names if name not in left_out]


def _content_digest(path: Path) -> bytes:
    if path.is_symlink():
        return hashlib.sha256(b"link to " + os.fsencode(path.readlink())).digest()
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").digest()


def _secrets(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    sections: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {
        f"{section}.{key}": hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
        for section, keys in sections.items()
        for key, value in (keys or {}).items()
    }


def _read(name: str) -> str:
    return resources.files("drtool.demo").joinpath(name).read_text(encoding="utf-8")
