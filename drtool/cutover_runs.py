"""The cut-overs that were begun on this machine, as their journals tell, and what each kept to compare with."""

from __future__ import annotations

from pathlib import Path

from drtool.core.census import LASTING_TABLES, Census, Difference, render_census
from drtool.cutover_place import Order, Place
from drtool.errors import AddressElsewhere, ResumeError
from drtool.journal import Entry, Journal, journals

PREFIX = "cutover-"


def find_census(place: Place, run_id: str) -> Path:
    """Where a run keeps what the new host held before anybody was led to it. It names projects."""
    return place.state / "runs" / f"{run_id}.census"


def keep_census(place: Place, run_id: str, census: Census) -> None:
    """Keep what the new host held before the move, for its owner alone."""
    path = find_census(place, run_id)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".census.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_bytes(render_census(census))
    fresh.replace(path)


def meaningful(differences: tuple[Difference, ...]) -> tuple[Difference, ...]:
    """Leave out what a living GitLab changes by itself, without anybody's work in it."""
    lasting = ("project", "repository", "component", "instance")
    tables = {f"public.{name}" for name in LASTING_TABLES}
    return tuple(each for each in differences if each.kind in lasting or each.name in tables)


def pair(order: Order, place: Place) -> tuple[str, str]:
    """Who holds it, and who is to. Raises AddressElsewhere for a holder that the configuration does not know."""
    holder = place.address.holder()
    others = [name for name in place.sides if name != order.to]
    if holder is None or holder == order.to:
        before = [name for name in _last_pair(order, place) if name in others]
        if len(before or others) == 1:
            return (before or others)[0], order.to
        where = "nobody has it" if holder is None else f"{holder} has it already"
        raise AddressElsewhere(
            f"{place.address.name}: {where}, and which of {', '.join(others)} had it before cannot be seen",
            hint="Leave only that one and the new one in the holders of its table.",
        )
    if holder not in place.sides:
        raise AddressElsewhere(
            f"{place.address.name} is with {holder}, which [address.{order.address}.holders] does not name",
            hint="Name that host there with its way in by ssh, if it is the old one; else find out who moved it.",
        )
    return holder, order.to


def _last_pair(order: Order, place: Place) -> tuple[str, ...]:
    """The two hosts of the newest run, however that ended."""
    found = of_address(place, order.address)
    return (head(found[-1])["old"], head(found[-1])["new"]) if found else ()


def to_take_up(order: Order, place: Place) -> Journal | None:
    """The run to go on with; None to begin one."""
    found = [journal for journal in of_address(place, order.address) if not journal.find("abandoned")]
    if order.anew:
        return None
    unfinished = [journal for journal in found if not ended(journal)]
    if unfinished:
        journal = unfinished[-1]
        new = head(journal)["new"]
        if new != order.to and not order.undo:
            raise ResumeError(
                f"{journal.run_id}, which moves the address to {new}, is not finished",
                hint=f"Finish it with --to {new}, take it back with --undo, or --anew forgets it.",
            )
        return journal
    if order.undo:
        if not found:
            raise ResumeError(
                f"no cut-over of {order.address} to undo is known here",
                hint="On another machine? There. Else cut over --to the host that shall have the address.",
            )
        return found[-1]
    last = found[-1] if found else None
    if last and (last.all("ended")[-1]["result"], head(last)["new"]) == ("committed", order.to):
        # Said once more: look at all of it again, if it still is as it was left.
        return last if place.address.holder() == order.to else None
    return None


def of_address(place: Place, address: str) -> list[Journal]:
    found = journals(place.state, PREFIX)
    return [
        journal for journal in found if (found_head := journal.find("cutover")) and found_head["address"] == address
    ]


def head(journal: Journal) -> Entry:
    found = journal.find("cutover")
    assert found is not None
    return found


def wants_back(journal: Journal) -> bool:
    wanted = journal.find("wanted")
    return bool(wanted and wanted["back"])


def last_count(journal: Journal, host: str) -> int | None:
    """How many differences were counted on a host since it was frozen; None if nobody counted since."""
    found: int | None = None
    for entry in journal.entries:
        if entry["what"] == "started" and (entry["step"], entry["host"]) == ("freeze", host):
            found = None
        if entry["what"] == "counted" and entry["host"] == host:
            found = int(entry["differences"])
    return found


def ended(journal: Journal) -> bool:
    """Whether what was wanted last is so."""
    marks = [entry["what"] for entry in journal.entries if entry["what"] in ("wanted", "ended")]
    return bool(marks) and marks[-1] == "ended"
