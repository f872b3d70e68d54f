"""Which sets a retention policy keeps, and why. Pure: whoever asks brings the sets and the time.

What may be forgotten is measured by the sets, never by the clock of this host alone: "within 30 days" means before the
newest verified set. So backups that stop, or a clock that jumps, let nothing grow old.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Literal

from drtool.core import periods
from drtool.core.alarm import find_alarm
from drtool.core.history import KnownSet, State, is_early


@dataclass(frozen=True, slots=True)
class Retention:
    """How much is kept. A number of 0 keeps none of its kind; everything 0 and no ``within`` keeps all.

    ``minimum`` verified sets are kept whatever else is said. ``patience`` is how much older than the newest verified
    set one must be that was never verified, or is red, before it may go. ``zone`` says where a day begins. More than
    ``sets_a_day`` new ones freeze everything.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: timedelta | None = None
    minimum: int = 3
    patience: timedelta = timedelta(days=14)
    zone: tzinfo = UTC
    sets_a_day: int = 6

    def __post_init__(self) -> None:
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        if min(counts) < 0 or self.minimum < 1 or self.sets_a_day < 1:
            raise ValueError("nothing is kept less than never, one verified set always stays, one set a day is usual")
        if self.patience < timedelta(0) or (self.within is not None and self.within < timedelta(0)):
            raise ValueError("a length of time is not negative")

    @property
    def is_empty(self) -> bool:
        """Tell whether it names nothing to keep, and so keeps everything."""
        counted = self.last or self.hourly or self.daily or self.weekly or self.monthly or self.yearly
        return not counted and self.within is None


@dataclass(frozen=True, slots=True)
class Objectives:
    """What was promised: how much work may be lost, how long a restore may take, how old the last drill may be."""

    rpo: timedelta | None = None
    rto: timedelta | None = None
    drill_age: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to happen to one set. ``reasons`` are never empty, and read well one after the other."""

    set_id: str
    taken_at: datetime
    state: State
    action: Literal["keep", "remove"]
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Every set's choice, oldest first. ``freeze`` says why nothing at all may be removed; then all are kept.

    ``guards`` are the newest verified sets, newest first: nothing may be removed unless they are there at that moment.
    """

    choices: tuple[Choice, ...]
    freeze: str | None
    guards: tuple[str, ...]

    @property
    def removed(self) -> tuple[str, ...]:
        return tuple(choice.set_id for choice in self.choices if choice.action == "remove")

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(choice.set_id for choice in self.choices if choice.action == "keep")


def decide(sets: Iterable[KnownSet], retention: Retention, now: datetime) -> Decision:
    """Say of each set whether it stays. Raises ValueError if one is named twice.

    Only verified sets count, whose whole chain is verified, and whose date is not from the future. Those that were not
    verified take no other's place: they stay while they are young, and as long as they would be kept if they were
    verified. Red and damaged ones stay for ``patience``, so that somebody can look at them.
    """
    known = sorted(sets, key=_age)
    by_id = {each.set_id: each for each in known}
    if len(by_id) != len(known):
        raise ValueError("a set is named twice")
    counted = [each for each in known if _is_restorable(each, by_id, now)]
    guards = tuple(each.set_id for each in reversed(counted[-retention.minimum :]))
    freeze = find_alarm([each for each in known if not is_early(each, now)], known, counted, retention.sets_a_day)
    reasons = _reasons(known, counted, retention, now)
    _keep_bases(reasons, by_id)
    choices = tuple(_choice(each, reasons[each.set_id], counted, by_id, freeze) for each in known)
    return Decision(choices, freeze, guards)


def why_needed(set_id: str, sets: Sequence[KnownSet], retention: Retention, now: datetime) -> str | None:
    """Say why a set has to stay even if somebody asks for its removal, or None. Of pins and locks nothing is said."""
    if above := [each.set_id for each in sets if each.base == set_id]:
        return f"it is the base of {above[0]}"
    others = [each for each in sets if each.set_id != set_id]
    before, after = (decide(known, retention, now).guards for known in (sets, others))
    if set_id in before[:1]:
        return "it is the newest verified set"
    if len(after) < len(before):
        return f"without it {len(after)} sets are verified, fewer than the minimum of {retention.minimum}"
    return None


def _age(known: KnownSet) -> tuple[datetime, str]:
    return known.taken_at, known.set_id


def _is_restorable(known: KnownSet, by_id: Mapping[str, KnownSet], now: datetime) -> bool:
    seen: set[str] = set()
    link: KnownSet | None = known
    while link and link.state == "verified" and not is_early(link, now) and link.set_id not in seen:
        if link.base is None:
            return True
        seen.add(link.set_id)
        link = by_id.get(link.base)
    return False


def _reasons(
    known: Sequence[KnownSet], counted: Sequence[KnownSet], retention: Retention, now: datetime
) -> dict[str, list[str]]:
    """Why each set is kept; an empty list for those that nothing keeps."""
    held = {each.set_id: _held(each, now) for each in known}
    if retention.is_empty:
        return {name: [*found, "the policy names nothing to keep, so all is kept"] for name, found in held.items()}
    if len(counted) < retention.minimum:
        short = f"{len(counted)} sets are verified, fewer than the minimum of {retention.minimum}"
        return {name: [*found, short] for name, found in held.items()}
    for number, each in enumerate(reversed(counted[-retention.minimum :]), 1):
        held[each.set_id].append(
            "newest verified" if number == 1 else f"minimum, {number} of {retention.minimum} verified"
        )
    for name, found in _wanted(counted, retention).items():
        held[name] += found
    ids = {each.set_id for each in counted}
    _spare_unproven([each for each in known if each.set_id not in ids], counted, retention, now, held)
    return held


def _held(known: KnownSet, now: datetime) -> list[str]:
    """What keeps a set whatever it is worth."""
    reasons = []
    if known.pin is not None:
        reasons.append(f"pinned: {known.pin}" if known.pin else "pinned")
    if known.locked_until and known.locked_until > now:
        reasons.append(f"locked until {known.locked_until.astimezone(UTC):%Y-%m-%d}")
    if is_early(known, now):
        reasons.append("dated in the future: a clock was wrong")
    if known.state == "unknown":
        reasons.append("not known to be ours")
    return reasons


def _spare_unproven(
    unproven: Sequence[KnownSet],
    counted: Sequence[KnownSet],
    retention: Retention,
    now: datetime,
    held: dict[str, list[str]],
) -> None:
    """Keep what does not count: while it is young; and never verified ones in the places they would have."""
    youngest = counted[-1].taken_at - retention.patience
    hopeful = [each for each in unproven if each.state in _HOPEFUL and not is_early(each, now)]
    wanted = _wanted(sorted((*counted, *hopeful), key=_age), retention) if hopeful else {}
    hopes = {each.set_id for each in hopeful}
    for each in unproven:
        if is_early(each, now) or each.state == "unknown":
            continue  # they have their reason, and their date means nothing
        if each.taken_at > youngest:
            held[each.set_id].append(_YOUNG[each.state])
        elif each.set_id in hopes and each.set_id in wanted:
            held[each.set_id].append(f"if it is verified: {', '.join(wanted[each.set_id])}")


_HOPEFUL: Final = ("verified", "unverified")  # a verified one that does not count lacks a base
_YOUNG: Final = {
    "verified": "young, and its base is not verified",
    "unverified": "young, and not verified yet",
    "damaged": "damaged, kept for a look",
    "red": "red, kept for a look",
}


def _wanted(ordered: Sequence[KnownSet], retention: Retention) -> dict[str, list[str]]:
    """Which of these the numbers choose, oldest first: of each period the last set, of each kind the newest periods."""
    chosen: dict[str, list[str]] = {}
    newest_first = ordered[::-1]
    for number, each in enumerate(newest_first[: retention.last], 1):
        chosen.setdefault(each.set_id, []).append(f"last {number}")
    counts = [(count, name) for count, name in _counts(retention) if count]
    if counts:
        local = [each.taken_at.astimezone(retention.zone) for each in newest_first]
        for count, name in counts:
            for place, label in _last_of_each(local, count, name):
                chosen.setdefault(newest_first[place].set_id, []).append(label)
    if retention.within is not None and newest_first:
        oldest = newest_first[0].taken_at - retention.within
        for each in newest_first:
            if each.taken_at < oldest:
                break
            chosen.setdefault(each.set_id, []).append(f"within {_length(retention.within)}")
    return chosen


def _last_of_each(local: Sequence[datetime], count: int, name: Callable[[datetime], str]) -> list[tuple[int, str]]:
    """The places of the last moment of each of the newest ``count`` periods; ``local`` has the newest first."""
    found: list[tuple[int, str]] = []
    for place, moment in enumerate(local):
        label = name(moment)
        if not found or found[-1][1] != label:
            if len(found) == count:
                break
            found.append((place, label))
    return found


def _counts(retention: Retention) -> tuple[tuple[int, Callable[[datetime], str]], ...]:
    return (
        (retention.hourly, periods.hour),
        (retention.daily, periods.day),
        (retention.weekly, periods.week),
        (retention.monthly, periods.month),
        (retention.yearly, periods.year),
    )


def _length(duration: timedelta) -> str:
    hours = duration // timedelta(hours=1)
    return f"{hours // 24} days" if hours >= 48 else f"{hours} hours"


def _keep_bases(reasons: dict[str, list[str]], by_id: Mapping[str, KnownSet]) -> None:
    """Let a kept set keep its base, and that its own: an increment without them is nothing."""
    for name in [name for name, found in reasons.items() if found]:
        above, seen = by_id[name], {name}
        while above.base is not None and above.base in by_id and above.base not in seen:
            if (reason := f"base of {above.set_id}") not in reasons[above.base]:
                reasons[above.base].append(reason)
            above = by_id[above.base]
            seen.add(above.set_id)


def _choice(
    known: KnownSet,
    reasons: Collection[str],
    counted: Sequence[KnownSet],
    by_id: Mapping[str, KnownSet],
    freeze: str | None,
) -> Choice:
    if reasons:
        return Choice(known.set_id, known.taken_at, known.state, "keep", tuple(reasons))
    why = _why_not(known, counted[-1].taken_at, by_id)
    if freeze:
        return Choice(known.set_id, known.taken_at, known.state, "keep", ("frozen", f"else to go: {why}"))
    return Choice(known.set_id, known.taken_at, known.state, "remove", (why,))


def _why_not(known: KnownSet, newest: datetime, by_id: Mapping[str, KnownSet]) -> str:
    older = f"{(newest - known.taken_at).days} days older than the newest verified"
    match known.state:
        case "verified" if known.base is None or known.base in by_id:
            return "no rule keeps it"
        case "verified":
            return f"its base {known.base} is gone, {older}"
        case "unverified":
            return f"never verified, {older}"
        case state:
            return f"{state}, {older}"
