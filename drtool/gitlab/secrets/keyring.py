"""Try the keys of an installation on ciphertexts. Only whether one opens is ever told, never what is inside."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC

from drtool.gitlab.secrets.columns import Family
from drtool.gitlab.secrets.layouts import Scheme, Sealed
from drtool.gitlab.secrets.values import Candidate, Key, Secrets

_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_SALTED_ROUNDS: Final = 2000
_RAILS_ROUNDS: Final = 65536
_MARSHAL: Final = b"\x04\x08"  # how Ruby's serialised objects begin
_SHARE: Final = 32  # values per piece of work: enough that handing it over costs nothing, few enough for two threads


class Over(Protocol):
    """``map``, or one that uses several threads: a salted value takes half a millisecond, outside of Python's lock."""

    def __call__(
        self, work: Callable[[Sequence[Sealed]], list[bool]], shares: Iterable[Sequence[Sealed]], /
    ) -> Iterable[list[bool]]: ...


class Opener(Protocol):
    """One key. ``current`` is whether GitLab uses it; ``opens`` never raises."""

    label: str
    current: bool
    deterministic: bool

    def opens(self, sealed: Sealed, /) -> bool: ...


class Keyring:
    """All keys of an installation, derived once, and those of Rails only when there is something to open."""

    def __init__(self, secrets: Secrets, *, over: Over = map) -> None:
        self._secrets = secrets
        self._over = over
        self._openers: dict[Family, list[Opener]] = {}
        self._wins: dict[str, int] = {}

    def open(self, family: Family, values: Sequence[Sealed]) -> list[Opener | None]:
        """Say for each value which key opens it. One that GitLab does not use is the last resort."""
        found: list[Opener | None] = [None] * len(values)
        left = list(range(len(values)))
        for opener in sorted(self._of(family), key=lambda each: (not each.current, -self._wins.get(each.label, 0))):
            answers = self._try(opener, [values[index] for index in left])
            for index, opened in zip(left, answers, strict=True):
                if opened:
                    found[index] = opener
            self._wins[opener.label] = self._wins.get(opener.label, 0) + sum(answers)
            left = [index for index, opened in zip(left, answers, strict=True) if not opened]
        return found

    def count(self, family: Family) -> int:
        """How many keys a value that none opens is tried with."""
        return len(self._of(family))

    def _try(self, opener: Opener, values: Sequence[Sealed]) -> list[bool]:
        if not any(value.scheme is Scheme.CBC_SALTED for value in values):
            return [opener.opens(value) for value in values]
        shares = [values[start : start + _SHARE] for start in range(0, len(values), _SHARE)]
        answers = self._over(lambda share: [opener.opens(value) for value in share], shares)
        return [opened for share in answers for opened in share]

    def _of(self, family: Family) -> list[Opener]:
        if family not in self._openers:
            self._openers[family] = list(self._derive(family))
        return self._openers[family]

    def _derive(self, family: Family) -> Iterator[Opener]:
        match family:
            case Family.DB:
                yield from map(BaseKey, self._secrets.candidates(Key.DB))
            case Family.OTP:
                yield from map(BaseKey, self._secrets.candidates(Key.OTP))
            case Family.RAILS:
                yield from _rails_keys(self._secrets)


class BaseKey:
    """A key base: what GitLab makes keys from for its own columns and tokens."""

    deterministic = False

    def __init__(self, candidate: Candidate) -> None:
        self.label, self.current = candidate.label, candidate.current
        self._password = candidate.text.encode()
        self._key = _padded(candidate.text, _KEY_SIZE)
        self._nonce = _padded(candidate.text, _NONCE_SIZE)
        self._gcm = AESGCM(self._key)

    def opens(self, sealed: Sealed, /) -> bool:
        if sealed.scheme is Scheme.CBC_SALTED:
            return _opens_cbc(self._salted(sealed.salt), sealed)
        if sealed.scheme is Scheme.CBC:
            return _opens_cbc(self._key, sealed)
        return _open_gcm(self._gcm, sealed.nonce or self._nonce, sealed.body) is not None

    def opens_file(self, content: bytes, context: str) -> bool:
        """Say whether this key opens a file that lockbox wrote: a Terraform state, whose context is its project's id,
        or a pipeline's artifact of variables, whose context is ``pipeline_artifact:`` and that id."""
        key = AESGCM(hmac.digest(self._password, context.encode(), "sha256"))
        return _open_gcm(key, content[:_NONCE_SIZE], content[_NONCE_SIZE:]) is not None

    def _salted(self, salt: bytes) -> bytes:
        # SHA-1 is GitLab's choice. Twice as fast as hashlib's, which has the system's OpenSSL: 3.0 is slow at this.
        return PBKDF2HMAC(SHA1(), _KEY_SIZE, salt, _SALTED_ROUNDS).derive(self._password)  # noqa: S303 - as GitLab does


class RailsKey:
    """A key of Active Record Encryption."""

    def __init__(self, key: bytes, label: str, *, current: bool, deterministic: bool) -> None:
        self.label, self.current, self.deterministic = label, current, deterministic
        self._gcm = AESGCM(key)

    def opens(self, sealed: Sealed, /) -> bool:
        gcm = self._gcm
        if sealed.inner is not None:
            data_key = _open_gcm(gcm, sealed.inner.nonce, sealed.inner.body)
            if data_key is None or len(data_key) != _KEY_SIZE:
                return False
            gcm = AESGCM(data_key)
        return _open_gcm(gcm, sealed.nonce, sealed.body) is not None


def _rails_keys(secrets: Secrets) -> Iterator[RailsKey]:
    salts = secrets.candidates(Key.RAILS_SALT)
    # Rails 7.0's defaults derived with SHA-1, later ones with SHA-256; GitLab still reads both.
    for name, digest in product((Key.RAILS_PRIMARY, Key.RAILS_DETERMINISTIC), ("sha256", "sha1")):
        for secret, salt in product(secrets.candidates(name), salts):
            key = hashlib.pbkdf2_hmac(digest, secret.text.encode(), salt.text.encode(), _RAILS_ROUNDS, _KEY_SIZE)
            label = secret.label if salt.current else f"{secret.label} with {salt.label}"
            current = secret.current and salt.current
            yield RailsKey(key, label, current=current, deterministic=name is Key.RAILS_DETERMINISTIC)


def _padded(text: str, size: int) -> bytes:
    """Take whole characters while they fit, then ASCII zeros. GitLab's other rule (the first 32 characters) differs
    only for keys with which the gems refuse to encrypt."""
    taken = text.encode()[:size]
    return taken.decode(errors="ignore").encode().ljust(size, b"0")


def _open_gcm(key: AESGCM, nonce: bytes, body: bytes) -> bytes | None:
    try:
        return key.decrypt(nonce, body, None)
    except (InvalidTag, ValueError):
        return None


def _opens_cbc(key: bytes, sealed: Sealed) -> bool:
    """Judge by padding and content, as there is no tag: with a wrong key, one value in a million passes."""
    decryptor = Cipher(algorithms.AES(key), modes.CBC(sealed.nonce)).decryptor()
    padded = decryptor.update(sealed.body) + decryptor.finalize()
    size = padded[-1]
    if not 1 <= size <= len(sealed.nonce) or padded[-size:] != bytes((size,)) * size:
        return False
    plain = padded[:-size]
    if plain.startswith(_MARSHAL):
        return True
    try:
        plain.decode()
    except ValueError:
        return False
    return True
