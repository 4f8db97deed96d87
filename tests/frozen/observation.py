"""A store as users see it, as JSON: jobs, results, failures, corpora, pipelines, orders and a search."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from sqlalchemy import create_engine, text

from tests.frozen.story import SEARCHED
from tests.worker.harness import Docmill

# Of jobs that have not ended these depend on the time of the question.
_MOVING = frozenset({"eta_s", "elapsed_s", "waiting_for", "waiting_cause", "tokens_per_s"})


def observed(docmill: Docmill) -> dict[str, Any]:
    """Return all that the commands tell of a store."""
    jobs = docmill.json("jobs", "--limit", 100)
    return {
        "jobs": [_still(job) for job in jobs],
        "results": {str(job["id"]): _results(docmill, job["id"]) for job in jobs if job["state"] == "done"},
        "failures": {str(job["id"]): _lines(docmill, "failures", job["id"]) for job in jobs},
        "corpora": docmill.json("corpus", "list"),
        "pipelines": docmill.json("pipeline", "list"),
        "history": docmill.json("pipeline", "history", "nightly"),
        "pipeline": docmill("pipeline", "show", "nightly").stdout,
        "orders": docmill.json("orders")["orders"],
        "view": _rows(docmill, "pipeline_nightly"),
        "search": docmill.json("search", "letters", SEARCHED, "--exact", "--backend", "transformers"),
    }


def lacking(expected: Any, found: Any, place: str = "") -> list[str]:
    """Return the places where something expected is not found, or is another. Found may hold more names."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [
            line
            for name, value in expected.items()
            for line in (
                lacking(value, found[name], f"{place}.{name}") if name in found else [f"{place}.{name} is missing"]
            )
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = zip(expected, found, strict=True)
        return [line for i, (one, other) in enumerate(pairs) for line in lacking(one, other, f"{place}[{i}]")]
    if isinstance(expected, float) and isinstance(found, float):
        return [] if abs(expected - found) < 1e-3 else [f"{place} is {found}, not {expected}"]
    return [] if expected == found else [f"{place} is {found!r}, not {expected!r}"]


def _still(job: dict[str, Any]) -> dict[str, Any]:
    moving = _MOVING if job["finished_at"] is None else frozenset()
    return {name: value for name, value in job.items() if name not in moving}


def _results(docmill: Docmill, job: int) -> list[dict[str, Any]]:
    """The job's results, with vectors rounded to what a file need hold of them."""
    rows = docmill.results(job)
    for row in rows:
        if isinstance(vector := row.get("vector"), list):
            row["vector"] = [[round(x, 5) for x in y] if isinstance(y, list) else round(y, 5) for y in vector]
    return rows


def _lines(docmill: Docmill, *command: Any) -> list[Any]:
    return [json.loads(line) for line in docmill(*command, "--json").stdout.splitlines()]


def _rows(docmill: Docmill, view: str) -> list[dict[str, Any]]:
    """The rows of a pipeline's view; of vectors their hash."""
    engine = create_engine(docmill.environment["DOCMILL_DATABASE_URL"])
    try:
        with engine.connect() as connection:
            rows = connection.execute(text(f'SELECT * FROM "{view}" ORDER BY id')).mappings().all()
    finally:
        engine.dispose()
    return [
        {name: _hashed(value) if isinstance(value, bytes) else value for name, value in row.items()} for row in rows
    ]


def _hashed(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
