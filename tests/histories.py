"""Random lives of backup sets, for whoever decides over them; and a judge of decisions that knows no policy code.

Plain ``random`` instead of a library's strategies: a hundred thousand of them are to be made in seconds.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from drtool.core.history import CLOCKS_APART, KnownSet, State
from drtool.core.model import Tally, new_set_id
from drtool.core.policy import Decision, Retention

BEGIN = datetime(2024, 1, 1, 2, tzinfo=UTC)
ZONES = (UTC, ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("Asia/Kolkata"))
_STATES: tuple[State, ...] = ("verified",) * 12 + ("unverified",) * 4 + ("damaged", "red", "unknown")
_STEPS = tuple(timedelta(hours=hours) for hours in (0, 1, 6, 24, 24, 24, 24, 24, 24, 25, 48, 24 * 20, 24 * 200))


@dataclass(frozen=True)
class History:
    """Some sets, a policy and a moment."""

    sets: tuple[KnownSet, ...]
    retention: Retention
    now: datetime


def known_set(
    taken_at: datetime, state: State = "verified", *, token: str = "0000", size: int = 1000, **more: object
) -> KnownSet:
    """A set that was stored when it was taken."""
    return replace(KnownSet(new_set_id(taken_at, token), taken_at, taken_at, state, size), **more)  # type: ignore[arg-type]  # as a test says


def nights(count: int, **more: object) -> list[KnownSet]:
    """A verified set a night."""
    return [known_set(BEGIN + timedelta(days=number), **more) for number in range(count)]  # type: ignore[arg-type]  # as a test says


def random_history(noise: random.Random) -> History:
    """Nights, bursts and long silences; duplicates, clocks that jump, poisoned futures, increments, pins and locks."""
    moment = BEGIN + timedelta(days=noise.randrange(400), minutes=noise.randrange(1440))
    made: list[KnownSet] = []
    for number in range(noise.randrange(16)):
        moment += _STEPS[noise.randrange(len(_STEPS))]
        made.append(_random_set(noise, moment, number, made))
    now = moment + timedelta(hours=noise.choice((0, 1, 24, 24 * 9, 24 * 400, -24 * 3, -24 * 4000)))
    noise.shuffle(made)
    return History(tuple(made), _random_retention(noise), now)


def _random_set(noise: random.Random, moment: datetime, number: int, made: Sequence[KnownSet]) -> KnownSet:
    taken = moment
    if noise.random() < 0.06:  # a clock jumped, or somebody poisons
        taken += timedelta(days=noise.choice((-800, -30, 2, 40, 4000)))
    roll = noise.random()
    return KnownSet(
        f"{taken:%Y%m%dT%H%M%SZ}-{number:04x}",
        taken,
        moment if roll < 0.9 else taken,
        noise.choice(_STATES),
        1000 if roll > 0.03 else 300,
        (Tally("projects", 100 if roll < 0.97 else 20, 0),) if roll < 0.99 else (),
        made[noise.randrange(len(made))].set_id if made and noise.random() < 0.2 else None,
        "kept for the audit" if noise.random() < 0.06 else None,
        False,
        moment + timedelta(days=noise.choice((1, 30, 5000))) if noise.random() < 0.06 else None,
    )


def _random_retention(noise: random.Random) -> Retention:
    last, hourly, daily, weekly, monthly, yearly = (noise.choice((0, 0, 1, 2, 3, 7)) for _ in range(6))
    return Retention(
        last=last,
        hourly=hourly,
        daily=daily,
        weekly=weekly,
        monthly=monthly,
        yearly=yearly,
        within=timedelta(days=noise.choice((0, 3, 40))) if noise.random() < 0.3 else None,
        minimum=noise.randrange(1, 5),
        patience=timedelta(days=noise.choice((0, 5, 14))),
        zone=noise.choice(ZONES),
        sets_a_day=noise.choice((2, 6, 6, 30, 30)),
    )


def complaints(history: History, decision: Decision) -> list[str]:
    """What a decision does that no decision may do. Written from the promises, not from the code."""
    sets = {each.set_id: each for each in history.sets}
    removed = set(decision.removed)
    found = []
    if sorted(choice.set_id for choice in decision.choices) != sorted(sets):
        found.append("not every set has one choice")
    if not all(choice.reasons and all(choice.reasons) for choice in decision.choices):
        found.append("a choice without a reason")
    early = {name for name, each in sets.items() if each.taken_at > min(history.now, each.stored_at) + CLOCKS_APART}
    worth = {name for name in sets if _restorable(name, sets, early)}
    left = worth - removed
    if len(left) < min(history.retention.minimum, len(worth)):
        found.append("fewer verified sets than the minimum")
    if worth and max(worth, key=lambda name: (sets[name].taken_at, name)) in removed:
        found.append("the newest verified set")
    if removed and len(worth) < history.retention.minimum:
        found.append("removes though too few are verified")
    if removed and history.retention.is_empty:
        found.append("an empty policy removes")
    if removed and decision.freeze:
        found.append("removes though frozen")
    found += [wrong for name in removed for wrong in _wrong(history, sets, sets[name], name in early, worth)]
    for name, each in sets.items():
        if name not in removed and each.base in removed:
            found.append(f"{name} lost its base")
    return found


def _wrong(
    history: History, sets: Mapping[str, KnownSet], each: KnownSet, early: bool, worth: Collection[str]
) -> list[str]:
    found = []
    if each.pin is not None:
        found.append(f"{each.set_id} is pinned")
    if each.locked_until and each.locked_until > history.now:
        found.append(f"{each.set_id} is locked")
    if early:
        found.append(f"{each.set_id} is dated in the future")
    if each.state == "unknown":
        found.append(f"{each.set_id} is not ours")
    if each.set_id not in worth:
        newest = max(sets[name].taken_at for name in worth)
        if newest < each.taken_at + history.retention.patience:
            found.append(f"{each.set_id} does not count, and was young")
    return found


def _restorable(name: str, sets: Mapping[str, KnownSet], early: Collection[str]) -> bool:
    for _ in range(len(sets) + 1):
        if name not in sets or name in early or sets[name].state != "verified":
            return False
        base = sets[name].base
        if base is None:
            return True
        name = base
    return False
