"""What a host runs to fetch sealed volumes by itself and to unpack them: constant scripts, as commands.

What is secret comes on standard input alone: the signed URL in a curl configuration, the identity in lines that the
shell keeps in a variable, which is not exported, and writes into the pipe that age reads. There are no here-documents,
because some shells keep those in files. The host needs a POSIX sh, GNU coreutils, find, tar and curl, and age for what
is sealed. Only sealed bytes lie on its disk, in a directory of root's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from pathlib import PurePosixPath

from drtool.core.command import Command
from drtool.core.model import Volume
from drtool.errors import CommandFailed, StoreError

_URL = re.compile(r"https?://[!#-\[\]-~]+\Z")  # what a curl configuration takes between quotes as it stands
_PROBE_TIME = timedelta(minutes=2)


class Ended(IntEnum):
    """How the scripts end, beside 0. None is a status of a shell, and what went wrong stands on standard error."""

    NO_DIRECTORY = 81
    NOT_FETCHED = 82
    REFUSED = 83
    NO_ROOM = 84
    OTHER_BYTES = 85
    NOT_TRUSTED = 86
    PROGRAM_MISSING = 87
    INPUT_CUT = 88
    NOT_UNSEALED = 89
    NOT_UNPACKED = 90


_BEGIN = """\
mask=$(umask)
umask 077
fail() { printf 'drtool: %s\\n' "$2" >&2; exit "$1"; }
"""

# coreutils has no SHA extensions: where OpenSSL is, it takes a quarter of the time.
_DIGEST = """\
sha256() {
  if command -v openssl >/dev/null; then openssl dgst -sha256 -r
  else sha256sum
  fi
}
"""

# Whoever could write there could change a volume after it was proven.
_ENTER = """\
cd -- "$1" || fail 81 "$1 cannot be entered"
case $(stat -c '%u %a' .) in
  "$(id -u) 700" | "$(id -u) 2700") ;;
  *) fail 81 "$1 is no directory that only we may enter" ;;
esac
"""

# --disable: a ~/.curlrc could log what it is given. No redirection: a signature is for one place.
_GET = """\
get() {
  code=$(curl --disable --silent --show-error --fail --globoff --proto =http,https --max-redirs 0 \
    --connect-timeout 30 --write-out '%{http_code}' --config - "$@")
  status=$?
  case "$status $code" in
    "0 200" | "0 206") ;;
    "0 "*) fail 83 "http $code: this is not the store" ;;
    "22 "*) fail 83 "http $code" ;;
    "23 "*) fail 84 "$(stat -f -c '%a blocks of %S bytes' .) are free" ;;
    "33 "* | "36 "*) rm -f -- "$part"; fail 82 "the store does not go on where it broke off" ;;
    "51 "* | "60 "* | "77 "*) fail 86 "the certificate is not trusted" ;;
    "63 "*) fail 85 "the store holds more bytes than the manifest says" ;;
    "2 "* | "127 "*) fail 87 "curl is missing, or too old" ;;
    *) fail 82 "curl ended with status $status" ;;
  esac
}
"""

_FETCH = (
    _BEGIN
    + _DIGEST
    + _ENTER
    + _GET
    + """\
name=$2 size=$3 digest=$4 part=$2.part
size_of() { stat -c %s -- "$1" 2>/dev/null || echo 0; }
proven() {
  [ "$(size_of "$1")" = "$size" ] || return 1
  case $(sha256 <"$1") in "$digest "*) ;; *) return 1 ;; esac
}
proven "$name" && exit 0
rm -f -- "$name"
[ "$(size_of "$part")" -le "$size" ] || rm -f -- "$part"
if [ "$(size_of "$part")" -lt "$size" ]; then
  get --continue-at - --output "$part" --max-filesize "$size" --speed-limit 1024 --speed-time "$5"
fi
proven "$part" || { rm -f -- "$part"; fail 85 "other bytes than were stored"; }
mv -- "$part" "$name" || fail 84 "$name cannot be named"
"""
)

# One pipe for all volumes: what is fed into descriptor 5 is the archive. Descriptors 4 and 6 carry the statuses, which
# a POSIX pipeline does not tell. A tee that failed had nobody to write to: then the reader is to blame.
_UNSEAL = (
    _BEGIN
    + _DIGEST
    + "unset identity\nulimit -c 0\n"
    + _ENTER
    + """\
seal=$2
shift 2
unseal() {
  if [ "$seal" = none ]; then cat "./$1"
  else printf '%s' "$identity" | age --decrypt --identity - "./$1"
  fi
}
feed() {
  read -r lines || return 88
  identity=
  while [ "$lines" -gt 0 ]; do
    IFS= read -r line || return 88
    identity="$identity$line
"
    lines=$((lines - 1))
  done
  while read -r name digest; do
    [ "$name" != / ] || return 0
    told=$({
      { unseal "$name" 5>&- 6>&-; echo "unsealed $?" >&6; } |
        { tee /dev/fd/5 6>&-; echo "passed $?" >&6; } |
        sha256 5>&- 6>&-
    } 6>&1)
    case $told in *"passed 0"*) ;; *) return 90 ;; esac
    case $told in *"unsealed 0"*) ;; *) echo "drtool: $name cannot be unsealed" >&2; return 89 ;; esac
    case $told in *"$digest "*) ;; *) echo "drtool: $name: other bytes than were sealed" >&2; return 85 ;; esac
    rm -f -- "./$name"
  done
  return 88
}
ended=$(
  exec 4>&1
  { feed 4>&- 5>&1 >&2; echo "fed $?" >&4; } | { umask "$mask"; "$@" 4>&- >&2; echo "unpacked $?" >&4; }
)
fed=88 unpacked=1
set -- $ended
while [ "$#" -gt 1 ]; do
  case $1 in fed) fed=$2 ;; unpacked) unpacked=$2 ;; esac
  shift 2
done
case $fed in
  0) [ "$unpacked" = 0 ] || fail 90 "unpacking ended with status $unpacked" ;;
  90) fail 90 "unpacking stopped with status $unpacked before the end of the archive" ;;
  *) exit "$fed" ;;
esac
"""
)

# With age, what it is given is unsealed as it will be: by an identity that comes through a pipe.
_TRY = (
    _BEGIN
    + _DIGEST
    + """\
for program in curl sha256sum stat tee tar find mkdir "$@"; do
  command -v "$program" >/dev/null || fail 87 "$program is missing"
done
[ -e /dev/fd/0 ] || fail 87 "/dev/fd is missing"
case $(sha256 </dev/null) in
  "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 "*) ;;
  *) fail 87 "a digest of SHA-256 comes out wrong" ;;
esac
[ "$#" -gt 0 ] || exit 0
exec 3<&0
IFS= read -r identity
printf '%s\\n' "$identity" | age --decrypt --identity - /dev/fd/3 || fail 89 "age reads no identity from a pipe"
"""
)

_REACH = _BEGIN + _GET + "part=/dev/null/none\nget --range 0-0 --max-time 60 --output /dev/null\n"


def fetch(directory: PurePosixPath, volume: Volume, *, patience: timedelta) -> Command:
    """Download a volume into a directory as it lies in the store, and compare its digest; wants ``url_lines``.

    One that is there and proven is left alone. An interrupted download goes on where it broke off; one that brought
    other bytes is removed. ``patience`` is how long nothing may come before it is given up.
    """
    seconds = str(max(1, int(patience.total_seconds())))
    return _script(_FETCH, str(directory), volume.name, str(volume.stored_size), volume.stored_sha256, seconds)


def unseal_into(unpack: Command, directory: PurePosixPath, *, sealed: bool) -> Command:
    """Feed the plain bytes of volumes that ``fetch`` proved into ``unpack``, digest by digest, and remove each.

    Wants ``identity_lines``, a ``volume_line`` for each as soon as it is there, and ``LAST_LINE``.
    """
    return _script(_UNSEAL, str(directory), "age" if sealed else "none", *unpack.argv)


def try_programs(*, sealed: bool) -> Command:
    """Look for what the scripts need. With age, wants a line with an identity and bytes sealed to it; prints them."""
    return _script(_TRY, *(("age",) if sealed else ()), timeout=_PROBE_TIME)


def reach() -> Command:
    """Fetch one byte from the URL in ``url_lines``."""
    return _script(_REACH, timeout=_PROBE_TIME)


def url_lines(url: str) -> bytes:
    """A curl configuration that names a URL. Raises StoreError for one that would say more than that."""
    if not _URL.match(url):
        raise StoreError("the store signed a URL that cannot be handed to curl")
    return f'url = "{url}"\n'.encode()


def identity_lines(identity: bytes) -> bytes:
    """How many lines follow, and an identity file's content; empty where nothing is sealed."""
    lines = identity.splitlines()
    return b"".join(line + b"\n" for line in (b"%d" % len(lines), *lines))


def volume_line(volume: Volume) -> bytes:
    return f"{volume.name} {volume.plain_sha256}\n".encode()


LAST_LINE = b"/\n"
"""Says that all volumes were named: without it an input that ended is one that was cut."""


@dataclass(frozen=True, slots=True)
class Found:
    """One thing below a directory. ``name`` is relative to it; files of one ``inode`` are hard links."""

    name: str
    kind: str
    size: int
    inode: int
    target: str


def list_tree(directory: PurePosixPath) -> Command:
    """Print everything below a directory, for ``parse_tree``."""
    return Command(("find", "-H", str(directory), "-mindepth", "1", "-printf", r"%y %s %i %l\0%P\0"))


def parse_tree(output: bytes) -> tuple[Found, ...]:
    """Read what ``list_tree`` printed. CommandFailed if it is something else."""
    *fields, rest = output.decode("utf-8", "surrogateescape").split("\0")
    try:
        found = tuple(_found(*pair) for pair in zip(fields[::2], fields[1::2], strict=True))
    except ValueError as error:
        raise CommandFailed("the listing of a directory cannot be read") from error
    if rest:
        raise CommandFailed("the listing of a directory breaks off")
    return found


def _found(facts: str, name: str) -> Found:
    kind, size, inode, target = facts.split(" ", 3)
    return Found(name, kind, int(size), int(inode), target)


def _script(text: str, *arguments: str, timeout: timedelta | None = None) -> Command:
    words: Sequence[str] = ("sh", "-c", text, "sh", *arguments)
    return Command(tuple(words), timeout)
