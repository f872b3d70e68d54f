"""Calls to AWS, each sent once, and what its refusals mean in our errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.exceptions as boto
import botocore.loaders
import botocore.session
from botocore.config import Config

from drtool.errors import AddressError, AddressTransient, ConfigError

T = TypeVar("T")

_TIMEOUT_SECONDS = 20
# The allow list of what is worth another look. The last two: the state is not what we saw, so look again.
_TRANSIENT = {
    "BandwidthLimitExceeded", "EC2ThrottledException", "InternalError", "InternalFailure", "PriorRequestNotComplete",
    "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "RequestTimeout", "ServiceUnavailable",
    "SlowDown", "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "Unavailable",
    "IncorrectInstanceState", "Resource.AlreadyAssociated",
}  # fmt: skip
_TRANSIENT_STATUS = {408, 429, 500, 502, 503, 504}
_STATE_CHANGED = ("do not match the current values", "but it was not found", "but it already exists")
_ADVICE = {
    "AuthFailure": "Correct the access key id and the secret of this address in drtool.toml.",
    "ExpiredToken": "The session token has expired: fetch a new one, or let the machine's role give them.",
    "InvalidClientTokenId": "Correct access_key_id in drtool.toml: AWS does not know it.",
    "OptInRequired": "Subscribe the account to the service, or take another account's keys.",
    "RequestExpired": "Set this host's clock.",
    "SignatureDoesNotMatch": "Correct secret_access_key in drtool.toml: it does not belong to the access key id.",
}
_NOT_FOUND = "Correct the id in drtool.toml or on the command line, or the region: AWS looks in one region only."
# These never pass by themselves, whatever botocore derives them from.
_HOPELESS = (boto.SSLError, boto.InvalidProxiesConfigError)
_NO_ANSWER = (boto.ConnectionError, boto.HTTPClientError, boto.ConnectionClosedError)


def client(
    service: str,
    where: str,
    *,
    region: str | None,
    endpoint: str | None,
    access_key_id: str | None,
    secret_access_key: str | None,
    session_token: str | None,
    ca_bundle: Path | None,
) -> Any:
    """Make a client that sends each call once. Without keys it takes what boto3 finds: environment, profile, role."""
    if (access_key_id is None) != (secret_access_key is None):
        raise ConfigError(f"{where}: an access key id and its secret go together, and one is missing")
    config = Config(
        connect_timeout=_TIMEOUT_SECONDS,
        read_timeout=_TIMEOUT_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 1},  # we look before we send anything again
    )
    try:
        core = botocore.session.Session()
        core.register_component("data_loader", _descriptions())
        session = boto3.session.Session(
            botocore_session=core,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            aws_session_token=session_token,
            region_name=region,
        )
        if service == "ec2" and not session.region_name:
            raise ConfigError(f"{where}: no region", hint="Set region in drtool.toml: an elastic IP is in one region.")
        chosen: Any = session.client  # chosen by a variable, which the stubs know nothing of
        return chosen(service, endpoint_url=endpoint, verify=str(ca_bundle) if ca_bundle else None, config=config)
    except (boto.BotoCoreError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None


@functools.cache
def _descriptions() -> botocore.loaders.Loader:
    """What AWS offers, in files of megabytes: read once for all clients."""
    return botocore.loaders.create_loader()


def ask(where: str, call: Callable[[], T], *, needs: str) -> T:
    """Send one call. ``needs``: the action that a policy has to allow for it."""
    try:
        return call()
    except boto.ClientError as error:
        # Not "from": nobody needs the trace through boto3, and what a client holds is not for reports.
        raise _refusal(where, error, needs) from None
    except _HOPELESS as error:
        raise AddressError(f"{where}: {_line(error)}", hint="Check endpoint and certificates.") from None
    except _NO_ANSWER as error:
        raise AddressTransient(f"{where}: no answer from AWS: {_line(error)}", code=type(error).__name__) from None
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
        raise AddressError(
            f"{where}: {_line(error)}",
            code=type(error).__name__,
            hint="Give keys in drtool.toml or the environment, or a role to this machine.",
        ) from None
    except boto.BotoCoreError as error:
        raise AddressError(f"{where}: {_line(error)}", code=type(error).__name__) from None


def _refusal(where: str, error: boto.ClientError, needs: str) -> AddressError:
    answer: Any = error.response
    said, status = answer.get("Error", {}), int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code, message = str(said.get("Code", "")) or str(status), str(said.get("Message", ""))
    text = f"{where}: {code}: {_line(message)}"
    if code in _TRANSIENT or status in _TRANSIENT_STATUS:
        return AddressTransient(text, code=code)
    if code == "InvalidChangeBatch" and any(words in message for words in _STATE_CHANGED):
        return AddressTransient(text, code=code)
    if code.endswith((".NotFound", ".Malformed")) or code in ("NoSuchHostedZone", "InvalidInstanceID"):
        return AddressError(text, code=code, hint=_NOT_FOUND)
    if code in _ADVICE:
        return AddressError(text, code=code, hint=_ADVICE[code])
    if status in (401, 403):
        return AddressError(text, code=code, hint=f"Let the policy of these credentials allow {needs}.")
    return AddressError(text, code=code)


def _line(what: object) -> str:
    """One line of at most 200 characters: a refusal for want of rights carries a kilobyte of encoded reasons."""
    return " ".join(str(what).split())[:200]
