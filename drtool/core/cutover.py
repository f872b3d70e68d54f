"""What a cut-over does next: a function of what is seen now and of what was wanted. Pure.

Nothing here trusts a memory of what was done: after a crash the same function, shown the same hosts, says the same.
Both directions are one way: fence the host that the address leaves, open the one it goes to, move, and look from
outside. So at every instant at most one host is writable behind the address (I6), also where people are still led to
the one that it left (DNS), or where a machine starts anew by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal


class State(StrEnum):
    """How a host stands to writing."""

    SERVING = "serving"
    """Something that writes is up."""
    FROZEN = "frozen"
    """Nothing that writes is up; after a restart of the machine it may be."""
    FENCED = "fenced"
    """Nothing is up, nor would be after a restart of the machine."""
    STOPPED = "stopped"
    """The provider switched the machine off during this run."""
    SILENT = "silent"
    """No way in, and no answer to people: dead, or only out of our sight."""
    ANSWERING = "answering"
    """No way in, and it answers people all the same."""


@dataclass(frozen=True, slots=True)
class HostSeen:
    """One host. ``healthy``: asked past the public address, it serves. ``held``: it does not start with its machine.

    ``exposed``: word was left on it that it may have been behind the address.
    """

    state: State
    healthy: bool = False
    exposed: bool = False
    held: bool = False


@dataclass(frozen=True, slots=True)
class Observed:
    """What is so now. ``holder`` is None when nobody has the address."""

    holder: str | None
    old: HostSeen
    new: HostSeen


@dataclass(frozen=True, slots=True)
class Intent:
    """What is wanted: the address with ``new``, or ``back`` with ``old``; both named as the provider does.

    ``exposed``: the new host may have been behind the address, and so have taken writes. ``dead``: somebody gave their
    word that the host which the address leaves is dead. ``stop``: the provider is to switch that host off.
    ``startable``: the provider can switch the other one on. ``agreed``: nobody has to be asked before the move.
    ``counted``: the host that the address leaves was counted, or is not to be. ``moved`` and ``probed``: by this very
    process.
    """

    old: str
    new: str
    back: bool = False
    exposed: bool = False
    dead: bool = False
    stop: bool = False
    startable: bool = False
    agreed: bool = True
    counted: bool = True
    moved: bool = False
    probed: bool = False

    @property
    def goal(self) -> str:
        return self.old if self.back else self.new

    @property
    def leaving(self) -> str:
        return self.new if self.back else self.old


Kind = Literal[
    "freeze", "count", "fence", "stop", "start", "open", "confirm", "move", "probe", "end", "elsewhere", "decide"
]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. ``host`` is a holder. ``why`` and ``hint`` are for people, where there is nothing to do."""

    kind: Kind
    host: str
    why: str = ""
    hint: str = ""


Decide = Callable[[Observed, Intent], Step]

TITLES: dict[Kind, str] = {
    "freeze": "Stop what writes on {host}, and keep it from starting with the machine",
    "count": "Count what {host} holds",
    "fence": "Stop the rest of GitLab on {host}",
    "stop": "Let the provider switch {host} off; it is kept, and charged",
    "start": "Let the provider switch {host} on",
    "open": "Start GitLab on {host}, and wait until it serves",
    "confirm": "Ask whether to go on",
    "move": "Move the address to {host}",
    "probe": "Look from outside, through the public name",
    "end": "Write down what is so now",
}


def title(step: Step) -> str:
    """What a step does, for people."""
    return TITLES[step.kind].format(host=step.host)


def next_step(seen: Observed, intent: Intent) -> Step:
    """Say what to do next. ``end``: all is as it was wanted. ``elsewhere`` and ``decide``: a person has to."""
    if seen.holder not in (intent.old, intent.new, None):
        return _elsewhere(seen.holder)
    leaving, goal = (seen.new, seen.old) if intent.back else (seen.old, seen.new)
    # A new host that nobody was ever led to may go on as it is, when all that is wanted is the old one.
    step = _fence(leaving, intent) if intent.exposed or seen.new.exposed or not intent.back else None
    # Not before: where people are still led to both (DNS), both would be writable.
    return step or _open(goal, intent) or _move(seen.holder, intent)


def _fence(seen: HostSeen, intent: Intent) -> Step | None:
    """What is missing until the host that the address leaves can take no write any more."""
    host = intent.leaving
    match seen.state:
        case State.SERVING:
            return Step("freeze", host)
        case State.FROZEN if not seen.held:  # by somebody else: after a restart it would take writes that nobody counts
            return Step("freeze", host)
        case State.FROZEN:
            # Frozen is not enough to move: by whomever it was stopped, a restart of the machine may start it.
            return Step("fence", host) if intent.counted else Step("count", host)
        case State.FENCED:
            return Step("stop", host) if intent.stop and not intent.back else None
        case State.STOPPED:
            return None
        case State.SILENT | State.ANSWERING if intent.stop:
            return Step("stop", host)
        case State.ANSWERING:
            return Step(
                "decide",
                host,
                f"{host} cannot be reached by ssh, and still answers people: it is not dead",
                "Switch the machine off at the provider (--stop-instance does, where it can), and run this again.",
            )
    if intent.dead:
        return None
    return Step(
        "decide",
        host,
        f"{host} cannot be reached, so nobody can say that it takes no writes",
        "Make sure that it is off; then run this again with --old-host-is-dead.",
    )


def _open(goal: HostSeen, intent: Intent) -> Step | None:
    match goal.state:
        case State.SERVING if goal.healthy:
            return None
        case State.SERVING | State.FROZEN | State.FENCED:
            return Step("open", intent.goal)
    if intent.startable:
        return Step("start", intent.goal)
    hint = "Start the machine, or mend the way to it, and run this again; or begin --anew, --to the other host."
    return Step("decide", intent.goal, f"{intent.goal} is to get the address, and cannot be reached", hint)


def _move(holder: str | None, intent: Intent) -> Step:
    if holder != intent.goal:
        if intent.moved:
            return _elsewhere(holder)
        return Step("move", intent.goal) if intent.agreed or intent.back else Step("confirm", intent.goal)
    return Step("end", intent.goal) if intent.probed else Step("probe", intent.goal)


def _elsewhere(holder: str | None) -> Step:
    return Step(
        "elsewhere",
        holder or "",
        f"the address is with {holder or 'nobody'}: somebody else moved it meanwhile; nothing was moved",
        "Find out who, and why. --anew begins a new cut-over, from where it is now.",
    )


def can_go_back(seen: Observed, *, startable: bool) -> bool:
    """Tell whether the old host could serve again: it is no use to give the address back to a dead one.

    ``startable``: the provider, who switched it off for us, can switch it on.
    """
    return startable or seen.old.state in (State.SERVING, State.FROZEN, State.FENCED)


def expected_steps(seen: Observed, intent: Intent, decide: Decide = next_step) -> tuple[Step, ...]:
    """What will be done if all goes well: for a dry run."""
    steps: list[Step] = []
    while True:
        step = decide(seen, intent)
        steps.append(step)
        if step.kind in ("end", "elsewhere", "decide"):
            return tuple(steps)
        seen, intent = _after(step, seen, intent)


def _after(step: Step, seen: Observed, intent: Intent) -> tuple[Observed, Intent]:
    match step.kind:
        case "freeze":
            return _with_host(seen, intent, step.host, HostSeen(State.FROZEN, held=True)), intent
        case "fence":
            return _with_host(seen, intent, step.host, HostSeen(State.FENCED)), intent
        case "stop":
            return _with_host(seen, intent, step.host, HostSeen(State.STOPPED)), intent
        case "start":
            return _with_host(seen, intent, step.host, HostSeen(State.FENCED)), intent
        case "open":
            return _with_host(seen, intent, step.host, HostSeen(State.SERVING, healthy=True)), intent
        case "count":
            return seen, replace(intent, counted=True)
        case "confirm":
            return seen, replace(intent, agreed=True)
        case "move":
            return replace(seen, holder=step.host), replace(intent, moved=True)
        case _:
            return seen, replace(intent, probed=True)


def _with_host(seen: Observed, intent: Intent, host: str, now: HostSeen) -> Observed:
    return replace(seen, old=now) if host == intent.old else replace(seen, new=now)
