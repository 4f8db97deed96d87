"""`docmill index`, on a PostgreSQL with pgvector and without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from docmill.storage.core.database import Database
from docmill.storage.core.specs import Outcome, Status
from docmill.storage.leases.shards import Claim
from docmill.storage.search import ann, pgvector_index
from docmill.storage.search.search import choose, search
from docmill.tasks.specs import pinning
from tests.kinds import KINDS
from tests.storage.builders import EMBED, read, request, work
from tests.worker.harness import EXAMPLES, Docmill

Write = Callable[..., Path]


@pytest.fixture
def indexing(tmp_path: Path, pgvector_url: str) -> Docmill:
    """A PostgreSQL with pgvector, and a queue of the command's own."""
    return Docmill(tmp_path, {"DOCMILL_DATABASE_URL": pgvector_url})


def test_an_index_is_made_listed_used_and_dropped(indexing: Docmill, write_corpus: Write, tmp_path: Path) -> None:
    write_corpus([{"id": f"k{i}", "text": f"text {i}"} for i in range(40)])
    indexing("run", "embed", "corpus.jsonl", "--model", "null", "--corpus", "books")
    assert "40 texts were added" in indexing("index", "add", "books").stderr
    assert indexing.json("index", "add", "books", "--job", 1) == {"spec": 1, "added": 0}
    [listed] = indexing.json("index", "list")
    assert (listed["spec_id"], listed["vectors"], listed["lacking"], listed["ready"]) == (1, 40, 0, True)
    assert "ready" in indexing("index", "list").stdout
    for more in ((), ("--exact",)):
        assert indexing.json("search", "books", "text 7", *more)["hits"][0]["id"] == "k7"
    assert "is up to date" in indexing("db", "upgrade").stderr
    letter = tmp_path / "letter.txt"
    letter.write_text("text 7")
    assert indexing.json("corpus", "trace", letter, code=1)["indexed"] == 1
    assert "1 vectors of it are in an index" in indexing("corpus", "trace", letter, code=1).stdout
    indexing("corpus", "rm", "books", "--yes")
    assert "nowhere" in indexing("corpus", "trace", letter).stdout
    assert "Dropped the index of spec 1" in indexing("index", "rm", "embed/null").stderr
    assert "There is no index of 1" in indexing("index", "rm", 1, code=2).stderr


def test_where_there_can_be_no_index_that_is_said(embedded: Docmill, write_corpus: Write) -> None:
    write_corpus([{"id": "a", "text": "one"}])
    assert "there is no corpus" in embedded("index", "add", "corpus.jsonl", code=2).stderr
    embedded("run", "embed", "corpus.jsonl", "--model", "null")
    assert "a SQLite store has no index of vectors" in embedded("index", "add", "corpus.jsonl", code=2).stderr
    assert embedded.json("index", "list") == []
    assert embedded("index", "list").stderr == "No indexes yet.\n"


@pytest.mark.long
def test_of_real_documents_an_index_finds_what_a_comparison_with_all_finds(
    pgvector_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [json.loads(line) for file in ("descriptions", "french") for line in _lines(f"{file}.jsonl")]
    every = {part.strip() for one in texts for part in one["text"].replace("\n", " ").split(". ")} - {""}
    sentences = sorted(every)[::2]
    assert len(sentences) > 700
    model = _minilm(tmp_path)
    encoded = model.encode([*sentences, *(one["synopsis"] for one in texts[:130])], show_progress_bar=False)
    of_text = dict(zip(sentences, encoded.astype("<f4"), strict=False))
    queries = encoded[len(sentences) :].astype(np.float32)

    def embedded_sentences(claim: Claim) -> list[Outcome]:
        return [Outcome(key, Status.DONE, vector=of_text[text].tobytes()) for key, text in claim.texts]

    monkeypatch.setattr(ann, "is_worth_it", lambda *_: True)
    database = Database(pgvector_url, kinds=KINDS)
    read(database, request(spec=EMBED), [(f"k{n}", text) for n, text in enumerate(sentences)])
    work(database, embedded_sentences)
    searched = choose(database, ["books"])
    pgvector_index.add(database, searched.spec_id)
    assert ann.propose(database, searched, queries, 10) is not None
    by_index, exact = (search(database, searched, queries, 10, exact=exact).ids for exact in (False, True))
    database.close()
    recall = np.mean([len({*one} & {*other}) / 10 for one, other in zip(by_index, exact, strict=True)])
    assert recall > 0.99
    assert (by_index[:, 0] == exact[:, 0]).mean() > 0.99


def _lines(file: str) -> list[str]:
    return (EXAMPLES / file).read_text().splitlines()


def _minilm(cache: Path) -> SentenceTransformer:
    pinned = pinning.pin("minilm", models_dir=None, cache_dir=cache)
    folder = pinning.locate(pinned, models_dir=None, cache_dir=cache)
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
