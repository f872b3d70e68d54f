"""kill -9 at random moments: the same command again ends well (I3, I5, I7). The real commands, on a real PostgreSQL.

Only drtool is killed. What it had started lives on, as it does after the out-of-memory killer or a closed terminal.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from drtool.app import App, load
from drtool.clock import SystemClock
from drtool.demo.census import Census, difference, doctor, take_census
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.events import ignore
from drtool.gitlab.archive import ARCHIVE_SUFFIX
from drtool.hosts.local import LocalRunner
from drtool.initialise import initialise
from drtool.journal import journals
from drtool.verify import verify
from tests import sandboxes
from tests.toyhost import read_members

pytestmark = [pytest.mark.engine("postgresql"), pytest.mark.slow]

VERSION = "18.9.1-ee"
KILLS = 8  # per lane
LANES = (1, 2)  # seeds; two, because the tests' host has two processors at least
DRTOOL = Path(sys.executable).with_name("drtool")


@dataclass(frozen=True)
class Site:
    """A seeded sandbox, its census, and a configuration that backs it up into a directory."""

    base: Path
    host: Sandbox
    census: Census
    config: Path

    @property
    def app(self) -> App:
        return load(self.config, None, ignore)

    def configure(self, state: Path, host: Path) -> Path:
        """Write a configuration for another host, with the same keys and store, and a state directory of its own."""
        text = self.config.read_text().replace(f'prefix = "{self.host.root}"', f'prefix = "{host}"')
        config = self.config.with_name(f"{state.name}.toml")
        config.write_text(text.replace(f'state_dir = "{self.base / "state"}"', f'state_dir = "{state}"'))
        return config


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Site]]:
    """One site per lane."""
    sandboxes.require()
    with ExitStack() as stack:
        yield [_site(tmp_path_factory.mktemp(f"lane-{lane}"), stack) for lane in LANES]


def _site(base: Path, stack: ExitStack) -> Site:
    host = stack.enter_context(sandboxes.fresh(base / "host", version=VERSION))
    seed(host, projects=2, bulk_bytes=3 << 20)
    store = base / "store"
    store.mkdir()
    made = initialise(
        base / "drtool",
        LocalRunner(),
        instance="killed",
        host="sandbox",
        store=store,
        state=base / "state",
        prefix=host.root,
    )
    text = made.config.read_text().replace('# volume_size = "1 GiB"', 'volume_size = "512 KiB"')
    text = text.replace('# identities = ["file:/path/to/identity.txt"]', 'identities = ["file:identity.txt"]')
    made.config.write_text(text)
    return Site(base, host, take_census(host), made.config)


def test_backup_killed_anywhere_is_made_good_by_the_next_one(sites: list[Site]) -> None:
    assert sum(_in_lanes(_kill_backups, sites)) > len(sites) * KILLS // 2


def test_restore_killed_anywhere_ends_with_the_same_census(sites: list[Site]) -> None:
    assert sum(_in_lanes(_kill_restores, sites)) > len(sites) * KILLS // 2


def _in_lanes(work: Callable[[Site, random.Random], int], sites: list[Site]) -> list[int]:
    """Do the same at every site at once: what takes the time is other processes."""
    with ThreadPoolExecutor(len(sites)) as pool:
        return list(pool.map(work, sites, [random.Random(lane) for lane in LANES]))


def _kill_backups(site: Site, moments: random.Random) -> int:
    command = ("backup", "--config", str(site.config))
    seconds, killed = _time(command), 0
    assert len(site.app.open_set("latest").manifest.archive("application").volumes) > 4
    for _ in range(KILLS):
        before = site.app.catalog.set_ids()
        killed += _kill(command, moments.uniform(0, seconds))
        _finish(command)
        after = site.app.catalog.set_ids()
        assert after[: len(before)] == before
        assert len(after) > len(before)
        for set_id in (before[0], *after[len(before) - 1 :]):
            _is_whole(site.app, set_id)
        assert list(site.host.backups.iterdir()) == []
    return killed


def _kill_restores(site: Site, moments: random.Random) -> int:
    _finish(("backup", "--config", str(site.config)))
    set_id = site.app.resolve("latest", site.app.catalog)
    seconds, killed = 0.0, 0
    for number in range(KILLS + 1):
        place, state = site.base / f"target-{number}", site.base / f"target-{number}-state"
        with sandboxes.fresh(place / "host", version=VERSION) as target:
            command = ("restore", set_id, "--to", "local", "--yes", "--config", str(site.configure(state, target.root)))
            if number == 0:
                seconds = _time(command)
            else:
                killed += _kill(command, moments.uniform(0, seconds))
                if not _ended(state):
                    _finish(command)
            _is_restored(site, target)
        shutil.rmtree(place)
    return killed


def _time(command: tuple[str, ...]) -> float:
    begun = time.monotonic()
    _finish(command)
    return time.monotonic() - begun


def _finish(command: tuple[str, ...]) -> None:
    done = subprocess.run([DRTOOL, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _kill(command: tuple[str, ...], after: float) -> bool:
    """Start it and kill it after so many seconds; False when it had ended before."""
    with subprocess.Popen([DRTOOL, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            return process.wait(timeout=after) != 0
        except subprocess.TimeoutExpired:
            process.kill()
            return True


def _ended(state: Path) -> bool:
    """Whether the run had written its last line: then there is nothing to take up, and the target holds data."""
    return any(
        entry["step"] == "receipt" for journal in journals(state, "restore-") for entry in journal.all("finished")
    )


def _is_restored(site: Site, target: Sandbox) -> None:
    assert difference(site.census, take_census(target)) == []
    opened, failed = doctor(target)
    assert opened > 0
    assert failed == 0
    assert [path for path in target.backups.iterdir() if not path.name.endswith(ARCHIVE_SUFFIX)] == []


def _is_whole(app: App, set_id: str) -> None:
    opened = app.open_set(set_id, identities=app.identities())
    assert verify(opened, "digest", signed=True, clock=SystemClock(), emit=ignore).problems == ()
    for archive, names in opened.read_index().items():
        assert read_members(opened, archive) == [member.name for member in names]
