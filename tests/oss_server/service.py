"""One account in one region: which call a request is, who may make it, and what it answers. No network in here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from tests.oss_server.answers import Answer, Refusal, Request, Tree
from tests.oss_server.buckets import Buckets
from tests.oss_server.objects import Objects
from tests.oss_server.signing import Identity, check
from tests.oss_server.state import Bucket, Clock
from tests.oss_server.uploads import Uploads

Call = Callable[[Bucket, Request], Answer]


@dataclass(slots=True)
class Service:
    """``skew``: how far its clock is ahead when it looks at signatures. ``denied``: the calls that nobody may make.

    ``elsewhere``: the endpoints of buckets that lie in other regions, by their names.
    """

    region: str
    identities: dict[str, Identity]
    clock: Clock = field(default_factory=Clock)
    skew: timedelta = timedelta(0)
    denied: set[str] = field(default_factory=set)
    elsewhere: dict[str, str] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _calls: dict[str, Call] = field(default_factory=dict)
    _buckets: Buckets = field(init=False)

    def __post_init__(self) -> None:
        objects = Objects(self.buckets, self.clock)
        uploads = Uploads(objects, self.clock)
        self._buckets = buckets = Buckets(self.buckets, self.clock, self.region)
        self._calls |= {
            "PutObject": objects.put,
            "CopyObject": objects.copy,
            "GetObject": objects.get,
            "HeadObject": objects.head,
            "GetObjectMeta": objects.meta,
            "DeleteObject": objects.delete,
            "RestoreObject": objects.restore,
            "PutObjectTagging": objects.put_tagging,
            "GetObjectTagging": objects.get_tagging,
            "DeleteObjectTagging": objects.delete_tagging,
            "InitiateMultipartUpload": uploads.initiate,
            "UploadPart": uploads.put_part,
            "UploadPartCopy": uploads.copy_part,
            "CompleteMultipartUpload": uploads.complete,
            "AbortMultipartUpload": uploads.abort,
            "ListParts": uploads.list_parts,
            "ListMultipartUploads": uploads.list_uploads,
            "DeleteBucket": buckets.delete,
            "GetBucketLocation": buckets.get_location,
            "GetBucketInfo": buckets.get_info,
            "ListObjects": buckets.list_v1,
            "ListObjectsV2": buckets.list_v2,
            "ListObjectVersions": buckets.list_versions,
            "DeleteMultipleObjects": buckets.delete_many,
            "PutBucketVersioning": buckets.put_versioning,
            "GetBucketVersioning": buckets.get_versioning,
            "PutBucketLifecycle": buckets.put_lifecycle,
            "GetBucketLifecycle": buckets.get_lifecycle,
            "DeleteBucketLifecycle": buckets.delete_lifecycle,
            "InitiateBucketWorm": buckets.initiate_worm,
            "CompleteBucketWorm": buckets.complete_worm,
            "ExtendBucketWorm": buckets.extend_worm,
            "AbortBucketWorm": buckets.abort_worm,
            "GetBucketWorm": buckets.get_worm,
        }

    def answer(self, request: Request) -> Answer:
        """Do what is asked, or raise the Refusal. One call at a time: what it sees does not change meanwhile."""
        encoding = request.headers.get("content-encoding", "")
        if "aws-chunked" in encoding or request.headers.get("x-amz-content-sha256", "").startswith("STREAMING"):
            message = "aws-chunked encoding is not supported with the specified x-amz-content-sha256 value."
            raise Refusal(400, "InvalidArgument", message)
        check(request, self.identities, region=self.region, now=datetime.now(UTC) + self.skew)
        call = call_of(request)
        if call in self.denied:
            raise _denied(call)
        if endpoint := self.elsewhere.get(request.bucket):
            message = "The bucket you are attempting to access must be addressed using the specified endpoint."
            raise Refusal(403, "AccessDenied", message, ec="0003-00001403", Bucket=request.bucket, Endpoint=endpoint)
        with self._lock:
            if call == "ListBuckets":
                return self._buckets.list_buckets()
            if call == "PutBucket":
                return self._buckets.create(request)
            if request.bucket not in self.buckets:
                message = "The specified bucket does not exist."
                raise Refusal(404, "NoSuchBucket", message, ec="0015-00000101", BucketName=request.bucket)
            if call not in self._calls:
                raise Refusal(501, "NotImplemented", f"This service has no such call: {call}")
            return self._calls[call](self.buckets[request.bucket], request)


def _denied(call: str) -> Refusal:
    detail: Tree = [("NoPermissionType", "ImplicitDeny"), ("AuthAction", f"oss:{_PERMITTED_BY.get(call, call)}")]
    return Refusal(403, "AccessDenied", "You have no right to do this.", ec="0003-00000001", AccessDeniedDetail=detail)


_PERMITTED_BY = {"HeadObject": "GetObject", "ListObjectsV2": "ListObjects", "UploadPart": "PutObject"}
_BUCKET_CALLS = {
    ("GET", "bucketInfo"): "GetBucketInfo",
    ("GET", "location"): "GetBucketLocation",
    ("GET", "versioning"): "GetBucketVersioning",
    ("GET", "versions"): "ListObjectVersions",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "worm"): "GetBucketWorm",
    ("GET", "lifecycle"): "GetBucketLifecycle",
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", ""): "ListObjects",
    ("PUT", "versioning"): "PutBucketVersioning",
    ("PUT", "lifecycle"): "PutBucketLifecycle",
    ("PUT", ""): "PutBucket",
    ("POST", "delete"): "DeleteMultipleObjects",
    ("POST", "worm"): "InitiateBucketWorm",
    ("POST", "wormExtend"): "ExtendBucketWorm",
    ("POST", "wormId"): "CompleteBucketWorm",
    ("DELETE", "worm"): "AbortBucketWorm",
    ("DELETE", "lifecycle"): "DeleteBucketLifecycle",
    ("DELETE", ""): "DeleteBucket",
}
_OBJECT_CALLS = {
    ("PUT", "partNumber"): "UploadPart",
    ("PUT", "tagging"): "PutObjectTagging",
    ("PUT", ""): "PutObject",
    ("GET", "uploadId"): "ListParts",
    ("GET", "tagging"): "GetObjectTagging",
    ("GET", ""): "GetObject",
    ("HEAD", "objectMeta"): "GetObjectMeta",
    ("HEAD", ""): "HeadObject",
    ("POST", "uploads"): "InitiateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("POST", "restore"): "RestoreObject",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("DELETE", "tagging"): "DeleteObjectTagging",
    ("DELETE", ""): "DeleteObject",
}
_COPIES = {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}


def call_of(request: Request) -> str:
    """Name the call by its method and what its query says; an unknown one names itself, and is refused later."""
    if not request.bucket:
        return "ListBuckets" if request.method == "GET" else f"{request.method} /"
    calls = _OBJECT_CALLS if request.key else _BUCKET_CALLS
    for (method, subresource), call in calls.items():
        if request.method == method and (not subresource or subresource in request.query):
            return _COPIES.get(call, call) if "x-oss-copy-source" in request.headers else call
    return f"{request.method} of this"
