"""What is told, and what runs by itself, as text for people."""

from __future__ import annotations

from drtool.scheduling import Scheduled
from drtool.telling import Told
from drtool.ui import mark, table

_WOULD = {"written": "would be written", "replaced": "would be replaced", "removed": "would be removed"}


def told_text(told: Told) -> str:
    if told.already:
        return "Everybody was told already."
    if not told.deliveries:
        return "Nobody wants to be told of failures: see on in [instance.notify]."
    rows = [
        (mark("bad" if one.reason else "ok"), one.kind, one.service, one.reason or "arrived") for one in told.deliveries
    ]
    return table(rows, ("", "KIND", "SERVICE", ""))


def scheduled_text(done: Scheduled) -> str:
    lines = [f"{_WOULD.get(one.action, one.action) if done.dry_run else one.action}  {one.path}" for one in done.files]
    lines += [f"{'would run' if done.dry_run else 'ran'}  {command}" for command in done.commands]
    if done.dry_run:
        for name, text in done.texts.items():
            lines += ["", f"# -- {name}", text.rstrip()]
    elif done.timers and done.texts:
        lines += ["When each runs next: systemctl list-timers 'drtool-*'"]
    return "\n".join(lines)
