"""How an instance stands, as text for people: what is promised, what is, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from drtool.core.standing import Objective, Standing
from drtool.ui import mark, size_text, table, time_text

_NAMES = {
    "rpo": "work that could be lost",
    "rto": "time a restore takes",
    "drill_age": "age of the last drill",
    "digest": "last read of stored bytes",
    "contents": "last judging of contents",
    "copies": "copies",
    "lock": "lock of the newest set",
    "removal": "removal of old sets",
}
_MARKS = {"met": "ok", "breached": "bad", "unknown": "bad", "not promised": "ok"}
WELL, NOT_WELL = "All that is promised is kept.", "Not all is well"
NOTHING = "Nothing is promised, so nothing is broken: name a policy in drtool.toml."


def status_text(standings: Sequence[Standing]) -> str:
    return "\n\n".join("\n".join(_lines(standing)) for standing in standings)


def _lines(standing: Standing) -> Iterator[str]:
    yield f"{standing.instance} in {standing.store}, {time_text(standing.at)}"
    newest = standing.last_restorable
    if newest:
        sets = ", ".join(f"{count} {state}" for state, count in standing.sets.items())
        yield f"  last set that can be restored: {newest.set_id}, {newest.state}, {size_text(newest.size)}"
        yield f"  sets: {sets}"
    else:
        yield "  last set that can be restored: none" if standing.reachable else "  the store does not answer"
    yield from _promises(standing.objectives)
    yield f"  next backup: {_next(standing)}"
    for copy in standing.copies:
        behind = (
            "nobody knows" if copy.behind is None else "complete" if copy.complete else f"{copy.behind} sets behind"
        )
        yield f"  copy in {copy.store}: {behind}"
    if standing.restore and standing.restore.took is not None:
        when = time_text(standing.restore.finished_at)
        yield f"  last measured restore: {_length(standing.restore.took)}, {when}"
    if standing.growth is not None:
        sizes = " ".join(size_text(each.size) for each in standing.sizes)
        yield f"  sizes: {sizes} ({standing.growth:+.0%} against the usual)"
    for found in standing.findings:
        yield f"{mark('bad' if found.severity == 'red' else 'warn')}  {found.message}"
        yield f"        → {found.hint}"
    if standing.exit_status:
        yield f"{NOT_WELL}: status {standing.exit_status}."
    else:
        # That nothing is removed in a panic is nobody's promise: it is so for every instance.
        promised = any(each.verdict != "not promised" for each in standing.objectives if each.name != "removal")
        yield WELL if promised else NOTHING


def _promises(objectives: Sequence[Objective]) -> Iterator[str]:
    rows = [
        (
            mark(_MARKS[each.verdict]) if each.verdict != "not promised" else "-",
            _NAMES[each.name],
            _length(each.promised) if each.promised is not None else "",
            _length(each.reached) if each.reached is not None else "",
            ", ".join(filter(None, (each.verdict, each.detail))),
        )
        for each in objectives
    ]
    yield table(rows, ("", "OBJECTIVE", "PROMISED", "REACHED", ""))


def _next(standing: Standing) -> str:
    run = standing.next_run
    if run.state == "known" and run.at:
        return f"{time_text(run.at)}, by {run.source}"
    return f"none: {run.source}" if run.state == "none" else f"unknown: {run.source}"


def _length(duration: timedelta) -> str:
    seconds = round(duration.total_seconds())
    if seconds < 120:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{hours} h" if hours < 72 else f"{round(hours / 24)} days"
