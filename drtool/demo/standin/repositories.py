"""The repository component: which repositories there are (the database says so), and gitaly-backup for the work."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import threading
from dataclasses import asdict, dataclass
from typing import IO

from .console import Console, Quit, RakeAborted, backup_error, missing_file
from .database import Database
from .options import Options

# Columns differ between releases (shard_name or a joined shard, disk_path or not): to_jsonb takes what is there.
_PROJECTS = """
select p.id, r.path as full_path, to_jsonb(p) ->> 'repository_storage' as storage,
       to_jsonb(pr) ->> 'disk_path' as disk_path, d.project_id is not null as has_design
from projects p
join routes r on r.source_type = 'Project' and r.source_id = p.id
left join project_repositories pr on pr.project_id = p.id
left join design_management_repositories d on d.project_id = p.id
order by p.id
"""
_SNIPPETS = """
select s.id, r.path as project_path, to_jsonb(sr) ->> 'shard_name' as storage,
       to_jsonb(sr) ->> 'disk_path' as disk_path
from snippets s
join snippet_repositories sr on sr.snippet_id = s.id
left join routes r on r.source_type = 'Project' and r.source_id = s.project_id
order by s.id
"""


@dataclass(frozen=True)
class Repository:
    """One line of gitaly-backup's standard input."""

    storage_name: str
    relative_path: str
    gl_project_path: str
    always_create: bool


def listed(database: Database, options: Options) -> list[Repository]:
    """The repositories that the database knows and the options want: per project it, wiki, design; then snippets."""
    found: list[Repository] = []
    for row in database.records(_PROJECTS):
        if _wanted(row["full_path"], options):
            found += _of_project(row)
    for row in database.records(_SNIPPETS):
        project = row["project_path"]
        if (project is None and not options.paths) or (project is not None and _wanted(project, options)):
            found.append(_of_snippet(row))
    return [entry for entry in found if not options.storages or entry.storage_name in options.storages]


def _of_project(row: dict[str, object]) -> list[Repository]:
    storage = str(row["storage"] or "default")
    path = str(row["disk_path"] or _hashed("@hashed", row["id"]))
    name = str(row["full_path"])
    result = [
        Repository(storage, f"{path}.git", name, always_create=True),
        Repository(storage, f"{path}.wiki.git", f"{name}.wiki", always_create=False),
    ]
    if row["has_design"]:
        result.append(Repository(storage, f"{path}.design.git", f"{name}.design", always_create=False))
    return result


def _of_snippet(row: dict[str, object]) -> Repository:
    path = str(row["disk_path"] or _hashed("@snippets", row["id"]))
    prefix = f"{row['project_path']}/" if row["project_path"] else ""
    return Repository(str(row["storage"] or "default"), f"{path}.git", f"{prefix}snippets/{row['id']}", False)


def _hashed(folder: str, identifier: object) -> str:
    digest = hashlib.sha256(str(identifier).encode()).hexdigest()
    return f"{folder}/{digest[:2]}/{digest[2:4]}/{digest}"


def _wanted(full_path: str, options: Options) -> bool:
    def below(prefixes: list[str]) -> bool:
        return any(full_path == prefix or full_path.startswith(f"{prefix}/") for prefix in prefixes)

    return (not options.paths or below(options.paths)) and not below(options.skip_paths)


def dump(database: Database, console: Console, options: Options, backup_id: str) -> None:
    """Let gitaly-backup store every repository. One that fails fails the whole run."""
    directory = console.host.backups / "repositories"
    if not options.incremental:
        shutil.rmtree(directory, ignore_errors=True)
    arguments = ["create", "-path", str(directory), *_layout(console), *_jobs(), "-id", backup_id]
    if options.incremental:
        arguments.append("-incremental")
    status = _run(console, arguments, listed(database, options))
    if status != 0:
        raise backup_error(f"gitaly-backup exit status {status}")


def restore(database: Database, console: Console, options: Options, backup_id: str | None) -> None:
    """Let gitaly-backup restore every repository. A failure is only a line of output (18.9)."""
    directory = console.host.backups / "repositories"
    arguments = ["restore", "-path", str(directory), *_layout(console), *_jobs()]
    if not options.paths:
        storages = options.storages or list(console.host.storages())
        arguments += ["-remove-all-repositories", ",".join(storages)]
    if backup_id is not None and console.host.release >= (16, 6):
        arguments += ["-id", backup_id]
    try:
        wanted = listed(database, options)
    except (RakeAborted, Quit):
        # GitLab feeds its child while it reads the database, and the child, ended by us, still removes everything.
        _run(console, arguments, [])
        raise
    status = _run(console, arguments, wanted)
    if status != 0:
        console.say(f"gitaly-backup exit status {status}", "error")
    _reset_pools(database, console)


def _reset_pools(database: Database, console: Console) -> None:
    if database.query("select to_regclass('public.pool_repositories') is not null") == ["t"]:
        sql = "update pool_repositories set state = 'none' where state is distinct from 'none' returning disk_path"
        for path in database.query(sql):
            console.raw(f" - Object pool {path}...")


def _layout(console: Console) -> list[str]:
    release = console.host.release
    layout = "manifest" if release >= (16, 10) else "pointer" if release >= (15, 0) else "legacy"
    return ["-layout", layout]


def _jobs() -> list[str]:
    result = []
    for name, option in (("", "-parallel"), ("_STORAGE", "-parallel-storage")):
        if value := os.environ.get(f"GITLAB_BACKUP_MAX{name}_CONCURRENCY"):
            result += [option, value]
    return result


def _run(console: Console, arguments: list[str], repositories: list[Repository]) -> int:
    host = console.host
    program = host.root / host.settings["gitaly_backup"]
    if not program.exists():
        raise missing_file(program)
    servers = {
        name: {"address": host.settings["gitaly_address"], "token": host.settings["gitaly_token"]}
        for name in host.storages()
    }
    environment = {**os.environ, "GITALY_SERVERS": base64.b64encode(json.dumps(servers).encode()).decode()}
    argv = [str(program), *arguments]
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        if child.stdin is None or child.stdout is None:
            raise AssertionError("gitaly-backup was started with pipes")
        feeder = threading.Thread(target=_feed, args=(child.stdin, repositories))
        feeder.start()
        for line in child.stdout:
            console.raw(line.rstrip("\n"))
        feeder.join()
    return child.returncode


def _feed(stream: IO[str], repositories: list[Repository]) -> None:
    with contextlib.suppress(BrokenPipeError), stream:  # a child that died early says so by its status
        for repository in repositories:
            stream.write(json.dumps(asdict(repository)) + "\n")
