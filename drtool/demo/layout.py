"""Where things are on an Omnibus host, and a fresh installation of the stand-in there. Standard library only.

``python3 -m drtool.demo.layout ROOT VERSION`` lays out a host with real services; see tests/integration/images.
"""

from __future__ import annotations

import compileall
import json
import os
import secrets
import shutil
import stat
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from drtool.demo.standin import secret_file
from drtool.demo.standin.settings import DEFAULTS
from drtool.demo.standin.switches import SWITCHES

Switch = bool | int | float | str | None

COMMANDS = ("gitlab-backup", "gitlab-rake", "gitlab-ctl", "gitlab-psql", "gitlab-healthcheck")

_DIRECTORIES = {
    "etc/gitlab": 0o775,
    "etc/gitlab/ssl": 0o700,
    "etc/gitlab/trusted-certs": 0o755,
    "etc/ssh": 0o755,
    "opt/gitlab/bin": 0o755,
    "opt/gitlab/etc": 0o755,
    "opt/gitlab/embedded/bin": 0o755,
    "opt/gitlab/embedded/service/gitlab-rails/tmp": 0o755,
    "opt/gitlab/service": 0o755,
    "var/opt/gitlab/backups": 0o700,
    "var/opt/gitlab/.ssh": 0o700,
    "var/opt/gitlab/git-data": 0o2770,
    "var/opt/gitlab/git-data/repositories": 0o2770,
    "var/opt/gitlab/gitlab-ci/builds": 0o755,
    "var/opt/gitlab/gitlab-rails/uploads": 0o700,
    "var/opt/gitlab/gitlab-rails/shared": 0o751,
    **{
        f"var/opt/gitlab/gitlab-rails/shared/{name}": 0o700
        for name in (
            "artifacts",
            "ci_secure_files",
            "encrypted_settings",
            "external-diffs",
            "lfs-objects",
            "packages",
            "pages",
            "registry",
            "terraform_state",
        )
    },
    "var/log/gitlab/gitlab-rails": 0o700,
    "var/log/gitlab/postgresql": 0o700,
}
_GITLAB_RB = """\
# A sandbox of drtool; nothing here is read by a real GitLab.
external_url 'https://gitlab.example.com'
gitlab_rails['time_zone'] = 'UTC'
gitlab_rails['backup_keep_time'] = 0
"""
_WRAPPER = """\
#!/bin/sh
root=$(cd "$(dirname "$(readlink -f "$0")")/{depth}" && pwd -P)
exec {python} -I -S "$root/opt/gitlab/embedded/standin" {command} "$@"
"""


class Tree:
    """The paths of one installation."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.etc_gitlab = self.root / "etc/gitlab"
        self.gitlab_rb = self.etc_gitlab / "gitlab.rb"
        self.gitlab_secrets = self.etc_gitlab / "gitlab-secrets.json"
        self.etc_ssh = self.root / "etc/ssh"
        self.bin = self.root / "opt/gitlab/bin"
        self.rails = self.root / "opt/gitlab/embedded/service/gitlab-rails"
        self.settings = self.root / "opt/gitlab/etc/standin.json"
        self.data = self.root / "var/opt/gitlab"
        self.backups = self.data / "backups"
        self.lock = self.rails / "tmp/backup_restore.pid"
        self.uploads = self.data / "gitlab-rails/uploads"
        self.shared = self.data / "gitlab-rails/shared"
        self.builds = self.data / "gitlab-ci/builds"
        self.repositories = self.data / "git-data/repositories"
        self.authorized_keys = self.data / ".ssh/authorized_keys"
        self.log = self.root / "var/log/gitlab"

    @property
    def version(self) -> str:
        return (self.rails / "VERSION").read_text().strip()

    def set_version(self, version: str) -> None:
        """Install another GitLab version, as a package upgrade would, with nothing migrated."""
        (self.rails / "VERSION").write_text(version + "\n")
        package = "gitlab-ee" if version.endswith("-ee") else "gitlab-ce"
        (self.root / "opt/gitlab/version-manifest.txt").write_text(f"{package} {version.removesuffix('-ee')}\n")

    def repository_path(self, relative_path: str, *, storage: str = "default") -> Path:
        """Where a repository is: ``@hashed/6b/86/….git`` below its storage."""
        return self.root / str(self.read_settings()["storages"][storage]) / relative_path

    def configure(self, **settings: object) -> None:
        """Change settings of the stand-in: ``registry=True``, ``keep_time=604800``, …; see standin/settings.py."""
        content = self.read_settings()
        unknown = settings.keys() - content.keys()
        if unknown:
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
        self.write_settings({**content, **settings})

    def switch(self, **switches: Switch) -> None:
        """Turn failures on; None or False turns one off. Their names and values: standin/switches.py."""
        unknown = switches.keys() - SWITCHES.keys()
        if unknown:
            raise ValueError(f"no such switch: {', '.join(sorted(unknown))}")
        content = self.read_settings()
        merged = {**content["switches"], **switches}
        content["switches"] = {name: value for name, value in merged.items() if value not in (None, False)}
        self.write_settings(content)

    def read_settings(self) -> dict[str, Any]:
        """The stand-in's settings; see standin/settings.py."""
        if not self.settings.exists():
            return dict(DEFAULTS)
        content: dict[str, Any] = json.loads(self.settings.read_text())
        return content

    def write_settings(self, content: dict[str, Any]) -> None:
        new = self.settings.with_suffix(".new")
        new.write_text(json.dumps(content, indent=2) + "\n")
        new.replace(self.settings)  # a running stand-in never reads half a file


class Instance(Tree, ABC):
    """One GitLab with its data: a sandbox, or a host with real services."""

    @abstractmethod
    def sql(self, text: str) -> str:
        """Run SQL as the role ``gitlab`` and return rows as ``a|b`` lines."""


def lay_out(tree: Tree, version: str, *, python: str = sys.executable, gitaly_backup: bool = True) -> None:
    """Make the directories, files and commands of a fresh installation; ``gitaly_backup`` is ours, too, if wanted."""
    for name, mode in _DIRECTORIES.items():
        directory = tree.root / name
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)
    # Omnibus keeps the writable part of the Rails tree below /var/opt/gitlab and links to it.
    writable = tree.data / "gitlab-rails/tmp"
    writable.mkdir()
    (tree.rails / "tmp").rmdir()
    (tree.rails / "tmp").symlink_to(os.path.relpath(writable, tree.rails))
    tree.set_version(version)
    (tree.data / "gitlab-rails/VERSION").write_text(version + "\n")
    (tree.rails / "REVISION").write_text(secrets.token_hex(6)[:11] + "\n")
    (tree.rails / "INSTALLATION_TYPE").write_text("omnibus-gitlab\n")
    (tree.root / "opt/gitlab/etc/gitlab-rails-rc").write_text("gitlab_user='git'\ngitlab_group='git'\n")
    _write_private(tree.gitlab_rb, _GITLAB_RB)
    secret_file.reconfigure(tree.gitlab_secrets)
    _install_stand_in(tree, python, gitaly_backup=gitaly_backup)


def install(root: Path, version: str) -> None:
    """Lay out a host whose PostgreSQL, Gitaly, Redis and runit are real and in the places of Omnibus."""
    tree = Tree(root)
    lay_out(tree, version, python="/usr/bin/python3", gitaly_backup=False)
    postgres = {
        "socket": "/var/opt/gitlab/postgresql",
        "port": 5432,
        "programs": "/opt/gitlab/embedded/bin",
        "data": "/var/opt/gitlab/postgresql/data",
        "start": [],
    }
    real = {
        "gitaly_address": "unix:/var/opt/gitlab/gitaly/gitaly.socket",
        "user": "git",
        "supervisor": "runit",
        "web": "http://localhost:80",
        "rails_secrets": "var/opt/gitlab/gitlab-rails/etc/secrets.json",
        "postgres_user": "gitlab-psql",
        "postgres": postgres,
    }
    tree.write_settings({**DEFAULTS, **real})
    secret_file.hand_over(tree.gitlab_secrets, tree.root / str(real["rails_secrets"]), str(real["user"]))


def _install_stand_in(tree: Tree, python: str, *, gitaly_backup: bool) -> None:
    source = Path(__file__).parent / "standin"
    target = tree.root / "opt/gitlab/embedded/standin"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(target, quiet=1)  # once here, and not again in each clone
    programs = [tree.bin / command for command in COMMANDS]
    if gitaly_backup:  # gitlab-rake starts whatever is here; the real program may replace ours
        programs.append(tree.root / "opt/gitlab/embedded/bin/gitaly-backup")
    for path in programs:
        depth = os.path.relpath(tree.root, path.parent)
        path.write_text(_WRAPPER.format(depth=depth, python=python, command=path.name))
        path.chmod(0o755)


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
    path.write_text(text)


if __name__ == "__main__":
    install(Path(sys.argv[1]), sys.argv[2])
