"""Before a cut-over begins: everything that would stop it later, found while people are still served.

Nothing is changed. A run that is taken up again is past this: there, going on or going back are the only ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import yaml

from drtool.core.census import compare
from drtool.core.cutover import State
from drtool.core.obstacles import Obstacle, refuse
from drtool.cutover_place import Place, Run
from drtool.cutover_runs import keep_census, meaningful
from drtool.errors import AddressElsewhere, AddressError, CommandFailed, DrtoolError, HostUnfit, VersionMismatch
from drtool.fencing import GitLabSide
from drtool.installs import isolation
from drtool.isolating import look_at_isolation
from drtool.probing import Probe, first_problem
from drtool.survey import look_at_version, refuse_half_restored

_SHOWN = 8


@dataclass(frozen=True)
class Reach:
    """The hosts themselves, and what people do from outside once a holder has the address."""

    sides: Mapping[str, GitLabSide]
    public_url: str
    outside: Callable[[str], tuple[Probe, ...]]


def examine(run: Run, place: Place, reach: Reach) -> tuple[Obstacle, ...]:
    """Raise what stands in the way; return what somebody should know all the same.

    Counts the new host, for later comparison: whatever it holds beyond that was written behind the address.
    Raises AddressError with the provider's own code, AddressElsewhere, HostUnfit, VersionMismatch.
    """
    _ask_provider(run, place)
    new, old = reach.sides[run.new], reach.sides[run.old]
    found = [*_obstacles_on_new(run, new, reach), *_obstacles_on_old(run, old, new, reach)]
    refuse(found)
    if run.order.count and run.seen.new.state is State.SERVING:
        found += _count(run, place, old, new)
    return tuple(found)


def _ask_provider(run: Run, place: Place) -> None:
    try:
        place.address.check(run.new, expected=run.seen.holder)
        if run.order.stop and (check_stop := getattr(place.power, "check_stop", None)):
            check_stop(run.old)
    except AddressElsewhere:
        raise
    except AddressError as problem:
        if not problem.code or problem.code in str(problem):
            raise
        raise type(problem)(f"{problem} ({problem.code})", code=problem.code, hint=problem.hint) from problem


def _obstacles_on_new(run: Run, new: GitLabSide, reach: Reach) -> Iterator[Obstacle]:
    match run.seen.new.state:
        case State.SERVING:
            if not run.seen.new.healthy:
                remedy = "Mend it first: gitlab-ctl status there, its certificate, and private_url in drtool.toml."
                yield Obstacle("not-healthy", f"{new.name} does not serve: {new.why_unhealthy()}", remedy)
        case State.FENCED | State.FROZEN:
            yield Obstacle(
                "will-be-opened",
                f"{new.name} is {run.seen.new.state.value}: it is opened once the old one is fenced",
                "That makes the outage longer by its start.",
                severity="warn",
            )
        case _:
            why = new.no_way_in or "no answer"
            yield Obstacle("unreachable", f"{new.name} cannot be reached: {why}", "Correct ssh of that holder.")
            return
    if new.plain:
        yield Obstacle(
            "certificate-unseen",
            f"{new.name} is asked without TLS, so its certificate is seen only once it has the address",
            "Give private_url with https:// if the host itself has the certificate.",
            severity="warn",
        )
    yield from _unfinished(run, new)
    if problem := _other_name(new, reach.public_url):
        yield Obstacle(
            "external-url", problem, "Set external_url in its gitlab.rb, and run gitlab-ctl reconfigure there."
        )


def _unfinished(run: Run, new: GitLabSide) -> Iterator[Obstacle]:
    try:
        refuse_half_restored(new.install, new.runner)
    except HostUnfit as problem:
        yield Obstacle("half-restored", str(problem), problem.hint)
    if run.seen.new.state is not State.SERVING:
        return
    try:
        isolated = look_at_isolation(new.install, new.runner)
    except DrtoolError as problem:
        yield Obstacle("isolation-unseen", f"{new.name}: {problem}", problem.hint or "Look at its database.")
        return
    if isolated.recorded or isolated.configured:
        remedy = f"`drtool isolation --on {new.name} --lift` lets it send mail and call hooks again."
        yield Obstacle("isolated", f"{new.name} is isolated from its restore: it sends nothing to anybody", remedy)


def _other_name(side: GitLabSide, public_url: str) -> str | None:
    """What GitLab takes for its own address, from the settings in effect, held against what people use."""
    wanted = urlsplit(public_url)
    secure = wanted.scheme == "https"
    try:
        settings = yaml.safe_load(side.runner.run(isolation.settings_in_effect(side.install)))["production"]["gitlab"]
        found = (settings["host"], int(settings.get("port", 80)), bool(settings.get("https", False)))
    except (CommandFailed, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        return f"{side.name}: gitlab.yml does not tell which external_url is in effect"
    if found == (wanted.hostname, wanted.port or (443 if secure else 80), secure):
        return None
    return f"{side.name} takes {found[0]}:{found[1]} for its own address, and people use {public_url}"


def _obstacles_on_old(run: Run, old: GitLabSide, new: GitLabSide, reach: Reach) -> Iterator[Obstacle]:
    if run.seen.old.state in (State.SILENT, State.ANSWERING):
        yield Obstacle(
            "old-unreachable",
            f"{old.name} cannot be reached: what it holds beyond the new one cannot be told",
            "It was said to be dead; see that it stays so.",
            severity="warn",
        )
        return
    versions = (look_at_version(old.install, old.runner), look_at_version(new.install, new.runner))
    if versions[0] != versions[1]:
        yield Obstacle(
            "version",
            f"{old.name} runs GitLab {versions[0]}, {new.name} {versions[1]}",
            "Restore onto exactly the same version first.",
            VersionMismatch,
        )
    if run.seen.old.state is State.SERVING and run.seen.holder == run.old:
        problem = first_problem(reach.outside(run.old))
        if problem:
            yield Obstacle(
                "blind",
                f"the public name is not served as seen from here, even before anything is moved: {problem}",
                "Nobody here could tell a good move from a bad one: mend that, or run it where people are.",
            )


def _count(run: Run, place: Place, old: GitLabSide, new: GitLabSide) -> Iterator[Obstacle]:
    now = place.clock.now()
    census = new.count(now)
    keep_census(place, run.journal.run_id, census)
    if run.seen.old.state not in (State.SERVING, State.FROZEN):
        return
    differences = meaningful(compare(census, old.count(now)))
    if differences:
        first = "; ".join(map(str, differences[:_SHOWN]))
        more = f"; and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        yield Obstacle(
            "delta",
            f"{old.name} holds what {new.name} does not: {first}{more}",
            "It will be missing. To lose nothing: back up the old host again, and restore that.",
            severity="warn",
        )
