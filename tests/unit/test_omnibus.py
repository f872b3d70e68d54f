from __future__ import annotations

import io
import os
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import pytest

from drtool.core.command import Command
from drtool.errors import CommandFailed, ConfigError
from drtool.hosts.local import LocalRunner
from drtool.installs.omnibus import Omnibus

OMNIBUS = Omnibus()
SANDBOX = Omnibus(PurePosixPath("/srv/box"), backups=PurePosixPath("/data/backups"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (OMNIBUS.create_backup("nightly"), "/opt/gitlab/bin/gitlab-backup create BACKUP=nightly SKIP=tar"),
        (
            OMNIBUS.create_backup("b.1-x_2", skip=("tar", "registry")),
            "/opt/gitlab/bin/gitlab-backup create BACKUP=b.1-x_2 SKIP=tar,registry",
        ),
        (OMNIBUS.create_backup("b", skip=()), "/opt/gitlab/bin/gitlab-backup create BACKUP=b"),
        (OMNIBUS.restore_backup(), "/opt/gitlab/bin/gitlab-backup restore force=yes GITLAB_ASSUME_YES=1"),
        (
            OMNIBUS.restore_backup("nightly"),
            "/opt/gitlab/bin/gitlab-backup restore BACKUP=nightly force=yes GITLAB_ASSUME_YES=1",
        ),
        (OMNIBUS.stop("puma"), "/opt/gitlab/bin/gitlab-ctl stop puma"),
        (OMNIBUS.start(), "/opt/gitlab/bin/gitlab-ctl start"),
        (OMNIBUS.start("sidekiq"), "/opt/gitlab/bin/gitlab-ctl start sidekiq"),
        (OMNIBUS.status(), "/opt/gitlab/bin/gitlab-ctl status"),
        (OMNIBUS.reconfigure(), "/opt/gitlab/bin/gitlab-ctl reconfigure"),
        (
            OMNIBUS.unpack(PurePosixPath("/"), exclude=("opt", "etc/ssh")),
            "tar --directory=/ --extract --file=- --preserve-permissions --anchored --no-wildcards"
            " --exclude=opt --exclude=etc/ssh",
        ),
        (OMNIBUS.gitlab_check(), "/opt/gitlab/bin/gitlab-rake gitlab:check SANITIZE=true"),
        (OMNIBUS.doctor_secrets(), "/opt/gitlab/bin/gitlab-rake gitlab:doctor:secrets"),
        (OMNIBUS.ready(), "/opt/gitlab/bin/gitlab-healthcheck --fail --max-time 10"),
        (SANDBOX.ready(), "/srv/box/opt/gitlab/bin/gitlab-healthcheck --fail --max-time 10"),
        (OMNIBUS.read_file(PurePosixPath("/a/b")), "cat -- /a/b"),
        (OMNIBUS.remove(PurePosixPath("/a"), ["b", "-c"]), "rm -rf -- /a/b /a/-c"),
        (OMNIBUS.make_directory(PurePosixPath("/a/b")), "mkdir --parents --mode=0700 -- /a/b"),
        (OMNIBUS.copy([PurePosixPath("/a")], PurePosixPath("/b")), "cp --archive --target-directory=/b -- /a"),
        (
            OMNIBUS.copy([PurePosixPath("/a"), PurePosixPath("/-c")], PurePosixPath("/b"), link=True),
            "cp --archive --link --target-directory=/b -- /a /-c",
        ),
        (OMNIBUS.unpack(PurePosixPath("/a")), "tar --directory=/a --extract --file=- --preserve-permissions"),
        (
            OMNIBUS.pack(PurePosixPath("/a"), ["x", "y"]),
            "tar --directory=/a --create --file=- --format=gnu --sort=name --blocking-factor=128 -- x y",
        ),
        (
            OMNIBUS.pack(PurePosixPath("/a"), ["x"], follow_links=True),
            "tar --directory=/a --create --file=- --format=gnu --sort=name --blocking-factor=128"
            " --dereference --hard-dereference -- x",
        ),
    ],
)
def test_command_lines_are_exactly_as_documented(command: Command, words: str) -> None:
    assert list(command.argv) == words.split(" ")


def test_queries_pass_their_statement_as_one_argument() -> None:
    assert OMNIBUS.count_projects().argv == (
        "/opt/gitlab/bin/gitlab-psql", "-d", "gitlabhq_production", "-At", "-c", "SELECT count(*) FROM projects",
    )  # fmt: skip
    assert "to_regclass('public.projects')" in OMNIBUS.find_projects_table().argv[-1]


def test_backup_and_restore_may_take_as_long_as_they_need_and_nothing_else() -> None:
    assert OMNIBUS.create_backup("x").timeout is None
    assert OMNIBUS.restore_backup().timeout is None
    for command in (OMNIBUS.stop("puma"), OMNIBUS.start(), OMNIBUS.status(), OMNIBUS.ready(), OMNIBUS.reconfigure()):
        assert command.timeout is not None
        assert command.timeout <= timedelta(hours=1)


def test_commands_never_hide_gitlab_s_output() -> None:
    assert not any(word.startswith("CRON") for word in OMNIBUS.create_backup("x").argv)


def test_paths_follow_the_root_and_the_configured_backup_path() -> None:
    rails = "opt/gitlab/embedded/service/gitlab-rails"
    assert str(OMNIBUS.backup_path) == "/var/opt/gitlab/backups"
    assert str(OMNIBUS.version_file) == f"/{rails}/VERSION"
    assert str(OMNIBUS.pid_file) == f"/{rails}/tmp/backup_restore.pid"
    assert str(OMNIBUS.secrets_file) == "/etc/gitlab/gitlab-secrets.json"
    assert str(SANDBOX.backup_path) == "/data/backups"
    assert str(SANDBOX.pid_file) == f"/srv/box/{rails}/tmp/backup_restore.pid"


@pytest.mark.parametrize("backup_id", ["", "a b", "../x", "a/b", "-x", ".hidden", "x\n", "a=b", "$HOME"])
def test_a_backup_id_that_the_wrapper_would_split_or_cut_is_refused(backup_id: str) -> None:
    with pytest.raises(ConfigError):
        OMNIBUS.create_backup(backup_id)
    with pytest.raises(ConfigError):
        OMNIBUS.restore_backup(backup_id)


def test_names_that_are_no_words_are_refused() -> None:
    with pytest.raises(ConfigError):
        OMNIBUS.stop("puma sidekiq")
    with pytest.raises(ConfigError):
        OMNIBUS.create_backup("x", skip=("tar,db",))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "../x"])
def test_remove_takes_only_names_of_children(name: str) -> None:
    with pytest.raises(ConfigError):
        OMNIBUS.remove(PurePosixPath("/var/opt/gitlab/backups"), [name])


@pytest.mark.parametrize("name", ["", "/etc", "../x", "a/../..", "-T"])
def test_pack_takes_only_relative_names(name: str) -> None:
    with pytest.raises(ConfigError):
        OMNIBUS.pack(PurePosixPath("/"), [name])


def test_config_patterns_cover_settings_secrets_certificates_and_host_keys() -> None:
    assert OMNIBUS.config_required == ("etc/gitlab/gitlab.rb", "etc/gitlab/gitlab-secrets.json")
    assert OMNIBUS.config_patterns == (
        "etc/gitlab/gitlab.rb",
        "etc/gitlab/gitlab-secrets.json",
        "etc/gitlab/*",
        "etc/ssh/ssh_host_*",
        "opt/gitlab/version-manifest.txt",
    )
    assert OMNIBUS.config_excluded == ("etc/gitlab/config_backup",)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a directory whose parts were created in an order that is not theirs by name."""
    root = tmp_path / "tree"
    for name in ("z/c", "z/a", "z/b/deep", "repositories/" + "n" * 120, "db/x", "odd name/ü"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
    (root / "z/link").symlink_to("a")
    (root / "db").chmod(0o700)
    (root / "db/x").chmod(0o600)
    (root / "information").write_text("first")
    return root


def test_pack_gives_the_same_bytes_for_the_same_tree(tree: Path, tmp_path: Path) -> None:
    names = ["information", "db", "repositories", "z", "odd name"]
    runner = LocalRunner()
    first = runner.run(OMNIBUS.pack(PurePosixPath(tree), names))
    copy = tmp_path / "copy"
    runner.run(Command(("cp", "--archive", str(tree), str(copy))))
    for directory, _, _ in os.walk(copy):  # copying made the directories, but may have made their entries otherwise
        moved = Path(directory) / "aside"
        for path in sorted(Path(directory).iterdir(), reverse=True):
            times = (path.parent.stat().st_atime_ns, path.parent.stat().st_mtime_ns)
            path.rename(moved)
            moved.rename(path)
            os.utime(path.parent, ns=times)
    assert runner.run(OMNIBUS.pack(PurePosixPath(copy), names)) == first


def test_pack_keeps_the_given_order_and_sorts_below(tree: Path) -> None:
    data = LocalRunner().run(OMNIBUS.pack(PurePosixPath(tree), ["information", "z", "db"]))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["information", "z", "z/a", "z/b", "z/b/deep", "z/c", "z/link", "db", "db/x"]
        assert tar.getmember("information").uname != ""


def test_pack_fails_for_a_name_that_is_not_there(tree: Path) -> None:
    with pytest.raises(CommandFailed, match="absent"):
        LocalRunner().run(OMNIBUS.pack(PurePosixPath(tree), ["absent"]))


def test_pack_can_store_what_links_point_to(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "fullchain.pem").write_text("certificate")
    (tree / "ssl").symlink_to(tmp_path / "fullchain.pem")
    data = LocalRunner().run(OMNIBUS.pack(PurePosixPath(tree), ["ssl"], follow_links=True))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("ssl").isreg()


def test_unpack_brings_back_what_was_packed(tree: Path, tmp_path: Path) -> None:
    runner, target = LocalRunner(), tmp_path / "target"
    names = ["information", "db", "repositories", "z", "odd name"]
    data = runner.run(OMNIBUS.pack(PurePosixPath(tree), names))
    runner.run(OMNIBUS.make_directory(PurePosixPath(target)))
    with runner.write_to(OMNIBUS.unpack(PurePosixPath(target))) as sink:
        for at in range(0, len(data), 1000):
            sink.write(data[at : at + 1000])
    assert runner.run(OMNIBUS.pack(PurePosixPath(target), names)) == data
    assert (target / "db").stat().st_mode & 0o777 == 0o700


def test_unpack_follows_no_link_that_lies_in_the_way(tree: Path, tmp_path: Path) -> None:
    runner, target, victim = LocalRunner(), tmp_path / "target", tmp_path / "victim"
    target.mkdir()
    victim.write_text("untouched")
    (target / "information").symlink_to(victim)
    (tmp_path / "elsewhere").mkdir()
    (target / "db").symlink_to(tmp_path / "elsewhere")
    with runner.write_to(OMNIBUS.unpack(PurePosixPath(target))) as sink:
        sink.write(runner.run(OMNIBUS.pack(PurePosixPath(tree), ["information", "db"])))
    assert victim.read_text() == "untouched"
    assert (target / "information").read_text() == "first"
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (target / "db/x").exists()


def test_unpack_leaves_out_exactly_what_is_excluded(tree: Path, tmp_path: Path) -> None:
    runner, target = LocalRunner(), tmp_path / "target"
    target.mkdir()
    (tree / "information-2").write_text("stays")
    data = runner.run(OMNIBUS.pack(PurePosixPath(tree), ["information", "information-2", "z", "db"]))
    with runner.write_to(OMNIBUS.unpack(PurePosixPath(target), exclude=("z", "information", "x"))) as sink:
        sink.write(data)
    assert sorted(path.name for path in target.iterdir()) == ["db", "information-2"]
    assert (target / "db/x").exists()


def test_unpack_fails_on_a_cut_archive(tree: Path, tmp_path: Path) -> None:
    runner = LocalRunner()
    data = runner.run(OMNIBUS.pack(PurePosixPath(tree), ["information"]))
    with pytest.raises(CommandFailed), runner.write_to(OMNIBUS.unpack(PurePosixPath(tmp_path))) as sink:
        sink.write(data[:515])


def test_list_directory_finds_names_with_any_character(tmp_path: Path) -> None:
    strange = "two\nlines  \t'\" ü"
    (tmp_path / strange).write_text("12345")
    (tmp_path / "d").mkdir(mode=0o750)
    (tmp_path / "d/not listed").touch()
    (tmp_path / "l").symlink_to("nowhere")
    os.mkfifo(tmp_path / "p")
    os.utime(tmp_path / strange, (1_700_000_000, 1_700_000_000))
    link = tmp_path.parent / "link-to-it"
    link.symlink_to(tmp_path)
    entries = {
        entry.name: entry
        for entry in OMNIBUS.parse_directory(LocalRunner().run(OMNIBUS.list_directory(PurePosixPath(link))))
    }
    assert {name: entry.kind for name, entry in entries.items()} == {
        strange: "file", "d": "directory", "l": "symlink", "p": "other",
    }  # fmt: skip
    assert entries[strange].size == 5
    assert entries[strange].modified_at == datetime.fromtimestamp(1_700_000_000, UTC)
    assert entries["d"].mode == 0o750


def test_list_directory_tells_an_empty_directory_from_a_missing_one(tmp_path: Path) -> None:
    assert OMNIBUS.parse_directory(LocalRunner().run(OMNIBUS.list_directory(PurePosixPath(tmp_path)))) == ()
    with pytest.raises(CommandFailed):
        LocalRunner().run(OMNIBUS.list_directory(PurePosixPath(tmp_path / "absent")))


@pytest.mark.parametrize("output", [b"f 1 600 1.0 name", b"something else\0", b"f x 600 1.0 name\0"])
def test_a_listing_that_is_none_is_refused(output: bytes) -> None:
    with pytest.raises(CommandFailed):
        OMNIBUS.parse_directory(output)


@pytest.mark.parametrize("link", [False, True])
def test_copy_remove_and_read_do_what_they_say(tmp_path: Path, link: bool) -> None:
    runner, here = LocalRunner(), PurePosixPath(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("x")
    (tmp_path / "keep").write_text("kept")
    (tmp_path / "b").mkdir()
    runner.run(OMNIBUS.copy([here / "a", here / "keep"], here / "b", link=link))
    assert (tmp_path / "a/file").samefile(tmp_path / "b/a/file") is link
    runner.run(OMNIBUS.remove(here, ["a", "never was"]))
    assert runner.run(OMNIBUS.read_file(here / "b/a/file")) == b"x"
    runner.run(OMNIBUS.remove(here, ["b"]))
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]
