"""When forgetting is to stop: the newest sets shrank, or there are too many new ones to be a normal life.

Whoever encrypts or empties a GitLab wants its good sets to fall out behind new ones. Retention itself gives them
weeks; these alarms make somebody look in that time. A pin with ``baseline`` is that somebody's answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from drtool.core.history import KnownSet

_NEWEST: Final = 3
_COMPARED: Final = 30
_FEW: Final = 10  # of anything: below that, half is a matter of one or two
_DAY: Final = timedelta(days=1)
_WATCHED: Final = timedelta(days=7)


def find_alarm(
    present: Sequence[KnownSet], known: Sequence[KnownSet], counted: Sequence[KnownSet], sets_a_day: int
) -> str | None:
    """Say why nothing may be removed, or None.

    All are oldest first. ``known`` are all sets, ``present`` those not dated in the future, ``counted`` those that can
    be restored.
    """
    return _shrink(present, counted) or _burst(known, sets_a_day)


def _shrink(present: Sequence[KnownSet], counted: Sequence[KnownSet]) -> str | None:
    """Compare the newest sets with the median of the verified ones before each. Increments are small by nature."""
    whole = [each for each in present if each.base is None and each.state in ("verified", "unverified")]
    begin = max((place for place, each in enumerate(whole) if each.baseline), default=0)
    since = whole[begin:]
    ids = {each.set_id for each in counted}
    for newest in range(len(since) - 1, max(0, len(since) - 1 - _NEWEST), -1):
        before = [each for each in since[:newest] if each.set_id in ids][-_COMPARED:]
        if before and (found := _compare(since[newest], before)):
            return f"{since[newest].set_id} {found}"
    return None


def _compare(newest: KnownSet, before: Sequence[KnownSet]) -> str | None:
    usual = _median([each.size for each in before])
    if newest.size * 2 < usual:
        return f"takes {newest.size} bytes, less than half of the usual {usual}"
    if not newest.contents:
        return None  # nobody counted
    holds = {tally.name: tally.count for tally in newest.contents}
    counts: dict[str, list[int]] = {}
    for each in before:
        for tally in each.contents:
            counts.setdefault(tally.name, []).append(tally.count)
    for name, known in counts.items():
        usual = _median(known)
        if usual >= _FEW and holds.get(name, 0) * 2 < usual:
            return f"holds {holds.get(name, 0)} {name}, less than half of the usual {usual}"
    return None


def _median(values: Sequence[int]) -> int:
    return sorted(values)[len(values) // 2]


def _burst(known: Sequence[KnownSet], sets_a_day: int) -> str | None:
    """Count by the clocks of stores: a name can bear any date, as the clock of the host can.

    A copy may be filled in a day with what another store got in months: that is no burst. What was one there is one
    here, and is remembered for as long from when it came here: whoever waits for the other freeze to end gains nothing.
    """
    judged = [each for each in known if each.state in ("verified", "unverified")]
    if len(judged) <= sets_a_day:
        return None
    since = max((each.stored_at for each in judged if each.baseline), default=None)
    new = sorted((each for each in judged if since is None or each.stored_at > since), key=_first_stored_at)
    newest = max((each.stored_at for each in new), default=None)
    for place in range(len(new) - sets_a_day):
        burst = new[place : place + sets_a_day + 1]
        last, came = _first_stored_at(burst[-1]), max(each.stored_at for each in burst)
        if newest and last - _first_stored_at(burst[0]) < _DAY and came > newest - _WATCHED:
            when = f"{last.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            return f"more than {sets_a_day} sets were stored within a day, which ended {when}: more than is usual"
    return None


def _first_stored_at(known: KnownSet) -> datetime:
    return min(known.stored_at, known.first_stored_at or known.stored_at)
