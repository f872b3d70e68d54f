"""What is particular about DigitalOcean's reserved IPs and domain records."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from drtool.addresses.digitalocean import ReservedIp
from drtool.addresses.waiting import Patience
from drtool.errors import AddressElsewhere, AddressError, AddressTransient, ConfigError
from tests.address_servers.digitalocean import DigitalOceanServer, digitalocean
from tests.canned import Canned, web
from tests.contracts.address_contract import PATIENCE, unchanged
from tests.contracts.digitalocean_sites import IP, DomainRecordSite, ReservedIpSite
from tests.servers import make_authority

__all__ = ["digitalocean"]


@pytest.fixture
def site(digitalocean: DigitalOceanServer) -> ReservedIpSite:
    return ReservedIpSite(digitalocean)


@pytest.fixture
def dns(digitalocean: DigitalOceanServer) -> DomainRecordSite:
    return DomainRecordSite(digitalocean)


def test_reserved_ip_moves_by_one_order_that_is_followed_to_its_end(site: ReservedIpSite) -> None:
    site.address().move(site.b, expected=site.a)
    assert [body for body in site.account.bodies if body] == [{"type": "assign", "droplet_id": int(site.b)}]
    assert site.clock.monotonic() >= 9
    assert "GET actions" in [asked.what for asked in site.gate.asked]


def test_reserved_ip_tells_of_an_order_that_failed_later(site: ReservedIpSite) -> None:
    site.account.fail_orders = 1
    with pytest.raises(AddressError, match="and failed") as caught:
        site.address().move(site.b, expected=site.a)
    assert caught.value.code == "errored"
    site.address().move(site.b, expected=site.a)
    assert site.at() == site.b


def test_reserved_ip_waits_for_a_droplet_that_is_busy(site: ReservedIpSite) -> None:
    def done() -> None:
        return

    site.account.start("reboot", droplet=int(site.b), apply=done).ends_at = 40
    site.address().move(site.b, expected=site.a)
    assert site.at() == site.b
    assert site.clock.monotonic() >= 40
    assert len(site.gate.changed()) <= 2


def test_reserved_ip_says_what_a_droplet_is_busy_with_for_too_long(site: ReservedIpSite) -> None:
    for _ in range(7):  # older ones, done: the busy one is not on the last page
        site.account.start("reboot", droplet=int(site.b)).status = "completed"
    site.account.start("snapshot", droplet=int(site.b)).ends_at = 10_000
    with pytest.raises(AddressTransient, match="busy with snapshot"):
        site.address().move(site.b, expected=site.a)
    assert site.at() == site.a


def test_reserved_ip_waits_for_an_order_of_somebody_else(site: ReservedIpSite) -> None:
    site.account.start("assign_ip", droplet=int(site.c), ip=IP, apply=lambda: site.place(site.c))
    address = site.address()
    assert address.holder() == site.c
    with unchanged(site), pytest.raises(AddressElsewhere):
        address.move(site.b, expected=site.a)


def test_reserved_ip_stays_away_as_long_as_it_is_told(site: ReservedIpSite) -> None:
    site.gate.spoil("throttle", times=1)
    site.address().holder()
    assert site.clock.monotonic() == 11


def test_reserved_ip_does_not_wait_for_a_quota_that_is_refilled_too_late(site: ReservedIpSite) -> None:
    reset = int((site.clock.now() + PATIENCE * 2).timestamp())
    answer = Canned(429, b'{"id": "too_many_requests"}', {"RateLimit-Reset": str(reset)})
    answer.headers["Content-Type"] = "application/json"
    with web(lambda *_: answer) as server, pytest.raises(AddressTransient, match="too_many_requests"):
        site.address(endpoint=f"http://127.0.0.1:{server.port}").holder()
    assert site.clock.monotonic() == 0


def test_reserved_ip_of_a_wrong_token_is_told_without_it(site: ReservedIpSite) -> None:
    with pytest.raises(AddressError) as caught:
        site.address(token="dop_v1_also_not_real").holder()
    assert caught.value.code == "Unauthorized"
    assert "token" in caught.value.hint
    assert "dop_v1" not in repr(caught.value)


@pytest.mark.parametrize("token", ["", "zwei\nZeilen", "schlüssel"])
def test_reserved_ip_refuses_what_is_no_token_without_telling_it(site: ReservedIpSite, token: str) -> None:
    with pytest.raises(ConfigError) as caught:
        site.address(token=token)
    assert not token or token not in str(caught.value)


def test_reserved_ip_sends_the_token_to_nobody_else(
    site: ReservedIpSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither does ~/.netrc take its place, nor does a redirection lead it away."""
    (tmp_path / "netrc").write_text("default login me password not-a-real-password\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert site.address().holder() == site.a
    with web(lambda *_: Canned(200, b"{}")) as other:
        moved = Canned(302, b"", {"Location": f"http://127.0.0.1:{other.port}/"})
        with web(lambda *_: moved) as server, pytest.raises(AddressError) as caught:
            site.address(endpoint=f"http://127.0.0.1:{server.port}").holder()
        assert caught.value.code == "302"
        assert other.seen == []


@pytest.mark.parametrize(
    "answer",
    [
        Canned(200, b"<!DOCTYPE html>It works!", {"Content-Type": "text/html"}),
        Canned(200, b"[]", {"Content-Type": "application/json"}),
        Canned(200, b"{}", {"Content-Type": "application/json"}),
        Canned(404, b"<!DOCTYPE html>", {"Content-Type": "text/html"}),
    ],
)
def test_reserved_ip_takes_no_other_web_server_for_digitalocean(site: ReservedIpSite, answer: Canned) -> None:
    with web(lambda *_: answer) as server, pytest.raises(AddressError) as caught:
        site.address(endpoint=f"http://127.0.0.1:{server.port}").holder()
    assert not isinstance(caught.value, AddressTransient)


def test_reserved_ip_does_not_wait_for_a_certificate_to_become_good(site: ReservedIpSite, tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    body = b'{"reserved_ip": {"ip": "203.0.113.7", "droplet": {"id": 5}, "locked": false}}'
    with web(lambda *_: Canned(200, body), authority=authority) as server:
        endpoint = f"https://127.0.0.1:{server.port}"
        with pytest.raises(AddressError, match="SSLError"):
            site.address(endpoint=endpoint).holder()
        assert site.clock.monotonic() == 0
        assert site.address(endpoint=endpoint, ca_bundle=authority.bundle).holder() == "5"


def test_reserved_ip_is_an_ipv4_address(site: ReservedIpSite) -> None:
    with pytest.raises(ConfigError, match="no reserved IP"):
        ReservedIp("2001:db8::1", token="not-a-real-token", patience=Patience(site.clock))


def test_domain_record_keeps_the_ttl_and_says_how_long_the_old_value_lives(dns: DomainRecordSite) -> None:
    assert dns.address().settles_within == timedelta(minutes=10)
    dns.address().move(dns.b, expected=dns.a)
    assert (dns.record["data"], dns.record["ttl"]) == (dns.b, 600)


def test_domain_record_may_be_the_domain_itself(dns: DomainRecordSite) -> None:
    apex = dns.address(record="Example.com.")
    assert apex.holder() == "192.0.2.9"
    apex.move("192.0.2.8", expected="192.0.2.9")
    assert dns.account.records[0]["data"] == "192.0.2.8"
    assert dns.at() == dns.a


def test_domain_record_may_name_a_host(dns: DomainRecordSite) -> None:
    dns.account.record("www", "@", kind="CNAME")
    alias = dns.address(record="www.example.com", type="CNAME")
    assert alias.holder() == "example.com"
    alias.move("front.example.net.", expected="example.com")
    assert alias.holder() == "front.example.net"
    assert {"type": "CNAME", "data": "front.example.net.", "ttl": 600} in dns.account.bodies


def test_domain_record_is_found_behind_many(dns: DomainRecordSite) -> None:
    dns.account.page = 1
    dns.account.record("gitlab", dns.b)
    with pytest.raises(AddressError, match="2 values"):
        dns.address().holder()


def test_domain_record_is_not_made_because_nobody_said_its_ttl(dns: DomainRecordSite) -> None:
    missing = dns.address(record="missing.example.com")
    assert missing.holder() is None
    acts: tuple[Callable[..., None], ...] = (missing.check, missing.move)
    for act in acts:
        with pytest.raises(AddressError, match="does not exist"):
            act(dns.b, expected=None)
    assert dns.gate.changed() == []


def test_domain_record_of_another_domain_is_refused(dns: DomainRecordSite) -> None:
    with pytest.raises(ConfigError, match="not in the domain"):
        dns.address(record="gitlab.example.org")
    with pytest.raises(AddressError, match="not_found"):
        dns.address(record="gitlab.example.org", domain="example.org").holder()
