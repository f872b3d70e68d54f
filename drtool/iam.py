"""The smallest rights for each kind of host, in the words of each cloud. Pure: settings in, documents out.

backup: puts and reads; deletes nothing and changes no setting. prune: deletes besides. restore: reads alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Cloud = Literal["aws", "oss", "spaces"]
Role = Literal["backup", "prune", "restore"]
ROLES: tuple[Role, ...] = ("backup", "prune", "restore")
Document = dict[str, Any]

_AWS_READ = ["s3:GetObject"]
_AWS_WRITE = ["s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:PutObject"]
_AWS_LOCK = ["s3:GetObjectRetention", "s3:PutObjectRetention"]
_AWS_SETTINGS = [
    "s3:GetBucketObjectLockConfiguration", "s3:GetBucketPolicy", "s3:GetBucketPublicAccessBlock",
    "s3:GetBucketVersioning", "s3:GetEncryptionConfiguration", "s3:GetLifecycleConfiguration",
]  # fmt: skip
# Nothing above allows these. An explicit refusal also outdoes what another policy of the same role allows by mistake.
_AWS_NEVER = [
    "s3:BypassGovernanceRetention", "s3:DeleteBucket", "s3:DeleteBucketPolicy", "s3:DeleteObjectVersion",
    "s3:PutBucketAcl", "s3:PutBucketObjectLockConfiguration", "s3:PutBucketPolicy", "s3:PutBucketPublicAccessBlock",
    "s3:PutBucketVersioning", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration", "s3:PutObjectAcl",
    "s3:PutObjectLegalHold", "s3:PutReplicationConfiguration",
]  # fmt: skip
_OSS_READ = ["oss:GetObject"]
_OSS_WRITE = ["oss:AbortMultipartUpload", "oss:ListParts", "oss:PutObject"]
_OSS_SETTINGS = [
    "oss:GetBucketAcl", "oss:GetBucketEncryption", "oss:GetBucketLifecycle", "oss:GetBucketPolicy",
    "oss:GetBucketVersioning", "oss:GetBucketWorm",
]  # fmt: skip
_OSS_NEVER = [
    "oss:AbortBucketWorm", "oss:CompleteBucketWorm", "oss:DeleteBucket", "oss:DeleteBucketEncryption",
    "oss:DeleteBucketLifecycle", "oss:DeleteBucketPolicy", "oss:DeleteObjectVersion", "oss:ExtendBucketWorm",
    "oss:InitiateBucketWorm", "oss:PutBucketAcl", "oss:PutBucketEncryption", "oss:PutBucketLifecycle",
    "oss:PutBucketPolicy", "oss:PutBucketReplication", "oss:PutBucketVersioning", "oss:PutObjectAcl",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """What the rights are for. ``prefix`` is empty or ends in "/"; ``object_lock``: objects are locked one by one."""

    bucket: str
    instance: str
    prefix: str = ""
    region: str | None = None
    kms_key_id: str | None = None
    object_lock: bool = False

    @property
    def folder(self) -> str:
        return f"{self.prefix}{self.instance}/"


@dataclass(frozen=True, slots=True)
class Rights:
    """A document as the cloud takes it, and what it cannot say, for people."""

    role: Role
    document: Document
    notes: tuple[str, ...] = ()


def rights_for(cloud: Cloud, role: Role, target: Target) -> Rights:
    """Write what a host of this role may do at most."""
    match cloud:
        case "aws":
            return _aws(role, target)
        case "oss":
            return _oss(role, target)
        case "spaces":
            return _spaces(role, target)


def _aws(role: Role, target: Target) -> Rights:
    partition = _partition(target.region)
    # A bucket may be named by the ARN of its access point, whose objects have /object in theirs.
    point = target.bucket.startswith("arn:")
    bucket = target.bucket if point else f"arn:{partition}:s3:::{target.bucket}"
    everything = f"{bucket}/object/*" if point else f"{bucket}/*"
    objects = f"{everything[:-1]}{target.folder}*"
    writes = role != "restore"
    allowed = [*_AWS_READ, *(_AWS_WRITE if writes else ()), *(_AWS_LOCK if writes and target.object_lock else ())]
    if role == "prune":
        allowed.append("s3:DeleteObject")
    # IfExists: a question for one object that is missing names no prefix, and would be answered 403 instead of 404.
    listing = {"StringLikeIfExists": {"s3:prefix": [f"{target.folder}*"]}}
    statements = [
        _statement("Objects", "Allow", allowed, objects),
        _statement("Names", "Allow", ["s3:ListBucket"], bucket, listing),
    ]
    if writes:
        statements += [
            _statement("Uploads", "Allow", ["s3:ListBucketMultipartUploads"], bucket),
            _statement("Settings", "Allow", _AWS_SETTINGS, bucket),
        ]
    if target.kms_key_id:
        key = target.kms_key_id
        arn = key if key.startswith("arn:") else f"arn:{partition}:kms:{target.region or '*'}:*:key/{key}"
        calls = ["kms:Decrypt", *(["kms:GenerateDataKey"] if writes else ())]
        statements.append(_statement("Key", "Allow", calls, arn))
    never = list(_AWS_NEVER)
    if role != "prune":
        never.append("s3:DeleteObject")
    if role == "restore":
        never.append("s3:PutObject")
    statements.append(_statement("Never", "Deny", sorted(never), [bucket, everything]))
    if writes:
        foreign_key = {"Null": {"s3:x-amz-server-side-encryption-customer-algorithm": "false"}}
        statements.append(_statement("NoKeyOfTheirOwn", "Deny", ["s3:PutObject"], everything, foreign_key))
    return Rights(role, {"Version": "2012-10-17", "Statement": statements}, _aws_notes(role, target))


def _aws_notes(role: Role, target: Target) -> tuple[str, ...]:
    notes = []
    if role == "backup":
        notes.append(
            "Who may put may put over what is there. Turn on versioning: then what was there stays as an older version."
        )
        if not target.object_lock:
            notes.append("Without object_lock nothing but these rights protects the backups: the account's owner can.")
    if role == "prune":
        notes.append(
            "In a versioned bucket what is pruned is hidden. A lifecycle rule for noncurrent versions removes it."
        )
    return tuple(notes)


def _oss(role: Role, target: Target) -> Rights:
    bucket = f"acs:oss:*:*:{target.bucket}"
    objects, everything = f"{bucket}/{target.folder}*", f"{bucket}/*"
    writes = role != "restore"
    allowed = [*_OSS_READ, *(_OSS_WRITE if writes else ())]
    if role == "prune":
        allowed.append("oss:DeleteObject")
    statements = [
        _oss_statement("Allow", allowed, [objects]),
        _oss_statement("Allow", ["oss:ListObjects", *(["oss:ListMultipartUploads"] if writes else ())], [bucket]),
    ]
    if writes:
        statements.append(_oss_statement("Allow", _OSS_SETTINGS, [bucket]))
    never = list(_OSS_NEVER)
    if role != "prune":
        never.append("oss:DeleteObject")
    if role == "restore":
        never.append("oss:PutObject")
    statements.append(_oss_statement("Deny", sorted(never), [bucket, everything]))
    notes = ["The names of all objects in the bucket can be listed, so keep nothing else in it."]
    if role == "backup":
        notes.append(
            "Who may put may put over what is there. A locked retention policy of the bucket (worm = true), or"
            " versioning, keeps what was there."
        )
    return Rights(role, {"Version": "1", "Statement": statements}, tuple(notes))


def _spaces(role: Role, target: Target) -> Rights:
    permission = "read" if role == "restore" else "readwrite"
    document = {
        "name": f"drtool-{role}-{target.instance}",
        "grants": [{"bucket": target.bucket, "permission": permission}],
    }
    notes = ["A key of Spaces is for a whole bucket: it cannot be limited to one instance's prefix."]
    if role == "restore":
        return Rights(role, document, tuple(notes))
    notes.append(
        "readwrite includes deleting and replacing, so this key can delete every backup in the bucket: Spaces has no"
        " smaller one that can write, no object lock, and no bucket policy beside a limited key."
    )
    notes.append(
        "Turn on versioning, keep a second copy in a store that locks ([[instance.copies]]), and let another host"
        " make that copy with keys that this host does not have."
    )
    return Rights(role, document, tuple(notes))


def _partition(region: str | None) -> str:
    if region and region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region and region.startswith("us-gov-") else "aws"


def _statement(
    sid: str, effect: str, actions: Sequence[str], resource: str | list[str], condition: Document | None = None
) -> Document:
    made: Document = {"Sid": sid, "Effect": effect, "Action": [*actions], "Resource": resource}
    return {**made, "Condition": condition} if condition else made


def _oss_statement(effect: str, actions: Sequence[str], resources: list[str]) -> Document:
    return {"Effect": effect, "Action": [*actions], "Resource": resources}
