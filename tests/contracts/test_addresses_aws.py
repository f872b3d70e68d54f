"""What is particular about elastic IPs and Route 53 records."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from drtool.addresses.aws import ElasticIp
from drtool.addresses.route53 import Route53Record
from drtool.addresses.waiting import Patience
from drtool.errors import AddressElsewhere, AddressError, AddressTransient, ConfigError
from tests.address_servers.aws import AwsServer, aws
from tests.canned import Canned, web
from tests.contracts.address_contract import PATIENCE, JumpingClock, unchanged
from tests.contracts.aws_sites import RECORD, TTL, ElasticIpSite, Route53Site
from tests.servers import make_authority

__all__ = ["aws"]


@pytest.fixture
def site(aws: AwsServer) -> ElasticIpSite:
    return ElasticIpSite(aws)


@pytest.fixture
def by_interface(aws: AwsServer) -> ElasticIpSite:
    return ElasticIpSite(aws, by_interface=True)


@pytest.fixture
def dns(aws: AwsServer) -> Route53Site:
    return Route53Site(aws)


def asked(server: AwsServer, call: str) -> list[dict[str, str]]:
    found = [body for what, body in server.bodies if what == call]
    return [{name: values[0] for name, values in parse_qs(body).items()} for body in found]


def test_elastic_ip_says_each_time_whether_it_may_be_taken_from_its_holder(site: ElasticIpSite) -> None:
    site.address().move(site.b, expected=site.a)
    site.place(None)
    site.address().move(site.a, expected=None)
    assert [order["AllowReassociation"] for order in asked(site.server, "AssociateAddress")] == ["true", "false"]


def test_elastic_ip_of_nobody_is_not_taken_from_who_was_faster(site: ElasticIpSite) -> None:
    site.place(None)
    site.gate.meddle("before", lambda: site.place(site.c))
    with pytest.raises(AddressError, match=f"went to {site.c}"):
        site.address().move(site.b, expected=None)
    assert site.at() == site.c


def test_elastic_ip_may_be_known_by_the_address_itself(site: ElasticIpSite) -> None:
    address = site.address(known_as=site.eip.public_ip)
    address.check(site.b, expected=site.a)
    address.move(site.b, expected=site.a)
    assert address.holder() == site.at() == site.b


def test_elastic_ip_check_asks_by_a_dry_run(site: ElasticIpSite) -> None:
    site.address().check(site.b, expected=site.a)
    assert [order["DryRun"] for order in asked(site.server, "AssociateAddress")] == ["true"]


def test_elastic_ip_of_a_wrong_key_is_told_with_what_to_do(site: ElasticIpSite) -> None:
    with pytest.raises(AddressError) as caught:
        site.address(access_key_id="AKIASOMEBODYELSES").holder()
    assert caught.value.code == "AuthFailure"
    assert "access key" in caught.value.hint


@pytest.mark.parametrize("known_as", ["eipalloc-0123456789abcdef0", "192.0.2.77"])
def test_elastic_ip_that_aws_does_not_know_is_told_with_the_region(site: ElasticIpSite, known_as: str) -> None:
    with pytest.raises(AddressError) as caught:
        site.address(known_as=known_as).holder()
    assert caught.value.code in ("InvalidAllocationID.NotFound", "InvalidAddress.NotFound")
    assert "region" in caught.value.hint


def test_elastic_ip_of_another_region_is_not_found(site: ElasticIpSite) -> None:
    with pytest.raises(AddressError, match="NotFound"):
        site.address(region="eu-central-1").holder()


def test_elastic_ip_is_named_by_its_id_or_by_an_address(site: ElasticIpSite) -> None:
    with pytest.raises(ConfigError, match="no elastic IP"):
        site.address(known_as="gitlab.example.com")


def test_elastic_ip_wants_a_region(site: ElasticIpSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="no region"):
        site.address(region=None)


def test_elastic_ip_wants_both_halves_of_a_key(site: ElasticIpSite) -> None:
    with pytest.raises(ConfigError, match="go together"):
        site.address(secret_access_key=None)


def test_elastic_ip_without_any_key_says_where_keys_may_come_from(
    site: ElasticIpSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(AddressError) as caught:
        site.address(access_key_id=None, secret_access_key=None, session_token=None).holder()
    assert caught.value.code == "NoCredentialsError"
    assert "role" in caught.value.hint


def test_elastic_ip_does_not_wait_for_a_certificate_to_become_good(site: ElasticIpSite, tmp_path: Path) -> None:
    with (
        web(lambda *_: Canned(200), authority=make_authority(tmp_path)) as server,
        pytest.raises(AddressError) as caught,
    ):
        site.address(endpoint=f"https://127.0.0.1:{server.port}").holder()
    assert not isinstance(caught.value, AddressTransient)
    assert site.clock.monotonic() == 0


def test_elastic_ip_waits_for_an_instance_that_starts(site: ElasticIpSite) -> None:
    site.server.ec2.get_instance(site.b)._state.name = "pending"
    with unchanged(site), pytest.raises(AddressTransient) as caught:
        site.address().check(site.b, expected=site.a)
    assert caught.value.code == "pending"


@pytest.mark.parametrize("which", ["old", "new"])
def test_elastic_ip_wants_to_know_the_interface_of_an_instance_with_several(site: ElasticIpSite, which: str) -> None:
    attach_interface(site, site.a if which == "old" else site.b)
    with unchanged(site), pytest.raises(AddressError, match="several network interfaces") as caught:
        site.address().check(site.b, expected=site.a)
    assert "network_interface" in caught.value.hint


def attach_interface(site: ElasticIpSite, instance: str) -> None:
    ec2 = site.server.ec2
    subnet = next(iter(ec2.subnets.values()))
    interface = ec2.create_network_interface(next(iter(subnet.values())), "")
    ec2.attach_network_interface(interface.id, instance, 1)


def test_elastic_ip_with_an_interface_alone_has_no_way_back_to_an_instance(site: ElasticIpSite) -> None:
    ec2 = site.server.ec2
    interface = ec2.create_network_interface(next(iter(next(iter(ec2.subnets.values())).values())), "")
    ec2.associate_address(eni=interface, allocation_id=site.eip.allocation_id, reassociate=True)
    assert site.address().holder() == interface.id
    with pytest.raises(AddressError, match="no way back"):
        site.address().check(site.b, expected=interface.id)


def test_elastic_ip_at_a_secondary_private_address_is_refused(by_interface: ElasticIpSite) -> None:
    class Elsewhere(type(by_interface.eip)):  # type: ignore[misc]  # bound early
        private_ip_address = "10.9.9.9"

    by_interface.eip.__class__ = Elsewhere
    with unchanged(by_interface), pytest.raises(AddressError, match="secondary"):
        by_interface.address().check(by_interface.b, expected=by_interface.a)


def test_elastic_ip_goes_to_the_kind_of_holder_that_was_chosen(
    site: ElasticIpSite, by_interface: ElasticIpSite
) -> None:
    with pytest.raises(AddressError, match="goes to i-"):
        site.address().move("eni-1", expected=site.a)
    with pytest.raises(AddressError, match="goes to eni-"):
        by_interface.address().check("i-1", expected=by_interface.a)


def test_stopping_an_instance_ends_when_it_is_stopped_and_is_done_once(site: ElasticIpSite) -> None:
    state = site.server.ec2.get_instance(site.a)._state
    site.address().check_stop(site.a)
    assert state.name == "running"
    site.address().stop_instance(site.a)
    assert state.name == "stopped"
    site.address().stop_instance(site.a)
    assert site.gate.changed() == ["StopInstances"]
    assert site.at() == site.a


def test_stopping_an_instance_waits_until_it_is_seen_stopped(site: ElasticIpSite) -> None:
    site.server.takes = timedelta(seconds=70)
    site.address().stop_instance(site.a)
    assert site.clock.monotonic() >= 70
    assert site.gate.changed() == ["StopInstances"]


@pytest.mark.parametrize("fate", ["throttle", "drop", "drop after", "error", "error after"])
def test_stopping_an_instance_outlasts_weather(site: ElasticIpSite, fate: Any) -> None:
    site.gate.spoil(fate, changes=True)
    site.address().stop_instance(site.a)
    assert site.server.ec2.get_instance(site.a)._state.name == "stopped"


def test_stopping_an_instance_without_the_right_to_is_found_by_its_check(site: ElasticIpSite) -> None:
    site.gate.spoil("deny", what="StopInstances", times=None)
    with pytest.raises(AddressError) as caught:
        site.address().check_stop(site.a)
    assert caught.value.code == "UnauthorizedOperation"
    assert "ec2:StopInstances" in caught.value.hint
    assert len(str(caught.value)) < 300


def test_stopping_an_instance_that_does_not_stop_is_told(site: ElasticIpSite) -> None:
    site.server.takes = PATIENCE * 2
    with pytest.raises(AddressTransient, match="stopping"):
        site.address().stop_instance(site.a)
    assert site.gate.changed() == ["StopInstances"]


def test_route53_keeps_the_ttl_and_says_how_long_the_old_value_lives(dns: Route53Site) -> None:
    assert dns.address().settles_within == timedelta(seconds=TTL, minutes=1)
    dns.address().move(dns.b, expected=dns.a)
    assert int(dns.record.ttl) == TTL


def test_route53_ends_a_move_when_every_name_server_has_it(aws: AwsServer) -> None:
    site = Route53Site(aws, takes=timedelta(seconds=45))
    site.address().move(site.b, expected=site.a)
    assert 45 <= site.clock.monotonic() < PATIENCE.total_seconds()


def test_route53_says_when_a_change_does_not_spread(aws: AwsServer) -> None:
    site = Route53Site(aws, takes=PATIENCE * 2)
    with pytest.raises(AddressTransient) as caught:
        site.address().move(site.b, expected=site.a)
    assert caught.value.code == "PENDING"


def test_route53_finishes_over_a_change_of_the_ttl_in_between(dns: Route53Site) -> None:
    dns.gate.meddle("before", lambda: dns.write(RECORD, [dns.a], TTL=60))
    dns.address().move(dns.b, expected=dns.a)
    assert (dns.at(), int(dns.record.ttl)) == (dns.b, 60)


def test_route53_refuses_an_alias(dns: Route53Site) -> None:
    alias = {"HostedZoneId": "Z2", "DNSName": "front.example.net.", "EvaluateTargetHealth": False}
    dns.write(RECORD, [], AliasTarget=alias, TTL=None)
    for act in (dns.address().holder, lambda: dns.address().check(dns.b, expected=dns.a)):
        with pytest.raises(AddressError, match="alias"):
            act()


def test_route53_refuses_a_record_with_a_routing_policy(dns: Route53Site) -> None:
    dns.write(RECORD, [dns.c], SetIdentifier="two", Weight=1)
    with pytest.raises(AddressError, match="routing policy"):
        dns.address().holder()


def test_route53_refuses_a_name_that_two_zones_have(dns: Route53Site) -> None:
    dns.server.route53.create_hosted_zone("example.com.", private_zone=True, vpcid="vpc-1", vpcregion="us-east-1")
    with pytest.raises(AddressError, match="has 2 zones") as caught:
        dns.address().holder()
    assert "id" in caught.value.hint
    by_id = dns.address(zone=dns.zone.id)
    by_id.move(dns.b, expected=dns.a)
    assert by_id.holder() == dns.at() == dns.b


def test_route53_refuses_a_zone_that_is_not_there(dns: Route53Site) -> None:
    with pytest.raises(AddressError, match="0 zones"):
        dns.address(zone="example.net").holder()
    with pytest.raises(AddressError, match="NoSuchHostedZone"):
        dns.address(zone="Z00000000000000000000").holder()


def test_route53_makes_no_record_because_nobody_said_its_ttl(dns: Route53Site) -> None:
    missing = dns.address(record="missing.example.com")
    assert missing.holder() is None
    for act in (missing.check, missing.move):
        with pytest.raises(AddressError, match="does not exist"):
            act(dns.b, expected=None)
    with pytest.raises(AddressElsewhere):
        missing.move(dns.b, expected=dns.a)
    with pytest.raises(AddressError, match="does not exist"):
        _ = missing.settles_within
    assert dns.gate.changed() == []


def test_route53_compares_names_and_addresses_by_what_they_mean(dns: Route53Site) -> None:
    dns.zone.upsert_rrset({"Name": f"{RECORD}.", "Type": "CNAME", "TTL": 60, "ResourceRecords": ["One.example.com."]})
    dns.zone.upsert_rrset({"Name": f"{RECORD}.", "Type": "AAAA", "TTL": 60, "ResourceRecords": ["2001:DB8:0::1"]})
    assert dns.address(type="CNAME", record="GitLab.example.com.").holder() == "one.example.com"
    assert dns.address(type="AAAA").holder() == "2001:db8::1"
    dns.address(type="AAAA").move("2001:db8::2", expected="2001:0db8::1")
    assert dns.address(type="AAAA").holder() == "2001:db8::2"


def test_aws_addresses_ask_nobody_when_they_are_made(aws: AwsServer) -> None:
    patience = Patience(JumpingClock(), PATIENCE)
    aws.bodies.clear()
    ElasticIp("192.0.2.1", patience=patience, region="us-east-1", endpoint=aws.endpoint)
    Route53Record("a.example.com", zone="example.com", patience=patience, endpoint=aws.endpoint)
    assert aws.bodies == []
