from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.core.model import (
    FORMAT,
    Archive,
    Finding,
    Fingerprint,
    GitLabFacts,
    HostFacts,
    Manifest,
    SecretsFacts,
    Tally,
    Volume,
    is_set_id,
    new_set_id,
    parse_manifest,
    render_manifest,
    time_of,
)
from drtool.errors import FormatTooNew, SetDamaged

SET_ID = "20260113T031500Z-7f3a"
AT = datetime(2026, 1, 13, 3, 15, tzinfo=UTC)


def volume(name: str, size: int = 1000) -> Volume:
    return Volume(name, size, "a" * 64, size + 200, "b" * 64)


MANIFEST = Manifest(
    format=FORMAT,
    tool="drtool 1.2.3",
    instance="gitlab",
    set_id=SET_ID,
    created_at=AT,
    finished_at=AT + timedelta(seconds=61, microseconds=5),
    gitlab=GitLabFacts("18.9.0-ee", None, "omnibus", "omnibus-gitlab", "20260101000000", SET_ID, 6, ("registry",)),
    verdict="amber",
    findings=(Finding("skipped", "2 members were left out", 2),),
    archives=(
        Archive("application", "age", ("age1a", "age1b"), 12, (volume("application-0000.tar.age"), volume("b.age"))),
        Archive("config", "none", (), 3, (volume("config-0000.tar"),)),
    ),
    index=Archive("index", "age", ("age1a",), 0, (volume("index.age"),)),
    census=Archive("census", "age", ("age1a",), 0, (volume("census.age"),)),
    contents=(Tally("uploads", 7, 4711), Tally("table rows", 1980, 0)),
    secrets=SecretsFacts("fits", 68, 0, True, "00ff", (Fingerprint("db_key_base", ("ab" * 16,)),)),
    host=HostFacts("x86_64", 17, ("default", "fast"), database_elsewhere=False, object_storage=("lfs",)),
)
TEXT = render_manifest(MANIFEST)


def parse(fields: Any) -> Manifest:
    return parse_manifest(json.dumps(fields).encode(), source="the set")


def paths(value: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where every value lies in a tree of JSON, the root left out."""
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield (*here, step)
        yield from paths(inner, (*here, step))


ALL_PATHS = [*paths(json.loads(TEXT))]
FIELD_PATHS = [path for path in ALL_PATHS if isinstance(path[-1], str)]


def parent_of(fields: Any, path: tuple[str | int, ...]) -> Any:
    for step in path[:-1]:
        fields = fields[step]
    return fields


def dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(step) for step in path)


# -- the manifest ----------------------------------------------------------------------------------------------------


def test_a_manifest_reads_back_as_it_was_written() -> None:
    assert parse_manifest(TEXT, source="") == MANIFEST


def test_a_manifest_is_written_in_the_same_bytes_every_time() -> None:
    assert render_manifest(parse_manifest(TEXT, source="")) == TEXT
    east = replace(MANIFEST, created_at=AT.astimezone(timezone(timedelta(hours=9))))
    assert render_manifest(east) == TEXT


def test_a_manifest_knows_its_volumes_the_index_last() -> None:
    assert [found.name for found in MANIFEST.volumes][-1] == "index.age"
    assert [found.name for found in MANIFEST.volumes][-2] == "census.age"
    assert MANIFEST.stored_size == 5 * 1200
    assert MANIFEST.archive("application").size == 2000


def test_an_archive_the_manifest_does_not_name_is_damage() -> None:
    with pytest.raises(SetDamaged, match="registry"):
        MANIFEST.archive("registry")


def test_a_newer_format_is_told_before_anything_else_is_looked_at() -> None:
    for fields in ({"format": FORMAT + 1}, {"format": 999, "set_id": 7}, json.loads(TEXT) | {"format": 2**70}):
        with pytest.raises(FormatTooNew, match="the set") as caught:
            parse(fields)
        assert caught.value.hint


@pytest.mark.parametrize("written", [None, "1", 1.0, True, [1], {}, 0, -1])
def test_a_format_that_is_no_format_is_damage(written: Any) -> None:
    with pytest.raises(SetDamaged, match=r"the set: .*format"):
        parse(json.loads(TEXT) | {"format": written})


@pytest.mark.parametrize("path", FIELD_PATHS, ids=dotted)
def test_a_missing_field_is_named(path: tuple[str | int, ...]) -> None:
    fields = json.loads(TEXT)
    del parent_of(fields, path)[path[-1]]
    if path[0] == "findings" and path[-1] in ("count", "severity"):  # once, and no more than a warning, unless it says
        assert parse(fields).findings[0] in (Finding("skipped", "2 members were left out", count) for count in (1, 2))
        return
    if path == ("host",):  # sets of older builds have none
        assert parse(fields).host is None
        return
    with pytest.raises(SetDamaged, match="the set: ") as caught:
        parse(fields)
    assert dotted(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ALL_PATHS, ids=dotted)
@pytest.mark.parametrize("wrong", ["object", "number", "text"])
def test_a_field_of_the_wrong_type_is_named(path: tuple[str | int, ...], wrong: str) -> None:
    fields = json.loads(TEXT)
    here = parent_of(fields, path)
    was = here[path[-1]]
    text = [was] if was is None or isinstance(was, str) else str(was)
    here[path[-1]] = {"object": {"no": 1}, "number": 1.5, "text": text}[wrong]
    with pytest.raises(SetDamaged, match="the set: ") as caught:
        parse(fields)
    assert dotted(path) in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("created_at",), "2026-01-13T03:15:00"),
        (("finished_at",), "yesterday"),
        (("finished_at",), 1768274100),
        (("set_id",), "20260113"),
        (("verdict",), "red"),
        (("verdict",), "green"),
        (("findings", 0, "severity"), "red"),
        (("census", "volumes", 0, "name"), "../census.age"),
        (("archives", 0, "name"), "../../etc/cron.d/application"),
        (("archives", 0, "name"), "config"),
        (("archives", 1, "name"), ""),
        (("archives", 0, "volumes", 0, "name"), "../other/application-0000.tar.age"),
        (("archives", 0, "volumes", 0, "name"), "a/b"),
        (("archives", 0, "volumes", 1, "name"), ".."),
        (("archives", 0, "volumes", 0, "plain_size"), -1),
        (("archives", 0, "volumes", 0, "plain_sha256"), "A" * 64),
        (("archives", 0, "volumes", 0, "stored_sha256"), "a" * 63),
        (("index", "volumes", 0, "stored_size"), -200),
        (("archives", 0, "seal"), "rot13"),
    ],
    ids=str,
)
def test_a_value_that_no_backup_writes_is_refused(path: tuple[str | int, ...], value: Any) -> None:
    """An unsigned manifest may come from anybody: what it says must not lead out of the set or of a directory."""
    fields = json.loads(TEXT)
    parent_of(fields, path)[path[-1]] = value
    with pytest.raises(SetDamaged, match=f"the set: ({path[0]}|archives|verdict)"):
        parse(fields)


def test_a_field_that_a_later_version_added_is_passed_over() -> None:
    fields = json.loads(TEXT)
    fields["mood"] = fields["gitlab"]["mood"] = "fine"
    assert parse(fields) == MANIFEST


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | st.text(max_size=100).map(str.encode))
def test_bytes_that_are_no_manifest_are_damage(noise: bytes) -> None:
    with pytest.raises((SetDamaged, FormatTooNew)):
        parse_manifest(noise, source="")


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b'{"format":' + b"9" * 5000 + b"}", b'{"format": 1e999}', b"\xff\xfe{\0}\0", b"1", b"[1]"]
)
def test_odd_json_is_damage_and_no_defect(text: bytes) -> None:
    with pytest.raises(SetDamaged):
        parse_manifest(text, source="")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(ALL_PATHS), json_values, st.sampled_from(["replace", "delete", "wrap"]))
def test_a_changed_manifest_is_read_or_refused_and_nothing_else(
    path: tuple[str | int, ...], value: Any, how: str
) -> None:
    fields = json.loads(TEXT)
    here = parent_of(fields, path)
    if how == "delete":
        del here[path[-1]]
    else:
        here[path[-1]] = value if how == "replace" else [here[path[-1]]]
    try:
        manifest = parse(fields)
    except (SetDamaged, FormatTooNew):
        return
    assert parse_manifest(render_manifest(manifest), source="") == manifest


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.integers(0, 255))
def test_a_manifest_with_one_other_byte_is_read_or_refused_and_nothing_else(at: int, byte: int) -> None:
    changed = bytearray(TEXT)
    changed[at] = byte
    try:
        manifest = parse_manifest(bytes(changed), source="")
    except (SetDamaged, FormatTooNew):
        return
    assert parse_manifest(render_manifest(manifest), source="") == manifest


def test_a_cut_manifest_is_damage() -> None:
    for size in range(len(TEXT) - 1):  # the last byte is the line's end
        with pytest.raises(SetDamaged):
            parse_manifest(TEXT[:size], source="")


# -- the names of sets -----------------------------------------------------------------------------------------------

moments = st.integers(0, 2**33).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
tokens = st.integers(0, 0xFFFF).map(lambda number: f"{number:04x}")


@given(moments, tokens, moments, tokens)
def test_set_ids_sort_by_time(first: datetime, one: str, second: datetime, other: str) -> None:
    if first != second:
        assert (new_set_id(first, one) < new_set_id(second, other)) == (first < second)


@given(moments, tokens)
def test_a_set_id_tells_when_it_was_begun(moment: datetime, token: str) -> None:
    set_id = new_set_id(moment, token)
    assert is_set_id(set_id)
    assert time_of(set_id) == moment


def test_a_set_id_is_in_utc_wherever_the_host_is() -> None:
    east = datetime(2026, 1, 13, 12, 15, tzinfo=timezone(timedelta(hours=9)))
    assert new_set_id(east, "7f3a") == SET_ID


@pytest.mark.parametrize("token", ["", "7f3", "7f3a0", "7F3A", "xyz0", "../a", "7f3\n"])
def test_a_token_that_is_not_four_hex_digits_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="four hex digits"):
        new_set_id(AT, token)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        SET_ID + "\n",
        " " + SET_ID,
        SET_ID.upper(),
        SET_ID[:-1],
        SET_ID + "0",
        "1795219681_2026_11_21_18.9.0-pre",
        "20261399T031500Z-7f3a",
        "20260113T256000Z-7f3a",
        "\u0662\u0660260113T031500Z-7f3a",
    ],
)
def test_what_is_no_set_id_is_not_taken_for_one(text: str) -> None:
    assert not is_set_id(text)
