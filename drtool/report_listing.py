"""The list of sets as text for people: a line for each, within 80 columns, and below what is wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from drtool.listing import Row
from drtool.ui import mark, size_text, table

_WIDTH = 80
_SHOWN = 5
_LONG = 20
_MUCH = 1 << 60
_INDENT = " " * 8
_GAP = {"warn": " " * 4, "bad": " " * 2}
_HEAD = ("SET", "GITLAB", "REPOS", "STORED", "STATE")
_NOT_OURS = {"missing": "UNSIGNED", "invalid": "UNKNOWN SIGNER", "not checked": "not checked"}


def list_text(rows: Sequence[Row], instance: str, store: str) -> str:
    if not rows:
        return f"No backup of {instance} in {store} yet. `drtool backup` makes the first one."
    cells = [_cells(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(_HEAD[:-1], *(cell[:-1] for cell in cells), strict=True)]
    left = max(len(_NOT_OURS["invalid"]) + 1, _WIDTH - sum(widths) - 2 * len(widths))
    lines = []
    for *first, state in cells:
        begin, *more = textwrap.wrap(state, left)
        lines += [(*first, begin), *(("", "", "", "", words) for words in more)]
    return "\n".join([table(lines, _HEAD), *_notes(rows)])


def _cells(row: Row) -> tuple[str, ...]:
    if row.verdict == "unreadable":
        return row.set_id, "?", "?", "?", _state(row)
    doubt = "" if row.signature == "valid" else "?"
    claims = (
        row.gitlab_version if len(row.gitlab_version) < _LONG and row.gitlab_version.isprintable() else "",
        str(row.repositories) if row.repositories < _MUCH else "",
        size_text(row.stored_size) if row.stored_size < _MUCH else "",
    )  # whoever forges a manifest writes for this terminal
    return row.set_id, *((claim + doubt) or "?" for claim in claims), _state(row)


def _state(row: Row) -> str:
    marks = {
        "UNREADABLE": row.verdict == "unreadable",
        _NOT_OURS.get(row.signature, ""): row.signature != "valid" and row.verdict != "unreadable",
        "RED": row.verdict == "red",
        "amber": row.verdict == "amber" and row.signature == "valid",
        "ok": row.verdict == "green" and row.signature == "valid",
        "FUTURE": row.future,
        "pinned": row.pinned,
        "being removed": row.being_removed,
    }
    return ", ".join(name for name, is_so in marks.items() if is_so)


def _notes(rows: Sequence[Row]) -> list[str]:
    """What the words mean that somebody should know: once each, however many sets bear them."""
    lines: list[str] = []

    def note(kind: str, told: Callable[[Row], bool], text: str) -> None:
        if any(map(told, rows)):
            lines.extend(_wrapped(kind, text))

    readable = [row for row in rows if row.verdict != "unreadable"]
    if any(row.signature == "not checked" for row in readable):
        lines += _wrapped(
            "warn",
            "No key is trusted to sign, so no signature was checked: put the public signing key of the GitLab "
            "host into trusted_signers. What has a ? is what each manifest says of itself.",
        )
    note(
        "bad",
        lambda row: row.signature in ("missing", "invalid"),
        "UNSIGNED, UNKNOWN SIGNER: no trusted key signed it; what has a ? is only what it says of itself. "
        "Somebody else wrote it, or changed it.",
    )
    note("bad", lambda row: row.verdict == "red", "RED: its backup was not complete; `drtool show SET` says why.")
    note(
        "warn",
        lambda row: row.future,
        "FUTURE: dated later than this host's clock, or than the store had it: a clock was wrong. It is never "
        "`latest`, and no prune removes it.",
    )
    bad = [row for row in rows if row.verdict == "unreadable"]
    for row in bad[:_SHOWN]:
        lines += _wrapped("bad", f"{row.set_id}: {row.problem}")
    if len(bad) > _SHOWN:
        lines.append(f"{_INDENT}and {len(bad) - _SHOWN} more that cannot be read")
    if bad or any(row.future or row.signature in ("missing", "invalid") for row in rows):
        lines.append(f"{_INDENT}→ `drtool discard SET --reason TEXT` removes one for good.")
    return lines


def _wrapped(kind: str, text: str) -> list[str]:
    first, *more = textwrap.wrap(text, _WIDTH - len(_INDENT), break_long_words=False, break_on_hyphens=False)
    return [f"{mark(kind)}{_GAP[kind]}{first}", *(_INDENT + line for line in more)]
