"""Every address keeps the contract, and the checks of the contract notice one that does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest

from drtool.addresses import Address
from drtool.addresses.memory import Call, MemoryAddress, MemoryProvider
from drtool.addresses.waiting import Patience
from drtool.errors import AddressError, AddressTransient
from tests.address_servers.aws import aws
from tests.address_servers.digitalocean import digitalocean
from tests.contracts import address_contract as contract
from tests.contracts.address_contract import CHECKS, PATIENCE, Check, Site
from tests.contracts.aws_sites import ElasticIpSite, Route53Site
from tests.contracts.command_sites import CommandSite
from tests.contracts.digitalocean_sites import DomainRecordSite, ReservedIpSite

__all__ = ["aws", "digitalocean"]


class MemorySite(Site):
    a, b, c = "host-a", "host-b", "host-c"
    denied_code = "Denied"

    def __init__(self, *, two_steps: bool = False, takes: timedelta = timedelta()) -> None:
        super().__init__()
        self.provider = MemoryProvider(self.clock, {self.a, self.b, self.c}, self.a, two_steps, takes)
        self.provider.before, self.provider.after = self._before, self._after
        self._lose = ""

    def address(self) -> Address:
        return MemoryAddress(self.provider, patience=Patience(self.clock, PATIENCE))

    def at(self) -> str | None:
        return self.provider.holder

    def place(self, holder: str | None) -> None:
        self.provider.place(holder)

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        def gone() -> str:
            self.provider.hosts = {self.a}
            return "NoSuchHost"

        return {"no such host": gone}

    def _before(self, call: Call) -> None:
        self._lose = ""
        match fate := self.gate.decide(call, changes=call in ("bind", "unbind")):
            case "throttle":
                raise AddressTransient("slower", code="Throttling")
            case "deny":
                raise AddressError("no", code=self.denied_code, hint="Ask for the right.")
            case "drop" | "error":
                raise AddressTransient("no answer")
            case _:
                self._lose = fate

    def _after(self, call: Call) -> None:
        if self._lose != "serve":
            raise AddressTransient("no answer")


SITES: dict[str, Callable[[pytest.FixtureRequest], Site]] = {
    "command": lambda request: CommandSite(request.getfixturevalue("tmp_path")),
    "digitalocean": lambda request: ReservedIpSite(request.getfixturevalue("digitalocean")),
    "digitalocean-at-once": lambda request: ReservedIpSite(request.getfixturevalue("digitalocean"), takes=timedelta()),
    "digitalocean-domain": lambda request: DomainRecordSite(request.getfixturevalue("digitalocean")),
    "elastic-ip": lambda request: ElasticIpSite(request.getfixturevalue("aws")),
    "elastic-ip-by-interface": lambda request: ElasticIpSite(request.getfixturevalue("aws"), by_interface=True),
    "memory": lambda _: MemorySite(),
    "memory-slow": lambda _: MemorySite(takes=timedelta(seconds=7)),
    "memory-two-steps": lambda _: MemorySite(two_steps=True, takes=timedelta(seconds=3)),
    "route53": lambda request: Route53Site(request.getfixturevalue("aws")),
}


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_address_keeps_the_contract(check: Check, kind: str, request: pytest.FixtureRequest) -> None:
    check(SITES[kind](request))


class Wrong(MemoryAddress):
    """Base of addresses with one defect each."""

    def __init__(self, site: MemorySite) -> None:
        super().__init__(site.provider, patience=Patience(site.clock, PATIENCE))
        self.provider, self.site = site.provider, site


class Remembers(Wrong):
    """Takes its memory for the truth."""

    said: str | None = None

    def holder(self) -> str | None:
        self.said = self.said or super().holder()
        return self.said


class DoesNotCompare(Wrong):
    def move(self, to: str, *, expected: str | None) -> None:
        super().move(to, expected=self.holder())


class DoesNotWait(Wrong):
    def move(self, to: str, *, expected: str | None) -> None:
        if self.holder() == expected:
            self.provider.bind(to)


class MovesAgain(Wrong):
    def move(self, to: str, *, expected: str | None) -> None:
        super().move(to, expected=expected)
        self.provider.bind(to)


class GivesUp(Wrong):
    def move(self, to: str, *, expected: str | None) -> None:
        if self.provider.look() == expected:
            self.provider.bind(to)


class ChecksNothing(Wrong):
    def check(self, to: str, *, expected: str | None) -> None:
        pass


class ChecksByDoing(Wrong):
    def check(self, to: str, *, expected: str | None) -> None:
        self.move(to, expected=expected)


class ThinksTheOrderWasHeard(Wrong):
    """Takes no answer for a good one."""

    def move(self, to: str, *, expected: str | None) -> None:
        if self.holder() == expected:
            try:
                self.provider.bind(to)
            except AddressTransient:
                return
        super().move(to, expected=expected)


class Tells(Wrong):
    def __repr__(self) -> str:
        return "<token not-a-real-token>"


class WaitsForEver(Wrong):
    def __init__(self, site: MemorySite) -> None:
        super().__init__(site)
        self._patience = Patience(site.clock, PATIENCE * 10)


WRONG: dict[type[Wrong], Check] = {
    Remembers: contract.an_object_asks_each_time,
    DoesNotCompare: contract.a_move_from_the_wrong_holder_is_refused,
    DoesNotWait: contract.somebody_who_moves_it_on_is_noticed,
    MovesAgain: contract.a_move_to_where_it_is_changes_nothing,
    GivesUp: contract.throttling_is_waited_out,
    ChecksNothing: contract.every_obstacle_is_found_before_anything_is_changed,
    ChecksByDoing: contract.a_check_that_passes_changes_nothing,
    ThinksTheOrderWasHeard: contract.a_lost_reply_is_looked_after,
    Tells: contract.no_secret_is_in_what_is_told,
    WaitsForEver: contract.throttling_for_ever_is_told_within_the_patience,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_contract_notices_an_address_that_breaks_it(wrong: type[Wrong]) -> None:
    class WrongSite(MemorySite):
        secrets = ("not-a-real-token",)

        def __init__(self) -> None:
            super().__init__(takes=timedelta(seconds=1))

        def address(self) -> Address:
            return wrong(self)

    with pytest.raises((AssertionError, AddressError, pytest.fail.Exception)):
        WRONG[wrong](WrongSite())
