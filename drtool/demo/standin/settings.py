"""What the stand-in knows about its host: ``opt/gitlab/etc/standin.json`` below the root, and the paths of Omnibus."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

DEFAULTS: dict[str, Any] = {
    "storages": {"default": "var/opt/gitlab/git-data/repositories"},  # below the root, or absolute
    "registry": False,  # the container registry is on
    "keep_time": 0,  # backup_keep_time in seconds; 0 keeps all
    "remote_directory": "",  # backup_upload_remote_directory
    "gitaly_backup": "opt/gitlab/embedded/bin/gitaly-backup",  # ours, or put the real program there
    "gitaly_address": "",  # unix:/path of a real Gitaly, for the real program
    "gitaly_token": "",
    "user": "",  # whom gitlab-rake drops to when started as root; empty: nobody drops
    "supervisor": "",  # "runit": services are real ones, below opt/gitlab/service
    "web": "",  # where a real server answers; empty: gitlab-healthcheck asks nobody
    "rails_secrets": "",  # the copy that reconfigure makes for Rails; empty: it reads gitlab-secrets.json itself
    "postgres_user": "",  # whom gitlab-psql becomes when started as root, where the server knows users by peer
    "postgres": {"socket": "", "port": 5432, "programs": "", "data": "", "start": []},
    "switches": {},
}
SETTINGS_FILE = "opt/gitlab/etc/standin.json"


class Host:
    """The installation below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings: dict[str, Any] = DEFAULTS | json.loads((root / SETTINGS_FILE).read_text())
        self.rails = root / "opt/gitlab/embedded/service/gitlab-rails"
        self.pid_file = self.rails / "tmp/backup_restore.pid"
        self.data = root / "var/opt/gitlab"
        self.backups = self.data / "backups"
        self.shared = self.data / "gitlab-rails/shared"
        self.services = root / "opt/gitlab/service"
        self.etc = root / "etc/gitlab"
        self.secrets = self.etc / "gitlab-secrets.json"
        self.rails_secrets = root / (self.settings["rails_secrets"] or "etc/gitlab/gitlab-secrets.json")
        self.log = root / "var/log/gitlab/gitlab-rails/backup_json.log"

    @property
    def version(self) -> str:
        return (self.rails / "VERSION").read_text().strip()

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor of the installed version, for ``if host.release < (17, 0)``."""
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        if numbers is None:
            raise ValueError(f"cannot read the version {self.version!r}")
        return int(numbers[1]), int(numbers[2])

    @property
    def installation_type(self) -> str:
        return (self.rails / "INSTALLATION_TYPE").read_text().strip()

    @property
    def external_url(self) -> str:
        found = re.search(r"""^external_url\s+['"](.+?)['"]""", (self.etc / "gitlab.rb").read_text(), re.MULTILINE)
        return found[1].rstrip("/") if found else "http://gitlab.example.com"

    def switch(self, name: str) -> Any:
        """The value of a failure switch; None when it is off."""
        return self.settings["switches"].get(name)

    def storages(self) -> dict[str, Path]:
        return {name: self.root / path for name, path in self.settings["storages"].items()}

    def postgres_program(self, name: str) -> str:
        return str(Path(self.settings["postgres"]["programs"]) / name)  # no directory: found on PATH

    def postgres_environment(self, user: str = "gitlab") -> dict[str, str]:
        server = self.settings["postgres"]
        connection = {
            "PGHOST": server["socket"],
            "PGPORT": str(server["port"]),
            "PGUSER": user,
            "PGDATABASE": "gitlabhq_production",
            "PGCONNECT_TIMEOUT": "10",
        }
        overrides = {
            name: os.environ[f"GITLAB_BACKUP_{name}"]
            for name in ("PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGSSLMODE")
            if os.environ.get(f"GITLAB_BACKUP_{name}")
        }
        return {**os.environ, **connection, **overrides, "LC_ALL": "C.UTF-8"}
