"""An elastic IP of Alibaba Cloud, and the instances that it may be at.

Alibaba has no call that moves an address. It is unbound, then bound, each queued and done some seconds later, and in
between nobody has it. So a move is a loop: look, decide on what is seen alone, give one order, look again. A crash or
a lost answer between two rounds leaves nothing behind that the next look does not show.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from drtool.addresses.aliyun_calls import ECS, READ_TIMEOUT, VPC, Calls, ClientToken, Keyring
from drtool.addresses.waiting import Patience, compare_and_move, elsewhere
from drtool.errors import AddressError, AddressTransient, ConfigError

_ECS_INSTANCE = "EcsInstance"
# A change takes some seconds, during which nobody has the address; 120 calls of one kind are allowed in a minute.
_LONGEST_PAUSE = timedelta(seconds=3)
_KINDS = {
    "i-": _ECS_INSTANCE, "eni-": "NetworkInterface", "lb-": "SlbInstance", "ngw-": "Nat", "havip-": "HaVip",
}  # fmt: skip
# What binding an address that is in use is refused with. Who may not bind at all never hears of it.
_IN_USE = ("IncorrectEipStatus", "InvalidAssociation.Duplicated", "InvalidBindingStatus")


@dataclass(frozen=True, slots=True)
class Binding:
    """How an address is, or was, bound to ``holder``: what it takes to bind it the same way again."""

    holder: str
    kind: str = _ECS_INSTANCE
    mode: str = ""
    private_ip: str = ""


@dataclass(frozen=True, slots=True)
class _Seen:
    """The address as it is now. ``locks`` are reasons why nothing may be done with it."""

    ip: str
    binding: Binding | None
    locks: tuple[str, ...]

    @property
    def holder(self) -> str | None:
        return self.binding.holder if self.binding else None


class AliyunAddress:
    """The elastic IP ``allocation`` (``eip-…``); holders are ids of ECS instances (``i-…``).

    Others may have held it before (a network interface, a load balancer): it goes back to them as it was bound, as
    long as this object saw it there or was told by ``remember``.
    """

    def __init__(
        self,
        allocation: str,
        *,
        region: str,
        keys: Keyring,
        patience: Patience,
        endpoint: str | None = None,
        ca_bundle: Path | None = None,
        read_timeout: timedelta = READ_TIMEOUT,
    ) -> None:
        if not allocation.startswith("eip-"):
            raise ConfigError(f"the id of an elastic IP begins with eip-, unlike {allocation!r}")
        self._allocation, self._ip = allocation, ""
        self._bindings: dict[str, Binding] = {}
        self._patience = replace(patience, longest=min(patience.longest, _LONGEST_PAUSE))
        self._calls = Calls(
            keys,
            patience.clock,
            region=region,
            endpoint=endpoint,
            ca_bundle=ca_bundle,
            read_timeout=read_timeout,
        )

    @property
    def name(self) -> str:
        return f"elastic IP {self._ip} ({self._allocation})" if self._ip else f"elastic IP {self._allocation}"

    @property
    def settles_within(self) -> timedelta:
        return timedelta(0)

    def binding(self, holder: str) -> Binding | None:
        """How the address was bound when it was last seen at ``holder``. Worth a line in a journal."""
        return self._bindings.get(holder)

    def remember(self, binding: Binding) -> None:
        """Say how the address was once bound, so that it goes back there the same way."""
        self._bindings[binding.holder] = binding

    def holder(self) -> str | None:
        return self._patience.insist(self._settled).holder

    def check(self, to: str, *, expected: str | None) -> None:
        """Besides looking, ask for a binding that must be refused, for the address is in use: by how it is refused
        Alibaba tells whether it would be allowed. There is no such question about unbinding, nor while nobody has it.
        """
        self._patience.insist(lambda: self._check(to, expected))

    def move(self, to: str, *, expected: str | None) -> None:
        unbind, bind = ClientToken(), ClientToken()

        def step(holder: str | None) -> bool:
            if holder is None:
                self._bind(to, bind)
                return True
            self._check_target(to)  # once more: what is unbound for nothing is an outage
            self._unbind(self._bindings[holder], unbind)
            return False

        if not self._ip:
            self.holder()  # so that messages can name it

        compare_and_move(
            self.name,
            self._patience,
            to=to,
            expected=expected,
            observe=lambda: self._settled().holder,
            step=step,
            through_nobody=True,
        )

    def stop_instance(self, instance: str) -> None:
        """Shut ``instance`` down, and return once it is. It keeps its place, so that it can be started again.

        (An account may be set to give the place of a stopped instance away; then there may be none left for it.)
        """
        self._drive(instance, "StopInstance", "Running", "Stopped", StoppedMode="KeepCharging", ForceStop="false")

    def start_instance(self, instance: str) -> None:
        """Start ``instance`` again after ``stop_instance``, and return once it runs."""
        self._drive(instance, "StartInstance", "Stopped", "Running")

    def _unbind(self, binding: Binding, token: ClientToken) -> None:
        self._calls.order(
            VPC,
            "UnassociateEipAddress",
            token,
            RegionId=self._calls.region,
            AllocationId=self._allocation,
            InstanceId=binding.holder,
            InstanceType=binding.kind,
        )

    def _bind(self, to: str, token: ClientToken) -> None:
        binding = self._bindings.get(to) or Binding(to, _kind_of(to))
        parameters = {
            "RegionId": self._calls.region,
            "AllocationId": self._allocation,
            "InstanceId": binding.holder,
            "InstanceType": binding.kind,
        }
        if binding.mode not in ("", "NAT"):
            parameters["Mode"] = binding.mode
        if binding.private_ip and binding.kind != _ECS_INSTANCE:
            parameters["PrivateIpAddress"] = binding.private_ip
        self._calls.order(VPC, "AssociateEipAddress", token, **parameters)

    def _settled(self) -> _Seen:
        """Ask where the address is. Raises AddressTransient while it is on its way."""
        eip = self._describe()
        status, seen = str(eip.get("Status", "")), _parse(eip)
        self._ip = seen.ip
        if status == "Releasing":
            raise AddressError(
                f"{self.name} is being given back to Alibaba", code=status, hint="Stop that, if you can."
            )
        if status not in ("InUse", "Available"):
            raise AddressTransient(f"{self.name} is {status}", code=status, hint="Look again in a minute.")
        if (status == "InUse") != (seen.binding is not None):
            raise AddressTransient(f"{self.name} is {status}, with {seen.holder or 'nobody'}", code=status)
        if seen.binding:
            self.remember(seen.binding)
        return seen

    def _describe(self) -> dict[str, Any]:
        answer = self._calls.ask(
            VPC,
            "DescribeEipAddresses",
            RegionId=self._calls.region,
            AllocationId=self._allocation,
            PageSize="100",  # it would be 10
        )
        listed = _list_in(answer, "EipAddresses", "EipAddress")
        found = [eip for eip in listed if eip.get("AllocationId") == self._allocation]
        if not found:
            raise AddressError(
                f"there is no {self._allocation} in {self._calls.region}",
                code="InvalidAllocationId.NotFound",
                hint="Check the id of the address, its region, and whose access key this is.",
            )
        if len(found) > 1:
            raise AddressError(f"{self._allocation} stands for {len(found)} addresses", hint="Ask Alibaba which it is.")
        return dict(found[0])

    def _check(self, to: str, expected: str | None) -> None:
        seen = self._settled()
        if seen.holder == to:
            return
        if seen.holder != expected:
            raise elsewhere(self.name, seen.holder, to, expected)
        if seen.locks:
            raise AddressError(
                f"{self.name} is locked: {', '.join(seen.locks)}",
                code=seen.locks[0],
                hint="FinancialLocked: settle the account's bills. Anything else: ask Alibaba why.",
            )
        self._check_target(to)
        if seen.binding:
            self._try_binding(to)

    def _check_target(self, to: str) -> None:
        """Refuse what could not be given the address. Nothing is asked about another thing that had it before."""
        if to.startswith("i-"):
            self._check_instance(to)
        elif to not in self._bindings:
            raise AddressError(f"{to} is no ECS instance", hint="Give the id of an instance: i-…")

    def _check_instance(self, to: str) -> None:
        instance = self._instance(to)
        network = instance.get("VpcAttributes") or {}
        public = _list_in(instance, "PublicIpAddress", "IpAddress")
        other = (instance.get("EipAddress") or {}).get("AllocationId")
        locks = [str(lock.get("LockReason")) for lock in _list_in(instance, "OperationLocks", "LockReason")]
        if not network.get("VpcId"):
            raise AddressError(f"{to} is in no VPC, so it can have no elastic IP", hint="Choose one that is in a VPC.")
        if locks:
            raise AddressError(
                f"{to} is locked: {', '.join(locks)}",
                code=locks[0],
                hint="financial: settle the account's bills. security: ask Alibaba why.",
            )
        status = str(instance.get("Status"))
        if status not in ("Running", "Stopped"):
            raise AddressTransient(
                f"{to} is {status}, neither running nor stopped",
                code=status,
                hint="Wait for it, or choose another.",
            )
        if public:
            raise AddressError(
                f"{to} has a public address of its own, {public[0]}",
                code="InstanceHasBandWidth",
                hint="Take it away first, or turn it into an elastic IP and unbind that.",
            )
        if other and other != self._allocation:
            raise AddressError(
                f"{to} has another elastic IP, {other}",
                code="InvalidAssociation.Duplicated",
                hint="Unbind that one first, or choose another instance.",
            )

    def _try_binding(self, to: str) -> None:
        try:
            self._bind(to, ClientToken())
        except AddressError as error:
            if error.code.startswith(_IN_USE):
                return
            raise
        raise AddressError(
            f"Alibaba accepted a binding to {to} of {self.name}, which is in use elsewhere",
            hint="Look at the console where it is now, before anything else.",
        )

    def _instance(self, instance: str) -> dict[str, Any]:
        answer = self._calls.ask(
            ECS, "DescribeInstances", RegionId=self._calls.region, InstanceIds=json.dumps([instance]), PageSize="100"
        )
        listed = _list_in(answer, "Instances", "Instance")
        for each in listed:
            if each.get("InstanceId") == instance:
                return dict(each)
        raise AddressError(
            f"there is no instance {instance} in {self._calls.region}",
            code="InvalidInstanceId.NotFound",
            hint="An elastic IP stays in its region: choose an instance there, or move a DNS record instead.",
        )

    def _drive(self, instance: str, action: str, start: str, end: str, **parameters: str) -> None:
        def advance() -> None:
            status = self._instance(instance).get("Status")
            if status == end:
                return
            if status == start:
                self._calls.order(
                    ECS, action, ClientToken(), RegionId=self._calls.region, InstanceId=instance, **parameters
                )
            raise AddressTransient(f"{instance} is not yet {end}: {status}", hint="Look at its console in the browser.")

        self._patience.insist(advance)


def _parse(eip: dict[str, Any]) -> _Seen:
    holder = str(eip.get("InstanceId") or "")
    binding = Binding(
        holder,
        str(eip.get("InstanceType") or _kind_of(holder)),
        str(eip.get("Mode") or ""),
        str(eip.get("PrivateIpAddress") or ""),
    )
    locks = [str(lock.get("LockReason")) for lock in _list_in(eip, "OperationLocks", "LockReason")]
    if eip.get("BusinessStatus", "Normal") != "Normal":
        locks.insert(0, str(eip["BusinessStatus"]))
    return _Seen(str(eip.get("IpAddress") or ""), binding if holder else None, tuple(locks))


def _list_in(fields: dict[str, Any], outer: str, inner: str) -> list[Any]:
    """Return the list that Alibaba wraps into an object, which is missing or null where the list is empty."""
    return list((fields.get(outer) or {}).get(inner) or [])


def _kind_of(holder: str) -> str:
    return next((kind for start, kind in _KINDS.items() if holder.startswith(start)), _ECS_INSTANCE)
