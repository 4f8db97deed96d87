"""Models that are cut short, lack weights or give NaN: found before any claim, and no attempt is spent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.torch import load_file, save_file
from sqlalchemy import select, update

from docmill.storage.core.schema import Refusal, Runtime, Shard
from docmill.worker.submit.options import Request
from tests.faults.fleet import Fleet
from tests.worker.harness import EXAMPLES, until

TRANSLATE = ("translate", EXAMPLES / "french.jsonl", "--from", "fr", "--to", "en", "--beams", 1, "--limit", 2)


def test_a_model_that_was_cut_short_blocks_the_job_until_it_is_whole_again(fleet: Fleet) -> None:
    models = fleet.folder / "models"
    shutil.copytree(EXAMPLES / "models" / "marian-ddtp", models / "mine")
    fleet.environment["DOCMILL_MODELS_DIR"] = str(models)
    job = fleet.enqueue(*TRANSLATE, "--model", "mine")
    weights = models / "mine" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1_000_000])
    with fleet.worker():
        until(lambda: "blocked" in (fleet.json("status", job)["waiting_for"] or ""), "the job is blocked")
        reason = fleet.json("status", job)["waiting_for"]
        assert "cannot serve translate" in reason
        assert [row.attempt for row in fleet.shards(Shard.attempt)] == [0]
        shutil.copy(EXAMPLES / "models" / "marian-ddtp" / "model.safetensors", weights)
        # A refusal holds for half a minute: that time is moved, not waited for.
        fleet.database.execute(update(Refusal).values(refused_at=0.0))
        fleet.finish(job)


def leave_a_layer_out(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    remaining = {name: weight for name, weight in weights.items() if "encoder.layers.1." not in name}
    save_file(remaining, model / "model.safetensors", {"format": "pt"})


def test_a_checkpoint_without_some_of_its_weights_is_refused_before_anything_is_stored(fleet: Fleet) -> None:
    whole, cut = fleet.folder / "whole", fleet.folder / "cut"
    for model in (whole, cut):
        shutil.copytree(EXAMPLES / "models" / "marian-ddtp", model)
    leave_a_layer_out(cut)
    stderr = fleet("enqueue", *TRANSLATE, "--model", cut, code=2).stderr
    assert "lack 16 weights that translate computes with, such as model.encoder.layers.1." in stderr
    assert fleet.json("jobs") == []
    fleet.enqueue(*TRANSLATE, "--model", whole)


# One text of every batch, with whatever library computes in the place of the model's own code.
PLANTED_NAN = """
from docmill.tasks.backends.encoder import choice
from docmill.tasks.backends.encoder.openvino_backend import OpenVinoBackend

def planting(own):
    def planted(self, items):
        outputs = own(self, items)
        if items[0].owner is not None:
            outputs[-1].values.fill(float("nan"))
        return outputs
    return planted

choice.best = lambda rates: "openvino" if "openvino" in rates else min(rates)
OpenVinoBackend._compute = planting(OpenVinoBackend._compute)
"""


def test_a_backend_that_gives_nan_for_some_batches_is_replaced_and_no_document_fails(fleet: Fleet) -> None:
    (fleet.folder / "home" / "cache" / "backends").unlink()  # what is measured here is no other test's
    job = fleet.enqueued(Request(source=str(EXAMPLES / "descriptions.jsonl"), task="embed", limit=40)).id
    fleet.patch(PLANTED_NAN)
    with fleet.worker():
        status = fleet.finish(job)
        assert "backend_taken_out backend=openvino" in fleet.log("worker")
    assert (status.done, status.failed) == (40, 0)
    assert all(np.isfinite(result["vector"]).all() for result in fleet.results(job))
    used = set(fleet.database.values(select(Runtime.backend)))
    assert "openvino, then transformers" in used
    assert used <= {"openvino", "openvino, then transformers", "transformers"}  # some were stored before
    (note,) = (fleet.folder / "home" / "cache" / "backends").glob("*.json")
    assert json.loads(note.read_text())["not_finite"] == ["openvino"]
