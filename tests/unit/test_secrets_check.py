"""Do secrets fit a database? Asked with the right ones, with regenerated ones, and with every mixture of both."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from drtool.gitlab.dump import DumpCheck
from drtool.gitlab.secrets import Fit, SecretsCheck, read_secrets
from drtool.gitlab.secrets.columns import KNOWN
from tests.sealed import RIGHT, TOKEN, WRONG, Table, check, counted, everything, fits, seal, secrets_of, table

PRIMARY, DETERMINISTIC, SALT = (
    f"active_record_encryption_{name}" for name in ("primary_key", "deterministic_key", "key_derivation_salt")
)

KNOWN_COLUMNS = [
    (name, column, letter)
    for name, columns in KNOWN.items()
    for column, letters in columns.items()
    for letter in letters
]


@pytest.mark.parametrize(("name", "column", "letter"), KNOWN_COLUMNS)
def test_every_known_column_fits_with_its_secrets_and_is_named_with_others(name: str, column: str, letter: str) -> None:
    letter = "O" if column == "encrypted_otp_secret" else letter
    values = table(name, column, [seal(letter, RIGHT, n) for n in range(3)])
    assert counted(check(RIGHT, values)) == {f"public.{name}.{column}": (3, 0)}
    verdict = check(WRONG, values)
    assert verdict.fit is Fit.DOES_NOT_FIT
    assert f"public.{name}.{column}: 3 of 3" in verdict.sentence()


def test_all_schemes_fit_with_their_secrets() -> None:
    verdict = check(RIGHT, *everything(RIGHT))
    assert verdict.fit is Fit.FITS
    assert set(counted(verdict).values()) == {(5, 0)}
    assert len({each.scheme for each in verdict.columns}) == 11
    assert set(fits(verdict).values()) == {"fits"}
    assert verdict.sentence() == "the secrets fit the database: 60 values opened, all values tried"


def test_nothing_fits_with_regenerated_secrets() -> None:
    verdict = check(WRONG, *everything(RIGHT))
    assert verdict.fit is Fit.DOES_NOT_FIT
    assert set(counted(verdict).values()) == {(0, 5)}
    assert set(fits(verdict).values()) == {"does not fit"}
    assert len(verdict.culprits) == 12


@pytest.mark.parametrize(
    ("regenerated", "family", "fit"),
    [
        ("db_key_base", "db_key_base", "does not fit"),
        ("otp_key_base", "otp_key_base", "does not fit"),
        ("active_record_encryption_primary_key", "active_record_encryption", "fits in part"),
        ("active_record_encryption_deterministic_key", "active_record_encryption", "fits in part"),
        ("active_record_encryption_key_derivation_salt", "active_record_encryption", "does not fit"),
    ],
)
def test_each_secret_that_was_regenerated_alone_is_noticed(regenerated: str, family: str, fit: str) -> None:
    verdict = check({**RIGHT, regenerated: WRONG[regenerated]}, *everything(RIGHT))
    assert verdict.fit == fit
    assert {name: found for name, found in fits(verdict).items() if found != "fits"} == {family: fit}


def test_a_secret_that_only_sessions_depend_on_is_not_tested() -> None:
    assert check({**RIGHT, "secret_key_base": "another-fake"}, *everything(RIGHT)).fit is Fit.FITS


@pytest.mark.parametrize("missing", ["db_key_base", "otp_key_base", PRIMARY, DETERMINISTIC, SALT])
def test_a_missing_secret_does_not_fit_what_it_has_sealed(missing: str) -> None:
    secrets = {name: value for name, value in RIGHT.items() if name != missing}
    verdict = check(secrets, *everything(RIGHT))
    assert verdict.fit in (Fit.DOES_NOT_FIT, Fit.PARTLY)
    assert f"the secrets hold no {missing}" in verdict.sentence()


def test_a_key_that_only_gitlab_can_compute_could_not_be_tested() -> None:
    secrets = read_secrets(
        gitlab_rb=b"gitlab_rails['db_key_base'] = File.read('/run/key')",
        secrets_json=json.dumps({"gitlab_rails": RIGHT}).encode(),
    )
    verdict = check(secrets, TOKEN)
    assert verdict.fit is Fit.UNTESTED
    assert "db_key_base could not be read; 3 values open with one that GitLab does not use" in verdict.sentence()
    assert verdict.problems == ("db_key_base could not be read: it is computed (line 1) in gitlab.rb",)


@pytest.mark.parametrize("computed", [PRIMARY, DETERMINISTIC, SALT])
def test_values_that_may_belong_to_a_key_nobody_can_read_do_not_count_as_a_mismatch(computed: str) -> None:
    verdict = check({**RIGHT, computed: {"no": "text"}}, *everything(RIGHT))
    assert fits(verdict)["active_record_encryption"] == "could not be tested"
    assert verdict.fit is Fit.UNTESTED


def test_a_key_nobody_can_read_does_not_matter_where_all_values_open() -> None:
    verdict = check({**RIGHT, DETERMINISTIC: 7}, TOKEN, table("cloud_connector_keys", "secret_key", [seal("J", RIGHT)]))
    assert verdict.fit is Fit.FITS


def test_a_value_that_gitlab_rb_overrules_does_not_make_it_fit() -> None:
    secrets = read_secrets(
        gitlab_rb=f"gitlab_rails['db_key_base'] = '{WRONG['db_key_base']}'".encode(),
        secrets_json=json.dumps({"gitlab_rails": RIGHT}).encode(),
    )
    verdict = check(secrets, TOKEN)
    assert verdict.fit is Fit.DOES_NOT_FIT
    assert [(each.failed, each.superseded) for each in verdict.columns] == [(3, 3)]


@pytest.mark.parametrize("overruled", [PRIMARY, SALT])
def test_a_secret_of_rails_that_gitlab_rb_overrules_does_not_make_it_fit(overruled: str) -> None:
    secrets = read_secrets(
        gitlab_rb=f"gitlab_rails['{overruled}'] = 'another fake value'".encode(),
        secrets_json=json.dumps({"gitlab_rails": RIGHT}).encode(),
    )
    (column,) = check(secrets, table("cloud_connector_keys", "secret_key", [seal("J", RIGHT)])).columns
    assert (column.opened, column.failed, column.superseded) == (0, 1, 1)


def test_what_both_values_open_counts_for_the_one_that_gitlab_uses() -> None:
    alike = RIGHT["db_key_base"][:32] + "another fake end"  # the same for all but salted values
    secrets = read_secrets(
        gitlab_rb=f"gitlab_rails['db_key_base'] = '{alike}'".encode(),
        secrets_json=json.dumps({"gitlab_rails": RIGHT}).encode(),
    )
    salted = table("ci_variables", "encrypted_value", [seal("E", RIGHT, n) for n in range(4)])
    assert list(counted(check(secrets, salted, TOKEN)).values()) == [(0, 4), (3, 0)]


def test_the_second_value_of_a_list_fits_and_is_named() -> None:
    verdict = check({**RIGHT, "db_key_base": [WRONG["db_key_base"], RIGHT["db_key_base"]]}, TOKEN)
    assert verdict.fit is Fit.FITS
    assert verdict.families[0].opened_with == (("db_key_base, value 2 of 2, in gitlab-secrets.json", 3),)


def test_a_list_fits_what_each_of_its_values_has_sealed() -> None:
    older = {**WRONG, SALT: RIGHT[SALT]}
    both = {**RIGHT, "db_key_base": [older["db_key_base"], RIGHT["db_key_base"]]}
    both |= {"otp_key_base": [older["otp_key_base"], RIGHT["otp_key_base"]]}
    both |= {name: older[name] + RIGHT[name] for name in (PRIMARY, DETERMINISTIC)}
    verdict = check(both, *everything(RIGHT), *everything(older))
    assert verdict.fit is Fit.FITS
    assert [len(each.opened_with) for each in verdict.families] == [2, 2, 4]


def test_a_secret_that_does_not_fit_outweighs_one_that_fits_in_part() -> None:
    lost = table("web_hooks", "encrypted_url", [seal("A", WRONG)])
    verdict = check({**RIGHT, "otp_key_base": WRONG["otp_key_base"]}, TOKEN, lost, *everything(RIGHT))
    assert fits(verdict)["db_key_base"] == "fits in part"
    assert verdict.fit is Fit.DOES_NOT_FIT


def test_values_that_were_lost_before_fit_in_part_and_are_named() -> None:
    mixed = [seal("A", WRONG if n < 2 else RIGHT, n) for n in range(10)]
    verdict = check(RIGHT, TOKEN, table("web_hooks", "encrypted_url", mixed))
    assert verdict.fit is Fit.PARTLY
    assert verdict.sentence() == (
        "the secrets fit only a part of the database: 2 of 13 values do not open, all values tried "
        "(public.web_hooks.encrypted_url: 2 of 10, GCM, base64 text)"
    )


NOTHING: list[list[Table]] = [
    [],
    [table("projects", "runners_token_encrypted", [])],
    [table("projects", "runners_token_encrypted", [(None,), ("",)])],
    [table("web_hooks", "encrypted_url_variables", [(b"", b""), (b"", None), (None, None)])],
    [table("users", "encrypted_password", [("$2a$10$fakefakefake",)])],
    [table("ci_variables", "encrypted_value", [seal("E", RIGHT)])],
    [table("users", "encrypted_otp_secret", [seal("O", RIGHT, n) for n in range(9)])],
    [table("cloud_connector_keys", "secret_key", [seal("J", RIGHT)])],
]


@pytest.mark.parametrize("tables", NOTHING)
def test_without_proof_for_the_key_of_the_database_it_could_not_be_tested(tables: list[Table]) -> None:
    verdict = check(RIGHT, *tables)
    assert verdict.fit is Fit.UNTESTED
    assert verdict.failed == 0
    assert verdict.sentence().startswith("whether the secrets fit the database could not be tested; db_key_base: ")


@pytest.mark.parametrize("tables", NOTHING[:5])
def test_empty_and_absent_values_are_not_counted(tables: list[Table]) -> None:
    verdict = check(RIGHT, *tables)
    assert (verdict.columns, verdict.untested) == ((), ())


def test_a_single_value_without_a_tag_that_opens_is_no_proof_and_two_are() -> None:
    one, two = ([seal("E", RIGHT, n) for n in range(count)] for count in (1, 2))
    assert check(RIGHT, table("ci_variables", "encrypted_value", one)).fit is Fit.UNTESTED
    assert check(RIGHT, table("ci_variables", "encrypted_value", two)).fit is Fit.FITS


def test_a_single_user_with_a_second_factor_does_not_spoil_the_answer() -> None:
    verdict = check(RIGHT, TOKEN, table("users", "encrypted_otp_secret", [seal("O", RIGHT)]))
    assert verdict.fit is Fit.FITS
    assert fits(verdict)["otp_key_base"] == "could not be tested"


def test_a_single_value_that_does_not_open_is_enough_to_say_so() -> None:
    verdict = check({**RIGHT, "otp_key_base": WRONG["otp_key_base"]}, TOKEN, table("users", "encrypted_otp_secret", [seal("O", RIGHT)]))  # noqa: E501  # fmt: skip
    assert verdict.fit is Fit.DOES_NOT_FIT


def test_an_iv_of_another_row_is_noticed() -> None:
    (one, _), (two, other) = seal("A", RIGHT, 1), seal("A", RIGHT, 2)
    verdict = check(RIGHT, TOKEN, table("web_hooks", "encrypted_url", [(one, other), (two, other)]))
    assert counted(verdict)["public.web_hooks.encrypted_url"] == (1, 1)


def test_a_damaged_value_is_noticed() -> None:
    value, iv = seal("B", RIGHT)
    assert isinstance(value, bytes)
    damaged = bytes((value[0] ^ 1,)) + value[1:]
    verdict = check(RIGHT, TOKEN, table("web_hooks", "encrypted_url_variables", [(damaged, iv)]))
    assert counted(verdict)["public.web_hooks.encrypted_url_variables"] == (0, 1)


def test_an_envelope_whose_data_key_opens_and_whose_text_does_not_is_noticed() -> None:
    message, other = (json.loads(str(seal("J", RIGHT, n)[0])) for n in (1, 2))
    message["p"] = other["p"]
    verdict = check(RIGHT, TOKEN, table("cloud_connector_keys", "secret_key", [(json.dumps(message),)]))
    assert counted(verdict)["public.cloud_connector_keys.secret_key"] == (0, 1)


@pytest.mark.parametrize("plain", [b"\xff\xfe no text", b"\x80"])
def test_a_salted_value_that_is_no_text_counts_as_not_opened(plain: bytes) -> None:
    verdict = check(RIGHT, TOKEN, table("ci_variables", "encrypted_value", [seal("E", RIGHT, 0, plain)]))
    assert counted(verdict)["public.ci_variables.encrypted_value"] == (0, 1)


def test_serialised_objects_of_ruby_count_as_opened() -> None:
    values = [seal("E", RIGHT, n, b"\x04\x08{\x00\xff") for n in range(2)]
    assert check(RIGHT, table("remote_mirrors", "encrypted_credentials", values)).fit is Fit.FITS


def test_values_that_nobody_understands_leave_their_key_untested_and_the_answer_open() -> None:
    verdict = check(RIGHT, TOKEN, table("users", "encrypted_otp_secret", [("QUJD", None)]))
    assert verdict.fit is Fit.UNTESTED
    assert "otp_key_base: 1 values, none of a layout that is understood" in verdict.sentence()


def test_threads_come_to_the_same_answer() -> None:
    tables = [*everything(RIGHT), table("ci_variables", "encrypted_value", [seal("E", RIGHT, n) for n in range(100)])]
    with ThreadPoolExecutor(2) as executor:
        judge = SecretsCheck(secrets_of(RIGHT), over=executor.map)
        for name, header, rows in tables:
            sink = judge.begin_table(name, header)
            assert sink is not None
            sink.take(rows)
        assert judge.finish() == check(RIGHT, *tables)


def test_a_dump_in_pieces_is_checked_on_its_way() -> None:
    text = b"--\n-- PostgreSQL database dump\n--\n"
    for name, header, rows in everything(RIGHT):
        text += f"COPY {name} ({', '.join(header)}) FROM stdin;\n".encode() + b"\n".join([*rows, b"\\.\n\n"])
    text += b"--\n-- PostgreSQL database dump complete\n--\n\n"
    judge = SecretsCheck(secrets_of(RIGHT))
    dump = DumpCheck(watchers=[judge])
    for start in range(0, len(text), 777):
        dump.write(memoryview(text[start : start + 777]))
    assert dump.finish().rows == 60
    assert judge.finish() == check(RIGHT, *everything(RIGHT))


def test_the_answer_holds_no_secret_and_no_plain_text() -> None:
    verdict = check(RIGHT, *everything(RIGHT), *everything(WRONG))
    shown = f"{verdict!r} {verdict.sentence()}"
    assert "fake plain text" not in shown
    for value in RIGHT.values():
        assert (value if isinstance(value, str) else value[0]) not in shown
