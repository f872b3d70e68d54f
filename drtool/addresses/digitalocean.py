"""Reserved IPs of DigitalOcean. One order moves one; it is carried out some seconds later, or fails then."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Any

from drtool.addresses.digitalocean_calls import ENDPOINT, Calls
from drtool.addresses.waiting import Patience, compare_and_move, elsewhere
from drtool.errors import AddressError, AddressTransient, ConfigError


class ReservedIp:
    """One reserved IPv4 address. Holders are droplets, by their numbers. Safe to build; asks nobody.

    DigitalOcean compares nothing, so we do, just before the order.
    """

    settles_within = timedelta()

    def __init__(
        self,
        address: str,
        *,
        token: str,
        patience: Patience,
        endpoint: str = ENDPOINT,
        ca_bundle: Path | None = None,
    ) -> None:
        try:
            self._address = str(ipaddress.IPv4Address(address))
        except ValueError:
            raise ConfigError(f"{address!r} is no reserved IP", hint="Give the reserved IPv4 address.") from None
        self.name = f"reserved IP {self._address}"
        self._patience = patience
        self._calls = Calls(self.name, token, clock=patience.clock, endpoint=endpoint, ca_bundle=ca_bundle)

    def holder(self) -> str | None:
        return self._patience.insist(self._observe)

    def check(self, to: str, *, expected: str | None) -> None:
        number = _number(to)
        self._patience.insist(lambda: self._check(number, expected))

    def move(self, to: str, *, expected: str | None) -> None:
        number, orders, refused = _number(to), list[int](), False

        def observe() -> str | None:
            if orders:
                self._follow(orders[-1])
            return self._observe()

        def step(_: str | None) -> bool:
            nonlocal refused
            if refused:
                self._wait_for_droplet(number)
            refused = True
            orders.append(self._order(number))
            return True

        compare_and_move(self.name, self._patience, to=str(number), expected=expected, observe=observe, step=step)

    def _observe(self) -> str | None:
        return _holder_of(self._look())

    def _look(self) -> dict[str, Any]:
        """Read the address; AddressTransient while an action of anybody's is under way with it."""
        found: dict[str, Any] = _part(self._calls.get(f"reserved_ips/{self._address}"), "reserved_ip", self.name)
        if found.get("locked"):
            raise AddressTransient(f"{self.name}: an action with it is under way", code="locked")
        return found

    def _order(self, droplet: int) -> int:
        body = {"type": "assign", "droplet_id": droplet}
        answer = self._calls.post(f"reserved_ips/{self._address}/actions", body)
        return int(_part(answer, "action", self.name)["id"])

    def _follow(self, order: int) -> None:
        action = _part(self._calls.get(f"actions/{order}"), "action", self.name)
        status = str(action.get("status"))
        if status == "errored":
            raise AddressError(
                f"{self.name}: DigitalOcean took the order to move it (action {order}) and failed",
                code=status,
                hint="Look who holds it now, and make the same call again.",
            )
        if status != "completed":
            raise AddressTransient(f"{self.name} is on its way (action {order})", code=status)

    def _wait_for_droplet(self, droplet: int) -> None:
        """Ask what the droplet is busy with: an order that it is too busy for is refused each time."""
        for action in self._calls.every(f"droplets/{droplet}/actions", "actions"):
            if action.get("status") == "in-progress":
                raise AddressTransient(
                    f"{self.name}: droplet {droplet} is busy with {action.get('type')} (action {action.get('id')})",
                    code="in-progress",
                )

    def _check(self, to: int, expected: str | None) -> None:
        address = self._look()
        holder = _holder_of(address)
        if holder not in (expected, str(to)):
            raise elsewhere(self.name, holder, str(to), expected)
        droplet = _part(self._calls.get(f"droplets/{to}"), "droplet", self.name)
        here, there = _region(address), _region(droplet)
        if here != there:
            raise AddressError(
                f"{self.name} is of region {here}, and droplet {to} is in {there}",
                code=there,
                hint="A reserved IP never leaves its region: move a DNS record instead.",
            )
        if (status := str(droplet.get("status"))) != "active":
            raise AddressError(f"droplet {to} is {status}", code=status, hint="Start the droplet first.")
        self._check_others(to)
        self._wait_for_droplet(to)

    def _check_others(self, to: int) -> None:
        for other in self._calls.every("reserved_ips", "reserved_ips"):
            if _holder_of(other) == str(to) and other.get("ip") != self._address:
                raise AddressError(
                    f"droplet {to} has the reserved IP {other.get('ip')} already, and may have only one",
                    hint="Unassign that one first, or name another droplet.",
                )


def _number(droplet: str) -> int:
    if not (droplet.isascii() and droplet.isdigit()):
        raise AddressError(f"{droplet!r} is no droplet", hint="Give the droplet's number (doctl compute droplet list).")
    return int(droplet)


def _holder_of(address: dict[str, Any]) -> str | None:
    droplet = address.get("droplet")
    return str(droplet["id"]) if droplet else None


def _region(thing: dict[str, Any]) -> str:
    return str((thing.get("region") or {}).get("slug", ""))


def _part(answer: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    part = answer.get(name)
    if not isinstance(part, dict):
        raise AddressError(f"{where}: DigitalOcean's answer holds no {name}")
    return part
