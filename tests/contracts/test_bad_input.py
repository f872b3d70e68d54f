"""What is wrong is refused: one clear error with its own exit status and a hint, no traceback, and nothing changed."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from drtool.catalog import Catalog
from drtool.cli import main
from drtool.core.model import Archive
from drtool.events import ignore
from drtool.gitlab.archive import TarScanner
from drtool.hosts.local import LocalRunner
from drtool.journal import Journal
from drtool.signing import Signer, Verifier
from drtool.stores.local import LocalStore
from drtool.streams import parse_identities, parse_recipients
from drtool.volumes import VolumeWriter
from tests import sandboxes, sets
from tests.playground import Playground, Ran, drtool, lay_out, playground, snapshot

if TYPE_CHECKING:
    from tests.servers import S3Server


def here(*arguments: str | Path) -> Ran:
    """Run the console script's function in this process: as ``playground.drtool``, without the start."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        patch.setattr(sys, "argv", ["drtool", *map(str, arguments)])
        patch.delenv("DRTOOL_CONFIG", raising=False)
        main()
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, out.getvalue(), err.getvalue())


def assert_refused(ran: Ran, status: int, *words: str, hint: bool = True) -> None:
    """One error on standard error, with these words and a hint; nothing on standard output."""
    said = " ".join(ran.stderr.split())
    assert ran.status == status, ran
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: ")
    assert ran.stderr.count("error: ") == 1
    assert "Traceback" not in ran.stderr
    assert "defect" not in ran.stderr
    for word in words:
        assert word in said, ran.stderr
    assert ("\n  → " in ran.stderr) or not hint, "no hint"


@contextlib.contextmanager
def unchanged(*roots: Path) -> Iterator[None]:
    before = snapshot(*roots)
    yield
    after = snapshot(*roots)
    assert {name for name in before if before[name] != after.get(name)} == set()
    assert {name for name in after if name not in before} == set()


# -- the configuration -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What init writes, with a store that is there; no GitLab is needed to find it wrong."""
    base = tmp_path_factory.mktemp("plain")
    (base / "store").mkdir()
    assert drtool("init", base / "dr", "--store", base / "store").status == 0
    config = base / "dr/drtool.toml"
    config.write_text(config.read_text().replace("/var/lib/drtool", str(base / "state")))
    return config


def edited(config: Path, *changes: tuple[str, str]) -> Path:
    text = config.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    path = config.with_name("edited.toml")
    path.write_text(text)
    return path


WRONG_KEYS = [
    ("install = ", "instal = ", "instance[0].instal: no such key"),
    ("[store.main]", "tempo = 1\n[store.main]", "instance[0].tempo: no such key"),
    ("[[instance]]", "[instance]", "instance: write [[instance]], with two brackets"),
    ('name = "gitlab"', 'name = "Git Lab"', "instance[0].name: use lower-case letters, digits, dots and dashes"),
    ('name = "gitlab"', "name = 7", "instance[0].name: should be a valid string"),
    ('store = "main"', 'store = "other"', "instance 'gitlab' wants store 'other', there is no [store.other]"),
    ("seal_to = [", "seal_to = 7 # [", 'instance[0].seal_to: should be a list: ["…"]'),
    ("# volume_size", 'volume_size = "much" #', 'instance[0].volume_size: write a size like "1 GiB" or "512 MiB"'),
    ("# volumes_in_flight = 2", "volumes_in_flight = 0", "instance[0].volumes_in_flight: should be greater than"),
    ('kind = "local"', 'kind = "ftp"', "store.main: there is no kind 'ftp', only 'local'"),
    ('kind = "local"', "", "store.main: kind is missing"),
    ('kind = "local"', 'kind = "s3"', "store.main.bucket: is missing"),
    ("state_dir", "state_dir = [", "not TOML"),
]


@pytest.mark.parametrize(("old", "new", "complaint"), WRONG_KEYS, ids=[complaint for _, _, complaint in WRONG_KEYS])
def test_a_wrong_key_is_named_with_its_file_and_the_reason(plain: Path, old: str, new: str, complaint: str) -> None:
    config = edited(plain, (old, new))
    with unchanged(plain.parent.parent):
        ran = here("list", "-c", config)
    assert_refused(ran, 3, f"{config}: {complaint}")
    assert ran.stderr.count(f"{config}: ") == (2 if "bucket" in complaint else 1)  # there the path is wrong, too


@pytest.mark.parametrize("name", ["local", "s3", "oss"])
def test_a_store_may_be_named_like_a_kind_and_is_named_in_complaints(plain: Path, name: str) -> None:
    config = edited(plain, ("store.main", f"store.{name}"), ('"main"', f'"{name}"'), ("path = ", "pfad = "))
    assert_refused(here("list", "-c", config), 3, f"{config}: store.{name}.path: is missing")


def test_a_secret_written_into_the_configuration_is_refused_and_not_repeated(plain: Path) -> None:
    settings = 'bucket = "b"\naccess_key_id = "env:X"\nsecret_access_key = "not-a-real-secret"\n'
    store = f'path = "{plain.parent.parent / "store"}"'
    config = edited(plain, ('kind = "local"', 'kind = "s3"'), (store, settings))
    ran = here("list", "-c", config)
    assert_refused(ran, 3, f"{config}: store.main.secret_access_key: secrets are not written here")
    assert "not-a-real-secret" not in ran.stderr


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('bucket = "s3://backups"', "bucket: write the bucket's name alone"),
        ('bucket = "backups"\nendpoint = "localhost:9000"', "endpoint: write https://HOST"),
        ('bucket = "backups"\naccess_key_id = "env:X"', "access_key_id and secret_access_key come together"),
    ],
)
def test_wrong_settings_of_a_bucket_are_found_before_it_is_asked(plain: Path, line: str, complaint: str) -> None:
    store = f'path = "{plain.parent.parent / "store"}"'
    config = edited(plain, ('kind = "local"', 'kind = "s3"'), (store, line))
    assert_refused(here("list", "-c", config), 3, complaint)


def test_no_configuration_at_all_is_said(tmp_path: Path) -> None:
    if Path("/etc/drtool/drtool.toml").exists():
        pytest.skip("this machine has a configuration of its own")
    assert_refused(
        drtool("list", cwd=tmp_path), 3, "no drtool.toml (looked for drtool.toml and /etc/drtool/drtool.toml"
    )


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.toml"
    assert_refused(here("list", "-c", missing), 3, f"{missing}: no such file")
    assert_refused(drtool("list", environment={"DRTOOL_CONFIG": str(missing)}), 3, f"{missing}: no such file")


def test_an_instance_that_is_not_there_is_named(plain: Path) -> None:
    ran = here("list", "-c", plain, "--instance", "other")
    assert ran.status == 3
    assert ran.stderr == "error: no instance 'other'; there are: gitlab\n"


# -- permissions -----------------------------------------------------------------------------------------------------


def without_privileges(*arguments: str | Path) -> Ran:
    """Run drtool so that permission bits mean something, also where the tests run as root."""
    if os.geteuid() != 0:
        return drtool(*arguments)
    capabilities = "-dac_override,-dac_read_search"
    wrapped = ["setpriv", f"--inh-caps={capabilities}", f"--bounding-set={capabilities}"]
    ran = subprocess.run([*wrapped, *program(*arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def program(*arguments: str | Path) -> list[str]:
    from tests.playground import PROGRAM

    return [str(PROGRAM), *map(str, arguments)]


@pytest.fixture
def needs_setpriv() -> None:
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("running as root, and setpriv (util-linux) is not installed")


@pytest.mark.engine("setpriv")
@pytest.mark.parametrize("locked", ["file", "directory"])
def test_a_configuration_that_may_not_be_read_is_said_to_be_so(
    tmp_path: Path, plain: Path, needs_setpriv: None, locked: str
) -> None:
    folder = tmp_path / "private"
    folder.mkdir()
    config = Path(shutil.copy(plain, folder))
    target = config if locked == "file" else folder
    target.chmod(0)
    try:
        assert_refused(without_privileges("list", "-c", config), 3, f"{config}: cannot be read: Permission denied")
    finally:
        target.chmod(0o700)


@pytest.mark.engine("setpriv")
def test_a_state_directory_that_may_not_be_written_is_found_by_check(
    tmp_path: Path, plain: Path, needs_setpriv: None
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for state in (locked, locked / "deeper/state"):
        config = edited(plain, (str(plain.parent.parent / "state"), str(state)))
        with unchanged(tmp_path):
            ran = without_privileges("check", "--json", "-c", config)
        (answer,) = [answer for answer in ran.last["answers"] if answer["question"] == "state"]
        assert answer["error"]["error"] == "ConfigError"
        assert str(locked) in answer["error"]["message"]
        assert ran.status != 0


# -- a backup that cannot be taken -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """A GitLab to back up."""
    with playground(tmp_path_factory.mktemp("source")) as made:
        yield made


SEALS = [
    ("seal_to = [", "# seal_to = [", "seal_to names nobody"),
    ("seal_to = [", 'seal = "none"\n# [', "config_seal_to names nobody; secrets are never written in clear"),
    ("seal_to = [", 'seal_to = ["age1nonsense"] # [', "age1nonsense"),
    ("# config_seal_to = [", 'config_seal_to = ["ssh-ed25519 AAAAnonsense"] # [', "AAAAnonsense"),
]


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize(("old", "new", "words"), SEALS, ids=[words for _, _, words in SEALS])
def test_a_backup_without_right_recipients_does_nothing(source: Playground, old: str, new: str, words: str) -> None:
    config = source.configure("seals.toml", (old, new))
    with unchanged(source.store, source.host.backups, source.made.config.parent):
        assert_refused(here("backup", "-c", config), 5, words)
        assert here("check", "-c", config).status == 5


@pytest.mark.engine("postgresql")
def test_a_store_directory_that_is_not_there_is_never_made(source: Playground) -> None:
    missing = source.base / "not-mounted"
    config = source.configure("missing.toml", (f'"{source.store}"', f'"{missing}"'))
    with unchanged(source.store, source.made.config.parent):
        for command in ("list", "verify", "backup"):
            assert_refused(here(command, "-c", config), 12, f"{missing}: no such directory")
        assert here("check", "-c", config).status == 12
    assert not missing.exists()


@pytest.mark.engine("postgresql")
def test_a_full_store_keeps_the_sets_it_has_and_takes_the_backup_when_there_is_room(source: Playground) -> None:
    assert source.drtool("backup").status == 0
    with unchanged(source.store / "gitlab/sets"):  # a lease that ended lies beside them
        ran = source.drtool("backup", preexec_fn=_limit_file_size)
        assert_refused(ran, 13, f"{source.store}/gitlab/sets/")
    assert source.drtool("backup").status == 0
    assert len(source.drtool("list", "--json").last["sets"]) == 2


def _limit_file_size() -> None:
    """Stop below the size of the application's volume, and above that of anything GitLab stages."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.engine("postgresql")
def test_a_signing_key_that_others_can_read_signs_nothing(source: Playground) -> None:
    key = source.made.signing_key
    key.chmod(0o644)
    try:
        with unchanged(source.made.config.parent):
            assert_refused(source.drtool("backup"), 4, f"{key}: mode 0644, others can read it", "chmod 600")
            assert source.drtool("check").status == 4
    finally:
        key.chmod(0o600)


# -- a bucket --------------------------------------------------------------------------------------------------------


@pytest.mark.engine("seaweedfs")
@pytest.mark.parametrize(("wrong", "status"), [("bucket", 12), ("secret", 11)])
def test_a_bucket_that_does_not_answer_is_named_without_its_secret(
    plain: Path, s3_http: S3Server, wrong: str, status: int
) -> None:
    from tests.servers import ACCESS_KEY_ID, BUCKET, SECRET_ACCESS_KEY

    bucket = "no-such-bucket" if wrong == "bucket" else BUCKET
    secret = "not-the-right-secret" if wrong == "secret" else SECRET_ACCESS_KEY
    settings = (
        f'bucket = "{bucket}"\nendpoint = "{s3_http.endpoint}"\nregion = "us-east-1"\n'
        'access_key_id = "env:BACKUP_KEY_ID"\nsecret_access_key = "env:BACKUP_SECRET"\n'
    )
    store = f'path = "{plain.parent.parent / "store"}"'
    config = edited(plain, ('kind = "local"', 'kind = "s3"'), (store, settings))
    ran = drtool("list", "-c", config, environment={"BACKUP_KEY_ID": ACCESS_KEY_ID, "BACKUP_SECRET": secret})
    assert_refused(ran, status, f"s3://{bucket}")
    assert secret not in ran.stderr


# -- a set that is not right -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playground]:
    """An empty host of the version that ``tests.sets`` makes sets of."""
    sandboxes.require()
    base = tmp_path_factory.mktemp("target")
    with sandboxes.fresh(base / "host") as host:
        yield lay_out(base, host)


class Case:
    """One test's own store and state, with the shared host and keys."""

    def __init__(self, target: Playground, folder: Path) -> None:
        self.target, self.folder = target, folder
        (folder / "store").mkdir()
        self.store = LocalStore(folder / "store")
        self.keys = keys_of(target)
        self.set = folder / "store/gitlab/sets" / sets.SET_ID
        state = (str(target.base / "state"), str(folder / "state"))
        self.config = target.configure("case.toml", (f'"{target.store}"', f'"{folder / "store"}"'), state)

    def commit(self, **options: object) -> sets.Committed:
        return sets.commit(self.store, keys_=self.keys, **options)  # type: ignore[arg-type]  # passed on as they come

    def refuse(self, command: str, status: int, *words: str, hint: bool = True) -> None:
        """Give the command; it must refuse, and leave host and store as they are."""
        commands: dict[str, list[str | Path]] = {
            "show": ["show", "latest"],
            "verify": ["verify"],
            "fetch": ["fetch", "latest", "--into", self.folder / "out"],
            "restore": ["restore", "latest", "--to", "local", "--yes"],
        }
        with unchanged(self.folder / "store", *_precious(self.target)):
            ran = here(*commands[command], "-c", self.config)
        if command == "restore":
            assert [name.name for name in self.target.host.backups.iterdir() if name.name[0] != "."] == []
            ran = replace(ran, stderr=ran.stderr[max(ran.stderr.find("error: "), 0) :])  # after the plan
        assert_refused(ran, status, *words, hint=hint)
        out = self.folder / "out"
        assert not out.exists() or list(out.iterdir()) == []


def _precious(target: Playground) -> tuple[Path, ...]:
    host = target.host
    return host.etc_gitlab, host.etc_ssh, host.uploads, host.shared, host.repositories


def keys_of(place: Playground) -> sets.Keys:
    runner, made = LocalRunner(), place.made
    identities = tuple(parse_identities([("test", made.identity.read_bytes())]))
    signer, verifier = Signer(made.signing_key, runner), Verifier((made.public_key,), runner)
    return sets.Keys(made.recipient, identities, signer, verifier, made.public_key)


@pytest.fixture
def case(target: Playground, tmp_path: Path) -> Case:
    return Case(target, tmp_path)


@pytest.mark.engine("postgresql")
def test_a_truncated_volume_is_named(case: Case) -> None:
    case.commit()
    volume = case.set / "application-0001.tar.age"
    volume.write_bytes(volume.read_bytes()[:-1])
    ran = here("verify", "-c", case.config)
    assert (ran.status, ran.stderr) == (21, "")
    assert "application-0001.tar.age" in ran.stdout
    for command in ("fetch", "restore"):
        case.refuse(command, 21, f"gitlab/sets/{sets.SET_ID}/application-0001.tar.age: ", hint=False)


@pytest.mark.engine("postgresql")
def test_swapped_volumes_are_named(case: Case) -> None:
    case.commit()
    first, second = case.set / "application-0000.tar.age", case.set / "application-0001.tar.age"
    first.rename(case.set / "x")
    second.rename(first)
    (case.set / "x").rename(second)
    ran = here("verify", "-c", case.config)
    assert ran.status == 21
    assert first.name in ran.stdout
    assert second.name in ran.stdout
    for command in ("fetch", "restore"):
        case.refuse(command, 21, f"gitlab/sets/{sets.SET_ID}/application-0000.tar.age: ", hint=False)


@pytest.mark.engine("postgresql")
def test_a_manifest_of_a_newer_format_is_not_guessed_at(case: Case) -> None:
    committed = case.commit()
    newer = replace(committed.manifest, format=committed.manifest.format + 1)
    committed.catalog.commit(newer, case.keys.signer)
    for command in ("show", "verify", "fetch", "restore"):
        case.refuse(command, 24, f"gitlab/sets/{sets.SET_ID}/manifest.json: format 2")


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("command", ["fetch", "restore"])
def test_a_set_that_the_identity_does_not_open_is_not_begun(case: Case, command: str) -> None:
    stranger = sets.new_keys()
    sets.commit(case.store, keys_=replace(case.keys, recipient=stranger.recipient, identities=stranger.identities))
    case.refuse(command, 25, "identit")


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("command", ["fetch", "restore"])
def test_a_sealed_set_is_not_begun_without_an_identity(case: Case, command: str) -> None:
    case.commit()
    case.config.write_text(case.config.read_text().replace("identities = [", "# identities = ["))
    case.refuse(command, 25, "identity")


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("command", ["fetch", "restore"])
def test_an_identity_that_others_can_read_is_not_used(case: Case, command: str) -> None:
    case.commit()
    case.target.made.identity.chmod(0o640)
    try:
        case.refuse(command, 4, "identity.txt: mode 0640, others can read it", "chmod 600")
    finally:
        case.target.made.identity.chmod(0o600)


@pytest.mark.engine("postgresql")
def test_an_unsigned_set_is_refused(case: Case) -> None:
    case.commit()
    (case.set / "manifest.json.sig").unlink()
    for command in ("show", "verify", "fetch", "restore"):
        case.refuse(command, 27, f"gitlab/sets/{sets.SET_ID}/manifest.json.sig")
    assert here("show", "latest", "--unsigned", "-c", case.config).status == 0


@pytest.mark.engine("postgresql")
def test_a_set_signed_by_another_key_is_refused(case: Case) -> None:
    stranger = sets.new_keys()
    sets.commit(case.store, keys_=replace(case.keys, signer=stranger.signer))
    for command in ("show", "verify", "fetch", "restore"):
        case.refuse(command, 27, f"gitlab/sets/{sets.SET_ID}/manifest.json")


@pytest.mark.engine("postgresql")
def test_a_set_that_is_not_there_is_not_invented(case: Case) -> None:
    for command in ("show", "verify", "fetch", "restore"):
        case.refuse(command, 14, f"no backup set of gitlab in {case.folder / 'store'}")
    case.commit()
    assert_refused(here("show", "20991231", "-c", case.config), 14, "no backup set '20991231' of gitlab")


@pytest.mark.engine("postgresql")
def test_a_beginning_that_fits_two_sets_names_both(case: Case) -> None:
    case.commit()
    case.commit(set_id=sets.LATER_SET_ID)
    assert_refused(here("show", "202601", "-c", case.config), 14, sets.SET_ID, sets.LATER_SET_ID)
    assert here("show", sets.SET_ID[:8], "-c", case.config).status == 0


# -- members that want out -------------------------------------------------------------------------------------------


def _file(name: str) -> tarfile.TarInfo:
    return tarfile.TarInfo(name)


def _link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


def _device(name: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
    return member


ESCAPES = {
    "parent": lambda: _file("../escaped"),
    "absolute": lambda: _file("/escaped"),
    "symlink": lambda: _link("escaped", "../../../etc", tarfile.SYMTYPE),
    "hard link": lambda: _link("link", "../../escaped", tarfile.LNKTYPE),
    "device": lambda: _device("escaped"),
}


@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES)
def test_a_member_that_wants_out_is_refused_in_a_signed_and_sealed_set(
    case: Case, escape: Callable[[], tarfile.TarInfo]
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(_file("backup_information.yml"))
        tar.addfile(escape())
    commit_unjudged(case, out.getvalue())
    for command in ("fetch", "restore"):
        case.refuse(command, 26, "escaped", hint=False)


class Unjudging(TarScanner):
    """Lets everything pass, as a backup by somebody who wants to do harm would."""

    def feed(self, data: bytes | memoryview) -> None:
        pass

    def close(self) -> None:
        pass


def commit_unjudged(case: Case, application: bytes) -> None:
    catalog = Catalog(case.store, sets.INSTANCE)
    recipients = (case.keys.recipient,)
    with tempfile.TemporaryDirectory() as scratch:
        journal = Journal(Path(scratch, "journal.jsonl"))
        writer = VolumeWriter(catalog, sets.SET_ID, journal, 1 << 20, 2, ignore)
        archives = tuple(
            Archive(
                name,
                "age",
                recipients,
                1,
                writer.write(name, io.BytesIO(tar), Unjudging(), parse_recipients(recipients)),
            )
            for name, tar in {"application": application, "config": sets.config()}.items()
        )
    volume = catalog.put_index(sets.SET_ID, {"application": [], "config": []}, parse_recipients(recipients))
    manifest = sets.manifest_of(archives, Archive("index", "age", recipients, 0, (volume,)))
    catalog.commit(manifest, case.keys.signer)
