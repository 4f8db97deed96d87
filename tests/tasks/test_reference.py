"""The shipped models compute what the libraries do, one document at a time, in float32."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest

from docmill.storage.core.specs import Status
from tests.tasks.conftest import Bench, vector_of, vectors_of
from tests.tasks.real_lines import some_and_more
from tests.tasks.reference import load_sentence_transformer, write_seq2seq


def one_paragraph(texts: list[str], count: int) -> list[str]:
    """Return texts that are one window for every task: lines without a bullet, within the shortest limit."""
    paragraphs = [part for text in texts for part in text.split("\n\n") if "\n" not in part]
    plain = [part for part in paragraphs if 8 < len(part.split()) < 30 and part[0].isalpha()]
    chosen = list(dict.fromkeys(plain))[:count]
    assert len(chosen) == count
    return chosen


@some_and_more(60, 500)
def test_embeddings_are_those_of_sentence_transformers(
    bench: Bench, descriptions: list[str], french: list[str], count: int
) -> None:
    examples = [*descriptions, *french]
    texts = examples[:: len(examples) // count][:count]
    assert len(texts) == count
    spec = bench.spec("embed", "minilm")
    model = load_sentence_transformer(bench.folder(spec))
    # docmill averages a longer text over its windows; sentence-transformers cuts it off.
    short = [text for text in texts if len(model.tokenizer(text)["input_ids"]) <= model.max_seq_length]
    assert len(short) > 0.9 * count
    expected = model.encode(short, show_progress_bar=False)
    outcomes = bench.run(spec, texts)
    assert all(outcome.status is Status.DONE for outcome in outcomes)
    by_text = dict(zip(texts, outcomes, strict=True))
    actual = vectors_of([by_text[text] for text in short])
    cosines = (actual * expected).sum(axis=1)
    assert cosines.min() >= 0.9999
    lengths = [np.linalg.norm(vector_of(outcome)) for outcome in outcomes]
    assert np.allclose(lengths, 1, atol=1e-5)


# By backend and beams: how many of a hundred outputs may differ. CTranslate2 ends a search after some number of
# hypotheses, transformers when no better one seems possible.
DIFFERENT = {("transformers", 1): 1, ("transformers", 4): 1, ("ctranslate2", 1): 1, ("ctranslate2", 4): 8}


@pytest.mark.slow
@some_and_more(16, 100)
@pytest.mark.parametrize(
    ("task", "model", "beams"),
    [
        pytest.param("summarize", "synopsis-ddtp", 1, marks=pytest.mark.long),
        ("summarize", "synopsis-ddtp", 4),
        ("translate", "marian-ddtp", 1),
        pytest.param("translate", "marian-ddtp", 4, marks=pytest.mark.long),
    ],
)
def test_summaries_and_translations_are_those_of_generate(
    each_writer: Bench, descriptions: list[str], french: list[str], task: str, model: str, beams: int, count: int
) -> None:
    texts = one_paragraph(french if task == "translate" else descriptions, count)
    spec = each_writer.spec(task, model, beams=beams)
    expected = write_seq2seq(each_writer.folder(spec), texts, num_beams=beams)
    actual = each_writer.write(spec, texts)
    differing = sum(text != expected_text for text, expected_text in zip(actual, expected, strict=True))
    assert differing <= ceil(DIFFERENT[each_writer.backend, beams] * count / 100)
