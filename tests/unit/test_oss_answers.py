"""What OSS answers mean, told by the answers alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from oss2.models import (
    AbortMultipartUpload,
    LifecycleExpiration,
    LifecycleRule,
    StorageTransition,
    Tagging,
    TaggingRule,
)

from drtool.errors import BucketMissing, ObjectMissing, StoreAccessDenied, StoreError, StoreFull, StoreTransient
from drtool.stores.lifecycle import LifecycleEffects
from drtool.stores.oss_answers import (
    AlreadyThawing,
    Frozen,
    NotSet,
    PastTheEnd,
    Refused,
    Retained,
    UploadGone,
    WormState,
    error_from_answer,
    frozen_error,
    lifecycle_effects,
    thaw_state,
    worm_state,
)


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("NoSuchBucket", 404, BucketMissing),
        ("NoSuchKey", 404, ObjectMissing),
        ("", 404, ObjectMissing),  # a HEAD whose x-oss-err somebody in between took away
        ("NoSuchUpload", 404, UploadGone),
        ("NoSuchLifecycle", 404, NotSet),
        ("NoSuchWORMConfiguration", 404, NotSet),
        ("SomethingElseMissing", 404, StoreError),
        ("AccessDenied", 403, StoreAccessDenied),
        ("", 403, StoreAccessDenied),
        ("", 401, StoreAccessDenied),
        ("InvalidAccessKeyId", 403, StoreAccessDenied),
        ("SignatureDoesNotMatch", 403, StoreAccessDenied),
        ("RequestTimeTooSkewed", 403, StoreAccessDenied),
        ("SecurityTokenExpired", 403, StoreAccessDenied),
        ("InDebt", 403, StoreAccessDenied),
        ("SecondLevelDomainForbidden", 403, StoreError),
        ("FileImmutable", 409, Retained),
        ("FileAlreadyExists", 409, Refused),
        ("PreconditionFailed", 412, Refused),
        ("", 412, Refused),
        ("InvalidRange", 416, PastTheEnd),
        ("", 416, PastTheEnd),
        ("InvalidObjectState", 403, Frozen),
        ("RestoreAlreadyInProgress", 409, AlreadyThawing),
        ("QuotaExceeded", 403, StoreFull),
        ("", 507, StoreFull),
        ("InternalError", 500, StoreTransient),
        ("ServiceUnavailable", 503, StoreTransient),
        ("RequestTimeout", 400, StoreTransient),
        ("InvalidDigest", 400, StoreTransient),
        ("UploadTrafficRateLimitExceeded", 503, StoreTransient),
        ("", 502, StoreTransient),
        ("", 429, StoreTransient),
        ("", 408, StoreTransient),
        ("PublicEndpointForbidden", 400, StoreError),
        ("InvalidArgument", 400, StoreError),
        ("EntityTooLarge", 400, StoreError),
        ("NotImplemented", 501, StoreError),
    ],
)
def test_answer_has_one_meaning(code: str, status: int, expected: type[StoreError]) -> None:
    error = error_from_answer("oss://backups/one", status, {"Code": code, "Message": "as they say"}, request_id="5C3D")

    assert type(error) is expected
    assert str(error) == f"oss://backups/one: {code or status}: as they say (request 5C3D)"


@pytest.mark.parametrize(
    ("details", "advice"),
    [
        ({"Code": "InvalidAccessKeyId"}, "access_key_id"),
        ({"Code": "SignatureDoesNotMatch"}, "secret"),
        ({"Code": "RequestTimeTooSkewed"}, "clock"),
        ({"Code": "AccessDenied"}, "policy"),
        ({"Code": "AccessDenied", "Endpoint": "oss-cn-beijing.aliyuncs.com"}, "oss-cn-beijing.aliyuncs.com"),
        ({"Code": "AccessDenied", "Endpoint": "oss-cn-beijing-internal.aliyuncs.com"}, 'region = "cn-beijing"'),
        ({"Code": "AccessDenied", "Endpoint": "oss-us-west-1.aliyuncs.com"}, 'region = "us-west-1"'),
        ({"Code": "AccessDenied", "Endpoint": "somewhere.example.com"}, 'set endpoint = "somewhere.example.com" in'),
        ({"Code": "InvalidArgument", "Message": "Invalid signing region in Authorization header."}, "region"),
        ({"Code": "NoSuchBucket"}, "region or endpoint"),
        ({"Code": "FileImmutable"}, "retention policy"),
        ({"Code": "InvalidObjectState"}, "Thaw"),
    ],
)
def test_refusal_says_what_to_do_next(details: dict[str, str], advice: str) -> None:
    assert advice in error_from_answer("oss://backups/one", 403, details).hint


def test_throttled_answer_is_transient_by_whatever_name() -> None:
    assert isinstance(
        error_from_answer("here", 403, {"Code": "Odd"}, headers={"x-oss-qos-delay-time": "20"}), StoreTransient
    )


def test_answer_without_any_words_still_has_a_status() -> None:
    assert str(error_from_answer("here", 403, {})) == "here: 403: "


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "readable"),
        ({"x-oss-storage-class": "Standard"}, "readable"),
        ({"x-oss-storage-class": "IA"}, "readable"),
        ({"x-oss-storage-class": "Archive"}, "frozen"),
        ({"x-oss-storage-class": "ColdArchive", "x-oss-restore": 'ongoing-request="true"'}, "thawing"),
        (
            {
                "x-oss-storage-class": "DeepColdArchive",
                "x-oss-restore": 'ongoing-request="false", expiry-date="Sun, 22 Nov 2026 08:12:33 GMT"',
            },
            "readable",
        ),
    ],
)
def test_thaw_state_is_read_from_the_headers(headers: dict[str, str], expected: str) -> None:
    assert thaw_state(headers) == expected


def test_frozen_object_says_how_long_to_wait() -> None:
    frozen = frozen_error("oss://backups/sets/a/one", {"x-oss-storage-class": "DeepColdArchive"})
    thawing = frozen_error(
        "oss://backups/one", {"x-oss-storage-class": "Archive", "x-oss-restore": 'ongoing-request="true"'}
    )

    assert (str(frozen), frozen.hint) == (
        "oss://backups/sets/a/one is frozen in DeepColdArchive",
        "Thaw the set (`ossutil restore -r oss://backups/sets/a/`), wait, and run this again:"
        " that takes 12 to 48 hours.",
    )
    assert (str(thawing), thawing.hint) == (
        "oss://backups/one is being thawed from Archive",
        "Wait, and run this again: that takes about a minute.",
    )


def test_only_a_locked_retention_policy_counts_as_a_lock() -> None:
    created = "2026-01-13T03:15:00.000Z"

    assert worm_state("Locked", 30, created) == WormState("locked", timedelta(days=30))
    assert worm_state("InProgress", 30, created) == WormState(
        "in progress", timedelta(days=30), datetime(2026, 1, 14, 3, 15, tzinfo=UTC)
    )
    assert worm_state("Expired", 30, created) == WormState("none")


def _rule(name: str, prefix: str, **does: object) -> LifecycleRule:
    return LifecycleRule(name, prefix, **does)


def test_rules_are_judged_by_what_they_do_to_us() -> None:
    tagged = TaggingRule()
    tagged.add("throw", "away")
    rules = [
        _rule("tidy", "", abort_multipart_upload=AbortMultipartUpload(days=3)),
        _rule("everything", "", expiration=LifecycleExpiration(days=365)),
        _rule("inside", "gitlab/sets/", expiration=LifecycleExpiration(days=30)),
        _rule("elsewhere", "logs/", expiration=LifecycleExpiration(days=1)),
        _rule("off", "", status=LifecycleRule.DISABLED, expiration=LifecycleExpiration(days=1)),
        _rule("for tags", "", tagging=Tagging(tagged), expiration=LifecycleExpiration(days=1)),
        _rule("cheaper", "gitlab/", storage_transitions=[StorageTransition(days=30, storage_class="IA")]),
        _rule("cold", "git", storage_transitions=[StorageTransition(days=90, storage_class="ColdArchive")]),
    ]

    assert lifecycle_effects(rules, "gitlab/") == LifecycleEffects(True, ("everything", "inside"), ("cold",))
    assert lifecycle_effects([], "gitlab/") == LifecycleEffects()


def test_rule_that_tidies_only_a_part_of_ours_does_not_tidy() -> None:
    rules = [_rule("narrow", "gitlab/sets/2026", abort_multipart_upload=AbortMultipartUpload(days=3))]

    assert not lifecycle_effects(rules, "gitlab/").aborts_uploads
