"""A world in which processes take a lease: one store, one time, and a schedule that decides who does the next thing.

Each process is a thread, but only one runs at a time: each call to the store, and each sleep, is a step at which the
schedule may let another go on, let time pass, or end the process. What is done between two steps takes no time.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, Literal

from drtool.catalog import Catalog
from drtool.claims import Desk, Terms, tidy
from drtool.errors import Busy, ObjectExists, ObjectMissing, StoreAccessDenied
from drtool.events import ignore
from drtool.lease import Holder, Lease, LeaseLost, take
from drtool.stores import Capabilities, ObjectInfo

BEGINNING = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)
TERMS = Terms()
Choice = tuple[Literal["go", "pass", "kill"], int]
Schedule = Callable[[list[Choice]], Choice]


class Violation(AssertionError):
    """Two runs were at work at once."""


class Killed(BaseException):
    """The process is no more."""


@dataclass
class World:
    """``forgetful``: a store whose objects may not be replaced. ``conditional``: it knows "only if absent"."""

    conditional: bool = True
    forbids_replacing: bool = False
    now: float = 0.4
    objects: dict[str, tuple[bytes, datetime]] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    passes: list[tuple[int, int]] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def store_time(self) -> datetime:
        return (BEGINNING + timedelta(seconds=self.now)).replace(microsecond=0)

    def passed(self, process: Process, token: int) -> None:
        """A process came past a safe point, and writes."""
        if self.passes and token < self.passes[-1][1]:
            raise Violation(f"{process.number} wrote with token {token} after {self.passes[-1]}")
        if any(token == known and process.number != number for number, known in self.passes):
            raise Violation(f"token {token} is held twice")
        self.passes.append((process.number, token))

    def refuse_two(self) -> None:
        believing = [each.number for each in self.processes if not each.over and each.believes]
        if len(believing) > 1:
            raise Violation(f"{believing} all believe that they hold the lease")

    def run(self, schedule: Schedule, *, most: int = 400) -> None:
        """Let all processes run to their ends, or die. Raises Violation."""
        try:
            for process in self.processes:
                process.start()
            for _ in range(most):
                ready = [each for each in self.processes if not each.over and each.wakes <= self.now]
                asleep = [each for each in self.processes if not each.over and each.wakes > self.now]
                if not ready and not asleep:
                    break
                if not ready:
                    self.now = min(each.wakes for each in asleep)
                    continue
                options: list[Choice] = [("go", each.number) for each in ready]
                options += [("pass", seconds) for seconds in (1, 13 * 60, 16 * 60)]
                options += [("kill", each.number) for each in ready if each.steps]
                kind, what = schedule(options)
                if kind == "pass":
                    self.now += what
                else:
                    self.processes[what].resume(kill=kind == "kill")
                self.refuse_two()
            for process in self.processes:
                if process.failure:
                    raise process.failure
        finally:
            for process in self.processes:
                while not process.over:
                    process.resume(kill=True)


class Process:
    """One process on a host of its own: takes the lease, writes a few times behind safe points, and lets go."""

    def __init__(
        self,
        world: World,
        *,
        skew: timedelta = timedelta(0),
        terms: Terms = TERMS,
        writes: int = 2,
        tidies: bool = False,
    ) -> None:
        self.world, self.number = world, len(world.processes)
        self.skew, self.terms, self.writes, self.tidies = skew, terms, writes, tidies
        self.wakes, self.steps = 0.0, 0
        self.lease: Lease | None = None
        self.over = self.busy = self.lost = False
        self.failure: BaseException | None = None
        self._dead = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._live, daemon=True)
        world.processes.append(self)

    def start(self) -> None:
        self._thread.start()
        self._stopped.acquire()

    def resume(self, *, kill: bool) -> None:
        self._dead |= kill
        self.steps += 1
        self._go.release()
        self._stopped.acquire()

    @property
    def believes(self) -> bool:
        """Tell whether it would come past a safe point that asks nobody. Looks, and does not touch: no ``check``."""
        held = self.lease
        return held is not None and not held._lost and SkewedClock(self).monotonic() < held._sure_until

    def step(self) -> None:
        """Let the schedule decide when this goes on, and whether it does."""
        if not self._dead:
            self._stopped.release()
            self._go.acquire()
        if self._dead:
            raise Killed

    def _live(self) -> None:
        try:
            self.step()
            self._work()
        except Killed:
            pass
        except Busy as problem:
            self.busy, self.lost = not isinstance(problem, LeaseLost), isinstance(problem, LeaseLost)
        except BaseException as failure:  # noqa: BLE001 - raised where the world is run
            self.failure = failure
        finally:
            self.over = True
            self._stopped.release()

    def _work(self) -> None:
        clock = SkewedClock(self)
        desk = Desk(Catalog(SlowStore(self), "gitlab"), clock, ignore, self.terms)
        holder = Holder(f"host-{self.number}", "a backup", f"identity-{self.number}")
        self.lease = take(desk, holder, clock.monotonic() + self.terms.patience.total_seconds())
        self.world.tokens.append(self.lease.token)
        for _ in range(self.writes):
            self.lease.check_now()
            self.world.passed(self, self.lease.token)
            if self.tidies:
                tidy(desk.catalog, kept=1, kept_for=timedelta(0))
            self.lease.beat()
        ended, self.lease = self.lease, None
        ended.release()


@dataclass(frozen=True)
class SkewedClock:
    """The time of day is wrong by hours; what passes on it is right."""

    process: Process

    def now(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.process.world.now) + self.process.skew

    def monotonic(self) -> float:
        return self.process.world.now + 1000 * self.process.number

    def sleep(self, duration: timedelta) -> None:
        self.process.wakes = self.process.world.now + duration.total_seconds()
        self.process.step()


class SlowStore:
    """The world's store, as one process sees it: each call is a step."""

    def __init__(self, process: Process) -> None:
        self.process, self.world = process, process.world
        self.name = "model"
        self.capabilities = Capabilities(conditional_put=self.world.conditional)

    def put(
        self,
        key: str,
        source: BinaryIO,
        *,
        size_hint: int | None = None,
        lock_until: datetime | None = None,
        only_if_absent: bool = False,
    ) -> ObjectInfo:
        self.process.step()
        if key in self.world.objects:
            if only_if_absent and self.world.conditional:
                raise ObjectExists(key)
            if self.world.forbids_replacing:
                raise StoreAccessDenied(key)
        content, at = source.read(), self.world.store_time()
        self.world.objects[key] = content, at
        return ObjectInfo(key, len(content), at)

    def open(self, key: str, *, start: int = 0, size: int | None = None, version: str = "") -> closing[BinaryIO]:
        self.process.step()
        if key not in self.world.objects:
            raise ObjectMissing(key)
        return closing(io.BytesIO(self.world.objects[key][0]))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.process.step()
        found = [(key, *entry) for key, entry in self.world.objects.items() if key.startswith(prefix)]
        return iter([ObjectInfo(key, len(content), at) for key, content, at in sorted(found)])

    def stat(self, key: str) -> ObjectInfo:
        raise NotImplementedError

    def delete(self, keys: Iterable[str]) -> None:
        if not self.process.tidies:
            raise Violation("who does not tidy deletes nothing")
        for key in keys:  # one after the other: whoever looks meanwhile sees a part
            self.process.step()
            self.world.objects.pop(key, None)

    def signed_url(self, key: str, *, ttl: timedelta) -> str:
        raise NotImplementedError
