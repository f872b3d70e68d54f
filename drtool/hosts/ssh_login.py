"""Know an ssh server by its host key, and be let in by a key of ours. Nothing unknown is trusted, ever."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey

from drtool.errors import HostUnfit
from drtool.hosts.ssh_target import SshTarget

_DEFAULT_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_UNREADABLE = (OSError, ValueError, TypeError, UnsupportedAlgorithm, paramiko.SSHException)


def offered_key_types(target: SshTarget, supported: Sequence[str]) -> list[str]:
    """Put the kinds of host key that are known first, so that the server shows one that can be compared."""
    names = {key.get_name() for key in _keys_of(target)}
    if "ssh-rsa" in names:  # the kind of the key; what it signs with has other names
        names |= {"rsa-sha2-512", "rsa-sha2-256"}
    return sorted(supported, key=lambda kind: kind not in names)


def check_host_key(target: SshTarget, key: paramiko.PKey) -> None:
    """Raise HostUnfit unless known_hosts has exactly this key for exactly this host, and nowhere revokes it.

    Names may be hashed. Patterns with wildcards and the keys of certificate authorities are not understood: such a
    host is unknown.
    """
    files = " or ".join(map(str, target.known_hosts))
    shown = f"{key.get_name()} {key.fingerprint}"
    if key.get_base64() in _revoked(target):
        raise HostUnfit(
            f"{target.known_as} showed a host key that is revoked: {shown}",
            hint=f"Whoever has that key is not to be trusted: see @revoked in {files}.",
        )
    known = _keys_of(target)
    if any(key.asbytes() == one.asbytes() for one in known):
        return
    if known:
        expected = ", ".join(f"{one.get_name()} {one.fingerprint}" for one in known)
        raise HostUnfit(
            f"the host key of {target.known_as} has CHANGED: it showed {shown}, known is {expected}",
            hint="Somebody may sit between you and it: find out on the host itself why it changed before you change "
            f"{files}. A host onto which a set was restored shows the set's own key once its sshd starts anew.",
        )
    raise HostUnfit(
        f"the host key of {target.known_as} is not known: {shown}",
        hint="Compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` (or _ecdsa_, _rsa_) on the host itself; "
        f"if it is the same, add this line to {files}: {target.known_as} {key.get_name()} {key.get_base64()}",
    )


def log_in(target: SshTarget, transport: paramiko.Transport) -> None:
    """Offer one key after the other. Raises HostUnfit when none opens."""
    tried: list[str] = []
    for name, key in _candidates(target, tried):
        tried.append(name)
        try:
            transport.auth_publickey(target.user, key)
        except paramiko.BadAuthenticationType as error:
            raise HostUnfit(
                f"{target} lets nobody in by a key, only by {', '.join(error.allowed_types)}",
                hint="drtool logs in by keys only: see PubkeyAuthentication in sshd_config.",
            ) from error
        except paramiko.AuthenticationException:
            continue
        if transport.is_authenticated():
            return
        tried.append("(accepted, but the server wants a second proof as well)")
    raise HostUnfit(
        f"{target} lets none of our keys in: {', '.join(tried) or 'there is none'}",
        hint="Put the public key into ~/.ssh/authorized_keys of that user, or name another identity file; a key with a "
        "passphrase works from an agent only.",
    )


def _candidates(target: SshTarget, tried: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """Yield the keys in files, then those of the agent; note in ``tried`` which file cannot be read, and why."""
    for number, path in enumerate(target.identity_files or _present(_DEFAULT_KEYS)):
        try:
            key = paramiko.PKey.from_path(path)
            if target.certificate_file and not number:
                key.load_certificate(str(target.certificate_file))
        except _UNREADABLE as error:
            tried.append(f"{path} ({' '.join(str(error).split())})")
        else:
            yield str(path), key
    if target.use_agent:
        agent = paramiko.Agent()
        try:
            for key in agent.get_keys():
                yield f"{key.comment or key.get_name()} (agent)", key
        finally:
            agent.close()


def _present(paths: Sequence[str]) -> list[Path]:
    return [path for path in (Path(name).expanduser() for name in paths) if path.is_file()]


def _keys_of(target: SshTarget) -> list[paramiko.PKey]:
    return [key for line in _lines(target) if (key := _key_in(line, target.known_as)) is not None]


def _key_in(line: str, name: str) -> paramiko.PKey | None:
    """Return the key of a line of known_hosts if it is one for this host."""
    try:
        entry = HostKeyEntry.from_line(line)
    except (InvalidHostKey, paramiko.SSHException, ValueError):
        return None
    if entry is None:
        return None
    alone = HostKeys()
    for pattern in entry.hostnames:
        alone.add(pattern, entry.key.get_name(), entry.key)
    return entry.key if alone.lookup(name) is not None else None


def _revoked(target: SshTarget) -> set[str]:
    return {fields[3] for line in _lines(target, "@") if (fields := line.split())[0] == "@revoked" and len(fields) > 3}


def _lines(target: SshTarget, mark: str = "") -> Iterator[str]:
    for path in _present([str(path) for path in target.known_hosts]):
        for line in path.read_text(errors="replace").splitlines():
            words = " ".join(line.split())
            if words and not words.startswith("#") and words.startswith("@") == bool(mark):
                yield words
