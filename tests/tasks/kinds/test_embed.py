"""The vectors of a text's windows are joined."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer

from docmill.storage.core.specs import Outcome, Reason, Status
from docmill.tasks.kinds.embed import Embed
from docmill.tasks.outputs import Vector
from tests.tasks import architectures
from tests.tasks.conftest import Bench, vector_of
from tests.tasks.fakes import join_outputs


def join_rows(recipe: Embed, rows: list[list[float]], tokens: list[int]) -> Outcome:
    return join_outputs(recipe, [Vector(np.array(row, dtype=np.float32)) for row in rows], tokens)


def test_the_mean_is_weighted_by_tokens_and_of_length_one_again() -> None:
    outcome = join_rows(Embed(normalize=True, keep_all=False), [[1, 0], [0, 1]], [30, 40])
    assert vector_of(outcome) == pytest.approx([0.6, 0.8])
    assert outcome.flags == ("windowed",)


def test_all_windows_are_kept_as_they_are_with_their_places() -> None:
    outcome = join_rows(Embed(normalize=True, keep_all=True), [[1, 0], [0, 1]], [30, 40])
    assert vector_of(outcome).tolist() == [1, 0, 0, 1]
    assert outcome.data == {"dim": 2, "windows": [[0, 1], [1, 2]]}


def test_a_word_with_a_nan_vector_fails_only_the_documents_that_have_it(
    bench: Bench, descriptions: list[str], tmp_path: Path
) -> None:
    folder = architectures.bert(tmp_path / "bert", descriptions[:40])
    spec = bench.spec("embed", folder)
    texts = [*descriptions[:10], "package " * 300]
    healthy = bench.run(spec, texts)
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    word = tokenizer.convert_tokens_to_ids("package")
    weights = load_file(broken / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][word] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    outcomes = bench.run(bench.spec("embed", broken), texts)
    hit = [word in tokenizer(text)["input_ids"] for text in texts]
    assert 0 < sum(hit) < len(texts)
    for outcome, healthy_outcome, is_hit in zip(outcomes, healthy, hit, strict=True):
        if is_hit:
            assert (outcome.status, outcome.reason_class) == (Status.FAILED, Reason.MODEL)
            assert outcome.vector is None
        else:
            assert vector_of(outcome) == pytest.approx(vector_of(healthy_outcome), abs=1e-5)
