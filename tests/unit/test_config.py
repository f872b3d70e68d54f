from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drtool.config import (
    Config,
    InstanceTable,
    find_config,
    parse_size,
    read_config,
    read_secret,
)
from drtool.config_stores import LocalStoreTable, OssStoreTable, S3StoreTable, SpacesStoreTable
from drtool.errors import ConfigError, SecretExposed

INSTANCE = '[[instance]]\nname = "gitlab"\nstore = "main"\n'
LOCAL = '[store.main]\nkind = "local"\npath = "/srv/backups"\n'
SPACES = (
    '[store.main]\nkind = "spaces"\nbucket = "backups"\nregion = "fra1"\n'
    'access_key_id = "env:ID"\nsecret_access_key = "file:secret"\n'
)
OSS = '[store.main]\nkind = "oss"\nbucket = "backups"\nregion = "cn-hangzhou"\nendpoint = "https://oss.example.com"\n'
S3 = '[store.main]\nkind = "s3"\nbucket = "backups"\n'
FAKE_SECRET = "not-a-real-secret-0123456789"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "drtool.toml"


def parse(path: Path, text: str) -> Config:
    path.write_text(text)
    return read_config(path)


def complaint(path: Path, text: str) -> str:
    """What is said about a bad file, less the file's name."""
    with pytest.raises(ConfigError) as caught:
        parse(path, text)
    message = str(caught.value)
    assert all(line.startswith(f"{path}: ") for line in message.splitlines())
    assert caught.value.hint
    return message.replace(f"{path}: ", "")


# -- good files ------------------------------------------------------------------------------------------------------


def test_the_smallest_file_has_careful_defaults(path: Path) -> None:
    config = parse(path, INSTANCE + LOCAL)
    (instance,) = config.instance
    assert instance == InstanceTable(name="gitlab", store="main")
    assert (instance.seal, instance.seal_to, instance.volume_size) == ("age", (), 1 << 30)
    assert config.state_dir == Path("/var/lib/drtool")
    assert config.store == {"main": LocalStoreTable(kind="local", path=Path("/srv/backups"))}


def test_every_key_is_read(path: Path) -> None:
    config = parse(
        path,
        """
        state_dir = "/state"
        [[instance]]
        name = "git.lab-1_x"
        install = "omnibus"
        prefix = "/chroot"
        backup_path = "/backups"
        store = "bucket"
        seal = "age"
        seal_to = ["age1a", "ssh-ed25519 AAAA"]
        config_seal_to = ["age1b"]
        identities = ["env:IDENTITY"]
        signing_key = "/key"
        trusted_signers = ["ssh-ed25519 AAAA"]
        volume_size = "512 MiB"
        volumes_in_flight = 4
        accept_unfit_secrets = true
        [[instance.copies]]
        store = "hangzhou"
        [instance.package]
        name = "gitlab-ee=18.9.0-ee.0"
        file = "/packages/gitlab-ee.deb"
        sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
        [instance.notify]
        urls = ["env:TEAM"]
        on = ["failure"]
        ping_url = "env:PING"
        timeout = "30s"
        [[instance.hooks]]
        when = "before-backup"
        command = ["/bin/true"]
        timeout = "5m"
        [store.hangzhou]
        kind = "oss"
        bucket = "backups"
        endpoint = "https://oss-cn-hangzhou-internal.aliyuncs.com"
        region = "cn-hangzhou"
        prefix = "night"
        access_key_id = "env:ID"
        access_key_secret = "file:/secret"
        security_token = "env:TOKEN"
        cname = true
        versioned = true
        worm = true
        storage_class = "IA"
        ca_bundle = "/ca.pem"
        concurrency = 8
        [store.bucket]
        kind = "s3"
        bucket = "backups"
        prefix = "night"
        region = "eu-central-1"
        endpoint = "https://storage.example.com:9000"
        access_key_id = "env:ID"
        secret_access_key = "file:/secret"
        session_token = "env:TOKEN"
        checksums = "when_required"
        conditional_put = false
        object_lock = "governance"
        versioned = true
        storage_class = "STANDARD_IA"
        sse = "aws:kms"
        kms_key_id = "alias/backup"
        path_style = true
        ca_bundle = "/ca.pem"
        concurrency = 8
        [store.space]
        kind = "spaces"
        bucket = "backups"
        region = "fra1"
        prefix = "night"
        endpoint = "https://storage.example.com:9000"
        access_key_id = "env:ID"
        secret_access_key = "file:/secret"
        ca_bundle = "/ca.pem"
        concurrency = 8
        """,
    )
    assert config.instance[0].volume_size == 512 << 20
    assert config.instance[0].identities == ("env:IDENTITY",)
    store = config.store["bucket"]
    assert isinstance(store, S3StoreTable)
    assert (store.checksums, store.path_style, store.concurrency) == ("when_required", True, 8)
    left_at_default = [name for name in InstanceTable.model_fields if name not in config.instance[0].model_fields_set]
    assert left_at_default == []
    assert config.instance[0].notify.ping_url == "env:PING"
    assert config.instance[0].hooks[0].when == "before-backup"
    assert str(config.instance[0].package.source) == "/packages/gitlab-ee.deb"
    assert (store.conditional_put, store.object_lock) == (False, "governance")
    assert store.model_fields_set == set(S3StoreTable.model_fields)
    assert config.store["space"].model_fields_set == set(SpacesStoreTable.model_fields)
    copied = config.store[config.instance[0].copies[0].store]
    assert isinstance(copied, OssStoreTable)
    assert copied.storage_class == "IA"
    assert copied.model_fields_set == set(OssStoreTable.model_fields) - {"ram_role"}  # it excludes the keys


def test_spaces_is_s3_with_its_own_address_and_without_what_it_does_not_promise(path: Path) -> None:
    space = parse(path, INSTANCE + SPACES).store["main"]
    assert isinstance(space, SpacesStoreTable)
    assert space.as_s3() == S3StoreTable(
        kind="s3",
        bucket="backups",
        region="fra1",
        endpoint="https://fra1.digitaloceanspaces.com",
        access_key_id="env:ID",
        secret_access_key=f"file:{path.parent}/secret",
        checksums="when_required",
        conditional_put=False,
    )


def test_spaces_names_its_bucket_in_the_path_only_on_another_endpoint(path: Path) -> None:
    space = parse(path, INSTANCE + SPACES + 'endpoint = "https://127.0.0.1:9000"\n').store["main"]
    assert isinstance(space, SpacesStoreTable)
    assert (space.as_s3().endpoint, space.as_s3().path_style) == ("https://127.0.0.1:9000", True)


def test_relative_paths_are_meant_from_the_files_own_directory(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    config = parse(
        path,
        'state_dir = "state"\n'
        + INSTANCE
        + 'prefix = "root"\nbackup_path = "../backups"\nsigning_key = "key"\n'
        + 'identities = ["file:id.txt", "file:/abs/id.txt", "env:ID"]\n'
        + '[store.main]\nkind = "local"\npath = "store"\n'
        + '[store.s3]\nkind = "s3"\nbucket = "b"\nca_bundle = "ca.pem"\n'
        + 'access_key_id = "env:ID"\nsecret_access_key = "file:secret"\n',
    )
    base, (instance,), s3 = path.parent, config.instance, config.store["s3"]
    assert config.state_dir == base / "state"
    assert instance.prefix == base / "root"
    assert instance.backup_path == base / "../backups"
    assert instance.signing_key == base / "key"
    assert instance.identities == (f"file:{base}/id.txt", "file:/abs/id.txt", "env:ID")
    assert config.store["main"] == LocalStoreTable(kind="local", path=base / "store")
    assert isinstance(s3, S3StoreTable)
    assert s3.ca_bundle == base / "ca.pem"
    assert (s3.access_key_id, s3.secret_access_key) == ("env:ID", f"file:{base}/secret")


def test_a_file_named_by_a_relative_path_anchors_absolutely(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text('state_dir = "state"\n' + INSTANCE + LOCAL)
    monkeypatch.chdir(path.parent)
    assert read_config(Path("drtool.toml")).state_dir == path.parent / "state"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1 GiB", 1 << 30),
        ("512MiB", 512 << 20),
        (" 64 kib ", 64 << 10),
        ("2 TiB", 2 << 40),
        ("70000", 70_000),
        ("70000 B", 70_000),
        (70_000, 70_000),
    ],
)
def test_a_size_is_read_in_binary_units_or_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1", "1.5 GiB", "1 GB", "1 G", "GiB", "1 GiB!", True, None, 1.5, -1])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="1 GiB"):
        parse_size(text)


# -- bad files -------------------------------------------------------------------------------------------------------

BAD = {
    "unknown key at the top": ("retention = 3\n" + INSTANCE + LOCAL, "retention: no such key"),
    "unknown key of an instance": (INSTANCE + "tempo = 1\n" + LOCAL, "instance[0].tempo: no such key"),
    "unknown key of a directory": (INSTANCE + LOCAL + "bucket = 'x'\n", "store.main.bucket: no such key"),
    "unknown key of a bucket": (INSTANCE + S3 + "path = '/x'\n", "store.main.path: no such key"),
    "no instance": (LOCAL, "instance: is missing"),
    "instances that are none": ("instance = []\n" + LOCAL, "instance: write [[instance]]"),
    "one bracket": (INSTANCE.replace("[[", "[").replace("]]", "]") + LOCAL, "instance: write [[instance]]"),
    "no store": (INSTANCE, "store: is missing"),
    "no name": ('[[instance]]\nstore = "main"\n' + LOCAL, "instance[0].name: is missing"),
    "a name of another type": (INSTANCE.replace('"gitlab"', "7") + LOCAL, "instance[0].name: should be"),
    "a name that is no key": (INSTANCE.replace("gitlab", "../x") + LOCAL, "instance[0].name: use lower-case"),
    "a name in capitals": (INSTANCE.replace("gitlab", "GitLab") + LOCAL, "instance[0].name: use lower-case"),
    "a name with a line's end": (INSTANCE.replace("gitlab", "gitlab\\n") + LOCAL, "instance[0].name: use lower-case"),
    "an unknown store": (INSTANCE.replace("main", "other") + LOCAL, "there is no [store.other]"),
    "two of one name": (INSTANCE * 2 + LOCAL, "two instances are named 'gitlab'"),
    "an unknown install": (INSTANCE + 'install = "docker"\n' + LOCAL, "instance[0].install: should be 'omnibus'"),
    "an unknown seal": (INSTANCE + 'seal = "gpg"\n' + LOCAL, "instance[0].seal: should be 'age' or 'none'"),
    "clear and sealed": (INSTANCE + 'seal = "none"\nseal_to = ["age1a"]\n' + LOCAL, "contradict each other"),
    "a text for a list": (INSTANCE + 'seal_to = "age1a"\n' + LOCAL, "instance[0].seal_to: should be a list"),
    "a list of numbers": (INSTANCE + "seal_to = [1]\n" + LOCAL, "instance[0].seal_to[0]: should be"),
    "a number for a path": (INSTANCE + "prefix = 1\n" + LOCAL, "instance[0].prefix: should be a path"),
    "a text for a number": (INSTANCE + 'volumes_in_flight = "2"\n' + LOCAL, "instance[0].volumes_in_flight: should"),
    "none in flight": (INSTANCE + "volumes_in_flight = 0\n" + LOCAL, "instance[0].volumes_in_flight: should be"),
    "too many in flight": (INSTANCE + "volumes_in_flight = 17\n" + LOCAL, "instance[0].volumes_in_flight: should be"),
    "a size in words": (INSTANCE + 'volume_size = "much"\n' + LOCAL, 'volume_size: write a size like "1 GiB"'),
    "a size of decimal units": (INSTANCE + 'volume_size = "1 GB"\n' + LOCAL, 'volume_size: write a size like "1 GiB"'),
    "a tiny size": (INSTANCE + "volume_size = 1000\n" + LOCAL, "volume_size: should be greater than or equal to 65536"),
    "an unknown kind": (INSTANCE + '[store.main]\nkind = "ftp"\n', "store.main: there is no kind 'ftp'"),
    "no kind": (INSTANCE + "[store.main]\n", "store.main: kind is missing"),
    "a directory without a path": (INSTANCE + '[store.main]\nkind = "local"\n', "store.main.path: is missing"),
    "a bucket without a name": (INSTANCE + '[store.main]\nkind = "s3"\n', "store.main.bucket: is missing"),
    "half a pair of keys": (INSTANCE + S3 + 'access_key_id = "env:ID"\n', "store.main: access_key_id and secret"),
    "a Space without keys": (
        INSTANCE + SPACES.replace('access_key_id = "env:ID"', ""),
        "store.main.access_key_id: is",
    ),
    "a Space nowhere": (INSTANCE + SPACES.replace("fra1", "eu-west"), "store.main.region: write the region as in"),
    "a lock of no kind": (INSTANCE + S3 + "object_lock = true\n", "store.main.object_lock: should be 'governance' or"),
    "a frozen class": (
        INSTANCE + S3 + 'storage_class = "DEEP_ARCHIVE"\n',
        "store.main.storage_class: DEEP_ARCHIVE freezes objects, and a set is read back",
    ),
    "a frozen class of OSS": (INSTANCE + OSS + 'storage_class = "ColdArchive"\n', "storage_class: ColdArchive freezes"),
    "a class of no kind": (
        INSTANCE + S3 + 'storage_class = "COLD"\n',
        "store.main.storage_class: should be 'STANDARD',",
    ),
    "a key without its kind": (INSTANCE + S3 + 'kms_key_id = "alias/backup"\n', 'kms_key_id is for sse = "aws:kms"'),
    "a key for another kind": (INSTANCE + S3 + 'sse = "AES256"\nkms_key_id = "x"\n', "kms_key_id is for sse"),
    "a Space with a class": (
        INSTANCE + SPACES + 'storage_class = "STANDARD"\n',
        "store.main.storage_class: no such key",
    ),
    "a truth for a text": (INSTANCE + S3 + "region = true\n", "store.main.region: should be"),
    "a text for a truth": (INSTANCE + S3 + 'path_style = "yes"\n', "store.main.path_style: should be"),
    "an identity in clear": (
        INSTANCE + f'identities = ["{FAKE_SECRET}"]\n' + LOCAL,
        "instance[0].identities[0]: secrets",
    ),
    "a key in clear": (
        INSTANCE + S3 + f'access_key_id = "env:ID"\nsecret_access_key = "{FAKE_SECRET}"\n',
        "store.main.secret_access_key: secrets are not written here: say env:NAME",
    ),
    "a reference to no variable": (INSTANCE + 'identities = ["env:"]\n' + LOCAL, "instance[0].identities[0]: secrets"),
    "a reference to no file": (INSTANCE + 'identities = ["file:"]\n' + LOCAL, "instance[0].identities[0]: secrets"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_refused_naming_key_and_reason(path: Path, what: str) -> None:
    text, expected = BAD[what]
    said = complaint(path, text)
    assert expected in said
    assert "\n" not in said, "one fault, one line"
    assert FAKE_SECRET not in said


@pytest.mark.parametrize("name", ["local", "s3", "spaces", "oss", "store", "kind"])
def test_a_store_named_like_a_kind_is_still_named(path: Path, name: str) -> None:
    text = (INSTANCE + S3).replace("main", name) + "speed = 1\n"
    assert complaint(path, text) == f"store.{name}.speed: no such key"


def test_every_fault_is_told_at_once(path: Path) -> None:
    text = "one = 1\n" + INSTANCE + "two = 2\nvolumes_in_flight = 0\n" + LOCAL + "three = 3\n"
    assert len(complaint(path, text).splitlines()) == 4


def test_a_file_that_is_not_toml_is_refused_with_the_line(path: Path) -> None:
    assert complaint(path, INSTANCE + "seal_to = [\n").startswith("not TOML: ")
    assert "line 4" in complaint(path, INSTANCE + "what is this\n")


def test_a_secret_beside_a_syntax_error_is_not_repeated(path: Path) -> None:
    assert FAKE_SECRET not in complaint(path, S3 + f'secret_access_key = "{FAKE_SECRET}" oops\n')


def test_what_is_no_readable_text_file_is_refused(path: Path) -> None:
    path.write_bytes(b'state_dir = "\xff"\n')
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_config(path)
    for wrong in (path.parent, path.parent / "none", path / "below"):
        with pytest.raises(ConfigError, match="cannot be read") as caught:
            read_config(wrong)
        assert str(caught.value).startswith(f"{wrong}: ")


toml_values = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text(st.sampled_from("ab:/.\\"), max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("kn"), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from([*InstanceTable.model_fields, *S3StoreTable.model_fields, "path", "state_dir"]),
    toml_values,
    st.sampled_from(["", INSTANCE, INSTANCE + S3, INSTANCE + LOCAL]),
)
def test_any_value_of_any_key_is_read_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: Any, before: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(before + f"{key} = {toml(value)}\n")
    try:
        config = read_config(path)
    except ConfigError as refused:
        assert str(refused).startswith(f"{path}: ")
    else:
        assert config.instance[0].name == "gitlab"


def toml(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f"'{value}'"
        case list():
            return f"[{', '.join(map(toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
        case _:
            return str(value)


# -- which instance --------------------------------------------------------------------------------------------------


def test_one_instance_need_not_be_named(path: Path) -> None:
    config = parse(path, INSTANCE + LOCAL)
    assert config.choose(None) == config.choose("gitlab") == config.instance[0]


def test_several_instances_must_be_named(path: Path) -> None:
    config = parse(path, INSTANCE + INSTANCE.replace("gitlab", "other") + LOCAL)
    assert config.choose("other").name == "other"
    with pytest.raises(ConfigError, match="gitlab, other") as caught:
        config.choose(None)
    assert "--instance" in caught.value.hint


@pytest.mark.parametrize("name", ["third", ""])
def test_an_unknown_instance_is_refused_naming_those_there_are(path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"no instance '{name}'.*: gitlab"):
        parse(path, INSTANCE + LOCAL).choose(name)


# -- which file ------------------------------------------------------------------------------------------------------


def test_the_file_is_the_one_given_or_the_environments_or_the_working_directorys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_, named, local = (tmp_path / name for name in ("given.toml", "named.toml", "drtool.toml"))
    for file in (given_, named, local):
        file.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRTOOL_CONFIG", str(named))
    assert find_config(given_) == given_
    assert find_config(None) == named
    monkeypatch.setenv("DRTOOL_CONFIG", "")
    assert find_config(None) == Path("drtool.toml")


def test_a_named_file_that_is_not_there_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drtool.toml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRTOOL_CONFIG", str(tmp_path / "none.toml"))
    for given_ in (None, tmp_path / "none.toml"):
        with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
            find_config(given_)


# -- secrets ---------------------------------------------------------------------------------------------------------


def secret_file(tmp_path: Path, content: bytes = FAKE_SECRET.encode() + b"\n", mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_secret_comes_from_a_file_without_its_lines_end(tmp_path: Path) -> None:
    assert read_secret(f"file:{secret_file(tmp_path)}") == FAKE_SECRET


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRTOOL_TEST_SECRET", FAKE_SECRET)
    assert read_secret("env:DRTOOL_TEST_SECRET") == FAKE_SECRET


def test_a_variable_that_is_not_set_is_named() -> None:
    assert "DRTOOL_TEST_NOT_SET" not in os.environ
    with pytest.raises(ConfigError, match="env:DRTOOL_TEST_NOT_SET") as caught:
        read_secret("env:DRTOOL_TEST_NOT_SET")
    assert caught.value.hint


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o601])
def test_a_secret_that_others_can_read_is_refused_and_not_repeated(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, mode=mode)
    with pytest.raises(SecretExposed, match=str(path)) as caught:
        read_secret(f"file:{path}")
    assert FAKE_SECRET not in str(caught.value)
    assert caught.value.hint == f"chmod 600 {path}"


def test_a_secret_file_that_is_missing_or_a_directory_is_a_configuration_error(tmp_path: Path) -> None:
    for wrong in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError, match="no such file"):
            read_secret(f"file:{wrong}")


def test_a_secret_file_that_is_no_text_is_refused_and_not_repeated(tmp_path: Path) -> None:
    path = secret_file(tmp_path, FAKE_SECRET.encode() + b"\xff\xfe")
    with pytest.raises(ConfigError, match=str(path)) as caught:
        read_secret(f"file:{path}")
    assert FAKE_SECRET not in f"{caught.value} {caught.value.hint}"
