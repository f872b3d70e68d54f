"""One instance's life, night by night: a host, a bucket, a second one elsewhere, and a machine that watches over them.

The host has credentials for the first bucket alone, which may put, read, list, and delete without naming a version. All
else (copies, verification, prune, status) is done by the watcher, on another machine, with its own credentials and its
own signing key. The world has one time, which is the stores' and the watcher's; the host's clock may be wrong.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from drtool import backup, restore
from drtool.capabilities import Facts
from drtool.catalog import BackupSet, Catalog
from drtool.claims import Desk, Terms, tidy
from drtool.copy import copy
from drtool.core.command import Command
from drtool.core.model import time_of
from drtool.core.standing import Standing
from drtool.errors import DrtoolError
from drtool.events import Event
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus
from drtool.lease import Holder, Lease, leased, take
from drtool.locking import lock_rule
from drtool.metrics import registry_of
from drtool.policies import Policy
from drtool.prune import Pruned, prune
from drtool.receipts import RecordOffice, verify_on_record
from drtool.report_status import WELL, status_text
from drtool.restore_plan import Wanted
from drtool.signing import Signer, Verifier, make_key
from drtool.status import Sources
from drtool.status import status as look
from drtool.stores import Store
from drtool.streams import generate_identity, parse_identities
from drtool.verify import Level, Verdict
from tests.bucket import Bucket, BucketStore
from tests.lives import RememberingVerifier
from tests.toyhost import SALT, ToyClock

INSTANCE = "gitlab"
BEGINNING = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


class HostClock:
    """The host's own clock: the world's time, and by how much it is wrong."""

    def __init__(self, world: ToyClock) -> None:
        self._world = world
        self.skew = timedelta(0)

    def now(self) -> datetime:
        return self._world.now() + self.skew

    def monotonic(self) -> float:
        return self._world.monotonic()

    def sleep(self, duration: timedelta) -> None:
        self._world.sleep(duration)


class SteadyRunner(LocalRunner):
    """Runs everything, but asks only once what machine this is: half of a toy's backup would be that."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, bytes] = {}

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        text = str(command)
        if not text.startswith("sh -c") or "show()" not in text:
            return super().run(command, stdin=stdin)
        if text not in self._known:
            self._known[text] = super().run(command, stdin=stdin)
        return self._known[text]


@dataclass
class Machine:
    """A machine with GitLab and drtool on it. ``key`` is its signing key, ``credentials`` those for the bucket."""

    install: Omnibus
    state: Path
    key: Path
    credentials: str
    clock: HostClock
    runner: LocalRunner = field(default_factory=SteadyRunner)

    @property
    def public_key(self) -> str:
        return self.key.with_name(f"{self.key.name}.pub").read_text().strip()


@dataclass(frozen=True)
class Seen:
    """What one look at the status said."""

    at: datetime
    exit_status: int
    text: str
    complaints: str


class Year:
    """The world. Each step is one that a timer or an operator takes; what it raises goes through."""

    def __init__(self, base: Path, install: Omnibus, policy: Policy) -> None:
        self.base = base
        self.policy = policy
        self.clock = ToyClock(BEGINNING)
        self.main, self.second = Bucket("main", self.clock), Bucket("second", self.clock)
        self.identity = generate_identity()
        self.identities = tuple(parse_identities([("identity", self.identity[0].encode())]))
        self.host = self.new_machine(install, "host")
        self.watcher = self.new_machine(install, "watcher")
        self.trusted = [self.host.public_key, self.watcher.public_key]
        self.events: list[Event] = []
        self.chance = random.Random(7)
        self.ledger: dict[str, dict[str, bytes]] = {}
        """What every set that was ever reported as good consisted of, as it lay in the bucket at that moment."""
        self._read: dict[str, set[str]] = {"main": set(), "second": set()}
        self._verifiers: dict[tuple[str, ...], Verifier] = {}
        self.counts = False
        """Whether a restored host can be counted: a toy has no database to ask."""
        self._tokens = iter(range(1, 1 << 16))

    def new_machine(self, install: Omnibus, name: str) -> Machine:
        state = self.base / name
        state.mkdir(parents=True)
        key = self.base / f"{name}.key"
        make_key(key, LocalRunner(), comment=name)
        return Machine(install, state, key, name, HostClock(self.clock))

    @property
    def verifier(self) -> Verifier:
        trusted = tuple(self.trusted)
        if trusted not in self._verifiers:
            self._verifiers[trusted] = RememberingVerifier(Verifier(trusted, LocalRunner()))
        return self._verifiers[trusted]

    def catalog(self, bucket: Bucket, machine: Machine | None = None, store: Store | None = None) -> Catalog:
        """The sets in a bucket, as a machine reaches them: the watcher, unless another is named."""
        who = machine or self.watcher
        assert self.policy.lock
        found = store or cast(Store, BucketStore(bucket, who.credentials))
        return Catalog(found, INSTANCE, lock=lock_rule(self.policy.lock.duration, who.clock))

    def advance(self, to: datetime) -> None:
        self.clock.advance(max(to - self.clock.now(), timedelta(0)))

    # What runs by itself

    def back_up(self, machine: Machine | None = None, store: Store | None = None) -> str:
        """Back up; gives the set. What was reported as good goes into the ledger."""
        who = machine or self.host
        self.clock.advance(timedelta(seconds=1))
        recipients = (self.identity[1],)
        order = backup.Order(INSTANCE, who.install, "age", recipients, recipients, 1 << 20)
        place = backup.Place(
            self.catalog(self.main, who, store),
            who.runner,
            Signer(who.key, who.runner),
            who.state,
            who.clock,
            self.events.append,
            self._token,
            lambda: SALT,
            self.verifier,
        )
        set_id = backup.back_up(order, place).manifest.set_id
        self.note(set_id)
        return set_id

    def note(self, set_id: str) -> None:
        """Put a set into the ledger, as it lies in the bucket now."""
        folder = f"{INSTANCE}/sets/{set_id}/"
        self.ledger[set_id] = {key: self.content(self.main, key) for key in self.main.keys(folder)}

    def copy(self) -> list[str]:
        """Let the watcher fetch what is newer than its newest copy, and what is dated in the future."""
        source, target = self.catalog(self.main), self.catalog(self.second)
        now = self.clock.now() + HOUR
        there = target.set_ids()
        newest = max((set_id for set_id in there if time_of(set_id) <= now), default="")
        wanted = [each for each in source.set_ids() if each > newest and each not in there]
        with self._leased(target, "a copy") as fenced:
            for set_id in wanted:
                opened = BackupSet(source, source.read_manifest(set_id, self.verifier))
                copy(opened, fenced, clock=self.clock, emit=self.events.append)
        return wanted

    def verify(self, *, everything: bool = False) -> list[Verdict]:
        """Read every set that was never read, in both buckets; with ``everything`` all of them. On the record."""
        verdicts = []
        for bucket in (self.main, self.second):
            catalog = self.catalog(bucket)
            for set_id in catalog.set_ids():
                if everything or set_id not in self._read[bucket.name]:
                    with suppress(DrtoolError):  # a manifest that is not believed is for status to tell
                        verdicts.append(self.verify_one(catalog, set_id, "digest"))
                        self._read[bucket.name].add(set_id)
        return verdicts

    def verify_newest_contents(self) -> Verdict:
        catalog = self.catalog(self.main)
        now = self.clock.now() + HOUR
        return self.verify_one(catalog, max(each for each in catalog.set_ids() if time_of(each) <= now), "contents")

    def verify_one(self, catalog: Catalog, set_id: str, level: Level) -> Verdict:
        opened = BackupSet(catalog, catalog.read_manifest(set_id, self.verifier), self.identities)
        signer = Signer(self.watcher.key, self.watcher.runner)
        office = RecordOffice(signer, self.verifier, True, self.clock, self.events.append, self._token)
        return verify_on_record(opened, level, office)

    def prune(self, bucket: Bucket) -> Pruned:
        assert self.policy.lock
        with self._leased(self.catalog(bucket), "a prune") as catalog:
            pruned = prune(
                catalog,
                self.policy.retention.as_retention(),
                verifier=self.verifier,
                clock=self.clock,
                emit=self.events.append,
                locked_for=self.policy.lock.duration,
            )
            tidy(catalog)
            return pruned

    def status(self, machine: Machine | None = None) -> Seen:
        """What ``status`` says on the watcher, or on the machine named; told in every way it is told."""
        who = machine or self.watcher
        store = BucketStore(self.main, who.credentials)
        sources = Sources(
            instance=INSTANCE,
            store=("main", lambda: self.catalog(self.main, who)),
            copies=[("second", lambda: self.catalog(self.second))],
            facts=lambda: Facts(locked_until=store.locked_until),
            policy=self.policy,
            verifier=self.verifier,
            runner=who.runner,
            install=who.install,
            state=who.state,
            clock=who.clock if machine else self.clock,
            emit=self.events.append,
        )
        return _told(look(sources))

    def drill(self, target: Omnibus, set_id: str | None = None, bucket: Bucket | None = None) -> restore.Outcome:
        """Restore a set (the newest) onto a host that holds nothing, with the identity from the safe."""
        self.clock.advance(timedelta(seconds=1))
        found = self.catalog(bucket or self.main)
        name = set_id or max(each for each in found.set_ids() if time_of(each) <= self.clock.now())
        opened = BackupSet(found, found.read_manifest(name, self.verifier), self.identities)
        state = self.base / f"drill-{self.clock.now():%Y%m%d%H%M%S}"
        request = restore.Request(INSTANCE, target, Wanted(count=self.counts), None)
        signer = Signer(self.watcher.key, self.watcher.runner)
        place = restore.Place(LocalRunner(), opened, signer, state, self.clock, self.events.append, self._token)
        return restore.carry_out(restore.prepare(request, place), request, place)

    # What can be seen without drtool

    def content(self, bucket: Bucket, key: str) -> bytes:
        version = bucket.find(key)
        assert version
        assert version.content is not None
        return version.content

    def restorable(self, bucket: Bucket) -> set[str]:
        """The sets of the ledger whose every byte lies in the bucket as it lay there once; hidden ones are not."""
        shown = {key: bucket.find(key) for key in bucket.keys(f"{INSTANCE}/sets/")}
        marked = {key.split("/")[2] for key in shown if key.endswith("/deleting")}

        def is_there(key: str, content: bytes) -> bool:
            version = shown.get(key)
            return version is not None and version.content == content

        return {
            set_id
            for set_id, objects in self.ledger.items()
            if set_id not in marked and all(is_there(*each) for each in objects.items())
        }

    # What others do to it

    @contextmanager
    def another_at_work(self) -> Iterator[Lease]:
        """Let somebody else's backup hold the lease, alive, as long as the block lasts."""
        other = self.base / "other"
        other.mkdir(exist_ok=True)
        catalog = self.catalog(self.main, self.host)
        with leased(catalog, other, purpose="a backup", clock=self.clock, emit=self.events.append) as fenced:
            lease = cast(Lease, fenced.fence)
            self.clock.meanwhile = lease.beat
            try:
                yield lease
            finally:
                self.clock.meanwhile = int

    def die_with_the_lease(self) -> None:
        """Let somebody else's backup take the lease, and never be heard of again."""
        desk = Desk(self.catalog(self.main, self.host), self.clock, self.events.append, Terms())
        take(desk, Holder("another-host", "a backup", "somebody else"), self.clock.monotonic())

    def _leased(self, catalog: Catalog, purpose: str) -> AbstractContextManager[Catalog]:
        return leased(catalog, self.watcher.state, purpose=purpose, clock=self.clock, emit=self.events.append)

    def _token(self) -> str:
        return f"{next(self._tokens):04x}"


def _told(standing: Standing) -> Seen:
    """Read the standing as people and monitoring do, and see that both hear the same (I8)."""
    text = status_text([standing])
    registry = registry_of([standing])
    told = registry.get_sample_value("drtool_status_exit_status", {"instance": INSTANCE})
    assert told == standing.exit_status
    assert (text.splitlines()[-1] == WELL) == (standing.exit_status == 0)
    broken = [each for each in standing.objectives if each.verdict in ("breached", "unknown")]
    found = [each for each in standing.findings if each.severity == "red"]
    assert bool(broken or found) == bool(standing.exit_status)
    said = [f"{each.name} {each.verdict} {each.detail}".strip() for each in broken] + [
        f"{each.code}: {each.message}" for each in standing.findings
    ]
    return Seen(standing.at, standing.exit_status, text, "; ".join(said))
