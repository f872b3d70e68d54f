"""Elastic IP addresses of AWS. One call moves one; AWS itself compares nothing, so we do, just before."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from drtool.addresses import aws_calls
from drtool.addresses.waiting import Patience, compare_and_move, elsewhere
from drtool.errors import AddressError, AddressTransient, ConfigError

if TYPE_CHECKING:
    from mypy_boto3_ec2.client import EC2Client
    from mypy_boto3_ec2.type_defs import AddressTypeDef, InstanceTypeDef

T = TypeVar("T")

_ASSOCIATE = "ec2:AssociateAddress"
_DRY_RUN_PASSED = "DryRunOperation"
_FIT = ("running", "stopped")
_PASSING = ("pending", "stopping")


class ElasticIp:
    """One elastic IP, found by allocation id (``eipalloc-…``) or by the address itself. Safe to build; asks nobody.

    Holders are instances (``i-…``); with ``holders="network_interface"`` they are interfaces (``eni-…``), which is
    what an instance with several of them needs. Without keys, boto3's own search finds them.
    """

    settles_within = timedelta()

    def __init__(
        self,
        address: str,
        *,
        patience: Patience,
        region: str | None = None,
        holders: Literal["instance", "network_interface"] = "instance",
        endpoint: str | None = None,
        access_key_id: str | None = None,
        secret_access_key: str | None = None,
        session_token: str | None = None,
        ca_bundle: Path | None = None,
    ) -> None:
        self.name = f"elastic IP {address}"
        self._by_id = address.startswith("eipalloc-")
        if not self._by_id and not _is_ipv4(address):
            raise ConfigError(f"{address!r} is no elastic IP", hint="Give eipalloc-…, or the IPv4 address.")
        self._address, self._holders, self._patience = address, holders, patience
        self._client: EC2Client = aws_calls.client(
            "ec2",
            self.name,
            region=region,
            endpoint=endpoint,
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            ca_bundle=ca_bundle,
        )

    def holder(self) -> str | None:
        return self._patience.insist(self._observe)

    def check(self, to: str, *, expected: str | None) -> None:
        self._patience.insist(lambda: self._check(to, expected))

    def move(self, to: str, *, expected: str | None) -> None:
        self._check_kind(to)
        compare_and_move(
            self.name,
            self._patience,
            to=to,
            expected=expected,
            observe=self._observe,
            step=lambda holder: self._associate(to, holder),
        )

    def check_stop(self, instance: str) -> None:
        """Find out, changing nothing, whether ``stop_instance`` would be let do it."""
        self._patience.insist(lambda: self._check_stop(instance))

    def stop_instance(self, instance: str) -> None:
        """Stop it, and return once AWS says that it is: the fence around an old host. It keeps its elastic IP.

        Does nothing to one that is stopped or gone already. Its disks stay; it may be started again, unless AWS has
        no room of its type just then.
        """

        def attempt() -> None:
            state = self._instance(instance).get("State", {}).get("Name", "unknown")
            if state in ("stopped", "terminated"):
                return
            if state not in ("stopping", "shutting-down"):
                self._ask(lambda: self._client.stop_instances(InstanceIds=[instance]), needs="ec2:StopInstances")
            raise AddressTransient(f"instance {instance} was told to stop and is {state}", code=state)

        self._patience.insist(attempt)

    def _observe(self) -> str | None:
        return self._holder_of(self._describe())

    def _describe(self) -> AddressTypeDef:
        needs = "ec2:DescribeAddresses"
        if self._by_id:
            answer = self._ask(lambda: self._client.describe_addresses(AllocationIds=[self._address]), needs=needs)
        else:
            answer = self._ask(lambda: self._client.describe_addresses(PublicIps=[self._address]), needs=needs)
        found = answer.get("Addresses", [])
        if len(found) != 1:
            raise AddressError(
                f"{self.name}: AWS knows {len(found)} of them, and exactly one is wanted",
                hint="Give the allocation id (eipalloc-…) and its region.",
            )
        return found[0]

    def _holder_of(self, address: AddressTypeDef) -> str | None:
        interface = address.get("NetworkInterfaceId") or None
        return interface if self._holders == "network_interface" else (address.get("InstanceId") or interface)

    def _associate(self, to: str, holder: str | None, *, dry_run: bool = False) -> bool:
        address = self._describe() if not self._by_id else {"AllocationId": self._address}
        allocation, reassociate = str(address.get("AllocationId", "")), holder is not None
        # Of an address of nobody AWS itself refuses to take it away from who got it since we looked.
        if self._holders == "instance":
            self._ask(
                lambda: self._client.associate_address(
                    AllocationId=allocation, InstanceId=to, AllowReassociation=reassociate, DryRun=dry_run
                ),
                needs=_ASSOCIATE,
            )
        else:
            self._ask(
                lambda: self._client.associate_address(
                    AllocationId=allocation, NetworkInterfaceId=to, AllowReassociation=reassociate, DryRun=dry_run
                ),
                needs=_ASSOCIATE,
            )
        return True

    def _check(self, to: str, expected: str | None) -> None:
        self._check_kind(to)
        address = self._describe()
        holder = self._holder_of(address)
        if holder not in (expected, to):
            raise elsewhere(self.name, holder, to, expected)
        if self._holders == "instance":
            self._check_instance(to)
            if holder not in (None, to):
                self._check_way_back(holder or "")
        interface = address.get("NetworkInterfaceId")
        if interface and holder != to:
            self._check_primary(interface, address.get("PrivateIpAddress", ""))
        self._check_others(to, address.get("AllocationId", ""))
        self._dry(lambda: self._associate(to, holder, dry_run=True))

    def _check_kind(self, to: str) -> None:
        prefix = "eni-" if self._holders == "network_interface" else "i-"
        if not to.startswith(prefix):
            raise AddressError(f"{self.name} goes to {prefix}…, not to {to}", hint="Correct the id of the new holder.")

    def _check_way_back(self, holder: str) -> None:
        if holder.startswith("eni-"):
            raise AddressError(
                f"{self.name} is with the interface {holder}, which has no instance: there would be no way back to it",
                hint='Set holders = "network_interface" for this address.',
            )
        self._check_interfaces(self._instance(holder), holder)

    def _check_instance(self, to: str) -> None:
        instance = self._instance(to)
        state = instance.get("State", {}).get("Name", "unknown")
        if state in _PASSING:
            raise AddressTransient(f"instance {to} is {state}", code=state)
        if state not in _FIT:
            raise AddressError(f"instance {to} is {state}", code=state, hint="Name a running instance.")
        self._check_interfaces(instance, to)

    def _check_interfaces(self, instance: InstanceTypeDef, name: str) -> None:
        if len(instance.get("NetworkInterfaces", [])) > 1:
            raise AddressError(
                f"instance {name} has several network interfaces, and AWS wants to know which",
                hint='Set holders = "network_interface", and name the interface instead of the instance.',
            )

    def _check_primary(self, interface: str, private: str) -> None:
        """Refuse an address at a secondary private one: a way back would bring it to the primary."""
        answer = self._ask(
            lambda: self._client.describe_network_interfaces(NetworkInterfaceIds=[interface]),
            needs="ec2:DescribeNetworkInterfaces",
        )
        for found in answer.get("NetworkInterfaces", []):
            if private and private != found.get("PrivateIpAddress"):
                raise AddressError(
                    f"{self.name} is with {private}, a secondary address of {interface}: the way back leads elsewhere",
                    hint="Bind it to the interface's primary private address first.",
                )

    def _check_others(self, to: str, allocation: str) -> None:
        """Refuse to drive another elastic IP away: AWS does that without a word."""
        by = "network-interface-id" if self._holders == "network_interface" else "instance-id"
        answer = self._ask(
            lambda: self._client.describe_addresses(Filters=[{"Name": by, "Values": [to]}]),
            needs="ec2:DescribeAddresses",
        )
        for found in answer.get("Addresses", []):
            if found.get("AllocationId") != allocation:
                raise AddressError(
                    f"{to} has the elastic IP {found.get('PublicIp')} already, which it would lose",
                    hint="Take that one off first (aws ec2 disassociate-address), or name another holder.",
                )

    def _check_stop(self, instance: str) -> None:
        self._instance(instance)
        self._dry(
            lambda: self._ask(
                lambda: self._client.stop_instances(InstanceIds=[instance], DryRun=True), needs="ec2:StopInstances"
            )
        )

    def _instance(self, instance: str) -> InstanceTypeDef:
        answer = self._ask(
            lambda: self._client.describe_instances(InstanceIds=[instance]), needs="ec2:DescribeInstances"
        )
        found = [one for reservation in answer.get("Reservations", []) for one in reservation.get("Instances", [])]
        if len(found) != 1:
            raise AddressError(f"AWS knows {len(found)} instances {instance}", hint="Correct the id, or the region.")
        return found[0]

    def _dry(self, call: Callable[[], object]) -> None:
        """AWS answers a call that would have worked by a refusal of its own; anything else is in the way."""
        try:
            call()
        except AddressError as error:
            if error.code == _DRY_RUN_PASSED:
                return
            raise
        raise AddressError(f"{self.name}: AWS took a question for an order", hint="Look who holds the address now.")

    def _ask(self, call: Callable[[], T], *, needs: str) -> T:
        return aws_calls.ask(self.name, call, needs=needs)


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
