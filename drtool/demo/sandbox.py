"""A small GitLab in the shape of Omnibus below one directory, with a real PostgreSQL and real git repositories.

Its commands (``opt/gitlab/bin/gitlab-backup`` and friends) are the stand-in of ``drtool/demo/standin``, copied into the
sandbox. A new sandbox is what a package installation leaves: services up, secrets made, a database without tables.
"""

from __future__ import annotations

import compileall
import json
import os
import secrets
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from drtool.demo import postgres
from drtool.demo.standin import secret_file
from drtool.demo.standin.settings import DEFAULTS
from drtool.demo.standin.switches import SWITCHES
from drtool.errors import CommandFailed, HostUnfit

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


class Sandbox:
    """One sandbox. Use ``create``, ``open`` or ``clone``; as a context manager it stops on leaving."""

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
        self.postgres = postgres.Server(self.data / "postgresql", log=self.log / "postgresql/current")

    @classmethod
    def create(cls, root: Path, *, version: str = "18.9.0-ee") -> Sandbox:
        """Lay out a fresh installation of this GitLab version below ``root`` and start it.

        ``root`` is created, or must be empty. The database exists and has no tables.
        """
        if root.exists() and any(root.iterdir()):
            raise HostUnfit(f"{root} is not empty", hint="name a new directory for the sandbox")
        sandbox = cls(root)
        sandbox._lay_out(version)
        sandbox.postgres.create()
        sandbox._write_settings()
        return sandbox

    @classmethod
    def open(cls, root: Path) -> Sandbox:
        """Take up an existing sandbox, running or not."""
        sandbox = cls(root)
        if not sandbox.settings.is_file():
            raise HostUnfit(f"{root} holds no sandbox")
        return sandbox

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def version(self) -> str:
        return (self.rails / "VERSION").read_text().strip()

    def set_version(self, version: str) -> None:
        """Install another GitLab version, as a package upgrade would, with nothing migrated."""
        (self.rails / "VERSION").write_text(version + "\n")
        package = "gitlab-ee" if version.endswith("-ee") else "gitlab-ce"
        (self.root / "opt/gitlab/version-manifest.txt").write_text(f"{package} {version.removesuffix('-ee')}\n")

    def start(self) -> None:
        """Start PostgreSQL. May be called twice."""
        self.postgres.start()
        self._write_settings()

    def stop(self) -> None:
        """Stop every process of the sandbox; its files stay."""
        self.postgres.stop()

    def destroy(self) -> None:
        """Lose the host: stop everything and remove every file."""
        self.stop()
        shutil.rmtree(self.root)

    def clone(self, to: Path) -> Sandbox:
        """Copy this sandbox to ``to`` and start the copy. This one is stopped for the copying, then as before."""
        was_running = self.postgres.running
        self.stop()
        to.parent.mkdir(parents=True, exist_ok=True)
        copy = subprocess.run(
            ["cp", "-a", "--reflink=auto", "-T", str(self.root), str(to)], capture_output=True, text=True, check=False
        )
        if copy.returncode != 0:
            raise CommandFailed(f"cannot copy {self.root}: {copy.stderr}", status=copy.returncode, stderr=copy.stderr)
        if was_running:
            self.start()
        sandbox = Sandbox(to)
        sandbox.start()
        return sandbox

    def sql(self, text: str, *, superuser: bool = False) -> str:
        """Run SQL as the role ``gitlab`` (who owns the tables) and return rows as ``a|b`` lines."""
        return self.postgres.sql(text, role=postgres.SUPERUSER if superuser else postgres.ROLE)

    def repository_path(self, relative_path: str, *, storage: str = "default") -> Path:
        """Where a repository is: ``@hashed/6b/86/….git`` below its storage."""
        return self.root / str(self._settings()["storages"][storage]) / relative_path

    def configure(self, **settings: object) -> None:
        """Change settings of the stand-in: ``registry=True``, ``keep_time=604800``, …; see standin/settings.py."""
        content = self._settings()
        unknown = settings.keys() - content.keys()
        if unknown:
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
        self._save({**content, **settings})

    def switch(self, **switches: Switch) -> None:
        """Turn failures on; None or False turns one off. Their names and values: standin/switches.py."""
        unknown = switches.keys() - SWITCHES.keys()
        if unknown:
            raise ValueError(f"no such switch: {', '.join(sorted(unknown))}")
        content = self._settings()
        merged = {**content["switches"], **switches}
        content["switches"] = {name: value for name, value in merged.items() if value not in (None, False)}
        self._save(content)

    def _lay_out(self, version: str) -> None:
        for name, mode in _DIRECTORIES.items():
            directory = self.root / name
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(mode)
        # Omnibus keeps the writable part of the Rails tree below /var/opt/gitlab and links to it.
        writable = self.data / "gitlab-rails/tmp"
        writable.mkdir()
        (self.rails / "tmp").rmdir()
        (self.rails / "tmp").symlink_to(os.path.relpath(writable, self.rails))
        self.set_version(version)
        (self.data / "gitlab-rails/VERSION").write_text(version + "\n")
        (self.rails / "REVISION").write_text(secrets.token_hex(6)[:11] + "\n")
        (self.rails / "INSTALLATION_TYPE").write_text("omnibus-gitlab\n")
        (self.root / "opt/gitlab/etc/gitlab-rails-rc").write_text("gitlab_user='git'\ngitlab_group='git'\n")
        self._write_private(self.gitlab_rb, _GITLAB_RB)
        secret_file.reconfigure(self.gitlab_secrets)
        self._make_host_keys()
        self._install_stand_in()

    def _make_host_keys(self) -> None:
        for kind in ("ecdsa", "ed25519", "rsa"):
            path = self.etc_ssh / f"ssh_host_{kind}_key"
            size = ("-b", "2048") if kind == "rsa" else ()  # the default takes seconds, and nobody connects
            subprocess.run(
                ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-C", "root@sandbox", "-f", str(path)], check=True
            )

    def _install_stand_in(self) -> None:
        source = Path(__file__).parent / "standin"
        target = self.root / "opt/gitlab/embedded/standin"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(target, quiet=1)  # once here, and not again in each clone
        programs = [self.bin / command for command in COMMANDS]
        # gitlab-rake starts whatever is here; the real program may replace ours.
        programs.append(self.root / "opt/gitlab/embedded/bin/gitaly-backup")
        for path in programs:
            path.write_text(
                _WRAPPER.format(depth=os.path.relpath(self.root, path.parent), python=sys.executable, command=path.name)
            )
            path.chmod(0o755)

    def _write_settings(self) -> None:
        programs = self.postgres.programs
        server = {
            "socket": str(self.postgres.socket),
            "port": postgres.PORT,
            "programs": str(programs),
            "data": str(self.postgres.data),
            "start": [*postgres.demoted(), str(programs / "postgres"), "-D", str(self.postgres.data)],
        }
        self._save({**self._settings(), "postgres": server})

    def _settings(self) -> dict[str, Any]:
        if not self.settings.exists():
            return dict(DEFAULTS)
        content: dict[str, Any] = json.loads(self.settings.read_text())
        return content

    def _save(self, content: dict[str, Any]) -> None:
        new = self.settings.with_suffix(".new")
        new.write_text(json.dumps(content, indent=2) + "\n")
        new.replace(self.settings)  # a running stand-in never reads half a file

    @staticmethod
    def _write_private(path: Path, text: str) -> None:
        path.touch(mode=stat.S_IRUSR | stat.S_IWUSR)
        path.write_text(text)
