"""A world in which a cut-over can go wrong anywhere: hosts that people write to, a provider, and an eye on both.

Everything that happens is an event. At each of them people try to write through the public address, and the world
notes who takes it; a process may die there, a machine may start anew, somebody else may move the address.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest

from drtool.addresses.memory import Call, MemoryAddress, MemoryProvider
from drtool.addresses.waiting import Patience
from drtool.core.census import CENSUS_FORMAT, Census
from drtool.core.cutover import Decide, HostSeen, State, next_step
from drtool.cutover import carry_out, prepare
from drtool.cutover_place import Order, Outcome, Place
from drtool.cutover_runs import keep_census
from drtool.errors import AddressError, AddressTransient, CommandFailed, DrtoolError
from drtool.events import ignore
from drtool.journal import Journal
from drtool.stores.faults import Crash
from tests.contracts.address_contract import JumpingClock

Weather = Literal["ok", "slow", "error before", "error after", "lost reply", "throttled", "denied", "somebody else"]
Old = Literal["up", "frozen", "down", "half-dead", "cut off"]
Cloud = Literal["one call", "two steps", "asynchronous", "dns"]
TTL = timedelta(minutes=10)
ADDRESS = "gitlab"


class ModelHost:
    """A machine with GitLab. ``reachable`` by ssh, ``heard`` by us when it answers people; people are not asked."""

    def __init__(self, world: World, holder: str) -> None:
        self.world, self.holder, self.name = world, holder, f"root@{holder}"
        self.alive = self.reachable = self.heard = True
        self.writing = self.storing = True
        self.held = False
        self.mark = ""
        self.writes: list[int] = []

    @property
    def writable(self) -> bool:
        return self.alive and self.writing

    def reboot(self) -> None:
        if self.alive:
            self.writing = self.storing = not self.held

    def look(self) -> HostSeen:
        self.world.passing(f"look {self.holder}")
        if not (self.alive and self.reachable):
            answers = self.alive and self.writing and self.heard
            return HostSeen(State.ANSWERING if answers else State.SILENT)
        exposed = self.mark == "exposed"
        if self.writing:
            return HostSeen(State.SERVING, healthy=True, exposed=exposed)
        state = State.FENCED if self.held and not self.storing else State.FROZEN
        return HostSeen(state, exposed=exposed, held=self.held)

    def freeze(self) -> None:
        self._do("hold", held=True)
        self._do("freeze", writing=False)

    def fence(self, note: str) -> None:
        self._do("mark", mark="fenced")
        self._do("hold", held=True)
        self._do("stop", writing=False, storing=False)

    def open(self) -> None:
        self._do("let go", held=False)
        self._do("start", storing=True, writing=True)
        self._do("unmark", mark="")

    def expose(self, note: str) -> None:
        self._do("expose", mark="exposed")

    def settle(self) -> None:
        self._do("unmark", mark="")

    def count(self, now: datetime) -> Census:
        self._do("count")
        self.world.counted[self.holder] = len(self.writes)
        return census(len(self.writes))

    def hold(self, who: str) -> AbstractContextManager[None]:
        return nullcontext()

    def _do(self, what: str, **change: Any) -> None:
        with self.world.around(f"{what} {self.holder}"):
            if not (self.alive and self.reachable):
                raise CommandFailed(f"{self.holder} cannot be reached")
            for name, value in change.items():
                setattr(self, name, value)


class Power:
    """The provider's switch."""

    def __init__(self, world: World) -> None:
        self.world = world

    def stop_instance(self, instance: str) -> None:
        with self.world.around(f"power off {instance}"):
            self.world.hosts[instance].alive = False

    def start_instance(self, instance: str) -> None:
        with self.world.around(f"power on {instance}"):
            host = self.world.hosts[instance]
            if not host.alive:
                host.alive = host.reachable = True
                host.reboot()


@dataclass
class World:
    """Hosts a (old), b (new) and c, and an address that is with a."""

    base: Path
    cloud: Cloud = "one call"
    old: Old = "up"
    weather: Weather = "ok"
    decide: Decide = next_step
    public_works: bool = True
    count: bool = True
    switch: bool = False
    """Whether the provider can switch machines off, and is asked to."""
    violations: list[str] = field(default_factory=list)
    events: int = 0
    die_at: int = 0
    reboot_at: int = 0
    died: bool = False
    rebooted: bool = False
    struck: bool = False
    agreed: list[tuple[str, ...]] = field(default_factory=list)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)
    """How much each host held when it was counted last."""

    def __post_init__(self) -> None:
        self.clock = JumpingClock()
        self.hosts = {name: ModelHost(self, name) for name in "abc"}
        takes = timedelta(seconds={"asynchronous": 9}.get(self.cloud, 0))
        if self.weather == "slow":
            takes += timedelta(seconds=45)
        two = self.cloud == "two steps"
        self.provider = MemoryProvider(self.clock, set(self.hosts), "a", two_steps=two, takes=takes)
        self.provider.before, self.provider.after = self._before, self._after
        self.held = [(0.0, "a")]
        self._writes = itertools.count()
        self.power = Power(self)
        self.tokens = (f"{number:04x}" for number in itertools.count())
        old = self.hosts["a"]
        old.alive, old.reachable = self.old != "down", self.old in ("up", "frozen")
        old.writing = self.old != "frozen"
        old.heard = self.old != "cut off"
        self.hosts["c"].writing = False

    # -- what happens ---------------------------------------------------------------------------------------------

    def event(self, what: str) -> None:
        """Something just happened that lasts: people write, and it may be the last thing that this process did.

        Dying before the next such thing, or after a mere look, leaves the same behind.
        """
        self.events += 1
        self._people_write(what)
        if self.events == self.reboot_at:
            self.rebooted = True
            self.hosts["a"].reboot()
            self._people_write(f"restart of a at {what}")
        if self.die_at and self.events >= self.die_at:
            self.died = True
            raise Crash

    def passing(self, what: str) -> None:
        """Something that leaves nothing behind; somebody else may act meanwhile."""
        self._people_write(what)

    @contextmanager
    def around(self, what: str) -> Iterator[None]:
        self._people_write(f"before {what}")
        yield
        self.event(f"after {what}")

    def behind(self) -> list[ModelHost]:
        """Every host that some people are led to."""
        names = {self.provider.holder} - {None}
        if self.cloud == "dns":
            since = self.clock.monotonic() - TTL.total_seconds()
            ends = [*(moment for moment, _ in self.held[1:]), float("inf")]
            names |= {name for (_, name), end in zip(self.held, ends, strict=True) if end > since}
        return [self.hosts[name] for name in sorted(filter(None, names))]

    def _people_write(self, what: str) -> None:
        if self.provider.holder and self.provider.holder != self.held[-1][1]:
            self.held.append((self.clock.monotonic(), self.provider.holder))
        taken = [host for host in self.behind() if host.writable]
        number = next(self._writes)
        for host in taken:
            host.writes.append(number)
        if len(taken) > 1:
            self.violations.append(f"{what}: {' and '.join(host.holder for host in taken)} took write {number}")

    def _before(self, call: Call) -> None:
        self.passing(f"before {call}")
        if call not in ("bind", "unbind"):
            return
        match self.weather:
            case "denied":
                raise AddressError("not allowed", code="Forbidden", hint="Ask for the right.")
            case "error before" if self._strikes():
                raise AddressError("no", code="InternalError", hint="Again.")
            case "throttled" if self._strikes():
                raise AddressTransient("slower", code="Throttling")
            case "somebody else" if self._strikes():
                self.provider.place("c")
                self.hosts["c"].writing = True
                raise AddressTransient("busy", code="Busy")

    def _after(self, call: Call) -> None:
        if call in ("bind", "unbind"):
            self.event(f"after {call}")
            if self.weather == "error after" and self._strikes():
                raise AddressError("failed", code="InternalError", hint="Again.")
            if self.weather == "lost reply" and self._strikes():
                raise AddressTransient("no answer")

    def _strikes(self) -> bool:
        first, self.struck = not self.struck, True
        return first

    # -- what drtool is given ---------------------------------------------------------------------------------------

    def place(self) -> Place:
        address = MemoryAddress(self.provider, patience=Patience(self.clock, timedelta(minutes=2)))
        if self.cloud == "dns":
            address.settles_within = TTL
        return Place(
            address=address,
            sides=dict(self.hosts),
            probe=self._probe,
            state=self.base,
            clock=self.clock,
            emit=ignore,
            new_token=lambda: next(self.tokens),
            agree=self._agree,
            record=self.receipts.__setitem__,
            power=self.power if self.switch else None,
            operator="model",
            decide=self.decide,
        )

    def order(self, to: str = "b", **options: Any) -> Order:
        return Order(ADDRESS, to, stop=self.switch, count=self.count, rollback_within=timedelta(seconds=30), **options)

    def run(self, to: str = "b", **options: Any) -> Outcome:
        """One process: look, show, do. Dies where it was told to."""
        place = self.place()
        with self.watched():
            run = prepare(self.order(to, **options), place)
            if not run.resumed and self.count:
                keep_census(place, run.journal.run_id, self.hosts[run.new].count(self.clock.now()))
            return carry_out(run, place)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let every line of a journal be an event, too."""
        real = Journal.append

        def append(journal: Journal, what: str, **fields: Any) -> None:
            self.passing(f"before journal {what}")
            real(journal, what, **fields)
            self.event(f"after journal {what}")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Journal, "append", append)
            patch.setattr(
                "os.fsync", lambda descriptor: None
            )  # nobody pulls the plug here, and it takes most of the time
            yield

    def served(self, holder: str) -> bool:
        """Whether somebody outside is served by this host."""
        reached = self.provider.holder == holder and self.hosts[holder].writable
        return reached and (self.public_works or holder == "a")

    def _probe(self, holder: str) -> str | None:
        self.passing("probe")
        return None if self.served(holder) else "no answer from outside"

    def _agree(self, differences: tuple[str, ...]) -> bool:
        self.passing("asked")
        self.agreed.append(differences)
        return True

    # -- what is true -----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let all that is on its way arrive."""
        self.clock.sleep(timedelta(hours=1))

    def journals(self) -> list[Journal]:
        runs = sorted((self.base / "runs").glob("*.jsonl"))
        return [Journal(path) for path in runs]


def census(writes: int) -> Census:
    """The smallest one; every write is a user."""
    moment = datetime(2026, 1, 13, tzinfo=UTC)
    return Census(CENSUS_FORMAT, "18.9.1-ee", "", "model", moment, None, writes, 0, (), {}, {}, {})


def outcome_of(attempt: Callable[[], object]) -> BaseException | None:
    """What an attempt ended with; None: well."""
    try:
        attempt()
    except (DrtoolError, Crash) as error:
        return error
    return None
