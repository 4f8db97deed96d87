"""Queries as sources, on real databases, where they cannot use their rights to write."""

from __future__ import annotations

import socketserver
import sqlite3
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.datetime import IntervalLoader

from docmill.storage.readers import (
    Record,
    Rejection,
    SourceError,
    SourceMissing,
    SourceOptions,
    SourceUnsupported,
    open_source,
)
from docmill.storage.readers.query import _or_text
from tests.storage.readers import reading
from tests.storage.readers.reading import OPTIONS, list_keys, read

SELECT = "SELECT id, text, lang FROM article ORDER BY id"
TABLE = "CREATE TABLE article (id integer, text text, lang text)"
Execute = Callable[[str], Any]


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Execute]]:
    """The URL of a database, and a function that executes SQL there."""
    if request.param == "sqlite":
        file = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
        yield f"sqlite:///{tmp_path / 'a.db'}", file.execute
        file.close()
        return
    url = str(request.getfixturevalue("postgres_url")).replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        yield url, lambda statement: connection.execute(statement.encode())


def refused(source: str, options: SourceOptions = OPTIONS) -> str:
    """Return the message about a query that is refused, which has one line."""
    message = reading.refused(SourceError, source, options)
    assert "\n" not in message
    return message


def test_the_rows_of_a_query_are_records_and_its_columns_their_fields(store: tuple[str, Execute]) -> None:
    url, execute = store
    execute(TABLE)
    execute("INSERT INTO article VALUES (2, 'b', 'en'), (1, 'a 100%', NULL), (3, NULL, 'en'), (NULL, 'd', 'fr')")
    source = open_source(f"{url}?{SELECT} NULLS LAST", OPTIONS)
    items = list(source.records())
    place = items[0].where.rpartition(":")[0]
    assert items == [
        Record("1", "a 100%", {"lang": None}, (), f"{place}:1"),
        Record("2", "b", {"lang": "en"}, (), f"{place}:2"),
        Rejection(f"{place}:3", '"text" is null, not a string'),
        Record(f"{place}:4", "d", {"lang": "fr"}, (), f"{place}:4"),
    ]
    assert list(source.records()) == items
    assert source.size_bytes() is None
    matching = f"{url}?SELECT text AS body, '?' AS q FROM article WHERE text LIKE '%0\\%' ESCAPE '\\'"
    [record] = read(matching, SourceOptions("body"))
    assert (record.text, record.meta) == ("a 100%", {"q": "?"})


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO article VALUES (2, 'b', 'en') RETURNING *",
        "DROP TABLE article",
        "SELECT * FROM article; COMMIT; DROP TABLE article",
        "WITH gone AS (DELETE FROM article RETURNING *) SELECT * FROM gone",
        "ATTACH '{folder}/new.db' AS other",
        "VACUUM INTO '{folder}/new.db'",
        "COPY article TO '{folder}/new.db'",
        "SELECT * FROM article WHERE set_config('transaction_read_only', 'off', false) = 'off'",
    ],
)
def test_a_query_cannot_write(statement: str, store: tuple[str, Execute], tmp_path: Path) -> None:
    url, execute = store
    execute(TABLE)
    execute("INSERT INTO article VALUES (1, 'a', 'en')")
    assert "not authorized" not in refused(f"{url}?{statement.format(folder=tmp_path)}")
    assert [tuple(row) for row in execute("SELECT * FROM article").fetchall()] == [(1, "a", "en")]
    assert not (tmp_path / "new.db").exists()


def test_an_error_in_a_query_is_one_sentence(store: tuple[str, Execute]) -> None:
    url, execute = store
    execute(TABLE)
    assert "syntax error" in refused(f"{url}?SELEC")
    assert "nope" in refused(f"{url}?SELECT nope FROM article")
    assert "nope" in refused(f"{url}?SELECT id FROM nope")
    assert 'no record has a field "text"; it has "id"' in refused(f"{url}?SELECT id FROM article")
    assert "more than one column is named" in refused(f"{url}?SELECT text, text FROM article")
    assert "the source has no query" in refused(url)
    assert "the source has no query" in refused(f"{url}?")


def test_an_error_in_the_middle_keeps_the_rows_before_and_quotes_no_data(store: tuple[str, Execute]) -> None:
    url, execute = store
    execute(TABLE)
    for n in range(250):
        execute(f"INSERT INTO article VALUES ({n}, '{n if n < 240 else 'secret'}', 'en')")
    broken = "abs(-9223372036854775807 - (text = 'secret'))" if url.startswith("sqlite") else "CAST(text AS integer)"
    *before, last = read(f"{url}?SELECT id, text, {broken} AS n FROM article")
    assert last.fatal
    assert "secret" not in last.reason
    assert f"after row {len(before)}; nothing more was read" in last.reason
    assert list_keys(before) == [str(n) for n in range(len(before))]
    assert len(before) >= 200


def test_memory_does_not_grow_with_the_number_of_rows(store: tuple[str, Execute]) -> None:
    url, _ = store
    rows = "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < {})"
    text = "SELECT id, replace(CAST(id AS text), '1', '1') || '{}' AS text FROM n"

    def peak(count: int) -> int:
        source = open_source(f"{url}?{rows.format(count)} {text.format('x' * 2_000)}", OPTIONS)
        tracemalloc.start()
        try:
            assert sum(1 for _ in source.records()) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = peak(500), peak(10_000)
    assert large < small * 1.5 + 2**20


def test_a_text_over_the_limit_is_rejected_and_binary_data_left_out(store: tuple[str, Execute]) -> None:
    url, _ = store
    binary = "x'00ff'" if url.startswith("sqlite") else "'\\x00ff'::bytea"
    texts = "SELECT 'éééééé' AS text UNION ALL SELECT 'short'"
    long, short = read(f"{url}?{texts}", SourceOptions(max_record_bytes=11))
    assert isinstance(short, Record)
    assert "longer than 11 bytes" in long.reason
    [record] = read(f"{url}?SELECT 't' AS text, {binary} AS raw")
    assert (record.meta, record.flags) == ({}, ("value_left_out",))
    assert "is binary data" in str(read(f"{url}?SELECT {binary} AS text"))


def test_postgresql_types_are_converted_to_json(postgres_url: str) -> None:
    url = postgres_url.replace("+psycopg", "")
    row = (
        "SELECT 'a' AS text, 1.50 AS price, DATE '2026-01-02' AS day, INTERVAL '90 s' AS took,"
        " ARRAY[1, 2] AS numbers,"
        " '{\"a\": [1]}'::jsonb AS said, '10.0.0.1'::inet AS host, 'NaN'::float8 AS nan,"
        " '00000000-0000-0000-0000-000000000005'::uuid AS who, int4range(1, 2) AS span,"
        " DATE 'infinity' AS never, ARRAY[TIMESTAMP '0044-03-15 BC'] AS ides, TIME '24:00' AS midnight,"
        " TIMESTAMPTZ '2026-01-02 03:04:05+02' AS at, TIMESTAMPTZ '-infinity' AS ever"
    )
    [record] = read(f"{url}%20-ctimezone%3DAsia/Tokyo?{row}")  # the URL ends with options
    assert record.meta == {
        "price": "1.50",
        "day": "2026-01-02",
        "took": 90.0,
        "numbers": [1, 2],
        "said": {"a": [1]},
        "host": "10.0.0.1",
        "nan": None,
        "who": "00000000-0000-0000-0000-000000000005",
        "never": "infinity",
        "ides": ["0044-03-15 00:00:00 BC"],
        "midnight": "24:00:00",
        "at": "2026-01-02T01:04:05+00:00",
        "ever": "-infinity",
    }
    assert record.flags == ("value_left_out",)
    styles = "%20-cintervalstyle%3Diso_8601%20-cdatestyle%3DGerman%20-ctimezone%3DUTC"
    [record] = read(
        f"{url}{styles}?SELECT 'a' AS text, INTERVAL '90 s' AS took, TIMESTAMPTZ '2026-01-02 3:04+0' AS at"
    )
    assert record.meta == {"took": "PT1M30S", "at": "02.01.2026 03:04:00 UTC"}


def test_an_infinite_interval_is_text(postgres_url: str) -> None:
    """PostgreSQL has such intervals from version 17 on."""
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        assert _or_text(IntervalLoader)(0, connection).load(b"-infinity") == "-infinity"


def test_no_password_is_in_a_name_or_a_message() -> None:
    for url in (
        "postgresql://me:geheim@127.0.0.1:1/db",
        "postgresql://me@127.0.0.1:1/db?password=geheim",
        "postgresql://me:gehe@im@127.0.0.1:1/db",
        "postgresql://me:geheim@127.0.0.1:no/db",
    ):
        message = refused(f"{url}?SELECT 1 AS text")
        assert "geheim" not in message
        assert "im@" not in message
    assert refused("postgresql://me:geheim@127.0.0.1:1/db?SELECT 1 AS text").startswith(
        "postgresql://me:***@127.0.0.1:1/db: "
    )


def test_files_that_are_not_databases_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such file" in reading.refused(SourceMissing, f"sqlite:///{tmp_path}/no.db?SELECT 1 AS text")
    assert not (tmp_path / "no.db").exists()
    (tmp_path / "text.db").write_text("certainly no database" * 100)
    assert "not a database" in refused(f"sqlite:///{tmp_path}/text.db?SELECT * FROM t")
    for nothing in ("sqlite://?SELECT 1", "sqlite:///:memory:?SELECT 1"):
        reading.refused(SourceUnsupported, nothing)
    monkeypatch.chdir(tmp_path)
    sqlite3.connect("real #1.db").close()
    source = open_source("sqlite:///real #1.db?SELECT 'a' AS text", OPTIONS)
    assert source.name == f"sqlite:///{tmp_path}/real #1.db?SELECT 'a' AS text"
    Path("real #1.db").rename("o\udcff.db")
    assert len(read("sqlite:///o\udcff.db?SELECT 'a' AS text")) == 1


def test_a_hostile_database_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as file:
        file.execute("CREATE VIEW article AS SELECT 1 AS id, hex(zeroblob(900000000)) AS text")
        file.execute("CREATE TABLE broken (id, text)")
        file.execute("INSERT INTO broken VALUES (1, CAST(x'636166e9' AS text)), (2, 'nul' || char(0))")
        file.execute("CREATE VIRTUAL TABLE found USING fts5(text)")
        file.execute("INSERT INTO found VALUES ('whales sing')")
    file.close()
    options = SourceOptions(max_record_bytes=1_000_000)
    assert "too big" in refused(f"sqlite:///{path}?SELECT * FROM article", options)
    first, second = read(f"sqlite:///{path}?SELECT * FROM broken")
    assert (first.text, first.flags) == ("caf\ufffd", ("surrogate_replaced",))
    assert (second.text, second.flags) == ("nul\ufffd", ("nul_replaced",))
    [whale] = read(f"sqlite:///{path}?SELECT text FROM found WHERE found MATCH 'whales'")
    assert isinstance(whale, Record)


PLAIN, MD5, SCRAM = 3, 5, 10
CANARY = "kanarienvogel"


@contextmanager
def database_that_asks_for(method: int) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the address of a server that requests a password by a method, and a list of the answers that it gets."""
    answers: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while (
                struct.unpack("!i", self.request.recv(8)[4:])[0] != 3 << 16
            ):  # the client asks for TLS or Kerberos first
                self.request.sendall(b"N")
            self.request.recv(4096)
            more = {MD5: b"salt", SCRAM: b"SCRAM-SHA-256\0\0"}.get(method, b"")
            self.request.sendall(b"R" + struct.pack("!ii", 8 + len(more), method) + more)
            answers.append(self.request.recv(4096))

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", answers
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("method", "user", "parameters", "has_answer"),
    [
        (PLAIN, "me", "", False),
        (MD5, "me", "", False),
        (SCRAM, "me", "", True),
        (MD5, "me", "?require_auth=md5", True),
        (PLAIN, f"me:{CANARY}", "", False),
        (MD5, f"me:{CANARY}", "", True),
    ],
)
def test_a_password_is_proved_to_the_host_of_a_source_and_not_sent(
    method: int, user: str, parameters: str, has_answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", CANARY)
    with database_that_asks_for(method) as (address, answers):
        refused(f"postgresql://{user}@{address}/db{parameters}?SELECT 'a' AS text")
    assert bool(answers[0]) is has_answer
    assert CANARY.encode() not in answers[0]


@pytest.mark.parametrize("methods", ["password", "scram-sha-256,password", "!md5"])
def test_no_password_is_sent_in_plain_text_without_verified_tls(methods: str) -> None:
    url = f"postgresql://me@127.0.0.1:1/db?require_auth={methods}"
    assert "only with sslmode=verify-full" in refused(f"{url}?SELECT 'a' AS text")
    assert "connection" in refused(f"{url}&sslmode=verify-full&sslrootcert=system?SELECT 'a' AS text")
