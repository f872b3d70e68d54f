"""What goes in and out of the service, and the XML between: plain, without a namespace, as OSS writes it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from xml.etree import ElementTree

Tree = str | Sequence[tuple[str, "Tree"]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request, routed: no ``bucket`` in a service call, no ``key`` in a bucket call. Header names in lower case."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Answer:
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Refusal(Exception):
    """What OSS answers instead: becomes ``<Error>``, or the header x-oss-err where there is no body."""

    def __init__(self, status: int, code: str, message: str = "", *, ec: str = "", **details: Tree) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status, self.code, self.message, self.ec, self.details = status, code, message or code, ec, details

    def body(self, request_id: str, host: str) -> bytes:
        fields: dict[str, Tree] = {
            "Code": self.code,
            "Message": self.message,
            "RequestId": request_id,
            "HostId": host,
            "EC": self.ec,
        }
        return xml("Error", [*(fields | self.details).items()])


def xml(name: str, tree: Tree) -> bytes:
    text: bytes = ElementTree.tostring(_element(name, tree), encoding="utf-8", xml_declaration=True)
    return text


def xml_answer(name: str, tree: Tree, **headers: str) -> Answer:
    return Answer(200, {"content-type": "application/xml", **headers}, xml(name, tree))


def _element(name: str, tree: Tree) -> ElementTree.Element:
    element = ElementTree.Element(name)
    if isinstance(tree, str):
        element.text = tree
    else:
        element.extend(_element(child, below) for child, below in tree)
    return element


def parse(request: Request, root: str) -> ElementTree.Element:
    """Return the body's tree, or refuse what is not XML or something else than was due."""
    try:
        tree = ElementTree.fromstring(request.body)
    except ElementTree.ParseError as error:
        raise Refusal(400, "MalformedXML", "The XML you provided was not well-formed.") from error
    if tree.tag != root:
        raise Refusal(400, "MalformedXML", f"{root} was due, not {tree.tag}.")
    return tree


def number(request: Request, name: str, default: int, *, least: int = 1, most: int = 1000) -> int:
    text = request.query.get(name, "") or str(default)
    if not text.isdecimal() or not least <= int(text) <= most:
        raise Refusal(400, "InvalidArgument", f"{name} must be {least} to {most}.", ArgumentName=name)
    return int(text)


def check_md5(request: Request, *, required: bool = False) -> None:
    claimed = request.headers.get("content-md5")
    if claimed is None:
        if required:
            raise Refusal(400, "MissingArgument", "Missing Some Required Arguments.", ArgumentName="Content-MD5")
        return
    if base64.b64encode(hashlib.md5(request.body).digest()).decode() != claimed:
        raise Refusal(400, "InvalidDigest", "The Content-MD5 you specified was invalid.")


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def http_date(moment: datetime) -> str:
    return format_datetime(moment.astimezone(UTC), usegmt=True)
