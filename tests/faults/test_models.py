"""Models that are missing, cut short or not what was asked for: found before any claim, and no attempt is spent."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import update

from storage.schema import Refusal, Shard
from tests.faults.mill import Mill
from tests.worker.harness import EXAMPLES, until

FRENCH = EXAMPLES / "french.jsonl"


def lose(model: Path) -> None:
    model.rename(model.with_name("elsewhere"))


def cut_short(model: Path) -> None:
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])


def change(model: Path) -> None:
    weights = model / "model.safetensors"
    whole = bytearray(weights.read_bytes())
    whole[-1] ^= 1
    weights.write_bytes(whole)


@pytest.mark.parametrize("damage", [lose, cut_short, change])
def test_a_model_that_is_not_what_was_asked_for_blocks_the_job_until_it_is_back(
    mill: Mill, damage: Callable[[Path], None]
) -> None:
    models = mill.folder / "models"
    shutil.copytree(EXAMPLES / "models" / "marian-ddtp", models / "mine")
    mill.environment["DOCMILL_MODELS_DIR"] = str(models)
    task = ("--task", "translate", "--from", "fr", "--to", "en", "--beams", 1, "--model", "mine", "--limit", 2)
    job = mill.enqueue(FRENCH, *task)
    damage(models / "mine")
    with mill.worker():
        until(lambda: "blocked" in (mill.json("status", job)["waiting_for"] or ""), "the job is blocked")
        reason = mill.json("status", job)["waiting_for"]
        assert "cannot serve translate" in reason
        assert [row.attempt for row in mill.shards(Shard.attempt)] == [0]
        if damage is cut_short:
            shutil.rmtree(models / "mine")
            shutil.copytree(EXAMPLES / "models" / "marian-ddtp", models / "mine")
            # A refusal holds for half a minute: that time is moved, not waited for.
            mill.database.write(lambda connection: connection.execute(update(Refusal).values(refused_at=0.0)))
            mill.finish(job)
