"""The rule by which KEDA scales workers, against backlogs, and its query against the store."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Spec
from tests.deploy.autoscaler import Fleet, Rule, replicas
from tests.deploy.chart import Manifest, cases
from tests.deploy.test_chart import needs_helm
from tests.kinds import KINDS
from tests.storage.builders import EMBED, numbered, read, request
from tests.worker.harness import ROOT

RECORDED = json.loads((Path(__file__).parent / "backlog.json").read_text())
RULE = Rule(min=0, max=8, target=32, polling_s=15, cooldown_s=300, stabilization_s=300)
HOUR = 3_600
GROUPS = ("docmill-worker-l4", "docmill-worker-h100")
SUMMARIZE = Spec("summarize", "summarizer", "sha256:3")
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()

pytestmark = [needs_helm]


@dataclass(frozen=True)
class Given(Fleet):
    """A backlog that does not depend on the replicas."""

    open_at: Callable[[int], float]

    def after(self, second: int, replicas: int) -> float:
        return self.open_at(second)


@dataclass
class Working(Fleet):
    """A backlog that replicas take from, each so many shards a second once it has started."""

    open: float
    pace: float
    start_s: int = 60
    empty_at: int | None = None
    _started: float = 0.0

    def after(self, second: int, replicas: int) -> float:
        self._started = min(replicas, self._started + 1 / self.start_s)
        self.open = max(0.0, self.open - int(self._started) * self.pace)
        if self.open == 0 and self.empty_at is None:
            self.empty_at = second
        return self.open


def changes(found: list[int]) -> int:
    return sum(before != after for before, after in pairwise(found))


def scaled(name: str) -> Manifest:
    return cases()["gpu"].named("ScaledObject", name)


def test_the_chart_has_the_rule_of_these_tests() -> None:
    assert Rule.of(scaled("docmill-worker-l4")) == RULE
    for name in GROUPS:
        target = scaled(name)["spec"]["scaleTargetRef"]["name"]
        assert cases()["gpu"].named("Deployment", target)


def test_no_work_needs_no_worker_and_the_first_shard_brings_one() -> None:
    assert replicas(RULE, Given(lambda second: 0), HOUR) == [0] * HOUR
    found = replicas(RULE, Given(lambda second: second >= 100), HOUR)
    assert (max(found), found.index(1)) == (1, 105)
    assert changes(found) == 1


def test_a_backlog_brings_as_many_workers_as_it_needs_and_no_more_than_may_be() -> None:
    found = replicas(RULE, Given(lambda second: 5 * 32), 600)
    assert found[-1] == max(found) == 5
    found = replicas(RULE, Given(lambda second: 1e6), 600)
    assert found[-1] == max(found) == RULE.max
    assert found.index(RULE.max) <= 2 * 15


def test_a_fleet_works_its_backlog_off_and_goes() -> None:
    fleet = Working(open=2_000, pace=0.5)
    found = replicas(RULE, fleet, HOUR)
    assert max(found) == RULE.max
    assert (fleet.open, found[-1]) == (0, 0)
    top = found.index(RULE.max)
    assert found[:top] == sorted(found[:top])
    assert found[top:] == sorted(found[top:], reverse=True), "a replica that was removed came back"
    assert fleet.empty_at is not None
    waited = found.index(0, top) - fleet.empty_at
    assert RULE.cooldown_s - RULE.polling_s < waited <= RULE.cooldown_s + 2 * RULE.polling_s


def test_a_backlog_that_comes_and_goes_does_not_stop_and_start_workers() -> None:
    def saw(second: int) -> float:
        return 4 * 32 * (1 - second % 120 / 119)  # from four replicas' work to none, every two minutes

    found = replicas(RULE, Given(saw), HOUR)
    assert max(found) == min(found[60:]) == 4
    hasty = replicas(replace(RULE, cooldown_s=0, stabilization_s=0), Given(saw), HOUR)
    assert changes(hasty) > 50, "the rule's patience is what keeps them"


def test_a_difference_within_a_tenth_changes_nothing() -> None:
    found = replicas(RULE, Given(lambda second: 4 * 32 if second < 60 else 4 * 32 + 12), 600)
    assert found[-1] == 4
    found = replicas(RULE, Given(lambda second: 4 * 32 if second < 60 else 4 * 32 + 14), 600)
    assert found[-1] == 5


def test_the_recorded_backlog_of_a_job_brings_workers_and_lets_them_go() -> None:
    """A second of the record is a minute here: the job took a minute, with one worker."""
    stretch, opened = 60, RECORDED["open_shards"]

    def at(second: int) -> float:
        place = int(second / (RECORDED["every_s"] * stretch))
        return opened[place] if place < len(opened) else 0

    lasts = int(len(opened) * RECORDED["every_s"] * stretch)
    found = replicas(RULE, Given(at), lasts + RULE.cooldown_s + 60)
    assert max(found) == math.ceil(max(opened) / RULE.target) > 1
    assert found[-1] == 0
    first, last = (next(place for place in order if at(place)) for order in (range(lasts), range(lasts, 0, -1)))
    assert found[:first] == [0] * first
    assert all(found[first + RULE.polling_s : last]), "no worker while shards were open"
    assert changes(found) <= 2 * max(found), "each replica came once and went once"


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
    postgres_url: str, scaler: psycopg.Connection
) -> None:
    database = Database(postgres_url, kinds=KINDS)
    queries = [scaled(name)["spec"]["triggers"][0]["metadata"]["query"] for name in GROUPS]

    def counts() -> list[tuple[int, ...] | None]:
        return [scaler.execute(query.encode()).fetchone() for query in queries]

    assert counts() == [(0,), (0,)]
    read(database, request("a.jsonl", spec=EMBED), numbered(3))
    assert counts() == [(1,), (0,)]
    read(database, request("b.jsonl", corpus="others", spec=SUMMARIZE), numbered(300), chunk=1)
    assert counts() == [(1,), (min(300, RULE.target * 2),)]
    database.close()


def test_the_user_for_keda_may_read_the_backlog_and_nothing_else(scaler: psycopg.Connection) -> None:
    names = scaler.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    )
    tables = {name for (name,) in names}
    assert {"document", "content", "shard", "open_shards"} <= tables
    for name in sorted(tables - {"open_shards"}):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            scaler.execute(f'SELECT 1 FROM "{name}" LIMIT 1'.encode())
