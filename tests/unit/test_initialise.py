from __future__ import annotations

import io
from pathlib import Path

import pytest

from drtool.config import read_config
from drtool.config_stores import LocalStoreTable
from drtool.errors import ConfigError, HostUnfit, SealError
from drtool.hosts.local import LocalRunner
from drtool.initialise import Made, initialise
from drtool.signing import Signer, Verifier
from drtool.streams import generate_identity, parse_identities, parse_recipients, sealed, unsealed


def init(directory: Path, *, store: Path | None = None, state: Path | None = None, prefix: Path | None = None) -> Made:
    return initialise(directory, LocalRunner(), instance="gitlab", host="test", store=store, state=state, prefix=prefix)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_init_leaves_a_configuration_and_two_keys_and_nothing_else(tmp_path: Path) -> None:
    made = init(tmp_path / "dr")
    assert sorted(contents(tmp_path / "dr")) == ["drtool.toml", "identity.txt", "signing_key", "signing_key.pub"]
    assert made.config == tmp_path / "dr/drtool.toml"
    assert made.identity == tmp_path / "dr/identity.txt"


def test_what_init_writes_is_for_its_owner_alone(tmp_path: Path) -> None:
    made = init(tmp_path / "a/dr")
    assert (tmp_path / "a/dr").stat().st_mode & 0o777 == 0o700
    for path in (made.config, made.identity, made.signing_key):
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_configuration_holds_no_secret(tmp_path: Path) -> None:
    made = init(tmp_path / "dr")
    text = made.config.read_text()
    assert "AGE-SECRET-KEY" in made.identity.read_text()
    assert "AGE-SECRET-KEY" not in text
    assert "PRIVATE KEY" not in text


def test_the_configuration_is_read_without_complaint_and_names_what_was_made(tmp_path: Path) -> None:
    made = init(tmp_path / "dr")
    config = read_config(made.config)
    (instance,) = config.instance
    assert instance.name == "gitlab"
    assert instance.seal_to == (made.recipient,)
    assert instance.trusted_signers == (made.public_key,)
    assert instance.signing_key == made.signing_key
    assert instance.prefix == Path("/")
    assert config.state_dir == Path("/var/lib/drtool")
    assert instance.identities == (), "the identity is to be kept elsewhere"


def test_the_keys_that_were_made_work(tmp_path: Path) -> None:
    made, runner = init(tmp_path / "dr"), LocalRunner()
    identities = parse_identities([(str(made.identity), made.identity.read_bytes())])
    stored = sealed(io.BytesIO(b"plain"), parse_recipients([made.recipient])).readall()
    assert unsealed(io.BytesIO(stored), identities).readall() == b"plain"
    signature = Signer(made.signing_key, runner).sign(b"message")
    Verifier([made.public_key], runner).verify(b"message", signature, source="")


ODD = ['quo"te', "back\\slash", "sp ace", "{brace}", "ümläut", "hash # mark", "new\nline"]


@pytest.mark.parametrize("odd", ODD)
def test_odd_names_of_directories_are_written_as_they_are(tmp_path: Path, odd: str) -> None:
    base = tmp_path / odd
    made = init(base, store=base / "store", state=base / "state", prefix=base / "root")
    config = read_config(made.config)
    assert config.state_dir == base / "state"
    assert config.store["main"] == LocalStoreTable(kind="local", path=base / "store")
    assert config.instance[0].prefix == base / "root"
    assert config.instance[0].signing_key == base / "signing_key"


def test_relative_directories_are_meant_from_where_init_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = init(Path("dr"), store=Path("store"), state=Path("state"), prefix=Path("root"))
    config = read_config(made.config)
    assert config.instance[0].signing_key == tmp_path / "dr/signing_key"
    assert config.instance[0].signing_key.is_file()
    assert config.instance[0].prefix == tmp_path / "root"
    assert config.state_dir == tmp_path / "state"
    assert config.store["main"] == LocalStoreTable(kind="local", path=tmp_path / "store")


def test_a_second_init_changes_nothing_and_says_so(tmp_path: Path) -> None:
    init(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match="is there already") as caught:
        init(tmp_path)
    assert caught.value.hint
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "lost", [("drtool.toml",), ("drtool.toml", "signing_key.pub"), ("drtool.toml", "identity.txt")]
)
def test_an_interrupted_init_is_run_again_and_keeps_the_keys_there_are(tmp_path: Path, lost: tuple[str, ...]) -> None:
    init(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    (tmp_path / "identity.txt.partial").write_text("AGE-SECRET-KEY-1TORN")
    (tmp_path / "drtool.toml.partial").write_text("state_dir = ")
    kept = contents(tmp_path)
    made = init(tmp_path)
    after = contents(tmp_path)
    assert {name: after[name] for name in ("signing_key", "identity.txt") if name in kept} == {
        name: kept[name] for name in ("signing_key", "identity.txt") if name in kept
    }
    assert read_config(made.config).instance[0].seal_to == (made.recipient,)


def test_a_partial_file_that_others_could_read_lends_no_key_its_mode(tmp_path: Path) -> None:
    (tmp_path / "identity.txt.partial").touch(0o644)
    assert init(tmp_path).identity.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "garbage NOT-A-REAL-SECRET", "two", "ssh"])
def test_an_identity_file_that_init_did_not_write_is_refused_and_not_repeated(tmp_path: Path, content: str) -> None:
    runner = LocalRunner()
    if content == "ssh":
        initialise(tmp_path / "other", runner, instance="gitlab", host="test")
        content = (tmp_path / "other/signing_key").read_text()
    if content == "two":
        content = "\n".join(generate_identity()[0] for _ in range(2))
    directory = tmp_path / "dr"
    directory.mkdir()
    (directory / "identity.txt").write_text(content)
    with pytest.raises(SealError, match=r"identity\.txt") as caught:
        init(directory)
    assert caught.value.hint
    assert not any(line in str(caught.value) for line in content.splitlines() if line)
    assert not (directory / "drtool.toml").exists()


def test_a_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=str(tmp_path / "file/dr")) as caught:
        init(tmp_path / "file/dr")
    assert caught.value.hint


def test_a_host_without_ssh_keygen_gets_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostUnfit, match="ssh-keygen is not installed"):
        init(tmp_path / "dr")
    assert not (tmp_path / "dr/drtool.toml").exists()


def test_the_identity_file_says_what_it_is_for(tmp_path: Path) -> None:
    made = init(tmp_path)
    comments = [line for line in made.identity.read_text().splitlines() if line.startswith("#")]
    assert any("gitlab" in line for line in comments)
    assert any(made.recipient in line for line in comments)
    assert made.identity.read_bytes().endswith(b"\n")
