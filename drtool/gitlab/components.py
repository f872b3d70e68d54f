"""Count what a component's tarball holds, as its plain bytes pass, without remembering a single name.

Artifacts and uploads are millions of small files, and what lies in them is their owners' business: a symbolic link that
leads out is no damage here. So this reads sizes only, and whether the tar came to its own end.
"""

from __future__ import annotations

import re
from typing import Final

from drtool.errors import SetDamaged

_BLOCK: Final = 512
_ZEROS: Final = bytes(_BLOCK)
_DIRECTORY: Final = b"5"
_LONG_NAME: Final = b"LK"
_PAX: Final = b"xg"
_PAX_SIZE: Final = re.compile(rb"(?:\A|\n)\d+ size=(\d+)\n")
_LONGEST_PAX: Final = 1 << 20
_CHECK_SUM: Final = slice(148, 156)


class TarCount:
    """A Sink for a plain tar (GNU, ustar, pax). ``write`` and ``close`` raise SetDamaged, naming ``name``."""

    def __init__(self, name: str) -> None:
        self.files = 0
        self.size = 0
        self._name = name
        self._partial = b""
        self._skip = 0  # bytes of data and padding that still belong to the current member
        self._pax: bytearray | None = None
        self._pax_left = 0
        self._next_size: int | None = None  # of the next member, told by a pax header
        self._zero_blocks = 0

    def write(self, data: memoryview, /) -> None:
        at, end = 0, len(data)
        while at < end:
            if self._skip:
                taken = min(self._skip, end - at)
                self._keep_pax(data[at : at + taken])
                self._skip -= taken
            elif not self._partial and end - at >= _BLOCK:
                taken = _BLOCK
                self._read_block(bytes(data[at : at + _BLOCK]))
            else:
                taken = min(_BLOCK - len(self._partial), end - at)
                self._partial += bytes(data[at : at + taken])
                if len(self._partial) == _BLOCK:
                    block, self._partial = self._partial, b""
                    self._read_block(block)
            at += taken

    def close(self) -> None:
        if self._skip or self._partial:
            raise self._damaged("is cut off: its tar breaks off inside a member")
        if self._zero_blocks < 2:
            raise self._damaged("is cut off: its tar has no end mark")

    def _read_block(self, block: bytes) -> None:
        if block == _ZEROS:
            self._zero_blocks += 1
            return
        if self._zero_blocks:
            raise self._damaged("is no intact tar: it goes on after its end mark")
        self._finish_pax()
        if not _sums_up(block):
            raise self._damaged("is no intact tar: the checksum of a header is wrong")
        size, flag = self._size_of(block), block[156:157]
        if flag in _PAX:
            if size > _LONGEST_PAX:
                raise self._damaged(f"is no intact tar: it has a pax header of {size} bytes")
            self._pax, self._pax_left = (bytearray() if flag == b"x" else None), size
        elif flag not in _LONG_NAME:
            size = self._next_size if self._next_size is not None else size
            self._next_size = None
            if flag != _DIRECTORY and not (flag == b"\0" and block[:100].rstrip(b"\0").endswith(b"/")):
                self.files += 1
                self.size += size
        self._skip = size + -size % _BLOCK

    def _keep_pax(self, data: memoryview) -> None:
        if self._pax is not None and self._pax_left:
            kept = data[: self._pax_left]
            self._pax += kept
            self._pax_left -= len(kept)

    def _finish_pax(self) -> None:
        pax, self._pax = self._pax, None
        if pax is not None and (found := _PAX_SIZE.search(pax)):
            self._next_size = int(found[1][:19])

    def _size_of(self, block: bytes) -> int:
        field = block[124:136]
        if field[0] & 0x80:  # GNU's base 256
            return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:])
        digits = field.split(b"\0", 1)[0].strip(b" ")
        if digits.strip(b"01234567"):
            raise self._damaged("is no intact tar: a header has no size")
        return int(digits, 8) if digits else 0

    def _damaged(self, what: str) -> SetDamaged:
        return SetDamaged(f"{self._name} {what}")


def _sums_up(block: bytes) -> bool:
    digits = block[_CHECK_SUM].split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567") or not digits:
        return False
    stored = int(digits, 8)
    total = sum(block) - sum(block[_CHECK_SUM]) + 8 * ord(" ")
    # Some old implementations added signed bytes (POSIX.1-1988 left it open).
    return stored == total or stored == total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
