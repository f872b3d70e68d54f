"""Open what is sealed to an X25519 key, in the format of https://age-encryption.org/v1, at the speed of OpenSSL.

pyrage 1.4 needs 1.4 seconds of a processor for a GiB, OpenSSL 0.3. This knows one way through the format and no other:
a header that is not plainly the one expected, or that none of the keys opens, is left to pyrage, which says what it is.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LONGEST_HEADER = 64 << 10
"""Room for some 500 recipients. A longer header is left to pyrage."""

_NONCE = 16
_TAG = 16
_SEALED_CHUNK = (64 << 10) + _TAG
_LABEL = b"age-encryption.org/v1/X25519"
_HEADER = re.compile(
    rb"(age-encryption\.org/v1\n"
    rb"(?:-> [!-~]+(?: [!-~]+)*\n(?:[A-Za-z0-9+/]{64}\n)*[A-Za-z0-9+/]{0,63}\n)+"
    rb"---) ([A-Za-z0-9+/]{43})\n"
)
_STANZA = re.compile(rb"^-> X25519 ([A-Za-z0-9+/]{43})\n([A-Za-z0-9+/]{43})\n", re.MULTILINE)
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_SECRET_PREFIX = "AGE-SECRET-KEY-1"  # noqa: S105 - what every secret begins with


class SealBroken(ValueError):
    """Sealed bytes are cut short or altered. Internal: whoever knows which volume it was says so to the user."""


def parse_secret(text: str) -> X25519PrivateKey:
    """Take the key out of ``AGE-SECRET-KEY-1…``, whose checksum somebody compared already."""
    number = 0
    for letter in text.removeprefix(_SECRET_PREFIX).lower()[:-6]:  # six letters of checksum
        number = number << 5 | _BECH32.index(letter)
    return X25519PrivateKey.from_private_bytes((number >> 4).to_bytes(32, "big"))  # 52 letters are 260 bits


def open_payload(head: bytes, secrets: Sequence[X25519PrivateKey]) -> tuple[Payload, bytes] | None:
    """Open a header that ``head`` begins with; return what opens the rest, and what of the rest is in ``head``.

    None: pyrage has to look at it, from the first byte.
    """
    header = _HEADER.match(head)
    if not header or len(head) < header.end() + _NONCE:
        return None
    begin = header.end() + _NONCE
    for share, wrapped in _STANZA.findall(header[1]):
        for secret in secrets:
            file_key = _unwrap(secret, share, wrapped)
            if file_key and _vouches(file_key, header[1], header[2]):
                return Payload(_derive(file_key, head[header.end() : begin], b"payload")), head[begin:]
    return None


class Payload:
    """Opens the sealed bytes behind a header, fed in order: chunks of 64 KiB, the last of them marked as the last."""

    def __init__(self, key: bytes) -> None:
        self._cipher = ChaCha20Poly1305(key)
        self._opened = 0
        self._held = b""  # what may be the last chunk: whether it is shows only at the end

    def feed(self, data: bytes) -> bytes:
        """Return what of the plain bytes is proven now, perhaps none. Raises SealBroken."""
        missing = _SEALED_CHUNK - len(self._held)
        if len(data) <= missing:
            self._held += data
            return b""
        view = memoryview(data)
        plain = []
        if self._held:
            plain.append(self._open(self._held + view[:missing]))
            view = view[missing:]
        while len(view) > _SEALED_CHUNK:
            plain.append(self._open(view[:_SEALED_CHUNK]))
            view = view[_SEALED_CHUNK:]
        self._held = bytes(view)
        return b"".join(plain)

    def finish(self) -> bytes:
        """Return the rest of the plain bytes. Raises SealBroken unless what was fed ends where the sealing did."""
        plain = self._open(self._held, last=True)
        if not plain and self._opened > 1:  # age 1.0: only a file of nothing ends in an empty chunk
            raise SealBroken("the last chunk is empty")
        return plain

    def _open(self, chunk: bytes | memoryview, *, last: bool = False) -> bytes:
        nonce = self._opened.to_bytes(11, "big") + bytes([last])
        self._opened += 1
        try:
            return self._cipher.decrypt(nonce, chunk, None)
        except InvalidTag:
            raise SealBroken(f"chunk {self._opened} is altered, out of its place, or the bytes end in it") from None


def _unwrap(secret: X25519PrivateKey, share: bytes, wrapped: bytes) -> bytes | None:
    theirs = _decode(share)
    ours = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(theirs))
        return ChaCha20Poly1305(_derive(shared, theirs + ours, _LABEL)).decrypt(bytes(12), _decode(wrapped), None)
    except (ValueError, InvalidTag):  # ValueError: a share that gives the same secret with every key
        return None


def _vouches(file_key: bytes, header: bytes, mac: bytes) -> bool:
    """Tell whether the header is, byte for byte, the one that was made with this key."""
    right = hmac.digest(_derive(file_key, b"", b"header"), header, "sha256")
    return hmac.compare_digest(base64.b64encode(right).rstrip(b"="), mac)


def _derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=salt, info=info).derive(key)


def _decode(text: bytes) -> bytes:
    return base64.b64decode(text + b"=")
