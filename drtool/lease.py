"""One run per instance and store, from whatever host: a lease in the store itself.

Below ``<instance>/lease/`` each holder has a number of its own, the token, one greater than any before. Its objects:

    000000000042            the claim: who, what for, since when. Written once, never again.
    000000000042-alive      written over and over while the holder works: its heartbeat
    000000000042-released   the holder ended

The greatest token is the holder, unless it is released or dead. No holder deletes or replaces what another wrote, so a
host may hold leases that may not delete; where not even one's own heartbeat may be replaced (a retention policy) each
beat has a name of its own (``-alive-1``, …).

*Tidying.* A prune, which may delete, removes what claims left behind (``claims.tidy``): those far below the greatest
token, and without a sign for days. The greatest always stays, for it alone says who holds the lease and which token is
next. So a number may become free again, and one who looked before all that and claims only now can get it: therefore
everybody looks once more after claiming, and who sees a greater token gives way.

*Taking it.* Where a put can be conditional, the next token is claimed by creating it: there is one winner. Where it
cannot (Spaces, versioned buckets of OSS), each writes a claim with a name of its own (``000000000042.9f3c01aa``), waits
a moment, and lists again: whoever sees another new claim gives way, and tries again after a random time. Of two that
write and then look at least one sees the other, so two may give way, but never none.

*Death.* A holder is dead when its last sign is older than its time to live: by the store's clock, which dates both its
objects and a probe of ours, and never by a host's. Or when we watched for as long and nothing came, whatever clocks
say. Or when it was a run on this very host, under this very state directory, whose lock in the kernel we hold now.

*Fencing.* A holder that did not get a beat through for ``sure_for``, which is shorter than its time to live, stops
believing in itself, for good; so it stopped before anybody could take over. It learns so at its next safe point. Before
a manifest is written the store is asked too, for whoever slept through all of that with its clocks: a greater token
means that the run is over.
"""

from __future__ import annotations

import hashlib
import os
import platform
import random
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from drtool.catalog import Catalog
from drtool.claims import Claim, Desk, Said, render
from drtool.claims import Terms as Terms
from drtool.clock import Clock
from drtool.errors import Busy, ObjectExists, StoreAccessDenied, StoreError
from drtool.events import Emit, Waiting
from drtool.journal import only_run

_LAST_BEAT = 10.0  # seconds; one that takes longer is let be: it can do no harm any more


class LeaseLost(Busy):
    """Another run took over, or could have: this one must not write any more."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who wants it. ``identity``: what only runs share of which at most one is alive, because they share a lock."""

    host: str
    purpose: str
    identity: str


@contextmanager
def leased(
    catalog: Catalog, state: Path, *, purpose: str, clock: Clock, emit: Emit, terms: Terms | None = None
) -> Iterator[Catalog]:
    """Hold the instance's lease on this store; gives the catalog to write with, which refuses once the lease is lost.

    ``state``: the directory whose locks keep this host's runs apart. ``purpose`` is told to who waits: "a backup".
    Waits for another holder, then raises Busy, naming it. Raises StoreError, ConfigError. Leaving it raises nothing.
    """
    kept = terms or Terms()
    desk = Desk(catalog, clock, emit, kept)
    deadline = clock.monotonic() + kept.patience.total_seconds()
    with ExitStack() as held:
        _alone_on_this_host(held, desk, state, purpose, deadline)
        lease = take(desk, Holder(platform.node() or "?", purpose, _identity(state)), deadline)
        with _beating(lease, kept.beat):
            try:
                yield catalog.fenced(lease)
            finally:
                lease.release()


class Lease:
    """A lease that is held, or was. Every method may be called from any thread."""

    def __init__(self, desk: Desk, name: str, token: int, since: float) -> None:
        self.token = token
        self._desk, self._name = desk, name
        self._sure_until = since + desk.terms.sure_for.total_seconds()
        self._beats = 0
        self._fresh_names = False
        self._trouble: StoreError | None = None
        self._lost = ""
        self._lock = threading.RLock()

    def check(self) -> None:
        """Raise LeaseLost if the lease is, as far as can be known without asking the store."""
        with self._lock:
            if not self._lost and self._desk.clock.monotonic() >= self._sure_until:
                told = f": {self._trouble}" if self._trouble else ""
                self._lost = f"no heartbeat came through for {_minutes(self._desk.terms.sure_for)}{told}"
            if self._lost:
                raise LeaseLost(
                    f"{self._desk.where}: this run lost its lease: {self._lost}",
                    hint="What it stored stays. Run it again: it goes on where it can.",
                )

    def check_now(self) -> None:
        """Raise LeaseLost if the lease is, or if the store shows a greater token. Raises StoreError."""
        self.check()
        self._look()
        self.check()

    def beat(self) -> None:
        """Show that the holder is alive, and see whether it still is one. Raises no Exception: see ``check``."""
        try:
            self.check()
            began = self._desk.clock.monotonic()
            self._mark("alive")
            self._look()
            with self._lock:
                self.check()  # before the next line: what came too late renews nothing
                self._sure_until = began + self._desk.terms.sure_for.total_seconds()
                self._trouble = None
        except LeaseLost:
            pass
        except StoreError as problem:
            self._trouble = problem
        except Exception as problem:  # noqa: BLE001 - a defect here must not end the work sooner than a silent store
            self._trouble = StoreError(f"{type(problem).__name__}: {problem}")

    def release(self) -> None:
        """Let others in. A lease that was lost is let be; one that cannot be released ends by itself."""
        with suppress(StoreError, LeaseLost):
            self.check()
            self._mark("released")

    @property
    def is_lost(self) -> bool:
        try:
            self.check()
        except LeaseLost:
            return True
        return False

    def _look(self) -> None:
        greater = [claim for claim in self._desk.claims() if claim.token > self.token]
        if greater:
            said = self._desk.read(max(greater, key=lambda claim: claim.token))
            with self._lock:
                self._lost = self._lost or f"it was taken over by {said.text}"

    def _mark(self, kind: str) -> None:
        self._beats += 1
        text = render(kind=kind, at=self._desk.clock.now().astimezone(UTC).isoformat(), beat=self._beats)
        if not self._fresh_names:
            try:
                self._desk.put(f"{self._name}-{kind}", text)
            except (StoreAccessDenied, ObjectExists):  # what is there may not be replaced here
                self._fresh_names = True
            else:
                return
        self._desk.put(f"{self._name}-{kind}-{self._beats}", text)


def take(desk: Desk, holder: Holder, deadline: float) -> Lease:
    """Wait until nobody holds the lease, and take it. Raises Busy at the deadline, naming the holder; StoreError."""
    watch = _Watch(desk, holder)
    while True:
        known, living = watch.look()
        if living is None and (lease := _claim(desk, holder, known)):
            return lease
        reason = f"{living.text} is at work" if living else "another run begins in this moment"
        if desk.clock.monotonic() >= deadline:
            ends = _minutes((living and living.time_to_live) or desk.terms.time_to_live)
            raise Busy(
                f"{desk.where}: {reason}",
                hint=f"Wait for it to end, then run this again; if it died, its lease ends by itself within {ends}.",
            )
        desk.emit(Waiting("lease", f"{desk.where}: {reason}"))
        # Two that gave way to each other must not meet again for ever.
        desk.clock.sleep(desk.terms.poll * random.uniform(0.5, 1.5))  # noqa: S311 - no secret


class _Watch:
    """Looks at the holder again and again, and tells whether it is alive."""

    def __init__(self, desk: Desk, holder: Holder) -> None:
        self._desk, self._holder = desk, holder
        self._store_time: tuple[datetime, float] | None = None
        self._since: dict[tuple[datetime, str], float] = {}

    def look(self) -> tuple[list[Claim], Said | None]:
        """Every claim, and what the one says that counts, if it is alive."""
        # The time first: a holder that beat since the listing was made must not be taken for dead.
        now = self._now() if self._store_time else None
        claims = self._desk.claims()
        seen_at = self._desk.clock.monotonic()
        top = max((claim.token for claim in claims), default=0)
        for claim in claims:
            if claim.token == top and not claim.released:
                said = self._desk.read(claim)
                if said.identity == self._holder.identity:
                    continue
                if now is None:  # it is worth the probe only now
                    self._store_time = self._desk.ask_the_time(), self._desk.clock.monotonic()
                    return self.look()
                if self._is_alive(claim, said, now, seen_at):
                    return claims, said
        return claims, None

    def _now(self) -> datetime:
        assert self._store_time is not None
        told, at = self._store_time
        return told + timedelta(seconds=self._desk.clock.monotonic() - at)

    def _is_alive(self, claim: Claim, said: Said, now: datetime, seen_at: float) -> bool:
        lives = max(said.time_to_live or timedelta(0), self._desk.terms.time_to_live)
        watched = seen_at - self._since.setdefault(claim.sign, seen_at)
        return now - claim.sign[0] <= lives and watched <= lives.total_seconds()


def _claim(desk: Desk, holder: Holder, known: list[Claim]) -> Lease | None:
    """Claim the token after all that are known, of which none is alive. None: somebody else was faster."""
    token = max((claim.token for claim in known), default=0) + 1
    conditional = desk.catalog.store.capabilities.conditional_put
    name = f"{token:012d}" if conditional else f"{token:012d}.{secrets.token_hex(4)}"
    text = render(
        host=holder.host,
        purpose=holder.purpose,
        identity=holder.identity,
        process=os.getpid(),
        at=desk.clock.now().astimezone(UTC).isoformat(),
        token=token,
        time_to_live=desk.terms.time_to_live.total_seconds(),
    )
    began = desk.clock.monotonic()
    try:
        desk.put(name, text, only_if_absent=conditional)
    except ObjectExists:
        return None
    lease = Lease(desk, name, token, began)
    if not conditional:
        desk.clock.sleep(desk.terms.settle)  # for a listing that is a moment behind
        if {claim.name for claim in desk.claims()} - {claim.name for claim in known} - {name}:
            lease.release()
            return None
    try:
        lease.check_now()  # who slept since it looked may have claimed a number that others had, and tidied away
    except LeaseLost:
        return None
    except StoreError:
        lease.release()  # else the others wait for one who never began
        raise
    return lease


@contextmanager
def _beating(lease: Lease, every: timedelta) -> Iterator[None]:
    """Let a thread show that the holder is alive, until the block is left."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every.total_seconds()) and not lease.is_lost:
            lease.beat()

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=_LAST_BEAT)


def _alone_on_this_host(held: ExitStack, desk: Desk, state: Path, purpose: str, deadline: float) -> None:
    """Take the host's own lock for this lease: so a claim of this host that is still there is a dead run's."""
    store = hashlib.sha256(desk.catalog.store.name.encode()).hexdigest()[:12]
    while True:
        try:
            held.enter_context(only_run(state, f"lease-{desk.catalog.instance}-{store}", doing=purpose))
        except Busy as busy:
            if desk.clock.monotonic() >= deadline:
                raise Busy(f"{desk.where}: on this host, {str(busy).partition(': ')[2]}", hint=busy.hint) from busy
            desk.emit(Waiting("lease", f"{desk.where}: on this host, {str(busy).partition(': ')[2]}"))
            desk.clock.sleep(desk.terms.poll)
        else:
            return


def _identity(state: Path) -> str:
    """Name the lock of this state directory in this running kernel; a copy of the machine that was booted has another.

    Where the kernel does not tell which boot this is, nobody is like us, and a dead run of ours lives for its time.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        boot = secrets.token_bytes(16)
    status = state.stat()
    return hashlib.sha256(b"%b %d %d" % (boot, status.st_dev, status.st_ino)).hexdigest()[:32]


def _minutes(span: timedelta) -> str:
    seconds = span.total_seconds()
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
