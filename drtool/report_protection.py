"""Rights, and what came of an attack, as text for people."""

from __future__ import annotations

import json
from collections.abc import Sequence

from drtool.attack import Outcome
from drtool.iam import Rights

_HOSTS = {
    "backup": "the host that is backed up",
    "prune": "the host that prunes; not the one that is backed up",
    "restore": "a host that is restored onto, or verifies",
}


def rights_text(found: Sequence[Rights]) -> str:
    return "\n\n".join(
        "\n".join(
            [
                f"{each.role}: for {_HOSTS[each.role]}",
                *(f"  {note}" for note in each.notes),
                json.dumps(each.document, indent=2),
            ]
        )
        for each in found
    )


def attack_text(outcome: Outcome, receipt: str | None) -> str:
    lines = [f"Attack on {outcome.store} with this host's own keys:"]
    width = max(len(each.name) for each in outcome.tried)
    for each in outcome.tried:
        lines.append(f"  {each.verdict.upper() if each.verdict == 'allowed' else each.verdict:8}  {each.name:{width}}")
        lines.append(f"            {each.seen}")
        if each.verdict == "allowed":
            lines += [f"            A thief could: {each.gains}", f"            Change: {each.cure}"]
    if outcome.left:
        lines.append(f"Left behind, because it may not be deleted here: {', '.join(outcome.left)}")
    if receipt:
        lines.append(f"Receipt: {receipt}")
    lines.append(_sum(outcome))
    return "\n".join(lines)


def _sum(outcome: Outcome) -> str:
    count = len(outcome.tried) - len(outcome.allowed) - len(outcome.unseen)
    text = f"{len(outcome.allowed)} allowed, {count} withstood"
    return f"{text}; {len(outcome.unseen)} not seen, which says nothing good of them" if outcome.unseen else f"{text}."
