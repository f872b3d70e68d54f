"""EC2 and Route 53, as moto acts them, for the contract of addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from drtool.addresses.aws import ElasticIp
from drtool.addresses.route53 import Route53Record
from drtool.addresses.waiting import Patience
from tests.address_servers.aws import (
    ACCESS_KEY_ID,
    REGION,
    SECRET_ACCESS_KEY,
    SESSION_TOKEN,
    AwsServer,
    start_instance,
)
from tests.contracts.address_contract import PATIENCE, Site

ZONE = "example.com"
RECORD = "gitlab.example.com"
TTL = 600


class ElasticIpSite(Site):
    """Three instances and one elastic IP."""

    denied_code = "UnauthorizedOperation"
    secrets = (SECRET_ACCESS_KEY, SESSION_TOKEN)

    def __init__(self, server: AwsServer, *, by_interface: bool = False) -> None:
        super().__init__()
        self.server, self._by_interface = server, by_interface
        server.use(self.gate, self.clock)
        self.instances = [start_instance(server) for _ in range(3)]
        self.a, self.b, self.c = (
            [self._instance(one).nics[0].id for one in self.instances] if by_interface else self.instances
        )
        self.eip = server.ec2.allocate_address("vpc")
        self.place(self.a)

    def address(self, **settings: Any) -> ElasticIp:
        known = {"access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET_ACCESS_KEY, "session_token": SESSION_TOKEN}
        return ElasticIp(
            settings.pop("known_as", self.eip.allocation_id),
            patience=Patience(self.clock, PATIENCE),
            holders="network_interface" if self._by_interface else "instance",
            **{"region": REGION, "endpoint": self.server.endpoint, **known, **settings},
        )

    def at(self) -> str | None:
        if self._by_interface:
            return self.eip.eni.id if self.eip.eni else None
        return self.eip.instance.id if self.eip.instance else None

    def place(self, holder: str | None) -> None:
        ec2 = self.server.ec2
        if holder is None:
            if self.eip.association_id:
                ec2.disassociate_address(association_id=self.eip.association_id)
            return
        if self._by_interface:
            found = {"eni": ec2.get_network_interface(holder)}
        else:
            found = {"instance": self._instance(holder)}
        ec2.associate_address(**found, allocation_id=self.eip.allocation_id, reassociate=True)

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        common = {"no right to move": self._no_right, "another elastic IP": self._another, "no such": self._no_such}
        return common if self._by_interface else {**common, "terminated": self._terminated}

    def _no_right(self) -> str:
        self.gate.spoil("deny", what="AssociateAddress", times=None)
        return self.denied_code

    def _another(self) -> str:
        self.gate.reset()
        other = self.server.ec2.allocate_address("vpc")
        instance = self._instance(self.instances[1])
        found = {"eni": instance.nics[0]} if self._by_interface else {"instance": instance}
        self.server.ec2.associate_address(**found, allocation_id=other.allocation_id)
        return ""

    def _no_such(self) -> str:
        self.b = "eni-0123456789abcdef0" if self._by_interface else "i-0123456789abcdef0"
        return "InvalidNetworkInterfaceID.NotFound" if self._by_interface else "InvalidInstanceID.NotFound"

    def _terminated(self) -> str:
        self.b = self.instances[1]
        self.server.ec2.terminate_instances([self.b])
        return "terminated"

    def _instance(self, instance: str) -> Any:
        return self.server.ec2.get_instance(instance)


class Route53Site(Site):
    """One record in a public zone; a private zone of another name stands beside it."""

    a, b, c = "192.0.2.1", "192.0.2.2", "192.0.2.3"
    denied_code = "AccessDenied"
    secrets = (SECRET_ACCESS_KEY, SESSION_TOKEN)
    may_be_with_nobody = False
    compares = True

    def __init__(self, server: AwsServer, *, takes: timedelta = timedelta(seconds=30)) -> None:
        super().__init__()
        self.server = server
        server.use(self.gate, self.clock, takes=takes)
        self.zone = server.route53.create_hosted_zone(f"{ZONE}.", private_zone=False)
        server.route53.create_hosted_zone("example.org.", private_zone=False)
        self.write("a.example.com", ["192.0.2.9"])
        self.write("z.example.com", ["192.0.2.9"])
        self.place(self.a)

    def address(self, **settings: Any) -> Route53Record:
        return Route53Record(
            settings.pop("record", RECORD),
            zone=settings.pop("zone", ZONE),
            patience=Patience(self.clock, PATIENCE),
            endpoint=self.server.endpoint,
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=SECRET_ACCESS_KEY,
            session_token=SESSION_TOKEN,
            **settings,
        )

    def at(self) -> str | None:
        return self.record.records[0] if self.record.records else None

    @property
    def record(self) -> Any:
        (found,) = [record for record in self.zone.rrsets if record.name.rstrip(".") == RECORD and record.type == "A"]
        return found

    def place(self, holder: str | None) -> None:
        assert holder
        self.write(RECORD, [holder])

    def write(self, name: str, values: list[str], **more: Any) -> None:
        said = {"Name": f"{name}.", "Type": "A", "TTL": TTL, "ResourceRecords": values} | more
        self.zone.upsert_rrset(said)

    def obstacles(self) -> Mapping[str, Callable[[], str]]:
        return {
            "no right to change": self._no_right,
            "no address": self._no_address,
            "several values": self._several,
        }

    def _no_right(self) -> str:
        self.gate.spoil("deny", what="ChangeResourceRecordSets", times=None)
        return self.denied_code

    def _no_address(self) -> str:
        self.gate.reset()
        self.b = "gitlab-2"
        return ""

    def _several(self) -> str:
        self.b = "192.0.2.2"
        self.write(RECORD, [self.a, self.c])
        return ""
