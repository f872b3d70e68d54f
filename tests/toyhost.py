"""A toy GitLab host: an Omnibus-shaped directory whose commands are a few lines of shell each.

It starts in no time, so that a run can be broken at every single call. Its backups are canned but real: a complete SQL
dump, tarballs, a manifest per repository. Its restore copies what lies loose into ``restored``, and leaves it there or
deletes it as GitLab does; what puma writes while it should be down spoils the copy.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

from drtool import backup, restore
from drtool.catalog import BackupSet, Catalog
from drtool.events import Event
from drtool.gitlab.archive import COMPONENTS, INFORMATION, TarScanner
from drtool.hosts import Runner
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus
from drtool.restore_plan import Wanted
from drtool.signing import Signer, Verifier, make_key
from drtool.stores import Store
from drtool.streams import CHUNK, generate_identity, parse_identities
from drtool.verify import verify
from tests import sealed

VERSION = "18.9.1-ee"
REPOSITORIES = ("@hashed/6b/86/6b86b273.git", "@hashed/d4/73/d4735e3a.git")
INSTANCE = "toy"
SECRET = "0b5e55ed" * 16
"""The toy's db_key_base."""

SALT = b"16 fixed bytes.."

_TARBALLS = ("uploads", "lfs")
_ROWS = b"""\
COPY public.application_settings (id, uuid) FROM stdin;
1	70700000-0000-4000-8000-000000000000
\\.
COPY public.namespaces (id, path, parent_id, type) FROM stdin;
1	root	\\N	User
2	group	\\N	Group
\\.
COPY public.projects (id, path, namespace_id, visibility_level, archived, created_at, \
runners_token_encrypted) FROM stdin;
1	toy	2	0	f	2026-01-12 12:00:00	{token}
\\.
COPY public.project_repositories (project_id, shard_name, disk_path) FROM stdin;
1	default	@hashed/6b/86/6b86b273
\\.
COPY public.routes (source_type, source_id, path) FROM stdin;
Project	1	group/toy
\\.
COPY public.schema_migrations (version) FROM stdin;
20260205134501
\\.
COPY public.users (id, username, created_at) FROM stdin;
1	root	2026-01-01 00:00:00
\\.
"""
_COMMON = """\
#!/bin/sh
set -eu
root='{root}'
backups=$root/var/opt/gitlab/backups
rails=$root/opt/gitlab/embedded/service/gitlab-rails
say() {{ printf '2026-01-13 03:15:00 UTC -- %s\\n' "$1"; }}
"""
_BACKUP = """\
word=$1; shift
id= skip=
for argument; do
  case $argument in
    BACKUP=*) id=${argument#BACKUP=} ;;
    SKIP=*) skip=${argument#SKIP=} ;;
  esac
done
lock=$rails/tmp/backup_restore.pid
if [ -s "$lock" ] && read -r other <"$lock" && [ -d "/proc/$other" ]; then
  printf 'Backup and restore in progress:\\n  There is a backup and restore task in progress (PID %s).\\n' "$other"
  exit 1
fi
echo $$ >"$lock"
read -r version <"$rails/VERSION"
repositories='{repositories}'
line() {
  printf '{"command":"%s","gl_project_path":"group/toy","level":"info","msg":"%s %s","pid":1,' "$1" "$2" "$1"
  printf '"relative_path":"%s","storage_name":"default","time":"2026-01-13T03:15:00.000Z"}\\n' "$3"
}
create() {
  say 'Dumping database ... '
  rm -rf "$backups/db"
  cp -Rp "$root/canned/db" "$backups/db"
  say 'Dumping database ... done'
  say 'Dumping repositories ... '
  rm -rf "$backups/repositories"
  cp -Rp "$root/canned/repositories" "$backups/repositories"
  for path in $repositories; do
    line create started "$path"
    mkdir "$backups/repositories/default/$path/$id"
    mv "$backups/repositories/default/$path"/001.* "$backups/repositories/default/$path/$id"
    {
      printf "object_format = 'sha1'\\nhead_reference = 'refs/heads/main'\\n\\n[[steps]]\\n"
      printf "bundle_path = '%s'\\nref_path = '%s'\\n" "default/$path/$id/001.bundle" "default/$path/$id/001.refs"
    } >"$backups/repositories/manifests/default/$path/$id.toml"
    line create completed "$path"
  done
  say 'Dumping repositories ... done'
  for name in uploads lfs; do
    title=$name; [ $name = uploads ] || title='lfs objects'
    say "Dumping $title ... "
    rm -f "$backups/$name.tar.gz"
    cp -p "$root/canned/$name.tar.gz" "$backups/$name.tar.gz"
    say "Dumping $title ... done"
  done
  for title in builds artifacts pages 'terraform states' 'container registry images' packages 'ci secure files' \
    'external diffs'; do
    say "Dumping $title ... [DISABLED]"
  done
  {
    printf ':db_version: "20260205134501"\\n:backup_created_at: 2026-01-13 03:15:00.000000000 Z\\n'
    printf ':gitlab_version: %s\\n:installation_type: omnibus-gitlab\\n' "$version"
    printf ':skipped: %s\\n:backup_id: %s\\n:full_backup_id:\\n' "$skip" "$id"
  } >"$backups/backup_information.yml"
  if [ "$skip" != tar ]; then
    say "Creating backup archive: ${id}_gitlab_backup.tar ... "
    tar -C "$backups" -cf "$backups/${id}_gitlab_backup.tar" backup_information.yml db repositories \\
      uploads.tar.gz lfs.tar.gz
    say "Creating backup archive: ${id}_gitlab_backup.tar ... done"
    clean
  fi
  say "Backup $id is done."
}
clean() {
  cd "$backups"
  rm -rf backup_information.yml db repositories uploads.tar.gz lfs.tar.gz
}
restore() {
  if [ -e "$backups/backup_information.yml" ]; then
    say "Non tarred backup found in $backups, using that"
  else
    set -- "$backups"/*_gitlab_backup.tar
    if [ -n "$id" ]; then set -- "$backups/${id}_gitlab_backup.tar"; fi
    if [ $# -ne 1 ] || [ ! -e "$1" ]; then say "No backups found in $backups"; exit 1; fi
    tar -C "$backups" -xf "$1"
  fi
  while read -r key value; do
    case $key in :backup_id:) id=$value ;; :skipped:) skip=$value ;; esac
  done <"$backups/backup_information.yml"
  rm -rf "$root/restored"
  mkdir "$root/restored"
  [ "$(cat "$root/opt/gitlab/service/puma")" = down ] || echo 'INSERT' >"$root/restored/written-by-puma"
  say 'Restoring database ... '
  cp -R "$backups/db" "$root/restored/db"
  say 'Restoring database ... done'
  say 'Restoring repositories ... '
  for path in $repositories; do
    line restore started "$path"
    if [ ! -s "$backups/repositories/manifests/default/$path/$id.toml" ]; then
      line restore skipped "$path"
      continue
    fi
    mkdir -p "$root/restored/$path"
    cp "$backups/repositories/default/$path/$id/001.bundle" "$root/restored/$path/bundle"
    line restore completed "$path"
  done
  say 'Restoring repositories ... done'
  cp "$backups/uploads.tar.gz" "$backups/lfs.tar.gz" "$root/restored"
  [ "$skip" = tar ] || clean
  say 'Restore task is done.'
}
$word
rm -f "$lock"
"""
_CTL = """\
services='gitaly postgresql puma redis sidekiq'
cd "$root/opt/gitlab/service"
show() {
  read -r state <"$1"
  printf '%s: %s: (pid 4711) 5s; run: log: (pid 4710) 5s\\n' "$state" "$1"
}
word=$1; shift
case $word in
  stop) echo down >"$1"; show "$1" ;;
  start) for name in $services; do echo run >"$name"; show "$name"; done ;;
  status) for name in $services; do show "$name"; done ;;
  reconfigure) echo reconfigured >"$root/reconfigured"; echo 'gitlab Reconfigured!' ;;
esac
"""
_RAKE = """\
case $1 in
  gitlab:check)
    printf 'Checking GitLab subtasks ...\\n\\nDatabase config exists? ... yes\\n'
    printf 'Checking GitLab subtasks ... Finished\\n' ;;
  gitlab:doctor:secrets) echo 'Total: 0 row(s) affected' ;;
esac
"""
_PSQL = """\
for word; do :; done
case $word in
  *server_version_num*) if [ -d "$root/restored/db" ]; then echo '170011|1|2||0'; else echo '170011|1|0||0'; fi ;;
  *to_regclass*) if [ -d "$root/restored/db" ]; then echo 1; else echo 0; fi ;;
  *) echo 2 ;;
esac
"""
_HEALTHCHECK = '[ "$(cat "$root/opt/gitlab/service/puma")" = run ]\n'


class ToyClock:
    """A clock that only ``sleep`` moves; ``meanwhile`` is called in every sleep, to change the world."""

    def __init__(self, now: datetime = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)) -> None:
        self._begun = self._now = now
        self.meanwhile: Callable[[], object] = int

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._begun).total_seconds()

    def sleep(self, duration: timedelta) -> None:
        self.advance(duration)
        self.meanwhile()

    def advance(self, duration: timedelta) -> None:
        self._now += duration


class ToyHost:
    """One host below ``root``, freshly installed: no data, services up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.install = Omnibus(PurePosixPath(root))
        self.backups = root / "var/opt/gitlab/backups"
        self.etc = root / "etc/gitlab"
        self.services = root / "opt/gitlab/service"
        self.restored = root / "restored"
        self._lay_out()

    def staged(self) -> list[str]:
        """What lies in GitLab's backup directory, but for whole archives."""
        return sorted(path.name for path in self.backups.iterdir() if not path.name.endswith("_gitlab_backup.tar"))

    def census(self) -> dict[str, str]:
        """What was restored, and the configuration: names and digests."""
        found = [
            *self.restored.rglob("*"),
            *(self.etc / name for name in ("gitlab.rb", "gitlab-secrets.json", "ssl/key")),
        ]
        return {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(found)
            if path.is_file()
        }

    def reboot(self) -> None:
        """Start every service, as a machine does that comes up again."""
        for service in self.services.iterdir():
            service.write_text("run\n")

    def _lay_out(self) -> None:
        rails = self.root / "opt/gitlab/embedded/service/gitlab-rails"
        for directory in (self.backups, self.etc / "ssl", self.root / "etc/ssh", self.services, rails / "tmp"):
            directory.mkdir(parents=True)
        (rails / "VERSION").write_text(VERSION + "\n")
        (self.root / "opt/gitlab/version-manifest.txt").write_text("gitlab-ee 18.9.1\n")
        (self.etc / "gitlab.rb").write_text("external_url 'https://toy.example.com'\n")
        (self.etc / "gitlab-secrets.json").write_text(f'{{"gitlab_rails": {{"db_key_base": "{SECRET}"}}}}\n')
        (self.etc / "ssl/key").write_text("a fake key\n")
        (self.root / "etc/ssh/ssh_host_ed25519_key").write_text("a fake host key\n")
        for service in ("gitaly", "postgresql", "puma", "redis", "sidekiq"):
            (self.services / service).write_text("run\n")
        self._can_members()
        programs = {
            "gitlab-backup": _BACKUP.replace("{repositories}", " ".join(REPOSITORIES)),
            "gitlab-ctl": _CTL,
            "gitlab-rake": _RAKE,
            "gitlab-psql": _PSQL,
            "gitlab-healthcheck": _HEALTHCHECK,
        }
        for name, script in programs.items():
            program = self.root / "opt/gitlab/bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(_COMMON.format(root=self.root) + script)
            program.chmod(0o755)

    def _can_members(self) -> None:
        canned = self.root / "canned"
        (canned / "db").mkdir(parents=True)
        (token,) = sealed.seal("H", {"db_key_base": SECRET})
        sql = b"-- PostgreSQL database dump\n\n" + _ROWS.replace(b"{token}", str(token).encode())
        end = b"-- PostgreSQL database dump complete\n--\n\n"
        (canned / "db/database.sql.gz").write_bytes(gzip.compress(sql + b"--\n" + end, mtime=0))
        for number, path in enumerate(REPOSITORIES):
            (canned / "repositories/default" / path).mkdir(parents=True)
            bundle, refs = _bundle(_noise(number, 9000))
            (canned / "repositories/default" / path / "001.bundle").write_bytes(bundle)
            (canned / "repositories/default" / path / "001.refs").write_bytes(refs)
            (canned / "repositories/manifests/default" / path).mkdir(parents=True)
        for number, name in enumerate(_TARBALLS, len(REPOSITORIES)):
            (canned / f"{name}.tar.gz").write_bytes(gzip.compress(_tar(_noise(number, 11000)), mtime=0))


@dataclass
class Bench:
    """A toy host, a store, a state directory and keys. Every run makes its own objects of them, as a process does."""

    base: Path
    host: ToyHost
    store: Store
    signing_key: Path
    identity: tuple[str, str]
    clock: ToyClock = field(default_factory=ToyClock)
    events: list[Event] = field(default_factory=list)
    volume_size: int = 16 << 10
    _tokens: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def state(self) -> Path:
        return self.base / "state"

    @property
    def order(self) -> backup.Order:
        recipients = (self.identity[1],)
        return backup.Order(INSTANCE, self.host.install, "age", recipients, recipients, self.volume_size)

    def catalog(self, store: Store | None = None) -> Catalog:
        return Catalog(store or self.store, INSTANCE)

    def back_up(self, *, runner: Runner | None = None, store: Store | None = None) -> backup.Outcome:
        self._tick()
        runner = runner or LocalRunner()
        signer = Signer(self.signing_key, runner)
        place = backup.Place(
            self.catalog(store), runner, signer, self.state, self.clock, self.events.append, self._token, lambda: SALT
        )
        return backup.back_up(self.order, place)

    def restore(
        self,
        host: ToyHost,
        set_id: str,
        *,
        runner: Runner | None = None,
        store: Store | None = None,
        replace: str | None = None,
        resume: str | None = None,
    ) -> restore.Outcome:
        """Restore onto ``host``, as the command line does: open the set, prepare, carry out."""
        self._tick()
        runner = runner or LocalRunner()
        opened = self.open(set_id, store=store)
        request = restore.Request(INSTANCE, host.install, Wanted(count=False, replace=replace), resume)
        signer = Signer(self.signing_key, runner)
        place = restore.Place(runner, opened, signer, self.state, self.clock, self.events.append, self._token)
        return restore.carry_out(restore.prepare(request, place), request, place)

    def open(self, set_id: str, *, store: Store | None = None) -> BackupSet:
        catalog = self.catalog(store)
        verifier = Verifier((self.signing_key.with_name("key.pub").read_text().strip(),), LocalRunner())
        identities = tuple(parse_identities([("the toy's identity", self.identity[0].encode())]))
        return BackupSet(catalog, catalog.read_manifest(set_id, verifier), identities)

    def problems(self, set_id: str) -> list[str]:
        """Verify a set's digests and signature, then unseal and scan all of it. Empty means: it can be restored."""
        opened = self.open(set_id)
        found = list(verify(opened, "digest", signed=True, clock=self.clock, emit=self.events.append).problems)
        names = {name: read_members(opened, name) for name in ("application", "config")}
        if {name: set(names[name]) for name in names} != {
            name: {member.name for member in members} for name, members in opened.read_index().items()
        }:
            found.append("the index does not name the members")
        wanted = {INFORMATION, "db/database.sql.gz", *(f"{name}.tar.gz" for name in _TARBALLS)}
        found += [f"{name} is missing" for name in wanted - set(names["application"])]
        found += [f"{name} is missing" for name in self.host.install.config_required if name not in names["config"]]
        return found

    def _tick(self) -> None:
        self.clock.advance(timedelta(seconds=1))

    def _token(self) -> str:
        return f"{next(self._tokens):04x}"


def make_bench(base: Path, store: Store) -> Bench:
    """A bench in an empty directory, with a fresh host and fresh keys."""
    base.mkdir(parents=True, exist_ok=True)
    key = base / "key"
    make_key(key, LocalRunner(), comment="toy")
    return Bench(base, ToyHost(base / "host"), store, key, generate_identity())


def read_members(backup_set: BackupSet, archive: str) -> list[str]:
    """Unseal an archive to its end, scanning it; return the names of its files."""
    scanner = TarScanner()
    source = backup_set.read_archive(archive)
    while chunk := source.read(CHUNK):
        scanner.feed(chunk)
    scanner.close()
    return [member.name for member in scanner.members if member.kind == "file"]


LOOSE = frozenset({INFORMATION, *(component.member for component in COMPONENTS)})


def _bundle(noise: bytes) -> tuple[bytes, bytes]:
    """A bundle as far as its header and its pack's checksum go, and the refs that are in it."""
    target = hashlib.sha1(noise).hexdigest()
    refs = f"{target} HEAD\n{target} refs/heads/main\n".encode()
    pack = b"PACK" + noise
    return b"# v2 git bundle\n" + refs + b"\n" + pack + hashlib.sha1(pack).digest(), refs


def _noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress, the same every time."""
    blocks = (hashlib.sha256(f"{seed} {number}".encode()).digest() for number in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def _tar(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("./file")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
