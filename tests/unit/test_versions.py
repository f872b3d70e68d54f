from __future__ import annotations

import pytest

from drtool.core.versions import GitLabVersion, package_for, parse_version, same_version
from drtool.errors import HostUnfit, VersionMismatch


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("18.6.2", GitLabVersion("18.6.2", 18, 6, 2, "ce")),
        ("18.9.0-ee\n", GitLabVersion("18.9.0-ee", 18, 9, 0, "ee")),
        ("17.3.1-jh", GitLabVersion("17.3.1-jh", 17, 3, 1, "jh")),
        ("10.6.4-ce", GitLabVersion("10.6.4-ce", 10, 6, 4, "ce")),
        ("18.9.0-pre", GitLabVersion("18.9.0-pre", 18, 9, 0, "ce", "pre")),
        ("18.9.0-rc42-ee", GitLabVersion("18.9.0-rc42-ee", 18, 9, 0, "ee", "rc42")),
        ("9.2.0.rc1", GitLabVersion("9.2.0.rc1", 9, 2, 0, "ce", "rc1")),
    ],
)
def test_versions_are_read_as_the_version_file_writes_them(text: str, expected: GitLabVersion) -> None:
    assert parse_version(text) == expected
    assert str(parse_version(text)) == text.strip()


@pytest.mark.parametrize("text", ["", "18.9", "latest", "18.9.0-xx", "v18.9.0", "18.9.0-ee extra", "18.9.0\n18.9.1"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(HostUnfit):
        parse_version(text)


def test_releases_are_compared_by_number() -> None:
    version = parse_version("18.10.0-ee")
    assert version.at_least(18, 9)
    assert version.at_least(18, 10)
    assert version.at_least(17)
    assert not version.at_least(18, 11)
    assert not version.at_least(19)
    assert parse_version("17.0.0-pre").at_least(17)


@pytest.mark.parametrize(
    ("version", "package"),
    [
        ("18.9.0-ee", "gitlab-ee=18.9.0-ee.0"),
        ("18.6.2", "gitlab-ce=18.6.2-ce.0"),
        ("16.7.0-ce", "gitlab-ce=16.7.0-ce.0"),
        ("17.3.1-jh", "gitlab-jh=17.3.1-jh.0"),
        ("18.9.0-pre", None),
        ("18.9.0-rc42-ee", None),
    ],
)
def test_the_package_of_a_version_is_named_as_apt_takes_it(version: str, package: str | None) -> None:
    assert package_for(version) == package
    assert package_for(parse_version(version)) == package


def test_equal_versions_fit() -> None:
    same_version("18.9.0-ee", "18.9.0-ee\n")
    same_version("a build of our own", "a build of our own")


@pytest.mark.parametrize(
    ("of_set", "of_target"),
    [
        ("18.9.0-ee", "18.9.1-ee"),
        ("18.9.0-ee", "18.9.0"),
        ("18.9.0", "18.9.0-ee"),
        ("18.9.0", "18.9.0-ce"),
        ("18.9.0", "18.9.00"),
        ("18.9.0", "18.9.0-pre"),
    ],
)
def test_any_other_string_does_not_fit_and_both_are_named(of_set: str, of_target: str) -> None:
    with pytest.raises(VersionMismatch) as caught:
        same_version(of_set, of_target)
    assert repr(of_set) in str(caught.value)
    assert repr(of_target) in str(caught.value)


def test_the_hint_names_exactly_the_package_of_the_set() -> None:
    with pytest.raises(VersionMismatch) as caught:
        same_version("18.6.2", "18.9.0-ee")
    assert "gitlab-ce=18.6.2-ce.0" in caught.value.hint


@pytest.mark.parametrize("of_set", ["18.9.0-pre", "a build of our own"])
def test_the_hint_does_not_invent_a_package(of_set: str) -> None:
    with pytest.raises(VersionMismatch) as caught:
        same_version(of_set, "18.9.0-ee")
    assert "=" not in caught.value.hint
    assert "no package" in caught.value.hint
