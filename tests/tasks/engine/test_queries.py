"""A search embeds its queries as the documents were, but with the prompt for queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling

from docmill.storage.core.specs import Reason, Spec
from docmill.tasks.errors import BadOption, CannotServe, EngineStopped
from docmill.tasks.models.sentence_modules import Prompts, prompt
from docmill.tasks.outputs import Failure, Vector
from docmill.worker.jobs.search import (
    COMPARED,
    PASSAGE_CHARS,
    cut_passages,
    embed,
    find_nearest,
    propose_passages,
    query_spec,
    with_prompt,
)
from tests.tasks import architectures
from tests.tasks.backends.encoder.test_pooling import save_with_modules
from tests.tasks.conftest import Bench, EngineOf, vectors_of
from tests.tasks.fakes import FakeBackend
from tests.tasks.reference import load_sentence_transformer

SPEC = Spec("embed", "minilm", "sha256:1", "float32", {"pooling": "cls", "windows": "all", "algorithm": 2})


@pytest.mark.parametrize(
    ("prompts", "default", "of_documents", "of_queries"),
    [
        ({}, None, "", ""),
        ({"query": "", "document": ""}, None, "", ""),  # the default of sentence-transformers
        ({"query": "Q: ", "document": "D: "}, None, "", "Q: "),
        ({"query": "Q: ", "document": "D: "}, "document", "D: ", "Q: "),
        ({"query": "", "passage": "P: "}, "passage", "P: ", ""),
        ({"query": "", "sts": "Same? "}, "sts", "Same? ", "Same? "),
        ({"query": "Q: "}, "query", "Q: ", "Q: "),
    ],
)
def test_a_query_gets_the_query_prompt_where_the_models_files_have_one(
    prompts: dict[str, str], default: str | None, of_documents: str, of_queries: str
) -> None:
    assert prompt(SPEC, Prompts(prompts, default)) == of_documents
    assert prompt(query_spec(SPEC), Prompts(prompts, default)) == of_queries


def test_a_search_may_choose_the_prompt_of_its_queries_and_documents_keep_theirs() -> None:
    named = {"query": "Q: ", "document": "D: ", "sts": "Same? "}
    for text, name, expected in (("Ask: {text}", None, "Ask: "), (None, "sts", "Same? "), (None, None, "Q: ")):
        spec = with_prompt(SPEC, text, name)
        assert prompt(query_spec(spec), Prompts(named, "document")) == expected
        assert prompt(spec, Prompts(named, "document")) == "D: "
    with pytest.raises(CannotServe, match="no prompt named web; they have document, query, sts"):
        prompt(query_spec(with_prompt(SPEC, None, "web")), Prompts(named))
    with pytest.raises(BadOption, match="stands at the end"):
        with_prompt(SPEC, "{text}?", None)


def test_documents_get_the_prompt_that_encode_document_gives_them(
    bench: Bench, tmp_path: Path, descriptions: list[str]
) -> None:
    texts = [" ".join(text.split()[:9]) for text in descriptions[:12]]
    named = {"query": "what is it : ", "document": "title : none text : ", "sts": "the same as "}
    inner = architectures.bert(tmp_path / "bert", descriptions[:40])
    folder = save_with_modules(tmp_path / "prompted", inner, Pooling(32), Normalize(), prompts=named)
    model = load_sentence_transformer(folder)

    def encode(**options: str) -> np.ndarray:
        return np.asarray(model.encode(texts, show_progress_bar=False, **options))

    usual = bench.spec("embed", folder)
    assert usual.params["prompt_name"] == "document"
    old_spec = replace(usual, params={name: value for name, value in usual.params.items() if name != "prompt_name"})
    as_documents = model.encode_document(texts, show_progress_bar=False)
    for spec, expected in (
        (usual, as_documents),
        (bench.spec("embed", folder, prompt_name="sts"), encode(prompt_name="sts")),
        (bench.spec("embed", folder, prompt="passage : {text}"), encode(prompt="passage : ")),
        (old_spec, encode()),
    ):
        assert np.allclose(vectors_of(bench.run(spec, texts)), expected, atol=1e-5)
    assert not np.allclose(encode(), as_documents, atol=1e-2)
    queries = [cast(Vector, output).values for output in embed(bench.engine, usual, texts)]
    assert np.allclose(queries, model.encode_query(texts, show_progress_bar=False), atol=1e-5)


def test_a_model_that_cannot_be_opened_and_an_engine_that_was_stopped_are_errors(
    engine_of: EngineOf, bench: Bench
) -> None:
    with pytest.raises(CannotServe, match="have changed since the job was made"):
        embed(bench.engine, Spec("embed", "minilm", "sha256:" + "0" * 64, "float32"), ["x"])
    engine = engine_of(lambda spec: FakeBackend())
    engine.drain()
    with pytest.raises(EngineStopped):
        embed(engine, SPEC, ["x"])


FOREST = "The forest is full of old trees. "
ENGINE = "A steam engine drives the wheels of the locomotive. "


def test_passages_are_whole_sentences_and_leave_no_text_out() -> None:
    text = FOREST * 20 + "\n\n" + ENGINE * 20
    spans = cut_passages(text)
    assert "".join("".join(text[start:end] for start, end in spans).split()) == "".join(text.split())
    for start, end in spans:
        assert end - start <= PASSAGE_CHARS
        assert text[start:end].endswith(".")
        assert text[start:end].startswith(("The forest", "A steam"))


def test_the_compared_passages_of_a_long_document_have_rare_query_words_or_come_from_every_part() -> None:
    text = (FOREST * 200) + ENGINE + (FOREST * 200)
    spans = cut_passages(text)
    assert len(spans) > COMPARED
    chosen = propose_passages(text, spans, "the wheels of a LOCOMOTIVE")
    assert len(chosen) == COMPARED
    assert chosen == sorted(chosen)
    assert any("locomotive" in text[start:end] for start, end in chosen)
    assert chosen[0] == spans[0]
    assert chosen[-1] == spans[-1]


def embed_by_words(_: object, texts: Sequence[str]) -> list[Vector | Failure]:
    """Return a vector of each passage's counts of engines and forests, or a failure if it has a wheel."""
    embedded_texts.extend(texts)
    counts = ((text.count("engine"), text.count("forest")) for text in texts)
    vectors = [Vector(np.array(count, np.float32)) for count in counts]
    failure = Failure("It has a wheel.", Reason.MODEL)
    return [failure if "Wheel" in text else vector for text, vector in zip(texts, vectors, strict=True)]


embedded_texts: list[str] = []
ENGINES = np.array([1, 0], np.float32)


def find_passages(texts: Sequence[tuple[str, tuple[int, int] | None]]) -> list[str | None]:
    """Return the passage of each text, or of a stretch of it, that is nearest to "engine"."""
    embedded_texts.clear()
    spans = find_nearest(embed_by_words, cast(Any, None), "engine", ENGINES, texts)
    return [None if span is None else text[slice(*span)] for (text, _), span in zip(texts, spans, strict=True)]


def test_each_text_has_its_own_nearest_passage_within_its_stretch() -> None:
    long = FOREST * 60 + "\n\n" + ENGINE * 3 + "\n\n" + FOREST * 20
    stretch = (0, 12 * len(FOREST))
    passages = find_passages([(long, None), (FOREST, None), (" ", None), (long, stretch), (long, None)])
    assert passages[0] == passages[4] == (ENGINE * 3).strip()
    assert passages[1] == FOREST.strip()
    assert passages[2] is None
    assert passages[3] is not None
    assert "engine" not in passages[3]
    assert FOREST.strip() not in embedded_texts, "a text of one passage is not embedded"


def test_a_passage_that_cannot_be_embedded_is_no_hit() -> None:
    assert find_passages([("\n\n".join(["A Wheel. ".ljust(150, "x"), ENGINE * 2, FOREST * 5]), None)]) == [
        (ENGINE * 2).strip()
    ]
    assert find_passages([("\n\n".join(["A Wheel. ".ljust(150, "x")] * 2), None)]) == [None]
