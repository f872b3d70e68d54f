"""Signatures, by the real ssh-keygen."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from drtool.core.command import Command
from drtool.errors import CommandFailed, ConfigError, DrtoolError, HostUnfit, SecretExposed, SignatureInvalid
from drtool.hosts.local import LocalRunner
from drtool.signing import NAMESPACE, Signer, Verifier, make_key, public_key, refuse_exposed

MESSAGE = b'{"set_id": "20260113T031500Z-7f3a"}\n'


class Recording:
    """A real runner that remembers what it was asked to run."""

    def __init__(self) -> None:
        self._runner = LocalRunner()
        self.commands: list[Command] = []

    @property
    def name(self) -> str:
        return self._runner.name

    def run(self, command: Command, *, stdin: bytes = b"") -> bytes:
        self.commands.append(command)
        return self._runner.run(command, stdin=stdin)

    @contextmanager
    def read_from(self, command: Command) -> Iterator[BinaryIO]:
        self.commands.append(command)
        with self._runner.read_from(command) as stream:
            yield stream

    @contextmanager
    def write_to(self, command: Command) -> Iterator[BinaryIO]:
        self.commands.append(command)
        with self._runner.write_to(command) as stream:
            yield stream


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "signing key"
    make_key(path, LocalRunner(), comment="drtool@test host")
    return path


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "stranger"
    make_key(path, LocalRunner(), comment="stranger")
    return path


@pytest.fixture(scope="module")
def signature(key: Path) -> bytes:
    return Signer(key, LocalRunner()).sign(MESSAGE)


def verify(message: bytes, signature: bytes, *trusted: str) -> None:
    Verifier(trusted, LocalRunner()).verify(message, signature, source="the set")


def refused(message: bytes, signature: bytes, *trusted: str) -> SignatureInvalid:
    with pytest.raises(SignatureInvalid, match=r"^the set: ") as caught:
        verify(message, signature, *trusted)
    assert caught.value.hint
    return caught.value


# -- verifying -------------------------------------------------------------------------------------------------------


def test_a_signature_by_a_trusted_key_is_valid(key: Path, signature: bytes) -> None:
    verify(MESSAGE, signature, public_key(key))


def test_any_of_several_trusted_keys_will_do(key: Path, stranger: Path, signature: bytes) -> None:
    verify(MESSAGE, signature, public_key(stranger), public_key(key))


def test_a_trusted_line_that_is_no_key_does_not_spoil_the_others(key: Path, signature: bytes) -> None:
    verify(MESSAGE, signature, "not a key", "", "# comment", public_key(key))


@pytest.mark.parametrize("changed", [b"", MESSAGE[:-1], MESSAGE + b"\n", MESSAGE.replace(b"7", b"8"), b"\0" + MESSAGE])
def test_an_altered_message_is_refused(key: Path, signature: bytes, changed: bytes) -> None:
    refused(changed, signature, public_key(key))


@pytest.mark.parametrize("changed", [b"", b"garbage", b"\xff\0", b"-----BEGIN SSH SIGNATURE-----\n"])
def test_what_is_no_signature_is_refused(key: Path, changed: bytes) -> None:
    refused(MESSAGE, changed, public_key(key))


def test_an_altered_signature_is_refused(key: Path, signature: bytes) -> None:
    lines = signature.splitlines()
    for number in range(1, len(lines) - 1):
        middle = bytearray(lines[number])
        middle[20] = ord("A") if middle[20] != ord("A") else ord("B")
        altered = [*lines[:number], bytes(middle), *lines[number + 1 :]]
        refused(MESSAGE, b"\n".join(altered) + b"\n", public_key(key))


def test_the_signature_of_another_message_is_refused(key: Path) -> None:
    refused(MESSAGE, Signer(key, LocalRunner()).sign(b"another"), public_key(key))


def test_a_signature_by_a_key_that_is_not_trusted_is_refused(stranger: Path, signature: bytes) -> None:
    refused(MESSAGE, signature, public_key(stranger))


def test_a_signature_for_another_purpose_is_refused(key: Path) -> None:
    """A host key or a git signing key signs many things; none of them is a backup set."""
    command = ("ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", str(key))
    other = LocalRunner().run(Command(command), stdin=MESSAGE)
    refused(MESSAGE, other, public_key(key))
    assert NAMESPACE == "drtool"


def test_nothing_is_valid_while_no_key_is_trusted(signature: bytes) -> None:
    assert "no key is trusted" in str(refused(MESSAGE, signature))


def test_a_host_without_ssh_keygen_is_not_called_a_bad_signature(
    key: Path, signature: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostUnfit, match="not installed"):
        verify(MESSAGE, signature, public_key(key))


def test_anyone_can_check_a_signature_without_drtool(key: Path, signature: bytes, tmp_path: Path) -> None:
    (tmp_path / "allowed").write_text(f"host {public_key(key)}\n")
    (tmp_path / "manifest.json.sig").write_bytes(signature)
    command = ["ssh-keygen", "-Y", "verify", "-f", str(tmp_path / "allowed"), "-I", "host", "-n", "drtool"]
    subprocess.run(
        [*command, "-s", str(tmp_path / "manifest.json.sig")], input=MESSAGE, check=True, capture_output=True
    )


# -- signing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    make_key(path, LocalRunner(), comment="test")
    path.chmod(mode)
    with pytest.raises(SecretExposed, match=str(path)) as caught:
        Signer(path, LocalRunner()).sign(MESSAGE)
    assert caught.value.hint == f"chmod 600 {path}"
    with pytest.raises(SecretExposed):
        refuse_exposed(path)


def test_a_missing_key_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not there") as caught:
        Signer(tmp_path / "none", LocalRunner()).sign(MESSAGE)
    assert "drtool init" in caught.value.hint


def test_a_file_that_is_no_key_fails_without_quoting_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nFAKE-SECRET-BYTES\n")
    path.chmod(0o600)
    with pytest.raises(DrtoolError) as caught:
        Signer(path, LocalRunner()).sign(MESSAGE)
    assert "FAKE-SECRET" not in told(caught.value)


def test_a_key_with_a_passphrase_fails_instead_of_asking(tmp_path: Path) -> None:
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "not a secret", "-f", str(path)], check=True)
    with pytest.raises(CommandFailed):
        Signer(path, LocalRunner()).sign(MESSAGE)


def test_no_secret_and_no_message_travels_in_arguments(tmp_path: Path) -> None:
    runner, path = Recording(), tmp_path / "key"
    public = make_key(path, runner, comment="test")
    signature = Signer(path, runner).sign(MESSAGE)
    Verifier((public,), runner).verify(MESSAGE, signature, source="the set")
    secret_lines = path.read_text().splitlines()[1:-1]
    assert len(runner.commands) == 3
    for command in runner.commands:
        for told in (*secret_lines, MESSAGE.decode().strip(), signature.decode().splitlines()[1]):
            assert not any(told in argument for argument in command.argv)


def told(error: BaseException | None) -> str:
    """All that an error and what led to it say."""
    parts = []
    while error:
        parts.append(f"{error} {getattr(error, 'hint', '')} {getattr(error, 'stderr', '')}")
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


# -- making keys -----------------------------------------------------------------------------------------------------


def test_a_made_key_is_for_its_owner_alone_and_named(tmp_path: Path) -> None:
    path = tmp_path / "key"
    public = make_key(path, LocalRunner(), comment="drtool@gitlab.example.com")
    assert path.stat().st_mode & 0o077 == 0
    assert public == public_key(path)
    assert public.startswith("ssh-ed25519 ")
    assert public.endswith(" drtool@gitlab.example.com")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["key", "key.pub"]


def test_an_existing_key_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "key"
    first = make_key(path, LocalRunner(), comment="one")
    secret = path.read_bytes()
    assert make_key(path, LocalRunner(), comment="two") == first
    assert path.read_bytes() == secret


def test_a_key_whose_public_half_was_lost_gets_it_back(tmp_path: Path) -> None:
    """ssh-keygen writes the private half first; a kill in between must not end every later init."""
    path = tmp_path / "key"
    first = make_key(path, LocalRunner(), comment="one")
    path.with_name("key.pub").unlink()
    assert make_key(path, LocalRunner(), comment="two").split()[:2] == first.split()[:2]
    assert public_key(path).split()[:2] == first.split()[:2]


def test_a_host_without_ssh_keygen_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostUnfit, match="ssh-keygen") as raised:
        make_key(tmp_path / "key", LocalRunner(), comment="drtool@test")
    assert "openssh-client" in raised.value.hint
