"""``drtool demo``: back up an embedded GitLab, lose it, bring it back on another host, and compare.

The same code works here as on a real host; only GitLab's Rails commands are stand-ins.
"""

from __future__ import annotations

import dataclasses
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from drtool.app import App, load
from drtool.backup import back_up
from drtool.clock import SystemClock
from drtool.core.command import Command
from drtool.core.model import Manifest
from drtool.demo.census import Census, difference, doctor, take_census
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.errors import ConfigError, RestoreFailed
from drtool.extract import Place, extract_project
from drtool.gitlab.repositories import RefSet
from drtool.hosts.local import LocalRunner
from drtool.initialise import Made, initialise
from drtool.listing import list_rows
from drtool.restore import Request, carry_out, prepare
from drtool.ui import Ui, seconds_text, size_text, table, time_text
from drtool.verify import verify

_VERSION = "18.9.1-ee"
_PROJECTS = 24
_BULK = 24 << 20  # bytes of incompressible uploads: enough for several of the demo's small volumes
_VOLUME = "8 MiB"


@dataclass
class _Story:
    """What happened so far."""

    base: Path
    ui: Ui
    clock: SystemClock = field(default_factory=SystemClock)
    times: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def chapter(self, name: str, title: str) -> Iterator[None]:
        self.ui.say(f"\n{title}")
        begun = self.clock.monotonic()
        yield
        self.times[name] = round(self.clock.monotonic() - begun, 2)


@dataclass(frozen=True, slots=True)
class Ending:
    """What the demo found, for ``--json``."""

    set_id: str
    equal: bool
    differences: tuple[str, ...]
    projects: int
    repositories: int
    rows: int
    encrypted_values: int
    seconds: dict[str, float]
    rpo_seconds: float
    rto_seconds: float
    kept_in: str


def tell(keep: Path | None, ui: Ui) -> None:
    """Run the whole story. Raises RestoreFailed when what came back is not what was lost."""
    base = _base(keep)
    try:
        ending, text = _play(_Story(base, ui), keep=keep is not None)
    finally:
        if keep is None:
            shutil.rmtree(base, ignore_errors=True)
    ui.result(ending, text)
    if not ending.equal:
        raise RestoreFailed(
            f"the restored instance differs in {len(ending.differences)} points: {ending.differences[0]}",
            hint="This is a defect in drtool; --keep DIR leaves everything for a look.",
        )


def _play(story: _Story, *, keep: bool) -> tuple[Ending, str]:
    old, new = story.base / "old", story.base / "new"
    with story.chapter(
        "build", f"An embedded GitLab {_VERSION}: PostgreSQL, {_PROJECTS} projects, wikis, uploads, LFS"
    ):
        host = Sandbox.create(old, version=_VERSION)
        seed(host, projects=_PROJECTS, bulk_bytes=_BULK)
        before = take_census(host)
    try:
        made = _initialise(story, old)
        with story.chapter("backup", "drtool backup"):
            manifest = back_up(_app(made, story).backup_order(), _app(made, story).backup_place()).manifest
            _tell_worth(manifest, story)
        with story.chapter("verify", "drtool verify --level contents"):
            _verify(_app(made, story), story)
        with story.chapter("extract", "drtool extract latest --project … --to one-project.bundle"):
            _pull_one_project(_app(made, story), story)
        app = _app(made, story)
        listed = list_rows(app.catalog, app.verifier, story.clock.now())
    finally:
        host.destroy()
    lost_at = story.clock.now()
    story.ui.say("\nThe host is lost: its files are gone, its database is dead.")
    with story.chapter("new host", f"A fresh host with GitLab {_VERSION} and no data"):
        target = Sandbox.create(new, version=_VERSION)
    try:
        _point_at(made, old, new)
        with story.chapter("restore", "drtool restore latest --to local"):
            _restore(_app(made, story))
        rto = (story.clock.now() - lost_at).total_seconds()
        with story.chapter("compare", "Comparing what came back with what was lost"):
            after = take_census(target)
            opened, failed = doctor(target)
        differences = (*difference(before, after), *([f"{failed} encrypted values do not open"] if failed else []))
    finally:
        target.stop()
    if keep:
        subprocess.run([new / "opt/gitlab/bin/gitlab-ctl", "start"], check=True, stdout=subprocess.DEVNULL)
    ending = Ending(
        set_id=manifest.set_id,
        equal=not differences,
        differences=differences,
        projects=_PROJECTS,
        repositories=len(after.repositories),
        rows=sum(rows.count for rows in after.tables.values()),
        encrypted_values=opened,
        seconds=story.times,
        rpo_seconds=(lost_at - manifest.created_at).total_seconds(),
        rto_seconds=rto,
        kept_in=str(story.base) if keep else "",
    )
    return ending, _screen(ending, before, manifest.created_at, lost_at, listed[-1].stored_size, made)


def _initialise(story: _Story, host: Path) -> Made:
    store = story.base / "store"
    store.mkdir()
    made = initialise(
        story.base / "drtool",
        LocalRunner(),
        instance="demo",
        host=platform.node() or "demo",
        store=store,
        state=story.base / "state",
        prefix=host,
    )
    text = made.config.read_text()
    text = text.replace('# volume_size = "1 GiB"', f'volume_size = "{_VOLUME}"')
    text = text.replace('# identities = ["file:/path/to/identity.txt"]', 'identities = ["file:identity.txt"]')
    made.config.write_text(text)
    return made


def _app(made: Made, story: _Story) -> App:
    return dataclasses.replace(load(made.config, None, story.ui.emit), clock=story.clock)


def _tell_worth(manifest: Manifest, story: _Story) -> None:
    assert manifest.secrets is not None
    counts = {tally.name: tally.count for tally in manifest.contents}
    story.ui.say(
        f"  verdict {manifest.verdict}: {counts['projects']} projects, {counts['refs']} refs, {counts['rows']} rows\n"
        f"  secrets: {manifest.secrets.fit}; {manifest.secrets.opened} encrypted values open,"
        f" {manifest.secrets.failed} do not"
    )


def _verify(app: App, story: _Story) -> None:
    opened = app.open_set("latest", identities=app.identities())
    verdict = verify(opened, "contents", signed=True, clock=app.clock, emit=app.emit)
    if verdict.problems:
        raise RestoreFailed(f"the set does not verify: {verdict.problems[0]}")
    story.ui.say(
        f"  {verdict.volumes} volumes, {size_text(verdict.bytes_read)} unsealed and judged,"
        f" signature {verdict.signature}"
    )


def _pull_one_project(app: App, story: _Story) -> None:
    """Take one project out of the set and clone it, as somebody does whose colleague deleted it."""
    opened = app.open_set("latest", identities=app.identities())
    census = opened.read_census()
    project = next(each for each in census.projects if census.repositories[each.repository].refs)
    place = Place(opened, app.runner, app.clock, app.emit)
    extracted = extract_project(project.path, None, story.base / "one-project.bundle", place)
    clone = story.base / "one-project.git"
    app.runner.run(Command(("git", "clone", "--quiet", "--mirror", str(extracted.path), str(clone))))
    lines = app.runner.run(Command(("git", "-C", str(clone), "for-each-ref", "--format=%(objectname) %(refname)")))
    if RefSet.of(lines).digest != census.repositories[project.repository].digest:
        raise RestoreFailed(f"the clone of {project.path} has other refs than the backup")
    refs = census.repositories[project.repository].refs
    story.ui.say(
        f"  {project.path}: {size_text(extracted.size)} from {extracted.volumes} of {len(opened.manifest.volumes)}"
        f" volumes, cloned, all {refs} refs as they were"
    )


def _point_at(made: Made, old: Path, new: Path) -> None:
    made.config.write_text(made.config.read_text().replace(f'prefix = "{old}"', f'prefix = "{new}"'))


def _restore(app: App) -> None:
    opened = app.open_set("latest", identities=app.identities())
    request = Request(app.instance.name, app.install)
    place = app.restore_place(opened, app.runner)
    carry_out(prepare(request, place), request, place)


def _base(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="drtool-demo-"))
    try:
        keep.mkdir(parents=True, exist_ok=True)
        empty = not any(keep.iterdir())
    except OSError as problem:
        raise ConfigError(f"{keep}: {problem.strerror}", hint="Give --keep a new directory.") from problem
    if not empty:
        raise ConfigError(f"{keep}: is not empty", hint="Give --keep a new directory.")
    return keep.absolute()


def _screen(ending: Ending, before: Census, taken: datetime, lost_at: datetime, stored: int, made: Made) -> str:
    rows = [(name, seconds_text(seconds)) for name, seconds in ending.seconds.items()]
    compared = (
        f"{len(before.tables)} tables, {ending.rows} rows, {ending.repositories} repositories with every ref,"
        f" {len(before.components)} kinds of files"
    )
    verdict = "Equal" if ending.equal else f"DIFFERENT in {len(ending.differences)} points"
    lines = [
        "",
        table(rows, ("PHASE", "TIME")),
        "",
        f"Backup {ending.set_id}: {size_text(stored)}, sealed, signed, verified.",
        f"{verdict}: {compared}; {ending.encrypted_values} encrypted values open with the restored secrets.",
        f"RPO reached: {seconds_text(ending.rpo_seconds)} (data of {time_text(taken)}, lost {time_text(lost_at)}).",
        f"RTO reached: {seconds_text(ending.rto_seconds)}, from the loss to a GitLab that passes its checks.",
    ]
    lines += [f"  {entry}" for entry in ending.differences]
    if ending.kept_in:
        lines += _kept(ending, made)
    else:
        lines.append("Nothing is left behind; --keep DIR leaves it all, with a drtool.toml, to play with.")
    return "\n".join(lines)


def _kept(ending: Ending, made: Made) -> list[str]:
    return [
        f"Kept in {ending.kept_in}; GitLab's stand-in runs in {ending.kept_in}/new. Try:",
        f"  drtool list --config {made.config}",
        f"  drtool backup --config {made.config}",
        f"  {ending.kept_in}/new/opt/gitlab/bin/gitlab-ctl stop     when you are done",
    ]
