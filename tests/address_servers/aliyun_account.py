"""What an account at Alibaba owns, and the rules by which it changes: elastic IPs, instances, DNS records.

Changes of addresses and instances are queued: they take time by the account's clock, and may want some looks besides.
Where Alibaba's documents are silent, the code says so.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from drtool.clock import Clock
from tests.address_servers.aliyun_signing import Refusal

REGION = "cn-hangzhou"
Answer = dict[str, Any]
Parameters = dict[str, str]


@dataclass(slots=True)
class Eip:
    """``queued`` is what it will be once it is due."""

    allocation: str
    ip: str
    region: str = REGION
    instance: str | None = None
    kind: str = "EcsInstance"
    mode: str = "NAT"
    private_ip: str = ""
    status: str = "Available"
    business_status: str = "Normal"
    locks: list[str] = field(default_factory=list)

    def bind(self, instance: str | None, kind: str = "EcsInstance", mode: str = "NAT", private_ip: str = "") -> None:
        """Be there at once."""
        self.instance, self.kind, self.mode, self.private_ip = instance, kind, mode, private_ip
        self.status = "InUse" if instance else "Available"

    def described(self) -> Answer:
        return {
            "AllocationId": self.allocation,
            "IpAddress": self.ip,
            "RegionId": self.region,
            "Status": self.status,
            "InstanceId": self.instance or "",
            "InstanceType": self.kind if self.instance else "",
            "Mode": self.mode,
            "PrivateIpAddress": self.private_ip,
            "BusinessStatus": self.business_status,
            "OperationLocks": {"LockReason": [{"LockReason": lock} for lock in self.locks]},
            "DeletionProtection": False,
        }


@dataclass(slots=True)
class Instance:
    instance_id: str
    region: str = REGION
    status: str = "Running"
    vpc: str = "vpc-1"
    public_ip: str = ""
    locks: list[str] = field(default_factory=list)
    stopped_mode: str = ""


@dataclass(slots=True)
class Record:
    record_id: str
    domain: str
    rr: str
    kind: str
    value: str
    ttl: int = 600
    line: str = "default"
    enabled: bool = True
    locked: bool = False

    def described(self) -> Answer:
        return {
            "RecordId": self.record_id,
            "DomainName": self.domain,
            "RR": self.rr,
            "Type": self.kind,
            "Value": self.value,
            "TTL": self.ttl,
            "Line": self.line,
            "Status": "ENABLE" if self.enabled else "DISABLE",
            "Locked": self.locked,
        }


@dataclass(slots=True)
class Setback:
    """The next ``left`` requests of ``action`` are refused with ``code``."""

    action: str
    code: str
    status: int = 400
    left: int = 1


@dataclass(slots=True)
class _Queued:
    due: float
    looks: int
    done: Callable[[], None]


@dataclass(slots=True)
class Account:
    """``takes`` and ``looks``: how long each queued change is on its way, in time and in looks at it.

    ``compares``: whether unbinding from an instance that does not hold the address is refused. Nothing says so, nor
    the contrary. ``economical``: what the account does with stopped instances unless it is told otherwise. A request
    whose ClientToken was seen before gets the answer of then, also where that was a refusal.
    """

    clock: Clock
    takes: timedelta = timedelta(seconds=3)
    looks: int = 0
    compares: bool = False
    economical: bool = True
    least_ttl: int = 600
    eips: dict[str, Eip] = field(default_factory=dict)
    instances: dict[str, Instance] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    _queue: dict[str, _Queued] = field(default_factory=dict)
    setbacks: list[Setback] = field(default_factory=list)
    _tokens: dict[tuple[str, str], tuple[Parameters, Answer | Refusal]] = field(default_factory=dict)

    def answer(self, action: str, version: str, parameters: Parameters) -> Answer:
        """Do it, or raise the Refusal that Alibaba would answer."""
        calls: dict[tuple[str, str], Callable[[Parameters], Answer]] = {
            ("DescribeEipAddresses", "2016-04-28"): self._describe_eips,
            ("AssociateEipAddress", "2016-04-28"): self._associate,
            ("UnassociateEipAddress", "2016-04-28"): self._unassociate,
            ("DescribeInstances", "2014-05-26"): self._describe_instances,
            ("StopInstance", "2014-05-26"): self._stop,
            ("StartInstance", "2014-05-26"): self._start,
            ("DescribeSubDomainRecords", "2015-01-09"): self._describe_records,
            ("UpdateDomainRecord", "2015-01-09"): self._update_record,
        }
        if (action, version) not in calls:
            raise Refusal(404, "InvalidAction.NotFound", f"There is no {action} of version {version}.")
        token = parameters.get("ClientToken", "")
        if not token:
            return self._do(calls[action, version], action, parameters)
        if (action, token) not in self._tokens:
            try:
                outcome: Answer | Refusal = self._do(calls[action, version], action, parameters)
            except Refusal as refusal:
                if refusal.code == "LastTokenProcessing":
                    raise
                outcome = refusal
            self._tokens[action, token] = (dict(parameters), outcome)
        known, outcome = self._tokens[action, token]
        if known != parameters:
            raise Refusal(400, "IdempotentParameterMismatch", "The same token with other parameters.")
        if isinstance(outcome, Refusal):
            raise Refusal(outcome.status, outcome.code, outcome.message)
        return outcome

    def _do(self, call: Callable[[Parameters], Answer], action: str, parameters: Parameters) -> Answer:
        for setback in self.setbacks:
            if setback.action == action and setback.left > 0:
                setback.left -= 1
                raise Refusal(setback.status, setback.code)
        return call(parameters)

    def changes(self, action: str, parameters: Parameters) -> bool:
        """Whether this call, done now, would change who holds an address."""
        if action == "UpdateDomainRecord":
            record = self.records.get(parameters.get("RecordId", ""))
            return record is not None and record.value != parameters.get("Value")
        eip = self.eips.get(parameters.get("AllocationId", ""))
        if eip is None:
            return False
        self._settle(eip.allocation)
        wanted = {"AssociateEipAddress": "Available", "UnassociateEipAddress": "InUse"}
        return wanted.get(action) == eip.status

    def finish(self) -> None:
        """Let all arrive that is on its way."""
        for key in list(self._queue):
            self._queue.pop(key).done()

    def place(self, allocation: str, instance: str | None, **how: str) -> None:
        """Put an address there at once, whatever was on its way."""
        self._queue.pop(allocation, None)
        self.eips[allocation].bind(instance, **how)

    def _enqueue(self, key: str, done: Callable[[], None]) -> None:
        self._queue[key] = _Queued(self.clock.monotonic() + self.takes.total_seconds(), self.looks, done)
        if not self.takes and not self.looks:
            self._queue.pop(key).done()

    def _settle(self, key: str, *, look: bool = False) -> None:
        queued = self._queue.get(key)
        if queued is None:
            return
        if self.clock.monotonic() >= queued.due and queued.looks <= 0:
            del self._queue[key]
            queued.done()
        elif look:
            queued.looks -= 1

    def _describe_eips(self, given: Parameters) -> Answer:
        _need(given, "RegionId")
        for allocation in self.eips:
            self._settle(allocation, look=True)
        listed = [
            eip.described()
            for eip in self.eips.values()
            if eip.region == given["RegionId"]
            and given.get("AllocationId", eip.allocation) == eip.allocation
            and given.get("EipAddress", eip.ip) == eip.ip
        ]
        page, more = _page(given, listed, default=10, most=100)
        return more | {"EipAddresses": {"EipAddress": page}}

    def _eip(self, given: Parameters) -> Eip:
        _need(given, "RegionId", "AllocationId", "InstanceId")
        eip = self.eips.get(given["AllocationId"])
        if eip is None or eip.region != given["RegionId"]:
            raise Refusal(404, "InvalidAllocationId.NotFound", "Specified allocation id is not found.")
        self._settle(eip.allocation)
        if eip.locks or eip.business_status != "Normal":
            raise Refusal(400, "FinancialLocked", "The address is locked.")
        return eip

    def _associate(self, given: Parameters) -> Answer:
        eip = self._eip(given)
        if eip.status != "Available":
            raise Refusal(400, "IncorrectEipStatus", "Current elastic IP status does not support this operation.")
        kind, mode = given.get("InstanceType", "EcsInstance"), given.get("Mode", "NAT")
        if mode == "MULTI_BINDED" and (kind != "NetworkInterface" or not given.get("PrivateIpAddress")):
            raise Refusal(400, "InvalidParameter.Mode", "MULTI_BINDED is for a private address of an interface.")
        if kind == "EcsInstance":
            self._check_target(given["InstanceId"], eip)
        eip.status, eip.instance = "Associating", given["InstanceId"]  # so that only the status tells it is not there
        private_ip = given.get("PrivateIpAddress", "")
        self._enqueue(eip.allocation, lambda: eip.bind(given["InstanceId"], kind, mode, private_ip))
        return {}

    def _check_target(self, instance_id: str, eip: Eip) -> None:
        instance = self._instance(instance_id)
        if instance.region != eip.region:
            raise Refusal(404, "InvalidInstanceId.NotFound", "The instance is not in this region.")
        if not instance.vpc:
            raise Refusal(400, "InvalidInstance.NotInVpc", "The instance is in no VPC.")  # its real name is not known
        if instance.status not in ("Running", "Stopped"):
            raise Refusal(400, "IncorrectInstanceStatus", "The instance is neither running nor stopped.")
        if instance.public_ip:
            raise Refusal(400, "InstanceHasBandWidth", "The instance has a public address of its own.")
        if any(other.instance == instance_id for other in self.eips.values() if other is not eip):
            raise Refusal(400, "InvalidAssociation.Duplicated", "The instance has an elastic IP already.")

    def _unassociate(self, given: Parameters) -> Answer:
        eip = self._eip(given)
        if eip.status != "InUse":
            raise Refusal(400, "IncorrectEipStatus", "Current elastic IP status does not support this operation.")
        if self.compares and (given["InstanceId"], given.get("InstanceType", "EcsInstance")) != (
            eip.instance,
            eip.kind,
        ):
            raise Refusal(400, "InvalidBindingStatus", "The address is bound to something else.")
        holder = self.instances.get(eip.instance or "")
        if holder and self._instance(holder.instance_id).status not in ("Running", "Stopped"):
            raise Refusal(400, "IncorrectInstanceStatus", "The instance is neither running nor stopped.")
        eip.status = "Unassociating"
        self._enqueue(eip.allocation, lambda: eip.bind(None))
        return {}

    def _instance(self, instance_id: str) -> Instance:
        if instance_id not in self.instances:
            raise Refusal(404, "InvalidInstanceId.NotFound", "The specified instance does not exist.")
        self._settle(instance_id)
        return self.instances[instance_id]

    def _describe_instances(self, given: Parameters) -> Answer:
        _need(given, "RegionId")
        wanted = json.loads(given.get("InstanceIds", "null"))
        if wanted is not None and not isinstance(wanted, list):
            raise Refusal(400, "InvalidInstanceIds.Malformed", "InstanceIds is a JSON array in a string.")
        listed = []
        for instance in self.instances.values():
            self._settle(instance.instance_id, look=True)
            if instance.region == given["RegionId"] and (wanted is None or instance.instance_id in wanted):
                listed.append(self._described(instance))
        page, more = _page(given, listed, default=10, most=100)
        return more | {"Instances": {"Instance": page}}

    def _described(self, instance: Instance) -> Answer:
        eip = next((eip for eip in self.eips.values() if eip.instance == instance.instance_id), None)
        return {
            "InstanceId": instance.instance_id,
            "RegionId": instance.region,
            "Status": instance.status,
            "InstanceNetworkType": "vpc" if instance.vpc else "classic",
            "VpcAttributes": {"VpcId": instance.vpc},
            "PublicIpAddress": {"IpAddress": [instance.public_ip] if instance.public_ip else []},
            "EipAddress": {"AllocationId": eip.allocation, "IpAddress": eip.ip} if eip else {"AllocationId": ""},
            "OperationLocks": {"LockReason": [{"LockReason": lock} for lock in instance.locks]},
            "StoppedMode": instance.stopped_mode or "Not-applicable",
            "DeletionProtection": False,
        }

    def _stop(self, given: Parameters) -> Answer:
        mode = given.get("StoppedMode") or ("StopCharging" if self.economical else "KeepCharging")
        return self._turn(given, "Running", "Stopping", "Stopped", mode)

    def _start(self, given: Parameters) -> Answer:
        if self._instance(given["InstanceId"]).stopped_mode == "StopCharging":
            raise Refusal(403, "OperationDenied.NoStock", "The requested resource is sold out.")
        return self._turn(given, "Stopped", "Starting", "Running", "")

    def _turn(self, given: Parameters, start: str, meanwhile: str, end: str, mode: str) -> Answer:
        _need(given, "InstanceId")
        instance = self._instance(given["InstanceId"])
        if instance.status != start:
            raise Refusal(403, "IncorrectInstanceStatus", "The current status does not support this operation.")
        instance.status = meanwhile

        def done() -> None:
            instance.status, instance.stopped_mode = end, mode

        self._enqueue(instance.instance_id, done)
        return {}

    def _describe_records(self, given: Parameters) -> Answer:
        _need(given, "SubDomain")
        domain = given.get("DomainName", "")
        rr = given["SubDomain"].removesuffix(domain).rstrip(".") or "@"
        listed = [
            record.described()
            for record in self.records.values()
            if (record.domain, record.rr) == (domain, rr) and given.get("Type", record.kind) == record.kind
        ]
        page, more = _page(given, listed, default=20, most=100)
        return more | {"DomainRecords": {"Record": page}}

    def _update_record(self, given: Parameters) -> Answer:
        _need(given, "RecordId", "RR", "Type", "Value")
        record = self.records.get(given["RecordId"])
        if record is None:
            raise Refusal(400, "DomainRecordNotBelongToUser", "The record does not exist.")
        if record.locked:
            raise Refusal(400, "DomainRecordLocked", "The record is locked.")
        ttl, line = int(given.get("TTL", "600")), given.get("Line", "default")
        if ttl < self.least_ttl:
            raise Refusal(400, "QuotaExceeded.TTL", "This edition takes no TTL as short as that.")
        same = [
            other
            for other in self.records.values()
            if (other.domain, other.rr, other.kind, other.value, other.line)
            == (record.domain, given["RR"], given["Type"], given["Value"], line)
        ]
        if same:
            raise Refusal(400, "DomainRecordDuplicate", "The DNS record already exists.")
        record.rr, record.kind, record.value = given["RR"], given["Type"], given["Value"]
        record.ttl, record.line = ttl, line
        return {"RecordId": record.record_id}


def _need(given: Parameters, *names: str) -> None:
    for name in names:
        if not given.get(name):
            raise Refusal(400, f"Missing{name}", f"{name} is mandatory for this action.")


def _page(given: Parameters, listed: list[Answer], *, default: int, most: int) -> tuple[list[Answer], Answer]:
    number, size = int(given.get("PageNumber", "1")), int(given.get("PageSize", default))
    if not 0 < size <= most or number < 1:
        raise Refusal(400, "InvalidParameter", "There is no such page.")
    more = {"TotalCount": len(listed), "PageNumber": number, "PageSize": size}
    return listed[(number - 1) * size : number * size], more


def request_id() -> str:
    return secrets.token_hex(16).upper()
