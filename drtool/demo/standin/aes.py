"""AES-256 decryption in GCM and CBC, in plain Python: the stand-in has nothing but the standard library.

For judging a few hundred short values in a sandbox. Slow, and not made to resist anybody who can measure it.
"""

from __future__ import annotations

import itertools

_BLOCK = 16


class WrongKey(Exception):
    """The value does not open: the key is another one, or the value is damaged."""


def _multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = (a << 1) ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def _substitution() -> list[int]:
    box = [0x63] * 256
    for value in range(1, 256):
        rotated = inverse = _POWERS[-_LOGS[value] % 255]
        for shift in range(1, 5):
            rotated ^= ((inverse << shift) | (inverse >> (8 - shift))) & 0xFF
        box[value] = rotated ^ 0x63
    return box


_POWERS = [1]
for _ in range(254):
    _POWERS.append(_multiply(_POWERS[-1], 3))
_LOGS = {power: exponent for exponent, power in enumerate(_POWERS)}
_SBOX = _substitution()
_INVERSE_SBOX = [_SBOX.index(value) for value in range(256)]
_TIMES = {factor: [_multiply(value, factor) for value in range(256)] for factor in (2, 3, 9, 11, 13, 14)}


class Cipher:
    """One key of 32 bytes."""

    def __init__(self, key: bytes) -> None:
        words = [list(key[i : i + 4]) for i in range(0, 32, 4)]
        constant = 1
        for i in range(8, 60):
            word = list(words[i - 1])
            if i % 8 == 0:
                word = [_SBOX[b] for b in (*word[1:], word[0])]
                word[0] ^= constant
                constant = _TIMES[2][constant]
            elif i % 8 == 4:
                word = [_SBOX[b] for b in word]
            words.append([a ^ b for a, b in zip(words[i - 8], word, strict=True)])
        self._rounds = [[byte for word in words[i : i + 4] for byte in word] for i in range(0, 60, 4)]

    def encrypt_block(self, block: bytes) -> bytes:
        state = [a ^ b for a, b in zip(block, self._rounds[0], strict=True)]
        for number, key in enumerate(self._rounds[1:], 1):
            state = [_SBOX[state[(i + 4 * (i % 4)) % 16]] for i in range(16)]
            if number < len(self._rounds) - 1:
                state = _mix(state, (2, 3, 1, 1))
            state = [a ^ b for a, b in zip(state, key, strict=True)]
        return bytes(state)

    def decrypt_block(self, block: bytes) -> bytes:
        state = list(block)
        for number in range(len(self._rounds) - 1, 0, -1):
            state = [a ^ b for a, b in zip(state, self._rounds[number], strict=True)]
            if number < len(self._rounds) - 1:
                state = _mix(state, (14, 11, 13, 9))
            state = [_INVERSE_SBOX[state[(i - 4 * (i % 4)) % 16]] for i in range(16)]
        return bytes(a ^ b for a, b in zip(state, self._rounds[0], strict=True))

    def open_gcm(self, nonce: bytes, sealed: bytes) -> bytes:
        """Decrypt ciphertext with the tag behind it, without associated data. WrongKey unless the tag fits."""
        if len(nonce) != 12 or len(sealed) < _BLOCK:
            raise WrongKey
        body, tag = sealed[:-_BLOCK], sealed[-_BLOCK:]
        first = nonce + b"\0\0\0\1"
        hash_key = int.from_bytes(self.encrypt_block(bytes(_BLOCK)), "big")
        padded = body + bytes(-len(body) % _BLOCK) + (0).to_bytes(8, "big") + (len(body) * 8).to_bytes(8, "big")
        checksum = 0
        for i in range(0, len(padded), _BLOCK):
            checksum = _galois(checksum ^ int.from_bytes(padded[i : i + _BLOCK], "big"), hash_key)
        expected = _xor(checksum.to_bytes(_BLOCK, "big"), self.encrypt_block(first))
        if expected != tag:
            raise WrongKey
        counter = int.from_bytes(first[12:], "big")
        stream = b"".join(
            self.encrypt_block(nonce + (counter + 1 + i).to_bytes(4, "big")) for i in range(-(-len(body) // _BLOCK))
        )
        return _xor(body, stream)

    def open_cbc(self, iv: bytes, sealed: bytes) -> bytes:
        """Decrypt PKCS#7-padded CBC. WrongKey unless the padding fits, which is weaker than a tag."""
        if len(iv) != _BLOCK or not sealed or len(sealed) % _BLOCK:
            raise WrongKey
        blocks = [iv, *(sealed[i : i + _BLOCK] for i in range(0, len(sealed), _BLOCK))]
        plain = b"".join(_xor(self.decrypt_block(b), a) for a, b in itertools.pairwise(blocks))
        padding = plain[-1]
        if not 1 <= padding <= _BLOCK or plain[-padding:] != bytes([padding]) * padding:
            raise WrongKey
        return plain[:-padding]


def _mix(state: list[int], factors: tuple[int, int, int, int]) -> list[int]:
    result = []
    for column in range(0, 16, 4):
        for row in range(4):
            value = 0
            for i in range(4):
                factor = factors[(i - row) % 4]
                byte = state[column + i]
                value ^= byte if factor == 1 else _TIMES[factor][byte]
            result.append(value)
    return result


def _galois(x: int, y: int) -> int:
    product = 0
    for bit in range(127, -1, -1):
        if (x >> bit) & 1:
            product ^= y
        y = (y >> 1) ^ (0xE1 << 120 if y & 1 else 0)
    return product


def _xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=False))
