"""Redact, translate, classify and extract as the steps of one scheduled pipeline, with a view that needs no JSON."""

from __future__ import annotations

import json

import pytest
from sqlalchemy import text, update

from docmill.storage.core.database import Database
from docmill.storage.core.schema import PipelineRow, db_now
from tests.tasks import decoders
from tests.worker.harness import EXAMPLES, Docmill, until

PIPELINE = """
name = "letters"

[corpus]
source = "letters.jsonl"

[[step]]
name = "safe"
task = "redact"

[[step]]
name = "english"
task = "translate"
from = "fr"
to = "en"
beams = 1

[[step]]
name = "topic"
task = "classify"
model = "minilm"
labels = "games, networks, graphics"

[[step]]
name = "facts"
task = "extract"
input = "english"
model = "tiny-llama"
schema = "package.json"
prompt = "{text}"
max-new-tokens = 100

[schedule]
cron = "0 * * * *"
"""
SCHEMA = {
    "type": "object",
    "properties": {
        "purpose": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["library", "program"]},
        "year": {"type": ["integer", "null"], "minimum": 1990, "maximum": 2030},
        "free": {"type": "boolean"},
    },
    "required": ["purpose", "kind", "year", "free"],
}
N = 4


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_scheduled_pipeline_redacts_translates_classifies_and_extracts(database: Database, fleet: Docmill) -> None:
    with (EXAMPLES / "french.jsonl").open() as lines:
        rows = [json.loads(next(lines)) for _ in range(N)]
    for number, row in enumerate(rows):
        row["text"] = f"Écrivez à auteur{number}@example.org.\n\n{row['text'][:300]}"
    folder = fleet.folder
    (folder / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "package.json").write_text(json.dumps(SCHEMA))
    decoders.llama(folder / "tiny-llama", [row["text"] for row in rows])
    (folder / "letters.toml").write_text(PIPELINE.replace("tiny-llama", str(folder / "tiny-llama")))
    fleet("pipeline", "add", "letters.toml")
    hours_ago = update(PipelineRow).values(looked_at=db_now() - 7_200)
    database.write(lambda transaction: transaction.execute(hours_ago))
    with fleet.worker():
        [run] = until(
            lambda: [run for run in fleet.json("pipeline", "history", "letters") if run["ended"]],
            "the run has ended",
            within_s=270,
        )
    assert (run["state"], run["reason"]) == ("done", None)
    columns = "id, safe, english, topic, topic_score, facts_purpose, facts_kind, facts_year, facts_free, facts_status"
    with database.engine.connect() as connection:
        found = connection.execute(text(f"SELECT {columns} FROM pipeline_letters ORDER BY id")).mappings().all()
    assert len(found) == N
    for row in found:
        assert row["facts_status"] == "done"
        assert "@" not in row["safe"]
        assert "[EMAIL]" in row["safe"]
        assert "@" not in row["english"]
        assert row["topic"] in {"games", "networks", "graphics"}
        assert isinstance(row["topic_score"], float)
        assert isinstance(row["facts_purpose"], str)
        assert len(row["facts_purpose"]) <= 12
        assert row["facts_kind"] in {"library", "program"}
        assert row["facts_year"] is None or 1990 <= row["facts_year"] <= 2030
        assert row["facts_free"] in {True, False}
