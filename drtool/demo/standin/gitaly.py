"""A gitaly-backup of our own: arguments, standard input, log lines, files and statuses of 16.11, done with git alone.

``gitlab-rake`` starts whatever lies at opt/gitlab/embedded/bin/gitaly-backup; put the real program there to use it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .layouts import Backup, Layout, Step, layout, make_directory, write
from .settings import Host

_EMPTY_BUNDLE = b"# v2 git bundle\n\n"
_CANNOT_RESET = "unable to reset refs. Proceeding with a normal restore"


class Skipped(Exception):
    """Nothing to do for this repository."""


class Failed(Exception):
    """The text is the error of the log line."""


def main(host: Host, arguments: list[str]) -> int:
    """Run ``create`` or ``restore``; 1 when a repository failed."""
    parser = argparse.ArgumentParser(prog="gitaly-backup", allow_abbrev=False)
    parser.add_argument("command", choices=["create", "restore"])
    parser.add_argument("-path", type=Path, required=True)
    parser.add_argument("-layout", default="manifest", choices=["manifest", "pointer", "legacy"])
    parser.add_argument("-id", default="")
    parser.add_argument("-incremental", action="store_true")
    parser.add_argument("-parallel", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-parallel-storage", type=int, default=2)
    parser.add_argument("-remove-all-repositories", default="")
    given = parser.parse_args(arguments)
    try:
        requests = [json.loads(line) for line in sys.stdin]
    except ValueError as error:
        _Log(given.command).record(level="error", msg=f"{given.command}: decode: {error}")
        return 1
    return _Run(host, given).run(requests)


class _Log:
    """JSON lines on standard output, keys in order."""

    def __init__(self, command: str) -> None:
        self.command = command
        self._lock = threading.Lock()

    def about(self, request: dict[str, Any], message: str, level: str = "info", **more: str) -> None:
        names = ("gl_project_path", "relative_path", "storage_name")
        about = {name: request[name] for name in names}
        self.record(command=self.command, level=level, msg=message, **about, **more)

    def record(self, **values: object) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps(
            {**values, "pid": os.getpid(), "time": now}, sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        with self._lock:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()


class _Run:
    def __init__(self, host: Host, given: argparse.Namespace) -> None:
        self.host = host
        self.given = given
        self.storages = host.storages()
        self.sink: Path = given.path
        self.layout: Layout = layout(given.layout, self.sink)
        self.also = layout("manifest", self.sink) if given.layout == "pointer" and host.release >= (16, 6) else None
        self.log = _Log(given.command)

    def run(self, requests: list[dict[str, Any]]) -> int:
        removable = [name for name in self.given.remove_all_repositories.split(",") if name]
        existing = {(name, path) for name in removable for path in _repositories_in(self.storages[name])}
        work: Callable[[dict[str, Any]], None] = self._create if self.given.command == "create" else self._restore
        # Two at a time per storage by default, so the lines of several repositories mix, as those of the real one do.
        workers = max(1, min(self.given.parallel, self.given.parallel_storage * len(self.storages)))
        with ThreadPoolExecutor(workers) as pool:
            outcomes = list(pool.map(lambda request: self._one(request, work), requests))
        failures = [outcome for outcome in outcomes if isinstance(outcome, str)]
        if failures:
            listed = "".join(f" - {failure}\n" for failure in failures)
            message = f"{self.given.command}: pipeline: {len(failures)} failures encountered:\n{listed}"
            self.log.record(level="error", msg=message)
            return 1
        done = {
            (r["storage_name"], r["relative_path"]) for r, outcome in zip(requests, outcomes, strict=True) if outcome
        }
        for name, path in existing - done:  # skipped ones too: this is how an increment loses repositories
            shutil.rmtree(self.storages[name] / path)
        return 0

    def _one(self, request: dict[str, Any], work: Callable[[dict[str, Any]], None]) -> bool | str:
        """True when done, False when skipped, else the failure for the summary."""
        command = self.given.command
        self.log.about(request, f"started {command}")
        try:
            work(request)
        except Skipped:
            self.log.about(request, f"skipped {command}", "warning")
            return False
        except Failed as failure:
            self.log.about(request, f"{command} failed", "error", error=str(failure))
            return f"{request['relative_path']} ({request['gl_project_path']}): {failure}"
        self.log.about(request, f"completed {command}")
        return True

    def _create(self, request: dict[str, Any]) -> None:
        storage, path = request["storage_name"], request["relative_path"]
        repository = self.storages[storage] / path
        if not (repository / "HEAD").is_file():
            raise Skipped
        begin = self.layout.begin_increment if self.given.incremental else self.layout.begin
        backup = begin(storage, path, self.given.id)
        step = backup.steps[-1]
        refs = _refs(repository)
        write(self.sink / step.refs, "".join(f"{oid} {name}\n" for name, oid in refs))
        if refs:
            self._write_bundle(repository, step)
        hooks = repository / "custom_hooks"
        if hooks.is_dir():
            packed = _git_or_fail(["tar", "-C", str(repository), "-cf", "-", "custom_hooks"], "write custom hooks")
            write(self.sink / step.hooks, packed)
        head = _git(repository, "symbolic-ref", "HEAD").stdout.decode().strip() or "refs/heads/main"
        committed = Backup(backup.identifier, backup.steps, head)
        self.layout.commit(storage, path, committed)
        if self.also is not None:
            self.also.commit(storage, path, committed)

    def _write_bundle(self, repository: Path, step: Step) -> None:
        known: list[str] = []
        if step.previous_refs:
            before = dict.fromkeys((self.sink / step.previous_refs).read_text().split()[::2])
            known = [f"^{oid}" for oid in before if _git(repository, "cat-file", "-e", oid).returncode == 0]
            if not _git(repository, "rev-list", "-n", "1", "--all", *known).stdout.strip():
                write(self.sink / step.bundle, _EMPTY_BUNDLE)  # stays, and no manifest names it
                raise Skipped
        make_directory((self.sink / step.bundle).parent)
        result = _git(
            repository, "bundle", "create", "-q", "-", "--all", "--stdin", stdin="".join(f"{x}\n" for x in known)
        )
        if result.returncode != 0:
            raise Failed(
                "manager: write bundle: remote repository: create bundle: rpc error: code = Internal desc = "
                f"create bundle: exit status {result.returncode}: stderr: {_quoted(result.stderr)}"
            )
        write(self.sink / step.bundle, result.stdout)

    def _restore(self, request: dict[str, Any]) -> None:
        storage, path = request["storage_name"], request["relative_path"]
        backup = self.layout.find(storage, path, self.given.id)
        if backup is None or self.host.switch("restore_skips_repositories"):
            raise Skipped
        repository = self.storages[storage] / path
        last = backup.steps[-1]
        refs = [tuple(line.split(" ", 1)) for line in (self.sink / last.refs).read_text().splitlines()]
        named = [(oid, name) for oid, name in refs if name != "HEAD"]
        try:
            _reset_refs(repository, named)
        except Failed as failure:
            about = {"relative_path": path, "storage": storage, "backup_id": self.given.id}
            self.log.record(level="warning", msg=_CANNOT_RESET, error=str(failure), **about)
            self._recreate(repository, backup)
        if backup.head:
            _git(repository, "symbolic-ref", "HEAD", backup.head)
        for step in backup.steps:
            if (self.sink / step.hooks).exists():
                shutil.rmtree(repository / "custom_hooks", ignore_errors=True)
                hooks = ["tar", "-C", str(repository), "-xf", str(self.sink / step.hooks)]
                _git_or_fail(hooks, "restore custom hooks")

    def _recreate(self, repository: Path, backup: Backup) -> None:
        shutil.rmtree(repository, ignore_errors=True)
        repository.parent.mkdir(parents=True, exist_ok=True)
        branch = (backup.head or "refs/heads/main").removeprefix("refs/heads/")
        _git_or_fail(["git", "init", "-q", "--bare", "-b", branch, str(repository)], "create repository")
        for step in backup.steps:
            bundle = self.sink / step.bundle
            if not bundle.exists():  # an empty repository has none
                continue
            fetch = ("fetch", "-q", "--no-auto-gc", "--no-write-fetch-head", str(bundle), "+refs/*:refs/*")
            result = _git(repository, *fetch)
            if result.returncode != 0:
                raise Failed(
                    f'manager: restore from bundle: restore bundle: restore bundle: "{step.bundle}": '
                    "remote repository: fetch bundle: rpc error: code = Internal desc = fetch bundle: "
                    f"exit status {result.returncode}, stderr: {_quoted(result.stderr)}"
                )


def _repositories_in(storage: Path) -> list[str]:
    found = []
    for folder, names, files in os.walk(storage):
        if "HEAD" in files and folder.endswith(".git"):
            found.append(str(Path(folder).relative_to(storage)))
            names.clear()
    return found


def _refs(repository: Path) -> list[tuple[str, str]]:
    """Names and object ids, HEAD first; without looking at the objects."""
    output = _git(repository, "for-each-ref", "--format=%(refname) %(objectname)").stdout.decode()
    refs = [(name, oid) for name, _, oid in (line.partition(" ") for line in output.splitlines())]
    head = _git(repository, "rev-parse", "-q", "--verify", "HEAD").stdout.decode().strip()
    return [("HEAD", head), *refs] if head and refs else refs


def _reset_refs(repository: Path, wanted: list[tuple[str, str]]) -> None:
    """Set the refs of a repository that has every object already. The bundles are not even read (16.11)."""
    if not wanted:
        raise Failed("no refs in backup")
    if not (repository / "HEAD").is_file():
        raise Failed("reset refs: delete existing refs: rpc error: code = NotFound desc = repository not found")
    lines = [f"delete {name}" for name, _ in _refs(repository) if name != "HEAD" and name not in dict(_swap(wanted))]
    lines += [f"update {name} {oid}" for oid, name in wanted]
    result = _git(repository, "update-ref", "--stdin", stdin="\n".join(lines) + "\n")
    if result.returncode != 0:
        raise Failed(f"reset refs: update references: rpc error: code = Internal desc = {_quoted(result.stderr)}")


def _swap(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(second, first) for first, second in pairs]


def _git(repository: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[bytes]:
    # Somebody else may own the files (root looks at them in tests): that is no attack here.
    argv = ["git", "-c", f"safe.directory={repository}", "-C", str(repository), *arguments]
    environment = {**os.environ, "LC_ALL": "C", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    return subprocess.run(argv, input=stdin.encode(), capture_output=True, check=False, env=environment)


def _git_or_fail(argv: list[str], what: str) -> bytes:
    result = subprocess.run(argv, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        raise Failed(f"manager: {what}: exit status {result.returncode}: stderr: {_quoted(result.stderr)}")
    return result.stdout


def _quoted(text: bytes) -> str:
    return json.dumps(text.decode(errors="replace"))
