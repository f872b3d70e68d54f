"""What rows hold beside ciphertext: values of no known layout, columns of other names, things that only look alike."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.demo import ciphers
from drtool.gitlab.secrets import Fit, Sample
from tests.sealed import RIGHT, TOKEN, WRONG, Cell, check, copied, counted, fits, seal, table

MESSAGE = str(seal("I", RIGHT)[0])


def enveloped(inner: str) -> str:
    """An envelope around anything."""
    message = json.loads(MESSAGE)
    return json.dumps({**message, "h": {**message["h"], "k": json.loads(inner)}})


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("encrypted_x", ("QUJD", None), "no IV: as attr_encrypted 1 wrote it, which is not understood"),
        ("encrypted_x", ("QUJD", "QUJD"), "the IV has neither 12 nor 16 bytes"),
        ("encrypted_x", ("QUJD", "\\x0"), "the IV has neither 12 nor 16 bytes"),
        ("encrypted_x", ("no base64!", seal("A", RIGHT)[1]), "neither base64 nor bytea"),
        ("encrypted_x", ("\\q", seal("A", RIGHT)[1]), "neither base64 nor bytea"),
        ("encrypted_x", ("QUJD", seal("A", RIGHT)[1]), "of a length that no ciphertext has"),
        ("encrypted_x", ("QUJD", seal("F", RIGHT)[1]), "of a length that no ciphertext has"),
        ("encrypted_x", (*seal("E", RIGHT)[:2], "_no base64!"), "the salt is not base64"),
        ("token_encrypted", ("no base64!",), "neither base64 nor bytea"),
        ("token_encrypted", ("QUJD",), "of a length that no ciphertext has"),
        ("token_encrypted", ("|QUJDfedcba987654",), "of a length that no ciphertext has"),
        ("token_encrypted", ("|QUJD",), "neither base64 nor bytea"),
        (
            "secret_key",
            (MESSAGE.replace('"iv": "', '"iv": "AAAA'),),
            "no message of Active Record Encryption",
        ),
        (
            "secret_key",
            (MESSAGE.replace('"at": "', '"at": "AAAA'),),
            "no message of Active Record Encryption",
        ),
        ("secret_key", (enveloped("{}"),), "no message of Active Record Encryption"),
        ("secret_key", (enveloped(enveloped(MESSAGE)),), "no message of Active Record Encryption"),
        ("secret_key", ('{"iv"' * 100_000,), "no message of Active Record Encryption"),
        ("secret_key", ('{"h":' * 100_000,), "no message of Active Record Encryption"),
        ("encrypted_x", ("\n", seal("F", RIGHT)[1]), "of a length that no ciphertext has"),
        ("secret_key", ("{}",), "no message of Active Record Encryption"),
        ("secret_key", ("plain",), "no message of Active Record Encryption"),
    ],
)
def test_what_is_no_ciphertext_is_not_tested_and_its_reason_is_told(
    column: str, value: tuple[Cell, ...], reason: str
) -> None:
    name = {"token_encrypted": "deploy_tokens", "secret_key": "cloud_connector_keys"}.get(column, "made")
    verdict = check(RIGHT, table(name, column, [value] * 3))
    assert [(each.reason, each.count) for each in verdict.untested] == [(reason, 3)]
    assert verdict.fit is Fit.UNTESTED
    assert not verdict.columns


def test_a_salt_that_is_not_encoded_is_taken_as_it_is() -> None:
    columns = ciphers.encrypt_cbc_salted(b"fake", RIGHT["db_key_base"], b"fake iv 16 bytes", b"fake\\salt")
    verdict = check(RIGHT, table("made", "encrypted_x", [(columns.value, columns.iv, "fake\\salt")]))
    assert counted(verdict) == {"public.made.encrypted_x": (1, 0)}


@pytest.mark.parametrize("plain", [b" " * 32, b"fourteen chars\1\2", b"fake ending in\0\0", b"fifteen letters\x11"])
def test_a_value_whose_padding_is_wrong_does_not_open_although_it_is_text(plain: bytes) -> None:
    iv = b"fake iv 16 bytes"
    encryptor = Cipher(algorithms.AES(RIGHT["db_key_base"][:32].encode()), modes.CBC(iv)).encryptor()
    value = ciphers.wrapped_base64(encryptor.update(plain) + encryptor.finalize())
    verdict = check(RIGHT, table("made", "encrypted_x", [(value, ciphers.wrapped_base64(iv))]))
    assert counted(verdict) == {"public.made.encrypted_x": (0, 1)}


def test_an_envelope_with_a_data_key_of_another_size_does_not_open() -> None:
    key = ciphers.rails_key(
        RIGHT["active_record_encryption_primary_key"][0], RIGHT["active_record_encryption_key_derivation_salt"]
    )
    inner = ciphers.as_jsonb(ciphers.encrypt_rails(b"short", key, b"fake nonce12"))
    verdict = check(RIGHT, table("cloud_connector_keys", "secret_key", [(enveloped(inner),)]))
    assert counted(verdict) == {"public.cloud_connector_keys.secret_key": (0, 1)}


def test_a_row_that_ends_early_is_not_overlooked() -> None:
    name, header, _ = TOKEN
    verdict = check(RIGHT, (name, header, [b"1"]))
    assert [(each.reason, each.count) for each in verdict.untested] == [("the row ends before the column", 1)]


def test_a_partition_counts_under_its_own_name() -> None:
    values = [("{",), *(seal("H", RIGHT, n) for n in range(2))]
    _, header, rows = table("", "token_encrypted", values)
    verdict = check(RIGHT, ("gitlab_partitions_dynamic.ci_builds_101", header, rows))
    assert counted(verdict) == {"gitlab_partitions_dynamic.ci_builds_101.token_encrypted": (2, 0)}
    assert sum(each.count for each in verdict.untested) == 1


def test_a_partition_is_known_as_its_table_is() -> None:
    _, header, rows = table("", "token_encrypted", [("{",)])
    for name in ("ci_builds", "p_ci_builds", "ci_builds_101", '"p_ci_builds_7"'):
        assert check(RIGHT, (f"public.{name}", header, rows)).untested
    assert not check(RIGHT, ("public.made", header, rows)).untested


def test_a_column_of_tokens_that_nobody_knows_counts_with_what_is_odd_in_it() -> None:
    verdict = check(RIGHT, table("made", "token_encrypted", [("{",), seal("H", RIGHT)]))
    assert counted(verdict) == {"public.made.token_encrypted": (1, 0)}
    assert sum(each.count for each in verdict.untested) == 1


def test_a_flag_that_is_named_like_a_token_is_none() -> None:
    verdict = check(RIGHT, TOKEN, table("made", "is_encrypted", [("t",), ("f",)]))
    assert not verdict.untested
    assert list(counted(verdict)) == ["public.projects.runners_token_encrypted"]


def test_a_message_in_a_column_of_tokens_is_tried_with_the_keys_of_rails() -> None:
    verdict = check(RIGHT, TOKEN, table("deploy_tokens", "token_encrypted", [seal("I", RIGHT)]))
    assert fits(verdict)["active_record_encryption"] == "fits"


def test_a_column_of_messages_is_found_whatever_its_name_and_however_late() -> None:
    values = [(None,)] * 2000 + [seal("I", RIGHT, n) for n in range(3)]
    assert counted(check(RIGHT, table("made", "new", values))) == {"public.made.new": (3, 0)}


def test_a_comment_that_looks_like_a_message_is_none() -> None:
    forged = seal("I", WRONG)
    plain = table("notes", "note", [("a comment",), forged, ("another",)])
    first = table("issues", "description", [forged, ("another",)])
    late = table("snippets", "content", [(None,)] * 100 + [forged] + [("another",)])
    verdict = check(RIGHT, TOKEN, plain, first, late)
    assert verdict.fit is Fit.FITS
    assert list(counted(verdict)) == ["public.projects.runners_token_encrypted"]


HEADER = (
    "id", "x_encrypted", "encrypted_y", "encrypted_y_iv", "encrypted_y_salt", "encrypted_z", "encrypted_z_iv", "free"
)  # fmt: skip
PIECES = [b"\\N", b"\\", b"\\\\x", b"{", b'{"h": {"iv": "", "at": ""}, "p": ""}', b"|", b"_", b"QUJD", b"=", b"\\n"]
PIECES += [field for letter in "ABCDEFGHIJK" for field in copied(*seal(letter, RIGHT)).split(b"\t")]
fields = st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=3).map(b"".join)


@settings(deadline=None, max_examples=60)  # the keys of Rails take their time, once in each check
@given(st.lists(st.lists(fields, max_size=9).map(b"\t".join), max_size=5), st.booleans())
def test_no_row_makes_the_check_fail(rows: list[bytes], sampled: bool) -> None:
    rows = [row.replace(b"\n", b"") for row in rows]
    verdict = check(RIGHT, ("public.made", HEADER, rows), sample=Sample() if sampled else None)
    assert verdict.fit in Fit
