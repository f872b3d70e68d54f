"""The tables about notifications and hooks: good ones, bad ones, and those of the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drtool.config import Config, read_config
from drtool.core.bulletin import discreet
from drtool.errors import ConfigError
from drtool.initialise import TEMPLATE

ROOT = Path(__file__).parent.parent.parent
BASE = '[store.main]\nkind = "local"\npath = "/srv/backups"\n[[instance]]\nname = "gitlab"\nstore = "main"\n'


def parse(folder: Path, text: str) -> Config:
    path = folder / "drtool.toml"
    path.write_text(BASE + text)
    return read_config(path)


def test_nobody_is_told_and_no_hook_runs_without_a_word_of_it(tmp_path: Path) -> None:
    (instance,) = parse(tmp_path, "").instance
    assert (instance.notify.urls, instance.notify.ping_url, instance.hooks) == ((), None, ())
    assert instance.notify.on == ("failure", "breach")


def test_references_are_meant_from_the_configuration(tmp_path: Path) -> None:
    (instance,) = parse(
        tmp_path, '[instance.notify]\nurls = ["file:mail", "env:CHAT"]\nping_url = "file:ping"'
    ).instance
    assert instance.notify.urls == (f"file:{tmp_path}/mail", "env:CHAT")
    assert instance.notify.ping_url == f"file:{tmp_path}/ping"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            '[instance.notify]\nurls = ["mailto://user:fake@host"]',
            "instance[0].notify.urls[0]: secrets are not written",
        ),
        (
            '[instance.notify]\nping_url = "https://host/fake"',
            "instance[0].notify.ping_url: secrets are not written here",
        ),
        ('[instance.notify]\nurls = ["env:A"]\non = ["sometimes"]', "instance[0].notify.on[0]: should be 'start', "),
        ('[instance.notify]\non = ["start"]', "instance[0].notify: on is for urls"),
        ('[instance.notify]\ntimeout = "soon"', "instance[0].notify.timeout: write seconds, minutes or hours"),
        ('[instance.notify]\ntimeout = "0s"', "instance[0].notify.timeout: write seconds, minutes or hours"),
        ('[instance.notify]\nurl = ["env:A"]', "instance[0].notify.url: no such key"),
        (
            '[[instance.hooks]]\nwhen = "before-lunch"\ncommand = ["a"]',
            "instance[0].hooks[0].when: should be on-failure",
        ),
        ('[[instance.hooks]]\nwhen = "on-failure"\ncommand = []', "instance[0].hooks[0].command: "),
        ('[[instance.hooks]]\nwhen = "on-failure"\ncommand = ["A=b", "c"]', "command: should begin with a program"),
        ('[[instance.hooks]]\nwhen = "on-failure"\ncommand = "rm -rf"', 'command: should be a list: ["…"]'),
    ],
)
def test_a_wrong_table_is_told_with_its_key(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(tmp_path, text)
    assert complaint in str(caught.value)
    assert "fake" not in str(caught.value)


def examples(text: str) -> str:
    """The tables about notifications and hooks of a text."""
    found = re.findall(r"^(\[+instance\.(?:notify|hooks)\]+.*\n(?:\w+ = .+\n)+)", text, re.MULTILINE)
    assert len(found) == 2
    return "\n".join(found)


@pytest.mark.parametrize("text", [(ROOT / "README.md").read_text(), re.sub("^# ", "", TEMPLATE, flags=re.MULTILINE)])
def test_the_examples_are_tables(tmp_path: Path, text: str) -> None:
    (instance,) = parse(tmp_path, examples(text)).instance
    assert instance.notify.urls
    assert instance.notify.ping_url
    assert [hook.when for hook in instance.hooks] == ["before-backup"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/etc/drtool/drtool.toml: store: is missing", "… store: is missing"),
        ("the file '/srv/our backups/a b' is gone", "the file … is gone"),
        ("https://user:fake-word@host/x?y did not answer", "… did not answer"),
        ("user@host.example.com: refused", "… refused"),
        ("repository group/secret-project: 001.bundle is missing", "repository … 001.bundle is missing"),
        ("AGE-SECRET-KEY-1FAKEFAKE2FAKEFAKE3FAKE is no file", "… is no file"),
        ("token=fake password: fake2", "… …"),
        (
            "Run `drtool copy 20260113T031500Z-7f3a --to share` later.",
            "Run `drtool copy 20260113T031500Z-7f3a --to share` later.",
        ),
        ("two\nlines", "two lines"),
    ],
)
def test_what_is_said_outside_has_no_path_address_or_key(text: str, said: str) -> None:
    assert discreet(text) == said


def test_what_is_said_outside_is_short() -> None:
    assert len(discreet("word " * 1000)) == 400
