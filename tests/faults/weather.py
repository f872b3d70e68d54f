"""Bad weather for object stores: what can happen to one upload, written down, made to happen, and judged.

``singles`` breaks every request of an upload in every way, once and for ever, and every boundary of every part;
``storms`` throws many faults at once, from a seed. ``fly`` sends one object through one of them and raises
AssertionError unless the upload was complete and right, or ended in an error of ours with nothing to be seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from drtool.errors import ObjectMissing, StoreAccessDenied, StoreError, StoreTransient
from drtool.stores import Store
from drtool.stores.conformance import forward_only
from tests.proxy import Fault, Proxy, What

FOR_EVER = 1000
OLD = b"old" * 1000

CUTS: tuple[What, ...] = ("cut answer", "end answer", "cut request", "end request")
HARM: tuple[What, ...] = ("cut request", "end request", "damage request")
SILENCE: tuple[What, ...] = ("stall request", "stall answer", "late request")

End = Literal["well", "transient", "denied", "any"]


@dataclass(frozen=True, slots=True)
class Place:
    """A store as it is seen through the weather, and past it. ``unfinished``: uploads of a key that never ended."""

    store: Store
    direct: Store
    proxy: Proxy
    content: bytes
    part_size: int
    concurrency: int
    unfinished: Callable[[str], int]
    errors: ErrorAnswers

    @property
    def parts(self) -> list[int]:
        whole, rest = divmod(len(self.content), self.part_size)
        return [self.part_size] * whole + ([rest] if rest else [])


@dataclass(frozen=True, slots=True)
class ErrorAnswers:
    """What this kind of service calls its errors: code and status of a token that expired, and of a wrong clock."""

    expired: tuple[int, str]
    skewed: tuple[int, str] = (403, "RequestTimeTooSkewed")


@dataclass(frozen=True, slots=True)
class Case:
    """What happens to one upload, and how that may end.

    ``small``: an object of one request. ``old``: something is there already. ``dies``: the producer fails after its
    last byte. ``may_show``: the object may be there all the same if the upload ends in an error, as nobody can know
    what became of a last request without an answer. ``may_leave``: parts may be left for the next run to remove.
    """

    name: str
    faults: tuple[Fault, ...]
    ends: End = "well"
    small: bool = False
    old: bool = False
    only_if_absent: bool = False
    dies: bool = False
    may_show: bool = False
    may_leave: bool = False


class ProducerDied(Exception):
    """The program whose output was being stored ended with an error."""


def answer(status: int, code: str, *, headers: dict[str, str] | None = None) -> Fault:
    """An answer of the proxy's own, with the XML that goes with such errors."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>made up</Message></Error>'
    return Fault("status", status=status, body=body.encode(), headers=headers or {})


def fly(place: Place, case: Case, key: str) -> int:
    """Send one object through the weather, judge what became of it, and return how many faults really happened."""
    content = place.content[:5000] if case.small else place.content
    before = OLD if case.old else None
    if before:
        place.direct.put(key, forward_only([before]))
    place.proxy.clear()
    place.proxy.faults.extend(case.faults)
    error = _put(place, case, key, content)
    sent, completed = place.proxy.taken["UploadPart"], place.proxy.calls["CompleteMultipartUpload"]
    place.proxy.clear()
    hits = sum(fault.hits for fault in case.faults)
    found = read(place.direct, key)
    _judge_end(case, error)
    if error is None:
        assert found == content, "an upload that ended well is complete and right"
    else:
        allowed = (before, content) if case.may_show else (before,)
        assert found in allowed, f"after an error there is what was there before: {error}"
    if case.dies:
        assert completed == 0, "nothing is completed before the producer's end is known"
    most = sum(fault.hits * (place.concurrency if fault.what == "cut all" else 1) for fault in case.faults)
    assert sent - len(content) <= most * place.part_size, "only parts in flight are sent again"
    assert case.may_leave or place.unfinished(key) == 0, "no part stays behind"
    return hits


def _put(place: Place, case: Case, key: str, content: bytes) -> Exception | None:
    def source() -> Iterator[bytes]:
        yield content
        if case.dies:
            raise ProducerDied

    try:
        info = place.store.put(key, forward_only(source()), only_if_absent=case.only_if_absent)
    except (StoreError, ProducerDied) as error:
        return error
    assert (info.key, info.size) == (key, len(content))
    return None


def _judge_end(case: Case, error: Exception | None) -> None:
    if case.dies:
        assert isinstance(error, ProducerDied), error
        return
    match case.ends:
        case "well":
            assert error is None, error
        case "transient":
            assert isinstance(error, StoreTransient), error
        case "denied":
            assert isinstance(error, StoreAccessDenied), error
            assert error.hint, error


def read(store: Store, key: str) -> bytes | None:
    """Return an object's bytes, or None where nothing shows; listing and reading must agree on that."""
    listed = [info.size for info in store.list(key) if info.key == key]
    try:
        with store.open(key) as body:
            found = body.read()
    except ObjectMissing:
        assert not listed
        return None
    assert listed == [len(found)]
    return found


# Every request of an upload, and every boundary of its parts


def singles(place: Place) -> list[Case]:
    """Every single fault that there is for uploads that do not stall."""
    numbered = [*enumerate(place.parts, 1)]
    cases = [*_of_requests(place), *itertools.chain.from_iterable(_of_part(number, size) for number, size in numbered)]
    cases += [*_of_completion(), *_of_small_objects(place), *_of_dying_producers(place)]
    return [dataclasses.replace(case, old=number % 3 == 0 and not case.only_if_absent) for number, case in
            enumerate(cases)]  # fmt: skip


def _of_requests(place: Place) -> Iterator[Case]:
    """Refuse, answer wrongly, or lose the answer of each request that an upload makes."""
    steps: list[tuple[str, bytes]] = [("CreateMultipartUpload", b"")]
    steps += [("UploadPart", b"partNumber=%d" % number) for number, _ in enumerate(place.parts, 1)]
    steps += [("CompleteMultipartUpload", b""), ("HeadObject", b"")]
    for call, match in steps:
        name = f"{call} {match.decode()}"
        # An upload whose name never reached us can only be removed by who knows that nobody is writing: the next run.
        first, last = call == "CreateMultipartUpload", call == "HeadObject"
        for fault in _once():
            aimed = dataclasses.replace(fault, call=call, match=match)
            yield Case(f"{name}: {_name(fault)}", (aimed,), may_leave=first)
        for status, code in (place.errors.expired, place.errors.skewed):
            aimed = dataclasses.replace(answer(status, code), call=call, match=match)
            # The answer to HEAD has no body: status 400 does not say there what it is.
            yield Case(f"{name}: {code}", (aimed,), "any" if last and status == 400 else "denied", may_show=last)
        for what in ("refuse", "status"):
            aimed = Fault(what, match, call=call, left=FOR_EVER)
            yield Case(f"{name}: {what} for ever", (aimed,), "transient", may_show=last)
        for left, lie in itertools.product((1, FOR_EVER), (answer(200, "InternalError"), Fault("status", status=200))):
            aimed = dataclasses.replace(lie, call=call, match=match, left=left)
            yield Case(f"{name}: {left} times a 200 of somebody else", (aimed,), "any", may_show=last, may_leave=first)


def _once() -> list[Fault]:
    """What any one request must get over."""
    return [
        Fault("refuse"),
        Fault("refuse", left=4),
        Fault("cut answer"),
        Fault("end answer"),
        Fault("cut answer", left=2),
        answer(503, "SlowDown"),
        answer(503, "ServiceUnavailable", headers={"Retry-After": "1"}),
        dataclasses.replace(answer(429, "TooManyRequests"), left=3),
        dataclasses.replace(answer(429, "TooManyRequests", headers={"Retry-After": "0"}), left=5),
        answer(500, "InternalError"),
    ]


def _of_part(number: int, size: int) -> Iterator[Case]:
    """Cut and damage one part at its first and last bytes, and in between."""
    match, name = b"partNumber=%d" % number, f"part {number}"
    whats: list[What] = ["cut request", "end request", "cut all"]
    for what, after in itertools.product(whats, (0, 1, size // 2, size - 1, size)):
        yield Case(f"{name}: {what} after {after}", (Fault(what, match, after, call="UploadPart"),))
    for after in (0, 1, size // 2, size - 2, size - 1):
        yield Case(f"{name}: byte {after} damaged", (Fault("damage request", match, after, call="UploadPart"),))
    yield Case(f"{name}: damaged twice", (Fault("damage request", match, size // 3, 2, call="UploadPart"),))
    yield Case(f"{name}: slow", (Fault("slow request", match, call="UploadPart", seconds=0.3),))
    for what in ("cut request", "damage request"):
        fault = Fault(what, match, size // 2, FOR_EVER, call="UploadPart")
        yield Case(f"{name}: {what} for ever", (fault,), "transient")


def _of_completion() -> Iterator[Case]:
    """The one request that makes an object: told that it failed while it did not, and the other way round."""
    call = "CompleteMultipartUpload"
    for what in ("cut answer", "end answer"):
        for only_if_absent in (False, True):
            fault = Fault(what, call=call, left=FOR_EVER)
            yield Case(f"completion: {what} always lost", (fault,), only_if_absent=only_if_absent)
    for after, what in itertools.product((1, 30, 90), CUTS):
        yield Case(f"completion: {what} after {after}", (Fault(what, after=after, call=call),))
    for left in (1, 3, 5):
        error = dataclasses.replace(answer(200, "InternalError"), call=call, left=left)
        yield Case(f"completion: {left} times 200 with an error in it", (error,))
    error = dataclasses.replace(answer(200, "InternalError"), call=call, left=FOR_EVER)
    yield Case("completion: 200 with an error in it for ever", (error,), "transient")
    for told, after in itertools.product((call, "CreateMultipartUpload"), range(0, 300, 37)):
        fault = Fault("damage answer", after=after, call=told)
        yield Case(f"{told}: byte {after} of its answer damaged", (fault,), "any", may_show=True, may_leave=True)
    for after in range(0, 200, 23):
        fault = Fault("damage request", after=after, call="CompleteMultipartUpload")
        yield Case(f"completion: byte {after} of it damaged", (fault,), "any")


def _of_small_objects(place: Place) -> Iterator[Case]:
    call = "PutObject"
    for only_if_absent in (False, True):
        for fault in _once():
            aimed = dataclasses.replace(fault, call=call)
            yield Case(f"small: {_name(fault)}", (aimed,), small=True, only_if_absent=only_if_absent)
        for what, after in itertools.product(HARM, (0, 1, 2500, 4999)):
            aimed = Fault(what, after=after, left=2, call=call)
            yield Case(f"small: {what} after {after}", (aimed,), small=True, only_if_absent=only_if_absent)
        always = Fault("cut answer", call=call, left=FOR_EVER)
        yield Case("small: answer always lost", (always,), small=True, only_if_absent=only_if_absent)
        damaged = Fault("damage request", after=77, call=call, left=FOR_EVER)
        yield Case("small: always damaged", (damaged,), "transient", small=True, only_if_absent=only_if_absent)
        for left, lie in itertools.product((1, FOR_EVER), (answer(200, "InternalError"), Fault("status", status=200))):
            aimed = dataclasses.replace(lie, call=call, left=left)
            name, ends = f"small: {left} times a 200 of somebody else", _end_of(left)
            yield Case(name, (aimed,), ends, small=True, only_if_absent=only_if_absent)
        refused = Fault("status", call=call, left=FOR_EVER)
        yield Case("small: busy for ever", (refused,), "transient", small=True, only_if_absent=only_if_absent)
        for status, code in (place.errors.expired, place.errors.skewed):
            aimed = dataclasses.replace(answer(status, code), call=call)
            yield Case(f"small: {code}", (aimed,), "denied", small=True, only_if_absent=only_if_absent)


def _of_dying_producers(place: Place) -> Iterator[Case]:
    """The producer ends badly, and the weather hits the call that removes what was sent."""
    if len(place.parts) < 3:
        return  # two parts are both read before the first is sent, so there is nothing to remove yet
    call = "AbortMultipartUpload"
    for fault in _once():
        yield Case(f"abort: {_name(fault)}", (dataclasses.replace(fault, call=call),), dies=True)
    always = Fault("refuse", call=call, left=FOR_EVER)
    yield Case("abort: never arrives", (always,), dies=True, may_leave=True)
    lost = Fault("cut answer", call=call, left=FOR_EVER)
    yield Case("abort: its answer always lost", (lost,), dies=True)
    part = Fault("cut request", b"partNumber=2", 1000, 2, call="UploadPart")
    yield Case("part cut and the producer dies", (part,), dies=True)


def _end_of(times: int) -> End:
    return "transient" if times == FOR_EVER else "well"


def _name(fault: Fault) -> str:
    said = f" {fault.status}" if fault.what == "status" else ""
    return f"{fault.left} times {fault.what}{said} {fault.headers or ''}"


# Stalls: apart, because each takes as long as the time limit that ends it


def stalls(place: Place) -> Iterator[Case]:
    """Silence at every request; and requests that arrive when nobody waits for them any more."""
    for call in ("CreateMultipartUpload", "CompleteMultipartUpload", "HeadObject"):
        lost = call == "CreateMultipartUpload"
        yield Case(f"{call}: stalls", (Fault("stall request", call=call),))
        yield Case(f"{call}: answer stalls", (Fault("stall answer", call=call),), may_leave=lost)
        yield Case(f"{call}: arrives late", (Fault("late request", call=call),), may_leave=lost)
    for number, size in enumerate(place.parts, 1):
        match = b"partNumber=%d" % number
        for what in SILENCE:
            yield Case(f"part {number}: {what}", (Fault(what, match, call="UploadPart"),))
        yield Case(f"part {number}: stalls", (Fault("stall request", match, size // 9, call="UploadPart"),))
    for what in SILENCE:
        yield Case(f"small: {what}", (Fault(what, call="PutObject"),), small=True)
    if len(place.parts) < 3:
        return  # see _of_dying_producers
    yield Case("abort: stalls", (Fault("stall request", call="AbortMultipartUpload"),), dies=True)
    yield Case("abort: arrives late", (Fault("late request", call="AbortMultipartUpload"),), dies=True)


# Storms


def storms(place: Place, seed: str) -> Iterator[Case]:
    """Many faults at once, without an end. The same for the same seed."""
    noise = random.Random(hashlib.sha256(seed.encode()).digest())
    calls = ["", "", "CreateMultipartUpload", "UploadPart", "UploadPart", "UploadPart", "CompleteMultipartUpload",
             "HeadObject", "AbortMultipartUpload"]  # fmt: skip
    whats: list[What] = ["refuse", "cut request", "end request", "cut answer", "end answer", "cut all", "status",
                         "damage request"]  # fmt: skip
    for number in itertools.count():
        faults = tuple(_random(noise, noise.choice(whats), noise.choice(calls), place.parts) for _ in range(12))
        yield Case(
            f"storm {number} of {seed}", faults, "any", old=noise.random() < 0.3, dies=noise.random() < 0.1,
            may_show=True, may_leave=True,
        )  # fmt: skip


def _random(noise: random.Random, what: What, call: str, parts: Sequence[int]) -> Fault:
    after = noise.randrange(parts[0]) if what.endswith("request") and call in ("", "UploadPart") else 0
    status, code = noise.choice([(503, "SlowDown"), (503, "ServiceUnavailable"), (429, "TooManyRequests"),
                                 (500, "InternalError"), (502, "BadGateway"), (504, "GatewayTimeout")])  # fmt: skip
    made = answer(status, code, headers=noise.choice([{}, {"Retry-After": "1"}]))
    made.what, made.call, made.after = what, call, after
    made.left, made.skip = noise.choice([1, 1, 1, 2, 3]), noise.randrange(4)
    return made
