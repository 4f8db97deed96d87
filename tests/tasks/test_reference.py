"""The same outputs as the libraries give by themselves, one document at a time, in float32."""

from __future__ import annotations

from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from docmill.storage.core.specs import Status
from docmill.tasks.backends.accelerator import quiet
from tests.tasks.conftest import Bench
from tests.tasks.real_lines import some_and_more


def generated(folder: Path, texts: list[str], beams: int) -> list[str]:
    """transformers' own answers, one text at a time; computed once for all backends."""
    return list(_generated(folder, tuple(texts), beams))


@cache
def _generated(folder: Path, texts: tuple[str, ...], beams: int) -> tuple[str, ...]:
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    answers = []
    for text in texts:
        with torch.inference_mode():
            ids = model.generate(**tokenizer(text, return_tensors="pt"), num_beams=beams)
        answers.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    return tuple(answers)


def one_paragraph(texts: list[str], count: int) -> list[str]:
    """Texts that are one window for every task: one line, without a bullet, within the shortest limit."""
    paragraphs = [part for text in texts for part in text.split("\n\n") if "\n" not in part]
    plain = [part for part in paragraphs if 8 < len(part.split()) < 30 and part[0].isalpha()]
    chosen = list(dict.fromkeys(plain))[:count]
    assert len(chosen) == count
    return chosen


@some_and_more(60, 500)
def test_embeddings_are_those_of_sentence_transformers(
    bench: Bench, descriptions: list[str], french: list[str], count: int
) -> None:
    every = [*descriptions, *french]
    texts = every[:: len(every) // count][:count]
    assert len(texts) == count
    spec = bench.spec("embed", "minilm")
    with quiet():
        model = SentenceTransformer(str(bench.folder(spec)), device="cpu", local_files_only=True)
    # A longer text is averaged over its windows here, and cut off there.
    short = [text for text in texts if len(model.tokenizer(text)["input_ids"]) <= model.max_seq_length]
    assert len(short) > 0.9 * count
    expected = model.encode(short, show_progress_bar=False)
    outcomes = bench.run(spec, texts)
    assert all(outcome.status is Status.DONE for outcome in outcomes)
    by_text = dict(zip(texts, outcomes, strict=True))
    actual = np.stack([np.frombuffer(by_text[text].vector or b"", "<f4") for text in short])
    cosines = (actual * expected).sum(axis=1)
    assert cosines.min() >= 0.9999
    lengths = [np.linalg.norm(np.frombuffer(outcome.vector or b"", "<f4")) for outcome in outcomes]
    assert np.allclose(lengths, 1, atol=1e-5)


# By backend and beams, how many of a hundred outputs may differ. CTranslate2 ends a search by its own rule: it counts
# hypotheses, where transformers asks whether a better one still seems possible.
DIFFERENT = {("transformers", 1): 1, ("transformers", 4): 1, ("ctranslate2", 1): 1, ("ctranslate2", 4): 8}


@some_and_more(16, 100)
@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.long), 4])
def test_summaries_are_those_of_generate(each_writer: Bench, descriptions: list[str], beams: int, count: int) -> None:
    texts = one_paragraph(descriptions, count)
    spec = each_writer.spec("summarize", "synopsis-ddtp", beams=beams)
    expected = generated(each_writer.folder(spec), texts, beams)
    actual = [outcome.text for outcome in each_writer.run(spec, texts)]
    differing = sum(one != other for one, other in zip(actual, expected, strict=True))
    assert differing <= ceil(DIFFERENT[each_writer.backend, beams] * count / 100)


@pytest.mark.slow
@some_and_more(16, 100)
@pytest.mark.parametrize("beams", [1, pytest.param(4, marks=pytest.mark.long)])
def test_translations_are_those_of_generate(each_writer: Bench, french: list[str], beams: int, count: int) -> None:
    texts = one_paragraph(french, count)
    spec = each_writer.spec("translate", "marian-ddtp", beams=beams)
    expected = generated(each_writer.folder(spec), texts, beams)
    actual = [outcome.text for outcome in each_writer.run(spec, texts)]
    differing = sum(one != other for one, other in zip(actual, expected, strict=True))
    assert differing <= ceil(DIFFERENT[each_writer.backend, beams] * count / 100)


def test_a_translation_keeps_its_lines_and_bullets(bench: Bench) -> None:
    text = (
        "Les fonctions incluses sont :\n- la réplication des données ;\n"
        "- une grande vitesse.\n\n  Ce paquet fournit la bibliothèque.\n"
    )
    (outcome,) = bench.run(bench.spec("translate", "marian-ddtp"), [text])
    assert outcome.text is not None
    lines = outcome.text.split("\n")
    assert [line[:2] for line in lines[1:3]] == ["- ", "- "]
    assert lines[3] == ""
    assert lines[4].startswith("  T")
    assert len(lines) == 6
    assert lines[5] == ""
