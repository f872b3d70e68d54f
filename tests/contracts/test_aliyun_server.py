"""The double of Alibaba Cloud refuses what must be refused, and lets Alibaba's own SDK in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import requests
from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest

from drtool.addresses.aliyun_calls import ECS, VPC, Calls, ClientToken, FixedKeys
from drtool.clock import SystemClock
from drtool.errors import AddressError
from tests.address_servers.aliyun import (
    ACCESS_KEY_ID,
    ACCESS_KEY_SECRET,
    REGION,
    AliyunServer,
    Call,
    Eip,
    Instance,
    Refusal,
    Setback,
    aliyun_server,
)


@pytest.fixture
def server() -> Iterator[AliyunServer]:
    with aliyun_server(SystemClock()) as running:
        running.account.takes = timedelta()
        for number in range(11):
            running.account.eips[f"eip-{number}"] = Eip(f"eip-{number}", f"203.0.113.{number}")
        running.account.instances["i-1"] = Instance("i-1")
        yield running


@pytest.fixture
def calls(server: AliyunServer) -> Calls:
    return Calls(FixedKeys(ACCESS_KEY_ID, ACCESS_KEY_SECRET), SystemClock(), region=REGION, endpoint=server.endpoint)


def by_sdk(server: AliyunServer, action: str, *, secret: str = ACCESS_KEY_SECRET, **parameters: str) -> Any:
    """Call by aliyun-python-sdk-core, which signs by version 1."""
    client = AcsClient(ACCESS_KEY_ID, secret, REGION, port=server.port, auto_retry=False)
    request = CommonRequest("127.0.0.1", "2016-04-28", action)
    request.set_protocol_type("http")
    for name, value in parameters.items():
        request.add_query_param(name, value)
    return json.loads(client.do_action_with_exception(request))


def test_sdk_of_alibaba_is_let_in(server: AliyunServer) -> None:
    by_sdk(server, "AssociateEipAddress", AllocationId="eip-1", InstanceId="i-1", ClientToken="a b*c~d/é+")

    listed = by_sdk(server, "DescribeEipAddresses", AllocationId="eip-1")["EipAddresses"]["EipAddress"]
    assert [(eip["Status"], eip["InstanceId"]) for eip in listed] == [("InUse", "i-1")]


def test_sdk_of_alibaba_with_a_wrong_secret_is_refused(server: AliyunServer) -> None:
    with pytest.raises(ServerException) as caught:
        by_sdk(server, "DescribeEipAddresses", secret="not-the-secret")
    assert caught.value.get_error_code() == "SignatureDoesNotMatch"


def test_signature_is_for_one_request_only(server: AliyunServer, calls: Calls) -> None:
    calls.ask(VPC, "DescribeEipAddresses", RegionId=REGION, AllocationId="eip-1 *~/é+")
    call = server.calls[-1]
    now = server.clock.now()

    def refusal(changed: Call, *, after: timedelta = timedelta()) -> str:
        server.keys.nonces.clear()
        with pytest.raises(Refusal) as caught:
            server.keys.check(changed, now + after)
        return caught.value.code

    def header(name: str, value: str) -> Call:
        return replace(call, headers={**call.headers, name: value})

    server.keys.nonces.clear()
    server.keys.check(call, now)
    with pytest.raises(Refusal, match="SignatureNonceUsed"):
        server.keys.check(call, now)
    assert refusal(replace(call, query=call.query.replace("eip-1", "eip-2"))) == "SignatureDoesNotMatch"
    assert refusal(replace(call, method="GET")) == "SignatureDoesNotMatch"
    assert refusal(replace(call, body=b"more")) == "SignatureDoesNotMatch"
    assert refusal(header("x-acs-action", "ReleaseEipAddress")) == "SignatureDoesNotMatch"
    assert refusal(header("x-acs-signature-nonce", "another")) == "SignatureDoesNotMatch"
    assert refusal(header("host", "vpc.example.com")) == "SignatureDoesNotMatch"
    assert refusal(header("x-acs-unsigned", "1")) == "IncompleteSignature"
    assert refusal(header("authorization", "Basic bm90OnJlYWw=")) == "IncompleteSignature"
    assert refusal(header("x-acs-security-token", "not-a-real-token")) == "InvalidSecurityToken.MismatchWithAccessKey"
    assert refusal(call, after=timedelta(minutes=16)) == "InvalidTimeStamp.Expired"
    assert refusal(call, after=-timedelta(minutes=16)) == "InvalidTimeStamp.Expired"


def test_request_without_any_signature_is_refused(server: AliyunServer) -> None:
    answer = requests.get(f"{server.endpoint}/?Action=DescribeEipAddresses", timeout=5)
    assert (answer.status_code, answer.json()["Code"]) == (400, "MissingParameter")


def test_page_has_ten_unless_it_is_said_otherwise(calls: Calls) -> None:
    def listed(**more: str) -> int:
        answer = calls.ask(VPC, "DescribeEipAddresses", RegionId=REGION, **more)
        assert answer["TotalCount"] == 11
        return len(answer["EipAddresses"]["EipAddress"])

    assert [listed(), listed(PageNumber="2"), listed(PageSize="100")] == [10, 1, 11]
    with pytest.raises(AddressError, match="InvalidParameter"):
        listed(PageSize="101")


def test_token_gets_the_answer_of_its_first_time(server: AliyunServer, calls: Calls) -> None:
    def bind(token: ClientToken, instance: str = "i-1") -> None:
        calls.order(VPC, "AssociateEipAddress", token, RegionId=REGION, AllocationId="eip-1", InstanceId=instance)

    token, kept = ClientToken(), ClientToken()
    value = kept.value
    server.account.setbacks.append(Setback("AssociateEipAddress", "QuotaExceeded"))
    for _ in range(2):
        kept.value = value
        with pytest.raises(AddressError, match="QuotaExceeded"):
            bind(kept)
    bind(token)
    bind(token)
    assert server.account.eips["eip-1"].instance == "i-1"
    with pytest.raises(AddressError, match="IdempotentParameterMismatch"):
        bind(token, "i-2")


def test_call_of_another_version_or_that_is_not_known_is_refused(calls: Calls) -> None:
    for product, action in ((ECS, "DescribeEipAddresses"), (ECS, "DeleteInstance"), (VPC, "ReleaseEipAddress")):
        with pytest.raises(AddressError, match=r"InvalidAction\.NotFound"):
            calls.ask(product, action)


def test_list_of_instances_is_a_list_in_a_string(calls: Calls) -> None:
    with pytest.raises(AddressError, match=r"InvalidInstanceIds\.Malformed"):
        calls.ask(ECS, "DescribeInstances", RegionId=REGION, InstanceIds='"i-1"')


def test_stopped_instance_may_not_come_back_unless_its_place_was_kept(server: AliyunServer, calls: Calls) -> None:
    calls.order(ECS, "StopInstance", ClientToken(), InstanceId="i-1")
    with pytest.raises(AddressError, match=r"NoStock"):
        calls.order(ECS, "StartInstance", ClientToken(), InstanceId="i-1")
