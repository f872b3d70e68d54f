"""Is there room for a restore? Every place's demands, added up per file system. Pure.

GitLab since 19 wants three times the archive free before it unpacks one (merge request 260096 there): the members,
what is moved aside, and what comes back. Older ones hang when the disk is full, with the database gone, so it is asked
of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Final

from drtool.core.host import Place, Room

_GITLABS_RULE: Final = 3
_SAFETY_COPIES: Final = 2  # GitLab packs its members into a tar beside them, and removes them after
_INODES_PER_REPOSITORY: Final = 20  # what an empty bare repository takes, without hooks of its own


@dataclass(frozen=True, slots=True)
class Short:
    """A file system with too little. ``certain`` is false where the set does not tell how much it is."""

    code: str
    mount: str
    free: str
    needed: str
    why: str
    certain: bool


def judge_room(
    rooms: Sequence[Room],
    *,
    staged: int,
    members: int,
    files: int | None,
    file_count: int,
    repositories: int,
    held: int,
) -> Iterator[Short]:
    """Name the file systems that are too small.

    ``staged`` is what comes to the host, ``files`` what the components' files are unpacked, None if not known.
    ``held`` is what a safety copy of the target is made of, 0 for none.
    """
    backups = next((room for room in rooms if room.place == "backups"), None)
    for device in dict.fromkeys(room.device for room in rooms):
        places = [room for room in rooms if room.device == device]
        here = {room.place for room in places} - {"root"}
        if not here:
            continue
        sure, why = 0, []
        if backups and backups.device == device:
            whole = {"data", "database", "repositories"} <= here
            sure += staged * (_GITLABS_RULE if whole else 1) + held * _SAFETY_COPIES
            why += ["staging and restoring" if whole else "staging", *(["a safety copy"] if held else [])]
            if not whole and "data" in here and files:
                sure, why = sure + files, [*why, "files"]
        elif "data" in here and files:
            sure, why = files, ["files"]
        # Neither knows its part of the set: all of it is the most.
        vague = staged if not (backups and backups.device == device) and here & {"database", "repositories"} else 0
        room = places[0]
        if room.free < sure:
            yield Short("disk", room.mount, size_text(room.free), size_text(sure), " and ".join(why), certain=True)
        elif room.free < sure + vague:
            names = " and ".join(sorted(here & {"database", "repositories"}))
            yield Short(
                "disk", room.mount, size_text(room.free), size_text(sure + vague), f"{names}, at most", certain=False
            )
        wanted = _inodes(here, members, file_count, repositories)
        if room.free_inodes is not None and room.free_inodes < wanted:
            yield Short("inodes", room.mount, f"{room.free_inodes} inodes", str(wanted), "files", certain=True)


def _inodes(here: Set[Place], members: int, files: int, repositories: int) -> int:
    return (
        (members if "backups" in here else 0)
        + (files if "data" in here else 0)
        + (repositories * _INODES_PER_REPOSITORY if "repositories" in here else 0)
    )


def size_text(size: int) -> str:
    """Write a size for people, in binary units."""
    amount, unit = float(size), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < 1023.95:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.1f} {unit}" if unit != "B" else f"{size} B"
