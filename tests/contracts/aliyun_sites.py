"""Elastic IPs and DNS records at the local double of Alibaba Cloud, for the contract of addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from drtool.addresses.alidns import AliyunRecord
from drtool.addresses.aliyun import AliyunAddress
from drtool.addresses.aliyun_calls import FixedKeys
from drtool.addresses.waiting import Patience
from drtool.stores.faults import Crash
from tests.address_servers.aliyun import (
    ACCESS_KEY_ID,
    ACCESS_KEY_SECRET,
    REGION,
    Account,
    AliyunServer,
    Eip,
    Identity,
    Instance,
    Record,
)
from tests.contracts.address_contract import PATIENCE, Site

EIP = "eip-1"
SECURITY_TOKEN = "not-a-real-token"
DOMAIN, RECORD = "example.com", "gitlab.example.com"


class AliyunSite(Site):
    """``account`` is the truth behind ``server``, which gets a new one for each site."""

    denied_code = "Forbidden.RAM"
    secrets = (ACCESS_KEY_SECRET, SECURITY_TOKEN)

    def __init__(self, server: AliyunServer, **account: Any) -> None:
        super().__init__()
        self.server, self.account = server, Account(self.clock, **account)
        server.use(self.account, lambda action, changes: self.gate.decide(action, changes=changes))
        server.keys.identities[ACCESS_KEY_ID] = Identity(ACCESS_KEY_SECRET, SECURITY_TOKEN)
        self.settings: dict[str, Any] = {
            "keys": FixedKeys(ACCESS_KEY_ID, ACCESS_KEY_SECRET, SECURITY_TOKEN),
            "patience": Patience(self.clock, PATIENCE),
            "endpoint": server.endpoint,
        }


class EipSite(AliyunSite):
    a, b, c = "i-old", "i-new", "i-other"

    def __init__(self, server: AliyunServer, **account: Any) -> None:
        super().__init__(server, **account)
        for number in range(12):  # more than a page, and the one that is wanted is the last
            self.account.eips[f"eip-0{number}"] = Eip(f"eip-0{number}", f"198.51.100.{number}")
        self.eip = self.account.eips[EIP] = Eip(EIP, "203.0.113.7")
        self.place(self.a)

    def address(self, **settings: Any) -> AliyunAddress:
        return AliyunAddress(settings.pop("allocation", EIP), **({"region": REGION} | self.settings | settings))

    def at(self) -> str | None:
        self.account.finish()
        return self.eip.instance

    def place(self, holder: str | None) -> None:
        """Put it there, with nothing in the way."""
        self.server.denied.clear()
        self.account.instances.update({name: Instance(name) for name in (self.a, self.b, self.c)})
        self.account.place("eip-00", None)
        self.account.place(EIP, holder)
        self.eip.business_status, self.eip.locks = "Normal", []

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        new = self.account.instances[self.b]

        def denied() -> str:
            self.server.denied.add("AssociateEipAddress")
            return self.denied_code

        def gone() -> str:
            del self.account.instances[self.b]
            return "InvalidInstanceId.NotFound"

        def another() -> str:
            self.account.place("eip-00", self.b)
            return "InvalidAssociation.Duplicated"

        return {
            "in arrears": lambda: put("FinancialLocked", self.eip, "business_status", "FinancialLocked"),
            "locked": lambda: put("security", self.eip, "locks", ["security"]),
            "no such instance": gone,
            "other region": lambda: put("InvalidInstanceId.NotFound", new, "region", "cn-beijing"),
            "no VPC": lambda: put("", new, "vpc", ""),
            "own public address": lambda: put("InstanceHasBandWidth", new, "public_ip", "192.0.2.9"),
            "instance locked": lambda: put("financial", new, "locks", ["financial"]),
            "instance starting": lambda: put("Starting", new, "status", "Starting"),
            "another elastic IP": another,
            "no right to bind": denied,
        }


class ComparingEipSite(EipSite):
    """The same, with changes that end after some looks, and no unbinding from what does not hold the address."""

    compares = True

    def __init__(self, server: AliyunServer) -> None:
        super().__init__(server, compares=True, takes=timedelta(), looks=2)


class DnsSite(AliyunSite):
    a, b, c = "203.0.113.7", "203.0.113.8", "203.0.113.9"
    may_be_with_nobody = False

    def __init__(self, server: AliyunServer) -> None:
        super().__init__(server)
        for number in range(30):  # more than a page, of another type or name
            self.account.records[f"9{number}"] = Record(f"9{number}", DOMAIN, f"host{number}", "A", self.a)
        self.record = self.account.records["1"] = Record("1", DOMAIN, "gitlab", "A", self.a, ttl=900)

    def address(self, **settings: Any) -> AliyunRecord:
        return AliyunRecord(settings.pop("record", RECORD), **({"domain": DOMAIN} | self.settings | settings))

    def at(self) -> str | None:
        return self.record.value

    def place(self, holder: str | None) -> None:
        """Put it there, with nothing in the way."""
        assert holder
        self.server.denied.clear()
        self.account.records.pop("2", None)
        self.record.value, self.record.locked, self.record.enabled = holder, False, True

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        def denied() -> str:
            self.server.denied.add("UpdateDomainRecord")
            return self.denied_code

        def twin() -> str:
            self.account.records["2"] = Record("2", DOMAIN, "gitlab", "A", self.b)
            return ""

        return {
            "two records": twin,
            "locked": lambda: put("", self.record, "locked", True),
            "disabled": lambda: put("", self.record, "enabled", False),
            "no right to update": denied,
        }


class CrashingKeys:
    """Ends the process before its request number ``nth``: each of them asks for the keys once."""

    def __init__(self, keys: FixedKeys, nth: int) -> None:
        self._keys, self._left = keys, nth

    def get_credentials(self) -> FixedKeys:
        self._left -= 1
        if self._left <= 0:
            raise Crash
        return self._keys


def put(code: str, thing: object, name: str, value: object) -> str:
    setattr(thing, name, value)
    return code
