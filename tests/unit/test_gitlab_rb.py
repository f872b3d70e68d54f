"""gitlab.rb gets a block of ours at its end, and loses exactly that again."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from drtool.core.versions import parse_version
from drtool.errors import ConfigError
from drtool.installs.gitlab_rb import add_isolation, holds_isolation, isolation_lines, leads_out, remove_isolation

LINES = ("gitlab_rails['gitlab_email_enabled'] = false", "letsencrypt['enable'] = false")
VERSION = parse_version("18.9.0-ee")

PIECES = (
    *(b"\n", b"\r\n", b"\r", b"", b"__END__", b"\n__END__\n", b"# drtool", b"=begin", b"\xff\xfe"),
    *(b"gitlab_rails['gitlab_email_enabled'] = true", b"from_file '/etc/gitlab/more.rb'"),
)
FILES = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), max_size=12).map(b"".join)


@given(FILES)
@example(b"")
@example(b"a\r")
@example(b"a\r\nb")
@example(b"__END__")
def test_removing_what_was_added_gives_the_same_bytes(content: bytes) -> None:
    assert remove_isolation(add_isolation(content, LINES)) == content


@given(FILES)
def test_adding_twice_is_adding_once(content: bytes) -> None:
    once = add_isolation(content, LINES)

    assert add_isolation(once, LINES) == once
    assert holds_isolation(once)
    assert not holds_isolation(content)


@given(FILES)
def test_everything_that_stood_there_stands_there_still(content: bytes) -> None:
    added = add_isolation(content, LINES)
    ends = re.search(rb"^__END__\r?$", content, re.MULTILINE)
    read = content[: ends.start()] if ends else content

    assert added.startswith(read)
    assert added.endswith(content[len(read) :])


@given(FILES)
def test_a_later_set_of_lines_takes_the_place_of_an_earlier_one(content: bytes) -> None:
    assert add_isolation(add_isolation(content, LINES[:1]), LINES) == add_isolation(content, LINES)


def test_an_existing_setting_comes_before_ours_and_stays() -> None:
    content = b"gitlab_rails['gitlab_email_enabled'] = true\nfrom_file '/etc/gitlab/mail.rb'\n"

    added = add_isolation(content, LINES)

    assert added.startswith(content)
    assert added.index(b"from_file") < added.index(b"= false")


def test_the_block_has_the_line_ends_of_the_file() -> None:
    added = add_isolation(b"external_url 'https://a.example.com'\r\n", LINES)

    assert b"\n" not in added.replace(b"\r\n", b"")


def test_a_file_without_a_line_end_gets_one_for_as_long_as_ours_is_there() -> None:
    added = add_isolation(b"external_url 'https://a.example.com'", LINES)

    assert added.splitlines()[0] == b"external_url 'https://a.example.com'"
    assert added.endswith(b"\n")


def test_what_somebody_wrote_below_the_block_stays_on_a_line_of_its_own() -> None:
    added = add_isolation(b"first = 1", LINES) + b"second = 2\n"

    assert remove_isolation(added) == b"first = 1\nsecond = 2\n"


def test_what_somebody_wrote_below_the_block_no_longer_wins_after_adding_again() -> None:
    added = add_isolation(b"", LINES) + b"gitlab_rails['gitlab_email_enabled'] = true\n"

    assert add_isolation(added, LINES).index(b"= true") < add_isolation(added, LINES).index(b"= false")


@pytest.mark.parametrize("lost", [b"# drtool isolation: begin", b"# drtool isolation: end"])
def test_a_block_with_one_of_its_lines_gone_is_refused(lost: bytes) -> None:
    broken = add_isolation(b"a = 1\n", LINES).replace(lost, b"#")

    for change in (remove_isolation, lambda content: add_isolation(content, LINES)):
        with pytest.raises(ConfigError, match="only one of the two lines"):
            change(broken)


@pytest.mark.engine("ruby")
@pytest.mark.skipif(shutil.which("ruby") is None, reason="ruby is not installed")
def test_ruby_reads_ours_last() -> None:
    content = b"gitlab_rails['gitlab_email_enabled'] = true\n__END__\nnot ruby ]]\n"
    program = b"gitlab_rails = {}; letsencrypt = {}\n" + add_isolation(content, LINES).replace(
        b"__END__", b"puts gitlab_rails['gitlab_email_enabled']\n__END__"
    )

    printed = subprocess.run(["ruby", "-"], input=program, capture_output=True, check=True).stdout

    assert printed == b"false\n"


def test_lets_encrypt_is_switched_off_where_the_package_has_it() -> None:
    assert "letsencrypt['enable'] = false" in isolation_lines(VERSION, b"")
    assert not any("letsencrypt" in line for line in isolation_lines(parse_version("10.4.2"), b""))


@pytest.mark.parametrize(
    ("content", "written"),
    [
        (b"", False),
        (b"# alertmanager['enable'] = true\n", False),
        (b"alertmanager['admin_email'] = 'root@example.com'\n", True),
        (b"from_file '/etc/gitlab/more.rb'\n", True),
        (b"__END__\nalertmanager['admin_email'] = 'root@example.com'\n", False),
    ],
)
def test_a_service_that_a_package_may_not_know_is_named_only_where_the_file_may_speak_of_it(
    content: bytes, written: bool
) -> None:
    assert ("alertmanager['enable'] = false" in isolation_lines(VERSION, content)) is written


def test_the_lines_of_a_file_that_holds_them_already_are_the_same() -> None:
    content = b"external_url 'https://a.example.com'\n"
    lines = isolation_lines(VERSION, content)

    assert isolation_lines(VERSION, add_isolation(content, lines)) == lines


def test_what_leads_out_of_the_host_is_named_and_comments_are_not() -> None:
    content = b"""\
gitlab_rails['object_store']['enabled'] = true
# gitlab_rails['db_host'] = 'db.example.com'
  gitlab_rails['backup_upload_connection'] = { 'provider' => 'AWS' }
git_data_dirs({ "default" => { "gitaly_address" => "tcp://gitaly.example.com" } })
"""

    assert leads_out(content) == ("object storage", "uploads of GitLab's own backups", "a Gitaly elsewhere")
    assert leads_out(b"external_url 'https://a.example.com'\n") == ()
