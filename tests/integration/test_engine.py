"""The dockerd that tests share: started once, gone after its last user however that one ends, and honest if it cannot.

A stand-in takes dockerd's place here: the real one serves the other tests meanwhile.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration import engine, images
from tests.integration.engine import EngineMissing, shared_dockerd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a dockerd")

NONE_RUNS = EngineMissing("none runs")
SERVING = f"""#!{sys.executable}
import http.server, os, socketserver, sys
given = dict(argument.split("=", 1) for argument in sys.argv[1:])
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = b'{{"ApiVersion": "1.41"}}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def log_message(self, *_): pass
path = given["--host"].removeprefix("unix://")
if os.path.exists(path): os.unlink(path)
with open(given["--pidfile"], "w") as file: file.write(str(os.getpid()))
socketserver.UnixStreamServer(path, Answer).serve_forever()
"""
FAILING = "#!/bin/sh\necho 'this kernel has no cgroups' >&2\nexit 1\n"
USING = """
import sys, time
from pathlib import Path
from tests.integration.engine import EngineMissing, shared_dockerd
with shared_dockerd(Path(sys.argv[1]), EngineMissing("none runs")):
    print("using", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path


def _install(dockerd: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = folder / "bin"
    programs.mkdir()
    (programs / "dockerd").write_text(dockerd)
    (programs / "dockerd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")


def _pid(state: Path) -> int:
    return int((state / "docker.pid").read_text())


def _is_there(pid: int) -> bool:
    """Whether a process runs; one that ended and whose parent has not asked does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_dockerd_that_cannot_start_says_why(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(FAILING, state, monkeypatch)
    with pytest.raises(EngineMissing, match="this kernel has no cgroups"), shared_dockerd(state, NONE_RUNS):
        pass


def test_dockerd_serves_all_users_and_ends_with_the_last(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(SERVING, state, monkeypatch)
    with shared_dockerd(state, NONE_RUNS):
        pid = _pid(state)
        with monkeypatch.context() as hurry, shared_dockerd(state, NONE_RUNS):
            hurry.setattr(engine, "_STOP_SECONDS", 0)  # somebody else still uses it
            assert _pid(state) == pid
        assert _is_there(pid)
    assert not _is_there(pid)

    with shared_dockerd(state, NONE_RUNS):
        assert _is_there(_pid(state))
        assert _pid(state) != pid
    assert not _is_there(_pid(state))


def test_dockerd_ends_although_its_user_was_killed(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(SERVING, state, monkeypatch)
    user = subprocess.Popen(
        [sys.executable, "-c", USING, str(state)], stdout=subprocess.PIPE, cwd=images.HERE.parents[2]
    )
    assert user.stdout
    with user.stdout as said:
        assert said.readline() == b"using\n"
    pid = _pid(state)
    assert _is_there(pid)

    user.send_signal(signal.SIGKILL)
    user.wait()

    deadline = time.monotonic() + 60
    while _is_there(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_there(pid)


def test_a_tag_changes_with_the_recipe_and_with_what_it_builds_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "rgw"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text(f"FROM {name}\n")
    monkeypatch.setattr(images, "HERE", tmp_path)
    tags = {images.tag_of("rgw")}
    (tmp_path / "rgw/start").write_text("#!/bin/sh\n")
    tags.add(images.tag_of("rgw"))
    (tmp_path / "rgw/start").chmod(0o755)
    tags.add(images.tag_of("rgw"))
    (tmp_path / "base/Dockerfile").write_text("FROM scratch\n")
    tags.add(images.tag_of("rgw"))
    assert len(tags) == 4
    assert images.tag_of("rgw") in tags
