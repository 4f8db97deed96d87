"""TLS to Redis and PostgreSQL, with a certificate authority of the test's own: verified, always."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import kombu.pools
import pytest
import redis

from docmill.storage import migrations
from docmill.storage.core.database import Database
from docmill.storage.errors import DatabaseUnreachable
from docmill.worker.errors import BrokerUnreachable
from docmill.worker.queue.broker import Broker
from tests.faults.fleet import Fleet, numbered
from tests.faults.servers import HOST, POSTGRES_USER, PostgresCluster, RedisServer, missing, open_folder
from tests.kinds import KINDS, new_store

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")


class Authority:
    """A certificate authority and a server's certificate of it, for 127.0.0.1 and for no name."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.ca, self._ca_key = folder / "ca.pem", folder / "ca.key"
        self.certificate, self.key = folder / "server.pem", folder / "server.key"
        self._make(self.ca, self._ca_key, "-subj", "/CN=an authority")
        issuer = ("-CA", str(self.ca), "-CAkey", str(self._ca_key))
        name = ("-subj", "/CN=a server", "-addext", f"subjectAltName=IP:{HOST}")
        self._make(self.certificate, self.key, *name, *issuer, "-addext", "basicConstraints=critical,CA:FALSE")

    def _make(self, certificate: Path, key: Path, *options: str) -> None:
        command = ["openssl", "req", "-x509", *KEY, "-keyout", str(key), "-out", str(certificate), *options]
        completed = subprocess.run(command, capture_output=True, text=True)
        if completed.returncode:
            missing(f"openssl makes no certificate here: {completed.stderr.strip()}")


class TlsRedis(RedisServer):
    """A Redis that speaks only TLS."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        super().__init__(folder)
        self._authority = authority
        self._command += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
        self._command += ["--tls-cert-file", str(authority.certificate), "--tls-key-file", str(authority.key)]
        self._command += ["--tls-ca-cert-file", str(authority.ca)]
        self.url = f"rediss://{HOST}:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(HOST, self.port, ssl=True, ssl_ca_certs=str(self._authority.ca))


def tls_postgres(folder: Path, authority: Authority) -> PostgresCluster:
    key = folder.parent / "postgres.key"
    shutil.copy(authority.key, key)
    key.chmod(0o600)
    options = ("ssl=on", f"ssl_cert_file={authority.certificate}", f"ssl_key_file={key}")
    cluster = PostgresCluster(folder, options=options)
    if os.geteuid() == 0:
        os.chown(key, pwd.getpwnam(POSTGRES_USER).pw_uid, -1)
    return cluster


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    if shutil.which("openssl") is None:
        missing("there is no openssl")
    return Authority(folder / "authority")


@pytest.fixture(scope="module")
def strangers_ca(folder: Path) -> Path:
    """The certificate of an authority that signed nothing here."""
    return Authority(folder / "stranger").ca


@pytest.fixture(scope="module")
def tls_redis(folder: Path, authority: Authority) -> Iterator[TlsRedis]:
    server = TlsRedis(folder / "redis", authority)
    try:
        server.start()
    except AssertionError as log:
        missing(f"Redis starts with no TLS here: {log}")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def database_url(folder: Path, authority: Authority) -> Iterator[str]:
    """The URL of a PostgreSQL with the schema. A test adds the verification."""
    with tls_postgres(folder / "postgres", authority) as cluster:
        url = cluster.create()
        with new_store(url):
            pass
        yield url


def test_a_job_finishes_over_verified_connections(
    tmp_path: Path, tls_redis: TlsRedis, database_url: str, authority: Authority
) -> None:
    database = Database(f"{database_url}?sslmode=verify-full&sslrootcert={authority.ca}", kinds=KINDS)
    fleet = Fleet(tmp_path, database, f"{tls_redis.url}?ssl_ca_certs={authority.ca}")
    with database.read() as transaction:
        [[encrypted]] = transaction.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    assert encrypted
    source = fleet.corpus(numbered(3))
    with fleet.worker():
        fleet.finish(fleet.enqueue("translate", source, "--model", "null"))
    database.close()


@pytest.fixture
def broker_of() -> Iterator[Callable[[str], Broker]]:
    """A function that opens brokers. They share no connections, as Celery's of one address would."""
    with ExitStack() as stack:

        def make(url: str) -> Broker:
            kombu.pools.reset()
            return stack.enter_context(closing(Broker(url)))

        yield make
    kombu.pools.reset()


@pytest.mark.parametrize("options", ["", "?ssl_ca_certs={stranger}"], ids=["the system's CAs", "another CA"])
def test_a_redis_whose_certificate_is_of_an_unknown_authority_is_refused(
    tls_redis: TlsRedis, broker_of: Callable[[str], Broker], strangers_ca: Path, options: str
) -> None:
    with pytest.raises(BrokerUnreachable, match=r"is not trusted.*ssl_ca_certs=FILE"):
        broker_of(tls_redis.url + options.format(stranger=strangers_ca)).ping()


def test_a_redis_by_a_name_that_its_certificate_does_not_have_is_refused(
    tls_redis: TlsRedis, authority: Authority, broker_of: Callable[[str], Broker]
) -> None:
    broker = broker_of(f"rediss://localhost:{tls_redis.port}/0?ssl_ca_certs={authority.ca}")
    for act in (broker.ping, lambda: broker.publish("embed", [1])):
        with pytest.raises(BrokerUnreachable, match="not trusted: Hostname mismatch"):
            act()


def test_a_redis_is_unverified_only_if_its_url_says_so(
    tls_redis: TlsRedis, broker_of: Callable[[str], Broker]
) -> None:
    broker = broker_of(f"{tls_redis.url}?ssl_cert_reqs=none")
    broker.publish("embed", [1])
    assert broker.depth("embed") == 1
    tls_redis.client().flushall()


def test_a_missing_ca_file_and_a_server_without_tls_are_reported(
    own_redis: RedisServer, tls_redis: TlsRedis, broker_of: Callable[[str], Broker]
) -> None:
    for url, says in (
        (f"{tls_redis.url}?ssl_ca_certs=/nowhere/ca.pem", "No such file or directory"),
        (tls_redis.url.replace("rediss://", "redis://"), "cannot reach Redis"),
        (own_redis.url.replace("redis://", "rediss://"), "cannot reach Redis"),
    ):
        with pytest.raises(BrokerUnreachable, match=says):
            broker_of(url).ping()


@pytest.mark.parametrize(
    ("host", "ca", "says"), [(HOST, "stranger", "certificate verify failed"), ("localhost", "ours", "localhost")]
)
def test_a_postgresql_that_cannot_be_verified_is_refused(
    database_url: str, authority: Authority, strangers_ca: Path, host: str, ca: str, says: str
) -> None:
    root = {"stranger": strangers_ca, "ours": authority.ca}[ca]
    database = Database(f"{database_url.replace(HOST, host)}?sslmode=verify-full&sslrootcert={root}", kinds=KINDS)
    with pytest.raises(DatabaseUnreachable, match=says):
        migrations.require_current(database)
    database.close()
