"""The model that computes nothing goes through real windows, recipes and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from docmill.storage.core.specs import Spec, Status
from docmill.tasks.backends.weightless import NullBackend
from docmill.tasks.engine.backend_factory import open_backend
from docmill.tasks.errors import CannotServe, ModelCorrupt, ModelNotFound
from docmill.tasks.models.weights import ModelFolders
from docmill.tasks.specs import pinning
from tests.tasks.conftest import Bench, EngineOf, vector_of

PARAGRAPH = "Every word of this paragraph is a token, and the whole is longer than a window. " * 90


def test_a_long_text_comes_back_from_its_windows_as_it_was(bench: Bench) -> None:
    text = f"{PARAGRAPH}\n\n - An item.\n - Another.\n\n{PARAGRAPH}\n"
    spec = bench.spec("translate", "null", source_lang="fr", target_lang="en", beams=4)
    (outcome,) = bench.run(spec, [text])
    assert outcome.text == text
    assert outcome.tokens_out == len(text.replace(" - ", " ").split())


@pytest.mark.parametrize(
    ("schema", "record"),
    [
        ({"type": "object", "properties": {"title": {"type": "string"}}, "additionalProperties": False}, {}),
        ({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}, {"n": 0}),
    ],
)
def test_a_record_is_the_shortest_that_its_schema_allows(
    bench: Bench, schema: dict[str, Any], record: object
) -> None:
    (outcome,) = bench.run(bench.spec("extract", "null", json_schema=schema), ["Some words of a text."])
    assert (outcome.status, outcome.data) == (Status.DONE, {"data": record})


def test_a_vector_has_length_one_and_belongs_to_its_text(bench: Bench) -> None:
    outcomes = bench.run(bench.spec("embed", "null"), ["one", "other", "one", PARAGRAPH])
    first, second, first_again, long = (vector_of(outcome) for outcome in outcomes)
    assert first.shape == (8,)
    assert np.array_equal(first, first_again)
    assert not np.array_equal(first, second)
    assert [float(np.linalg.norm(vector)) for vector in (first, second, long)] == pytest.approx([1, 1, 1])


def test_its_pace_counts_padded_tokens(bench: Bench, engine_of: EngineOf) -> None:
    slept: list[float] = []
    engine = engine_of(lambda spec: NullBackend(spec, device="cpu", sleep=slept.append))
    assert engine.submit(bench.spec("embed", "null@1000"), [(1, "a " * 20)]).wait(20)
    assert slept == [0.02]
    assert engine.submit(bench.spec("embed", "null"), [(1, "a " * 20)]).wait(20)
    assert slept == [0.02]


@pytest.mark.parametrize("model", ["null@abc", "null@", "null@0", "null@-5", "null@1.5"])
def test_a_model_name_with_a_wrong_pace_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="N tokens a second, such as null@2000"):
        pinning.pin(model, ModelFolders(None, tmp_path))


def test_another_revision_is_refused(tmp_path: Path) -> None:
    folders = ModelFolders(None, tmp_path)
    with pytest.raises(ModelCorrupt, match="null:1"):
        pinning.pin("null", folders, revision="null:2")
    spec = Spec(kind="embed", model="null", revision="null:2")
    with pytest.raises(CannotServe, match="null:2"):
        open_backend(spec, device="cpu", folders=folders)
