"""A year of nights, in which whatever can go wrong does, and ``status`` says so on the same day and on no other.

Every night a backup, a copy to a second bucket, the verification that the policy ``business`` wants, at nine in the
morning ``status``, then whatever the operator does about it, and a prune. ``TROUBLES`` is the year's script: what goes
wrong in which night, and by what words ``status`` must tell it. On every other morning it must be green, and it must
be green in the evening of the day on which all was put right; so a failure that it misses, an alarm without a reason
and an alarm that never ends all fail the test. ``live`` holds the promises against every single night.

What is where: the whole year is lived by the toy host (tests/toyhost.py): its GitLab is a few lines of shell, and its
backup takes a fifth of a second: 365 backups of the sandbox would take many minutes. The sandbox, with its real
PostgreSQL and git, lives the nights around the thief, is restored after him and at the end, and is compared row by row.
Both use the real use cases, real keys, seals and signatures, and buckets that keep versions and locks as S3 does
(tests/bucket.py); the real servers' locks are tried in tests/contracts. There is no command for a drill yet: here it
is a real restore, with the receipt written by the test. The console is not started: that status, JSON, text and metrics
agree is tested in tests/unit/test_status_agrees.py, and here every night but for JSON.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Literal, cast

import pytest

from drtool.catalog import MANIFEST, BackupSet
from drtool.clock import SystemClock
from drtool.core.model import Manifest, new_set_id, parse_manifest, time_of
from drtool.demo.census import difference, take_census
from drtool.demo.sandbox import Sandbox
from drtool.demo.seed import seed
from drtool.errors import BackupFailed, Busy, DrtoolError, SetDamaged, StoreAccessDenied, StoreError, StoreFull
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus
from drtool.marks import Pin, write_pin, write_tombstone
from drtool.policies import read_policy, shipped_policy
from drtool.prune import Pruned, pin
from drtool.signing import Signer
from drtool.stores import Store
from drtool.stores.conformance import CHECKS, NotApplicable, Subject
from drtool.stores.conformance import run as run_checks
from drtool.stores.faults import Crash, FaultyStore
from drtool.verify import verify
from tests import sandboxes
from tests.bucket import Bucket, BucketStore
from tests.faults.test_false_green import switched
from tests.faults.test_false_green_toy import Break, broken, failing, script, secrets
from tests.toyhost import SECRET, ToyClock, ToyHost
from tests.year import BEGINNING, DAY, HOUR, INSTANCE, Seen, Year

NIGHTS = 365
POLICY = read_policy(shipped_policy("business"))
USERS = 40
DRILLS = (0, 95, 290)  # and those of the troubles


@dataclass
class Life:
    """A year, the host it is about, and what is the matter with it at the moment."""

    year: Year
    toy: ToyHost | None = None
    host_is_up: bool = True
    faulty: Callable[[Store], Store] | None = None
    drill_on: Callable[[], None] = lambda: None
    history: list[Day] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What status missed, or told without a reason: collected, so that one run tells of the whole year."""

    def back_up(self) -> str:
        store: Store = cast(Store, BucketStore(self.year.main, self.year.host.credentials))
        return self.year.back_up(store=self.faulty(store) if self.faulty else store)


@dataclass(frozen=True)
class Day:
    """What became of one day."""

    night: int
    backup: str
    morning: Seen
    evening: Seen | None
    trouble: str


@dataclass(frozen=True)
class Trouble:
    """What goes wrong from one night on, until the context that ``begins`` it is left: on the last day, at ten.

    ``ends`` is how that night's backup ends, None for well. ``says`` is what status says every morning: None where no
    promise is broken, and it must stay green. For so many mornings it is ``unseen``, because nobody could have seen it,
    and for so many ``after`` it was put right it is still told. ``host_says``: what status says on the host itself.
    ``when``: before the night's backup, or after it was copied and before it is verified.
    """

    night: int
    what: str
    begins: Callable[[Life], AbstractContextManager[object]]
    says: str | None
    ends: type[BaseException] | None = None
    nights: int = 1
    unseen: int = 0
    after: int = 0
    host_says: str | None = None
    when: Literal["before backup", "before verify"] = "before backup"
    again: bool = True

    @property
    def last(self) -> int:
        return self.night + self.nights - 1

    def expects(self, night: int) -> str | None:
        return self.says if self.night + self.unseen <= night <= self.last + self.after else None


# -- what goes wrong -------------------------------------------------------------------------------------------------


def on_host(how: Break) -> Callable[[Life], AbstractContextManager[object]]:
    """Break the toy, and make it as it was."""

    def begin(life: Life) -> AbstractContextManager[object]:
        assert life.toy
        return broken(life.toy, how)

    return begin


def outage(name: Literal["main", "second"]) -> Callable[[Life], AbstractContextManager[object]]:
    @contextmanager
    def begin(life: Life) -> Iterator[None]:
        bucket: Bucket = getattr(life.year, name)
        bucket.down = True
        yield
        bucket.down = False

    return begin


@contextmanager
def full(life: Life) -> Iterator[None]:
    life.year.main.capacity = life.year.main.used
    yield
    life.year.main.capacity = None


def killed(nth: int, when: Literal["before", "during", "after"]) -> Callable[[Life], AbstractContextManager[object]]:
    """Let drtool die at its n-th put; nothing of it reaches the store afterwards, also not the end of its lease."""

    @contextmanager
    def begin(life: Life) -> Iterator[None]:
        def faulty(store: Store) -> Store:
            made = FaultyStore(store)
            made.fail_at(nth, when, Crash(), method="put")
            return cast(Store, made)

        life.faulty = faulty
        yield
        life.faulty = None

    return begin


@contextmanager
def away(life: Life) -> Iterator[None]:
    life.host_is_up = False
    yield
    life.host_is_up = True


def clock(skew: timedelta) -> Callable[[Life], AbstractContextManager[object]]:
    @contextmanager
    def begin(life: Life) -> Iterator[None]:
        life.year.host.clock.skew = skew
        yield
        life.year.host.clock.skew = timedelta(0)

    return begin


def flipped(which: int) -> Callable[[Life], AbstractContextManager[object]]:
    """Flip a bit of a volume; the operator copies the good one over it, and verifies the set again."""

    @contextmanager
    def begin(life: Life) -> Iterator[None]:
        year = life.year
        catalog = year.catalog(year.main)
        set_id = present(life, year.main)[which]
        key = catalog.key(set_id, "application-0000.tar.age")
        year.main.rot(key)
        yield
        good = year.content(year.second, key)
        catalog.put_bytes(key, good, lock_until=catalog.lock_until(set_id))
        assert year.verify_one(catalog, set_id, "digest").problems == ()

    return begin


def manifest_deleted(which: int) -> Callable[[Life], AbstractContextManager[object]]:
    """Delete a manifest at the provider's console; the operator removes the delete marker."""

    @contextmanager
    def begin(life: Life) -> Iterator[None]:
        year = life.year
        key = year.catalog(year.main).key(present(life, year.main)[which], MANIFEST)
        year.main.add(key, None)
        yield
        year.main.remove(key, year.main.versions(key)[-1])

    return begin


@contextmanager
def key_replaced(life: Life) -> Iterator[None]:
    """Make a new signing key on the host and tell nobody; the operator then trusts it beside the old one."""
    year = life.year
    year.host = replace(year.host, key=year.new_machine(year.host.install, "new-key").key)
    yield
    year.trusted.append(year.host.public_key)


@contextmanager
def lease_of_the_dead(life: Life) -> Iterator[None]:
    life.year.die_with_the_lease()
    yield


@contextmanager
def another_host(life: Life) -> Iterator[None]:
    with life.year.another_at_work():
        yield


@contextmanager
def drill_forgotten(life: Life) -> Iterator[None]:
    yield
    life.drill_on()


def users(count: int) -> Break:
    """Let the toy's database hold so many users."""

    def change(host: ToyHost) -> None:
        path = host.root / "canned/db/database.sql.gz"
        sql = gzip.decompress(path.read_bytes())
        head, _, rest = sql.partition(b"COPY public.users (id, username, created_at) FROM stdin;\n")
        _, _, tail = rest.partition(b"\\.\n")
        rows = b"".join(b"%d\tuser-%d\t2026-01-01 00:00:00\n" % (number, number) for number in range(1, count + 1))
        copy = b"COPY public.users (id, username, created_at) FROM stdin;\n"
        path.write_bytes(gzip.compress(head + copy + rows + b"\\.\n" + tail, mtime=0))

    return change


SILENT = failing(stderr="pg_dump: error: no", status=0)
DISK_FULL = failing(stderr="gzip: write error: No space left on device", status=1)
GITLAB_KILLED = script("for name in uploads lfs; do", "kill -9 $$; for name in; do")
UNFIT = secrets(f'{{"gitlab_rails": {{"db_key_base": "{SECRET[::-1]}"}}}}')
LATE = r"rpo breached"
EARLY = r"rpo breached.*dated in the future"
GONE = r"main: cannot be reached"
TROUBLES = (
    Trouble(9, "GitLab's backup fails, and ends with 0", on_host(SILENT), LATE, BackupFailed),
    Trouble(17, "the host's disk is full", on_host(DISK_FULL), LATE, BackupFailed),
    Trouble(25, "the store is down for three days", outage("main"), GONE, StoreError, nights=3),
    Trouble(33, "the store is full", full, LATE, StoreFull),
    Trouble(41, "drtool is killed while it sends", killed(2, "during"), LATE, Crash),
    Trouble(45, "drtool is killed before its manifest", killed(7, "before"), LATE, Crash),
    Trouble(49, "drtool is killed after its manifest", killed(7, "after"), None, Crash),
    Trouble(53, "GitLab's backup is killed", on_host(GITLAB_KILLED), LATE, BackupFailed),
    Trouble(57, "the host is down for a week", away, LATE, nights=7),
    Trouble(70, "the host's clock is three hours ahead", clock(3 * HOUR), EARLY, host_says=LATE),
    Trouble(77, "the host's clock is three hours behind", clock(-3 * HOUR), None),
    Trouble(84, "the host's clock is a year ahead", clock(365 * DAY), EARLY, host_says=LATE),
    Trouble(92, "a bit flips in the newest set", flipped(-1), "damaged: ", when="before verify", again=False),
    Trouble(99, "the newest manifest is deleted", manifest_deleted(-1), LATE, when="before verify", again=False),
    Trouble(115, "a bit flips in an old set, which is read on Sunday", flipped(5), "damaged: ", nights=3, unseen=2,
            when="before verify", again=False),
    Trouble(120, "the host signs with a key that nobody knows", key_replaced, "not-believed", again=False),
    Trouble(127, "the secrets do not fit the database", on_host(UNFIT), "the newest, is red", SetDamaged),
    Trouble(134, "most of the database was deleted by mistake", on_host(users(USERS // 10)),
            "removal breached frozen: .*less than half", after=1),
    Trouble(141, "a dead run of another host left its lease", lease_of_the_dead, None),
    Trouble(148, "another host backs up at the same time", another_host, LATE, Busy),
    Trouble(155, "drtool is killed while it takes the lease", killed(1, "after"), LATE, Crash),
    Trouble(195, "nobody drilled for a hundred days", drill_forgotten, "drill_age breached", nights=5, again=False),
    Trouble(210, "the second store is down for two days", outage("second"), "second: cannot be reached", nights=2),
    Trouble(230, "drtool is killed once more", killed(4, "after"), LATE, Crash),
    Trouble(240, "the store is full once more", full, LATE, StoreFull),
    Trouble(300, "the host's clock jumps, and nobody looks for two days", clock(2 * DAY), EARLY, host_says=LATE,
            nights=2),
)  # fmt: skip


# -- the thief -------------------------------------------------------------------------------------------------------


def rob(life: Life) -> None:
    """Do what somebody can who is root on the host: all of it, in one night.

    He has the host's credentials and its signing key. What he tries and the bucket refuses is asserted here: what is
    left to him is to hide objects, to cover them with others, and to sign.
    """
    year = life.year
    store = BucketStore(year.main, year.host.credentials)
    signer = Signer(year.host.key, LocalRunner())
    catalog = year.catalog(year.main, year.host)
    good = present(life, year.main)
    models = {set_id: year.ledger[set_id] for set_id in good}
    for set_id in good:
        for key in models[set_id]:
            (version,) = [each for each in year.main.versions(key) if each == year.main.find(key)]
            with pytest.raises(StoreAccessDenied):
                store.delete_version(key, version.number)
            assert version.locked_until
            assert version.locked_until > year.clock.now()
            with pytest.raises(StoreAccessDenied):
                store.set_lock(key, year.clock.now() + timedelta(minutes=1))
    for set_id in good[-3:]:
        _lie(life, set_id, problems=1, signer=signer)  # "your newest are damaged"
    for number in range(60):  # forged sets that verify, of tomorrow, of next year, and of every hour of last month
        dated = year.clock.now() + (number - 50) * HOUR * 13 + (number > 55) * 365 * DAY
        _forge(life, models[good[-1]], good[-1], new_set_id(dated, f"{number:04x}"), signer)
    for number in range(140):  # and noise that nobody signed
        catalog.put_bytes(catalog.key(new_set_id(year.clock.now(), f"f{number:03x}"), MANIFEST), b"{}")
    forged = new_set_id(year.clock.now() - 2 * 13 * HOUR, f"{48:04x}")
    write_pin(catalog, Pin(forged, "all is as it should be", "root", year.clock.now(), baseline=True), signer)
    for set_id in good[-5:]:  # cover the newest, hide the others
        for key in models[set_id]:
            store.put(key, io.BytesIO(year.chance.randbytes(500)))
    for set_id in good[:-8]:
        store.delete(models[set_id])
    for set_id in good[-8:-5]:
        write_tombstone(catalog, set_id, year.clock.now(), "no rule keeps it")
    store.put(f"{INSTANCE}/lease/000000009999", io.BytesIO(b"{}"))


def _forge(life: Life, model: dict[str, bytes], old: str, new: str, signer: Signer) -> None:
    """Copy a set under another name, sign its manifest, and sign that it was verified."""
    catalog = life.year.catalog(life.year.main, life.year.host)
    manifest = parse_manifest(model[catalog.key(old, MANIFEST)], source=old)
    for key, content in model.items():
        if MANIFEST not in key:
            catalog.put_bytes(key.replace(old, new), content)
    catalog.commit(replace(manifest, set_id=new), signer)
    _lie(life, new, problems=0, signer=signer, manifest=manifest)


def _lie(life: Life, set_id: str, *, problems: int, signer: Signer, manifest: Manifest | None = None) -> None:
    now = life.year.clock.now()
    receipt = {
        "format": 1,
        "purpose": "verify",
        "instance": INSTANCE,
        "set_id": set_id,
        "level": "digest",
        "signature": "valid",
        "finished_at": now.isoformat(),
        "good": [volume.name for volume in manifest.volumes] if manifest else [],
        "problems": problems,
    }
    name = f"verify-{set_id}-{now:%Y%m%dT%H%M%SZ}-ffff"
    life.year.catalog(life.year.main, life.year.host).put_receipt(name, json.dumps(receipt).encode(), signer)


def thief(move: Callable[[Life], Omnibus]) -> Callable[[Life], AbstractContextManager[object]]:
    """Rob the host, and follow runbooks/ransomware.md in the morning. ``move`` restores onto a new host."""

    @contextmanager
    def begin(life: Life) -> Iterator[None]:
        year = life.year
        good, before = present(life, year.main), year.clock.now()
        assert set(good) <= year.restorable(year.second)
        year.clock.advance(timedelta(minutes=1))
        rob(life)
        life.host_is_up = False
        assert set(good) <= year.restorable(year.second)
        yield
        year.main.revoked.add(year.host.credentials)
        for bucket in (year.main, year.second):  # in the second too: what the thief signed was copied meanwhile
            bucket.rewind(before)
            assert set(good) <= year.restorable(bucket)
        catalog = year.catalog(year.main)
        for level in ("digest", "contents"):
            assert year.verify_one(catalog, good[-1], level).problems == ()
        pin(catalog, good[-1], reason="the last one before the break-in", by="operator", clock=year.clock)
        install = move(life)
        year.host = year.new_machine(install, "host-after")
        year.trusted.append(year.host.public_key)
        life.host_is_up = True

    return begin


THIEF = r"removal breached frozen|damaged: |no-set|not-believed"


# -- a day -----------------------------------------------------------------------------------------------------------


def present(life: Life, bucket: Bucket) -> list[str]:
    """The good sets that are not from the future, oldest first."""
    now = life.year.clock.now() + HOUR
    return sorted(each for each in life.year.restorable(bucket) if time_of(each) <= now)


def live(life: Life, nights: Sequence[int], troubles: Sequence[Trouble]) -> None:
    """Live these nights, and hold every promise against each."""
    by_night = {each.night: each for each in troubles}
    assert len(by_night) == len(troubles)
    current: Trouble | None = None
    fading: Trouble | None = None
    with ExitStack() as until_right:
        for night in nights:
            year = life.year
            year.advance(BEGINNING + night * DAY)
            if begun := by_night.get(night):
                assert current is None
                current = begun
            trouble = current
            if trouble and trouble.night == night and trouble.when == "before backup":
                until_right.enter_context(trouble.begins(life))
            ended = _nightly_backup(life, trouble, night)
            _attempt(year.copy)
            if trouble and trouble.night == night and trouble.when == "before verify":
                until_right.enter_context(trouble.begins(life))
            _watch(life, night, trouble)
            if night in DRILLS:
                life.drill_on()
            year.advance(BEGINNING + night * DAY + 6 * HOUR)
            morning = year.status()
            _judge_morning(life, night, morning, trouble or fading)
            if trouble and trouble.host_says and night == trouble.night:
                on_host_ = year.status(year.host)
                if not (on_host_.exit_status and re.search(trouble.host_says, on_host_.complaints)):
                    life.wrong.append(f"night {night}, on the host: {on_host_.complaints}")
            evening = None
            if trouble and trouble.last == night:
                until_right.close()
                current = None
                fading = trouble if trouble.after else fading
                evening = _put_right(life, trouble, night)
            if fading and night >= fading.last + fading.after:
                fading = None
            _prune(life)
            life.history.append(Day(night, ended, morning, evening, trouble.what if trouble else ""))


def _nightly_backup(life: Life, trouble: Trouble | None, night: int) -> str:
    """Let the timer start a backup; I2 and I3 hold whatever comes of it."""
    year = life.year
    buckets = (year.main, year.second)
    before = [year.restorable(bucket) for bucket in buckets]
    expected = trouble.ends if trouble and trouble.night <= night <= trouble.last else None
    ended: BaseException | None = None
    set_id = ""
    if life.host_is_up:
        try:
            set_id = life.back_up()
        except (DrtoolError, Crash) as problem:
            ended = problem
    assert (type(ended) if ended else None) is expected or isinstance(ended, expected or Crash), (night, ended)
    for kept, bucket in zip(before, buckets, strict=True):
        assert kept <= year.restorable(bucket), f"night {night}: {ended}"
    if isinstance(ended, Crash):
        for found in year.catalog(year.main).set_ids():  # what died after its manifest left a set (I2)
            if found not in year.ledger and time_of(found) > year.clock.now() - HOUR:
                year.note(found)
    if set_id and set_id in year.catalog(year.main).set_ids() and year.host.public_key in year.trusted:
        catalog = year.catalog(year.main)
        opened = BackupSet(catalog, catalog.read_manifest(set_id, year.verifier))
        assert verify(opened, "digest", signed=True, clock=year.clock, emit=year.events.append).problems == ()  # I1
    return f"{type(ended).__name__}: {ended}" if ended else set_id or "no host"


def _watch(life: Life, night: int, trouble: Trouble | None) -> None:
    """Verify by the policy's rhythm, and on Sundays a set by chance whole: what is listed as verified is restorable."""
    year = life.year
    sunday = (BEGINNING + night * DAY).isoweekday() == 7
    _attempt(lambda: year.verify(everything=sunday))
    if sunday or night == 0:
        _attempt(year.verify_newest_contents)
    if sunday and trouble is None:
        bucket = year.chance.choice((year.main, year.second))
        catalog = year.catalog(bucket)
        set_id = year.chance.choice(catalog.set_ids())
        opened = BackupSet(catalog, catalog.read_manifest(set_id, year.verifier), year.identities)
        judged = verify(opened, "contents", signed=True, clock=year.clock, emit=year.events.append)
        assert judged.problems == (), set_id
        assert set_id in year.restorable(bucket)


def _judge_morning(life: Life, night: int, morning: Seen, trouble: Trouble | None) -> None:
    says = trouble.expects(night) if trouble else None
    told = f"night {night}, {morning.complaints or 'green'}"
    if says is None and morning.exit_status:
        life.wrong.append(f"{told}: without a reason")
    elif says and not (morning.exit_status and re.search(says, morning.complaints)):
        life.wrong.append(f"{told}: {trouble and trouble.what}, and status does not say {says}")


def _put_right(life: Life, trouble: Trouble, night: int) -> Seen:
    """After the repair: the same command again if it failed (I5), then what the watcher does; the evening is green."""
    year = life.year
    year.advance(BEGINNING + night * DAY + 7 * HOUR)
    if trouble.again:
        life.back_up()
    year.copy()
    year.verify()
    year.verify_newest_contents()  # this week's may have failed
    evening = year.status()
    if evening.exit_status and not trouble.after:
        life.wrong.append(f"night {night}, in the evening: {evening.complaints}: {trouble.what} is over")
    return evening


def _prune(life: Life) -> None:
    """Prune both, and see that nothing went but what was planned and a manifest names (I9), never below the floor.

    What leases leave behind is tidied too, and nobody's backup.
    """
    year = life.year
    for bucket in (year.main, year.second):
        before, was = _kept(bucket), year.restorable(bucket)
        pruned = _attempt(lambda bucket=bucket: year.prune(bucket))  # type: ignore[misc]  # bound early
        gone = before - _kept(bucket)
        removals = pruned.plan.removals if isinstance(pruned, Pruned) else ()
        planned = {key for each in removals for key in (*each.volumes, *each.records)}
        assert gone <= planned
        for key in gone:
            set_id = key.split("/")[2]
            assert set_id not in year.ledger or key in year.ledger[set_id]
        left = year.restorable(bucket)
        removed = {each.set_id for each in removals}
        assert was - left <= removed
        assert len(left) >= min(POLICY.retention.minimum, len(was))


def _kept(bucket: Bucket) -> set[str]:
    return {key for key in bucket.keys("") if not key.startswith(f"{INSTANCE}/lease/")}


def _attempt(what: Callable[[], object]) -> object:
    """Do what a timer does; that it failed is for status to tell."""
    try:
        return what()
    except DrtoolError as problem:
        return problem


# -- the tests -------------------------------------------------------------------------------------------------------


def test_the_year_s_bucket_keeps_the_contract_of_every_store() -> None:
    subject = Subject(cast(Store, BucketStore(Bucket("main", SystemClock()), "somebody")))
    problems = {name: error for name, error in run_checks(subject) if error and not isinstance(error, NotApplicable)}
    assert problems == {}
    assert len(CHECKS) > 20


def test_the_year_s_bucket_gives_no_locked_version_away_before_its_time_by_its_own_clock() -> None:
    time = ToyClock()
    bucket = Bucket("main", time)
    host, owner = BucketStore(bucket, "host"), BucketStore(bucket, "owner", versions=True)
    info = host.put("a/b", io.BytesIO(b"good"), lock_until=time.now() + DAY)
    host.put("a/b", io.BytesIO(b"bad"))
    host.delete(["a/b"])
    assert [each.content for each in bucket.versions("a/b")] == [b"good", b"bad", None]
    for store in (host, owner):
        with pytest.raises(StoreAccessDenied):
            store.delete_version("a/b", int(info.version))

    time.advance(2 * DAY)

    with pytest.raises(StoreAccessDenied):
        host.delete_version("a/b", int(info.version))
    owner.delete_version("a/b", int(info.version))
    assert [each.content for each in bucket.versions("a/b")] == [b"bad", None]


def test_the_year_s_judges_see_a_lost_set_a_silent_status_and_an_alarm_without_a_reason(tmp_path: Path) -> None:
    toy = ToyHost(tmp_path / "toy")
    life = Life(Year(tmp_path / "year", toy.install, POLICY), toy)
    life.drill_on = lambda: write_drill(life.year)
    denied = Trouble(1, "the store is full", full, None, StoreFull)
    made_up = Trouble(2, "nothing at all", lease_of_the_dead, "rpo breached")
    live(life, range(3), (denied, made_up))
    assert [text.partition(",")[0] for text in life.wrong] == ["night 1", "night 2"]
    assert "without a reason" in life.wrong[0]
    assert "does not say rpo breached" in life.wrong[1]

    year, (first, *rest) = life.year, sorted(life.year.ledger)
    assert {*rest} < year.restorable(year.main) == {first, *rest}
    key = f"{INSTANCE}/sets/{first}/index.age"
    year.main.rot(key)
    assert year.restorable(year.main) == {*rest}
    year.main.rot(key)  # the same bit once more
    assert year.restorable(year.main) == {first, *rest}
    write_tombstone(year.catalog(year.main), first, year.clock.now(), "no rule keeps it")
    assert year.restorable(year.main) == {*rest}
    year.main.add(f"{INSTANCE}/sets/{first}/deleting", None)
    assert year.restorable(year.main) == {first, *rest}
    year.main.add(key, None)
    assert year.restorable(year.main) == {*rest}


@pytest.fixture
def known_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute the slow digests of the same secrets and the same salt once: they would be a third of the year."""
    monkeypatch.setattr(hashlib, "scrypt", cache(hashlib.scrypt))


@pytest.mark.usefixtures("known_digests")
def test_a_year_of_failures_and_a_thief_keeps_every_promise_and_status_says_each_the_same_day(tmp_path: Path) -> None:
    toy = ToyHost(tmp_path / "toy")
    users(USERS)(toy)
    life = Life(Year(tmp_path / "year", toy.install, POLICY), toy)
    targets = iter(range(100))

    def restore_onto_a_new_toy() -> ToyHost:
        target = ToyHost(tmp_path / f"target-{next(targets)}")
        life.year.drill(target.install)
        restored = {path.name: path.read_bytes() for path in target.restored.rglob("*") if path.is_file()}
        assert life.toy
        wanted = {path.name: path.read_bytes() for path in (life.toy.root / "canned").rglob("*.tar.gz")}
        assert wanted.items() <= restored.items()
        assert restored["database.sql.gz"] == (life.toy.root / "canned/db/database.sql.gz").read_bytes()
        return target

    def drill() -> None:
        restore_onto_a_new_toy()
        write_drill(life.year)

    def move(_: Life) -> Omnibus:
        target = restore_onto_a_new_toy()
        assert life.toy
        canned = (life.toy.root / "canned/db/database.sql.gz").read_bytes()
        (target.root / "canned/db/database.sql.gz").write_bytes(canned)
        life.toy = target
        return target.install

    life.drill_on = drill
    stolen = Trouble(188, "a thief has the host's credentials", thief(move), THIEF)

    live(life, range(NIGHTS), (*TROUBLES, stolen))

    report(life)
    assert life.wrong == []
    assert [day.night for day in life.history] == [*range(NIGHTS)]
    for bucket in (life.year.main, life.year.second):
        assert_shape(life, bucket)
    restore_onto_a_new_toy()


def test_status_says_the_same_day_that_an_old_set_is_gone_from_the_first_store(tmp_path: Path) -> None:
    """A copy has the set, and no prune removed it."""
    toy = ToyHost(tmp_path / "toy")
    life = Life(Year(tmp_path / "year", toy.install, POLICY), toy)
    life.drill_on = lambda: write_drill(life.year)
    gone = Trouble(3, "an old manifest is deleted", manifest_deleted(1), "lost", when="before verify", again=False)

    live(life, range(5), (gone,))

    assert life.wrong == []


@pytest.mark.engine("postgresql")
def test_nights_around_a_thief_on_the_sandbox_end_with_every_row_back(tmp_path: Path) -> None:
    sandboxes.require()
    with ExitStack() as hosts:
        host = hosts.enter_context(sandboxes.fresh(tmp_path / "host"))
        seed(host, projects=2)
        life = Life(Year(tmp_path / "year", Omnibus(PurePosixPath(host.root)), POLICY))
        life.year.counts = True
        life.drill_on = lambda: write_drill(life.year)

        def restore_onto_a_new_host(source: Sandbox, name: str) -> Sandbox:
            census = take_census(source)
            source.destroy()
            target = hosts.enter_context(sandboxes.fresh(tmp_path / name))
            life.year.drill(Omnibus(PurePosixPath(target.root)))
            assert difference(census, take_census(target)) == []
            return target

        def move(_: Life) -> Omnibus:
            nonlocal host
            host = restore_onto_a_new_host(host, "after-the-thief")
            return Omnibus(PurePosixPath(host.root))

        dying = Trouble(2, "pg_dump dies", lambda _: switched(host, {"pg_dump": "dies"}), LATE, BackupFailed)
        stolen = Trouble(5, "a thief has the host's credentials", thief(move), THIEF)
        live(life, range(7), (dying, stolen))
        host.sql("UPDATE users SET username = username || '-renamed'")
        live(life, (7,), ())

        report(life)
        assert life.wrong == []
        restore_onto_a_new_host(host, "at-the-end")


def write_drill(year: Year) -> None:
    """Leave the receipt of a drill: the restore itself was real."""
    now = year.clock.now()
    run_id = f"drill-{now:%Y%m%dT%H%M%SZ}-0000"
    receipt = {
        "format": 1,
        "run_id": run_id,
        "purpose": "drill",
        "instance": INSTANCE,
        "set_id": max(year.ledger),
        "finished_at": now.isoformat(),
        "steps": [{"name": "restore", "seconds": 600}],
    }
    signer = Signer(year.watcher.key, LocalRunner())
    year.catalog(year.main).put_receipt(run_id, json.dumps(receipt).encode(), signer)


def assert_shape(life: Life, bucket: Bucket) -> None:
    """What is left is what the policy names, counted here by other means, and what has a reason of its own."""
    now = life.year.clock.now()
    listed = life.year.catalog(bucket).set_ids()
    good = [each for each in present(life, bucket) if each in listed]
    wanted: set[str] = {*good[-POLICY.retention.last :]}
    for count, period in (
        (POLICY.retention.daily, "%Y-%m-%d"),
        (POLICY.retention.weekly, "%G-%V"),
        (POLICY.retention.monthly, "%Y-%m"),
        (POLICY.retention.yearly, "%Y"),
    ):
        last = {f"{time_of(each):{period}}": each for each in good}
        wanted |= {last[name] for name in sorted(last)[-count:]}
    assert wanted <= {*listed}
    locked_or_young = {each for each in listed if now - time_of(each) < 21 * DAY}
    extra = {*listed} - wanted - locked_or_young
    pinned = {each for each in extra if bucket.find(f"{INSTANCE}/sets/{each}/pin")}
    assert len(extra - pinned) <= 4, sorted(extra)
    assert len(wanted) >= 21 + 5 + 9


def report(life: Life) -> None:
    """Print the year's table: pytest shows it with -s, or when something fails."""
    for day in life.history:
        if day.trouble or day.morning.exit_status:
            evening = "" if day.evening is None else f" | evening {day.evening.exit_status}"
            print(f"{day.night:3} {day.trouble} | {day.morning.exit_status} {day.morning.complaints[:150]}{evening}")
