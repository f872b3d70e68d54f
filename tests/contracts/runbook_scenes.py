"""The scene of each runbook: a small GitLab, a drtool beside it, and what went wrong.

A scene may only say which places of the text are others here, and do what a runbook tells a person to do.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.signing import public_key
from tests import sandboxes
from tests.playground import Playground, lay_out
from tests.runbooks import Scene

VERSION = "18.9.1-ee"
_POLICY = "[retention]\ndaily = 14\nminimum = 1\nsets_a_day = 50\n"
_ARCHIVE = "1700000000_2023_11_14_16.6.0-ee_gitlab_backup.tar"
_SETS = ("20260113T031500Z-7f3a", "20260114T031500Z-0b1c", "20260115T031500Z-b5b5", "20260116T031500Z-0bad")
"""Names of sets in the runbooks, oldest first."""


@dataclass
class Stage:
    """A host with data and a drtool whose identity is kept elsewhere, and the sets that were made so far."""

    play: Playground
    home: Path
    sets: list[str] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.play.made.config

    def back_up(self) -> None:
        ran = self.play.drtool("backup")
        assert ran.status == 0, ran.stderr
        (new,) = {path.name for path in (self.play.store / "gitlab/sets").iterdir()} - {*self.sets}
        self.sets.append(new)

    def verify_all(self) -> None:
        for each in self.sets:
            assert self.play.drtool("verify", each).status == 0

    def edit(self, *changes: tuple[str, str]) -> None:
        """Change the configuration, as with an editor. Fails when there is nothing to change."""
        self.config.write_text(self.play.configure("edited.toml", *changes).read_text())

    def add_copy(self) -> None:
        """Let every backup to come be copied to a second store."""
        share = self.play.base / "share"
        share.mkdir()
        tables = f'[[instance.copies]]\nstore = "share"\n\n[store.share]\nkind = "local"\npath = "{share}"\n\n'
        self.edit(("[store.main]", f"{tables}[store.main]"))

    def folder(self, number: int) -> Path:
        return self.play.store / "gitlab/sets" / self.sets[number]

    def scene(self, host: Sandbox | None = None) -> Scene:
        """Everything that is elsewhere here than in the runbooks. ``host`` is the one that commands work on."""
        host = host or self.play.host
        fixed = {
            "/etc/drtool": self.config.parent,
            "/srv/gitlab-backups": self.play.store,
            "/var/opt/gitlab/backups": host.backups,
            "/root": self.home,
        }
        places = {name: partial(str, path) for name, path in fixed.items()}
        places |= {name: partial(self._name, number) for number, name in enumerate(_SETS)}
        return Scene(self.home, {"DRTOOL_CONFIG": str(self.config), "PATH": str(host.bin)}, places)

    def _name(self, number: int) -> str:
        """The name of a set, which is made later than the scene is set."""
        return self.sets[number]


@contextmanager
def stage(base: Path, template: Sandbox) -> Iterator[Stage]:
    """Copy the host and put a drtool beside it, as after ``drtool init``; the identity moved off, as it should be."""
    home = base / "home"
    home.mkdir()
    with template.clone(base / "host") as host:
        play = lay_out(base, host)
        made = Stage(play, home)
        made.edit(('identities = ["file:identity.txt"]', ""))
        play.made.identity.rename(home / "identity.txt")
        yield made


@contextmanager
def new_host(made: Stage) -> Iterator[Scene]:
    """Lose the host, and go on with a fresh one, which in the scene is the machine that drtool runs on."""
    made.play.host.destroy()
    with sandboxes.fresh(made.play.base / "new", version=VERSION) as fresh:
        made.edit((f'prefix = "{made.play.base / "host"}"', f'prefix = "{fresh.root}"'))
        scene = made.scene(fresh)
        scene.places = {**scene.places, "root@new-host": lambda: "local", "new-host": platform.node}
        yield scene


@contextmanager
def a_nightly_backup_failed(made: Stage) -> Iterator[Scene]:
    made.back_up()
    away = made.play.store.rename(made.play.base / "not mounted")
    scene = made.scene()
    scene.hands = {"mount the store": lambda: void(away.rename(made.play.store))}
    yield scene


@contextmanager
def disk_full(made: Stage) -> Iterator[Scene]:
    """No room where GitLab writes; then none in the store, for files of more than 900 KiB."""
    host, policy = made.play.host, made.config.with_name("ours.toml")
    policy.write_text(_POLICY)
    made.edit(('# policy = "business"', 'policy = "ours.toml" #'))
    made.back_up()
    made.verify_all()
    (host.backups / _ARCHIVE).write_bytes(b"an old archive of GitLab's own")
    host.switch(disk_full="lfs")
    assert made.play.drtool("backup").status == 18
    scene = made.scene()

    def enlarge() -> None:
        assert not (host.backups / _ARCHIVE).exists()
        host.switch(disk_full=None)

    def fill(kibibytes: int | None) -> None:
        scene.largest_file = kibibytes

    scene.hands = {
        "enlarge the disk": enlarge,
        "fill the store": lambda: fill(900),
        "there is room in the store": lambda: fill(None),
    }
    yield scene


@contextmanager
def a_lost_key(made: Stage) -> Iterator[Scene]:
    made.back_up()
    keys = made.home / "new-keys"
    old = public_key(made.play.made.signing_key)

    def put_recipient() -> None:
        line = next(line for line in (keys / "drtool.toml").read_text().splitlines() if line.startswith("seal_to"))
        made.edit((f'seal_to = ["{made.play.made.recipient}"]', line))

    def add_signer() -> None:
        new = (keys / "signing_key.pub").read_text().strip()
        made.edit((f'"{old}"', f'"{old}", "{new}"'))

    def remove_signer() -> None:
        made.edit((f'"{old}", ', ""))

    scene = made.scene()
    scene.hands = {
        "put the new key into seal_to": put_recipient,
        "add the new line to trusted_signers": add_signer,
        "remove the old line from trusted_signers": remove_signer,
    }
    yield scene


@contextmanager
def ransomware(made: Stage) -> Iterator[Scene]:
    """A good set; one made after the thief removed a project; one that he damaged; one that he made. He saw no copy."""
    made.add_copy()
    made.back_up()
    made.play.host.sql("DELETE FROM projects WHERE id = (SELECT max(id) FROM projects)")
    made.back_up()
    made.back_up()
    forged = made.folder(2).with_name("20991231T235900Z-0bad")
    shutil.copytree(made.folder(2), forged)
    manifest = forged / "manifest.json"
    manifest.write_text(manifest.read_text().replace(made.sets[2], forged.name))
    made.sets.append(forged.name)
    with (made.folder(2) / "application-0000.tar.age").open("r+b") as volume:
        volume.seek(5000)
        volume.write(b"encrypted by a thief")
    with new_host(made) as scene:
        yield scene


@contextmanager
def restore_one_project(made: Stage) -> Iterator[Scene]:
    """A project of the host, and a place for ``git push`` where GitLab's empty project would be."""
    made.back_up()
    ran = made.play.drtool("extract", "latest", "--list", "--json", "--identity", made.home / "identity.txt")
    assert ran.status == 0
    empty = made.home / "empty.git"
    scene = made.scene()
    scene.places = {
        **scene.places,
        "git@gitlab.example.com:group/name-restored.git": lambda: str(empty),
        "group/name": lambda: _project_with_wiki(made.play.host),
    }
    scene.hands = {
        "make an empty project": lambda: void(subprocess.run(["git", "init", "-q", "--bare", empty], check=True))
    }
    yield scene


@contextmanager
def restore_onto_a_new_host(made: Stage) -> Iterator[Scene]:
    """The host is lost. The run that is undone is the newest, which replaced data."""
    made.add_copy()
    made.back_up()
    with new_host(made) as scene:
        receipts = made.play.store / "gitlab/receipts"
        undone = "restore-20260114T090000Z-1c2d"
        scene.places = {**scene.places, undone: lambda: max(path.stem for path in receipts.glob("restore-*.json"))}
        yield scene


@contextmanager
def quarterly_drill(made: Stage) -> Iterator[Scene]:
    made.back_up()
    with new_host(made) as scene:
        yield scene


@contextmanager
def audit(made: Stage) -> Iterator[Scene]:
    for _ in range(2):
        made.back_up()
    (made.home / "signers").write_text(f"drtool-host {public_key(made.play.made.signing_key)}\n")
    yield made.scene()


SCENES = {
    "a-nightly-backup-failed.md": a_nightly_backup_failed,
    "disk-full.md": disk_full,
    "a-lost-key.md": a_lost_key,
    "ransomware.md": ransomware,
    "restore-one-project.md": restore_one_project,
    "restore-onto-a-new-host.md": restore_onto_a_new_host,
    "quarterly-drill.md": quarterly_drill,
    "audit.md": audit,
}


def template(root: Path) -> Sandbox:
    """A host with projects, to be copied for every scene."""
    host = sandboxes.fresh(root, version=VERSION)
    seed(host, projects=4)
    return host


def void(_: object) -> None:
    """Drop what an expression gives."""


def _project_with_wiki(host: Sandbox) -> str:
    rows = host.sql(
        "SELECT routes.path, project_repositories.disk_path FROM routes JOIN project_repositories"
        " ON project_repositories.project_id = routes.source_id WHERE routes.source_type = 'Project'"
    )
    for path, disk in (row.split("|") for row in rows.splitlines()):
        refs = [host.repositories / f"{disk}{end}" / "refs/heads" for end in (".git", ".wiki.git")]
        if all(each.is_dir() and any(each.iterdir()) for each in refs):
            return path
    raise AssertionError("no project has a wiki")
