"""Addresses at Alibaba Cloud keep the contract, whatever weather comes; and what only Alibaba asks for."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drtool.addresses.aliyun import AliyunAddress, Binding
from drtool.addresses.aliyun_calls import FixedKeys
from drtool.addresses.waiting import Patience
from drtool.clock import SystemClock
from drtool.errors import AddressElsewhere, AddressError, AddressTransient, ConfigError
from drtool.stores.faults import Crash
from drtool.stores.oss_credentials import RamRole
from tests.address_servers.aliyun import ACCESS_KEY_ID, AliyunServer, Fate, Instance, Record, Setback, aliyun_server
from tests.contracts.address_contract import CHECKS, ENOUGH, PATIENCE, Check, Site
from tests.contracts.aliyun_sites import DOMAIN, EIP, RECORD, ComparingEipSite, CrashingKeys, DnsSite, EipSite
from tests.oss_server.metadata import ROLE, metadata_service
from tests.oss_server.service import Service
from tests.servers import make_authority

SITES: dict[str, Callable[[AliyunServer], Site]] = {
    "eip": EipSite,
    "eip-at-once": lambda server: EipSite(server, takes=timedelta()),
    "eip-that-compares": ComparingEipSite,
    "dns": DnsSite,
}
PASSING = [
    "TaskConflict", "OperationConflict", "IncorrectStatus.Eip", "SystemBusy", "LastTokenProcessing",
    "IncorrectEipStatus", "InvalidBindingStatus", "IncorrectInstanceStatus", "InvalidStatus.EcsStatusNotSupport",
    "InvalidStatus.EniStatusNotSupport", "Throttling", "Throttling.User", "Rejected.Throttling",
    "OperationFailed.EcsMigrating", "InvalidStatus.NotAllow",
]  # fmt: skip
FINAL = [
    "FinancialLocked", "Forbidden.RAM", "InstanceHasBandWidth", "InvalidAllocationId.NotFound",
    "InvalidAssociation.Duplicated", "InvalidIpStatus.HasBeenUsedBySnatTable", "InvalidStatus.InstanceHasBandWidth",
    "QuotaExceeded",
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[AliyunServer]:
    with aliyun_server(SystemClock()) as running:
        yield running


@pytest.fixture
def site(server: AliyunServer) -> EipSite:
    return EipSite(server)


@pytest.fixture
def dns(server: AliyunServer) -> DnsSite:
    return DnsSite(server)


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_address_at_alibaba_keeps_the_contract(check: Check, kind: str, server: AliyunServer) -> None:
    check(SITES[kind](server))


@pytest.mark.parametrize("action", ["AssociateEipAddress", "UnassociateEipAddress"])
@pytest.mark.parametrize("code", PASSING)
def test_move_waits_for_what_may_pass(site: EipSite, code: str, action: str) -> None:
    site.account.setbacks.append(Setback(action, code, left=2))

    site.address().move(site.b, expected=site.a)

    assert site.at() == site.b
    tokens = [call.parameters["ClientToken"] for call in site.server.asked(action)]
    assert len(set(tokens)) == (1 if code == "LastTokenProcessing" else 3)


@pytest.mark.parametrize("code", FINAL)
def test_move_waits_for_nothing_else(site: EipSite, code: str) -> None:
    site.account.setbacks.append(Setback("UnassociateEipAddress", code))

    with pytest.raises(AddressError, match=code) as caught:
        site.address().move(site.b, expected=site.a)
    assert not isinstance(caught.value, AddressTransient)
    assert caught.value.code == code
    assert site.at() == site.a
    assert site.clock.monotonic() == 0


def test_binding_that_is_refused_leaves_it_to_nobody_and_it_can_go_back(site: EipSite) -> None:
    site.account.setbacks.append(Setback("AssociateEipAddress", "InstanceHasBandWidth"))
    address = site.address()

    with pytest.raises(AddressError) as caught:
        address.move(site.b, expected=site.a)
    assert "public address" in caught.value.hint
    assert address.holder() is None
    address.move(site.a, expected=None)
    assert site.at() == site.a


def test_nothing_is_unbound_for_an_instance_that_became_unfit_since_the_check(site: EipSite) -> None:
    address = site.address()
    address.check(site.b, expected=site.a)
    site.account.instances[site.b].public_ip = "192.0.2.9"

    with pytest.raises(AddressError, match="public address of its own"):
        address.move(site.b, expected=site.a)
    assert site.at() == site.a
    assert not site.server.asked("UnassociateEipAddress")


@pytest.mark.parametrize("told", [False, True], ids=["seen", "told"])
def test_address_goes_back_as_it_was_bound(site: EipSite, told: bool) -> None:
    site.account.place(EIP, "eni-1", kind="NetworkInterface", mode="MULTI_BINDED", private_ip="10.0.0.5")
    address = site.address()
    address.move(site.b, expected="eni-1")
    assert (site.eip.kind, site.eip.mode) == ("EcsInstance", "NAT")
    binding = address.binding("eni-1")
    assert binding == Binding("eni-1", "NetworkInterface", "MULTI_BINDED", "10.0.0.5")

    if told:  # as another process would be, from a journal
        address = site.address()
        address.remember(binding)
    address.check("eni-1", expected=site.b)
    address.move("eni-1", expected=site.b)

    site.account.finish()
    bound = (site.eip.instance, site.eip.kind, site.eip.mode, site.eip.private_ip)
    assert bound == ("eni-1", "NetworkInterface", "MULTI_BINDED", "10.0.0.5")


def test_what_is_no_instance_is_refused_where_it_never_held_the_address(site: EipSite) -> None:
    with pytest.raises(AddressError, match="no ECS instance"):
        site.address().check("ngw-1", expected=site.a)


def test_change_that_does_not_end_is_told_within_the_patience(site: EipSite) -> None:
    site.account.takes = timedelta(days=1)

    with pytest.raises(AddressTransient, match="Unassociating"):
        site.address().move(site.b, expected=site.a)
    assert site.clock.monotonic() <= PATIENCE.total_seconds()


def test_address_of_another_region_is_not_found(site: EipSite) -> None:
    with pytest.raises(AddressError, match="no eip-1 in cn-beijing") as caught:
        site.address(region="cn-beijing").holder()
    assert caught.value.code == "InvalidAllocationId.NotFound"


def test_address_that_is_given_back_is_not_waited_for(site: EipSite) -> None:
    site.eip.status = "Releasing"

    with pytest.raises(AddressError, match="given back"):
        site.address().holder()
    assert site.clock.monotonic() == 0


def test_same_token_is_sent_after_no_answer_and_another_after_a_refusal(site: EipSite) -> None:
    for fate, same in (("drop", True), ("error", True), ("throttle", False)):
        site.place(site.a)
        site.server.calls.clear()
        site.gate.reset()
        site.gate.spoil(fate, what="AssociateEipAddress")  # type: ignore[arg-type]  # as a test says
        site.address().move(site.b, expected=site.a)

        first, second = (call.parameters["ClientToken"] for call in site.server.asked("AssociateEipAddress"))
        assert (first == second) is same, fate


def test_each_request_has_a_nonce_of_its_own(site: EipSite) -> None:
    site.gate.spoil("error", times=3)
    site.address().move(site.b, expected=site.a)

    nonces = [call.headers["x-acs-signature-nonce"] for call in site.server.asked()]
    assert len(set(nonces)) == len(nonces) > 5


@pytest.mark.parametrize("fate", ["slow", "slow after"])
@pytest.mark.parametrize("action", ["DescribeEipAddresses", "UnassociateEipAddress", "AssociateEipAddress"])
def test_answer_that_comes_too_late_is_looked_after(site: EipSite, action: str, fate: str) -> None:
    site.server.slow = 0.6
    site.gate.spoil(fate, what=action)  # type: ignore[arg-type]  # as a test says

    site.address(read_timeout=timedelta(seconds=0.3)).move(site.b, expected=site.a)

    assert site.gate.fired == 1
    assert site.at() == site.b


@pytest.mark.parametrize("finish", [True, False], ids=["finished", "undone"])
@pytest.mark.parametrize("fate", ["serve", "throttle", "drop", "drop after", "error", "error after"])
def test_move_that_crashed_in_any_weather_is_finished_or_undone(server: AliyunServer, fate: Fate, finish: bool) -> None:
    met = set()
    for nth in range(1, ENOUGH):
        site = in_weather(server, fate)
        try:
            site.address(keys=CrashingKeys(site.settings["keys"], nth)).move(site.b, expected=site.a)
        except Crash:
            met.add(site.eip.status)
        else:
            assert site.at() == site.b
            break
        address, goal = site.address(), site.b if finish else site.a
        held = address.holder()
        address.move(goal, expected=held)
        assert site.at() == goal
    assert met == {"InUse", "Unassociating", "Available", "Associating"}
    assert nth < ENOUGH


@pytest.mark.parametrize("fate", ["serve", "drop after"])
def test_address_that_somebody_took_after_a_crash_stays_there(server: AliyunServer, fate: Fate) -> None:
    for nth in range(1, ENOUGH):
        site = in_weather(server, fate)
        try:
            site.address(keys=CrashingKeys(site.settings["keys"], nth)).move(site.b, expected=site.a)
        except Crash:
            site.place(site.c)
        else:
            break
        for expected in (site.a, None):
            with pytest.raises(AddressElsewhere, match=site.c):
                site.address().move(site.b, expected=expected)
        assert site.at() == site.c
    assert nth > 5


def in_weather(server: AliyunServer, fate: Fate) -> EipSite:
    """Return a site where each action meets ``fate`` the first time."""
    site, met = EipSite(server), set[str]()

    def gate(action: str, changes: bool) -> Fate:
        first = action not in met
        met.add(action)
        return fate if first else "serve"

    server.gate = gate
    return site


def test_somebody_who_takes_it_while_nobody_has_it_keeps_it(site: EipSite) -> None:
    site.gate.spoil("throttle", what="AssociateEipAddress", times=5)
    sleep = site.clock.sleep

    def meanwhile(duration: timedelta) -> None:
        sleep(duration)
        if site.gate.fired == 2:
            site.place(site.c)

    site.clock.sleep = meanwhile  # type: ignore[method-assign]  # a test's own
    with pytest.raises(AddressError, match=f"went to {site.c}") as caught:
        site.address().move(site.b, expected=site.a)
    assert not isinstance(caught.value, AddressElsewhere)
    assert site.at() == site.c


def test_instance_is_stopped_so_that_it_can_be_started_again(site: EipSite) -> None:
    assert site.account.economical
    address = site.address()
    address.stop_instance(site.a)
    address.stop_instance(site.a)

    assert site.account.instances[site.a].status == "Stopped"
    assert len(site.server.asked("StopInstance")) == 1
    address.start_instance(site.a)
    assert site.account.instances[site.a].status == "Running"
    assert {call.action for call in site.server.asked()} == {"DescribeInstances", "StopInstance", "StartInstance"}


@pytest.mark.parametrize("fate", ["drop", "drop after", "error", "error after", "throttle"])
def test_instance_is_stopped_in_any_weather(site: EipSite, fate: str) -> None:
    for what in ("DescribeInstances", "StopInstance"):
        site.place(site.a)
        site.gate.reset()
        site.gate.spoil(fate, what=what, times=2)  # type: ignore[arg-type]  # as a test says
        site.address().stop_instance(site.a)
        assert site.account.instances[site.a].status == "Stopped"
        assert site.account.instances[site.a].stopped_mode == "KeepCharging"


def test_stop_that_crashed_is_finished(server: AliyunServer) -> None:
    for nth in range(1, ENOUGH):
        site = in_weather(server, "drop after")
        try:
            site.address(keys=CrashingKeys(site.settings["keys"], nth)).stop_instance(site.a)
        except Crash:
            site.address().stop_instance(site.a)
            assert site.account.instances[site.a].status == "Stopped"
        else:
            break
    assert nth > 3


@pytest.mark.parametrize("status", ["Starting", "Stopping"])
def test_instance_that_does_not_get_there_is_not_called_stopped(site: EipSite, status: str) -> None:
    site.account.instances[site.a] = Instance(site.a, status=status)

    with pytest.raises(AddressTransient, match=f"not yet Stopped: {status}"):
        site.address().stop_instance(site.a)
    with pytest.raises(AddressError, match="no instance i-gone"):
        site.address().stop_instance("i-gone")


def test_wrong_secret_is_told_without_showing_any(site: EipSite) -> None:
    wrong = "not-the-real-secret"
    with pytest.raises(AddressError) as caught:
        site.address(keys=FixedKeys(ACCESS_KEY_ID, wrong, site.secrets[1])).holder()
    assert caught.value.code == "SignatureDoesNotMatch"
    assert "access key" in caught.value.hint
    assert wrong not in repr(FixedKeys(ACCESS_KEY_ID, wrong))
    for secret in (wrong, *site.secrets):
        assert secret not in str(caught.value)


def test_wrong_clock_is_told_as_such(site: EipSite) -> None:
    class Late(SystemClock):
        def now(self) -> datetime:
            return site.clock.now() - timedelta(minutes=16)

    with pytest.raises(AddressError, match=r"InvalidTimeStamp\.Expired") as caught:
        site.address(patience=Patience(Late())).holder()
    assert "clock" in caught.value.hint


@pytest.mark.parametrize(("status", "passes"), [(200, False), (403, False), (429, True), (502, True)])
def test_answer_of_something_else_is_not_taken_for_one_of_alibaba(site: EipSite, status: int, passes: bool) -> None:
    site.server.garbled = status, b"<html>Please log in</html>"
    try:
        with pytest.raises(AddressError, match=f"status {status}") as caught:
            site.address().holder()
    finally:
        site.server.garbled = None
    assert isinstance(caught.value, AddressTransient) is passes
    assert (site.clock.monotonic() > 0) is passes


def test_certificate_decides_who_is_spoken_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
    ours, other = make_authority(tmp_path / "ours"), make_authority(tmp_path / "other")
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(ours.certificate, ours.key)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other.bundle))
    with aliyun_server(SystemClock(), trust) as server:
        site = EipSite(server)
        assert site.address(ca_bundle=ours.bundle).holder() == site.a
        with pytest.raises(AddressError, match="not trusted"):
            site.address().holder()
        assert site.clock.monotonic() == 0


def test_netrc_does_not_replace_the_signature(site: EipSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login somebody password not-a-real-password\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    assert site.address().holder() == site.a


def test_keys_of_a_ram_role_are_used_and_renewed(site: EipSite) -> None:
    service = Service("cn-hangzhou", {})
    moment = [datetime.now(UTC)]
    site.server.keys.identities = service.identities
    with metadata_service(service) as metadata:
        metadata.speaks = "v2"
        keys = RamRole(ROLE, base_url=metadata.url, clock=lambda: moment[0])
        address = AliyunAddress(
            EIP, region="cn-hangzhou", keys=keys, endpoint=site.server.endpoint, patience=Patience(site.clock)
        )
        assert address.holder() == site.a
        moment[0] += timedelta(hours=5, minutes=50)
        assert address.holder() == site.a
        metadata.fails = 500
        moment[0] += timedelta(hours=1)
        with pytest.raises(AddressTransient, match="metadata service"):
            address.holder()

    used = [call.headers["x-acs-security-token"] for call in site.server.asked()]
    assert used == ["lent-token-1", "lent-token-2"]


def test_settings_that_cannot_be_meant_are_refused(site: EipSite) -> None:
    with pytest.raises(ConfigError, match="begins with eip-"):
        site.address(allocation="203.0.113.7")
    with pytest.raises(ConfigError, match="region"):
        site.address(region="Hangzhou")
    with pytest.raises(ConfigError, match="endpoint"):
        site.address(endpoint="https://example.com/some/path")
    with pytest.raises(ConfigError, match="ca_bundle"):
        site.address(ca_bundle=Path("/not/there"))


def test_record_keeps_its_ttl_and_line_and_tells_how_long_resolvers_keep_the_old_value(dns: DnsSite) -> None:
    dns.record.line = "oversea"
    address = dns.address()
    assert address.settles_within == timedelta(seconds=900)

    address.move(dns.b, expected=dns.a)

    assert (dns.record.value, dns.record.ttl, dns.record.line) == (dns.b, 900, "oversea")
    dns.record.ttl = 60
    assert address.settles_within == timedelta(minutes=10)
    assert dns.address(floor=timedelta()).settles_within == timedelta(minutes=1)


def test_two_records_of_the_name_are_refused_by_everything(dns: DnsSite) -> None:
    dns.account.records["2"] = Record("2", DOMAIN, "gitlab", "A", dns.c, enabled=False)

    with pytest.raises(AddressError, match="2 records"):
        dns.address().holder()
    with pytest.raises(AddressError, match="2 records"):
        dns.address().move(dns.b, expected=dns.a)
    assert not dns.server.asked("UpdateDomainRecord")


def test_records_of_all_pages_are_counted(dns: DnsSite) -> None:
    for number in range(120):
        dns.account.records[f"t{number}"] = Record(f"t{number}", DOMAIN, "gitlab", "A", dns.c)
    with pytest.raises(AddressError, match="121 records"):
        dns.address().check(dns.b, expected=dns.a)


@pytest.mark.parametrize("code", ["LastOperationNotFinished", "RecordForbidden.DNSChange"])
def test_busy_record_is_waited_for(dns: DnsSite, code: str) -> None:
    dns.account.setbacks.append(Setback("UpdateDomainRecord", code, left=3))
    dns.address().move(dns.b, expected=dns.a)
    assert dns.at() == dns.b


def test_value_that_the_record_has_already_is_no_success_while_it_is_not_seen(dns: DnsSite) -> None:
    dns.account.setbacks.append(Setback("UpdateDomainRecord", "DomainRecordDuplicate"))
    with pytest.raises(AddressTransient):
        dns.address().move(dns.b, expected=dns.a)
    assert dns.at() == dns.a


@pytest.mark.parametrize(
    ("type_", "old", "new", "same", "wrong"),
    [
        ("AAAA", "2001:db8::7", "2001:db8::8", "2001:DB8:0::8", "203.0.113.7"),
        ("CNAME", "old.example.net", "new.example.net", "New.Example.net.", "2001:db8::8"),
    ],
)
def test_other_types_of_records_move_too(dns: DnsSite, type_: str, old: str, new: str, same: str, wrong: str) -> None:
    dns.account.records["5"] = Record("5", DOMAIN, "gitlab", type_, old)
    address = dns.address(type=type_)
    address.check(same, expected=old)
    address.move(same, expected=old)
    assert address.holder() == new
    address.move(new, expected=old)
    assert len(dns.server.asked("UpdateDomainRecord")) == 2  # the check's, and one
    with pytest.raises(AddressError, match="is not a"):
        address.move(wrong, expected=new)
    assert dns.at() == dns.a


def test_record_of_the_domain_itself_and_names_outside_of_it(dns: DnsSite) -> None:
    dns.account.records["6"] = Record("6", DOMAIN, "@", "A", dns.c)
    assert dns.address(record=DOMAIN).holder() == dns.c
    with pytest.raises(AddressError, match=r"no DNS record other\.example\.com A"):
        dns.address(record="other.example.com").holder()
    with pytest.raises(ConfigError, match="no name in the domain"):
        dns.address(record="gitlab.example.net")
    assert RECORD in dns.address().name
