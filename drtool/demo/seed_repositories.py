"""Give the seeded instance real git repositories, one ``git fast-import`` each.

The same population always gives the same object ids: dates, names and contents are fixed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from drtool.demo.population import Population, Project, made_bytes
from drtool.demo.seed_files import lfs_objects
from drtool.errors import CommandFailed

_FIRST_COMMIT = 1_736_424_000  # 2025-01-09 12:00 UTC
_DAY = 86_400
_HOOK = "#!/bin/sh\n# refuses nothing; it is here because a backup must carry it\nexit 0\n"
# Settings of a repository that Gitaly 16 made; it is bare and has no template files.
_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"


@dataclass
class _Stream:
    """Writes the language of git-fast-import(1). Marks number the commits of the one history."""

    author: str
    parts: list[bytes] = field(default_factory=list)
    mark: int = 0

    def commit(self, ref: str, message: str, files: dict[str, bytes], *, parents: tuple[int, ...] = ()) -> int:
        """Add a commit to ``ref`` and return its mark."""
        self.mark += 1
        when = f"{self.author} {_FIRST_COMMIT + self.mark * _DAY} +0000"
        self._line(f"commit {ref}\nmark :{self.mark}\nauthor {when}\ncommitter {when}")
        self._data(message.encode())
        for keyword, parent in zip(("from", "merge"), parents, strict=False):
            self._line(f"{keyword} :{parent}")
        for path, content in files.items():
            self._line(f"M 100644 inline {path}")
            self._data(content)
        return self.mark

    def reset(self, ref: str, mark: int) -> None:
        """Let ``ref`` point at a commit; without annotation this is also a light tag."""
        self._line(f"reset {ref}\nfrom :{mark}\n")

    def tag(self, name: str, mark: int, message: str) -> None:
        self._line(f"tag {name}\nfrom :{mark}\ntagger {self.author} {_FIRST_COMMIT + mark * _DAY} +0000")
        self._data(message.encode())

    def ask(self, mark: int) -> None:
        """Have git print the id of a commit."""
        self._line(f"get-mark :{mark}")

    def _line(self, text: str) -> None:
        self.parts.append(text.encode() + b"\n")

    def _data(self, content: bytes) -> None:
        self.parts.append(b"data %d\n%s\n" % (len(content), content))


def seed_repositories(path_of: Callable[[str], Path], population: Population) -> None:
    """Create every repository of the population. CommandFailed when git refuses something."""
    streams = dict(_streams(population))
    # Most of the time is spent in starting git; more threads than a small host has cores gain nothing.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for created in [pool.submit(_create, path_of(path), stream) for path, stream in streams.items()]:
            created.result()
    for project in population.projects:
        if project.has_hooks:
            hook = path_of(project.disk_path + ".git") / "custom_hooks" / "pre-receive"
            hook.parent.mkdir()
            hook.write_text(_HOOK)
            hook.chmod(0o755)


def _streams(population: Population) -> Iterator[tuple[str, _Stream | None]]:
    """Yield every repository's path with its history; None for one without."""
    for project in population.projects:
        author = population.users[project.id % len(population.users)]
        signature = f"{author.name} <{author.email}>"
        yield f"{project.disk_path}.git", None if project.is_empty else _source_history(project, signature)
        if project.has_wiki:
            yield f"{project.disk_path}.wiki.git", _wiki_history(project, signature)
        if project.has_designs:
            yield f"{project.disk_path}.design.git", _design_history(signature)
    for snippet in population.snippets:
        stream = _Stream("Administrator <root@example.com>")
        stream.commit("refs/heads/main", snippet.title, {"snippetfile1.txt": f"{snippet.title}\n".encode()})
        yield f"{snippet.disk_path}.git", stream


def _source_history(project: Project, author: str) -> _Stream:
    """Tell a small life: work on main, a release, a merged and an open branch, a branch deleted after its merge."""
    stream = _Stream(author)
    main = "refs/heads/main"
    tip = stream.commit(main, "Begin", {"README.md": f"# {project.name}\n".encode(), ".gitignore": b"*.log\n"})
    for step in range(1, 3 + project.id % 5):
        source = f"def step_{step}():\n    return {project.id * step}\n".encode()
        tip = stream.commit(main, f"Add step {step}\n\nBecause {project.name} needs it.\n", {f"src/s{step}.py": source})
    stream.tag("v1.0.0", tip, f"{project.name} 1.0.0\n")
    stream.reset("refs/tags/nightly", tip)
    topic = stream.commit("refs/heads/topic/größe", "Measure twice", {"src/größe.txt": b"2\n"}, parents=(tip,))
    merged = stream.commit(main, "Merge branch 'topic/größe'", {"src/größe.txt": b"2\n"}, parents=(tip, topic))
    review = stream.commit("refs/merge-requests/1/head", "Draw the chart", _picture(project), parents=(merged,))
    stream.reset("refs/heads/chart", review)
    # GitLab keeps what a review looked at alive through a ref that is named after the commit.
    stream.ask(review)
    return stream


def _picture(project: Project) -> dict[str, bytes]:
    """Make a file that does not compress; in the first project also one that lives in LFS, with its pointer in git."""
    files = {"docs/chart.bin": made_bytes(f"picture/{project.id}", 6000 + 500 * (project.id % 7))}
    if project.id == 1:
        plan = lfs_objects()[0]
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{plan.sha256}\nsize {len(plan.content)}\n"
        files["docs/plan.psd"] = pointer.encode()
        files[".gitattributes"] = b"*.psd filter=lfs diff=lfs merge=lfs -text\n"
    return files


def _wiki_history(project: Project, author: str) -> _Stream:
    stream = _Stream(author)
    stream.commit("refs/heads/main", "Create home", {"home.md": f"Welcome to {project.name}\n".encode()})
    stream.commit("refs/heads/main", "Create setup/first steps", {"setup/first-steps.md": b"1. read\n2. try\n"})
    return stream


def _design_history(author: str) -> _Stream:
    stream = _Stream(author)
    stream.commit("refs/heads/main", "Create homescreen.png", {"designs/issue-1/homescreen.png": b"\x89PNG\r\n\x1a\n"})
    return stream


def _create(path: Path, stream: _Stream | None) -> None:
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        (path / name).mkdir(parents=True)
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    (path / "config").write_text(_CONFIG)
    if stream is None:
        return
    # A small import is unpacked into loose objects by default; a pack is one file instead of dozens.
    command = ("git", "-c", "fastimport.unpackLimit=1", "-C", str(path), "fast-import", "--quiet", "--done")
    imported = subprocess.run(command, input=b"".join([*stream.parts, b"done\n"]), capture_output=True, check=False)
    if imported.returncode != 0:
        message = imported.stderr.decode(errors="replace")
        raise CommandFailed(f"git fast-import into {path}: {message}", status=imported.returncode, stderr=message)
    for object_id in imported.stdout.decode().split():
        keep = path / "refs/keep-around" / object_id
        keep.parent.mkdir(exist_ok=True)
        keep.write_text(f"{object_id}\n")
