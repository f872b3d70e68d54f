"""Move the public address to another host as a transaction: finished, or undone, by one command.

Look, decide (``core.cutover``), write down what is begun, do it, write down that it ended, look again. What is done
follows from what is seen each time; the journal is asked only for what cannot be seen: which way was wanted, and
whether the new host may ever have been behind the address. Nothing is released or deleted.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from drtool import __version__
from drtool.core.census import compare, parse_census
from drtool.core.cutover import HostSeen, Intent, Observed, State, Step, can_go_back, expected_steps, title
from drtool.cutover_place import Order, Outcome, Place, Result, Run, StepTime
from drtool.cutover_runs import (
    PREFIX,
    ended,
    find_census,
    head,
    keep_census,
    last_count,
    meaningful,
    of_address,
    pair,
    to_take_up,
    wants_back,
)
from drtool.errors import AddressElsewhere, AddressError, CutoverFailed, DrtoolError, HostUnfit
from drtool.events import Noticed, Waiting
from drtool.journal import Journal, new_journal, only_run
from drtool.phases import phase

_MOST_STEPS = 40  # a run that needs more is not alone
_PAUSE = timedelta(seconds=2)
_STUBBORN = 2
_SHOWN = 8


def prepare(order: Order, place: Place) -> Run:
    """Find out what there is to finish, to undo or to begin, and what would be done; nothing is changed.

    Raises AddressElsewhere, ResumeError, and what the provider says.
    """
    journal = to_take_up(order, place)
    if journal is None:
        old, new = pair(order, place)
        run_id = f"{PREFIX}{place.clock.now():%Y%m%dT%H%M%SZ}-{place.new_token()}"
        journal = Journal(place.state / "runs" / f"{run_id}.jsonl")
        back = False
    else:
        first = head(journal)
        old, new = first["old"], first["new"]
        back = order.undo or wants_back(journal)
    driver = _Driver(order, place, journal, old, new)
    seen = driver.look()
    intent = driver.intent(back=back)
    intent = replace(intent, dead=intent.dead or order.dead)
    steps = expected_steps(seen, intent, place.decide)
    if not (driver.touched and steps[-1].host == new and not back):  # then the old host gets it back
        _refuse_stuck(steps[-1], place)
    return Run(order, old, new, back, journal, bool(journal.entries), seen, steps)


def carry_out(run: Run, place: Place) -> Outcome:
    """Do what was prepared. The same command again goes on from wherever it stops.

    Raises CutoverFailed once the address is back with the old host, and when a person has to decide; AddressElsewhere,
    Busy, and in the way back whatever a step raises.
    """
    with ExitStack() as held:
        held.enter_context(only_run(place.state, f"address-{run.order.address}", doing="a cut-over"))
        who = f"{run.journal.run_id} ({place.operator})"
        for holder in (run.old, run.new):
            held.enter_context(place.sides[holder].hold(who))
        journal = new_journal(place.state, run.journal.run_id)
        _begin(journal, run, place)
        held.enter_context(place.watch())
        return _Driver(run.order, place, journal, run.old, run.new).drive()


def _begin(journal: Journal, run: Run, place: Place) -> None:
    order, now = run.order, place.clock.now().isoformat()
    if order.anew:
        for other in of_address(place, order.address):
            if other.run_id != journal.run_id and not ended(other):
                other.append("abandoned", at=now, by=place.operator)
    if journal.find("cutover") is None:
        journal.append("cutover", address=order.address, old=run.old, new=run.new, at=now, by=place.operator)
    if journal.find("wanted") is None or wants_back(journal) != run.back or ended(journal):
        journal.append("wanted", back=run.back, why="--undo" if order.undo else "", asked=True, at=now)
    if order.stop or not order.count:
        journal.append("options", stop=order.stop, count=order.count)
    if order.dead:
        journal.append("word", host=run.new if run.back else run.old, by=place.operator, at=now)


@dataclass
class _Driver:
    """One process at work on one run. ``stopped``, ``moved`` and ``probed`` are its own, and die with it."""

    order: Order
    place: Place
    journal: Journal
    old: str
    new: str
    stopped: set[str] = field(default_factory=set)
    moved: str = ""
    probed: str = ""
    refusals: int = 0

    def drive(self) -> Outcome:
        last: Step | None = None
        for _ in range(_MOST_STEPS):
            seen = self.look()
            intent = self.intent()
            step = self.place.decide(seen, intent)
            match step.kind:
                case "end":
                    return self._end(intent)
                case "decide" if step.host == intent.new and self._may_turn_back(seen, intent):
                    self._turn_back(step.why)
                    continue
            _refuse_stuck(step, self.place)
            if step == last:
                raise CutoverFailed(f"{title(step)}: it was done, and nothing came of it", hint="Look at that host.")
            last = step
            try:
                self._do(step, seen)
            except AddressElsewhere:
                raise
            except DrtoolError as problem:
                self.journal.append("failed", step=step.kind, host=step.host, why=str(problem))
                last = None
                if self._may_turn_back(seen, intent):
                    self._turn_back(str(problem))
                elif isinstance(problem, AddressError) and self.refusals < _STUBBORN:
                    self.refusals += 1  # there is no other way than this one
                    self.place.clock.sleep(_PAUSE)
                else:
                    raise
        raise CutoverFailed("there is no end to it: somebody else works on these hosts", hint="Find out who.")

    def look(self) -> Observed:
        return Observed(self.place.address.holder(), self._host(self.old), self._host(self.new))

    def intent(self, *, back: bool | None = None) -> Intent:
        """What is wanted, as the journal and this process know it."""
        backwards = wants_back(self.journal) if back is None else back
        goal, leaving = (self.old, self.new) if backwards else (self.new, self.old)
        options = self.journal.all("options")
        count = self.order.count and all(entry["count"] for entry in options)
        stop = self.order.stop or any(entry["stop"] for entry in options)
        words = {entry["host"] for entry in self.journal.all("word")}
        counted = last_count(self.journal, leaving)
        return Intent(
            self.old,
            self.new,
            back=backwards,
            exposed=any(e["step"] == "move" and e["host"] == self.new for e in self.journal.all("started")),
            dead=leaving in words,
            stop=stop and self.place.power is not None,
            startable=self._can_switch_on(goal),
            agreed=not count or counted == 0 or self.journal.find("agreed") is not None,
            counted=counted is not None or not count,
            moved=self.moved == goal,
            probed=self.probed == goal,
        )

    def _host(self, holder: str) -> HostSeen:
        seen = self.place.sides[holder].look()
        # Only of this process: between two of them somebody may have switched it on.
        return HostSeen(State.STOPPED) if holder in self.stopped and seen.state is State.SILENT else seen

    @property
    def touched(self) -> bool:
        """Whether anything was done to the old host, which then has to serve again or to be replaced."""
        return any(entry["host"] == self.old for entry in self.journal.all("started"))

    def _may_turn_back(self, seen: Observed, intent: Intent) -> bool:
        startable = self._can_switch_on(self.old)
        return not intent.back and self.touched and can_go_back(seen, startable=startable)

    def _can_switch_on(self, host: str) -> bool:
        """Whether the provider switched it off for us, and can switch it on."""
        off = any(entry["step"] == "stop" and entry["host"] == host for entry in self.journal.all("started"))
        return off and hasattr(self.place.power, "start_instance")

    def _turn_back(self, why: str) -> None:
        self.journal.append("wanted", back=True, why=why, asked=False, at=self.place.clock.now().isoformat())
        self.place.emit(Noticed("rolling-back", f"The address goes back to {self.old}: {why}"))
        self.moved = self.probed = ""

    def _do(self, step: Step, seen: Observed) -> None:
        clock = self.place.clock
        self.journal.append("started", step=step.kind, host=step.host, seen=_shown(seen), at=clock.now().isoformat())
        with phase(f"{step.kind}-{step.host}", title(step), clock, self.place.emit) as elapsed:
            self._perform(step, seen)
        self.journal.append(
            "finished", step=step.kind, host=step.host, seconds=round(elapsed(), 3), at=clock.now().isoformat()
        )

    def _perform(self, step: Step, seen: Observed) -> None:
        side = self.place.sides[step.host]
        match step.kind:
            case "freeze":
                side.freeze()
            case "count":
                self._count(step.host)
            case "fence":
                side.fence(self.journal.run_id)
            case "stop":
                assert self.place.power is not None
                self.place.power.stop_instance(step.host)
                self.stopped.add(step.host)
            case "start":
                self._start(step.host)
            case "open":
                side.open()
            case "confirm":
                self._confirm()
            case "move":
                self._move(step.host, seen)
            case "probe":
                self._probe(step.host)
            case _:
                raise AssertionError(step.kind)

    def _move(self, to: str, seen: Observed) -> None:
        settles = self.place.address.settles_within  # of the record as it is now: that is what resolvers keep
        if to == self.new:
            self.place.sides[to].expose(self.journal.run_id)
        try:
            self.place.address.move(to, expected=seen.holder)
        except AddressElsewhere:
            raise
        except AddressError as problem:
            if self.place.address.holder() != to:
                raise
            self.place.emit(Noticed("move-complained", f"{to} has the address, although: {problem}"))
        self.moved = to
        settled = self.place.clock.now() + settles
        self.journal.append("moved", to=to, settled_at=settled.isoformat())

    def _probe(self, holder: str) -> None:
        deadline = self.place.clock.monotonic() + self.order.rollback_within.total_seconds()
        while problem := self.place.probe(holder):
            if self.place.clock.monotonic() >= deadline:
                raise CutoverFailed(
                    f"not within {self.order.rollback_within} from outside: {problem}",
                    hint="Look at the way from outside to the host; then run the same command again.",
                )
            self.place.emit(Waiting("probe", problem))
            self.place.clock.sleep(_PAUSE)
        self.probed = holder

    def _start(self, host: str) -> None:
        start = getattr(self.place.power, "start_instance")  # noqa: B009 - not every provider has it
        start(host)
        self.stopped.discard(host)
        side, deadline = self.place.sides[host], self.place.clock.monotonic() + 600
        while side.look().state in (State.SILENT, State.ANSWERING):
            if self.place.clock.monotonic() >= deadline:
                raise CutoverFailed(f"{host} was switched on, and cannot be reached", hint="Look at its console.")
            self.place.clock.sleep(_PAUSE)

    def _count(self, host: str) -> None:
        """Forward: what the new host lacks. On the way back: what was written on the new one, and stays there."""
        found: tuple[str, ...]
        try:
            found = self._differences(host)
        except DrtoolError as problem:
            if host == self.old:
                raise
            found = (f"unknown, it could not be counted: {problem}",)
        if found:
            what = "holds what the new one does not" if host == self.old else "keeps what the old one will not have"
            self.place.emit(Noticed("delta", f"{host} {what}: {len(found)} differences", details=found[:_SHOWN]))
        self.journal.append("counted", host=host, differences=len(found), first=list(found[:_SHOWN]))

    def _differences(self, host: str) -> tuple[str, ...]:
        path = find_census(self.place, self.journal.run_id)
        now = self.place.clock.now()
        if not path.exists():
            if host == self.new:
                raise HostUnfit("nobody counted it before the move")
            keep_census(self.place, self.journal.run_id, self.place.sides[self.new].count(now))
        before = parse_census(path.read_bytes(), source=str(path))
        return tuple(map(str, meaningful(compare(before, self.place.sides[host].count(now)))))

    def _confirm(self) -> None:
        counted = [entry for entry in self.journal.all("counted") if entry["host"] == self.old]
        unknown = (f"{self.old} could not be counted after it was stopped",)
        if not self.place.agree(tuple(counted[-1]["first"]) if counted else unknown):
            raise CutoverFailed("nobody said yes", hint="Back up the old host and restore again, then cut over.")
        self.journal.append("agreed", at=self.place.clock.now().isoformat())

    def _end(self, intent: Intent) -> Outcome:
        self.place.sides[intent.goal].settle()
        committed = any(entry["result"] == "committed" for entry in self.journal.all("ended"))
        result: Result = "committed" if not intent.back else "undone" if committed else "rolled back"
        now = self.place.clock.now()
        outcome = self._outcome(result, intent)
        self.place.record(f"{self.journal.run_id}-{result.replace(' ', '-')}", self._receipt(outcome, now))
        self.journal.append("ended", result=result, holder=intent.goal, at=now.isoformat())
        wanted = self.journal.find("wanted") or {}
        if intent.back and not wanted.get("asked"):
            raise CutoverFailed(
                f"{self.place.address.name} is back with {self.old}, which serves: {outcome.why}",
                hint=f"{self.new} was left as it is now. Mend what went wrong, then run the same command again.",
            )
        return outcome

    def _outcome(self, result: Result, intent: Intent) -> Outcome:
        moved = [entry for entry in self.journal.all("moved") if entry["to"] == intent.goal]
        settled = datetime.fromisoformat(moved[-1]["settled_at"]) if moved else self._settled_without_move()
        counted = [entry for entry in self.journal.all("counted") if entry["host"] == intent.leaving]
        steps = tuple(StepTime(e["step"], e["host"], e["seconds"]) for e in self.journal.all("finished"))
        why = str((self.journal.find("wanted") or {}).get("why", ""))
        behind = tuple(counted[-1]["first"]) if counted else ()
        return Outcome(self.journal.run_id, result, intent.goal, intent.leaving, why, settled, behind, steps)

    def _settled_without_move(self) -> datetime:
        """A move whose end nobody wrote down ended at the latest when it was seen, which is now."""
        return self.place.clock.now() + self.place.address.settles_within

    def _receipt(self, outcome: Outcome, now: datetime) -> dict[str, Any]:
        first = head(self.journal)
        return {
            "format": 1,
            "tool": f"drtool {__version__}",
            "run_id": outcome.run_id,
            "purpose": "cutover",
            "result": outcome.result,
            "address": self.place.address.name,
            "from": first["old"],
            "to": first["new"],
            "holder": outcome.holder,
            "why": outcome.why,
            "words": [{"host": word["host"], "by": word["by"]} for word in self.journal.all("word")],
            "started_at": first["at"],
            "finished_at": now.isoformat(),
            "settled_at": outcome.settled_at.isoformat(),
            "steps": [{"name": s.name, "host": s.host, "seconds": s.seconds} for s in outcome.steps],
        }


def show(run: Run) -> dict[str, Any]:
    """The plan as plain values, for ``--json``."""
    return {
        "run_id": run.journal.run_id,
        "resumed": run.resumed,
        "from": run.old,
        "to": run.new,
        "back": run.back,
        "seen": _shown(run.seen),
        "steps": [{"step": step.kind, "host": step.host} for step in run.steps],
    }


def _shown(seen: Observed) -> dict[str, str | None]:
    return {"holder": seen.holder, "old": seen.old.state.value, "new": seen.new.state.value}


def _refuse_stuck(step: Step, place: Place) -> None:
    """Raise what a person has to be told, where there is nothing that may be done."""
    if step.kind == "elsewhere":
        raise AddressElsewhere(f"{place.address.name}: {step.why}", hint=step.hint)
    if step.kind == "decide":
        raise CutoverFailed(step.why, hint=step.hint)
