"""Opening age files without pyrage: the same bytes, the same refusals, and everything unusual left to pyrage."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from drtool.agefile import Payload, SealBroken, open_payload, parse_secret
from drtool.streams import generate_identity, parse_identities, parse_recipients, sealed, unsealed

CHUNK = 64 << 10
KEY = bytes(32)


def key_pair() -> tuple[X25519PrivateKey, str]:
    secret, public = generate_identity()
    return parse_secret(secret), public


def seal(plain: bytes, *recipients: str) -> bytes:
    return sealed(io.BytesIO(plain), parse_recipients(recipients)).readall()


def test_a_secret_is_parsed_to_the_key_that_its_recipient_belongs_to() -> None:
    for _ in range(50):
        secret, public = key_pair()
        assert open_payload(seal(b"", public), [secret]) is not None


def test_the_fast_way_is_taken_whatever_else_stands_in_the_header(tmp_path: Path) -> None:
    """Or everything would be right, and four times slower."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")], check=True)
    secret, public = key_pair()
    others = [key_pair()[1] for _ in range(20)]
    stored = seal(b"plain", *others[:10], (tmp_path / "id.pub").read_text(), public, *others[10:])
    opened = open_payload(stored, [key_pair()[0], secret])
    assert opened is not None
    payload, rest = opened
    assert payload.feed(rest) + payload.finish() == b"plain"


@pytest.mark.engine("age")
def test_what_age_itself_sealed_is_opened() -> None:
    secret, public = key_pair()
    plain = bytes(range(256)) * 1000
    stored = subprocess.run(["age", "-r", public], input=plain, capture_output=True, check=True).stdout
    opened = open_payload(stored, [secret])
    assert opened is not None
    payload, rest = opened
    assert payload.feed(rest) + payload.finish() == plain


def test_a_header_is_left_to_pyrage_unless_it_is_whole_and_fits_a_key() -> None:
    secret, public = key_pair()
    stored = seal(b"plain", public)
    payload_begins = stored.index(b"\n--- ") + len("\n--- ") + 43 + 1
    assert open_payload(stored, []) is None
    assert open_payload(stored, [key_pair()[0]]) is None
    assert open_payload(stored.replace(b"age-encryption.org/v1", b"age-encryption.org/v2"), [secret]) is None
    for cut in range(payload_begins + 16):
        assert open_payload(stored[:cut], [secret]) is None
    for at in range(payload_begins):
        for bit in range(8):
            changed = bytearray(stored)
            changed[at] ^= 1 << bit
            assert open_payload(bytes(changed), [secret]) is None, (at, bit)


def test_a_share_that_gives_everyone_the_same_secret_opens_nothing() -> None:
    secret, public = key_pair()
    stored = seal(b"plain", public)
    line = stored.index(b"-> X25519 ") + len("-> X25519 ")
    assert open_payload(stored[:line] + b"A" * 43 + stored[line + 43 :], [secret]) is None


def make_payload(*plain: bytes, marked: int = -1) -> bytes:
    """Seal chunks by hand, ``marked`` as the last one, as no sealer would."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    last = marked % len(plain)
    cipher = ChaCha20Poly1305(KEY)
    return b"".join(
        cipher.encrypt(number.to_bytes(11, "big") + bytes([number == last]), chunk, None)
        for number, chunk in enumerate(plain)
    )


def open_fed(stored: bytes, size: int) -> bytes:
    payload = Payload(KEY)
    fed = [payload.feed(stored[at : at + size]) for at in range(0, len(stored), size)]
    return b"".join([*fed, payload.finish()])


@pytest.mark.parametrize("size", [999, CHUNK, CHUNK + 16, 3 * CHUNK, 1 << 20], ids=str)
@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7], ids=str)
def test_a_payload_opens_however_it_is_fed(length: int, size: int) -> None:
    plain = (bytes(range(251)) * 1000)[:length]
    chunks = [plain[at : at + CHUNK] for at in range(0, max(1, length), CHUNK)]
    assert open_fed(make_payload(*chunks), size) == plain


@pytest.mark.parametrize(
    ("what", "stored"),
    [
        ("nothing at all", b""),
        ("less than a tag", bytes(15)),
        ("no chunk marked as the last", make_payload(bytes(CHUNK), b"end", marked=0)[: CHUNK + 16 + 19]),
        ("cut between two chunks", make_payload(bytes(CHUNK), b"end")[: CHUNK + 16]),
        ("an empty last chunk after others", make_payload(bytes(CHUNK), b"")),
        ("chunks in another order", make_payload(bytes(CHUNK), b"end")[CHUNK + 16 :] + make_payload(bytes(CHUNK))),
        ("more after the last chunk", make_payload(bytes(CHUNK)) + b"more"),
        ("a second payload after the first", make_payload(b"end") * 2),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_a_payload_that_is_not_whole_is_refused_in_one_feed_and_in_many(what: str, stored: bytes) -> None:
    for size in (CHUNK, CHUNK + 16, 1 << 20):
        with pytest.raises(SealBroken):
            open_fed(stored, size)


def test_both_ways_give_the_same_bytes() -> None:
    secret, public = generate_identity()
    plain = bytes(range(256)) * 2000
    stored = seal(plain, public)
    identities = parse_identities([("test", secret.encode())])
    assert unsealed(io.BytesIO(stored), identities).readall() == plain == pyrage.decrypt(stored, identities)
