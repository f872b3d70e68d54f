"""Who is trusted, and what is said when somebody is not; on a real server."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from drtool.core.command import Command
from drtool.errors import CommandFailed, HostUnfit
from drtool.hosts.prefix import open_prefixed
from drtool.hosts.ssh import SshRunner, open_ssh
from drtool.hosts.ssh_target import SshTarget
from tests.sshd import SshServer, certify, make_key, ssh_server

pytestmark = pytest.mark.engine("sshd")


def works(target: SshTarget) -> bool:
    with closing(open_ssh(target)) as runner:
        return runner.run(Command(("echo", "in"))) == b"in\n"


def refused(target: SshTarget) -> HostUnfit:
    with pytest.raises(HostUnfit) as caught:
        open_ssh(target)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return caught.value


def known(tmp_path: Path, *lines: str) -> tuple[Path]:
    path = tmp_path / "known_hosts"
    path.write_text("".join(f"{line}\n" for line in lines))
    return (path,)


@pytest.fixture
def other_key(tmp_path: Path) -> str:
    return " ".join((make_key(tmp_path / "other").with_suffix(".pub")).read_text().split()[:2])


def test_a_known_host_lets_the_right_key_in(sshd: SshServer) -> None:
    assert works(sshd.target)


def test_a_name_says_who_and_where(sshd: SshServer) -> None:
    assert SshRunner(sshd.target).name == f"{sshd.target.user}@127.0.0.1:{sshd.port}"


def test_an_unknown_host_is_refused_with_the_line_that_would_make_it_known(sshd: SshServer, tmp_path: Path) -> None:
    error = refused(replace(sshd.target, known_hosts=known(tmp_path)))
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(sshd.folder / "host.pub")], capture_output=True, text=True, check=True
    )
    assert shown.stdout.split()[1] in str(error)
    line = error.hint.partition(f"{tmp_path}/known_hosts: ")[2]
    assert works(replace(sshd.target, known_hosts=known(tmp_path, line)))


def test_a_host_without_any_file_of_known_hosts_is_refused(sshd: SshServer, tmp_path: Path) -> None:
    assert "not known" in str(refused(replace(sshd.target, known_hosts=(tmp_path / "nowhere",))))


def test_a_changed_host_key_is_refused_loudly(sshd: SshServer, tmp_path: Path, other_key: str) -> None:
    error = refused(replace(sshd.target, known_hosts=known(tmp_path, f"{sshd.target.known_as} {other_key}")))
    assert "CHANGED" in str(error)
    assert "a set was restored shows the set's own key" in error.hint


def test_the_key_of_another_host_does_not_count(sshd: SshServer, tmp_path: Path) -> None:
    lines = (f"127.0.0.1 {sshd.host_key}", f"[127.0.0.2]:{sshd.port} {sshd.host_key}")
    assert "not known" in str(refused(replace(sshd.target, known_hosts=known(tmp_path, *lines))))


def test_a_revoked_host_key_is_refused_although_it_is_known(sshd: SshServer, tmp_path: Path) -> None:
    line = f"{sshd.target.known_as} {sshd.host_key}"
    error = refused(replace(sshd.target, known_hosts=known(tmp_path, line, f"@revoked * {sshd.host_key}")))
    assert "revoked" in str(error)


def test_a_certificate_authority_for_hosts_makes_nobody_known(sshd: SshServer, tmp_path: Path) -> None:
    line = f"@cert-authority * {sshd.host_key}"
    assert "not known" in str(refused(replace(sshd.target, known_hosts=known(tmp_path, line))))


def test_hashed_names_several_keys_and_odd_lines_are_understood(
    sshd: SshServer, tmp_path: Path, other_key: str
) -> None:
    name = sshd.target.known_as
    files = known(
        tmp_path,
        "# comment",
        "",
        "garbage",
        f"{name} ssh-ed25519 !!!",
        f"{name} {other_key}",
        f"{name} {sshd.host_key}",
    )
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(files[0])], check=False, capture_output=True)
    assert works(replace(sshd.target, known_hosts=files))


def test_a_key_that_opens_nothing_is_named(sshd: SshServer, tmp_path: Path) -> None:
    wrong = make_key(tmp_path / "wrong")
    assert str(wrong) in str(refused(replace(sshd.target, identity_files=(wrong,))))


def test_a_key_that_cannot_be_read_is_named_with_the_reason(sshd: SshServer, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "not-a-real-passphrase", "-f", str(locked)], check=True)
    missing = tmp_path / "missing"
    error = refused(replace(sshd.target, identity_files=(locked, missing)))
    assert str(locked) in str(error)
    assert str(missing) in str(error)
    assert "agent" in error.hint


def test_a_later_key_may_be_the_right_one(sshd: SshServer, tmp_path: Path) -> None:
    assert works(replace(sshd.target, identity_files=(make_key(tmp_path / "wrong"), *sshd.target.identity_files)))


def test_a_certificate_beside_its_key_lets_in(sshd: SshServer, tmp_path: Path) -> None:
    key = make_key(tmp_path / "certified")
    target = replace(sshd.target, identity_files=(key,))
    refused(target)
    certify(sshd.folder, key, sshd.target.user)
    assert works(target)


def test_a_certificate_elsewhere_lets_in(sshd: SshServer, tmp_path: Path) -> None:
    key = make_key(tmp_path / "certified")
    moved = certify(sshd.folder, key, sshd.target.user).rename(tmp_path / "elsewhere.pub")
    assert works(replace(sshd.target, identity_files=(key,), certificate_file=moved))


def test_a_certificate_for_somebody_else_does_not_let_in(sshd: SshServer, tmp_path: Path) -> None:
    key = make_key(tmp_path / "certified")
    certify(sshd.folder, key, "somebody-else")
    refused(replace(sshd.target, identity_files=(key,)))


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with TemporaryDirectory() as folder:
        where = f"{folder}/agent"
        process = subprocess.Popen(["ssh-agent", "-D", "-a", where], stdout=subprocess.DEVNULL)
        monkeypatch.setenv("SSH_AUTH_SOCK", where)
        try:
            while not os.path.exists(where):
                assert process.poll() is None
            yield
        finally:
            process.terminate()
            process.wait()


def test_a_key_of_the_agent_lets_in_unless_the_agent_is_left_out(sshd: SshServer, agent: None, tmp_path: Path) -> None:
    subprocess.run(["ssh-add", "-q", str(sshd.folder / "id")], check=True, capture_output=True)
    target = replace(sshd.target, identity_files=(tmp_path / "none",), use_agent=True)
    assert works(target)
    refused(replace(target, use_agent=False))


def test_a_jump_host_leads_to_the_server(sshd: SshServer) -> None:
    assert works(replace(sshd.target, jump=sshd.target))


def test_a_jump_host_is_as_little_trusted_as_any(sshd: SshServer, tmp_path: Path) -> None:
    error = refused(replace(sshd.target, jump=replace(sshd.target, known_hosts=known(tmp_path))))
    assert "not known" in str(error)


def test_a_jump_host_that_gets_no_further_is_named(sshd: SshServer) -> None:
    error = refused(replace(sshd.target, port=closed_port(), jump=sshd.target))
    assert f"through {sshd.target}" in str(error)


def test_a_port_where_nobody_listens_is_named(sshd: SshServer) -> None:
    port = closed_port()
    error = refused(replace(sshd.target, port=port))
    assert str(port) in str(error)
    assert "refused" in str(error)


def test_a_name_that_does_not_exist_is_named(sshd: SshServer) -> None:
    assert "no-such-host.invalid" in str(refused(replace(sshd.target, host="no-such-host.invalid")))


def test_something_that_is_not_ssh_is_no_server(sshd: SshServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:
        target = replace(sshd.at(web.getsockname()[1]), connect_timeout=timedelta(seconds=2))
        with pytest.raises(HostUnfit, match="ssh"):
            open_ssh(target)


@pytest.mark.parametrize("setting", ["ForceCommand echo hello; exec $SSH_ORIGINAL_COMMAND", "ForceCommand false"])
def test_a_login_that_does_not_just_run_commands_is_refused(setting: str) -> None:
    """What ~/.bashrc prints would become the beginning of every archive."""
    with TemporaryDirectory() as folder, ssh_server(Path(folder), setting) as server:
        assert "nothing else" in str(refused(server.target))


def test_a_server_that_takes_no_keys_is_named() -> None:
    with TemporaryDirectory() as folder, ssh_server(Path(folder), "PubkeyAuthentication no") as server:
        refused(server.target)


def test_sudo_runs_as_root_and_the_login_does_not(sshd: SshServer) -> None:
    with closing(open_ssh(sshd.sudo_target)) as runner:
        assert runner.run(Command(("id", "-u"))) == b"0\n"
    with closing(open_ssh(replace(sshd.sudo_target, sudo=False))) as runner:
        assert runner.run(Command(("id", "-u"))) != b"0\n"


def test_sudo_that_asks_says_that_the_command_never_began(sshd: SshServer) -> None:
    if not sshd.operator:
        pytest.skip("an account that may not use sudo needs root")
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sudo", "-n", "--")
    with pytest.raises(CommandFailed, match="could not be started on here") as caught:
        open_prefixed(prefix, "here").run(Command(("true",)))
    assert caught.value.status is None
    assert "sudo" in str(caught.value)


def test_a_prefix_that_does_not_exist_is_named() -> None:
    with pytest.raises(CommandFailed, match="no-such-prefix") as caught:
        open_prefixed(("no-such-prefix",), "here").run(Command(("true",)))
    assert caught.value.status == 127


def test_a_prefix_shows_the_environment_that_it_leads_to_unless_told_otherwise() -> None:
    prefix = ("env", "SET_IN_THE_CONTAINER=yes")
    assert b"SET_IN_THE_CONTAINER" in open_prefixed(prefix, "here").run(Command(("env",)))
    assert b"SET_IN_THE_CONTAINER" not in open_prefixed(prefix, "here", clean=True).run(Command(("env",)))


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
