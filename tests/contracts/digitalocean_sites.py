"""DigitalOcean's reserved IPs and domain records for the contract of addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from drtool.addresses.digitalocean import ReservedIp
from drtool.addresses.digitalocean_domain import DomainRecord
from drtool.addresses.waiting import Patience
from tests.address_servers.digitalocean import DOMAIN, TOKEN, DigitalOceanServer
from tests.contracts.address_contract import PATIENCE, Site

IP = "203.0.113.7"
RECORD = f"gitlab.{DOMAIN}"


class ReservedIpSite(Site):
    """Three droplets of one region, and more reserved IPs than fit on a page."""

    denied_code = "forbidden"
    secrets = (TOKEN,)

    def __init__(self, server: DigitalOceanServer, *, takes: timedelta = timedelta(seconds=9)) -> None:
        super().__init__()
        self.server = server
        self.account = server.use(self.gate, self.clock, takes=takes)
        self.a, self.b, self.c = (str(self.account.droplet()) for _ in range(3))
        self.account.ips = {f"203.0.113.{last}": None for last in range(100, 108)} | {IP: int(self.a)}

    def address(self, **settings: Any) -> ReservedIp:
        known = {"token": TOKEN, "endpoint": self.server.endpoint, **settings}
        return ReservedIp(IP, patience=Patience(self.clock, PATIENCE), **known)

    def at(self) -> str | None:
        self.account.settle(moves=True)
        holder = self.account.ips[IP]
        return str(holder) if holder else None

    def place(self, holder: str | None) -> None:
        self.account.place(IP, int(holder) if holder else None)

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        return {
            "another region": self._another_region,
            "switched off": self._off,
            "busy for long": self._busy,
            "another reserved IP": self._another,
            "no such droplet": self._no_such,
            "no number": self._no_number,
        }

    def _another_region(self) -> str:
        self.b = str(self.account.droplet(region="nyc3"))
        return "nyc3"

    def _off(self) -> str:
        self.b = str(self.account.droplet(status="off"))
        return "off"

    def _busy(self) -> str:
        self.b = str(self.account.droplet())
        self.account.start("snapshot", droplet=int(self.b)).ends_at = self.clock.monotonic() + 3600
        return "in-progress"

    def _another(self) -> str:
        self.b = str(self.account.droplet())
        self.account.place("203.0.113.107", int(self.b))
        return ""

    def _no_such(self) -> str:
        self.b = "1"
        return "not_found"

    def _no_number(self) -> str:
        self.b = "gitlab-2"
        return ""


class DomainRecordSite(Site):
    """One record among others; DigitalOcean lets nobody find out beforehand what a token may change."""

    a, b, c = "192.0.2.1", "192.0.2.2", "192.0.2.3"
    denied_code = "forbidden"
    secrets = (TOKEN,)
    may_be_with_nobody = False

    def __init__(self, server: DigitalOceanServer) -> None:
        super().__init__()
        self.server = server
        self.account = server.use(self.gate, self.clock)
        self.account.record("@", "192.0.2.9")
        self.account.record("gitlab", "mail.example.com", kind="MX")
        self.record = self.account.record("gitlab", self.a)

    def address(self, **settings: Any) -> DomainRecord:
        known = {"token": TOKEN, "endpoint": self.server.endpoint, "domain": DOMAIN, **settings}
        return DomainRecord(known.pop("record", RECORD), patience=Patience(self.clock, PATIENCE), **known)

    def at(self) -> str | None:
        return str(self.record["data"])

    def place(self, holder: str | None) -> None:
        self.record["data"] = holder

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        return {"no address": self._no_address, "several values": self._several}

    def _no_address(self) -> str:
        self.b = "gitlab-2"
        return ""

    def _several(self) -> str:
        self.b = "192.0.2.2"
        self.account.record("gitlab", self.c)
        return ""
