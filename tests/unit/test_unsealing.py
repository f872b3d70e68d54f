from __future__ import annotations

import re
from datetime import timedelta
from pathlib import PurePosixPath

import pytest

from drtool.core.command import Command
from drtool.core.model import Volume
from drtool.errors import CommandFailed, StoreError
from drtool.installs import unsealing
from drtool.installs.unsealing import Ended, Found, fetch, identity_lines, parse_tree, unseal_into, url_lines

FOLDER = PurePosixPath("/var/opt/gitlab/backups/.drtool-restore-sealed")
VOLUME = Volume("application-0000.tar.age", 10, "a" * 64, 200, "b" * 64)


def test_volume_is_fetched_by_what_the_manifest_says_of_it() -> None:
    command = fetch(FOLDER, VOLUME, patience=timedelta(minutes=1))
    assert command.argv[:2] == ("sh", "-c")
    assert command.argv[3:] == ("sh", str(FOLDER), VOLUME.name, "200", "b" * 64, "60")


def test_unsealing_ends_in_the_given_command() -> None:
    command = unseal_into(Command(("tar", "-x")), FOLDER, sealed=True)
    assert command.argv[3:] == ("sh", str(FOLDER), "age", "tar", "-x")
    assert unseal_into(Command(("tar", "-x")), FOLDER, sealed=False).argv[5] == "none"


def test_scripts_end_with_statuses_that_have_a_name() -> None:
    scripts = "".join(text for name, text in vars(unsealing).items() if name.isupper() and isinstance(text, str))
    used = {int(number) for number in re.findall(r"(?:fail|return) (\d{2})\b", scripts)}
    assert used == set(Ended)


@pytest.mark.parametrize("url", ["https://store.example.com/a?X=1&Y=%2F", "http://127.0.0.1:9000/b/a~[1]"])
def test_url_is_named_as_it_stands(url: str) -> None:
    assert url_lines(url) == f'url = "{url}"\n'.encode()


@pytest.mark.parametrize(
    "url", ['https://a/"\noutput = "/etc/passwd', "https://a/\\", "https://a/ b", "file:///etc/shadow", "https://", "https://a/\n"]
)  # fmt: skip
def test_url_that_would_say_more_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        url_lines(url)
    assert url not in str(caught.value)


def test_identity_is_told_line_by_line() -> None:
    assert identity_lines(b"") == b"0\n"
    assert identity_lines(b"AGE-SECRET-KEY-1FAKE") == b"1\nAGE-SECRET-KEY-1FAKE\n"
    assert identity_lines(b"BEGIN\nfake\nEND\n") == b"3\nBEGIN\nfake\nEND\n"


def test_listing_of_a_tree_is_read() -> None:
    listed = b"d 40 1 \0a b\0f 3 2 \0a b/\xff\n\0l 2 3 to it\0link\0"
    assert parse_tree(listed) == (
        Found("a b", "d", 40, 1, ""),
        Found("a b/\udcff\n", "f", 3, 2, ""),
        Found("link", "l", 2, 3, "to it"),
    )
    assert parse_tree(b"") == ()


@pytest.mark.parametrize("cut", [b"f 3 2 \0", b"f 3 2 \0name", b"f x 2 \0name\0", b"f 3 2\0name\0"])
def test_listing_of_a_tree_that_breaks_off_is_refused(cut: bytes) -> None:
    with pytest.raises(CommandFailed):
        parse_tree(cut)
