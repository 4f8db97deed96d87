"""Fixtures for databases and queues. The servers are real, and each test has its own database.

The test run starts its own servers, with the machine's programs or those of a package: a PostgreSQL that need not
be durable makes and drops a database ten times as fast. DOCMILL_TEST_POSTGRES_URL and DOCMILL_TEST_REDIS_URL name
other ones. Without any their tests are skipped, and fail where DOCMILL_TEST_REQUIRE_SERVERS is set.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hypothesis
import psycopg
import pytest
import redis
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database
from tests.faults.servers import PostgresCluster, RedisServer, Server, missing, open_folder
from tests.kinds import new_store, open_store
from tests.postgres import PostgresServer
from tests.worker.harness import ONLY_FAST, Docmill, refuse_if_fast

POSTGRES_URL = os.environ.get("DOCMILL_TEST_POSTGRES_URL")
REDIS_URL = os.environ.get("DOCMILL_TEST_REDIS_URL")
REDIS_DATABASES = range(1, 16)  # 0 is left to whoever works on this machine
REDIS_LOAN_S = 3600
# More processes than cores: small models are computed with less time by one thread, and a thread that spins while it
# waits for another takes the core that the other needs.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The tests of these packages run on both stores, where others run on one: what they test is written for each.
BOTH_STORES = frozenset({"core", "leases", "migrations", "steps"})

_SLOW_MARKERS = frozenset({"slow", "faults", "long", "gliner", "vllm", "soak", "schedulers", "wheel"})
# These fixtures start a server or load a model.
_SLOW_FIXTURES = frozenset({"postgres_server", "_pgvector_server", "_redis_server", "bench", "benches", "writer"})
_SERVER_PARAMS = frozenset({"postgresql", "redis"})
# A test module that imports one of these loads model libraries or starts programs.
_SLOW_IMPORTS = frozenset({"architectures", "decoders", "open_backend", "run_python", "torch", "subprocess"})
# The tests of these files start a process for each reading, which imports a large library.
_SLOW_FILES = frozenset({"test_dataset.py", "test_s3.py"})

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("docmill", deadline=None)
hypothesis.settings.load_profile("docmill")


def pytest_configure(config: pytest.Config) -> None:
    """Make a test of the fast subset fail if it starts a server or a command.

    No garbage is collected while the tests are: nearly all that their imports make stays.
    """
    if "fast" in config.option.markexpr.split():
        os.environ[ONLY_FAST] = "1"
    gc.disable()


def pytest_collection_finish() -> None:
    """Turn garbage collection on again, and exempt the objects that imports made."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests of the fast subset, and the forms of a test that only `make test-long` runs."""
    assert isinstance(item, pytest.Function)
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if _is_fast(item, params.values()):
        item.add_marker("fast")
    if _is_long_form(item, params):
        item.add_marker("long")


def _is_fast(item: pytest.Function, params: Iterable[object]) -> bool:
    """Return True for a test that starts no server and no command of docmill, and loads no model."""
    names = vars(item.module)
    return (
        item.path.name not in _SLOW_FILES
        and _SLOW_MARKERS.isdisjoint(marker.name for marker in item.iter_markers())
        and _SLOW_FIXTURES.isdisjoint(item.fixturenames)
        and _SERVER_PARAMS.isdisjoint(param for param in params if isinstance(param, str))
        and _SLOW_IMPORTS.isdisjoint(names)
        and not any(isinstance(value, type) and issubclass(value, (Docmill, Server)) for value in names.values())
    )


def _is_long_form(item: pytest.Function, params: Mapping[str, object]) -> bool:
    """Return True for a form of a test whose other forms show mostly the same.

    A test that uses a store runs on PostgreSQL if it needs a Redis, as a fleet does, else on SQLite. Its other form
    is long. `long_on` names other forms, and `both_stores` makes none long, as do the packages of BOTH_STORES.
    """
    if markers := list(item.iter_markers("long_on")):
        return any(str(param) in marker.args for marker in markers for param in params.values())
    names_stores = any("database_url" in marker.args[0] for marker in item.iter_markers("parametrize"))
    if names_stores or item.get_closest_marker("both_stores") or item.path.parent.name in BOTH_STORES:
        return False
    usual = "sqlite" if {"redis_url", "own_redis"}.isdisjoint(item.fixturenames) else "postgresql"
    return params.get("database_url", usual) != usual


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests that take minutes or need another environment, unless -m names them."""
    optional = {"alerts", "gliner", "long", "soak", "vllm", "schedulers", "wheel"}
    excluded = {name for name in optional if name not in config.option.markexpr}
    selected, deselected = list[pytest.Item](), list[pytest.Item]()
    for item in items:
        (deselected if any(map(item.get_closest_marker, excluded)) else selected).append(item)
    config.hook.pytest_deselected(items=deselected)
    items[:] = selected


Interrupt = Callable[[int], None]


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    """Yield a function that does what a Ctrl-C or a stop does here, by the signal's number.

    It calls the handler in place of sending the signal: a process in which a model was converted to int8 has an
    alternate stack for signals whose memory is gone, and does not survive one.
    """
    stops = (signal.SIGINT, signal.SIGTERM)
    old_handlers = [signal.signal(stop, signal.default_int_handler) for stop in stops]

    def call_handler(stop: int) -> None:
        handler = signal.getsignal(stop)
        assert callable(handler)
        handler(stop, None)

    yield call_handler
    for stop, handler in zip(stops, old_handlers, strict=True):
        signal.signal(stop, handler)


@pytest.fixture(autouse=True)
def _usual_garbage_collection() -> Iterator[None]:
    """Restore the thresholds that a command in this process sets for its own short life."""
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    refuse_if_fast("PostgreSQL")
    with ExitStack() as stack:
        url = POSTGRES_URL or stack.enter_context(_cluster()).admin_url
        try:
            server = stack.enter_context(_with_template(url, is_own=POSTGRES_URL is None))
        except psycopg.OperationalError as error:
            missing(f"PostgreSQL does not answer: {str(error).splitlines()[0]}")
        yield server


@contextmanager
def _cluster(*, pgvector: bool = False) -> Iterator[PostgresCluster]:
    with open_folder() as folder, PostgresCluster(folder / "cluster", pgvector=pgvector) as cluster:
        yield cluster


@contextmanager
def _with_template(url: str, *, is_own: bool) -> Iterator[PostgresServer]:
    server = PostgresServer(url, is_own=is_own)
    with new_store(server.url(server.template)):
        pass
    yield server
    server.close()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database with the schema."""
    name = postgres_server.lend()
    yield postgres_server.url(name)
    postgres_server.take_back(name)


@pytest.fixture(scope="session")
def _pgvector_server() -> Iterator[PostgresServer]:
    with _cluster(pgvector=True) as cluster, _with_template(cluster.admin_url, is_own=True) as server:
        yield server


@pytest.fixture
def pgvector_url(_pgvector_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty database with the schema, on a PostgreSQL that has pgvector."""
    name = _pgvector_server.lend()
    yield _pgvector_server.url(name)
    _pgvector_server.take_back(name)


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "docmill.db"
    with new_store(f"sqlite:///{path}"):
        return path


@pytest.fixture
def sqlite_url(_sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a SQLite file with the schema."""
    shutil.copy(_sqlite_template, tmp_path / "docmill.db")
    return f"sqlite:///{tmp_path / 'docmill.db'}"


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Database]:
    """An open database at `sqlite_url`, for tests of SQLite only."""
    with open_store(sqlite_url, pool_size=12) as database:
        yield database


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    """An open database at `postgres_url`, for tests of PostgreSQL only."""
    with open_store(postgres_url, pool_size=12) as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A store with the schema. A test has a form on SQLite and one on PostgreSQL; `make test-long` runs what
    `make test` leaves out."""
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "postgres_url"}[request.param])
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database at `database_url`."""
    with open_store(database_url, pool_size=12) as database:
        yield database


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A store without the schema."""
    if request.param == "sqlite":
        with open_store(f"sqlite:///{tmp_path / 'bare' / 'docmill.db'}") as database:
            yield database
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create()
    with open_store(server.url(name)) as database:
        yield database
    server.drop(name)


@pytest.fixture(scope="session")
def _redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis server."""
    refuse_if_fast("Redis")
    with ExitStack() as stack:
        yield REDIS_URL or stack.enter_context(RedisServer(tmp_path_factory.mktemp("redis"))).url


@pytest.fixture
def redis_url(_redis_server: str) -> Iterator[str]:
    """The URL of an empty Redis database that no other test uses."""
    with redis.Redis.from_url(_redis_server, db=0) as loans:
        number = _borrow(loans)
        url = make_url(_redis_server).set(database=str(number)).render_as_string(hide_password=False)
        try:
            with redis.Redis.from_url(url) as client:
                client.flushdb()
                yield url
                client.flushdb()
        finally:
            loans.delete(f"docmill-tests:{number}")


def _borrow(loans: redis.Redis) -> int:
    """Return the number of an empty database that no other test run has."""
    used = {int(name.removeprefix("db")) for name in loans.info("keyspace")}

    def is_lent(number: int) -> bool:
        return number not in used and bool(
            loans.set(f"docmill-tests:{number}", os.getpid(), nx=True, ex=REDIS_LOAN_S)
        )

    lent = next(filter(is_lent, REDIS_DATABASES), None)
    if lent is None:
        missing("every database of that Redis is in use")
    return lent
