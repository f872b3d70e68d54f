"""What retention decided and prune did, what was discarded, and the pins, as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from drtool.discard import Discarded, DiscardPlan
from drtool.marks import Pin
from drtool.prune import Pruned
from drtool.prune_plan import PrunePlan
from drtool.ui import mark, size_text, table, time_text

_SHOWN = 5


def pruned_text(pruned: Pruned) -> str:
    """The table of every set with its reasons, then what was done, then what somebody should know."""
    plan = pruned.plan
    lines = [_choices(plan)] if plan.decision.choices else [f"No backup of {plan.instance} in {plan.store}."]
    lines.append(_done(pruned))
    if plan.decision.freeze:
        lines += [
            f"{mark('bad')}  frozen, nothing is removed: {plan.decision.freeze}",
            "        → Find out why. If it is right so: drtool pin SET --baseline --reason TEXT,",
            "          where SET is the newest good one.",
        ]
    if pruned.locked:
        lines.append(f"{_sets(len(pruned.locked))} locked for longer: {_some(pruned.locked)}")
    for problem in pruned.problems:
        lines.append(f"{mark('bad')}  {problem}")
        if problem.hint:
            lines.append(f"        → {problem.hint}")
    return "\n".join([*lines, *_notes(plan)])


def discard_plan_text(set_id: str, plans: Sequence[DiscardPlan]) -> str:
    """What would go, and from where, before somebody is asked."""
    lines = [f"Discard {set_id} for good, from:"]
    for plan in plans:
        removal = plan.removal
        count = len(removal.volumes) + len(removal.records)
        lines.append(f"  {plan.store}: {plan.state}, {size_text(removal.size)}, {count} objects")
        if plan.doubt:
            lines.append(f"    not believed: {plan.doubt}")
            lines.append("    so what goes is what has a name that a backup gives, in this set's own folder")
        if plan.left:
            lines.append(f"    not ours, stays: {_some(plan.left)}")
    return "\n".join(lines)


def discarded_text(done: Sequence[Discarded]) -> str:
    lines = []
    for each in done:
        removal = each.plan.removal
        if each.problem:
            lines.append(f"{mark('bad')}  {each.problem}")
            lines += [f"        → {each.problem.hint}"] if each.problem.hint else []
        else:
            lines.append(f"{removal.set_id} is gone from {each.plan.store}, {size_text(removal.size)}")
        if each.plan.left:
            lines.append(f"{mark('warn')}    left alone: {_some(each.plan.left)}")
        lines.append(f"  receipt {each.receipt}")
    return "\n".join(lines)


def pins_text(pins: Sequence[Pin]) -> str:
    if not pins:
        return "No set is pinned."
    cells = [
        (
            pin.set_id,
            time_text(pin.at) if pin.at else "?",
            pin.by,
            "baseline" if pin.baseline else "no baseline" if pin.doubt else "",
            pin.reason,
        )
        for pin in pins
    ]
    doubts = [f"{mark('warn')}    says baseline, and does not count: {pin.doubt}" for pin in pins if pin.doubt]
    return "\n".join([table(cells, ("SET", "PINNED", "BY", "", "REASON")), *doubts])


def pin_text(pin: Pin) -> str:
    return f"{pin.set_id} is pinned: no prune removes it before `drtool unpin {pin.set_id}`"


def unpin_text(set_id: str, pin: Pin | None) -> str:
    return f"{set_id} is not pinned any more; it was for: {pin.reason}" if pin else f"{set_id} was not pinned"


def _choices(plan: PrunePlan) -> str:
    cells = [
        (choice.set_id, time_text(choice.taken_at), choice.state, choice.action, ", ".join(choice.reasons))
        for choice in plan.decision.choices
    ]
    return table(cells, ("SET", "TAKEN", "STATE", "", "WHY"))


def _done(pruned: Pruned) -> str:
    plan = pruned.plan
    stay = f"{len(plan.decision.kept)} stay"
    if pruned.dry_run:
        size = size_text(sum(removal.size for removal in plan.removals))
        return f"Would remove {_sets(len(plan.removals))}, {size}; {stay}."
    waiting = len(plan.removals) - len(pruned.removed)
    rest = f"; {waiting} more {'was' if waiting == 1 else 'were'} to go and did not" if waiting else ""
    return f"{_sets(len(pruned.removed))} removed, {size_text(pruned.freed)}; {stay}{rest}."


def _sets(count: int) -> str:
    return "1 set" if count == 1 else f"{count} sets"


def _notes(plan: PrunePlan) -> list[str]:
    lines = [f"{mark('warn')}    {set_id} stays, a tombstone on it did not count" for set_id in plan.withdrawn]
    lines += [f"{mark('warn')}    left alone, see `drtool discard`: {doubt}" for doubt in plan.doubts]
    lines += [f"{mark('warn')}    says baseline, and does not count: {doubt}" for doubt in plan.no_baselines]
    if plan.unfinished:
        lines.append(
            f"{mark('warn')}    no manifest, left alone: {_some(plan.unfinished)}: a backup is running, or died"
        )
    if plan.foreign:
        lines.append(f"{mark('warn')}    not ours, left alone: {_some(plan.foreign)}")
    return lines


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
