"""Outputs that no database stores as they are: the one is mended, and its neighbours are as they were."""

from __future__ import annotations

from docmill.storage.core.schema import Shard
from tests.faults.fleet import Fleet, numbered
from tests.tasks import decoders


def test_a_nul_that_a_model_writes_is_mended_and_flagged_and_fails_no_neighbour(fleet: Fleet) -> None:
    fleet.loads_models = True
    model = decoders.nul_after_a_bang(fleet.folder / "model", numbered(50))
    texts = [*numbered(5), "Here it comes!", *numbered(10, first=5)]
    options = ("--task", "generate", "--prompt", "{text}", "--max-new-tokens", 4, "--model", model)
    job = fleet.enqueue(fleet.corpus(texts), *options)
    with fleet.worker():
        status = fleet.finish(job, 120)
    assert (status.done, status.failed) == (16, 0)
    outputs = {row["id"]: (row["text"], row["flags"]) for row in fleet.results(job)}
    mended = outputs.pop("5")
    assert mended[0] == "\ufffdxxx"
    assert "output_nul_replaced" in mended[1]
    assert {text for text, _ in outputs.values()} == {"xxxx"}
    assert not any("output_nul_replaced" in flags for _, flags in outputs.values())
    assert {row.attempt for row in fleet.shards(Shard.attempt)} == {1}
    assert "shard_failed" not in fleet.log("worker")
