"""Destinations, and what ~/.ssh/config says of them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from drtool.errors import ConfigError
from drtool.hosts.ssh_target import SshTarget, parse_target


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(
        """
Host gitlab
  HostName gitlab.example.com
  User admin
  Port 2222
  IdentityFile ~/keys/one
  IdentityFile /keys/two
  CertificateFile /keys/one-cert.pub
  IdentitiesOnly yes
  UserKnownHostsFile /keys/known /keys/more
  ConnectTimeout 7
  ServerAliveInterval 5

Host inside
  ProxyJump first.example.com,ops@second.example.com:2022

Host circle
  ProxyJump circle

Host commanded
  ProxyCommand nc %h %p

Host wrong
  Port many
"""
    )
    return path


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("gitlab.example.com", "root", "gitlab.example.com", 22),
        ("git@gitlab.example.com", "git", "gitlab.example.com", 22),
        ("git@gitlab.example.com:2022", "git", "gitlab.example.com", 2022),
        ("git@[2001:db8::1]:2022", "git", "2001:db8::1", 2022),
    ],
)
def test_parse_target_reads_user_host_and_port(text: str, user: str, host: str, port: int) -> None:
    target = parse_target(text, config=None)
    assert (target.user, target.host, target.port) == (user, host, port)
    assert parse_target(str(target), config=None) == target


@pytest.mark.parametrize(
    "text", ["", "@host", "user@", "host:", "host:0", "host:65536", "a b", "2001:db8::1", "h/x", "-oOption=x host"]
)
def test_parse_target_refuses_what_is_no_destination(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_target(text, config=None)


def test_parse_target_takes_the_configuration_of_the_host(config: Path) -> None:
    target = parse_target("gitlab", config=config)
    assert (target.user, target.host, target.port) == ("admin", "gitlab.example.com", 2222)
    assert target.identity_files == (Path("~/keys/one").expanduser(), Path("/keys/two"))
    assert target.certificate_file == Path("/keys/one-cert.pub")
    assert not target.use_agent
    assert target.known_hosts[:2] == (Path("/keys/known"), Path("/keys/more"))
    assert target.connect_timeout == timedelta(seconds=7)
    assert target.keepalive == timedelta(seconds=5)


def test_parse_target_prefers_what_the_destination_itself_says(config: Path) -> None:
    target = parse_target("me@gitlab:22", config=config)
    assert (target.user, target.port) == ("me", 22)


def test_parse_target_reaches_the_last_jump_host_through_the_first(config: Path) -> None:
    second = parse_target("inside", config=config).jump
    assert second
    assert str(second) == "ops@second.example.com:2022"
    assert second.jump
    assert second.jump.host == "first.example.com"
    assert second.jump.jump is None


@pytest.mark.parametrize("host", ["circle", "commanded", "wrong"])
def test_parse_target_refuses_a_configuration_that_it_cannot_follow(config: Path, host: str) -> None:
    with pytest.raises(ConfigError):
        parse_target(host, config=config)


def test_parse_target_needs_no_configuration(tmp_path: Path) -> None:
    assert parse_target("host", config=tmp_path / "none") == SshTarget("host")


def test_known_as_names_a_port_that_is_not_the_usual(tmp_path: Path) -> None:
    assert SshTarget("Host.example.com").known_as == "host.example.com"
    assert SshTarget("host", port=2022).known_as == "[host]:2022"
