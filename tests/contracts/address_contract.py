"""What every Address must do, as checks that run against any of them, and what a Site has to offer for it.

A new adapter is a Site and one entry in SITES of ``test_addresses.py``. The provider behind it is a server or a fake
that asks the Site's ``gate`` about each request before it does it, so the same weather comes over all providers.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Literal

import pytest

from drtool.addresses import Address
from drtool.errors import AddressElsewhere, AddressError, AddressTransient
from drtool.stores.faults import Crash

Fate = Literal["serve", "throttle", "deny", "drop", "drop after", "error", "error after"]
"""What becomes of a request. ``drop``: the connection breaks; ``error``: a 5xx; ``after``: once it was done."""
When = Literal["before", "after"]
PATIENCE = timedelta(minutes=2)
ENOUGH = 80


class JumpingClock:
    """A clock whose time passes only in ``sleep``, at once. Providers that take their time read the same one."""

    def __init__(self) -> None:
        self._passed = 0.0
        self._start = datetime(2026, 1, 13, 3, tzinfo=UTC)

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self._passed)

    def monotonic(self) -> float:
        return self._passed

    def sleep(self, duration: timedelta) -> None:
        assert duration >= timedelta()
        self._passed += duration.total_seconds()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that reached the provider; ``changes``: one that would change who holds the address."""

    what: str
    changes: bool


class Gate:
    """Stands before the provider: sees each request and says what becomes of it. One plan at a time."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.fired = 0
        self._plan: Callable[[Asked], Fate] = lambda asked: "serve"
        self._lock = threading.RLock()

    def decide(self, what: str, *, changes: bool) -> Fate:
        """For the provider: call this once for each request, before it is looked at, and do what it says."""
        with self._lock:
            self.asked.append(asked := Asked(what, changes))
            return self._plan(asked)

    def changed(self) -> list[str]:
        return [asked.what for asked in self.asked if asked.changes]

    def reset(self) -> None:
        """Forget what was asked, and let all pass."""
        with self._lock:
            self.asked, self.fired, self._plan = [], 0, lambda asked: "serve"

    def cut_at(self, nth: int, when: When) -> None:
        """Let request ``nth`` be the last of this process: done or not, nothing comes back and nothing follows."""

        def plan(_: Asked) -> Fate:
            if len(self.asked) < nth:
                return "serve"
            self.fired += 1
            return "drop after" if when == "after" and len(self.asked) == nth else "drop"

        self._plan = plan

    def spoil(self, fate: Fate, *, times: int | None = 1, changes: bool | None = None, what: str = "") -> None:
        """Give ``fate`` to the next ``times`` requests, None: to all; only those that (do not) change, or of a name."""

        def plan(asked: Asked) -> Fate:
            due = (changes is None or asked.changes == changes) and what in ("", asked.what)
            if not due or (times is not None and self.fired >= times):
                return "serve"
            self.fired += 1
            return fate

        self._plan = plan

    def meddle(self, when: When, by: Callable[[], None]) -> None:
        """Let somebody else act just ``before`` the first change is done, or when the request ``after`` it comes."""

        def plan(asked: Asked) -> Fate:
            started = asked.changes if when == "before" else any(past.changes for past in self.asked[:-1])
            if started and not self.fired:
                self.fired += 1
                by()
            return "serve"

        self._plan = plan

    def meddle_at(self, nth: int, by: Callable[[], None]) -> None:
        """Let somebody else act just before request ``nth`` is looked at."""

        def plan(_: Asked) -> Fate:
            if len(self.asked) == nth:
                self.fired += 1
                by()
            return "serve"

        self._plan = plan


class Site(ABC):
    """One address at one provider, hosts ``a``, ``b`` and ``c`` that may hold it, and the means to see and do it all.

    A new Site, or a clean one, for each check; ``a`` holds the address. All ids are the provider's.
    """

    a: str
    b: str
    c: str
    denied_code: str
    """What the provider calls a refusal for want of rights; must be in AddressError.code."""
    secrets: tuple[str, ...] = ()
    may_be_with_nobody: ClassVar[bool] = True
    throttles: ClassVar[bool] = True
    compares: ClassVar[bool] = False
    """The provider itself refuses a change that starts from another holder than the one we saw."""

    def __init__(self) -> None:
        self.clock = JumpingClock()
        self.gate = Gate()

    @abstractmethod
    def address(self) -> Address:
        """Make a fresh object with PATIENCE on the clock, as a new process would."""

    @abstractmethod
    def at(self) -> str | None:
        """Tell who holds it in truth, past the gate, once all that is on its way has arrived."""

    @abstractmethod
    def place(self, holder: str | None) -> None:
        """Put it there at once, past the gate, as another hand would."""

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        """Name what ``check`` must find. Calling one puts it in the way of a→b and returns the code to be told."""
        return {}


Check = Callable[[Site], None]
CHECKS: list[Check] = []


def check(function: Check) -> Check:
    CHECKS.append(function)
    return function


@contextmanager
def unchanged(site: Site) -> Iterator[None]:
    """Fail if the block moves the address, or asks for it."""
    before, asked = site.at(), len(site.gate.changed())
    yield
    assert site.at() == before
    assert len(site.gate.changed()) == asked


@contextmanager
def within_patience(site: Site) -> Iterator[None]:
    start = site.clock.monotonic()
    yield
    assert site.clock.monotonic() - start <= PATIENCE.total_seconds() + 30


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@check
def the_holder_is_told(site: Site) -> None:
    with unchanged(site):
        assert site.address().holder() == site.a
    site.place(site.b)
    assert site.address().holder() == site.b


@check
def an_object_asks_each_time(site: Site) -> None:
    address = site.address()
    assert address.holder() == site.a
    site.place(site.b)
    assert address.holder() == site.b


@check
def nobody_is_told_as_none(site: Site) -> None:
    if not site.may_be_with_nobody:
        pytest.skip("always with somebody")
    site.place(None)
    assert site.address().holder() is None


@check
def a_move_ends_when_it_is_there(site: Site) -> None:
    address = site.address()
    address.move(site.b, expected=site.a)
    assert site.at() == site.b
    assert address.holder() == site.b


@check
def a_move_goes_back(site: Site) -> None:
    site.address().move(site.b, expected=site.a)
    site.address().move(site.a, expected=site.b)
    assert site.at() == site.a


@check
def a_move_to_where_it_is_changes_nothing(site: Site) -> None:
    site.address().move(site.b, expected=site.a)
    with unchanged(site):
        site.address().move(site.b, expected=site.a)
        site.address().move(site.b, expected=site.b)
        site.address().move(site.b, expected=None)


@check
def an_address_of_nobody_is_moved(site: Site) -> None:
    if not site.may_be_with_nobody:
        pytest.skip("always with somebody")
    site.place(None)
    site.address().check(site.b, expected=None)
    site.address().move(site.b, expected=None)
    assert site.at() == site.b


@check
def a_move_from_the_wrong_holder_is_refused(site: Site) -> None:
    address = site.address()
    for expected in (site.c, None):
        with unchanged(site), pytest.raises(AddressElsewhere, match=site.a):
            address.move(site.b, expected=expected)
        with unchanged(site), pytest.raises(AddressElsewhere, match=site.a):
            address.check(site.b, expected=expected)
    if site.may_be_with_nobody:
        site.place(None)
        with unchanged(site), pytest.raises(AddressElsewhere):
            address.move(site.b, expected=site.a)


@check
def a_check_that_passes_changes_nothing(site: Site) -> None:
    with unchanged(site):
        site.address().check(site.b, expected=site.a)
        site.address().check(site.a, expected=site.a)
    site.address().move(site.b, expected=site.a)
    with unchanged(site):
        site.address().check(site.b, expected=site.a)


@check
def a_crash_after_any_request_is_finished_or_undone(site: Site) -> None:
    for when in ("before", "after"):
        for finish in (True, False):
            for nth in range(1, ENOUGH):
                site.place(site.a)
                if not _crashes(site, nth, when):
                    break
                address = site.address()
                held = address.holder()
                assert held == site.at()
                assert held in (site.a, site.b, None)
                goal = site.b if finish else site.a
                address.move(goal, expected=held)
                assert site.at() == goal
            else:
                pytest.fail(f"more than {ENOUGH} requests for one move")


def _crashes(site: Site, nth: int, when: When) -> bool:
    site.gate.reset()
    site.gate.cut_at(nth, when)
    try:
        with within_patience(site):
            site.address().move(site.b, expected=site.a)
    except (AddressError, Crash):
        assert site.gate.fired
    else:
        assert site.at() == site.b
    crashed = site.gate.fired > 0
    site.gate.reset()
    return crashed


@check
def a_lost_reply_is_looked_after(site: Site) -> None:
    fates: tuple[Fate, ...] = ("drop", "drop after", "error", "error after")
    for fate in fates:
        if not site.throttles and fate in ("drop", "error"):
            continue  # whoever cannot tell "not now" from "no" must take it for a no
        site.place(site.a)
        site.gate.reset()
        site.gate.spoil(fate, changes=True)
        site.address().move(site.b, expected=site.a)
        assert site.gate.fired == 1
        assert site.at() == site.b


@check
def throttling_is_waited_out(site: Site) -> None:
    if not site.throttles:
        pytest.skip("knows no throttling")
    for changes in (False, True):
        site.place(site.a)
        site.gate.reset()
        site.gate.spoil("throttle", times=3, changes=changes)
        with within_patience(site):
            site.address().check(site.b, expected=site.a)
            site.address().move(site.b, expected=site.a)
            assert site.address().holder() == site.b
        assert site.gate.fired == 3
        assert site.at() == site.b


@check
def throttling_for_ever_is_told_within_the_patience(site: Site) -> None:
    if not site.throttles:
        pytest.skip("knows no throttling")
    acts: tuple[Callable[[], object], ...] = (
        lambda: site.address().holder(),
        lambda: site.address().check(site.b, expected=site.a),
        lambda: site.address().move(site.b, expected=site.a),
    )
    site.gate.spoil("throttle", times=None)
    for act in acts:
        with within_patience(site), pytest.raises(AddressTransient) as caught:
            act()
        assert caught.value.code
    site.gate.spoil("throttle", times=None, changes=True)
    with within_patience(site), pytest.raises(AddressTransient):
        acts[2]()
    assert site.at() == site.a


@check
def a_want_of_rights_is_told_and_not_waited_for(site: Site) -> None:
    start = site.clock.monotonic()
    for changes in (None, True):
        site.gate.spoil("deny", times=None, changes=changes)
        with pytest.raises(AddressError) as caught:
            site.address().move(site.b, expected=site.a)
        assert not isinstance(caught.value, AddressTransient | AddressElsewhere)
        assert caught.value.code == site.denied_code
        assert caught.value.hint
        assert site.at() == site.a
    assert site.clock.monotonic() == start
    site.gate.spoil("deny", times=None)
    with pytest.raises(AddressError):
        site.address().holder()


@check
def somebody_who_moves_it_first_is_noticed(site: Site) -> None:
    """Between compare and act only some providers notice; none may make us say what is not so."""
    site.gate.meddle("before", lambda: site.place(site.c))
    try:
        site.address().move(site.b, expected=site.a)
    except AddressError:
        assert site.at() == site.c
    else:
        assert site.at() == site.b
        assert not site.compares
    assert site.gate.fired


@check
def somebody_who_moves_it_at_any_moment_is_noticed(site: Site) -> None:
    for nth in range(1, ENOUGH):
        site.place(site.a)
        site.gate.reset()
        site.gate.meddle_at(nth, lambda: site.place(site.c))
        try:
            site.address().move(site.b, expected=site.a)
        except AddressError:
            assert site.at() == site.c
        else:
            assert site.at() == site.b
            assert not (site.gate.fired and site.compares)
        if not site.gate.fired:
            return
    pytest.fail(f"more than {ENOUGH} requests for one move")


@check
def somebody_who_moves_it_on_is_noticed(site: Site) -> None:
    site.gate.meddle("after", lambda: site.place(site.c))
    with within_patience(site), pytest.raises(AddressError):
        site.address().move(site.b, expected=site.a)
    assert site.gate.fired
    assert site.at() == site.c


@check
def every_obstacle_is_found_before_anything_is_changed(site: Site) -> None:
    for name in site.obstacles():
        site.place(site.a)
        with within_patience(site):
            _meets(site, name)


def _meets(site: Site, name: str) -> None:
    code = site.obstacles()[name]()
    with unchanged(site), pytest.raises(AddressError) as caught:
        site.address().check(site.b, expected=site.a)
        pytest.fail(f"{name}: not found")
    assert caught.value.code == code, name
    assert caught.value.hint, name


@check
def no_secret_is_in_what_is_told(site: Site) -> None:
    told = [repr(site.address()), site.address().name]
    fates: tuple[Fate, ...] = ("throttle", "deny", "drop", "error")
    for fate in fates:
        site.gate.reset()
        site.gate.spoil(fate, times=None)
        with pytest.raises((AddressError, Crash)) as caught:
            site.address().move(site.b, expected=site.a)
        for error in chain(caught.value):
            told += [repr(error), str(error), getattr(error, "hint", "")]
    for secret in site.secrets:
        assert not [text for text in told if secret in text]


@check
def what_is_told_fits_on_a_line(site: Site) -> None:
    address = site.address()
    assert address.name == address.name.strip() != ""
    assert address.settles_within >= timedelta()
    with pytest.raises(AddressElsewhere) as caught:
        address.move(site.b, expected=site.c)
    assert "\n" not in str(caught.value)
    assert address.name in str(caught.value)
