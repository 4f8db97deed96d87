"""A GLiNER model finds the entities of the library's `predict_entities` in float32, one text at a time.

The library has an environment of its own (`make test-gliner`).
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from docmill.storage.core.specs import Spec, Status
from docmill.tasks.backends import Assignment
from docmill.tasks.backends.accelerator import quiet
from docmill.tasks.backends.reading import reading_of
from docmill.tasks.errors import CannotServe
from docmill.tasks.models import gliner
from docmill.tasks.outputs import Head
from docmill.tasks.windows.windows import cut_at_words
from tests.faults.servers import missing
from tests.tasks.backends.encoder.test_token_classification import Entity, entities_of, same_entities
from tests.tasks.backends.gliner_models import DESIGNS, LABELS, gliner_model
from tests.tasks.conftest import Bench, data_of
from tests.tasks.deciding import require_equal
from tests.tasks.real_lines import real_lines

# The library warns about itself.
pytestmark = [pytest.mark.gliner, pytest.mark.filterwarnings("ignore")]

OTHERS = [
    "漢字の文書を読む,Python と C の道具。",
    "Пакет для работы с файлами TIFF, написан на языке Perl.",
    "حزمة لقراءة ملفات الصور",
    "हिन्दी पाठ के लिए एक पैकेज",
    "😀 emoji 👩‍👩‍👧 and a\u0301ccents: e\u0301; \u200bzero\u200b widths \u200b",
]


@pytest.fixture(scope="session", autouse=True)
def _library() -> None:
    if not gliner.EXTRA.is_installed:
        missing("the library gliner is not installed here (make test-gliner)")


@pytest.fixture(scope="session")
def lines(descriptions: list[str], french: list[str]) -> list[str]:
    """Real texts that fit the window of a small model."""
    return real_lines([*descriptions, *french], 40, shorter_than=90)


def predict_by_library(
    folder: Path, texts: Sequence[str], labels: Mapping[str, str] = LABELS, threshold: float = 0.5
) -> list[list[Entity]]:
    """Return each text's entities by the library, in the order of the text."""
    from gliner import GLiNER

    with quiet():
        model = GLiNER.from_pretrained(str(folder), local_files_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_text = [model.predict_entities(text, dict(labels), threshold=threshold) for text in texts]
    read = itemgetter("label", "start", "end", "score")
    return [sorted(map(read, entities), key=itemgetter(1)) for entities in by_text]


@pytest.mark.parametrize(("encoder", "span_mode"), DESIGNS)
def test_entities_are_those_of_the_library_for_every_encoder_and_both_kinds_of_spans(
    encoder: str, span_mode: str, lines: list[str], bench: Bench, tmp_path: Path
) -> None:
    folder = gliner_model(tmp_path / "model", lines, encoder, span_mode)
    texts = [*lines, *OTHERS]
    for threshold in (0.5, 0.3):
        spec = bench.spec("entities", folder, labels=LABELS, threshold=threshold)
        outcomes = bench.run(spec, texts)
        reference = partial(predict_by_library, folder, texts, threshold=threshold)
        require_equal([*map(entities_of, outcomes)], reference, same=same_entities)
        all_entities = [entity for outcome in outcomes for entity in entities_of(outcome)]
        assert len(all_entities) > 10
        assert min(score for *_, score in all_entities) > threshold
        for outcome, text in zip(outcomes, texts, strict=True):
            assert all(text[span["start"] : span["end"]] == span["text"] for span in data_of(outcome)["spans"])
    assert len({label for label, *_ in all_entities}) > 1
    runtime = bench.engine.open(spec)
    assert runtime["backend"] == "gliner"
    assert runtime["versions"]["gliner"]


@pytest.fixture(scope="session")
def folder(lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gliner_model(tmp_path_factory.mktemp("models") / "gliner", lines, "deberta-v2", "markerV0")


def test_the_model_reads_labels_in_their_order(lines: list[str], folder: Path, bench: Bench) -> None:
    names = ["programming language", "package", "file format"]
    for labels in (names, names[::-1]):
        spec = Spec.from_json(bench.spec("entities", folder, labels=",".join(labels)).to_json())
        actual = [*map(entities_of, bench.run(spec, lines))]
        require_equal(
            actual, partial(predict_by_library, folder, lines, {name: name for name in labels}), same=same_entities
        )
    assert bench.spec("entities", folder, labels=names) != bench.spec("entities", folder, labels=names[::-1])


def long_texts(descriptions: Sequence[str]) -> list[str]:
    """Return texts of several windows, and a word that is longer than a window."""
    texts = ["\n\n".join(descriptions[first : first + 4]) for first in (0, 4, 8)]
    return [*texts, "漢" * 700 + " and other words.", "  \n" + texts[0] + "\n "]


def test_a_long_document_has_the_entities_of_its_windows(descriptions: list[str], folder: Path, bench: Bench) -> None:
    texts = long_texts(descriptions)
    spec = bench.spec("entities", folder, labels=LABELS)
    reading = reading_of(Assignment(spec, folder, "cpu", bench.cache_dir, Head.MATCHING))
    assert reading.traits.words is not None
    outcomes = bench.run(spec, texts)
    for text, outcome in zip(texts[:3], outcomes, strict=False):
        assert "windowed" in outcome.flags
        (windows,) = cut_at_words([text], reading.traits.words)
        assert len(windows) > 1
        alone_by_window = predict_by_library(folder, [text[window.start : window.end] for window in windows])
        in_windows = {
            (label, window.start + start, window.start + end)
            for window, of_window in zip(windows, alone_by_window, strict=True)
            for label, start, end, _ in of_window
        }
        actual = entities_of(outcome)
        assert all(first[2] <= second[1] for first, second in pairwise(actual))
        assert len(actual) > 10
        assert {entity[:3] for entity in actual} <= in_windows
    shifted = [(label, start - 3, end - 3, score) for label, start, end, score in entities_of(outcomes[4])]
    assert same_entities(shifted, entities_of(outcomes[0]))
    assert outcomes[3].status is Status.DONE


def test_windows_may_be_narrower_and_have_room_for_the_labels(
    descriptions: list[str], folder: Path, bench: Bench
) -> None:
    text = long_texts(descriptions)[0]
    wide, narrow = (
        bench.spec("entities", folder, labels=LABELS, **options) for options in ({}, {"window_tokens": 40})
    )
    assert bench.run(narrow, [text])[0].tokens_in > bench.run(wide, [text])[0].tokens_in > 0
    with pytest.raises(CannotServe, match=r"leaves no room for text.*Give fewer or shorter labels"):
        bench.open(bench.spec("entities", folder, labels=LABELS, window_tokens=20))


def test_a_model_with_only_a_pickle_of_tensors_is_converted(
    lines: list[str], folder: Path, bench: Bench, tmp_path: Path
) -> None:
    pickled = Path(shutil.copytree(folder, tmp_path / "pickled"))
    torch.save(load_file(folder / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    specs = [bench.spec("entities", path, labels=LABELS) for path in (folder, pickled)]
    first, second = ([*map(entities_of, bench.run(spec, lines[:8]))] for spec in specs)
    assert first == second


def test_a_model_that_lacks_weights_is_refused(folder: Path, bench: Bench, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "lacking"))
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.startswith("rnn"))
    save_file({key: value for key, value in weights.items() if key != name}, copy / "model.safetensors")
    spec = bench.spec("entities", copy, labels=LABELS)
    with pytest.raises(CannotServe, match=f"lack 1 weights that entities computes with, such as {name}"):
        bench.open(spec)
