"""What a cut-over is asked for, done with, and ends with, as values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from drtool.addresses import Address
from drtool.clock import Clock
from drtool.core.cutover import Decide, Observed, Step, next_step
from drtool.events import Emit
from drtool.fencing import Side
from drtool.journal import Journal

Result = Literal["committed", "rolled back", "undone"]


class Power(Protocol):
    """A provider that switches machines off. Some switch them on again, and then have a ``start_instance`` too."""

    def stop_instance(self, instance: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for. ``to`` is a holder; ``address`` the name of its table.

    ``dead`` is somebody's word about the host that the address leaves, and counts only where it cannot be reached.
    """

    address: str
    to: str
    undo: bool = False
    anew: bool = False
    dead: bool = False
    stop: bool = False
    count: bool = True
    rollback_within: timedelta = timedelta(minutes=5)


@dataclass(frozen=True)
class Place:
    """What the work is done with. ``probe`` looks from outside whether that holder serves the public name.

    ``agree`` is asked when the old host turns out to hold what the new one does not. ``decide`` is there for tests,
    which give it deciders that are wrong.
    """

    address: Address
    sides: Mapping[str, Side]
    probe: Callable[[str], str | None]
    state: Path
    clock: Clock
    emit: Emit
    new_token: Callable[[], str]
    agree: Callable[[tuple[str, ...]], bool]
    record: Callable[[str, dict[str, Any]], None]
    power: Power | None = None
    watch: Callable[[], AbstractContextManager[object]] = nullcontext
    operator: str = ""
    decide: Decide = next_step


@dataclass(frozen=True)
class Run:
    """A cut-over that may be shown, and then carried out. ``journal`` holds nothing yet for a new one."""

    order: Order
    old: str
    new: str
    back: bool
    journal: Journal
    resumed: bool
    seen: Observed
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class StepTime:
    name: str
    host: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. ``settled_at``: from when on nobody should be led to the host that the address left."""

    run_id: str
    result: Result
    holder: str
    left: str
    why: str
    settled_at: datetime
    left_behind: tuple[str, ...]
    steps: tuple[StepTime, ...] = field(default=())
