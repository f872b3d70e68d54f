"""A stand-in for an S3 server that costs next to nothing, so that what is measured is the client.

    python -m benchmarks.server DIRECTORY [LATE]     prints its port; answers to uploads come LATE seconds late

Bodies of more than a MiB and all parts are dropped inside the kernel; only their sizes are remembered, so they can be
looked at but not read. Smaller bodies are kept in memory (restic reads its own index back). What lies as a file below
DIRECTORY/bucket/ is served with sendfile. Signatures are accepted unread. Listings have one page.
GET /taken/bytes says how much arrived since it was asked last.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_KEPT = 1 << 20
_AT_ONCE = 4 << 20
_TAKEN = "taken/bytes"
_CHECKSUM = "x-amz-checksum-crc32"  # named in the answer, as AWS does
_DATE = "2026-01-13T03:15:00.000Z"
_HTTP_DATE = "Tue, 13 Jan 2026 03:15:00 GMT"


@dataclass(frozen=True)
class Found:
    size: int
    content: bytes | None = None
    path: Path | None = None
    metadata: tuple[tuple[str, str], ...] = ()


@dataclass
class Upload:
    """One in parts: their sizes by number."""

    metadata: tuple[tuple[str, str], ...]
    parts: dict[int, int] = field(default_factory=dict)


@dataclass
class Objects:
    """All that was sent, by ``bucket/key``, and the files that were there before."""

    root: Path
    sent: dict[str, Found] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    _arrived: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def find(self, name: str) -> Found | None:
        path = self.root / name
        if name in self.sent:
            return self.sent[name]
        return Found(path.stat().st_size, path=path) if path.is_file() else None

    def remember(self, name: str, found: Found) -> None:
        self.sent[name] = found
        with self._lock:
            self._arrived += found.size

    def take_count(self) -> int:
        """How many bytes of objects came since this was asked last."""
        with self._lock:
            count, self._arrived = self._arrived, 0
        return count

    def names(self, prefix: str) -> list[str]:
        bucket = prefix.split("/", 1)[0]
        files = (str(path.relative_to(self.root)) for path in (self.root / bucket).rglob("*") if path.is_file())
        return sorted({name for name in (*files, *list(self.sent)) if name.startswith(prefix)})


@dataclass(frozen=True)
class Request:
    method: str
    name: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def size(self) -> int:
        return int(self.headers.get("content-length", "0"))

    @property
    def plain_size(self) -> int:
        """What the body holds once the signatures between its chunks are taken out."""
        return int(self.headers.get("x-amz-decoded-content-length", self.size))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return tuple((name, value) for name, value in self.headers.items() if name.startswith("x-amz-meta-"))


class Connection:
    """Answers one client, request after request."""

    def __init__(self, peer: socket.socket, objects: Objects, late: float) -> None:
        self._peer, self._objects, self._late = peer, objects, late
        self._read = b""  # what was received and not used yet
        self._scratch = bytearray(_AT_ONCE)

    def serve(self) -> None:
        self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._peer:
            try:
                while request := self._receive_head():
                    self._answer(request)
            except ConnectionError:
                return

    def _receive_head(self) -> Request | None:
        while b"\r\n\r\n" not in self._read:
            received = self._peer.recv(64 << 10)
            if not received:
                return None
            self._read += received
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        address = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(address.query, keep_blank_values=True).items()}
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Request(method, unquote(address.path).strip("/"), query, headers)

    def _answer(self, request: Request) -> None:
        if request.headers.get("expect") == "100-continue":
            self._peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        match request.method:
            case "PUT":
                self._put(request)
            case "POST":
                self._post(request)
            case "DELETE":
                self._objects.sent.pop(request.name, None)
                self._reply(204)
            case _:
                self._get(request)

    def _put(self, request: Request) -> None:
        objects = self._objects
        if "uploadId" in request.query:
            self._drop(request.size)
            objects.uploads[request.query["uploadId"]].parts[int(request.query["partNumber"])] = request.plain_size
        elif request.plain_size > _KEPT:
            self._drop(request.size)
            objects.remember(request.name, Found(request.plain_size, metadata=request.metadata))
        else:
            body = self._take(request.size)
            if "x-amz-decoded-content-length" in request.headers:
                body = _without_signatures(body)
            if "/" in request.name:  # else it makes a bucket
                objects.remember(request.name, Found(len(body), body, metadata=request.metadata))
        time.sleep(self._late)
        checksum = request.headers.get(_CHECKSUM)
        self._reply(200, headers=_etag() | ({_CHECKSUM: checksum} if checksum else {}))

    def _post(self, request: Request) -> None:
        body = self._take(request.size)
        objects = self._objects
        if "uploads" in request.query:
            upload = f"upload-{next(objects.numbers)}"
            objects.uploads[upload] = Upload(request.metadata)
            bucket, _, key = request.name.partition("/")
            content = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            self._reply_xml("InitiateMultipartUploadResult", content)
        elif "delete" in request.query:
            for key in re.findall(r"<Key>(.*?)</Key>", body.decode()):
                objects.sent.pop(f"{request.name}/{key}", None)
            self._reply_xml("DeleteResult", "")
        else:
            done = objects.uploads.pop(request.query["uploadId"])
            objects.remember(request.name, Found(sum(done.parts.values()), metadata=done.metadata))
            self._reply_xml("CompleteMultipartUploadResult", '<ETag>"00000000000000000000000000000000-9"</ETag>')

    def _get(self, request: Request) -> None:
        if request.name == _TAKEN:
            self._reply(200, str(self._objects.take_count()).encode())
            return
        if "/" not in request.name:
            self._look_at_bucket(request)
            return
        found = self._objects.find(request.name)
        if found is None or (request.method == "GET" and found.content is None and found.path is None):
            self._reply(404, b"<Error><Code>NoSuchKey</Code></Error>", head_only=request.method == "HEAD")
            return
        start, end = _range(request, found.size)
        headers = _etag() | {"Last-Modified": _HTTP_DATE, "Accept-Ranges": "bytes", **dict(found.metadata)}
        if "range" in request.headers:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
        self._reply(206 if "range" in request.headers else 200, size=end - start, headers=headers)
        if request.method == "GET":
            self._send(found, start, end)

    def _send(self, found: Found, start: int, end: int) -> None:
        if found.path is None:
            self._peer.sendall((found.content or b"")[start:end])
            return
        with found.path.open("rb") as file:
            while start < end:
                start += os.sendfile(self._peer.fileno(), file.fileno(), start, end - start)

    def _look_at_bucket(self, request: Request) -> None:
        if "location" in request.query:
            self._reply_xml("LocationConstraint", "us-east-1")
        elif "uploads" in request.query:
            self._reply_xml("ListMultipartUploadsResult", "<IsTruncated>false</IsTruncated>")
        elif request.method == "HEAD" or not request.name:
            self._reply(200, head_only=True)
        else:
            self._list(request.name, request.query)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        entries, folders = [], set()
        for name in self._objects.names(f"{bucket}/{prefix}"):
            key = name.removeprefix(f"{bucket}/")
            below, cut, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else (key, "", "")
            found = self._objects.find(name)
            if cut:
                folders.add(prefix + below + cut)
            elif found:
                entries.append(f"<Contents><Key>{escape(key)}</Key><LastModified>{_DATE}</LastModified>"
                               f"<ETag>{_etag()['ETag']}</ETag><Size>{found.size}</Size></Contents>")  # fmt: skip
        entries += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in sorted(folders)]
        self._reply_xml("ListBucketResult", f"<Name>{bucket}</Name><IsTruncated>false</IsTruncated>{''.join(entries)}")

    def _drop(self, size: int) -> None:
        left = size - len(self._read[:size])
        self._read = self._read[size:]
        while left:
            dropped = self._peer.recv_into(self._scratch, min(left, _AT_ONCE), socket.MSG_TRUNC)
            if not dropped:
                raise ConnectionResetError
            left -= dropped

    def _take(self, size: int) -> bytes:
        while len(self._read) < size:
            received = self._peer.recv(_KEPT)
            if not received:
                raise ConnectionResetError
            self._read += received
        body, self._read = self._read[:size], self._read[size:]
        return body

    def _reply_xml(self, name: str, content: str) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{content}</{name}>'
        self._reply(200, text.encode(), headers={"Content-Type": "application/xml"})

    def _reply(
        self,
        status: int,
        body: bytes = b"",
        *,
        size: int | None = None,
        headers: dict[str, str] | None = None,
        head_only: bool = False,
    ) -> None:
        """Answer; ``size`` announces a body that somebody else sends."""
        lines = {"Date": formatdate(usegmt=True), "Server": "sink", **(headers or {})}
        if status != 204:
            lines["Content-Length"] = str(len(body) if size is None else size)
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self._peer.sendall(f"HTTP/1.1 {status} -\r\n{text}\r\n".encode() + (b"" if head_only else body))


def _etag() -> dict[str, str]:
    return {"ETag": '"00000000000000000000000000000000-9"'}  # of an upload in parts: no client compares it with an MD5


def _range(request: Request, size: int) -> tuple[int, int]:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if not found:
        return 0, size
    return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size


def _without_signatures(body: bytes) -> bytes:
    """Undo aws-chunked: size in hex, perhaps a signature, the bytes, up to a chunk of none."""
    plain = b""
    while body:
        head, _, body = body.partition(b"\r\n")
        size = int(head.split(b";")[0], 16)
        if not size:
            break
        plain, body = plain + body[:size], body[size + 2 :]
    return plain


def main() -> None:
    objects = Objects(Path(sys.argv[1]))
    late = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=Connection(peer, objects, late).serve, daemon=True).start()


if __name__ == "__main__":
    main()
