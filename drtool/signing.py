"""OpenSSH signatures over manifests and receipts: ``ssh-keygen -Y sign|verify``, namespace ``drtool``.

The format is OpenSSH's PROTOCOL.sshsig (8.2 and later), so anyone can check one without drtool. The private key is
read by ssh-keygen from its file; it never passes through here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from drtool.core.command import Command
from drtool.errors import CommandFailed, ConfigError, HostUnfit, SecretExposed, SignatureInvalid
from drtool.hosts import Runner

NAMESPACE = "drtool"
_NOT_INSTALLED = 127
_NO_ANSWER = (None, 126, *range(129, 160))  # not started, or ended by a signal; 255 is ssh-keygen's own "no"
_IDENTITY = "drtool-host"  # allowed_signers wants a name per key; trust here is by key, so one name serves all


class Signer:
    """Signs with one private key file."""

    def __init__(self, key: Path, runner: Runner) -> None:
        self.key = key
        self._runner = runner

    def sign(self, message: bytes) -> bytes:
        """Return an armored signature. Raises ConfigError (no key), SecretExposed, HostUnfit, CommandFailed."""
        if not self.key.is_file():
            raise ConfigError(
                f"signing key {self.key} is not there",
                hint="`drtool init NEW-DIRECTORY` makes another; its public half belongs into trusted_signers.",
            )
        refuse_exposed(self.key)
        return _ssh_keygen(self._runner, "-q", "-Y", "sign", "-n", NAMESPACE, "-f", str(self.key), stdin=message)


class Verifier:
    """Knows which public keys may sign."""

    def __init__(self, trusted: Sequence[str], runner: Runner) -> None:
        self.trusted = tuple(trusted)
        self._runner = runner

    def verify(self, message: bytes, signature: bytes, *, source: str) -> None:
        """Raise SignatureInvalid unless one of the trusted keys signed exactly this message.

        ``source`` says in the message what was signed.
        """
        if not self.trusted:
            raise SignatureInvalid(
                f"{source}: no key is trusted to sign",
                hint="Put the public signing key of the GitLab host into trusted_signers.",
            )
        with tempfile.TemporaryDirectory(prefix="drtool-") as scratch:
            signers = Path(scratch, "allowed_signers")
            signers.write_text("".join(f'{_IDENTITY} namespaces="{NAMESPACE}" {key}\n' for key in self.trusted))
            proof = Path(scratch, "signature")
            proof.write_bytes(signature)
            arguments = ("-f", str(signers), "-I", _IDENTITY, "-n", NAMESPACE, "-s", str(proof))
            try:
                _ssh_keygen(self._runner, "-Y", "verify", *arguments, stdin=message)
            except CommandFailed as problem:
                if problem.status in _NO_ANSWER:
                    raise
                raise SignatureInvalid(
                    f"{source}: the signature does not fit, or is not by a trusted key",
                    hint="Do not restore it unless you know why: the manifest may have been changed.",
                ) from problem


def make_key(path: Path, runner: Runner, *, comment: str) -> str:
    """Make an ed25519 key pair at ``path`` and ``path.pub``; return the public line. An existing key is kept."""
    public = path.with_name(path.name + ".pub")
    if not path.exists():
        _ssh_keygen(runner, "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path))
    elif not public.exists():  # ssh-keygen writes it second, and may have been killed before
        public.write_bytes(_ssh_keygen(runner, "-y", "-f", str(path)))
    return public_key(path)


def _ssh_keygen(runner: Runner, *arguments: str, stdin: bytes = b"") -> bytes:
    try:
        return runner.run(Command(("ssh-keygen", *arguments)), stdin=stdin)
    except CommandFailed as problem:
        if problem.status == _NOT_INSTALLED:
            raise HostUnfit(
                "ssh-keygen is not installed", hint="Install OpenSSH's client (openssh-client)."
            ) from problem
        raise


def public_key(path: Path) -> str:
    """The public line beside a private key file."""
    return path.with_name(path.name + ".pub").read_text().strip()


def refuse_exposed(path: Path) -> None:
    """Raise SecretExposed when anyone but the owner can read the file."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise SecretExposed(f"{path}: mode {mode:04o}, others can read it", hint=f"chmod 600 {path}")
