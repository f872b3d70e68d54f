"""A cut-over with the real adapters, cut off from its provider at any request, is finished or undone by one command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from drtool.clock import SystemClock
from drtool.cutover_place import Place
from drtool.errors import AddressError, CutoverFailed
from drtool.stores.faults import Crash
from tests.address_servers.aliyun import AliyunServer, aliyun_server
from tests.address_servers.aws import aws
from tests.address_servers.digitalocean import digitalocean
from tests.contracts.address_contract import Site, When
from tests.contracts.aliyun_sites import EipSite
from tests.contracts.aws_sites import ElasticIpSite, Route53Site
from tests.contracts.digitalocean_sites import ReservedIpSite
from tests.cutover_world import ModelHost, World, outcome_of

__all__ = ["aws", "digitalocean"]
ENOUGH = 80


@pytest.fixture(scope="module")
def aliyun() -> Iterator[AliyunServer]:
    with aliyun_server(SystemClock()) as running:
        yield running


SITES: dict[str, Callable[[pytest.FixtureRequest], Site]] = {
    "aliyun": lambda request: EipSite(request.getfixturevalue("aliyun")),
    "aws": lambda request: ElasticIpSite(request.getfixturevalue("aws")),
    "digitalocean": lambda request: ReservedIpSite(request.getfixturevalue("digitalocean")),
    "route53": lambda request: Route53Site(request.getfixturevalue("aws")),
}


class SiteWorld(World):
    """The model's hosts, behind an address of a provider that is not the model's."""

    def __init__(self, base: Path, site: Site) -> None:
        super().__init__(base, count=False)
        self.site, self.clock = site, site.clock
        self.hosts = {name: ModelHost(self, name) for name in (site.a, site.b, site.c)}
        self.hosts[site.c].writing = False

    def behind(self) -> list[ModelHost]:
        holder = self.site.at()
        return [self.hosts[holder]] if holder else []

    def _people_write(self, what: str) -> None:
        if self.site.gate.fired:  # at() lets what is on its way arrive; nobody but us may hurry it
            return
        super()._people_write(what)

    def served(self, holder: str) -> bool:
        return self.site.at() == holder and self.hosts[holder].writable

    def place(self) -> Place:
        return replace(super().place(), address=self.site.address(), sides=dict(self.hosts), clock=self.clock)


@dataclass
class Cut:
    """One cut-over, without a provider from request ``nth`` on, and then another process."""

    world: SiteWorld
    nth: int
    when: When

    def run(self) -> BaseException | None:
        self.world.site.gate.cut_at(self.nth, self.when)
        return outcome_of(lambda: self.world.run(self.world.site.b))

    def then(self, *, undo: bool) -> None:
        site = self.world.site
        site.gate.reset()
        problem = outcome_of(lambda: self.world.run(site.b, undo=undo))
        holder = site.at()
        assert holder in (site.a, site.b)
        assert isinstance(problem, CutoverFailed | None)
        assert [name for name, host in self.world.hosts.items() if host.writable and name == holder] == [holder]
        if undo or isinstance(problem, CutoverFailed):
            assert holder == site.a
        else:
            assert holder == site.b
            assert not self.world.hosts[site.a].writable
        assert not self.world.violations


PATHS: tuple[tuple[str, When, bool], ...] = (
    ("aliyun", "before", False),
    ("aliyun", "after", True),
    ("aws", "after", False),
    ("digitalocean", "before", True),
    ("digitalocean", "after", False),
    ("route53", "after", True),
)
"""Not all: every path of the decisions is gone in the model, and every adapter keeps the contract of addresses."""


@pytest.mark.parametrize(("kind", "when", "undo"), PATHS)
def test_a_cutover_that_loses_its_provider_is_finished_or_undone(
    kind: str, when: When, undo: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    for nth in range(1, ENOUGH):
        cut = Cut(SiteWorld(tmp_path / str(nth), SITES[kind](request)), nth, when)
        problem = cut.run()
        if not cut.world.site.gate.fired:
            assert problem is None
            assert cut.world.site.at() == cut.world.site.b
            return
        assert isinstance(problem, AddressError | CutoverFailed | Crash) or problem is None
        if undo and not cut.world.journals():
            continue  # it never began, so there is nothing to undo
        cut.then(undo=undo)
    pytest.fail(f"more than {ENOUGH} requests in one cut-over")
