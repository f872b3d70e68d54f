"""Where secrets are read from, which of two values counts, and what is left alone because only Ruby could tell."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.gitlab.secrets import Key, Secrets, read_secrets

DB = "fake-db-key-base-" + "0123456789abcdef" * 4
OTHER = "fake-other-key-base-" + "fedcba9876543210" * 4


def omnibus(**rails: object) -> bytes:
    return json.dumps({"gitlab_rails": rails}).encode()


def test_gitlab_secrets_json_gives_strings_lists_and_leaves_out_what_is_null() -> None:
    secrets = read_secrets(
        secrets_json=omnibus(
            db_key_base=[DB, OTHER],
            otp_key_base="fake-otp",
            secret_key_base=None,
            openid_connect_signing_key="",
            active_record_encryption_primary_key=["fake-primary"],
        )
    )
    assert secrets.current(Key.DB) == (DB, OTHER)
    assert secrets.current(Key.OTP) == ("fake-otp",)
    assert secrets.current(Key.RAILS_PRIMARY) == ("fake-primary",)
    assert not secrets.current(Key.SESSIONS)
    assert not secrets.current(Key.OPENID)
    assert not secrets.problems
    assert not secrets.unreadable


def test_former_names_count_where_the_new_one_is_missing() -> None:
    former = {"gitlab_ci": {"db_key_base": DB}, "gitlab_rails": {"secret_token": "fake-otp", "jws_private_key": "pem"}}
    secrets = read_secrets(secrets_json=json.dumps(former).encode())
    assert (secrets.current(Key.DB), secrets.current(Key.OTP), secrets.current(Key.OPENID)) == (
        (DB,),
        ("fake-otp",),
        ("pem",),
    )


def test_a_former_name_with_another_value_is_tried_and_reported() -> None:
    both = {"gitlab_ci": {"db_key_base": OTHER}, "gitlab_rails": {"db_key_base": DB}}
    secrets = read_secrets(secrets_json=json.dumps(both).encode())
    assert secrets.current(Key.DB) == (DB,)
    assert [each.text for each in secrets.candidates(Key.DB)] == [DB, OTHER]
    assert secrets.problems == (
        "db_key_base: gitlab-secrets.json overrules another value in gitlab-secrets.json under its former name",
    )


def test_a_value_of_gitlab_rb_overrules_the_one_that_was_generated() -> None:
    secrets = read_secrets(
        gitlab_rb=f"gitlab_rails['db_key_base'] = '{DB}'\n".encode(), secrets_json=omnibus(db_key_base=OTHER)
    )
    assert secrets.current(Key.DB) == (DB,)
    assert [each.text for each in secrets.candidates(Key.DB)] == [DB, OTHER]
    assert secrets.problems == ("db_key_base: gitlab.rb overrules another value in gitlab-secrets.json",)


def test_the_same_value_twice_is_no_problem() -> None:
    secrets = read_secrets(
        gitlab_rb=f"gitlab_rails['db_key_base'] = '{DB}'".encode(), secrets_json=omnibus(db_key_base=DB)
    )
    assert len(secrets.candidates(Key.DB)) == 1
    assert not secrets.problems


@pytest.mark.parametrize(
    ("program", "values"),
    [
        ("gitlab_rails['db_key_base'] = 'plain'", ("plain",)),
        ('  gitlab_rails["db_key_base"] = "double"  # the key', ("double",)),
        ("gitlab_rails[:db_key_base]='symbol'", ("symbol",)),
        ("gitlab_rails['db_key_base'] = ['one', \"two\",\n  'three',\n]\n", ("one", "two", "three")),
        ('gitlab_rails[\'db_key_base\'] = "two\\nlines \\"quoted\\""', ('two\nlines "quoted"',)),
        (r"gitlab_rails['db_key_base'] = 'it\'s \n \\'", (r"it's \n " + "\\",)),
        ("gitlab_rails['db_key_base'] = 'real\nlines'", ("real\nlines",)),
        ("gitlab_rails['db_key_base'] = 'first'\ngitlab_rails['db_key_base'] = 'last'", ("last",)),
        ("gitlab_rails['db_key_base'] = ENV['X']\ngitlab_rails['db_key_base'] = 'last'", ("last",)),
        ("if foo\n  bar = 1\nend\ngitlab_rails['db_key_base'] = 'after a condition'", ("after a condition",)),
        ("if foo then bar end\ngitlab_rails['db_key_base'] = 'after one line'", ("after one line",)),
        ("x = <<-EOS\nif never\nEOS\ngitlab_rails['db_key_base'] = 'after a text'", ("after a text",)),
        ("x = 1 <<FOO\ngitlab_rails['db_key_base'] = 'after a shift'", ("after a shift",)),
        ("gitlab_rails['db_key_base'] = 'a # b'", ("a # b",)),
        ("gitlab_rails['db_key_base'] = \"50 # { no\"", ("50 # { no",)),
    ],
)
def test_plain_strings_of_gitlab_rb_are_read(program: str, values: tuple[str, ...]) -> None:
    secrets = read_secrets(gitlab_rb=program.encode())
    assert secrets.current(Key.DB) == values
    assert not secrets.problems


@pytest.mark.parametrize(
    "value",
    [
        "File.read('/run/key')",
        "ENV['KEY']",
        '"#{key}"',
        '"#@key"',
        r'"\u0041"',
        "'a' + 'b'",
        "'a' 'b'",
        "'a'.strip",
        "'a' if production",
        "nil || key",
        "nilly",
        "['a', key]",
        "['a' 'b']",
        "%w(a b)",
        "<<EOS\na\nEOS",
        "'never ends",
        "{}",
        "",
    ],
)
def test_computed_values_of_gitlab_rb_are_not_guessed(value: str) -> None:
    secrets = read_secrets(gitlab_rb=f"gitlab_rails['db_key_base'] = {value}\n".encode())
    assert not secrets.candidates(Key.DB)
    assert secrets.unreadable == {Key.DB}
    assert secrets.problems == ("db_key_base could not be read: it is computed (line 1) in gitlab.rb",)


@pytest.mark.parametrize(
    "program",
    [
        "if production\n  gitlab_rails['db_key_base'] = 'x'\nend",
        "[1].each do |n|\n  gitlab_rails['db_key_base'] = 'x'\nend",
        "gitlab_rails['db_key_base'] ||= 'x'",
        "gitlab_rails.merge!('db_key_base' => 'x')",
        "gitlab_rails['db_key_base'] = 'x'\ngitlab_rails['db_key_base'].chop!",
    ],
)
def test_other_ways_to_set_a_value_in_gitlab_rb_are_not_overlooked(program: str) -> None:
    secrets = read_secrets(gitlab_rb=program.encode(), secrets_json=omnibus(db_key_base=DB))
    assert secrets.unreadable == {Key.DB}
    assert not secrets.current(Key.DB)
    assert [each.text for each in secrets.candidates(Key.DB)] == [DB]


@pytest.mark.parametrize(
    "program",
    [
        "# gitlab_rails['db_key_base'] = 'x'",
        "external_url 'x' # or gitlab_rails['db_key_base'] = 'x'",
        "=begin\ngitlab_rails['db_key_base'] = 'x'\n=end",
        "__END__\ngitlab_rails['db_key_base'] = 'x'",
        "x = <<~'EOS'\n  gitlab_rails['db_key_base'] = 'x'\nEOS",
        "gitlab_pages['db_key_base'] = 'x'",
        "gitlab_rails['db_key_base'] = nil  # let it be generated",
        "gitlab_rails['db_key_base'] = ''",
        "gitlab_shell['secret_token'] = File.read('/run/token')",
        "gitlab_rails['db_key_base_of_mine'] = 'x'",
    ],
)
def test_what_sets_nothing_in_gitlab_rb_is_left_alone(program: str) -> None:
    secrets = read_secrets(gitlab_rb=program.encode(), secrets_json=omnibus(db_key_base=DB))
    assert secrets.current(Key.DB) == (DB,)
    assert not secrets.problems


def test_secrets_yml_gives_text_even_where_yaml_sees_numbers() -> None:
    text = b"""
shared: &shared
  otp_key_base: 0123456789
  secret_key_base: overruled
production:
  <<: *shared
  db_key_base: 12345e12345
  secret_key_base: true
  encrypted_settings_key_base: null
  active_record_encryption_primary_key: [one, 2]
test:
  db_key_base: of-the-tests
"""
    secrets = read_secrets(secrets_yml=text)
    assert secrets.current(Key.DB) == ("12345e12345",)
    assert secrets.current(Key.OTP) == ("0123456789",)
    assert secrets.current(Key.SESSIONS) == ("true",)
    assert secrets.current(Key.RAILS_PRIMARY) == ("one", "2")
    assert not secrets.candidates(Key.SETTINGS)
    assert not secrets.problems


def test_the_shared_section_of_secrets_yml_counts() -> None:
    assert read_secrets(secrets_yml=b"shared:\n  db_key_base: of-all\n").current(Key.DB) == ("of-all",)


def test_what_production_takes_over_from_elsewhere_in_secrets_yml_counts() -> None:
    text = b"a: &a {db_key_base: one, otp_key_base: two}\nb: &b {otp_key_base: 3}\nproduction:\n  <<: [*b, *a]\n"
    secrets = read_secrets(secrets_yml=text)
    assert (secrets.current(Key.DB), secrets.current(Key.OTP)) == (("one",), ("3",))


def test_what_rails_would_compute_in_secrets_yml_is_not_taken_for_a_key() -> None:
    secrets = read_secrets(secrets_yml=b"production:\n  db_key_base: <%= ENV['KEY'] %>\n")
    assert secrets.unreadable == {Key.DB}
    assert secrets.problems == ("db_key_base could not be read: it is computed in secrets.yml",)


def test_the_environment_of_a_sameersbn_container_is_read() -> None:
    secrets = read_secrets(
        environment={
            "GITLAB_SECRETS_DB_KEY_BASE": DB,
            "GITLAB_SECRETS_ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY": '["one", "two"]',
            "GITLAB_SECRETS_ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY": "[one]",
            "GITLAB_SECRETS_ACTIVE_RECORD_ENCRYPTION_KEY_DERIVATION_SALT": "fake-salt",
            "PATH": "/bin",
        }
    )
    assert secrets.current(Key.DB) == (DB,)
    assert secrets.current(Key.RAILS_PRIMARY) == ("one", "two")
    assert secrets.current(Key.RAILS_SALT) == ("fake-salt",)
    assert secrets.unreadable == {Key.RAILS_DETERMINISTIC}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"3"])
def test_a_broken_secrets_file_is_reported_and_makes_everything_unknown(content: bytes) -> None:
    secrets = read_secrets(secrets_json=content)
    assert secrets.unreadable == set(Key)
    assert len(secrets.problems) == 1
    assert secrets.problems[0].startswith("gitlab-secrets.json is not ")


@pytest.mark.parametrize("content", [b"", b"a: [", b"- a\n", b"\x00", b"a: *nobody", b"? [a]\n: b"])
def test_a_broken_secrets_yml_is_reported_and_makes_everything_unknown(content: bytes) -> None:
    secrets = read_secrets(secrets_yml=content)
    assert secrets.unreadable == set(Key)
    assert secrets.problems[0].startswith("secrets.yml is not ")


def test_a_gitlab_rb_that_is_no_text_makes_everything_unknown() -> None:
    secrets = read_secrets(gitlab_rb=b"\xff\xfe", secrets_json=omnibus(db_key_base=DB))
    assert secrets.unreadable == set(Key)
    assert secrets.problems == ("gitlab.rb is not text",)


def test_a_broken_secrets_file_does_not_hide_what_overrules_it() -> None:
    secrets = read_secrets(gitlab_rb=f"gitlab_rails['db_key_base'] = '{DB}'".encode(), secrets_json=b"{")
    assert secrets.current(Key.DB) == (DB,)
    assert Key.DB not in secrets.unreadable
    assert Key.OTP in secrets.unreadable


@pytest.mark.parametrize("value", [7, True, {"a": "b"}, ["a", 7], ["a", ""], "\ud800"])
def test_a_value_of_another_shape_is_reported(value: object) -> None:
    secrets = read_secrets(secrets_json=omnibus(db_key_base=value))
    assert secrets.unreadable == {Key.DB}
    assert "neither text nor a list of texts" in secrets.problems[0]


def test_no_source_at_all_is_reported() -> None:
    secrets = read_secrets()
    assert secrets.unreadable == set(Key)
    assert secrets.problems == ("no file with secrets was given",)


def test_secrets_do_not_show_themselves() -> None:
    secrets = read_secrets(
        gitlab_rb=f"gitlab_rails['db_key_base'] = ['{DB}', 'x' 'y']".encode(),
        secrets_json=omnibus(db_key_base=[DB, OTHER], otp_key_base=DB),
    )
    shown = f"{secrets!r} {secrets} {secrets.problems} {secrets.candidates(Key.DB)!r} {list(secrets.values.values())!r}"
    assert DB not in shown
    assert OTHER not in shown
    assert repr(secrets) == "Secrets(db_key_base: 2, otp_key_base: 1)"


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_nothing_that_a_file_holds_makes_reading_fail(content: bytes) -> None:
    for secrets in (
        read_secrets(secrets_json=content),
        read_secrets(secrets_yml=content),
        read_secrets(gitlab_rb=content),
        read_secrets(gitlab_rb=b"gitlab_rails['db_key_base'] = " + content),
    ):
        assert isinstance(secrets, Secrets)


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda node: st.lists(node) | node))
def test_no_shape_of_a_value_makes_reading_fail(value: object) -> None:
    assert read_secrets(secrets_json=omnibus(db_key_base=value)) is not None
    rendered = json.dumps({"production": {"db_key_base": value}}).encode()
    assert read_secrets(secrets_yml=rendered) is not None
