"""What gitaly-backup writes per repository, judged as it passes.

A bundle is a text header, an empty line and a pack; a pack ends with the digest of all that came before it
(git's gitformat-bundle and gitformat-pack). So a bundle that was cut or changed shows without unpacking it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from drtool.errors import SetDamaged

_SIGNATURES: Final = (b"# v2 git bundle", b"# v3 git bundle")
_SHA256: Final = b"@object-format=sha256"
_LONGEST_LINE: Final = 64 << 10


class BundleCheck:
    """A Sink for one bundle. ``write`` and ``close`` raise SetDamaged, naming the member."""

    def __init__(self, name: str) -> None:
        self.refs = 0
        self._name = name
        self._line = b""
        self._lines = 0
        self._in_header = True
        self._digest = hashlib.sha1(usedforsecurity=False)
        self._tail = b""  # may be the digest at the end, so it is not part of what is digested yet
        self._packed = 0

    def write(self, data: memoryview, /) -> None:
        rest = bytes(data)
        while rest and self._in_header:
            line, found, rest = rest.partition(b"\n")
            self._line += line
            if len(self._line) > _LONGEST_LINE:
                raise self._damaged("is no bundle")
            if found:
                self._end_line()
        if rest:
            self._take(rest)

    def close(self) -> None:
        if self._in_header:
            raise self._damaged("is cut off inside its header")
        if not self._packed:
            raise self._damaged("holds no pack")
        if self._tail != self._digest.digest():
            raise self._damaged("is cut off or changed: its pack's checksum is wrong")

    def _end_line(self) -> None:
        line, self._line = self._line, b""
        self._lines += 1
        if self._lines == 1:
            if line not in _SIGNATURES:
                raise self._damaged("is no bundle")
        elif not line:
            self._in_header = False
        elif line == _SHA256:
            self._digest = hashlib.sha256()
        elif not line.startswith((b"@", b"-")):
            self.refs += 1

    def _take(self, data: bytes) -> None:
        if not self._packed and not b"PACK".startswith(data[:4]):
            raise self._damaged("holds no pack")
        self._packed += len(data)
        joined = self._tail + data
        size = self._digest.digest_size
        self._digest.update(joined[:-size])
        self._tail = joined[-size:]

    def _damaged(self, what: str) -> SetDamaged:
        return SetDamaged(f"{self._name} {what}")
