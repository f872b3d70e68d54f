"""Cut-overs as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from drtool.core.cutover import title
from drtool.core.obstacles import Obstacle
from drtool.cutover_place import Outcome, Run
from drtool.ui import mark, seconds_text, time_text

KEEP_FOR = timedelta(days=14)
"""How long the old host is to be kept: until what is missing on the new one has been missed by somebody."""


def plan_text(run: Run, address: str, warnings: Sequence[Obstacle]) -> str:
    """What is so, what will be done, and what somebody should know before."""
    way = f"back from {run.new} to {run.old}" if run.back else f"from {run.old} to {run.new}"
    lines = [
        f"{'Going on: ' if run.resumed else ''}{address} {way} ({run.journal.run_id})",
        f"  now with {run.seen.holder or 'nobody'}; {run.old} is {run.seen.old.state.value},"
        f" {run.new} is {run.seen.new.state.value}",
    ]
    lines += [f"  {number}. {title(step)}" for number, step in enumerate(run.steps, 1)]
    for warning in warnings:
        lines += [f"{mark('warn')}    {warning.message}", f"        → {warning.remedy}"]
    if run.back and run.steps and any(step.kind == "fence" for step in run.steps):
        lines.append(f"{mark('warn')}    What was written on {run.new} since it had the address stays there")
    elif not run.back:
        within = round(run.order.rollback_within.total_seconds() / 60)
        lines.append(
            f"Nobody is served from the first step on. Not served from outside within {within} min: all goes back."
        )
    return "\n".join(lines)


def outcome_text(outcome: Outcome, address: str, outage: float | None) -> str:
    """Where the address is, how long nobody was served, and what has to happen now."""
    lines = [f"{mark('ok')}  {address} is with {outcome.holder} ({outcome.result}, {outcome.run_id})"]
    lines += [f"  {step.name:8}{step.host}  {seconds_text(step.seconds)}" for step in outcome.steps]
    seen = "not seen whole: it began or ended out of sight" if outage is None else seconds_text(outage)
    lines.append(f"  outage as seen from here: {seen}")
    lines.append(f"  nobody should be led to {outcome.left} any more from {time_text(outcome.settled_at)} on")
    if outcome.left_behind:
        lines.append(f"{mark('warn')}    {outcome.left} holds what {outcome.holder} does not:")
        lines += [f"          {each}" for each in outcome.left_behind]
    return "\n".join([*lines, *(_after_commit(outcome) if outcome.result == "committed" else _after_return(outcome))])


def _after_commit(outcome: Outcome) -> list[str]:
    keep_until = outcome.settled_at + KEEP_FOR
    return [
        "Now:",
        f"  on {outcome.holder}: `drtool check`, a backup timer of its own, and a first backup that verifies",
        f"  {outcome.left} stays fenced, and nothing of it was deleted. Keep it until {keep_until:%Y-%m-%d};"
        " then its machine may be released, never its address",
        "  the way back until then: the same command with --undo",
    ]


def _after_return(outcome: Outcome) -> list[str]:
    return [f"{outcome.left} is as it was left, fenced if people were ever led to it. Nothing of it was deleted."]
