"""What is otherwise in another set, or on a living host, than in a set: told by their censuses."""

from __future__ import annotations

from dataclasses import dataclass

from drtool.catalog import BackupSet
from drtool.clock import Clock
from drtool.core.census import Difference, compare
from drtool.counting import as_a_backup_would, count_host
from drtool.events import Emit
from drtool.hosts import Runner
from drtool.installs.omnibus import Omnibus
from drtool.phases import phase


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two things by name, and what the second has otherwise than the first; at most twenty of a kind are listed."""

    first: str
    second: str
    differences: tuple[Difference, ...]


def diff_sets(first: BackupSet, second: BackupSet) -> Comparison:
    """Compare two sets. Raises MemberMissing for one without a census."""
    differences = compare(first.read_census(), second.read_census())
    return Comparison(first.manifest.set_id, second.manifest.set_id, differences)


def diff_host(backup_set: BackupSet, install: Omnibus, runner: Runner, *, clock: Clock, emit: Emit) -> Comparison:
    """Compare a set with a host as it is now. Reads every table once; counts files and refs. Raises HostUnfit."""
    then = backup_set.read_census()
    with phase("diff", f"Counting what {runner.name} holds", clock, emit):
        now = count_host(install, runner, clock.now())
    seen = as_a_backup_would(now, then, backup_set.manifest.gitlab.disabled)
    return Comparison(backup_set.manifest.set_id, runner.name, compare(then, seen))
