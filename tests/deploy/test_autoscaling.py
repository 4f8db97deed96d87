"""The query by which KEDA scales workers, against the store."""

from __future__ import annotations

import re
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from tests.deploy.chart import Manifest, cases
from tests.deploy.test_chart import needs_helm
from tests.storage.builders import EMBED, numbered, read, request
from tests.worker.harness import ROOT

GROUPS = ("docmill-worker-l4", "docmill-worker-h100")
SUMMARIZE = Spec("summarize", "summarizer", "sha256:3")
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()

pytestmark = [needs_helm]


def scaled(name: str) -> Manifest:
    return cases()["gpu"].named("ScaledObject", name)


def role_of_the_page(database: str, role: str) -> tuple[list[str], list[str]]:
    """Return the page's statements of the superuser and of the owner, for a database and a role of these names."""
    [block] = re.findall(r"^```sql\n(CREATE ROLE.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    statements = block.replace("docmill_scaler", role).replace("DATABASE docmill", f"DATABASE {database}")
    first, second, third, _ = statements.split(";")
    return [first, second], [third]


@pytest.fixture
def scaler(postgres_url: str) -> Iterator[psycopg.Connection]:
    """A connection of the user that the page makes for KEDA."""
    url = make_url(postgres_url)
    role = f"scaler_{url.database}"
    superuser, owner = role_of_the_page(f'"{url.database}"', f'"{role}"')
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as admin:
        for statement in [*superuser, *owner]:
            admin.execute(statement.encode())
        theirs = url.set(drivername="postgresql", username=role, password="six")
        with psycopg.connect(theirs.render_as_string(hide_password=False), autocommit=True) as connection:
            yield connection
        admin.execute(f'DROP OWNED BY "{role}"'.encode())
        admin.execute(f'DROP ROLE "{role}"'.encode())


def test_the_charts_query_counts_the_open_shards_of_its_lanes_as_far_as_replicas_go(
    postgres: Database, scaler: psycopg.Connection
) -> None:
    queries = [scaled(name)["spec"]["triggers"][0]["metadata"]["query"] for name in GROUPS]

    def counts() -> list[tuple[int, ...] | None]:
        return [scaler.execute(query.encode()).fetchone() for query in queries]

    assert counts() == [(0,), (0,)]
    read(postgres, request("a.jsonl", spec=EMBED), numbered(3))
    assert counts() == [(1,), (0,)]
    read(postgres, request("b.jsonl", corpus="others", spec=SUMMARIZE), numbered(300), chunk=1)
    assert counts() == [(1,), (64,)]


def test_the_user_for_keda_may_read_the_backlog_and_nothing_else(scaler: psycopg.Connection) -> None:
    names = scaler.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    )
    tables = {name for (name,) in names}
    assert {"document", "content", "shard", "open_shards"} <= tables
    for name in sorted(tables - {"open_shards"}):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            scaler.execute(f'SELECT 1 FROM "{name}" LIMIT 1'.encode())
