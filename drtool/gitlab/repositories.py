"""What gitaly-backup writes per repository, judged as it passes.

A bundle is a text header, an empty line and a pack; a pack ends with the digest of all that came before it
(git's gitformat-bundle and gitformat-pack). So a bundle that was cut or changed shows without unpacking it. The refs
that a repository had stand beside it, one ``<object id> <name>`` a line, HEAD first.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from drtool.errors import SetDamaged

_SIGNATURES: Final = (b"# v2 git bundle\n", b"# v3 git bundle\n")
_SIGNATURE_SIZE: Final = len(_SIGNATURES[0])
_END_OF_HEADER: Final = b"\n\n"
_SHA256: Final = b"@object-format=sha256"
_FILTER: Final = b"@filter="
_LONGEST_LINE: Final = 64 << 10
_REFS: Final = re.compile(rb"(?:(?:[0-9a-f]{40}|[0-9a-f]{64}) [^\n]+\n)*+")
_HEAD: Final = b"HEAD"

Agreement = Literal["same", "moved", "foreign"]


@dataclass(frozen=True, slots=True)
class RefSet:
    """All refs of a repository, HEAD not counted. ``digest`` does not depend on the order they came in."""

    count: int
    digest: str
    head: bytes = b""

    @classmethod
    def of(cls, lines: bytes) -> RefSet:
        """Read ``<object id> <name>`` lines, each with its newline."""
        named = [line.partition(b" ")[::2] for line in lines.split(b"\n") if line]
        head = next((oid for oid, name in named if name == _HEAD), b"")
        refs = sorted((name, oid) for oid, name in named if name != _HEAD)
        digest = hashlib.sha256(b"".join(b"%b %b\n" % (oid, name) for name, oid in refs))
        return cls(len(refs), digest.hexdigest(), head)


NO_REFS: Final = RefSet.of(b"")


class BundleCheck:
    """A Sink for one bundle. ``write`` and ``close`` raise SetDamaged, naming the member.

    ``heads`` are its refs as lines; ``prerequisites`` counts the commits that must be there before. ``is_empty`` is
    what gitaly-backup leaves behind when an increment had nothing to add: a header, and nothing else.
    """

    def __init__(self, name: str) -> None:
        self.heads = b""
        self.prerequisites = 0
        self.object_format = "sha1"
        self._name = name
        self._header: bytearray | None = bytearray()
        self._digest = hashlib.sha1(usedforsecurity=False)
        self._tail = b""  # may be the digest at the end, so it is not part of what is digested yet
        self._packed = 0

    @property
    def is_empty(self) -> bool:
        return self._header is None and not self._packed

    def write(self, data: memoryview, /) -> None:
        if self._header is None:
            self._take(data)
            return
        searched = max(len(self._header) - 1, 0)
        self._header += data
        end = self._header.find(_END_OF_HEADER, searched)
        if len(self._header) > _SIGNATURE_SIZE and not self._header.startswith(_SIGNATURES):
            raise self._damaged("is no bundle")
        if end >= 0:
            header, rest = bytes(self._header[: end + 1]), bytes(self._header[end + len(_END_OF_HEADER) :])
            self._header = None
            self._read_header(header)
            if rest:
                self._take(memoryview(rest))
        elif len(self._header) - self._header.rfind(b"\n") > _LONGEST_LINE:
            raise self._damaged("is no bundle: a line of its header has no end")

    def close(self) -> None:
        if self._header is not None:
            raise self._damaged("is cut off inside its header")
        if self.is_empty and not self.heads:
            return
        if self.is_empty:
            raise self._damaged("holds no pack")
        if self._tail != self._digest.digest():
            raise self._damaged("is cut off or changed: its pack's checksum is wrong")

    def _read_header(self, header: bytes) -> None:
        heads = []
        for line in header.split(b"\n")[1:-1]:
            if line == _SHA256:
                self._digest, self.object_format = hashlib.sha256(), "sha256"
            elif line.startswith(_FILTER):
                raise self._damaged("is a partial bundle: objects were left out of it")
            elif line.startswith(b"-"):
                self.prerequisites += 1
            elif not line.startswith(b"@"):
                heads.append(line + b"\n")
        self.heads = b"".join(heads)

    def _take(self, data: memoryview) -> None:
        if not self._packed and not b"PACK".startswith(bytes(data[:4])):
            raise self._damaged("holds no pack")
        self._packed += len(data)
        size = self._digest.digest_size
        if len(data) >= size:
            self._digest.update(self._tail)
            self._digest.update(data[:-size])
            self._tail = bytes(data[-size:])
        else:
            joined = self._tail + data
            self._digest.update(joined[:-size])
            self._tail = joined[-size:]

    def _damaged(self, what: str) -> SetDamaged:
        return SetDamaged(f"{self._name} {what}")


class RefsCheck:
    """A Sink for the ``.refs`` beside a bundle. ``close`` raises SetDamaged, naming the member.

    Holds all of it until then: one repository's refs, some 70 bytes each.
    """

    def __init__(self, name: str) -> None:
        self.refs = b""
        self._name = name
        self._content = bytearray()

    def write(self, data: memoryview, /) -> None:
        self._content += data

    def close(self) -> None:
        self.refs = bytes(self._content)
        self._content.clear()
        end = _REFS.match(self.refs)
        good = end.end() if end else 0
        if good < len(self.refs):
            number = self.refs.count(b"\n", 0, good) + 1
            raise SetDamaged(f"{self._name} is no list of refs: line {number} is not understood")


class Kept:
    """A Sink for a small member, held whole; SetDamaged for one that is not small."""

    def __init__(self, name: str, longest: int = 1 << 20) -> None:
        self.content = b""
        self._name = name
        self._longest = longest

    def write(self, data: memoryview, /) -> None:
        self.content += data
        if len(self.content) > self._longest:
            raise SetDamaged(f"{self._name} is longer than {self._longest} bytes")

    def close(self) -> None:
        pass


class Then:
    """A Sink that tells when another one is through."""

    def __init__(self, inner: BundleCheck | RefsCheck | Kept, action: Callable[[], object]) -> None:
        self.write = inner.write
        self._inner = inner
        self._action = action

    def close(self) -> None:
        self._inner.close()
        self._action()


def agree(heads: bytes, refs: bytes, *, is_increment: bool) -> Agreement:
    """Compare a bundle's refs with those that were listed for it; an increment's bundle holds only what changed.

    Gitaly lists the refs first and bundles them afterwards (16 to 18), so a push in between moves a few of them.
    Where hardly any is as it was listed, the one does not belong to the other.
    """
    bundled, listed = set(heads.split(b"\n")) - {b""}, set(refs.split(b"\n")) - {b""}
    common = bundled & listed
    if bundled == listed or (is_increment and bundled <= listed):
        return "same"
    most = len(bundled if is_increment else listed)
    return "moved" if common and 2 * len(common) >= most else "foreign"
