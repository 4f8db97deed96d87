"""The score and the corpus of the torture table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bench.torture.outputs import PARTS, Score, score, write_corpus


def test_a_score_counts_missing_stale_cut_and_doubled_rows(tmp_path: Path) -> None:
    corpus = {"1": "one", "2": "two", "3": "three", "4": "four"}
    vectors = dict(zip(corpus.values(), np.eye(4, dtype=np.float32), strict=True))
    lines = [json.dumps({"id": key, "vector": vectors[text].tolist()}) for key, text in corpus.items()]
    stale = json.dumps({"id": "file.jsonl#3", "vector": vectors["one"].tolist()})
    (tmp_path / "out.jsonl").write_text("\n".join([lines[0], lines[0], lines[1], stale, lines[3][:-9]]))
    assert score(tmp_path, corpus, vectors) == Score(lost=2, doubled=1)


def test_a_corpus_has_each_text_in_one_of_its_files(tmp_path: Path) -> None:
    write_corpus(tmp_path, {str(number): "text" for number in range(50)}, inserted="cut\n")
    lines = "".join(path.read_text() for path in sorted(tmp_path.iterdir())).splitlines()
    assert len(list(tmp_path.iterdir())) == PARTS
    assert lines.count("cut") == 1
    assert [json.loads(line)["id"] for line in lines if line != "cut"] == [str(number) for number in range(50)]
