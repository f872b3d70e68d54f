"""What the stand-in knows about its host: ``opt/gitlab/etc/standin.json`` below the root, and the paths."""

from __future__ import annotations

from typing import Any

DEFAULTS: dict[str, Any] = {
    "storages": {"default": "var/opt/gitlab/git-data/repositories"},  # below the root, or absolute
    "registry": False,  # the container registry is on
    "keep_time": 0,  # backup_keep_time in seconds; 0 keeps all
    "remote_directory": "",  # backup_upload_remote_directory
    "repository_backend": "git",  # git: our own bundles; gitaly-backup: the real program
    "gitaly_backup": "opt/gitlab/embedded/bin/gitaly-backup",
    "gitaly_address": "",  # unix:/path, for the real program
    "gitaly_token": "",
    "user": "",  # whom gitlab-rake drops to when started as root; empty: nobody drops
    "postgres": {"socket": "", "port": 5432, "programs": "", "data": "", "start": []},
    "switches": {},
}
