"""Does this store keep what drtool relies on? Tried with scratch objects on the operator's own store."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta

from drtool.capabilities import UNRELIABLE, Capability, Trial, rights, settings
from drtool.errors import DrtoolError, StoreError
from drtool.events import PhaseFinished, PhaseStarted
from drtool.stores.conformance import CHECKS, Check, ContractBroken, NotApplicable, Subject
from drtool.stores.conformance.frame import Area
from drtool.stores.scratch import ScratchStore

# Not asked of a store in use: the first is about our own code and keys outside of the scratch prefix, the second
# moves 62 MB, the others need a bucket or credentials that are wrong on purpose.
_LEFT_OUT = {
    "bad_keys_are_refused",
    "an_object_of_whole_parts_comes_back",
    "a_missing_bucket_is_named",
    "wrong_credentials_are_named",
}
_SIZE = 64 << 10
_LARGEST_FOR_ALL = 512 << 10
_SIDE_BY_SIDE = 4
_PATIENCE = timedelta(seconds=50)
_PARTS = "open_starts_within_any_part"
_OVERTAKEN = "only_if_absent_refuses_what_came_meanwhile"
_RACES = (_OVERTAKEN, "only_if_absent_has_one_winner")
_SHOWN_BY = {
    "ranged reads": ("open_starts_where_asked",),
    "multipart": ("a_big_object_comes_back", _PARTS),
    "listing order": ("list_is_in_byte_order", "list_takes_any_prefix", "list_goes_on_over_pages"),
}
_HINTS = dict.fromkeys(_RACES, "Set conditional_put = false, if the store's kind has it, and report it to the vendor.")


@dataclass(frozen=True, slots=True)
class Contract:
    """One contract of every store. Kept, unless it was ``not_asked`` for a reason or broken by an ``error``."""

    name: str
    error: DrtoolError | None = None
    not_asked: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. ``left``: the scratch keys that are still there."""

    store: str
    scratch: str
    capabilities: tuple[Capability, ...]
    contracts: tuple[Contract, ...]
    left: tuple[str, ...]

    @property
    def errors(self) -> tuple[DrtoolError, ...]:
        found = [*(row.error for row in self.capabilities), *(contract.error for contract in self.contracts)]
        return tuple(error for error in found if error)


def try_out(trial: Trial) -> Report:
    """Try every capability and contract below a fresh prefix, and remove what was put there, also when interrupted.

    A store that takes no object is not asked more. Everything it has to say is in the report; raises no StoreError.
    """
    scratch = ScratchStore(trial.store, f"{trial.instance}/drtool-check-{secrets.token_hex(4)}")
    trial.emit(PhaseStarted("deep", f"Trying {trial.store.name}"))
    began = trial.clock.monotonic()
    rows: list[Capability] = []
    contracts: list[Contract] = []
    cleared = False
    try:
        rows += rights(trial, scratch)
        if not any(row.error for row in rows if row.name == "put"):
            contracts += _contracts(trial, scratch, _PATIENCE.total_seconds() + began)
            rows += [*settings(trial, scratch), *_seen_in(contracts, trial)]
        cleared = True
    finally:
        left, problem = _clear(scratch)
        if problem and cleared and not any(row.error for row in rows):
            rows.append(problem)
    trial.emit(PhaseFinished("deep", trial.clock.monotonic() - began))
    return Report(trial.store.name, f"{scratch.prefix}/", tuple(rows), tuple(contracts), left)


def _clear(scratch: ScratchStore) -> tuple[tuple[str, ...], Capability | None]:
    try:
        return scratch.clear(), None
    except StoreError as error:
        scratch.may_list = scratch.may_delete = False  # then what is known to be stored is what may be left
        return scratch.clear(), Capability("clean up", "", "failed", "bad", error=error)


# Contracts


def _contracts(trial: Trial, scratch: ScratchStore, deadline: float) -> tuple[Contract, ...]:
    """Run them side by side, in areas of their own; what is not begun by the deadline is not asked."""
    small = max(_SIZE, trial.several_parts) if trial.several_parts <= _LARGEST_FOR_ALL else _SIZE
    subject = Subject(scratch, prefix=scratch.prefix, big=small, ca_bundle=trial.ca_bundle)
    wanted = [check for check in CHECKS if check.__name__ not in _LEFT_OUT]

    def keep(check: Check) -> Contract:
        if trial.clock.monotonic() > deadline:
            return Contract(check.__name__, not_asked="no time was left")
        return _keep(check, replace(subject, big=max(small, large.get(check.__name__, 0))))

    # Ceph 18.2 keeps the condition of an object in one piece, and ignores that of an upload in parts.
    # Two parts are read before the upload begins: what comes meanwhile can only come during the third.
    large = {_PARTS: trial.two_parts, _OVERTAKEN: trial.several_parts}
    # Those that move megabytes come first, so that the deadline is not missed because of them.
    ordered = sorted(wanted, key=lambda check: check.__name__ not in large)
    pool = ThreadPoolExecutor(_SIDE_BY_SIDE, "deep")
    try:
        return tuple(pool.map(keep, ordered))
    finally:
        pool.shutdown(cancel_futures=True)


def _keep(check: Check, subject: Subject) -> Contract:
    """Run one check without its own tidying, which would need rights that these credentials may not have."""
    name = check.__name__
    hint = _HINTS.get(name, UNRELIABLE)
    try:
        inspect.unwrap(check)(Area(subject, f"{subject.prefix}/{name}"))
    except NotApplicable as reason:
        return Contract(name, not_asked=str(reason))
    except StoreError as error:
        return Contract(name, type(error)(f"{_title(name)}: {error}", hint=error.hint or hint))
    except (ContractBroken, OSError) as problem:
        if isinstance(problem.__cause__, NotApplicable):  # the check took it for what the store did
            return Contract(name, not_asked=str(problem.__cause__))
        return Contract(name, StoreError(f"{_title(name)}: {problem}", hint=hint))
    return Contract(name)


def _seen_in(contracts: Iterable[Contract], trial: Trial) -> Iterator[Capability]:
    """The capabilities that contracts show. A broken contract is named with them, its error is its own."""
    by_name = {contract.name: contract for contract in contracts}
    shown = dict(_SHOWN_BY)
    if trial.store.capabilities.conditional_put:
        shown = {"conditional put": _RACES, **shown}
    for capability, names in shown.items():
        outcomes = [by_name[name] for name in names]
        declared = "yes" if capability == "conditional put" else ""
        broken = [contract for contract in outcomes if contract.error]
        if broken:
            yield Capability(capability, declared, f"broken: {_title(broken[0].name)}", "bad")
        elif all(contract.not_asked for contract in outcomes):
            yield Capability(capability, declared, f"not asked: {outcomes[0].not_asked}", "unknown")
        elif capability == "multipart" and not trial.several_parts:
            yield Capability(capability, declared, "none: objects are written in one piece")
        else:
            yield Capability(capability, declared, "as it should be")


def _title(name: str) -> str:
    return name.replace("_", " ")
