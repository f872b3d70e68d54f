"""How what may still pass is waited for."""

from __future__ import annotations

from datetime import timedelta

import pytest

from drtool.addresses.waiting import AskAgain, Patience, compare_and_move
from drtool.errors import AddressError, AddressTransient
from tests.contracts.address_contract import JumpingClock


class Asked:
    """Raises its errors one after the other, then answers; remembers when it was asked."""

    def __init__(self, clock: JumpingClock, *errors: AddressError) -> None:
        self.clock, self.errors, self.times = clock, list(errors), list[float]()

    def __call__(self) -> str:
        self.times.append(self.clock.monotonic())
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_pauses_grow_up_to_the_longest() -> None:
    clock = JumpingClock()
    asked = Asked(clock, *(AddressTransient("busy") for _ in range(6)))
    assert Patience(clock).insist(asked) == "answer"
    assert asked.times == [0, 1, 3, 7, 12, 17, 22]


def test_a_wish_of_the_provider_is_kept() -> None:
    clock = JumpingClock()
    asked = Asked(clock, AskAgain("quota", after=timedelta(seconds=50)), AddressTransient("busy"))
    assert Patience(clock).insist(asked) == "answer"
    assert asked.times == [0, 50, 52]


def test_the_last_word_is_told_when_patience_ends_and_never_later() -> None:
    clock = JumpingClock()
    asked = Asked(clock, *(AddressTransient(f"busy {count}") for count in range(100)))
    with pytest.raises(AddressTransient, match="busy") as caught:
        Patience(clock, timedelta(seconds=20)).insist(asked)
    assert asked.times[-1] == 20
    assert caught.value.hint


def test_a_wish_beyond_the_limit_is_told_at_once() -> None:
    clock = JumpingClock()
    with pytest.raises(AskAgain):
        Patience(clock, timedelta(seconds=20)).insist(Asked(clock, AskAgain("quota", after=timedelta(hours=1))))
    assert clock.monotonic() == 0


def test_what_does_not_pass_is_not_waited_for() -> None:
    clock = JumpingClock()
    with pytest.raises(AddressError, match="no"):
        Patience(clock).insist(Asked(clock, AddressError("no")))
    assert clock.monotonic() == 0


def test_an_order_that_was_taken_is_not_given_again_to_a_provider_that_still_tells_the_old_state() -> None:
    told, orders = ["a", "a", "a", "b"], list[str | None]()

    def step(holder: str | None) -> bool:
        orders.append(holder)
        return True

    patience = Patience(JumpingClock())
    compare_and_move("it", patience, to="b", expected="a", observe=lambda: told.pop(0), step=step)
    assert orders == ["a"]
    assert told == []


def test_an_order_that_was_taken_and_never_done_is_told() -> None:
    clock = JumpingClock()
    with pytest.raises(AddressTransient, match="still says a"):
        compare_and_move("it", Patience(clock), to="b", expected="a", observe=lambda: "a", step=lambda _: True)
    assert clock.monotonic() == Patience(clock).limit.total_seconds()
