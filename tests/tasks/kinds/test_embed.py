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
from docmill.tasks.windows.windows import Encoded, Window
from tests.tasks import architectures
from tests.tasks.conftest import Bench
from tests.tasks.fakes import join


def join_rows(recipe: Embed, rows: list[list[float]], tokens: list[int]) -> Outcome:
    windows = [Window(n, n + 1, Encoded(count, "x"), part=len(rows) > 1) for n, count in enumerate(tokens)]
    outputs = [Vector(np.array(row, dtype=np.float32)) for row in rows]
    return join(recipe, "x" * len(rows), windows, outputs)


def test_the_mean_is_weighted_by_tokens_and_of_length_one_again() -> None:
    outcome = join_rows(Embed(normalize=True, keep_all=False), [[1, 0], [0, 1]], [30, 40])
    assert np.frombuffer(outcome.vector or b"", "<f4") == pytest.approx([0.6, 0.8])
    assert outcome.flags == ("windowed",)


def test_all_windows_are_kept_as_they_are_with_their_places() -> None:
    outcome = join_rows(Embed(normalize=True, keep_all=True), [[1, 0], [0, 1]], [30, 40])
    assert np.frombuffer(outcome.vector or b"", "<f4").tolist() == [1, 0, 0, 1]
    assert outcome.data == {"dim": 2, "windows": [[0, 1], [1, 2]]}


def test_a_word_of_which_a_real_model_makes_no_number_fails_its_documents_only(
    bench: Bench, descriptions: list[str], tmp_path: Path
) -> None:
    folder = architectures.bert(tmp_path / "bert", descriptions[:40])
    spec = bench.spec("embed", str(folder))
    texts = [*descriptions[:10], "package " * 300]
    healthy = bench.run(spec, texts)
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    word = tokenizer.convert_tokens_to_ids("package")
    weights = load_file(broken / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][word] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    outcomes = bench.run(bench.spec("embed", str(broken)), texts)
    hit = [word in tokenizer(text)["input_ids"] for text in texts]
    assert 0 < sum(hit) < len(texts)
    for outcome, before, is_hit in zip(outcomes, healthy, hit, strict=True):
        if is_hit:
            assert (outcome.status, outcome.reason_class) == (Status.FAILED, Reason.MODEL)
            assert outcome.vector is None
        else:
            assert np.frombuffer(outcome.vector or b"", "<f4") == pytest.approx(
                np.frombuffer(before.vector or b"", "<f4"), abs=1e-5
            )
