"""Where an ssh server is and how to be let in, as a value."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from drtool.errors import ConfigError

_TARGET = re.compile(
    r"(?:(?P<user>[^@\s]+)@)?(?:\[(?P<v6>[0-9a-fA-F:.%]+)\]|(?P<host>[^@:\[\]\s/]+))(?::(?P<port>\d+))?"
)
_PORT = 22


@dataclass(frozen=True, slots=True)
class SshTarget:
    """A server and a login. Nothing here is secret: keys are named, not held."""

    host: str
    user: str = "root"
    port: int = _PORT
    identity_files: tuple[Path, ...] = ()
    """Private keys; a certificate is found beside its key as ``…-cert.pub``. None: ~/.ssh/id_ed25519 and the like."""
    certificate_file: Path | None = None
    """For the first of the identity files."""
    use_agent: bool = True
    known_hosts: tuple[Path, ...] = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
    jump: SshTarget | None = None
    sudo: bool = False
    """Log in as ``user``, run everything as root by ``sudo -n``."""
    connect_timeout: timedelta = timedelta(seconds=15)
    """For each step: the connection, the handshake, the login, the opening of a channel."""
    keepalive: timedelta = timedelta(seconds=15)
    """How often the server is asked whether it is there; it has ``keepalive_patience`` to answer."""
    keepalive_patience: timedelta = timedelta(seconds=45)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}" + (f":{self.port}" if self.port != _PORT else "")

    @property
    def known_as(self) -> str:
        """The name that the server has in known_hosts."""
        return self.host.lower() if self.port == _PORT else f"[{self.host.lower()}]:{self.port}"


def parse_target(text: str, *, config: Path | None = Path("~/.ssh/config")) -> SshTarget:
    """Read ``[user@]host[:port]``, and what the OpenSSH configuration file says of that host. Raises ConfigError.

    Of the file these count: HostName, User, Port, IdentityFile, CertificateFile, IdentitiesOnly, UserKnownHostsFile,
    ProxyJump, ConnectTimeout and ServerAliveInterval. A file that is not there says nothing.
    """
    return _target(text, config.expanduser() if config else None, hops=8)


def _target(text: str, config: Path | None, *, hops: int) -> SshTarget:
    parts = _TARGET.fullmatch(text)
    if not parts or not 0 < int(parts["port"] or _PORT) < 1 << 16:
        raise ConfigError(f"not an ssh destination: {text!r}", hint="Write it as user@host or user@host:port.")
    if not hops:
        raise ConfigError(f"the jump hosts of {config} lead in a circle", hint="Look at its ProxyJump lines.")
    host = parts["v6"] or parts["host"]
    said = _lookup(config, host)
    if said.get("proxycommand"):
        raise ConfigError(
            f"{config} reaches {host} by a ProxyCommand, which drtool does not run", hint="Use ProxyJump instead."
        )
    defaults = SshTarget(host)
    seconds = {name: _number(said[name], config) for name in ("connecttimeout", "serveraliveinterval") if name in said}
    keepalive = seconds.get("serveraliveinterval")
    return SshTarget(
        host=str(said.get("hostname", host)),
        user=parts["user"] or str(said.get("user", defaults.user)),
        port=int(parts["port"] or 0) or _number(said.get("port", _PORT), config),
        identity_files=_paths(said.get("identityfile")),
        certificate_file=next(iter(_paths(said.get("certificatefile"))), None),
        use_agent=said.get("identitiesonly") != "yes",
        known_hosts=_paths(said.get("userknownhostsfile")) + defaults.known_hosts[1:]
        if "userknownhostsfile" in said
        else defaults.known_hosts,
        jump=_jump(said.get("proxyjump"), config, hops),
        connect_timeout=timedelta(seconds=seconds.get("connecttimeout") or defaults.connect_timeout.seconds),
        keepalive=timedelta(seconds=keepalive) if keepalive else defaults.keepalive,
        keepalive_patience=timedelta(seconds=3 * keepalive) if keepalive else defaults.keepalive_patience,
    )


def _lookup(config: Path | None, host: str) -> Mapping[str, object]:
    if not config or not config.is_file():
        return {}
    from paramiko import ConfigParseError, CouldNotCanonicalize, SSHConfig  # slow to import

    try:
        return SSHConfig.from_path(config).lookup(host)  # type: ignore[no-any-return]  # paramiko has no types
    except (ConfigParseError, CouldNotCanonicalize, OSError, UnicodeDecodeError, ImportError) as error:
        raise ConfigError(f"{config} cannot be read: {error}", hint="Try `ssh -G HOST`.") from error


def _jump(text: object, config: Path | None, hops: int) -> SshTarget | None:
    """The last of several is nearest to the host, and is reached through the others."""
    if not text or str(text).lower() == "none":
        return None
    first, *others = [
        _target(hop.strip().removeprefix("ssh://"), config, hops=hops - 1) for hop in str(text).split(",")
    ]
    for hop in others:
        first = replace(hop, jump=first)
    return first


def _paths(value: object) -> tuple[Path, ...]:
    if not value:
        return ()
    words: Sequence[str] = [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]  # text or a list of texts
    return tuple(Path(word).expanduser() for line in words for word in line.split() if word != "none")


def _number(value: object, config: Path | None) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ConfigError(f"{config}: not a number: {value!r}") from None
