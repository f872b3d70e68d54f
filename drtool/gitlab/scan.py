"""Judge a tar or gzip stream while it passes, without holding more than a block of it.

Whoever copies an archive feeds each chunk here first and forwards it only afterwards: a header that must not be
unpacked stops the copy before the unpacking side has all of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast

from isal import isal_zlib

from drtool.errors import SetDamaged, UnsafeMember

BLOCK: Final = 512
RECORD: Final = 20 * BLOCK
"""What tar reads and writes at once unless told otherwise, and fills up with zeros."""
_ZEROS = bytes(BLOCK)
# Long names and pax records are held in memory; real ones are a few hundred bytes.
_LONGEST_EXTENSION = 1 << 20
_INFLATED_AT_ONCE = 1 << 17  # larger blocks are given back to the kernel at once, and the page faults show
_NotIntact = cast(type[Exception], isal_zlib.error)  # its type hints call the class an instance
_RESERVED_FLAGS = 0xE0  # RFC 1952: must be zero, and gzip refuses to go on if they are not

Kind = Literal["file", "directory", "symlink", "hardlink"]
_KINDS: dict[bytes, Kind] = {b"0": "file", b"\0": "file", b"7": "file", b"5": "directory", b"2": "symlink",
                             b"1": "hardlink"}  # fmt: skip
_SPECIAL = {b"3": "a character device", b"4": "a block device", b"6": "a fifo"}


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar. ``name`` has neither a leading ``./`` nor a trailing ``/``; the root itself is ``.``.

    ``offset`` is where its data begins in the archive, ``target`` what a link points to, as written.
    """

    name: str
    offset: int
    size: int
    kind: Kind
    mode: int = 0
    mtime: int = 0
    target: str = ""


class Sink(Protocol):
    """Takes a member's data as it passes. ``close`` comes only after all of it; a cut archive never closes a sink."""

    def write(self, data: memoryview, /) -> object: ...

    def close(self) -> None: ...


class TarScanner:
    """Read GNU, ustar and pax archives in chunks of any size; ``members`` grows as headers pass.

    ``feed`` and ``close`` raise SetDamaged for a broken structure, and UnsafeMember for what must never be unpacked:
    names or links that leave the archive's directory, devices, and one name given twice. After that the scanner is
    of no more use. ``watch`` chooses, member by member, who gets the data.
    """

    def __init__(self, watch: Callable[[Member], Sink | None] | None = None) -> None:
        self.members: list[Member] = []
        self.ended_at: int | None = None  # where the end mark ends, once it passed; only zeros may follow
        self._watch = watch
        self._fed = 0
        self._partial = b""
        self._left = 0  # bytes of data that still belong to the current member
        self._padding = 0
        self._sink: Sink | None = None
        self._zero_blocks = 0
        self._extension: _Extension | None = None
        self._overrides: dict[str, str] = {}
        self._defaults: dict[str, str] = {}
        self._names: dict[str, Kind] = {}

    @property
    def size(self) -> int:
        """Bytes fed so far."""
        return self._fed

    def feed(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        at, end = 0, len(view)
        while at < end:
            if self._left:
                taken = min(self._left, end - at)
                self._take(view[at : at + taken])
            elif self._padding:
                taken = min(self._padding, end - at)
                self._padding -= taken
            else:
                taken = min(BLOCK - len(self._partial), end - at)
                block = self._partial + bytes(view[at : at + taken])
                self._partial = b"" if len(block) == BLOCK else block
                if len(block) == BLOCK:
                    self._read_block(block, self._fed + at + taken)
            at += taken
        self._fed += end

    def close(self) -> None:
        """Say that this was all. Raises SetDamaged unless the archive is complete, with its end mark."""
        if self._left or self._padding:
            raise SetDamaged(f"the archive is cut off at byte {self._fed}, inside {self._current()}")
        if self._partial:
            raise SetDamaged(f"the archive is cut off at byte {self._fed}, inside a header")
        if self._zero_blocks < 2:
            raise SetDamaged(f"the archive is cut off at byte {self._fed}: its end mark is missing")

    def _current(self) -> str:
        return repr(self.members[-1].name) if self.members and self._extension is None else "a long name"

    def _take(self, data: memoryview) -> None:
        self._left -= len(data)
        if self._sink is not None:
            self._sink.write(data)
            if not self._left:
                self._finish()

    def _finish(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()
        if self._extension is not None:
            extension, self._extension = self._extension, None
            into = self._defaults if extension.flag == b"g" else self._overrides
            into.update(extension.fields())

    def _read_block(self, block: bytes, offset: int) -> None:
        if block == _ZEROS:
            if self._overrides:
                raise SetDamaged(f"the archive ends at byte {offset} after a long name that belongs to nothing")
            self._zero_blocks += 1
            if self._zero_blocks == 2:
                self.ended_at = offset
            return
        if self._zero_blocks:
            raise SetDamaged(f"the archive goes on after its end mark, at byte {offset - BLOCK}")
        _check_sum(block, offset)
        flag = block[156:157]
        if flag in _Extension.FLAGS:
            self._begin_extension(block, flag, offset)
        else:
            self._begin_member(block, flag, offset)

    def _begin_extension(self, block: bytes, flag: bytes, offset: int) -> None:
        size = _number(block[124:136], offset)
        if not 0 < size <= _LONGEST_EXTENSION:
            raise SetDamaged(f"a long name of {size} bytes before byte {offset} of the archive")
        self._extension = self._sink = _Extension(flag)
        self._expect(size)

    def _begin_member(self, block: bytes, flag: bytes, offset: int) -> None:
        fields = self._defaults | self._overrides
        self._overrides = {}
        name = fields.get("path") or _header_name(block)
        kind = _kind(flag, name)
        size = int(fields["size"]) if "size" in fields else _number(block[124:136], offset)
        if size and kind != "file":
            raise SetDamaged(f"{name!r} is a {kind}, yet has {size} bytes of data, before byte {offset}")
        target = (fields.get("linkpath") or _text(block[157:257])) if kind in {"symlink", "hardlink"} else ""
        clean = self._admit(name, kind, target)
        mode, mtime = _number(block[100:108], offset), _number(block[136:148], offset)
        member = Member(clean, offset, size, kind, mode & 0o7777, mtime, target)
        self._names[clean] = kind
        self.members.append(member)
        self._sink = self._watch(member) if self._watch and kind == "file" else None
        self._expect(size)

    def _expect(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK
        if not size:
            self._finish()

    def _admit(self, name: str, kind: Kind, target: str) -> str:
        """Return the clean name, or raise UnsafeMember."""
        clean = clean_name(name)
        if clean == "." and kind != "directory":
            raise UnsafeMember(f"{name!r} would replace the archive's directory by a {kind}")
        if clean in self._names:
            raise UnsafeMember(f"{clean!r} is in the archive twice")
        parent = clean
        while (cut := parent.rfind("/")) > 0:
            parent = parent[:cut]
            # Through a link one could write anywhere the link leads to after unpacking has begun.
            if self._names.get(parent) == "symlink":
                raise UnsafeMember(f"{clean!r} lies behind the symbolic link {parent!r}")
        if kind == "symlink":
            check_symlink(clean, target)
        elif kind == "hardlink" and self._names.get(clean_name(target)) not in {"file", "hardlink"}:
            raise UnsafeMember(f"{clean!r} is a hard link to {target!r}, which is no earlier file of the archive")
        return clean


class GzipCheck:
    """A Sink that inflates a gzip stream, verifies its checksums, and passes the plain bytes on to ``inner``.

    Raises SetDamaged, naming the member, at the first wrong byte or on ``close`` when the end is missing.
    ISA-L does it at a half (text) to a tenth (what would not shrink) of zlib's cost, and notices all that zlib does
    but flags that are reserved (python-isal 1.9.1, each bit of some files changed), which are looked at here.
    """

    def __init__(self, name: str, inner: Sink | None = None) -> None:
        self.plain_size = 0
        self._name = name
        self._inner = inner
        self._begin()

    def write(self, data: memoryview, /) -> None:
        rest: bytes | memoryview = data
        while rest:
            if self._inflater.eof:  # gzip files may be concatenated
                self._begin()
            self._look_at_head(rest)
            try:
                rest = self._inflate(rest)
            except _NotIntact as error:
                raise SetDamaged(f"{self._name} is no intact gzip file: {error}") from error

    def close(self) -> None:
        if not self._inflater.eof:
            raise SetDamaged(f"{self._name} is cut off: its gzip stream has no end")
        if self._inner is not None:
            self._inner.close()

    def _begin(self) -> None:
        self._inflater = isal_zlib.decompressobj(wbits=31)
        self._head = b""

    def _look_at_head(self, data: bytes | memoryview) -> None:
        missing = 4 - len(self._head)
        if missing:
            self._head += data[:missing]
            if self._head[3:] and self._head[3] & _RESERVED_FLAGS:
                raise SetDamaged(f"{self._name} is no intact gzip file: it has flags that are reserved")

    def _inflate(self, data: bytes | memoryview) -> bytes:
        """Pass on what this file of the stream makes of ``data``; return what lies behind its end."""
        plain = self._inflater.decompress(data, _INFLATED_AT_ONCE)
        while plain:
            self._pass(plain)
            if self._inflater.eof:
                break
            plain = self._inflater.decompress(self._inflater.unconsumed_tail, _INFLATED_AT_ONCE)
        return self._inflater.unused_data

    def _pass(self, plain: bytes) -> None:
        self.plain_size += len(plain)
        if self._inner is not None:
            self._inner.write(memoryview(plain))


class _Extension:
    """Collects what stands before a member: a GNU long name (L) or link target (K), or pax records (x, g)."""

    FLAGS = frozenset({b"L", b"K", b"x", b"g"})

    def __init__(self, flag: bytes) -> None:
        self.flag = flag
        self._data = bytearray()

    def write(self, data: memoryview, /) -> None:
        self._data += data

    def close(self) -> None:
        pass

    def fields(self) -> dict[str, str]:
        if self.flag in {b"L", b"K"}:
            value = bytes(self._data).removesuffix(b"\0")
            return {"path" if self.flag == b"L" else "linkpath": value.decode("utf-8", "surrogateescape")}
        return _pax_fields(bytes(self._data))


def _pax_fields(data: bytes) -> dict[str, str]:
    """Read ``length key=value\\n`` records; keep those that say what and how long a member is."""
    fields: dict[str, str] = {}
    while data:
        digits, blank, _ = data.partition(b" ")
        length = int(digits) if blank and digits.isdigit() and len(digits) < 10 else 0
        key, equals, value = data[len(digits) + 1 : length - 1].partition(b"=")
        if not length <= len(data) or not equals or data[length - 1 : length] != b"\n":
            raise SetDamaged("the archive has a broken pax header")
        if key.startswith(b"GNU.sparse"):
            raise SetDamaged("the archive has a sparse member, which drtool cannot judge")
        if key in {b"path", b"linkpath", b"size"}:
            fields[key.decode()] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    if not re.fullmatch(r"[0-9]{1,19}", fields.get("size", "0")):
        raise SetDamaged(f"the archive has a pax header with the size {fields['size'][:30]!r}")
    return fields


def _check_sum(block: bytes, offset: int) -> None:
    stored = _number(block[148:156], offset)
    blanked = block[:148] + b" " * 8 + block[156:]
    total = sum(blanked)
    # Some old implementations added signed bytes (POSIX.1-1988 left it open).
    if stored != total and stored != total - 256 * sum(byte > 127 for byte in blanked):
        raise SetDamaged(f"the archive has a damaged header at byte {offset - BLOCK}: its checksum is wrong")


def _number(field: bytes, offset: int) -> int:
    """Read octal digits, or GNU's base-256 where the first bit is set."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise SetDamaged(f"the archive has a negative number in the header before byte {offset}")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:])
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if digits.strip(b"01234567"):
        raise SetDamaged(f"the archive has {digits!r} for a number in the header before byte {offset}")
    return int(digits, 8) if digits else 0


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _header_name(block: bytes) -> str:
    name = _text(block[:100])
    if block[257:263] != b"ustar\0":  # GNU tar ("ustar  ") keeps times where ustar keeps the front of the name
        return name
    front = _text(block[345:500])
    return f"{front}/{name}" if front else name


def _kind(flag: bytes, name: str) -> Kind:
    if flag in _SPECIAL:
        raise UnsafeMember(f"{name!r} is {_SPECIAL[flag]}")
    if flag not in _KINDS:
        raise SetDamaged(f"{name!r} is of the unknown kind {flag!r}")
    if flag == b"\0" and name.endswith("/"):  # as tar did before there was a flag for directories
        return "directory"
    return _KINDS[flag]


def clean_name(name: str) -> str:
    """A member's name without what means nothing. Raises UnsafeMember for one that is not inside the archive."""
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if not name or "\0" in name or name.startswith("/") or ".." in parts:
        raise UnsafeMember(f"{name!r} is no name inside the archive's directory")
    return "/".join(parts) or "."


def check_symlink(name: str, target: str) -> None:
    """Raise UnsafeMember but for targets that climb first, not above the root, and then descend.

    A ``..`` after a name could climb out through another link, so counting would not be enough.
    """
    parts = [part for part in target.split("/") if part not in {"", "."}]
    up = 0
    while up < len(parts) and parts[up] == "..":
        up += 1
    if not target or "\0" in target or target.startswith("/") or up > name.count("/") or ".." in parts[up:]:
        raise UnsafeMember(f"{name!r} is a symbolic link to {target!r}, outside the archive's directory")
