"""Whatever happens in whatever order, no two runs hold one lease; and whoever dies holds up nobody for long."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from drtool import lease
from drtool.catalog import Catalog
from drtool.claims import Claim, Desk
from tests.lease_model import TERMS, Choice, Process, Violation, World

HOURS = (timedelta(0), timedelta(hours=5), timedelta(hours=-7))
WORLDS: dict[str, Callable[[], World]] = {
    "conditional": World,
    "unconditional": lambda: World(conditional=False),
    "nothing is replaced": lambda: World(forbids_replacing=True),
}


def _settled(world: World, count: int) -> World:
    for number in range(count):
        Process(world, skew=HOURS[number % 3])
    return world


def _orderly(options: list[Choice]) -> Choice:
    return options[0]


class _Told:
    """Follows a list of choices by their numbers, then goes on orderly; remembers how many there were each time."""

    def __init__(self, told: tuple[int, ...]) -> None:
        self.told, self.offered = told, list[list[Choice]]()

    def __call__(self, options: list[Choice]) -> Choice:
        at = len(self.offered)
        self.offered.append(options)
        return options[self.told[at]] if at < len(self.told) else _orderly(options)


def _all(make: Callable[[], World], *, deviations: int, kinds: tuple[str, ...], most: int = 14) -> Iterator[int]:
    """Run every schedule that leaves the orderly one so often at most, within its first ``most`` steps."""
    pending: list[tuple[tuple[int, ...], int]] = [((), deviations)]
    while pending:
        told, left = pending.pop()
        schedule = _Told(told)
        make().run(schedule)
        yield 1
        if not left:
            continue
        for at in range(len(told), min(len(schedule.offered), most)):
            for number, (kind, _) in enumerate(schedule.offered[at]):
                if number and kind in kinds:
                    pending.append(((*told, *[0] * (at - len(told)), number), left - 1))


@pytest.mark.parametrize("kind", WORLDS)
def test_lease_is_held_once_whatever_two_things_go_wrong(kind: str) -> None:
    ran = sum(_all(lambda: _settled(WORLDS[kind](), 2), deviations=2, kinds=("go", "pass", "kill")))
    assert ran > 500


@pytest.mark.parametrize("kind", WORLDS)
def test_lease_is_held_once_in_every_interleaving(kind: str) -> None:
    ran = sum(_all(lambda: _settled(WORLDS[kind](), 2), deviations=7, kinds=("go",), most=30))
    assert ran > 50


def _chance(seed: int, *, calm: float) -> Callable[[list[Choice]], Choice]:
    dice = random.Random(seed)

    def schedule(options: list[Choice]) -> Choice:
        going = [option for option in options if option[0] == "go"]
        return dice.choice(going if dice.random() < calm else options)

    return schedule


@pytest.mark.parametrize("kind", WORLDS)
@pytest.mark.parametrize("calm", [0.5, 0.8, 0.97])
def test_lease_is_held_once_by_three_in_any_weather(kind: str, calm: float) -> None:
    for seed in range(250):
        random.seed(seed)
        _settled(WORLDS[kind](), 3).run(_chance(seed, calm=calm))


@pytest.mark.parametrize("kind", WORLDS)
def test_lease_passes_from_one_to_the_next_when_nothing_goes_wrong(kind: str) -> None:
    for seed in range(60):
        world = _settled(WORLDS[kind](), 3)
        world.run(_chance(seed, calm=1))
        assert {number for number, _ in world.passes} == {0, 1, 2}
        assert world.tokens == sorted(set(world.tokens))


@pytest.mark.parametrize("kind", WORLDS)
def test_lease_of_a_dead_holder_is_taken_over_without_anybody(kind: str) -> None:
    for steps in range(2, 12):
        world = _settled(WORLDS[kind](), 2)

        def schedule(options: list[Choice], world: World = world, steps: int = steps) -> Choice:
            first = world.processes[0]
            if not first.over:
                return ("kill" if first.steps == steps else "go", 0)
            return _orderly(options)

        world.run(schedule)
        assert not world.processes[1].busy
        assert 1 in {number for number, _ in world.passes}
        assert world.now < 25 * 60


@pytest.mark.parametrize("kind", WORLDS)
def test_lease_is_held_once_by_three_while_they_tidy(kind: str) -> None:
    """All but the greatest token go, at once: an old hand that wakes up finds the number of its claim free again."""
    for seed in range(300):
        random.seed(seed)
        _tidying(WORLDS[kind](), 3).run(_chance(seed, calm=(0.6, 0.8, 0.97)[seed % 3]))


@pytest.mark.parametrize("kind", WORLDS)
def test_lease_is_held_once_whatever_two_things_go_wrong_while_one_tidies(kind: str) -> None:
    ran = sum(_all(lambda: _tidying(WORLDS[kind](), 2), deviations=2, kinds=("go", "kill"), most=10))
    assert ran > 50


@pytest.mark.parametrize("kind", WORLDS)
def test_lease_that_was_claimed_late_with_a_number_that_was_tidied_is_not_held(kind: str) -> None:
    world = WORLDS[kind]()
    world.run(_sleeping_before_its_claim(_tidying(world, 3)))
    assert [number for number, _ in world.passes] == [1, 1, 2, 2, 0, 0]


# The checker is fed what is broken


def _finds(make: Callable[[], World]) -> bool:
    for seed in range(600):
        random.seed(seed)
        try:
            make().run(_chance(seed, calm=0.7))
        except Violation:
            return True
    return False


def test_model_finds_a_holder_that_believes_in_itself_for_too_long() -> None:
    def make() -> World:
        world = World()
        for _ in range(2):
            Process(world, terms=replace(TERMS, sure_for=timedelta(minutes=40)))
        return world

    assert _finds(make)


def test_model_finds_a_claim_that_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.lease_model.World.conditional", False)
    first = Desk.claims

    def make() -> World:
        return _settled(World(conditional=False), 2)

    def blind(desk: Desk) -> list[Claim]:
        return [claim for claim in first(desk) if claim.released or "-" in claim.sign[1]]

    monkeypatch.setattr(Desk, "claims", blind)
    assert _finds(make)


def test_model_finds_who_judges_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease._Watch, "_now", lambda watch: watch._desk.clock.now())
    assert _finds(lambda: _settled(World(), 3))


def test_model_finds_who_renews_what_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def beat(held: lease.Lease) -> None:
        held._mark("alive")
        held._sure_until = held._desk.clock.monotonic() + TERMS.sure_for.total_seconds()

    monkeypatch.setattr(lease.Lease, "beat", beat)
    with pytest.raises(Violation):
        _overslept().run(_oversleeping())


def test_holder_that_overslept_its_own_heartbeat_writes_no_more() -> None:
    world = _overslept()
    world.run(_oversleeping())
    assert world.processes[0].lost
    assert [number for number, _ in world.passes] == [0, 1, 1]


def test_model_finds_who_believes_in_a_claim_without_looking_at_later_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease.Lease, "check_now", lambda held: held.check())
    with pytest.raises(Violation):
        world = World()
        world.run(_sleeping_before_its_claim(_tidying(world, 3)))


def test_model_finds_who_tidies_the_greatest_token_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(catalog: Catalog, **_: object) -> None:
        catalog.store.delete([info.key for info in catalog.store.list(catalog.lease_folder)])

    monkeypatch.setattr("tests.lease_model.tidy", everything)
    assert _finds(lambda: _tidying(World(), 3))


def _tidying(world: World, count: int) -> World:
    """Others have been here before, and everybody tidies."""
    for token in range(1, 4):
        for name in (f"{token:012d}", f"{token:012d}-released"):
            world.objects[f"gitlab/lease/{name}"] = b"", world.store_time()
    for number in range(count):
        Process(world, skew=HOURS[number % 3], tidies=True)
    return world


def _sleeping_before_its_claim(world: World) -> Callable[[list[Choice]], Choice]:
    """The first looks, and claims only when the second has come and gone, and the third is at work."""

    def schedule(options: list[Choice]) -> Choice:
        going = [what for kind, what in options if kind == "go"]
        first, second, _ = world.processes
        wanted = 0
        if first.steps >= 2 and not second.over:
            wanted = 1
        elif first.steps == 2 and (len(world.passes) < 3 or "gitlab/lease/000000000004" in world.objects):
            wanted = 2
        if wanted not in going and first.steps == 2:
            return ("pass", 1)
        return ("go", wanted if wanted in going else going[0])

    return schedule


def _overslept() -> World:
    return _settled(World(), 2)


def _oversleeping() -> Callable[[list[Choice]], Choice]:
    """The first writes, and stops just before its heartbeat for as long as the second needs to take over."""
    steps = iter([*[("go", 0)] * 5, ("pass", 16 * 60), *[("go", 1)] * 8])

    def schedule(options: list[Choice]) -> Choice:
        wanted = next(steps, None)
        return wanted if wanted in options else _orderly(options)

    return schedule
