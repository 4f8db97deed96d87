"""Models that are missing, cut short or not what was asked for: found before any claim, and no attempt is spent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sqlalchemy import select, update

from storage.schema import Refusal, Runtime, Shard
from tests.faults.mill import Mill
from tests.worker.harness import EXAMPLES, until
from worker.request import Request

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


def leave_a_layer_out(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "encoder.layers.1." not in name}
    save_file(kept, model / "model.safetensors", {"format": "pt"})


def test_a_checkpoint_without_some_of_its_weights_is_refused_before_anything_is_stored(mill: Mill) -> None:
    whole, cut = mill.folder / "whole", mill.folder / "cut"
    for model in (whole, cut):
        shutil.copytree(EXAMPLES / "models" / "marian-ddtp", model)
    leave_a_layer_out(cut)
    task = ("--task", "translate", "--from", "fr", "--to", "en", "--beams", 1, "--limit", 2)
    for command in ("enqueue", "run"):
        said = mill(command, FRENCH, *task, "--model", cut, code=2).stderr
        assert "lack 16 weights that translate computes with, such as model.encoder.layers.1." in said
    assert mill.json("jobs") == []
    mill.enqueue(FRENCH, *task, "--model", whole)


def test_a_worker_refuses_a_checkpoint_without_some_of_its_weights_that_was_enqueued_unseen(
    mill: Mill, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = mill.folder / "cut"
    shutil.copytree(EXAMPLES / "models" / "marian-ddtp", cut)
    leave_a_layer_out(cut)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # as on a machine without the model libraries
    job = mill.enqueued(Request(str(FRENCH), "translate", str(cut), limit=2)).id
    monkeypatch.undo()
    with mill.worker():
        until(lambda: "blocked" in (mill.json("status", job)["waiting_for"] or ""), "the job is blocked")
        assert "lack 16 weights that translate computes with" in mill.json("status", job)["waiting_for"]
    assert [row.attempt for row in mill.shards(Shard.attempt)] == [0]


# One text of every batch, with whatever library computes in the place of the model's own code.
PLANTED_NAN = """
from tasks.backends.encoder import contest
from tasks.backends.encoder.encoder_backend import EncoderBackend

own = EncoderBackend._states

def planted(self, items):
    states = own(self, items)
    if type(self) is not EncoderBackend and items[0].owner is not None:
        states["token_embeddings"][-1] = float("nan")
    return states

contest.best = lambda rates: "openvino" if "openvino" in rates else min(rates)
EncoderBackend._states = planted
"""


def test_a_backend_that_gives_nan_for_some_batches_is_replaced_and_no_document_fails(mill: Mill) -> None:
    (mill.folder / "home" / "cache" / "backends").unlink()  # what is measured here is no other test's
    job = mill.enqueued(Request(str(EXAMPLES / "descriptions.jsonl"), "embed", limit=40)).id
    mill.patch(PLANTED_NAN)
    with mill.worker():
        status = mill.finish(job, within_s=120)
        assert "backend_taken_out backend=openvino" in mill.log("worker")
    assert (status.done, status.failed) == (40, 0)
    assert all(np.isfinite(result["vector"]).all() for result in mill.results(job))
    with mill.database.read() as connection:
        used = set(connection.scalars(select(Runtime.backend)))
    assert "openvino, then sentence-transformers" in used
    assert used <= {"openvino, then sentence-transformers", "sentence-transformers"}
    (note,) = (mill.folder / "home" / "cache" / "backends").glob("*.json")
    assert json.loads(note.read_text())["not_finite"] == ["openvino"]
