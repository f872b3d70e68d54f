"""What of an instance somebody should look at, and what to do about it. Pure.

What was not seen is never well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from drtool.core.history import CLOCKS_APART, KnownSet, is_early
from drtool.core.situation import Situation, StoreSeen
from drtool.errors import DrtoolError, HostUnfit, ObjectiveBreached, SetDamaged, SetMissing

_DISCARD: Final = "`drtool discard` removes it for good."


@dataclass(frozen=True, slots=True)
class OpenFinding:
    """What somebody should look at. ``red`` ends with its exit status, ``amber`` does not change it."""

    code: str
    severity: Literal["amber", "red"]
    message: str
    hint: str
    exit_status: int


def find_open(situation: Situation, restorable: Sequence[KnownSet], now: datetime) -> Iterator[OpenFinding]:
    """Name what is wrong or odd, whatever is promised. ``restorable`` are the sets of the first store, oldest first."""
    stores = (situation.store, *situation.copies)
    for store in stores:
        if problem := store.problem:
            yield _red("store", problem, f"{store.name}: {problem}", problem.hint)
    known = situation.store.known
    if situation.half_restored:
        hint = "Finish it by the same command, or undo it."
        yield _red("half-restored", HostUnfit, f"this host holds {situation.half_restored}", hint)
    if not restorable and situation.store.problem is None:
        yield _red("no-set", SetMissing, "no set can be restored", "`drtool backup` makes one.")
    if any(each.stored_at > now + CLOCKS_APART for each in known):
        yield _red(
            "clock", HostUnfit, "this host's clock is behind the store's: no age is right", "Set it, and use NTP."
        )
    for number, store in enumerate(stores):
        where = "" if number == 0 else f" in {store.name}"
        yield from _damaged(store, stores, where)
        yield from _not_ours(store, where)
    yield from _bad_sets(situation.store, restorable, now)
    moved = situation.moved
    if moved and not any(each.state == "verified" and each.taken_at > moved.at for each in restorable):
        told = f"the address moved to {moved.to} on {moved.at:%F %R} UTC, and no set taken since then was verified"
        hint = f"On {moved.to}: `drtool install-timer`, `drtool backup`, `drtool verify`. Keep the old host till then."
        yield _red("moved", ObjectiveBreached, told, hint)
    for lost in situation.lost:
        few = f"{lost.set_ids[0]} and {len(lost.set_ids) - 1} more" if len(lost.set_ids) > 1 else lost.set_ids[0]
        told = f"{few}: gone from {lost.store}, and nothing that the policy let go; {lost.kept_in} has it"
        back = f"`drtool copy {lost.set_ids[0]} --from {lost.kept_in} --to {lost.store}` brings it back."
        yield _red("lost", SetMissing, told, f"Find out who deleted it, and pin what is left of that time. {back}")
    if situation.next_run.state != "known":
        told = f"nobody knows when the next backup begins: {situation.next_run.source}".removesuffix(": ")
        yield _amber("no-timer", told, "`drtool install-timer`, if GitLab is on this host.")
    for each in situation.unseen:
        yield _red("unseen", HostUnfit, f"nobody could see {each}", "Run as root.")
    for run_id in situation.unfinished:
        yield _amber(
            "unfinished-restore", f"{run_id} was begun from here and did not end", "Go on with it, or undo it."
        )


def _damaged(store: StoreSeen, stores: Sequence[StoreSeen], where: str) -> Iterator[OpenFinding]:
    """Also in copies: from which nobody may ever have to restore, but for the day on which the first store is gone."""
    for each in store.known:
        if each.state == "damaged":
            whole = {
                known.state: other.name for other in stores for known in other.known if known.set_id == each.set_id
            }
            source = whole.get("verified") or whole.get("unverified")
            mend = (
                f"`drtool copy {each.set_id} --from {source} --to {store.name} --mend` sends again what is not intact."
            )
            hint = f"{mend if source else f'No other store has it whole. {_DISCARD}'} Find out who changed it."
            yield _red("damaged", SetDamaged, f"{each.set_id} is damaged{where}", hint)


def _not_ours(store: StoreSeen, where: str) -> Iterator[OpenFinding]:
    """Also in copies: who restores from one must not find a forgery there that nobody told of."""
    for doubt in store.doubts:
        yield _red("not-believed", SetDamaged, f"{doubt}{where}", f"Somebody else wrote it, or changed it. {_DISCARD}")
    for each in store.known:
        if each.no_baseline:
            told = f"says baseline, and does not count{where}: {each.no_baseline}"
            yield _amber("baseline", told, "Find out who pinned it, and `drtool unpin` it.")


def _bad_sets(store: StoreSeen, restorable: Sequence[KnownSet], now: datetime) -> Iterator[OpenFinding]:
    newest = restorable[-1] if restorable else None
    for each in store.known:
        if each.state == "red" and (newest is None or each.taken_at > newest.taken_at):
            yield _red(
                "red", SetDamaged, f"{each.set_id}, the newest, is red", f"`drtool show {each.set_id}` says why."
            )
        elif each.state == "red":
            yield _amber("red", f"{each.set_id} is red", f"`drtool show {each.set_id}` says why.")
        elif is_early(each, now):
            yield _amber(
                "future", f"{each.set_id} is dated in the future", f"A clock was wrong when it was taken. {_DISCARD}"
            )
    if newest and newest.set_id in store.amber:
        yield _amber("amber", f"{newest.set_id} is amber", f"`drtool show {newest.set_id}` says why.")


def _red(code: str, kind: DrtoolError | type[DrtoolError], message: str, hint: str) -> OpenFinding:
    return OpenFinding(code, "red", message, hint, kind.exit_status)


def _amber(code: str, message: str, hint: str) -> OpenFinding:
    return OpenFinding(code, "amber", message, hint, 0)
